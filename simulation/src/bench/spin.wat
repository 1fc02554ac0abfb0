;; A WASI command that computes for a while and says nothing: `spin ROUNDS` steps a generator 16 times ROUNDS times, each step
;; needing the one before: a loop of one step runs at one speed or another depending on where its code happens to lie. Guests
;; have no clock of this world, so how long a round takes is measured outside (`bare.rs`).
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  ;; 0: number of arguments, 4: their bytes, 8: the state at the end, 1024: addresses of the arguments, 2048: the arguments,
  ;; each with a zero byte after it
  (memory (export "memory") 1)

  (func $number (param $at i32) (result i64)
    (local $sum i64)
    (block $end
      (loop $digit
        (br_if $end (i32.lt_u (i32.load8_u (local.get $at)) (i32.const 48)))
        (local.set $sum
          (i64.add
            (i64.mul (local.get $sum) (i64.const 10))
            (i64.sub (i64.load8_u (local.get $at)) (i64.const 48))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $digit)))
    (local.get $sum))

  (func (export "_start")
    (local $rounds i64) (local $state i64) (local $times i64)
    (local.set $times (i64.const 6364136223846793005))
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (local.set $rounds
      (call $number
        (i32.load (i32.add (i32.const 1020) (i32.mul (i32.load (i32.const 0)) (i32.const 4))))))
    (loop $round
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (local.set $state (i64.add (i64.mul (local.get $state) (local.get $times)) (i64.const 1442695040888963407)))
      (br_if $round (i64.ne (local.tee $rounds (i64.sub (local.get $rounds) (i64.const 1))) (i64.const 0))))
    (i64.store (i32.const 8) (local.get $state))))
