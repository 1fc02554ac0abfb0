;; Makes one folder after another in its first directory, without end; exits with the error number.
(module
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (import "wasi_snapshot_preview1" "path_create_directory" (func $make (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $number i32) (local $rest i32) (local $at i32) (local $errno i32)
    (loop $more
      (local.set $rest (local.get $number))
      (local.set $at (i32.const 64))
      ;; Six letters, the lowest four bits first.
      (loop $letter
        (i32.store8 (local.get $at) (i32.add (i32.const 97) (i32.and (local.get $rest) (i32.const 15))))
        (local.set $rest (i32.shr_u (local.get $rest) (i32.const 4)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $letter (i32.lt_u (local.get $at) (i32.const 70))))
      (local.set $errno (call $make (i32.const 3) (i32.const 64) (i32.const 6)))
      (if (local.get $errno) (then (call $proc_exit (local.get $errno))))
      (local.set $number (i32.add (local.get $number) (i32.const 1)))
      (br $more)))
)
