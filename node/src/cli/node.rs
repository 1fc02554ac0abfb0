//! Which node a command talks to: the one of a data directory, or an embedded swarm of one that lives as long as the
//! command.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use tempfile::TempDir;

use super::args::Global;
use crate::api::{Client, Code, Failure};
use crate::runtime::{Runtime, RuntimeOptions};

/// Name of the default data directory, in the user's own data directory.
const DATA_NAME: &str = "swarm";

/// The data directory that the settings name.
pub(super) fn data_dir(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(dir) = &global.node {
        return Ok(dir.clone());
    }
    let hint = "swarm --node DIR …";
    let base = etcetera::choose_base_strategy()
        .map_err(|error| Failure::caused(Code::Usage, "there is no default data directory", &error).hint(hint))?;
    Ok(base.data_dir().join(DATA_NAME))
}

/// A node to talk to.
pub(super) struct Node {
    client: Client,
    embedded: Option<Embedded>,
}

/// A swarm of one. Its directory goes with it.
struct Embedded {
    runtime: Runtime,
    dir: TempDir,
}

impl Node {
    /// The node that the settings name, or an embedded one.
    pub(super) async fn open(global: &Global, local: bool) -> Result<Self, Failure> {
        if !local {
            return Ok(Self { client: Client::new(&data_dir(global)?), embedded: None });
        }
        let embedded = Embedded::start().await?;
        Ok(Self { client: Client::new(embedded.dir.path()), embedded: Some(embedded) })
    }

    /// The way to it.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Whether it ends with this command.
    pub(super) const fn is_embedded(&self) -> bool {
        self.embedded.is_some()
    }

    /// Stops it if it is embedded, and removes what it kept.
    pub(super) async fn close(self) {
        let Some(Embedded { runtime, dir }) = self.embedded else { return };
        drop(self.client);
        runtime.shutdown().await;
        remove(dir.path());
    }
}

fn remove(dir: &Path) {
    if let Err(error) = std::fs::remove_dir_all(dir) {
        tracing::warn!(%error, "the embedded node's directory `{}` is left behind", dir.display());
    }
}

impl Embedded {
    async fn start() -> Result<Self, Failure> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::caused(Code::Failed, "the embedded node cannot be started", error)
        };
        let dir = tempfile::Builder::new().prefix("swarm-").tempdir().map_err(|error| failed(&error))?;
        let runtime = Runtime::start(RuntimeOptions::embedded(dir.path())).await.map_err(|error| failed(&error))?;
        Ok(Self { runtime, dir })
    }
}
