;; Prints the raw listing of its first directory, then what is known of `data.txt` in it.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get" (func $path_filestat_get (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "data.txt")
  ;; Exits with the error number, unless it is 0.
  (func $expect_ok (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
  ;; Writes `len` bytes at `at` to standard output.
  (func $print (param $at i32) (param $len i32)
    (i32.store (i32.const 0) (local.get $at))
    (i32.store (i32.const 4) (local.get $len))
    (call $expect_ok (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func (export "_start")
    (call $expect_ok (call $fd_readdir (i32.const 3) (i32.const 1024) (i32.const 8192) (i64.const 0) (i32.const 16)))
    (call $print (i32.const 1024) (i32.load (i32.const 16)))
    (call $expect_ok (call $path_filestat_get (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 1024)))
    (call $print (i32.const 1024) (i32.const 64)))
)
