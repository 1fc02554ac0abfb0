;; Prints both clocks twice, 64 random bytes, and the clock again after sleeping for 285 years.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock_time_get (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  ;; Exits with the error number, unless it is 0.
  (func $expect_ok (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
  ;; Writes `len` bytes at `at` to standard output.
  (func $print (param $at i32) (param $len i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $len))
    (call $expect_ok (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (call $expect_ok (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 1024)))
    (call $expect_ok (call $clock_time_get (i32.const 0) (i64.const 1) (i32.const 1032)))
    (call $expect_ok (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 1040)))
    (call $expect_ok (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 1048)))
    (call $expect_ok (call $random_get (i32.const 1056) (i32.const 64)))
    ;; One subscription: 9 × 10^18 nanoseconds from now, by the monotonic clock.
    (i32.store (i32.const 528) (i32.const 1))
    (i64.store (i32.const 536) (i64.const 9000000000000000000))
    (call $expect_ok (call $poll_oneoff (i32.const 512) (i32.const 640) (i32.const 1) (i32.const 704)))
    (call $expect_ok (call $clock_time_get (i32.const 1) (i64.const 1) (i32.const 1120)))
    (call $print (i32.const 1024) (i32.const 104)))
)
