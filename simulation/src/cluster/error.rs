//! Why a cluster could not play its part. That the swarm lost something is no error but a bad report.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a cluster could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no program to run.
    #[error("no `swarm` program beside this one or in PATH; build it, or name it with --swarm-bin")]
    NoProgram,
    /// The options contradict each other.
    #[error("{0}")]
    Options(String),
    /// A file or directory of the cluster.
    #[error("{step} `{path}`")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To which.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// A node ended that should live, or not as it should.
    #[error("node {node} ended ({status}); it last said:\n{said}")]
    Ended {
        /// Which.
        node: usize,
        /// How.
        status: String,
        /// Its exit code; `None` when a signal ended it.
        code: Option<i32>,
        /// The last lines of its standard error.
        said: String,
    },
    /// The first lines of `swarm start` are not as agreed.
    #[error("node {node} greeted with {what}: `{greeting}`")]
    Greeting {
        /// Which.
        node: usize,
        /// What is wrong.
        what: &'static str,
        /// What it said.
        greeting: String,
    },
    /// A command failed.
    #[error("`{command}` failed with exit code {code:?}: {stderr}")]
    Command {
        /// As it could be typed.
        command: String,
        /// `None` when it was killed.
        code: Option<i32>,
        /// What it said.
        stderr: String,
    },
    /// A node's socket gave no whole answer.
    #[error("{asked} was not answered")]
    Unanswered {
        /// What of whom.
        asked: String,
        /// Why.
        source: io::Error,
    },
    /// A node's socket answered with an error.
    #[error("{asked} was answered with {status}: {said}")]
    Refused {
        /// What of whom.
        asked: String,
        /// The HTTP status.
        status: u16,
        /// What it said.
        said: String,
    },
    /// The store of a node that does not run.
    #[error("the records of node {node} cannot be read: {why}")]
    Records {
        /// Which.
        node: usize,
        /// Why.
        why: String,
    },
    /// A command of the system that makes or cuts networks.
    #[error("`{command}` failed: {said}")]
    Network {
        /// As it could be typed.
        command: String,
        /// What it said.
        said: String,
    },
    /// A command's JSON is not as agreed.
    #[error("`{command}` answered what cannot be read: `{answer}`")]
    Answer {
        /// As it could be typed.
        command: String,
        /// What it said.
        answer: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Something did not happen in time.
    #[error("{what} did not happen within {} s; last: {last}", waited.as_secs_f32())]
    Deadline {
        /// What.
        what: String,
        /// How long it had.
        waited: Duration,
        /// How it was at the last look.
        last: String,
    },
    /// A node did what it must not.
    #[error("{0}")]
    Unexpected(String),
    /// Ctrl-C or SIGTERM.
    #[error("interrupted")]
    Interrupted,
}

impl ClusterError {
    /// Names the step and the file of an I/O error.
    pub(crate) fn io(step: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { step, path, source }
    }
}
