;; Calls itself without end.
(module
  (memory (export "memory") 1)
  (func $deeper (param $depth i64)
    (call $deeper (i64.add (local.get $depth) (i64.const 1)))
    (i64.store (i32.const 0) (local.get $depth)))
  (func (export "_start")
    (call $deeper (i64.const 0)))
)
