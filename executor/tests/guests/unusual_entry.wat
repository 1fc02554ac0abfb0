;; A reactor: `_initialize` prepares what `work` exits with.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func (export "_initialize") (i32.store (i32.const 0) (i32.const 9)))
  (func (export "work") (call $proc_exit (i32.load (i32.const 0)))))
