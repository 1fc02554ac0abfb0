//! The story of `swarm-sim cluster`: a job, some deaths, and what the survivors have.

use std::collections::VecDeque;
use std::fs;
use std::time::{Duration, Instant};

use super::wait::watch_interrupts;
use super::{Cluster, ClusterError, ClusterOptions, ClusterReport, DEADLINE, Job, Kill, Node, find_swarm, wait_until};

/// The node that the job is submitted to.
const SUBMITTER: usize = 0;
/// The last death comes before this share of the tasks has ended, so that it still matters.
const LAST_DEATH: f64 = 0.8;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// Starts the nodes, submits the job, kills, waits and compares; ends everything it started, however it ends itself.
/// Progress goes to stderr. That the swarm lost something is no error: see [`ClusterReport::is_good`].
pub fn run(options: ClusterOptions) -> Result<ClusterReport, ClusterError> {
    options.check()?;
    watch_interrupts();
    let expected = options.expect.as_ref().map(|path| fs::read(path).map_err(ClusterError::io("read", path)));
    let expected = expected.transpose()?;
    let program = find_swarm(options.swarm_bin.as_deref())?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("starting {} nodes of {} (seed {seed})", options.nodes, program.display());
    let mut cluster = Cluster::start(&program, options.nodes, options.slots)?;
    if options.keep {
        eprintln!("everything is kept in {}", cluster.keep().display());
    }
    cluster.wait_members(options.nodes, DEADLINE)?;
    let mut story = Story::begin(cluster, &options, seed)?;
    let took = story.wait_over(options.timeout)?;
    story.report(seed, took, expected.as_deref())
}

struct Story {
    cluster: Cluster,
    job: String,
    /// Tells how far the job is, and gives the results: never killed, and not the submitter when there is another.
    witness: usize,
    acknowledged: Instant,
    deaths: VecDeque<Death>,
    kills: Vec<Kill>,
    random: fastrand::Rng,
    told: Instant,
}

/// A death to come.
struct Death {
    /// When this share of the tasks has ended.
    at: f64,
    /// Whom; `None` = somebody who executes a task then.
    node: Option<usize>,
}

impl Story {
    fn begin(cluster: Cluster, options: &ClusterOptions, seed: u64) -> Result<Self, ClusterError> {
        let mut random = fastrand::Rng::with_seed(seed);
        let witness = if options.nodes == 1 { SUBMITTER } else { random.usize(1..options.nodes) };
        let deaths = deaths(options, &mut random);
        let file = options.job.as_deref().ok_or_else(|| ClusterError::Options("there is no job".into()))?;
        let job = cluster.node(SUBMITTER).submit(file)?;
        let acknowledged = Instant::now();
        eprintln!("job {job} is acknowledged by node {SUBMITTER}; node {witness} is asked about it");
        let told = acknowledged;
        Ok(Self { cluster, job, witness, acknowledged, deaths, kills: Vec::new(), random, told })
    }

    /// Plays until the job is over and says how long that took.
    fn wait_over(&mut self, timeout: Duration) -> Result<Duration, ClusterError> {
        self.kill_due(0, 0);
        wait_until("the end of the job", timeout, || {
            self.cluster.check_alive()?;
            let job = self.witness().show(&self.job)?;
            self.tell(&job);
            self.kill_due(job.ended(), job.tasks);
            Ok(job.is_over().then(|| self.acknowledged.elapsed()))
        })
    }

    fn report(&self, seed: u64, took: Duration, expected: Option<&[u8]>) -> Result<ClusterReport, ClusterError> {
        // Whoever is asked may first have to find out who died.
        let job = wait_until("the list of outcomes", DEADLINE, || self.witness().show_tasks(&self.job).map(Some))?;
        let output = self.logs(self.witness())?;
        let other = self.cluster.running().find(|node| node.number() != self.witness);
        let same_output = other.map(|other| Ok(self.logs(other)? == output)).transpose()?;
        Ok(ClusterReport {
            job: self.job.clone(),
            state: job.state.clone(),
            nodes: self.cluster.nodes().len(),
            seed,
            kills: self.kills.clone(),
            tasks: job.tasks,
            missing: job.missing(),
            doubled: job.doubled(),
            panics: self.cluster.panics(),
            same_output,
            expected_output: expected.map(|expected| output == expected),
            output_bytes: output.len(),
            took,
        })
    }

    fn logs(&self, node: &Node) -> Result<Vec<u8>, ClusterError> {
        wait_until("the output of the job", DEADLINE, || node.logs(&self.job).map(Some))
    }

    fn witness(&self) -> &Node {
        self.cluster.node(self.witness)
    }

    fn kill_due(&mut self, ended: u64, tasks: u64) {
        let share = if tasks == 0 { 0.0 } else { ended as f64 / tasks as f64 };
        while self.deaths.front().is_some_and(|death| death.at <= share) {
            let Some(Death { node, .. }) = self.deaths.pop_front() else { return };
            self.kill(node, ended);
        }
    }

    fn kill(&mut self, node: Option<usize>, ended: u64) {
        // The submitter is not asked whether it executes: it must die right after its acknowledgement.
        let executing = if node.is_some() { Vec::new() } else { self.cluster.executing() };
        let Some(node) = node.or_else(|| self.choose(&executing)) else { return };
        self.cluster.node_mut(node).kill();
        let kill = Kill { node, at: self.acknowledged.elapsed(), ended, executing: executing.contains(&node) };
        eprintln!("killed node {node} after {:.2} s, when {ended} tasks had ended", kill.at.as_secs_f32());
        self.kills.push(kill);
    }

    /// Somebody to die: one who executes when there is one, because the death of an idle node shows little.
    fn choose(&mut self, executing: &[usize]) -> Option<usize> {
        let mortal = self.cluster.running().map(Node::number).filter(|node| *node != self.witness);
        let (busy, idle): (Vec<_>, Vec<_>) = mortal.partition(|node| executing.contains(node));
        self.random.choice(if busy.is_empty() { idle } else { busy })
    }

    fn tell(&mut self, job: &Job) {
        if self.told.elapsed() >= TELL_EVERY || job.is_over() {
            self.told = Instant::now();
            let seconds = self.acknowledged.elapsed().as_secs_f32();
            eprintln!("{seconds:6.1} s  {} of {} tasks have ended ({})", job.ended(), job.tasks, job.state);
        }
    }
}

/// The deaths to come, the earliest first.
fn deaths(options: &ClusterOptions, random: &mut fastrand::Rng) -> VecDeque<Death> {
    let submitter = options.kill_submitter.then_some(Death { at: 0.0, node: Some(SUBMITTER) });
    let others = options.kills() - usize::from(options.kill_submitter);
    let mut shares: Vec<f64> = (0..others).map(|_| random.f64() * LAST_DEATH).collect();
    shares.sort_by(f64::total_cmp);
    submitter.into_iter().chain(shares.into_iter().map(|at| Death { at, node: None })).collect()
}
