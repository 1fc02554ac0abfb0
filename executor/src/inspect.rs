//! What is in a module, without compiling it: for people who want to know what it would need.

use wasmparser::types::EntityType;
use wasmparser::{Parser, Payload, Validator, WasmFeatures};

use crate::engine::MEMORY_PAGE_BYTES;
use crate::validate::{self, InvalidModule, is_offered, shown};

/// Imports and exports that are listed; what is beyond them is only counted.
const LISTED_MAX: usize = 4096;

/// What is in a module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// In the module's order.
    pub imports: Vec<Import>,
    /// In the module's order: the name, and what it is.
    pub exports: Vec<(String, &'static str)>,
    /// Bytes of memory that it begins with, and the most that it takes; `None` without a memory of its own.
    pub memory: Option<(u64, Option<u64>)>,
    /// Functions with code.
    pub functions: u32,
    /// Bytes of code.
    pub code_bytes: u64,
    /// Bytes of data.
    pub data_bytes: u64,
    /// Why it cannot run as a task here, if so.
    pub refused: Option<InvalidModule>,
}

/// Something that a module takes from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Import {
    /// The namespace.
    pub module: String,
    /// The name in it.
    pub name: String,
    /// Function, memory, table, global or tag.
    pub kind: &'static str,
    /// Whether tasks have it here.
    pub offered: bool,
}

impl Inspection {
    /// Looks at bytes that are a module, whether or not it could run here.
    pub fn of(bytes: &[u8], len_max: u64) -> Result<Self, InvalidModule> {
        validate::check_kind(bytes)?;
        let malformed = |error: wasmparser::BinaryReaderError| InvalidModule::Malformed(error.to_string());
        let types = Validator::new_with_features(WasmFeatures::all()).validate_all(bytes).map_err(malformed)?;
        let types = types.as_ref();
        let imports = types.core_imports().into_iter().flatten().take(LISTED_MAX);
        let exports = types.core_exports().into_iter().flatten().take(LISTED_MAX);
        let mut inspection = Self {
            imports: imports.map(|(module, name, kind)| import(module, name, &kind)).collect(),
            exports: exports.map(|(name, kind)| (shown(name), kind_of(&kind))).collect(),
            memory: (types.memory_count() > 0).then(|| {
                let memory = types.memory_at(0);
                let bytes = |pages: u64| pages.saturating_mul(MEMORY_PAGE_BYTES);
                (bytes(memory.initial), memory.maximum.map(bytes))
            }),
            functions: 0,
            code_bytes: 0,
            data_bytes: 0,
            refused: validate::check_with_entry(bytes, "_start", len_max).err(),
        };
        inspection.measure(bytes).map_err(malformed)?;
        Ok(inspection)
    }

    fn measure(&mut self, bytes: &[u8]) -> Result<(), wasmparser::BinaryReaderError> {
        for payload in Parser::new(0).parse_all(bytes) {
            match payload? {
                Payload::CodeSectionStart { count, size, .. } => {
                    (self.functions, self.code_bytes) = (count, u64::from(size));
                }
                Payload::DataSection(data) => self.data_bytes = data.range().len() as u64,
                _ => {}
            }
        }
        Ok(())
    }

    /// Namespaces of imports that tasks do not have here.
    pub fn missing(&self) -> Vec<&str> {
        let mut missing: Vec<_> =
            self.imports.iter().filter(|import| !import.offered).map(|import| import.module.as_str()).collect();
        missing.sort_unstable();
        missing.dedup();
        missing
    }
}

fn import(module: &str, name: &str, kind: &EntityType) -> Import {
    let kind = kind_of(kind);
    Import { module: shown(module), name: shown(name), kind, offered: kind == "function" && is_offered(module, name) }
}

const fn kind_of(kind: &EntityType) -> &'static str {
    match kind {
        EntityType::Func(_) | EntityType::FuncExact(_) => "function",
        EntityType::Table(_) => "table",
        EntityType::Memory(_) => "memory",
        EntityType::Global(_) => "global",
        EntityType::Tag(_) => "tag",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_has_and_lacks_is_told() {
        let wat = r#"(module
            (import "wasi_snapshot_preview1" "proc_exit" (func (param i32)))
            (import "gpu" "draw" (func))
            (memory (export "memory") 2 16)
            (data (i32.const 0) "four")
            (func (export "_start")))"#;
        let inspection = Inspection::of(&wat::parse_str(wat).unwrap(), 1 << 20).unwrap();
        let imports: Vec<_> = inspection.imports.iter().map(|it| (it.name.as_str(), it.kind, it.offered)).collect();
        assert_eq!(imports, [("proc_exit", "function", true), ("draw", "function", false)]);
        assert_eq!(inspection.exports, [("memory".to_owned(), "memory"), ("_start".to_owned(), "function")]);
        assert_eq!(inspection.memory, Some((128 << 10, Some(1 << 20))));
        assert_eq!((inspection.functions, inspection.missing()), (1, vec!["gpu"]));
        assert!(matches!(inspection.refused, Some(InvalidModule::UnknownImport { .. })));
        assert!(inspection.data_bytes >= 4 && inspection.code_bytes > 0);
    }

    #[test]
    fn what_is_no_module_is_not_inspected() {
        assert_eq!(Inspection::of(b"", 1), Err(InvalidModule::Empty));
        assert!(matches!(Inspection::of(b"#!/bin/sh", 1), Err(InvalidModule::NotWasm(_))));
    }
}
