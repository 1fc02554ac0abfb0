//! `swarm doctor`: what keeps a node from working well here, and what to type about it.
//!
//! Always true: it looks and measures; only with `--fix` it changes something, only what cannot lose anything, and while it
//! does no node can begin in the data directory. A check that finds something says what to type next.
//!
//! The checks: `disk` of the data directory and what is in it, `machine` of what the system allows, `swarm` of the node and
//! of what it sees of the others.

mod disk;
mod machine;
mod swarm;

use schemars::JsonSchema;
use serde::Serialize;

use super::args::{self, Global};
use super::output::{Row, list, shown};
use super::start::options;
use crate::api::view::List;
use crate::api::{Client, Code, Failure};

/// Schema of a list of [`Check`].
pub(super) const CHECKS: &str = "swarm.checks/1";

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Nothing was found.
    Ok,
    /// Something was found and repaired.
    Fixed,
    /// It works, and could be better, or will not work for long.
    Warning,
    /// It does not work.
    Problem,
}

impl State {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fixed => "fixed",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct Check {
    /// What was looked at.
    check: &'static str,
    state: State,
    /// What was found.
    found: String,
    /// What to type about it; empty when it is well.
    next: String,
}

impl Check {
    fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, state: State::Ok, found: found.into(), next: String::new() }
    }

    fn fixed(check: &'static str, found: impl Into<String>) -> Self {
        Self { state: State::Fixed, ..Self::ok(check, found) }
    }

    fn warning(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, state: State::Warning, found: found.into(), next: next.into() }
    }

    fn problem(check: &'static str, found: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, state: State::Problem, found: found.into(), next: next.into() }
    }
}

impl Row for Check {
    const HEADER: &'static [&'static str] = &["CHECK", "STATE", "FOUND", "NEXT"];

    fn cells(&self) -> Vec<String> {
        vec![self.check.into(), self.state.word().into(), shown(&self.found), shown(&self.next)]
    }

    fn id(&self) -> String {
        self.check.into()
    }
}

/// `swarm doctor`.
pub(super) async fn doctor(global: &Global, args: args::Doctor) -> Result<(), Failure> {
    let options = options(global, args.start)?;
    let (mut checks, holder) = disk::checks(&options, args.fix);
    checks.extend(machine::checks(&options));
    checks.extend(swarm::checks(&Client::new(&options.data), &options, &holder).await);
    let problems = checks.iter().filter(|check| check.state == State::Problem);
    let ended = match problems.clone().count() {
        0 => Ok(()),
        count => {
            let next = problems.clone().map(|check| check.next.clone()).next().unwrap_or_default();
            let what = if count == 1 { "check" } else { "checks" };
            Err(Failure::new(Code::Failed, format!("{count} {what} found what needs mending")).hint(next))
        }
    };
    list(global.output, &List::new(CHECKS, checks))?;
    ended
}
