//! Whether bytes are a module that a task may run, and if not, why not, in one sentence.
//!
//! Nothing is compiled here, so it is cheap enough for the command line.

use wasmparser::types::{EntityType, TypesRef};
use wasmparser::{Parser, Validator, WasmFeatures};

use crate::engine::MEMORY_PAGE_BYTES;

/// The only import namespace: WASI preview 1.
pub(crate) const WASI_MODULE: &str = "wasi_snapshot_preview1";

/// What WASI preview 1 offers (its witx definition), sorted.
const WASI_FUNCTIONS: [&str; 46] = [
    "args_get",
    "args_sizes_get",
    "clock_res_get",
    "clock_time_get",
    "environ_get",
    "environ_sizes_get",
    "fd_advise",
    "fd_allocate",
    "fd_close",
    "fd_datasync",
    "fd_fdstat_get",
    "fd_fdstat_set_flags",
    "fd_fdstat_set_rights",
    "fd_filestat_get",
    "fd_filestat_set_size",
    "fd_filestat_set_times",
    "fd_pread",
    "fd_prestat_dir_name",
    "fd_prestat_get",
    "fd_pwrite",
    "fd_read",
    "fd_readdir",
    "fd_renumber",
    "fd_seek",
    "fd_sync",
    "fd_tell",
    "fd_write",
    "path_create_directory",
    "path_filestat_get",
    "path_filestat_set_times",
    "path_link",
    "path_open",
    "path_readlink",
    "path_remove_directory",
    "path_rename",
    "path_symlink",
    "path_unlink_file",
    "poll_oneoff",
    "proc_exit",
    "proc_raise",
    "random_get",
    "sched_yield",
    "sock_accept",
    "sock_recv",
    "sock_send",
    "sock_shutdown",
];

/// Why bytes are not a module that a task may run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidModule {
    /// There is nothing.
    #[error("this is not a WebAssembly module: it is empty")]
    Empty,
    /// Something else altogether.
    #[error("this is not a WebAssembly module (it begins with {0})")]
    NotWasm(String),
    /// The text format.
    #[error("this is WebAssembly text, not a module; translate it first, for example with `wat2wasm`")]
    Text,
    /// A component of the component model.
    #[error("this is a WebAssembly component; tasks are WASI preview 1 modules (target `wasm32-wasip1`)")]
    Component,
    /// Cut off, damaged or never right.
    #[error("the module is malformed: {0}")]
    Malformed(String),
    /// A proposal that tasks may not use: threads, 64-bit or several memories, exceptions, garbage collection.
    #[error("the module uses a WebAssembly feature that this swarm does not offer: {0}")]
    Unsupported(String),
    /// Too many bytes.
    #[error("the module has {len} bytes, more than the {max} allowed")]
    TooLarge {
        /// Bytes given.
        len: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// An import that nobody offers.
    #[error(
        "the module imports `{module}.{name}`, which this swarm does not offer; tasks may import only WASI preview 1"
    )]
    UnknownImport {
        /// The import's namespace.
        module: String,
        /// The import's name.
        name: String,
    },
    /// WASI preview 1 has the function, but with another type.
    #[error("the module does not link: {0}")]
    Link(String),
    /// The function to call is not there.
    #[error("the module does not export a function `{0}`")]
    NoEntry(String),
    /// The function to call takes or returns something.
    #[error("the exported function `{0}` must take no parameters and return nothing")]
    EntryType(String),
    /// WASI needs a memory to talk through.
    #[error("the module does not export its memory as `memory`")]
    NoMemory,
    /// It cannot even begin on this node.
    #[error("the module begins with {declared} bytes of memory, more than the {max} that this node gives to a task")]
    MemoryTooLarge {
        /// Bytes declared as the minimum.
        declared: u64,
        /// Bytes that this node gives.
        max: u64,
    },
    /// Compiling took longer than this node allows.
    #[error("compiling the module took {took_ms} ms, more than the {max_ms} allowed")]
    CompileTooSlow {
        /// Milliseconds taken.
        took_ms: u64,
        /// Milliseconds allowed.
        max_ms: u64,
    },
    /// The compiler or its cache gave up.
    #[error("the module does not compile: {0}")]
    Compile(String),
}

/// What a task may use: WebAssembly 2.0 without `externref`, with tail calls, extended constants and deterministic relaxed
/// SIMD. [`engine`](crate::engine) is set up to compile just these.
fn features() -> WasmFeatures {
    let added = WasmFeatures::TAIL_CALL | WasmFeatures::EXTENDED_CONST | WasmFeatures::RELAXED_SIMD;
    WasmFeatures::WASM2.difference(WasmFeatures::GC_TYPES) | added
}

/// Checks everything but the entry; returns the declared minimum of memory in bytes.
pub(crate) fn check(bytes: &[u8], len_max: u64) -> Result<u64, InvalidModule> {
    let types = parse(bytes, len_max)?;
    check_imports(types.as_ref())?;
    check_memory(types.as_ref())
}

/// [`check`], and that `entry` can be called.
pub(crate) fn check_with_entry(bytes: &[u8], entry: &str, len_max: u64) -> Result<(), InvalidModule> {
    let types = parse(bytes, len_max)?;
    check_imports(types.as_ref())?;
    check_memory(types.as_ref())?;
    check_entry(types.as_ref(), entry)
}

fn parse(bytes: &[u8], len_max: u64) -> Result<wasmparser::types::Types, InvalidModule> {
    let len = bytes.len() as u64;
    if len > len_max {
        return Err(InvalidModule::TooLarge { len, max: len_max });
    }
    check_kind(bytes)?;
    Validator::new_with_features(features()).validate_all(bytes).map_err(|error| {
        // What every proposal together still refuses is no module at all; the rest is merely not offered.
        match Validator::new_with_features(WasmFeatures::all()).validate_all(bytes) {
            Ok(_) => InvalidModule::Unsupported(error.to_string()),
            Err(error) => InvalidModule::Malformed(error.to_string()),
        }
    })
}

pub(crate) fn check_kind(bytes: &[u8]) -> Result<(), InvalidModule> {
    if Parser::is_core_wasm(bytes) {
        return Ok(());
    }
    if Parser::is_component(bytes) {
        return Err(InvalidModule::Component);
    }
    if bytes.is_empty() {
        return Err(InvalidModule::Empty);
    }
    if bytes.starts_with(b"\0asm") {
        return Err(InvalidModule::Malformed("its version is unknown or cut off".into()));
    }
    if bytes.trim_ascii_start().starts_with(b"(module") || bytes.trim_ascii_start().starts_with(b"(component") {
        return Err(InvalidModule::Text);
    }
    Err(InvalidModule::NotWasm(beginning(bytes)))
}

/// The first few bytes, quoted when they are text.
fn beginning(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(12)];
    let printable = head.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace());
    match str::from_utf8(head) {
        Ok(text) if printable => format!("{text:?}"),
        _ => head.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" "),
    }
}

fn check_imports(types: TypesRef<'_>) -> Result<(), InvalidModule> {
    for (module, name, _) in types.core_imports().into_iter().flatten() {
        if !is_offered(module, name) {
            return Err(InvalidModule::UnknownImport { module: shown(module), name: shown(name) });
        }
    }
    Ok(())
}

/// Whether tasks have a function of this name.
pub(crate) fn is_offered(module: &str, name: &str) -> bool {
    module == WASI_MODULE && WASI_FUNCTIONS.binary_search(&name).is_ok()
}

fn check_memory(types: TypesRef<'_>) -> Result<u64, InvalidModule> {
    match types.core_exports().into_iter().flatten().find(|(name, _)| *name == "memory") {
        Some((_, EntityType::Memory(memory))) => Ok(memory.initial.saturating_mul(MEMORY_PAGE_BYTES)),
        _ => Err(InvalidModule::NoMemory),
    }
}

fn check_entry(types: TypesRef<'_>, entry: &str) -> Result<(), InvalidModule> {
    match types.core_exports().into_iter().flatten().find(|(name, _)| *name == entry) {
        Some((_, EntityType::Func(id) | EntityType::FuncExact(id))) => {
            let function = types[id].unwrap_func();
            let plain = function.params().is_empty() && function.results().is_empty();
            if plain { Ok(()) } else { Err(InvalidModule::EntryType(shown(entry))) }
        }
        _ => Err(InvalidModule::NoEntry(shown(entry))),
    }
}

/// A name chosen by a stranger, short and without control characters.
pub(crate) fn shown(name: &str) -> String {
    name.chars().take(80).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offered_imports_are_those_that_the_linker_has() {
        let engine = wasmtime::Engine::default();
        let mut linker = wasmtime::Linker::<wasmtime_wasi::p1::WasiP1Ctx>::new(&engine);
        wasmtime_wasi::p1::add_to_linker_sync(&mut linker, |wasi| wasi).unwrap();
        let mut store = wasmtime::Store::new(&engine, wasmtime_wasi::WasiCtxBuilder::new().build_p1());
        let mut linked: Vec<_> = linker.iter(&mut store).map(|(_, name, _)| name.to_owned()).collect();
        linked.sort();
        assert_eq!(linked, WASI_FUNCTIONS);
    }
}
