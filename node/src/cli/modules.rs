//! `swarm module`: publishing and finding named modules, and looking into them.

use std::path::{Path, PathBuf};

use axum::body::Body;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use swarm_executor::{Engine, Import, Inspection, InvalidModule};
use swarm_protocol::Hash;

use super::args::{self, Global};
use super::output::{self, Document, Format, bytes, json, pairs, print, shown};
use crate::api::view::{ModuleItem, PublishModule, YankModule, parse_hash};
use crate::api::{Client, Code, Failure, causes};
use crate::handle::blocking;
use crate::jobfile::MODULE_BYTES_MAX;
use crate::modules::Reference;

/// Bytes of a manifest: its description has 4 KiB at most.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024;
/// Hexadecimal digits of a key in a table.
const KEY_DIGITS: usize = 12;
/// Schema of what `inspect` prints.
pub(super) const INSPECTION: &str = "swarm.module-inspection/1";
/// Schema of what `show` prints.
pub(super) const MODULE: &str = "swarm.module/1";

/// `module.toml`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    name: String,
    namespace: String,
    version: String,
    /// Relative to the manifest.
    binary: PathBuf,
    #[serde(default)]
    description: String,
    #[serde(default)]
    required_extensions: Vec<String>,
    #[serde(default)]
    permissions: Vec<String>,
}

/// `swarm module`.
pub(super) async fn module(client: &Client, global: &Global, command: &args::Module) -> Result<(), Failure> {
    match command {
        args::Module::Publish { manifest } => publish(client, global, manifest).await,
        args::Module::Ls { name } => {
            output::list(global.output, &client.modules(name.as_deref().unwrap_or_default()).await?)
        }
        args::Module::Show { reference } => show(global.output, &client.module(reference).await?),
        args::Module::Yank { reference } => yank(client, global, reference).await,
        args::Module::Inspect { module } => inspect(client, global.output, module).await,
    }
}

async fn publish(client: &Client, global: &Global, path: &Path) -> Result<(), Failure> {
    let next = "swarm module publish --help   # says what a manifest has";
    let manifest = read_manifest(path).map_err(|failure| failure.hint(next))?;
    let binary = path.parent().unwrap_or(Path::new("")).join(&manifest.binary);
    let module = read(&binary, MODULE_BYTES_MAX)?;
    check(&binary, &module, &manifest.required_extensions)?;
    let hash = Hash::of(&module);
    if !client.has_blob(hash).await? {
        client.put_blob(hash, Body::from(module)).await?;
    }
    let published = client
        .publish_module(&PublishModule {
            name: format!("{}.{}", manifest.namespace, manifest.name),
            version: manifest.version,
            wasm: hash.to_hex(),
            description: manifest.description,
            extensions: manifest.required_extensions,
            permissions: manifest.permissions,
        })
        .await?;
    warn_of_others(&published);
    match global.output {
        Format::Table | Format::Id => print(&format!("{}@{}\n", published.name, published.version)),
        _ => show(global.output, &published),
    }
}

fn warn_of_others(module: &ModuleItem) {
    if module.disputed {
        let ModuleItem { name, version, publisher, .. } = module;
        eprintln!(
            "others published `{name}`, too; this one is {name}@{version}#{} where they differ",
            digits(publisher)
        );
    }
}

fn digits(key: &str) -> &str {
    &key[..key.len().min(KEY_DIGITS)]
}

fn read_manifest(path: &Path) -> Result<Manifest, Failure> {
    let bytes = read(path, MANIFEST_BYTES_MAX)?;
    let invalid = |why: String| Failure::new(Code::Invalid, format!("`{}`: {why}", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| invalid("it is not a text file".into()))?;
    let manifest: Manifest = toml::from_str(&text).map_err(|error| invalid(error.to_string().trim_end().into()))?;
    let version = manifest.version.parse::<semver::Version>();
    version.map_err(|error| invalid(format!("the version `{}` is not a semantic one: {error}", manifest.version)))?;
    Ok(manifest)
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, Failure> {
    let unreadable = |error| Failure::caused(Code::Invalid, &format!("`{}` cannot be read", path.display()), &error);
    let len = std::fs::metadata(path).map_err(unreadable)?.len();
    if len > max {
        let message = format!("`{}` has {}, more than the {} possible", path.display(), bytes(len), bytes(max));
        return Err(Failure::new(Code::Invalid, message));
    }
    std::fs::read(path).map_err(unreadable)
}

/// A module may lack what its manifest says that it needs: then it can be published, and run where that is offered.
fn check(path: &Path, module: &[u8], extensions: &[String]) -> Result<(), Failure> {
    let refused = match Engine::validate(module, MODULE_BYTES_MAX) {
        Ok(()) => return Ok(()),
        Err(InvalidModule::UnknownImport { module, .. }) if extensions.contains(&module) => return Ok(()),
        Err(refused) => refused,
    };
    let failure =
        Failure::new(Code::Invalid, format!("`{}` is not a usable module: {}", path.display(), causes(&refused)));
    match refused {
        InvalidModule::UnknownImport { module, .. } => {
            Err(failure.hint(format!("required_extensions = [\"{module}\"] if some nodes are to offer it")))
        }
        _ => Err(failure),
    }
}

async fn yank(client: &Client, global: &Global, reference: &str) -> Result<(), Failure> {
    let Some((name, version)) = reference.split_once('@') else {
        let message = format!("`{reference}` does not say which version to yank");
        return Err(Failure::new(Code::Usage, message).hint(format!("swarm module ls {reference}")));
    };
    let left = client.yank_module(&YankModule { name: name.into(), version: version.into() }).await?;
    output::list(global.output, &left)
}

fn show(format: Format, module: &ModuleItem) -> Result<(), Failure> {
    match format {
        Format::Json | Format::Jsonl => print(&json(&Document { schema: MODULE, content: module })?),
        Format::Id => print(&format!("blake3:{}\n", module.wasm)),
        Format::Table => print(&module_text(module)),
    }
}

fn module_text(module: &ModuleItem) -> String {
    let mut lines = vec![
        ("module", format!("{}@{}", module.name, module.version)),
        ("wasm", format!("blake3:{}", module.wasm)),
        ("size", bytes(module.len_bytes)),
        ("published", module.published.clone()),
        ("publisher", module.publisher.clone()),
    ];
    for (label, list) in [("needs", &module.extensions), ("asks for", &module.permissions)] {
        if !list.is_empty() {
            lines.push((label, shown(&list.join(", "))));
        }
    }
    if !module.description.is_empty() {
        lines.push(("about", shown(&module.description)));
    }
    if module.yanked {
        lines.push(("yanked", "its publisher says that it should not be used any more".into()));
    }
    if module.disputed {
        lines.push(("disputed", "another key published this name, too: see `swarm module ls`".into()));
    }
    pairs(&lines)
}

impl output::Row for ModuleItem {
    const HEADER: &'static [&'static str] = &["MODULE", "PUBLISHER", "SIZE", "WASM", "STATE", "ABOUT"];

    fn cells(&self) -> Vec<String> {
        let note = match (self.yanked, self.disputed) {
            (true, _) => "yanked",
            (false, true) => "disputed",
            (false, false) => "",
        };
        vec![
            format!("{}@{}", self.name, self.version),
            digits(&self.publisher).into(),
            bytes(self.len_bytes),
            digits(&self.wasm).into(),
            note.into(),
            shown(self.description.lines().next().unwrap_or_default()),
        ]
    }

    fn id(&self) -> String {
        self.wasm.clone()
    }
}

/// What `inspect` says.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct InspectionItem {
    schema: &'static str,
    /// 64 hexadecimal digits.
    wasm: String,
    len_bytes: u64,
    memory_bytes: Option<u64>,
    memory_bytes_max: Option<u64>,
    functions: u32,
    code_bytes: u64,
    data_bytes: u64,
    imports: Vec<ImportItem>,
    exports: Vec<ExportItem>,
    /// Namespaces of imports that no node offers.
    needs: Vec<String>,
    /// Why it cannot run as a task; absent when it can.
    #[serde(skip_serializing_if = "Option::is_none")]
    refused: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ImportItem {
    module: String,
    name: String,
    kind: &'static str,
    offered: bool,
}

#[derive(Debug, Serialize, JsonSchema)]
struct ExportItem {
    name: String,
    kind: &'static str,
}

async fn inspect(client: &Client, format: Format, module: &str) -> Result<(), Failure> {
    let bytes = match named(module)? {
        Named::File(path) => {
            let next = "swarm module inspect FILE.wasm   # or the name of a published one: swarm module ls";
            read(&path, MODULE_BYTES_MAX).map_err(|failure| failure.hint(next))?
        }
        Named::Blob(hash) => fetch(client, hash, &[]).await?,
        Named::Published(reference) => {
            let found = client.module(&reference).await?;
            let hash = parse_hash(&found.wasm).map_err(|error| Failure::new(Code::Bug, error.to_string()))?;
            fetch(client, hash, &[found.publisher]).await?
        }
    };
    let item = blocking(move || InspectionItem::of(&bytes)).await.map_err(|error| {
        let message = format!("`{}` is not a module: {}", shown(module), causes(&error));
        Failure::new(Code::Invalid, message).hint("swarm module inspect FILE.wasm")
    })?;
    match format {
        Format::Json | Format::Jsonl => print(&json(&item)?),
        Format::Id => print(&format!("blake3:{}\n", item.wasm)),
        Format::Table => print(&item.text()),
    }
}

enum Named {
    File(PathBuf),
    Blob(Hash),
    Published(String),
}

/// A file that is there goes before a published name.
fn named(module: &str) -> Result<Named, Failure> {
    if module.starts_with("blake3:") {
        let hash = module.parse().map_err(|error: swarm_protocol::ParseIdError| {
            Failure::new(Code::Usage, format!("`{module}` names no blob: {error}"))
        })?;
        return Ok(Named::Blob(hash));
    }
    let is_reference = || !module.ends_with(".wasm") && module.parse::<Reference>().is_ok();
    match Path::new(module).exists() || !is_reference() {
        true => Ok(Named::File(module.into())),
        false => Ok(Named::Published(module.into())),
    }
}

async fn fetch(client: &Client, hash: Hash, holders: &[String]) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    client.blob(hash, holders).await?.write_to(&mut bytes).await?;
    Ok(bytes)
}

impl InspectionItem {
    fn of(module: &[u8]) -> Result<Self, InvalidModule> {
        let inspection = Inspection::of(module, MODULE_BYTES_MAX)?;
        let needs = inspection.missing().into_iter().map(String::from).collect();
        let import = |Import { module, name, kind, offered }| ImportItem { module, name, kind, offered };
        Ok(Self {
            schema: INSPECTION,
            wasm: Hash::of(module).to_hex(),
            len_bytes: module.len() as u64,
            memory_bytes: inspection.memory.map(|(least, _)| least),
            memory_bytes_max: inspection.memory.and_then(|(_, most)| most),
            functions: inspection.functions,
            code_bytes: inspection.code_bytes,
            data_bytes: inspection.data_bytes,
            imports: inspection.imports.into_iter().map(import).collect(),
            exports: inspection.exports.into_iter().map(|(name, kind)| ExportItem { name, kind }).collect(),
            needs,
            refused: inspection.refused.map(|refused| refused.to_string()),
        })
    }

    fn text(&self) -> String {
        let memory = match (self.memory_bytes, self.memory_bytes_max) {
            (None, _) => "none".to_owned(),
            (Some(least), None) => format!("{} at the beginning", bytes(least)),
            (Some(least), Some(most)) => format!("{} at the beginning, at most {}", bytes(least), bytes(most)),
        };
        let verdict = match &self.refused {
            None => "can run as a task".to_owned(),
            Some(why) => format!("cannot run as a task: {why}"),
        };
        let mut lines = vec![
            ("wasm", format!("blake3:{}", self.wasm)),
            ("size", bytes(self.len_bytes)),
            ("code", format!("{} functions, {}", self.functions, bytes(self.code_bytes))),
            ("data", bytes(self.data_bytes)),
            ("memory", memory),
        ];
        if !self.needs.is_empty() {
            lines.push(("needs", self.needs.join(", ")));
        }
        lines.push(("verdict", shown(&verdict)));
        let imports = self.imports.iter().map(|it| {
            let missing = if it.offered { "" } else { "  (not offered)" };
            format!("import  {} {}.{}{missing}\n", it.kind, it.module, it.name)
        });
        let exports = self.exports.iter().map(|it| format!("export  {} {}\n", it.kind, it.name));
        pairs(&lines) + &imports.chain(exports).collect::<String>()
    }
}

/// The published module that a job file names, for the reader of job files.
pub(super) async fn resolve(client: &Client, reference: &str) -> Result<Hash, Failure> {
    let found = client.module(reference).await?;
    if !found.extensions.is_empty() {
        let needs = found.extensions.join(", ");
        return Err(Failure::new(Code::NeverRunnable, format!("it needs {needs}, which no node offers")));
    }
    if found.disputed {
        let ModuleItem { name, version, publisher, .. } = &found;
        tracing::info!("{name}@{version} is of {publisher}; others published the name, too");
    }
    parse_hash(&found.wasm).map_err(|error| Failure::new(Code::Bug, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_and_what_is_wrong_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join("module.toml"), text).unwrap();
            read_manifest(&dir.path().join("module.toml"))
        };
        let text = "name = \"loudify\"\nnamespace = \"sh.example\"\nversion = \"1.2.0\"\nbinary = \"l.wasm\"\n";
        let manifest = read(text).unwrap();
        assert_eq!((manifest.version.as_str(), manifest.binary), ("1.2.0", PathBuf::from("l.wasm")));
        for (wrong, said) in [
            (text.replace("1.2.0", "1.2"), "version"),
            (format!("{text}binray = 1\n"), "binray"),
            ("name = \"x\"".into(), "namespace"),
        ] {
            let failure = read(&wrong).unwrap_err();
            assert!(failure.code == Code::Invalid && failure.message.contains(said), "{}", failure.message);
        }
    }

    #[test]
    fn a_file_goes_before_a_published_name() {
        let here = std::env::current_dir().unwrap();
        let cargo = here.join("Cargo.toml");
        assert!(matches!(named(cargo.to_str().unwrap()), Ok(Named::File(_))));
        assert!(matches!(named("sh.example.loudify@1"), Ok(Named::Published(_))));
        assert!(matches!(named("dir/missing.wasm"), Ok(Named::File(_))));
        assert!(matches!(named("missing.wasm"), Ok(Named::File(_))));
        assert!(matches!(named("blake3:zz"), Err(failure) if failure.code == Code::Usage));
    }
}
