//! Why something could not be measured.

use std::io;
use std::path::PathBuf;

use swarm_executor::{BareError, EngineError};

use crate::cluster::ClusterError;

/// Why something could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A node, or a question to one.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The bare engine.
    #[error("set up the bare engine")]
    Engine(#[from] EngineError),
    /// A guest in the bare engine.
    #[error(transparent)]
    Guest(#[from] BareError),
    /// A file of the benchmark's own, or a process that it started.
    #[error("{step} `{path}`")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The bare stream between two nodes.
    #[error("{step} of the bare stream: {reason}")]
    Stream {
        /// What was being done.
        step: &'static str,
        /// Why not, in libp2p's words.
        reason: String,
    },
    /// A process of the benchmark's own said something else than was agreed.
    #[error("a process for measuring said `{0}`")]
    Said(String),
    /// A job did not succeed, so that its time means nothing.
    #[error("the job {job} ended as {state}")]
    NotDone {
        /// Its id.
        job: String,
        /// How it ended.
        state: String,
    },
    /// It never came to what was to be measured.
    #[error("{0}")]
    Nothing(String),
}

impl BenchError {
    /// Names the step and the file of an I/O error.
    pub(super) fn io(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { step, path, source }
    }

    /// The error with its causes, on one line.
    pub(super) fn causes(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |error| (*error).source());
        causes.fold(self.to_string(), |text, cause| format!("{text}: {cause}"))
    }
}
