;; Links `data.txt` of `/in` into `/out`, where it could be written; exits with the error number.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "path_link" (func $path_link (param i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "data.txt")
  (func (export "_start")
    (call $proc_exit (call $path_link (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 8)
      (i32.const 4) (i32.const 64) (i32.const 8))))
)
