//! What is refused as a module, and what the user is told.

use std::time::Duration;

use swarm_executor::{Engine, InvalidModule};
use swarm_protocol::Hash;

use crate::{ENGINE, MIB, config, wasm};

fn refusal(bytes: &[u8]) -> String {
    Engine::validate(bytes, MIB).unwrap_err().to_string()
}

fn refusal_of_text(text: &str) -> String {
    let bytes = wat::parse_str(text).unwrap();
    let told = refusal(&bytes);
    // What the command line refuses, a node refuses too, except for the entry, which a task may choose.
    if !told.contains("function `_start`") {
        assert_eq!(ENGINE.prepare(Hash::of(&bytes), &bytes).unwrap_err().to_string(), told);
    }
    told
}

#[test]
fn a_good_module_is_accepted() {
    Engine::validate(&wasm("echo"), MIB).unwrap();
    Engine::validate_with_entry(&wasm("unusual_entry"), "work", MIB).unwrap();
}

#[test]
fn other_files_are_named_by_their_beginning() {
    assert_eq!(refusal(b"#!/bin/sh\necho"), r##"this is not a WebAssembly module (it begins with "#!/bin/sh\nec")"##);
    assert_eq!(refusal(b"\x7fELF\x02\x01"), "this is not a WebAssembly module (it begins with 7f 45 4c 46 02 01)");
    assert_eq!(refusal(b""), "this is not a WebAssembly module: it is empty");
}

#[test]
fn text_and_components_get_a_hint() {
    assert!(refusal(b"  (module (func))").contains("WebAssembly text"));
    assert!(refusal_of_text("(component)").contains("component"));
}

#[test]
fn a_module_cut_off_anywhere_is_refused() {
    let bytes = wasm("returns");
    for len in 0..bytes.len() {
        Engine::validate(&bytes[..len], MIB).unwrap_err();
    }
    assert!(refusal(&bytes[..bytes.len() - 3]).starts_with("the module is malformed"));
}

#[test]
fn a_module_over_the_limit_is_refused() {
    let bytes = wasm("echo");
    let told = Engine::validate(&bytes, 100).unwrap_err();
    assert_eq!(told, InvalidModule::TooLarge { len: bytes.len() as u64, max: 100 });
}

#[test]
fn an_unknown_import_is_named() {
    let told = refusal_of_text(
        r#"(module (import "env" "foo" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    );
    let wanted = "the module imports `env.foo`, which this swarm does not offer; tasks may import only WASI preview 1";
    assert_eq!(told, wanted);
}

#[test]
fn an_import_of_the_wrong_type_is_refused_when_it_is_linked() {
    let text = r#"(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i64)))
        (memory (export "memory") 1) (func (export "_start")))"#;
    let bytes = wat::parse_str(text).unwrap();
    let told = ENGINE.prepare(Hash::of(&bytes), &bytes).unwrap_err();
    assert!(matches!(told, InvalidModule::Link(_)), "{told}");
}

#[test]
fn the_entry_must_be_there_and_plain() {
    let told = refusal_of_text(r#"(module (memory (export "memory") 1))"#);
    assert_eq!(told, "the module does not export a function `_start`");
    let told = refusal_of_text(r#"(module (memory (export "memory") 1) (func (export "_start") (param i32)))"#);
    assert_eq!(told, "the exported function `_start` must take no parameters and return nothing");
}

#[test]
fn a_memory_must_be_exported() {
    let told = refusal_of_text(r#"(module (func (export "_start")))"#);
    assert_eq!(told, "the module does not export its memory as `memory`");
}

#[test]
fn threads_and_large_memories_are_not_offered() {
    for text in [
        r#"(module (memory (export "memory") 1 2 shared) (func (export "_start")))"#,
        r#"(module (memory (export "memory") i64 1) (func (export "_start")))"#,
        r#"(module (memory (export "memory") 1) (memory 1) (func (export "_start")))"#,
        r#"(module (memory (export "memory") 1) (func (export "_start") (drop (i32.atomic.load (i32.const 0)))))"#,
    ] {
        let told = refusal_of_text(text);
        assert!(told.starts_with("the module uses a WebAssembly feature that this swarm does not offer: "), "{told}");
    }
}

#[test]
fn the_command_line_and_the_engine_accept_the_same() {
    for (inside, offered) in [
        ("(func (drop (i32.extend8_s (i32.const 1))))", true),
        ("(func (memory.fill (i32.const 0) (i32.const 0) (i32.const 1)))", true),
        ("(func (result i32 i32) (i32.const 1) (i32.const 2))", true),
        ("(func $f (return_call $f))", true),
        ("(table 1 funcref) (func (drop (table.grow (ref.null func) (i32.const 1))))", true),
        ("(global i32 (i32.add (i32.const 1) (i32.const 2)))", true),
        ("(func (param v128) (drop (i32x4.relaxed_trunc_f32x4_s (local.get 0))))", true),
        ("(table 1 externref)", false),
        ("(tag (param i32))", false),
        ("(type (struct (field i32)))", false),
        ("(type $t (func)) (func (param (ref null $t)) (call_ref $t (local.get 0)))", false),
        ("(func (drop (i64.add128 (i64.const 0) (i64.const 0) (i64.const 0) (i64.const 0))) drop)", false),
    ] {
        let text = format!(r#"(module (memory (export "memory") 1) (func (export "_start")) {inside})"#);
        let bytes = wat::parse_str(&text).unwrap();
        let (told, prepared) = (Engine::validate(&bytes, MIB), ENGINE.prepare(Hash::of(&bytes), &bytes));
        assert_eq!((told.is_ok(), prepared.is_ok()), (offered, offered), "{inside}: {told:?} {prepared:?}");
    }
}

#[test]
fn a_module_that_needs_more_memory_than_the_node_gives_is_refused() {
    let bytes = wat::parse_str(r#"(module (memory (export "memory") 8192) (func (export "_start")))"#).unwrap();
    let told = ENGINE.prepare(Hash::of(&bytes), &bytes).unwrap_err();
    assert_eq!(told, InvalidModule::MemoryTooLarge { declared: 512 * MIB, max: 256 * MIB });
}

#[test]
fn a_module_that_compiles_too_slowly_is_refused() {
    let engine = Engine::new(swarm_executor::EngineConfig { compile_time_max: Duration::ZERO, ..config() }).unwrap();
    let bytes = wasm("echo");
    let told = engine.prepare(Hash::of(&bytes), &bytes).unwrap_err();
    assert!(matches!(told, InvalidModule::CompileTooSlow { .. }), "{told}");
}
