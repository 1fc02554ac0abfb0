//! Job files good and bad: `node/tests/jobfiles/`. The whole message of each bad one is kept as a snapshot.

mod forms;
mod good;
mod template;

use std::fs;
use std::path::{Path, PathBuf};

use swarm_protocol::Hash;

use super::{JobFileError, LoadOptions, Plan, parse};

/// The check for modules in these tests: the first bytes that every module has.
fn begins_as_a_module(bytes: &[u8]) -> Result<(), String> {
    if bytes.starts_with(b"\0asm\x01\0\0\0") { Ok(()) } else { Err("it does not begin with `\\0asm`".to_owned()) }
}

/// The only module that is published in these tests.
fn published(reference: &str) -> Result<Hash, String> {
    match reference {
        "sh.example.loudify@1" => Ok(Hash::of(b"loud")),
        _ => Err(format!("no module `{reference}` is published")),
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/jobfiles").join(name)
}

fn read(text: &str, base: &Path, file_name: &str) -> Result<Plan, JobFileError> {
    parse(
        text,
        base,
        file_name,
        &LoadOptions { name: None, set: Vec::new(), nodes: 3, validate: &begins_as_a_module, resolve: &published },
    )
}

/// The name and text of each job file in a folder, by name.
fn files(folder: &Path) -> Vec<(String, String)> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), fs::read_to_string(&path).unwrap()))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn every_mistake_is_explained_where_it_was_made() {
    for (name, text) in files(&folder("bad")) {
        let error = read(&text, &folder("bad"), &format!("{name}.toml")).expect_err(&name);
        assert!(matches!(error, JobFileError::Invalid(_)), "{name}: {error}");
        insta::assert_snapshot!(name, error.to_string());
    }
}

#[test]
fn a_job_file_that_is_not_there_is_named() {
    let options =
        LoadOptions { name: None, set: Vec::new(), nodes: 1, validate: &begins_as_a_module, resolve: &published };
    let error = super::load(Path::new("/nowhere/job.toml"), &options).unwrap_err();
    assert_eq!(error.to_string(), "`/nowhere/job.toml` does not exist");
}

#[test]
fn a_name_given_beside_the_file_takes_its_place_and_is_checked() {
    let named = |name: &str| {
        let options = LoadOptions {
            name: Some(name.to_owned()),
            set: Vec::new(),
            nodes: 1,
            validate: &begins_as_a_module,
            resolve: &published,
        };
        super::load(&folder("good/smallest.toml"), &options)
    };
    assert_eq!(named("other").unwrap().spec.name, "other");
    assert!(matches!(named("No!"), Err(JobFileError::Name(_))));
}

#[test]
fn a_published_module_is_named_by_its_hash_and_not_handed_over() {
    let text = "name = \"a\"\n[task.a]\nwasm = \"sh.example.loudify@1\"";
    let plan = read(text, Path::new("."), "job.toml").unwrap();
    assert_eq!(plan.spec.stages[0].wasm, Hash::of(b"loud"));
    assert!(plan.blobs.iter().all(|blob| blob.hash() != Hash::of(b"loud")));
}

#[test]
fn a_module_over_the_limit_is_refused_without_reading_it() {
    let base = tempfile::tempdir().unwrap();
    let file = fs::File::create(base.path().join("huge.wasm")).unwrap();
    file.set_len(super::MODULE_BYTES_MAX + 1).unwrap();
    let error = read("name = \"a\"\n[task.a]\nwasm = \"huge.wasm\"", base.path(), "job.toml").unwrap_err();
    assert!(error.to_string().starts_with("`huge.wasm` (task a) is over 128.0 MiB\n"), "{error}");
}

#[test]
fn a_job_file_over_the_limit_or_not_text_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let options =
        LoadOptions { name: None, set: Vec::new(), nodes: 1, validate: &begins_as_a_module, resolve: &published };
    let load = |bytes: &[u8]| {
        let path = base.path().join("job.toml");
        fs::write(&path, bytes).unwrap();
        super::load(&path, &options).unwrap_err()
    };
    assert!(matches!(load(&vec![b' '; super::JOB_FILE_BYTES_MAX + 1]), JobFileError::TooLarge(_)));
    assert!(matches!(load(b"name = \"\xff\""), JobFileError::NotText(_)));
}

/// Whatever stands in a file may be refused, but never ends the process.
#[test]
fn no_cut_or_bent_file_panics() {
    for (_, text) in files(&folder("good")) {
        for at in text.char_indices().map(|(at, _)| at) {
            let _ = read(&text[..at], &folder("good"), "cut.toml").map_err(|error| error.to_string());
            for other in ["\"", "{{", "\u{0}", "é", "]"] {
                let bent = format!("{}{other}{}", &text[..at], &text[at..]);
                let _ = read(&bent, &folder("good"), "bent.toml").map_err(|error| error.to_string());
            }
        }
    }
}

#[test]
fn deep_nesting_is_refused() {
    let deep = [
        format!("name = {}{}", "[".repeat(100_000), "]".repeat(100_000)),
        format!("name = {}1{}", "{a=".repeat(100_000), "}".repeat(100_000)),
        format!("a{} = 1", ".a".repeat(500_000)),
        format!("[a{}]", ".a".repeat(500_000)),
        format!("[[a{}]]", ".a".repeat(500_000)),
        (0..1000).map(|depth| format!("[a{}]\n", ".a".repeat(depth))).collect(),
    ];
    for text in deep {
        read(&text, Path::new("."), "deep.toml").unwrap_err();
    }
}
