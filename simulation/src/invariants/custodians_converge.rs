//! Once faults are over, all custodians of a shard come to know the same of it.

use super::Invariant;
use crate::history::{Fact, History};

pub(super) struct Judge;

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "custodians_converge"
    }

    fn judge(&mut self, _: &History, fact: &Fact<'_>) -> Result<(), String> {
        let Fact::Kept { shard, copies } = fact else { return Ok(()) };
        let Some((first, digest)) = copies.first() else { return Err(format!("nobody keeps shard {shard:?}")) };
        match copies.iter().find(|(_, other)| other != digest) {
            Some((second, other)) => {
                Err(format!("of shard {shard:?}, {first:?} has {digest:?} and {second:?} has {other:?}"))
            }
            None => Ok(()),
        }
    }
}
