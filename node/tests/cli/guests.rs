//! WebAssembly programs, each for one thing.

/// Their names and texts.
pub(crate) const GUESTS: [(&str, &str); 13] = [
    (
        // Counts for about half a second.
        "spin",
        r#"(module (memory (export "memory") 1)
            (func (export "_start") (local $left i64)
                (local.set $left (i64.const 400000000))
                (loop $again
                    (local.set $left (i64.sub (local.get $left) (i64.const 1)))
                    (br_if $again (i64.ne (local.get $left) (i64.const 0))))))"#,
    ),
    (
        // The file `in/1` of the first directory it was given.
        "cat",
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\40\00\00\00\00\04\00\00")
            (data (i32.const 32) "in/1")
            (func (export "_start")
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 4) (i32.const 0)
                        (i64.const 2) (i64.const 0) (i32.const 0) (i32.const 12))
                    (then unreachable))
                (if (call $read (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 4))
                    (then unreachable))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    ),
    (
        // Its standard input; fails when that is empty.
        "strict",
        r#"(module
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\40\00\00\00\00\04\00\00")
            (func (export "_start")
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
                (if (i32.eqz (i32.load (i32.const 8))) (then (call $exit (i32.const 65))))
                (i32.store (i32.const 4) (i32.load (i32.const 8)))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    ),
    (
        "hello",
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\06\00\00\00")
            (data (i32.const 16) "hello\n")
            (func (export "_start") (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    ),
    (
        // Its first argument and a newline.
        "echo",
        r#"(module
            (import "wasi_snapshot_preview1" "args_get" (func $args (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "_start")
                (local $at i32)
                (drop (call $args (i32.const 16) (i32.const 1024)))
                (local.set $at (i32.load (i32.const 20)))
                (i32.store (i32.const 0) (local.get $at))
                (loop $next
                    (if (i32.load8_u (local.get $at))
                        (then (local.set $at (i32.add (local.get $at) (i32.const 1))) (br $next))))
                (i32.store8 (local.get $at) (i32.const 10))
                (i32.store (i32.const 4) (i32.sub (i32.add (local.get $at) (i32.const 1)) (i32.load (i32.const 0))))
                (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#,
    ),
    (
        // Leaves `made.txt` in the first directory it was given.
        "file",
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\10\00\00\00\05\00\00\00")
            (data (i32.const 16) "made\n")
            (data (i32.const 32) "made.txt")
            (func (export "_start")
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 8) (i32.const 9)
                        (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 12))
                    (then unreachable))
                (if (call $write (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8))
                    (then unreachable))))"#,
    ),
    (
        // Leaves its standard input (at most 4 KiB) as `made.txt` in the first directory it was given.
        "copy",
        r#"(module
            (import "wasi_snapshot_preview1" "path_open"
                (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 0) "\00\01\00\00\00\10\00\00")
            (data (i32.const 32) "made.txt")
            (func (export "_start")
                (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 4)))
                (if (call $open (i32.const 3) (i32.const 0) (i32.const 32) (i32.const 8) (i32.const 9)
                        (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 12))
                    (then unreachable))
                (if (call $write (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8))
                    (then unreachable))))"#,
    ),
    (
        "seven",
        r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (memory (export "memory") 1)
            (func (export "_start") (call $exit (i32.const 7))))"#,
    ),
    ("trap", r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#),
    ("loop", r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#),
    (
        "greedy",
        r#"(module (memory (export "memory") 1)
            (func (export "_start")
                (loop $more
                    (if (i32.eq (memory.grow (i32.const 16)) (i32.const -1)) (then unreachable))
                    (br $more))))"#,
    ),
    (
        "flood",
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
            (memory (export "memory") 2)
            (data (i32.const 0) "\10\00\00\00\00\f0\00\00")
            (func (export "_start")
                (loop $more
                    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
                    (br $more))))"#,
    ),
    (
        "alien",
        r#"(module (import "outer" "space" (func $space)) (memory (export "memory") 1)
            (func (export "_start") (call $space)))"#,
    ),
];
