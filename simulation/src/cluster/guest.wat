;; A WASI command of known cost and output: `guest WORD… ROUNDS LINES`. It hashes all its arguments (FNV-1a over the bytes
;; with the zero after each), steps a generator ROUNDS times, each step needing the one before, and writes LINES numbers of
;; 16 hexadecimal digits, one step apart. `guest.rs` computes the same.
(module
  (import "wasi_snapshot_preview1" "args_sizes_get" (func $args_sizes_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  ;; 0: number of arguments, 4: their bytes, 8: what to write (address, length), 16: written bytes,
  ;; 1024: addresses of the arguments, 2048: the arguments, each with a zero byte after it, 65536: the lines
  (memory (export "memory") 2)

  (func $step (param $state i64) (result i64)
    (i64.add (i64.mul (local.get $state) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))

  (func $number (param $at i32) (result i32)
    (local $sum i32)
    (block $end
      (loop $digit
        (br_if $end (i32.lt_u (i32.load8_u (local.get $at)) (i32.const 48)))
        (local.set $sum
          (i32.add
            (i32.mul (local.get $sum) (i32.const 10))
            (i32.sub (i32.load8_u (local.get $at)) (i32.const 48))))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $digit)))
    (local.get $sum))

  (func $hash (param $at i32) (param $end i32) (result i64)
    (local $hash i64)
    (local.set $hash (i64.const 0xcbf29ce484222325))
    (loop $byte
      (local.set $hash
        (i64.mul
          (i64.xor (local.get $hash) (i64.load8_u (local.get $at)))
          (i64.const 0x100000001b3)))
      (br_if $byte (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 1))) (local.get $end))))
    (local.get $hash))

  (func $line (param $state i64) (param $at i32)
    (local $digit i32) (local $left i32)
    (local.set $left (i32.const 16))
    (loop $next
      (local.set $state (i64.rotl (local.get $state) (i64.const 4)))
      (local.set $digit (i32.and (i32.wrap_i64 (local.get $state)) (i32.const 15)))
      (i32.store8
        (local.get $at)
        (i32.add
          (local.get $digit)
          (select (i32.const 48) (i32.const 87) (i32.lt_u (local.get $digit) (i32.const 10)))))
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (i32.store8 (local.get $at) (i32.const 10)))

  (func (export "_start")
    (local $last i32) (local $rounds i32) (local $lines i32) (local $state i64) (local $at i32)
    (drop (call $args_sizes_get (i32.const 0) (i32.const 4)))
    (drop (call $args_get (i32.const 1024) (i32.const 2048)))
    (local.set $last (i32.add (i32.const 1020) (i32.mul (i32.load (i32.const 0)) (i32.const 4))))
    (local.set $lines (call $number (i32.load (local.get $last))))
    (local.set $rounds (call $number (i32.load (i32.sub (local.get $last) (i32.const 4)))))
    (local.set $state
      (call $hash (i32.load (i32.const 1028)) (i32.add (i32.const 2048) (i32.load (i32.const 4)))))
    (loop $round
      (local.set $state (call $step (local.get $state)))
      (br_if $round (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1)))))
    (local.set $at (i32.const 65536))
    (loop $line
      (call $line (local.get $state) (local.get $at))
      (local.set $state (call $step (local.get $state)))
      (local.set $at (i32.add (local.get $at) (i32.const 17)))
      (br_if $line (local.tee $lines (i32.sub (local.get $lines) (i32.const 1)))))
    (i32.store (i32.const 8) (i32.const 65536))
    (i32.store (i32.const 12) (i32.sub (local.get $at) (i32.const 65536)))
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))
