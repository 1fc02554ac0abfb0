//! What can go wrong for a user, in one place: a [`Code`] is an exit code of the command and a status of the API.
//!
//! Always true: every error that leaves a node or the command has a code, one sentence, and what to do next when there
//! is something to do.

use std::fmt;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// The class of a failure. Its number is the exit code of the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// Failed, unclassified.
    Failed,
    /// The command or the request makes no sense.
    Usage,
    /// The job finished unsuccessfully.
    JobFailed,
    /// Not allowed.
    NotAllowed,
    /// There is no such thing.
    NotFound,
    /// The node does not answer.
    Unreachable,
    /// Waited long enough; the job still runs.
    TimedOut,
    /// No node can ever run it.
    NeverRunnable,
    /// The job file, module or configuration is invalid.
    Invalid,
    /// A hash or a signature is not what it must be.
    Integrity,
    /// The user stopped waiting; the job still runs.
    Detached,
    /// A bug of ours.
    Bug,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 12] = [
        Self::Failed,
        Self::Usage,
        Self::JobFailed,
        Self::NotAllowed,
        Self::NotFound,
        Self::Unreachable,
        Self::TimedOut,
        Self::NeverRunnable,
        Self::Invalid,
        Self::Integrity,
        Self::Detached,
        Self::Bug,
    ];

    /// The exit code of the command. 130 is the shell's own for Ctrl-C; the others are the command's contract.
    pub const fn exit(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::JobFailed => 3,
            Self::NotAllowed => 4,
            Self::NotFound => 5,
            Self::Unreachable => 6,
            Self::TimedOut => 7,
            Self::NeverRunnable => 9,
            Self::Invalid => 10,
            Self::Integrity => 11,
            Self::Bug => 70,
            Self::Detached => 130,
        }
    }

    /// The status of an API response.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Failed | Self::Bug | Self::Integrity => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Usage => StatusCode::BAD_REQUEST,
            Self::NotAllowed => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Unreachable => StatusCode::SERVICE_UNAVAILABLE,
            Self::TimedOut | Self::Detached => StatusCode::GATEWAY_TIMEOUT,
            Self::JobFailed | Self::NeverRunnable => StatusCode::CONFLICT,
            Self::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

/// An error as a user meets it, and as the API sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its class.
    pub code: Code,
    /// What failed, the root cause first.
    pub message: String,
    /// What to type or do next; may be empty.
    #[serde(default)]
    pub hint: String,
}

impl Failure {
    /// A failure without a hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new() }
    }

    /// A failure that carries the causes of `error`, joined in one line, deepest last.
    pub fn caused(code: Code, what: &str, error: &(dyn std::error::Error + 'static)) -> Self {
        Self::new(code, format!("{what}: {}", causes(error)))
    }

    /// The same, and what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

/// The error and its sources in one line.
pub fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        // Some libraries repeat their source in their own text.
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n{}", self.hint) }
    }
}

impl std::error::Error for Failure {}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self).unwrap_or_default();
        (self.code.status(), [(header::CONTENT_TYPE, "application/json")], body).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_the_contract_and_each_is_used_once() {
        let mut exits: Vec<u8> = Code::ALL.iter().map(|code| code.exit()).collect();
        exits.sort_unstable();
        assert_eq!(exits, [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 70, 130]);
    }

    #[test]
    fn a_failure_survives_the_wire() {
        let failure = Failure::new(Code::NotFound, "no job `x`").hint("swarm ls");
        let bytes = serde_json::to_vec(&failure).unwrap();
        assert_eq!(serde_json::from_slice::<Failure>(&bytes).unwrap(), failure);
        assert_eq!(failure.to_string(), "no job `x`\nswarm ls");
    }
}
