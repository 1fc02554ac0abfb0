//! A steady load on real nodes, faults meanwhile, and the audit of everything that was told.
//!
//! The course: nodes, load, faults; then calm: no new jobs, every node runs, every job ends; then a power cut, all disks
//! are compared; then all nodes start again, and each is asked for everything.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use super::audit::audit;
use super::chaos::Chaos;
use super::disks::Disks;
use super::journal::{Journal, Regrant};
use super::ledger::{Entry, Ledger};
use super::load::Load;
use super::recipe::Recipe;
use super::stage::{Cut, Stage};
use super::steady_report::{Apart, Spread, SteadyReport, Told, Used};
use super::wait::watch_interrupts;
use super::{Cluster, ClusterError, ClusterOptions, DEADLINE, Kind, Node, find_swarm, stories};

/// After the last fault and the last submission, jobs under way end within this: attempts that were lost are tried again
/// with a back-off of up to a minute.
const JOBS_END_WITHIN: Duration = Duration::from_secs(180);
/// Custodians agree so long after the swarm is whole again: the promise.
const AGREE_WITHIN: Duration = Duration::from_secs(30);
/// What was recorded last has at least this long: two rounds of comparing digests.
const AGREE_AFTER_LAST: Duration = Duration::from_secs(10);
/// Kills so near to the end of the load say nothing of when the pace was back.
const PACE_LOOK: Duration = Duration::from_secs(5);

/// Plays, audits and reports. That the swarm lost something is no error: see [`SteadyReport::is_good`].
pub fn steady(options: &ClusterOptions) -> Result<SteadyReport, ClusterError> {
    options.check()?;
    watch_interrupts();
    let program = find_swarm(options.swarm_bin.as_deref())?;
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    eprintln!("starting {} nodes of {} (seed {seed})", options.nodes, program.display());
    let start = if options.needs_cuts() { Cluster::start_apart } else { Cluster::start };
    let mut cluster = start(&program, options.nodes, options.slots)?;
    if options.keep {
        eprintln!("everything is kept in {}", cluster.keep().display());
    }
    cluster.wait_members(options.nodes, DEADLINE)?;
    Steady::begin(cluster, options, seed)?.play()
}

struct Steady<'a> {
    options: &'a ClusterOptions,
    seed: u64,
    random: fastrand::Rng,
    // Dropped in this order: the nodes end, and clients that wait for them with them.
    stage: Stage,
    load: Load,
    began: Instant,
}

impl<'a> Steady<'a> {
    fn begin(cluster: Cluster, options: &'a ClusterOptions, seed: u64) -> Result<Self, ClusterError> {
        let recipe = match &options.job {
            Some(file) => Recipe::file(file, cluster.node(0).client())?,
            None => Recipe::built_in(&cluster.root().join("load"), options.task_time)?,
        };
        let load = Load::begin(&cluster, recipe, options.tasks_per_second, seed);
        let stage = Stage::new(cluster, load.shared().clone());
        Ok(Self { options, seed, random: fastrand::Rng::with_seed(seed), stage, load, began: Instant::now() })
    }

    fn play(mut self) -> Result<SteadyReport, ClusterError> {
        self.strike()?;
        let end = End { lasted: self.began.elapsed(), at: SystemTime::now(), over: self.over() };
        self.load.stop_submitting();
        let agree = self.calm()?;
        let memory: Vec<u64> = self.each_left(Node::peak_memory_bytes);
        let disks = self.compare_disks(agree)?;
        self.start_again()?;
        audit(&self.nodes_left(), self.load.shared())?;
        self.report(end, memory, disks)
    }

    fn strike(&mut self) -> Result<(), ClusterError> {
        let options = self.options;
        match (options.rolling, options.lose, options.split) {
            (Some(rounds), ..) => stories::rolling(&mut self.stage, rounds),
            (_, Some(count), _) => stories::lose(&mut self.stage, count, &mut self.random),
            (.., Some(lasts)) => stories::split(&mut self.stage, lasts, &mut self.random),
            _ => {
                let (kinds, every) = (options.chaos.clone(), options.chaos_every.0.clone());
                let mut chaos = Chaos { kinds, every, random: self.random.fork() };
                chaos.play(&mut self.stage, options.duration.unwrap_or_default())
            }
        }
    }

    /// Everything runs again and every job ends. Returns when custodians should agree on everything.
    fn calm(&mut self) -> Result<Instant, ClusterError> {
        self.stage.calm()?;
        self.stage.pump(DEADLINE * 2, |stage| stage.all_up())?;
        let whole = Instant::now();
        let shared = self.load.shared().clone();
        let ended = self.stage.pump(JOBS_END_WITHIN, |_| shared.ledger().open_tasks() == 0)?;
        eprintln!(
            "calm for {:.1} s, {}",
            whole.elapsed().as_secs_f32(),
            if ended { "all jobs over" } else { "jobs open" }
        );
        self.load.end();
        Ok((whole + AGREE_WITHIN).max(Instant::now() + AGREE_AFTER_LAST))
    }

    /// The power fails when custodians should agree, and what is on the disks then is compared.
    fn compare_disks(&mut self, agree: Instant) -> Result<Disks, ClusterError> {
        self.stage.pump(agree.saturating_duration_since(Instant::now()), |_| false)?;
        self.stage.power_cut();
        eprintln!("power cut; comparing the disks of all custodians");
        let ids: Vec<String> = self.load.shared().ledger().jobs.iter().map(|job| job.id.clone()).collect();
        Disks::compare(&self.nodes_left(), ids.iter().map(String::as_str))
    }

    fn start_again(&mut self) -> Result<(), ClusterError> {
        self.stage.calm()?;
        self.stage.pump(DEADLINE * 2, |stage| stage.is_whole()).map(drop)
    }

    fn nodes_left(&self) -> Vec<&Node> {
        self.stage.left_nodes().into_iter().map(|node| self.stage.cluster.node(node)).collect()
    }

    fn each_left<T>(&mut self, look: impl Fn(&mut Node) -> T) -> Vec<T> {
        let left = self.stage.left_nodes();
        left.into_iter().map(|node| look(self.stage.cluster.node_mut(node))).collect()
    }

    /// Tasks of jobs that are known to be over.
    fn over(&self) -> u64 {
        let ledger = self.load.shared().ledger();
        ledger.jobs.iter().filter(|job| job.over.is_some()).map(|job| u64::from(job.tasks)).sum()
    }

    fn report(mut self, end: End, memory: Vec<u64>, disks: Disks) -> Result<SteadyReport, ClusterError> {
        let disk = self.each_left(|node| node.disk_bytes());
        let journal = self.journal()?;
        let (left, faults, shared) = (self.stage.left_nodes(), &self.stage.faults, self.load.shared());
        let regrants = journal.regrants(faults);
        let of = |chosen: fn(Kind) -> bool| {
            let chosen = regrants.iter().filter(move |regrant| chosen(faults[regrant.fault].kind));
            chosen.copied().collect::<Vec<_>>()
        };
        let (killed, stopped) = (of(Kind::kills), of(|kind| kind == Kind::Stop));
        let resumed = self.resumed(&journal, end.at);
        let (ledger, used) = (shared.ledger(), left.iter().zip(memory).zip(disk));
        let used = used.map(|((node, memory_bytes), disk_bytes)| Used { node: *node, memory_bytes, disk_bytes });
        Ok(SteadyReport {
            nodes: self.options.nodes,
            seed: self.seed,
            seconds: end.lasted.as_secs_f64(),
            faults: SteadyReport::count(faults.iter().map(|fault| fault.kind)),
            jobs: ledger.jobs.len(),
            tasks: ledger.jobs.iter().map(|job| u64::from(job.tasks)).sum(),
            tasks_per_second: end.over as f64 / end.lasted.as_secs_f64(),
            refused: ledger.refused,
            late: shared.late(),
            told: Told { answers: ledger.answers, unanswered: ledger.unanswered, stale: ledger.stale },
            apart: apart(&self.stage.cuts, &ledger),
            bad: ledger.bad(),
            attempts: journal.attempts(),
            panics: self.stage.cluster.panics(),
            failures: self.stage.failures.clone(),
            disks,
            regrant: Spread::of(killed.iter().map(|it| it.after).collect()),
            regrant_of_kill: Spread::of(last_of_each(&killed)),
            regrant_of_stopped: Spread::of(stopped.iter().map(|it| it.after).collect()),
            resumed: Spread::of(resumed.iter().flatten().copied().collect()),
            not_resumed: resumed.iter().filter(|it| it.is_none()).count(),
            jobs_took: Spread::of(ledger.times()),
            starts: Spread::of(self.stage.starts.clone()),
            used: used.collect(),
            examples: ledger.examples().to_vec(),
        })
    }

    /// What the nodes logged of the acknowledged jobs.
    fn journal(&self) -> Result<Journal, ClusterError> {
        let ends = |job: &Entry| (job.id.clone(), job.over.map(|over| over.at));
        let mut journal = Journal::of(self.load.shared().ledger().jobs.iter().map(ends));
        for node in self.stage.cluster.nodes() {
            journal.read(node.number(), &node.log())?;
        }
        journal.sort();
        Ok(journal)
    }

    /// For each kill but the last ones: when the swarm was back at its pace.
    fn resumed(&self, journal: &Journal, end: SystemTime) -> Vec<Option<Duration>> {
        let kills = self.stage.faults.iter().filter(|fault| fault.kind.kills() && fault.at + PACE_LOOK < end);
        kills.map(|fault| journal.resumed(fault.at, end, self.options.tasks_per_second)).collect()
    }
}

/// How the load ended.
struct End {
    lasted: Duration,
    at: SystemTime,
    /// Tasks of jobs that were known to be over then.
    over: u64,
}

/// The last grant after each fault.
fn last_of_each(regrants: &[Regrant]) -> Vec<Duration> {
    let mut last: BTreeMap<usize, Duration> = BTreeMap::new();
    for Regrant { fault, after } in regrants {
        let known = last.entry(*fault).or_default();
        *known = (*known).max(*after);
    }
    last.into_values().collect()
}

/// What both sides of cuts did meanwhile.
fn apart(cuts: &[Cut], ledger: &Ledger) -> Apart {
    let mut apart = Apart { cuts: cuts.len(), ..Apart::default() };
    for Cut { side, lasted } in cuts {
        let mut count = |(node, at): (usize, Instant), what: fn(&mut Apart, bool)| {
            if lasted.contains(&at) {
                what(&mut apart, side.contains(&node));
            }
        };
        for job in &ledger.jobs {
            count(job.acknowledged, |apart, cut_off| apart.acknowledged[usize::from(!cut_off)] += 1);
            if let Some(over) = job.over {
                count(over.told, |apart, cut_off| apart.over[usize::from(!cut_off)] += 1);
            }
        }
    }
    apart
}
