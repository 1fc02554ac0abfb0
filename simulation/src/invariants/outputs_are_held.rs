//! The blobs of finished tasks are still there: at least one node holds each.

use super::Invariant;
use crate::history::{Fact, History};

pub(super) struct Judge;

impl Invariant for Judge {
    fn name(&self) -> &'static str {
        "outputs_are_held"
    }

    fn judge(&mut self, _: &History, fact: &Fact<'_>) -> Result<(), String> {
        match fact {
            Fact::Held { blob, holders: 0 } => Err(format!("nobody holds {blob}, which a finished task left")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use swarm_protocol::Hash;

    use super::super::tale::Tale;
    use super::*;

    #[test]
    fn a_blob_that_nobody_holds_is_judged() {
        let held = |holders| Tale::of(Judge).fact(&Fact::Held { blob: Hash::of(b"result"), holders });
        held(1).passes();
        held(0).breaks("nobody holds");
    }
}
