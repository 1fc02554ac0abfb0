//! One case: a copy of a store, damaged, and a real node that is started on it.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use fastrand::Rng;

use super::harm::{self, Damage};
use super::originals::{Original, Originals, copy};
use super::served::{Served, served};
use super::work::Work;
use crate::cluster::{Cluster, ClusterError, Node, wait_until};

/// Of ten cases, how many have a healthy peer with the same data.
const PAIRS_OF_TEN: u32 = 4;
/// What a node alone may take for a job whose inputs it still has: half a second of work. A job that is not over then
/// cannot be finished there.
const ALONE_DEADLINE: Duration = Duration::from_secs(20);
/// What a node with a healthy peer may take until everything is right: a few rounds of anti-entropy and of fetching.
const REPAIR_DEADLINE: Duration = Duration::from_secs(90);
/// What is wrong, and nothing else: it is searched for what the node noticed.
const LOG: &str = "warn,libp2p_kad=error";
/// The exit code of a node whose data is damaged.
const REFUSED_CODE: i32 = 11;

/// What became of a damaged store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Everything is there and right, and nothing had to be said.
    Clean,
    /// Everything is there and right, after something was found damaged.
    Repaired,
    /// It runs; what is gone is told to whoever asks for it, and all the rest is right.
    Partly,
    /// It does not start, says why and what to do, and has the right exit code.
    Refused,
    /// Never: it runs and does not know of a job that was acknowledged.
    Forgot,
    /// Never: with a healthy peer at its side, not everything was right in the end.
    NotRepaired,
    /// Never: it ended and did not say clearly why.
    Unclear,
    /// Never: it panicked.
    Panicked,
    /// Never: it served bytes that are not those that were stored.
    Wrong,
    /// Never: it did not start, answer or end in time.
    Hung,
}

impl Outcome {
    pub(crate) const ALL: [Self; 10] = [
        Self::Clean,
        Self::Repaired,
        Self::Partly,
        Self::Refused,
        Self::Forgot,
        Self::NotRepaired,
        Self::Unclear,
        Self::Panicked,
        Self::Wrong,
        Self::Hung,
    ];

    /// Whether it breaks what is promised of damaged stores.
    pub(crate) const fn is_bad(self) -> bool {
        matches!(self, Self::Forgot | Self::NotRepaired | Self::Unclear | Self::Panicked | Self::Wrong | Self::Hung)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clean => "clean",
            Self::Repaired => "repaired",
            Self::Partly => "partly",
            Self::Refused => "refused",
            Self::Forgot => "FORGOT",
            Self::NotRepaired => "NOT REPAIRED",
            Self::Unclear => "UNCLEAR",
            Self::Panicked => "PANICKED",
            Self::Wrong => "WRONG BYTES",
            Self::Hung => "HUNG",
        })
    }
}

/// One case and its end.
#[derive(Debug)]
pub(crate) struct Verdict {
    /// Its number.
    pub(crate) case: u64,
    /// Whether a healthy peer was there.
    pub(crate) pair: bool,
    /// Whether the nodes had been stopped, not killed.
    pub(crate) stopped: bool,
    pub(crate) damage: Damage,
    pub(crate) outcome: Outcome,
    /// What made it so, for people.
    pub(crate) why: String,
}

/// Plays the case of this number: everything in it follows from the number and the seed.
pub(crate) fn play(
    program: &Path,
    originals: &Originals,
    seed: u64,
    case: u64,
    keep: bool,
) -> Result<Verdict, ClusterError> {
    let mut random = Rng::with_seed(seed ^ case.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let pair = random.u32(..10) < PAIRS_OF_TEN;
    let original = &if pair { &originals.pairs } else { &originals.alone }[random.usize(..2)];
    let mut cluster = Cluster::empty(program, 1)?;
    for dir in &original.dirs {
        let node = cluster.add();
        copy(dir, &node.dir()).map_err(ClusterError::io("copy", dir))?;
        // Nodes of other cases have the same keys; they must not find each other.
        node.set_variable("SWARM_SWARM", format!("damage-{}-{case}", std::process::id()));
        node.set_variable("SWARM_LOG", LOG);
    }
    let damaged = cluster.node(0).dir();
    let damage = harm::damage(&damaged, &mut random).map_err(ClusterError::io("damage", &damaged))?;
    let (outcome, why) = match run(&mut cluster, original) {
        Ok(found) => found,
        Err(error) => ended(&mut cluster, error),
    };
    let (outcome, why) =
        if cluster.panics() > 0 { (Outcome::Panicked, cluster.node(0).said()) } else { (outcome, why) };
    if keep {
        eprintln!("the stores are in {}", cluster.keep().display());
    }
    Ok(Verdict { case, pair, stopped: original.stopped, damage, outcome, why })
}

fn run(cluster: &mut Cluster, original: &Original) -> Result<(Outcome, String), ClusterError> {
    if cluster.nodes().len() > 1 {
        cluster.node_mut(1).start()?;
        let address = cluster.node(1).address().to_owned();
        cluster.node_mut(0).set_bootstrap(vec![address]);
    }
    cluster.node_mut(0).start()?;
    let (outcome, why) = match cluster.nodes().len() {
        1 => alone(cluster.node(0), original)?,
        _ => beside_a_peer(cluster.node_mut(0), original)?,
    };
    cluster.check_alive()?;
    let noticed = cluster.node(0).said().contains("damaged");
    Ok(if outcome == Outcome::Clean && noticed { (Outcome::Repaired, cluster.node(0).said()) } else { (outcome, why) })
}

/// What became of a node that could not go on.
fn ended(cluster: &mut Cluster, error: ClusterError) -> (Outcome, String) {
    let error = match cluster.check_alive() {
        Err(ended) => ended,
        Ok(()) => error,
    };
    match error {
        ClusterError::Ended { node: 0, code, said, .. } => match unclear(&said, code, &cluster.node(0).dir()) {
            None => (Outcome::Refused, said),
            Some(what) => (Outcome::Unclear, format!("{what}: {said}")),
        },
        ended @ ClusterError::Ended { .. } => (Outcome::Unclear, ended.to_string()),
        other => (Outcome::Hung, other.to_string()),
    }
}

/// What is wrong with how a node refused; nothing when it named the directory and what to do, once, with the right code.
fn unclear(said: &str, code: Option<i32>, dir: &Path) -> Option<&'static str> {
    let errors: Vec<_> = said.lines().skip_while(|line| !line.starts_with("error: ")).collect();
    match errors[..] {
        _ if code != Some(REFUSED_CODE) => Some("not the exit code for damage"),
        [error, _hint] if error.contains(&dir.display().to_string()) => None,
        [_, _] => Some("the directory is not named"),
        _ => Some("not one error and one hint"),
    }
}

fn alone(node: &Node, original: &Original) -> Result<(Outcome, String), ClusterError> {
    let mut worst = (Outcome::Clean, String::new());
    for (id, work) in &original.jobs {
        let found = job_alone(node, id, work)?;
        if found.0 > worst.0 {
            worst = found;
        }
    }
    Ok(worst)
}

fn job_alone(node: &Node, id: &str, work: &Work) -> Result<(Outcome, String), ClusterError> {
    let look = || match node.show(id) {
        Ok(job) => Ok(job.is_over().then_some(Some(job))),
        Err(ClusterError::Command { code: Some(5), .. }) => Ok(Some(None)),
        Err(error) => Err(error),
    };
    let job = match wait_until(&format!("the end of {id}"), ALONE_DEADLINE, look) {
        Ok(Some(job)) => job,
        Ok(None) => return Ok((Outcome::Forgot, format!("{id} is unknown"))),
        // It answers, so it does not hang: what the job needs is gone.
        Err(ClusterError::Deadline { .. }) => {
            return node.status().map(|_| (Outcome::Partly, format!("{id} cannot be finished")));
        }
        Err(error) => return Err(error),
    };
    if job.state != "done" {
        return Ok((Outcome::Partly, format!("{id} is {}", job.state)));
    }
    Ok(match served(node, id, work)? {
        Served::Right => (Outcome::Clean, String::new()),
        Served::Refused(why) => (Outcome::Partly, why),
        Served::Wrong(why) => (Outcome::Wrong, why),
    })
}

fn beside_a_peer(node: &mut Node, original: &Original) -> Result<(Outcome, String), ClusterError> {
    for (id, work) in &original.jobs {
        let right = wait_until(&format!("{id} as it must be"), REPAIR_DEADLINE, || {
            node.check_alive()?;
            let job = node.show(id)?;
            if !job.is_over() {
                return Ok(None);
            }
            match served(node, id, work)? {
                Served::Right if job.state == "done" => Ok(Some(None)),
                Served::Wrong(why) => Ok(Some(Some(why))),
                Served::Right | Served::Refused(_) => Ok(None),
            }
        });
        match right {
            Ok(None) => {}
            Ok(Some(wrong)) => return Ok((Outcome::Wrong, wrong)),
            Err(late @ ClusterError::Deadline { .. }) => return Ok((Outcome::NotRepaired, late.to_string())),
            Err(error) => return Err(error),
        }
    }
    Ok((Outcome::Clean, String::new()))
}
