;; Exits with what its memory held at 100000, then writes there and all around.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 64)
  (func (export "_start")
    (local $before i32)
    (local.set $before (i32.load (i32.const 100000)))
    (memory.fill (i32.const 1024) (i32.const 255) (i32.const 4000000))
    (call $proc_exit (local.get $before)))
)
