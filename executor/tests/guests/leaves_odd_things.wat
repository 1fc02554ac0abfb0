;; Leaves in its first directory: `plain` (a file), `folder`, `link` (to `plain`), `ways` (a link to `.`), and `huge` (a
;; file of 1 TiB with nothing in it). Exits with the error number of what failed.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "path_open" (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $mkdir (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_symlink" (func $symlink (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $set_size (param i32 i64) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "plainfolderlinkways.huge")
  (func $expect_ok (param $errno i32)
    (if (local.get $errno) (then (call $proc_exit (local.get $errno)))))
  ;; Makes a file and says its number.
  (func $make (param $name i32) (param $len i32) (result i32)
    (call $expect_ok (call $path_open (i32.const 3) (i32.const 0) (local.get $name) (local.get $len)
      (i32.const 1) (i64.const 4194368) (i64.const 0) (i32.const 0) (i32.const 16)))
    (i32.load (i32.const 16)))
  (func (export "_start")
    (drop (call $make (i32.const 64) (i32.const 5)))
    (call $expect_ok (call $mkdir (i32.const 3) (i32.const 69) (i32.const 6)))
    (call $expect_ok (call $symlink (i32.const 64) (i32.const 5) (i32.const 3) (i32.const 75) (i32.const 4)))
    (call $expect_ok (call $symlink (i32.const 83) (i32.const 1) (i32.const 3) (i32.const 79) (i32.const 4)))
    (call $expect_ok (call $set_size (call $make (i32.const 84) (i32.const 4)) (i64.const 1099511627776))))
)
