//! `swarm blob`: content-addressed bytes, by hand.
//!
//! Always true: bytes pass through and are never held as a whole; what is printed as a name was computed here and by the
//! node, and both agreed; a file has its name only when all its bytes were checked.

use std::fs;
use std::io::IsTerminal;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use futures::StreamExt;
use swarm_protocol::Hash;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio_util::io::ReaderStream;

use super::args::{self, Global};
use super::keeping;
use super::output::{Format, Row, list, print};
use crate::api::view::{self, List, Stored};
use crate::api::{Client, Code, Failure};

/// Files are read in pieces of this size: few system calls, little memory.
const PIECE_BYTES: usize = 256 << 10;
/// Results are as any other file of the user's; the process's mask is taken off it.
const USUAL_MODE: u32 = 0o666;

/// `swarm blob`.
pub(super) async fn blob(client: &Client, global: &Global, args: &args::Blob) -> Result<(), Failure> {
    match args {
        args::Blob::Put { files } => put_all(client, global, files).await,
        args::Blob::Get { hash, dest: Some(dest), force } => get(client, *hash, dest, *force).await,
        args::Blob::Get { hash, dest: None, .. } => show(client, *hash).await,
        args::Blob::Stat(args::Hashes { hashes }) => stat(client, global, hashes).await,
        args::Blob::Verify(args::Hashes { hashes }) => verify(client, global, hashes).await,
        args::Blob::Ls | args::Blob::Pin(_) | args::Blob::Unpin(_) | args::Blob::Gc { .. } => {
            keeping::keep(client, global, args).await
        }
    }
}

async fn put_all(client: &Client, global: &Global, files: &[std::path::PathBuf]) -> Result<(), Failure> {
    let for_programs = matches!(global.output, Format::Json | Format::Jsonl);
    let mut all = Vec::with_capacity(files.len());
    for file in files {
        let stored = if file.as_os_str() == "-" {
            put(client, tokio::io::stdin()).await?
        } else if file.is_dir() {
            let message = format!("`{}` is a directory; only files can be stored", file.display());
            return Err(Failure::new(Code::Usage, message).hint(format!("swarm blob put {}/*", file.display())));
        } else {
            let open = tokio::fs::File::open(file).await;
            put(client, open.map_err(|error| unusable("cannot be read", file, &error))?).await?
        };
        match for_programs {
            true => all.push(stored),
            // Said as it is done.
            false => print(&format!("{}\n", stored.id()))?,
        }
    }
    if for_programs { list(global.output, &List::new(view::STORED, all)) } else { Ok(()) }
}

/// Hands over what is read, and compares the node's name for it with our own.
async fn put(client: &Client, from: impl AsyncRead + Send + 'static) -> Result<Stored, Failure> {
    let hasher = Arc::new(Mutex::new(blake3::Hasher::new()));
    let seen = Arc::clone(&hasher);
    let pieces = ReaderStream::with_capacity(from, PIECE_BYTES).inspect(move |piece| {
        if let Ok(piece) = piece {
            seen.lock().unwrap_or_else(PoisonError::into_inner).update(piece);
        }
    });
    let stored = client.put_nameless(Body::from_stream(pieces)).await?;
    let hash = hasher.lock().unwrap_or_else(PoisonError::into_inner).finalize().to_hex().to_string();
    if stored.hash == hash {
        return Ok(stored);
    }
    let message = format!("the node stored blake3:{}, but the bytes are blake3:{hash}", stored.hash);
    Err(Failure::new(Code::Integrity, message).hint("try again"))
}

async fn get(client: &Client, hash: Hash, dest: &Path, force: bool) -> Result<(), Failure> {
    if dest.is_dir() {
        let message = format!("`{}` is a directory, where a file is to be written", dest.display());
        let hint = format!("swarm blob get {hash} {}", dest.join("NAME").display());
        return Err(Failure::new(Code::Usage, message).hint(hint));
    }
    if !force && dest.exists() {
        let message = format!("`{}` is there already", dest.display());
        return Err(Failure::new(Code::Usage, message).hint("choose another name, or add --force"));
    }
    let unwritable = |error: &std::io::Error| unusable("cannot be written", dest, error);
    // It gets its name when it is whole.
    let parent = dest.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.exists() {
        let message = format!("the directory `{}` does not exist", parent.display());
        return Err(Failure::new(Code::Usage, message).hint(format!("mkdir -p {}", parent.display())));
    }
    let usual = fs::Permissions::from_mode(USUAL_MODE);
    let temp = tempfile::Builder::new().prefix(".swarm-").permissions(usual).tempfile_in(parent);
    // Its own text names a file that nobody asked for.
    let temp = temp.map_err(|error| unwritable(&error.kind().into()))?;
    let mut file = tokio::fs::File::from_std(temp.reopen().map_err(|error| unwritable(&error))?);
    client.blob(hash, &[]).await?.write_to(&mut file).await?;
    file.flush().await.map_err(|error| unwritable(&error))?;
    let named = if force { temp.persist(dest) } else { temp.persist_noclobber(dest) };
    named.map(drop).map_err(|error| unwritable(&error.error))
}

async fn show(client: &Client, hash: Hash) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        let message = "a blob may be anything, and this is a terminal";
        return Err(Failure::new(Code::Usage, message).hint(format!("swarm blob get {hash} FILE")));
    }
    let mut out = tokio::io::stdout();
    client.blob(hash, &[]).await?.write_to(&mut out).await?;
    out.flush().await.map_err(|error| Failure::caused(Code::Failed, "cannot write", &error))
}

async fn stat(client: &Client, global: &Global, hashes: &[Hash]) -> Result<(), Failure> {
    let mut items = Vec::with_capacity(hashes.len());
    for hash in hashes {
        items.push(client.stat_blob(*hash).await?);
    }
    list(global.output, &List::new(view::BLOB, items))
}

/// All are checked; the first that failed is told at the end.
async fn verify(client: &Client, global: &Global, hashes: &[Hash]) -> Result<(), Failure> {
    let (mut first, mut all) = (None, Vec::new());
    for hash in hashes {
        match client.verify_blob(*hash).await {
            Ok(stored) if global.output == Format::Table => {
                print(&format!("{} {} bytes, verified\n", stored.id(), stored.len_bytes))?;
            }
            Ok(stored) => all.push(stored),
            Err(failure) => _ = first.get_or_insert(failure),
        }
    }
    if global.output != Format::Table {
        list(global.output, &List::new(view::VERIFIED, all))?;
    }
    first.map_or(Ok(()), Err)
}

fn unusable(what: &str, file: &Path, error: &std::io::Error) -> Failure {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failure = Failure::caused(Code::Failed, &format!("`{}` {what}", file.display()), error);
    failure.hint(format!("ls -la {}", folder.display()))
}
