//! Crash points: real nodes that die before and after every durable write, and what is left of what they acknowledged.
//!
//! One round: a swarm of one to three nodes with a finished job; one of them is started again so that it dies at a point of
//! [`CrashPoint`], and is handed jobs until it does; it is started once more, and every job that was acknowledged must be
//! known to every node, finish, and have exactly the right bytes.
//!
//! Always true: each point is reached in each round, or the round fails.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use fastrand::Rng;
use swarm_store::{CRASH_POINT_VARIABLE, CrashPoint};
use tempfile::TempDir;

use crate::cluster::{Cluster, ClusterError, DEADLINE, Node, find_swarm, wait_until, watch_interrupts};
use crate::damage::parallel::play_all;
use crate::damage::{Served, Shape, Work, files, served};

/// What is handed over, again and again: small, with blobs of every kind.
const SHAPE: Shape = Shape { name: "before", tasks: 4, rounds: 10_000, sign: '\n', blobs: true };
/// Passings of a point until the process dies at it: enough to meet each of the different writes of a job.
const PASSINGS_MAX: u64 = 12;
/// Jobs handed to a node that is to die. Each passes each point of a write at least once.
const JOBS_MAX: usize = 40;
/// Until all that was acknowledged is right everywhere: a few rounds of anti-entropy.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(120);

/// Lets real nodes die round every durable write, and checks that nothing acknowledged is lost.
#[derive(Clone, Debug, Args)]
pub struct CrashOptions {
    /// Rounds for each point
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub rounds: u64,
    /// Decides how many nodes there are and when they die [default: random, and printed]
    #[arg(long, value_name = "X")]
    pub seed: Option<u64>,
    /// Rounds at once; much of the time goes by waiting
    #[arg(long, value_name = "T", default_value_t = 4)]
    pub threads: usize,
    /// Play the round of this number alone, and keep its directories
    #[arg(long, value_name = "NUMBER")]
    pub only: Option<u64>,
    /// The `swarm` program [default: the one beside this program, else the one in PATH]
    #[arg(long, value_name = "PATH")]
    pub swarm_bin: Option<PathBuf>,
}

/// What came of all rounds.
#[derive(Debug)]
pub struct CrashReport {
    seed: u64,
    points: BTreeMap<CrashPoint, Tally>,
    /// What went wrong, with the command that repeats it.
    bad: Vec<String>,
}

#[derive(Debug, Default)]
struct Tally {
    rounds: u64,
    jobs: u64,
}

/// A round that ended as it must.
#[derive(Debug)]
struct Round {
    /// Jobs that were acknowledged, and are right.
    jobs: u64,
}

/// Plays the rounds. What came of them is in the report; an error means that they could not be played.
pub fn run(options: &CrashOptions) -> Result<CrashReport, ClusterError> {
    watch_interrupts();
    let program = find_swarm(options.swarm_bin.as_deref())?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("seed {seed}");
    let all = 0..options.rounds * CrashPoint::ALL.len() as u64;
    let numbers = options.only.map_or(all, |only| only..only + 1);
    let mut report = CrashReport { seed, points: BTreeMap::new(), bad: Vec::new() };
    let keep = options.only.is_some();
    let play = |number| match play(&program, seed, number, keep) {
        Err(interrupted @ ClusterError::Interrupted) => Err(interrupted),
        result => Ok((number, result)),
    };
    play_all(numbers, options.threads, play, |(number, result)| report.add(number, result))?;
    Ok(report)
}

fn point_of(number: u64) -> CrashPoint {
    CrashPoint::ALL[(number % CrashPoint::ALL.len() as u64) as usize]
}

fn play(program: &Path, seed: u64, number: u64, keep: bool) -> Result<Round, ClusterError> {
    let mut stage = Stage::set(program, seed, number)?;
    let played = stage.play();
    if keep {
        eprintln!("the nodes' directories are in {}", stage.cluster.keep().display());
    }
    played
}

/// One round's nodes and jobs.
struct Stage {
    cluster: Cluster,
    files: TempDir,
    random: Rng,
    point: CrashPoint,
    victim: usize,
    /// Every job that was acknowledged, and what it must leave behind.
    acknowledged: Vec<(String, Work)>,
    works: u64,
}

impl Stage {
    fn set(program: &Path, seed: u64, number: u64) -> Result<Self, ClusterError> {
        let mut random = Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let mut cluster = Cluster::empty(program, 1)?;
        let point = point_of(number);
        // A blob that is damaged where it is alone cannot come back.
        let alone = !matches!(point, CrashPoint::DamagedFound | CrashPoint::DamagedAside);
        let nodes = random.usize(if alone { 1 } else { 2 }..=3);
        for _ in 0..nodes {
            cluster.add();
        }
        let files = tempfile::tempdir().map_err(ClusterError::io("create", std::env::temp_dir()))?;
        let victim = random.usize(..nodes);
        Ok(Self { cluster, files, random, point, victim, acknowledged: Vec::new(), works: 0 })
    }

    fn play(&mut self) -> Result<Round, ClusterError> {
        self.start_all()?;
        if self.is_of_a_first_start() {
            self.wipe()?;
        } else {
            self.finish_a_job()?;
            self.cluster.node_mut(self.victim).kill();
        }
        if matches!(self.point, CrashPoint::DamagedFound | CrashPoint::DamagedAside) {
            self.damage_blobs()?;
        }
        self.die()?;
        self.cluster.node_mut(self.victim).start()?;
        self.cluster.wait_members(self.cluster.nodes().len(), DEADLINE)?;
        self.finish_a_job()?;
        self.check()?;
        Ok(Round { jobs: self.acknowledged.len() as u64 })
    }

    fn start_all(&mut self) -> Result<(), ClusterError> {
        let nodes = self.cluster.nodes().len();
        self.cluster.node_mut(0).start()?;
        let first = self.cluster.node(0).address().to_owned();
        for number in 1..nodes {
            self.cluster.node_mut(number).set_bootstrap(vec![first.clone()]);
            self.cluster.node_mut(number).start()?;
        }
        if nodes > 1 {
            // So that the first one finds the others whatever it forgot.
            let second = self.cluster.node(1).address().to_owned();
            self.cluster.node_mut(0).set_bootstrap(vec![second]);
        }
        self.cluster.wait_members(nodes, DEADLINE)
    }

    /// Whether the point is passed only where there was nothing yet.
    fn is_of_a_first_start(&self) -> bool {
        use CrashPoint::{IdentityDurable, IdentityNamed, IdentityUnnamed, MarkNamed};
        [IdentityUnnamed, IdentityNamed, IdentityDurable, MarkNamed].contains(&self.point)
    }

    /// The victim dies and leaves nothing; what it submitted is kept by the others, if there are any.
    fn wipe(&mut self) -> Result<(), ClusterError> {
        if self.cluster.nodes().len() > 1 {
            self.finish_a_job()?;
        }
        let node = self.cluster.node_mut(self.victim);
        node.kill();
        fs::remove_dir_all(node.dir()).map_err(ClusterError::io("wipe", node.dir()))
    }

    /// Damages what the first task printed, wherever it is on the victim's disk.
    fn damage_blobs(&mut self) -> Result<(), ClusterError> {
        let blobs = self.cluster.node(self.victim).dir().join("blobs");
        let files = files(&blobs).map_err(ClusterError::io("list", &blobs))?;
        files.iter().try_for_each(|file| fs::write(file, "damaged").map_err(ClusterError::io("damage", file)))
    }

    /// Starts the victim so that it dies at the point, and hands it jobs until it has.
    fn die(&mut self) -> Result<(), ClusterError> {
        let passings = match self.point {
            _ if self.is_of_a_first_start() => 1,
            CrashPoint::StoreUnopened | CrashPoint::StoreOpened | CrashPoint::FormatStored => 1,
            CrashPoint::DamagedFound | CrashPoint::DamagedAside => 1,
            _ => self.random.u64(1..=PASSINGS_MAX),
        };
        let armed = format!("{}:{passings}", self.point.name());
        let node = self.cluster.node_mut(self.victim);
        node.set_variable(CRASH_POINT_VARIABLE, &armed);
        node.launch()?;
        let mut died = ended(node.wait_ready())?;
        for _ in 0..JOBS_MAX {
            if died {
                break;
            }
            self.hand_over()?;
            died = ended(self.cluster.node_mut(self.victim).check_alive())?;
        }
        let node = self.cluster.node_mut(self.victim);
        let what = format!("the death of node {} at {armed}", node.number());
        died = died || ended(wait_until::<()>(&what, DEADLINE, || node.check_alive().map(|()| None)))?;
        let said = node.said();
        if !died || !said.contains(&format!("crash point {}", self.point.name())) {
            return Err(ClusterError::Unexpected(format!(
                "node {} did not die at {armed} but said: {said}",
                node.number()
            )));
        }
        node.kill();
        node.set_variable(CRASH_POINT_VARIABLE, "");
        Ok(())
    }

    /// Submits a job to the victim, and asks for what was finished before; it may die meanwhile.
    fn hand_over(&mut self) -> Result<(), ClusterError> {
        let work = self.work()?;
        let node = self.cluster.node(self.victim);
        match node.submit(&work.job()) {
            Ok(id) => self.acknowledged.push((id, work)),
            Err(interrupted @ ClusterError::Interrupted) => return Err(interrupted),
            // It died before it acknowledged.
            Err(_) => return Ok(()),
        }
        if let Some((id, _)) = self.acknowledged.first() {
            node.cli(&["logs", id])?;
        }
        Ok(())
    }

    fn finish_a_job(&mut self) -> Result<(), ClusterError> {
        let work = self.work()?;
        let node = self.cluster.node(self.victim);
        let id = wait_until("a submit", DEADLINE, || node.submit(&work.job()).map(Some))?;
        right(node, &id, &work)?;
        self.acknowledged.push((id, work));
        Ok(())
    }

    fn work(&mut self) -> Result<Work, ClusterError> {
        self.works += 1;
        let dir = self.files.path().join(self.works.to_string());
        Work::write(&dir, SHAPE, self.random.u64(..)).map_err(ClusterError::io("write", dir))
    }

    /// Every node knows every job that was acknowledged, and has it right.
    fn check(&mut self) -> Result<(), ClusterError> {
        for node in self.cluster.nodes() {
            self.acknowledged.iter().try_for_each(|(id, work)| right(node, id, work))?;
        }
        self.cluster.check_alive()?;
        match self.cluster.panics() {
            0 => Ok(()),
            panics => Err(ClusterError::Unexpected(format!("{panics} panics"))),
        }
    }
}

/// Waits until a node has a job as it must be.
fn right(node: &Node, id: &str, work: &Work) -> Result<(), ClusterError> {
    let wrong = wait_until(&format!("{id} as it must be, at node {}", node.number()), RECOVERY_DEADLINE, || {
        let job = node.show(id)?;
        if !job.is_over() {
            return Ok(None);
        }
        match served(node, id, work)? {
            Served::Right if job.state == "done" => Ok(Some(None)),
            Served::Right => Ok(Some(Some(format!("{id} is {}", job.state)))),
            Served::Wrong(why) => Ok(Some(Some(why))),
            Served::Refused(_) => Ok(None),
        }
    })?;
    wrong.map_or(Ok(()), |why| Err(ClusterError::Unexpected(why)))
}

/// Whether this is the news that a node ended.
fn ended<T>(result: Result<T, ClusterError>) -> Result<bool, ClusterError> {
    match result {
        Ok(_) => Ok(false),
        Err(ClusterError::Ended { .. }) => Ok(true),
        Err(error) => Err(error),
    }
}

impl CrashReport {
    fn add(&mut self, number: u64, result: Result<Round, ClusterError>) {
        let point = point_of(number);
        let tally = self.points.entry(point).or_default();
        tally.rounds += 1;
        match result {
            Ok(round) => {
                tally.jobs += round.jobs;
                eprintln!("{number:>5} {}: {} jobs right", point.name(), round.jobs);
            }
            Err(error) => {
                let repeat = format!("swarm-sim crash-points --seed {} --only {number}", self.seed);
                let text = format!("{}: {error}\n    repeat it: {repeat}", point.name());
                eprintln!("{number:>5} {text}");
                self.bad.push(text);
            }
        }
    }

    /// Whether nothing was lost and no point was missed.
    pub fn is_good(&self) -> bool {
        self.bad.is_empty()
    }
}

impl fmt::Display for CrashReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>8} {:>20}", "died at", "rounds", "acknowledged jobs")?;
        for (point, Tally { rounds, jobs }) in &self.points {
            writeln!(f, "{:<20} {rounds:>8} {jobs:>20}", point.name())?;
        }
        let rounds: u64 = self.points.values().map(|tally| tally.rounds).sum();
        write!(f, "{rounds} rounds, {} bad, seed {}", self.bad.len(), self.seed)?;
        self.bad.iter().try_for_each(|bad| write!(f, "\n{bad}"))
    }
}
