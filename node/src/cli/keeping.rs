//! `swarm blob ls`, `pin`, `unpin` and `gc`: what stays on the node's disk.

use std::time::Duration;

use super::args::{self, Global};
use super::output::{self, Format, age, ago, bytes, json, print};
use crate::api::view::BlobItem;
use crate::api::{Client, Failure};

/// Hexadecimal digits of a name in a table.
const HASH_DIGITS: usize = 16;

/// The part of `swarm blob` that is about keeping.
pub(super) async fn keep(client: &Client, global: &Global, args: &args::Blob) -> Result<(), Failure> {
    match args {
        args::Blob::Ls => output::list(global.output, &client.kept().await?),
        args::Blob::Pin(args::Hashes { hashes }) => {
            for hash in hashes {
                client.pin(*hash).await?;
            }
            Ok(())
        }
        args::Blob::Unpin(args::Hashes { hashes }) => {
            for hash in hashes {
                client.unpin(*hash).await?;
            }
            Ok(())
        }
        args::Blob::Gc { grace } => collect(client, global, *grace).await,
        // The others are `blob`'s.
        _ => Ok(()),
    }
}

async fn collect(client: &Client, global: &Global, grace: Option<Duration>) -> Result<(), Failure> {
    let collected = client.collect(grace).await?;
    match global.output {
        Format::Json | Format::Jsonl => print(&json(&collected)?),
        Format::Id => Ok(()),
        Format::Table => {
            let (removed, freed) = (collected.removed, bytes(collected.removed_bytes));
            print(&format!("{removed} blobs removed, {freed}; {} stay\n", collected.kept))
        }
    }
}

impl output::Row for BlobItem {
    const HEADER: &'static [&'static str] = &["BLOB", "SIZE", "KEPT FOR", "AGE"];

    fn cells(&self) -> Vec<String> {
        let why = match (self.pinned, self.used) {
            (true, true) => "pin, use",
            (true, false) => "pin",
            (false, true) => "use",
            (false, false) => "",
        };
        let hash = &self.hash[..self.hash.len().min(HASH_DIGITS)];
        vec![hash.into(), bytes(self.len_bytes), why.into(), age(&self.claimed).map(ago).unwrap_or_default()]
    }

    fn id(&self) -> String {
        self.hash.clone()
    }
}
