//! Faults by plan: what an operator does, and what happens to a machine room.

use std::time::Duration;

use super::chaos::REPAIR;
use super::node::STOP_DEADLINE;
use super::stage::Stage;
use super::{ClusterError, DEADLINE};

/// Load before the first fault, so that there is something to lose.
const WARM_UP: Duration = Duration::from_secs(10);

/// Restarts all nodes one after the other, each when the last is back and seen by all; the whole `rounds` times.
pub(super) fn rolling(stage: &mut Stage, rounds: usize) -> Result<(), ClusterError> {
    stage.pump(WARM_UP, |_| false)?;
    for round in 1..=rounds {
        for node in 0..stage.cluster.nodes().len() {
            stage.restart(node)?;
            wait_whole(stage, &format!("that all see node {node} again after its restart {round}"))?;
        }
    }
    Ok(())
}

/// Loses nodes for good, disks included, one after the other, with time to repair before each and after the last.
pub(super) fn lose(stage: &mut Stage, count: usize, random: &mut fastrand::Rng) -> Result<(), ClusterError> {
    stage.pump(WARM_UP, |_| false)?;
    for _ in 0..count {
        let Some(node) = random.choice(stage.up()) else { return Ok(()) };
        stage.lose(node)?;
        stage.pump(REPAIR, |_| false)?;
        wait_whole(stage, "that the others see each other")?;
    }
    Ok(())
}

/// Cuts two fifths of the nodes off from the others for `lasts`. Clients reach both sides.
pub(super) fn split(stage: &mut Stage, lasts: Duration, random: &mut fastrand::Rng) -> Result<(), ClusterError> {
    stage.pump(WARM_UP, |_| false)?;
    let mut side = stage.up();
    random.shuffle(&mut side);
    side.truncate((side.len() * 2 / 5).max(1));
    stage.cut(side, lasts)?;
    stage.pump(lasts + DEADLINE, |stage| !stage.is_cut()).map(drop)
}

fn wait_whole(stage: &mut Stage, what: &str) -> Result<(), ClusterError> {
    let within = STOP_DEADLINE + DEADLINE * 2;
    match stage.pump(within, |stage| stage.is_whole())? {
        true => Ok(()),
        false => Err(ClusterError::Deadline { what: what.into(), waited: within, last: "not yet".into() }),
    }
}
