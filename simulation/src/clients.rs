//! The users: they submit jobs to any node, sometimes cancel one, ask any node, and remember what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use swarm_protocol::lattice::{End, Run};
use swarm_protocol::{
    Answer, Elements, Event, Hash, JobId, JobOptions, JobSpec, JobStatus, KEEP_MS_DEFAULT, Limits, NodeId, OutputSpec,
    Query, Refusal, Retry, RetryOn, SameNeed, ShardId, SignedJob, StageOptions, StageSpec, Stdin, Time, codec,
};

use crate::dice;
use crate::faults::{Fault, Faults};
use crate::guests::{FILE, Leaves, Script};
use crate::history::{Fact, tasks_of};
use crate::world::{Happening, World};

/// What a user waits for.
enum Asked {
    Submit(JobId),
    Cancel(JobId),
    Question(Query, Time),
}

/// All users together.
pub(crate) struct Clients {
    rng: Rng,
    /// Of the users who say more of their jobs than which stage needs which; not every run has some.
    particular: Option<Rng>,
    tasks_left: u32,
    tokens: u64,
    asked: BTreeMap<u64, (usize, Asked)>,
    /// Every job that was ever handed over.
    pub(crate) submitted: Vec<JobId>,
    /// Of users who keep the results for seconds only: these expire. Not in [`Self::submitted`].
    pub(crate) brief: Vec<JobId>,
    /// Of the users who keep some results for seconds and others for ever; not every run has some.
    pub(crate) tidy: Option<Rng>,
    /// Those that are safe, as the users were told.
    pub(crate) acknowledged: BTreeSet<JobId>,
    /// Those that are over, as the users were told.
    pub(crate) over: BTreeSet<JobId>,
    /// Tasks whose runs differed, as the users were told.
    pub(crate) disputed: BTreeSet<(ShardId, u32)>,
    /// Blobs of results, as the users were told in the end.
    pub(crate) results: BTreeSet<Hash>,
}

/// One stage of a job to be submitted.
pub(crate) struct StagePlan {
    pub(crate) count: u32,
    pub(crate) needs: Vec<u16>,
    pub(crate) script: Script,
    pub(crate) retry: Retry,
    pub(crate) run_ms_max: u64,
    pub(crate) options: StageOptions,
}

impl StagePlan {
    /// So many tasks that need nothing and are tried for ever.
    pub(crate) fn plain(count: u32, script: Script) -> Self {
        let options = StageOptions::default();
        Self { count, needs: Vec::new(), script, retry: patient(), run_ms_max: RUN_MS_MAX, options }
    }
}

/// No honest task of a run takes as long.
pub(crate) const RUN_MS_MAX: u64 = 60_000;

impl Clients {
    pub(crate) const fn new(rng: Rng, particular: Option<Rng>, tidy: Option<Rng>, tasks: u32) -> Self {
        Self {
            rng,
            particular,
            tasks_left: tasks,
            tokens: 0,
            asked: BTreeMap::new(),
            submitted: Vec::new(),
            brief: Vec::new(),
            tidy,
            acknowledged: BTreeSet::new(),
            over: BTreeSet::new(),
            disputed: BTreeSet::new(),
            results: BTreeSet::new(),
        }
    }

    /// Nobody answers any more what was asked of this node.
    pub(crate) fn node_gone(&mut self, node: usize) {
        self.asked.retain(|_, (asked, _)| *asked != node);
    }

    /// Whether there are jobs in this run that expire.
    pub(crate) const fn jobs_expire(&self) -> bool {
        self.tidy.is_some()
    }

    /// How many questions are open.
    pub(crate) fn waiting(&self) -> usize {
        self.asked.len()
    }

    /// Whether the answer to the submission of this job is still open.
    pub(crate) fn waits_for(&self, job: JobId) -> bool {
        self.asked.values().any(|(_, asked)| matches!(asked, Asked::Submit(waiting) if *waiting == job))
    }

    /// Whether somebody who handed a job over waits to be told that it is safe.
    pub(crate) fn submits(&self) -> bool {
        self.asked.values().any(|(_, asked)| matches!(asked, Asked::Submit(_)))
    }

    fn ask(&mut self, node: usize, what: Asked) -> u64 {
        self.tokens += 1;
        self.asked.insert(self.tokens, (node, what));
        self.tokens
    }

    fn plan_job(&mut self, faults: &Faults) -> (Vec<StagePlan>, u32) {
        let stages = [1, 1, 1, 2, 2, 3][self.rng.usize(0..6)];
        let plans = (0..stages).map(|stage| self.plan_stage(stage, faults)).collect();
        let failures_max = [0, 3, u32::MAX][self.rng.usize(0..3)];
        (plans, failures_max)
    }

    /// How stages are needed: whole, element by element, or only over.
    fn plan_options(&mut self, needs: &[u16]) -> StageOptions {
        let mut options = StageOptions::default();
        let Some(rng) = &mut self.particular else { return options };
        for need in needs {
            match rng.u32(0..4) {
                0 | 1 => options.needs_same.push(SameNeed { stage: *need, names: vec!["index".into()] }),
                2 => options.needs_finished.push(*need),
                _ => {}
            }
        }
        options
    }

    fn plan_whole(&mut self) -> JobOptions {
        let mut options = JobOptions::default();
        let Some(rng) = &mut self.particular else { return options };
        options.priority = [0, 0, 10, -10][rng.usize(0..4)];
        options.parallel_max = (rng.u32(0..3) == 0).then(|| rng.u32(2..=20));
        options
    }

    fn plan_stage(&mut self, stage: u16, faults: &Faults) -> StagePlan {
        let rng = &mut self.rng;
        let most = self.tasks_left.clamp(1, 200);
        let count = if rng.bool() { rng.u32(1..=most) } else { rng.u32(1..=most.min(10)) };
        self.tasks_left = self.tasks_left.saturating_sub(count);
        // About 20 s of work at most in one stage, so that a run ends.
        let longest = [2_000, 50_000, 500_000, 4_000_000][rng.usize(0..4)].min(20_000_000 / u64::from(count));
        let needs: Vec<u16> = (0..stage).filter(|_| rng.u32(0..3) > 0).collect();
        let leaves = [Leaves::Same, Leaves::Own, Leaves::File][rng.usize(0..3)];
        let on = if rng.bool() { vec![RetryOn::AnyExit, RetryOn::Trap] } else { Vec::new() };
        let script = Script { run_us: (longest / 4, longest), exits: 0, traps: 0, hangs: 0, kills: 0, leaves };
        let retry = Retry { on, max: rng.u16(0..=3), ..patient() };
        let options = self.plan_options(&needs);
        let mut plan = StagePlan { count, needs, script, retry, run_ms_max: RUN_MS_MAX, options };
        self.spoil(&mut plan, faults);
        plan
    }

    /// Lets tasks of a stage go wrong, in the ways that are switched on.
    fn spoil(&mut self, plan: &mut StagePlan, faults: &Faults) {
        let rng = &mut self.rng;
        let some = [20, 100, 300][rng.usize(0..3)];
        match rng.u32(0..6) {
            0 if faults.has(Fault::GuestTraps) => plan.script.traps = some,
            1 if faults.has(Fault::GuestTraps) => plan.script.exits = some,
            2 if faults.has(Fault::GuestHangs) => {
                plan.script.run_us.1 = plan.script.run_us.1.min(HANGING_US_MAX);
                plan.script.run_us.0 = plan.script.run_us.0.min(HANGING_US_MAX);
                plan.script.hangs = 20;
                plan.run_ms_max = plan.script.run_us.1 / 1000 + 500;
            }
            3 if faults.has(Fault::GuestKills) => {
                plan.count = plan.count.min(KILLERS_AMONG);
                plan.script.kills = some;
                plan.retry.lost_max = rng.u16(0..=3);
            }
            4 if !faults.end_processes() => plan.retry.lost_max = rng.u16(0..=3),
            _ => {}
        }
    }
}

/// Honest tasks beside others that hang take so many microseconds at most, and so a hanging one is ended soon.
const HANGING_US_MAX: u64 = 500_000;
/// A stage whose tasks kill their nodes has so many at most: each kills some nodes.
const KILLERS_AMONG: u32 = 10;

/// Never gives a task up because of nodes that were lost: in a run many are.
pub(crate) const fn patient() -> Retry {
    Retry { max: 0, lost_max: 1000, backoff_ms: 50, backoff_ms_max: 500, on: Vec::new() }
}

impl World {
    /// The users begin.
    pub(crate) fn begin_users(&mut self) {
        let wait = dice::millis(&mut self.clients.rng, 500..=3000);
        self.after(wait, Happening::User);
        self.begin_to_tidy();
    }

    pub(crate) fn on_user(&mut self) {
        if !self.stormy {
            return;
        }
        let wait = dice::millis(&mut self.clients.rng, 50..=1500);
        self.after(wait, Happening::User);
        let Some(node) = self.any_node() else { return };
        let action = self.clients.rng.u32(0..100);
        let none = self.clients.submitted.is_empty();
        let known = dice::pick(&mut self.clients.rng, &self.clients.submitted);
        match known {
            _ if none || (action < 30 && self.clients.tasks_left > 0) => {
                // Sometimes several at once.
                for _ in 0..[1, 1, 1, 3][self.clients.rng.usize(0..4)] {
                    let (plans, failures_max) = self.clients.plan_job(&self.faults);
                    let whole = self.clients.plan_whole();
                    self.submit_with(node, plans, failures_max, whole);
                }
            }
            Some(job) if action < 35 => self.cancel(node, job),
            Some(job) if action < 65 => self.question(node, Query::Job(job)),
            Some(job) if action < 95 => {
                if let Some(shard) = self.some_shard(job) {
                    self.question(node, Query::Shard { shard, first: 0 });
                }
            }
            _ => self.question(node, Query::Jobs { after: None }),
        }
    }

    /// A node that runs and listens, and that users know: of a second machine with the identity of another they do not,
    /// and when the storm is over they trust neither of the two.
    pub(crate) fn any_node(&mut self) -> Option<usize> {
        let is_open = |node: &usize| self.machines[*node].is_awake() && !self.is_distrusted(*node);
        let awake: Vec<_> = (0..self.machines.len()).filter(is_open).collect();
        dice::pick(&mut self.clients.rng, &awake)
    }

    fn some_shard(&mut self, job: JobId) -> Option<ShardId> {
        let shards = self.shards_of(job);
        dice::pick(&mut self.clients.rng, &shards)
    }

    /// Every shard of a job.
    pub(crate) fn shards_of(&self, job: JobId) -> Vec<ShardId> {
        self.jobs.get(&job).map(|(spec, _)| spec.shards(job).collect()).unwrap_or_default()
    }

    /// Hands a job to a node.
    pub(crate) fn submit(&mut self, node: usize, plans: Vec<StagePlan>, failures_max: u32) -> JobId {
        self.submit_with(node, plans, failures_max, JobOptions::default())
    }

    fn submit_with(&mut self, node: usize, plans: Vec<StagePlan>, failures_max: u32, whole: JobOptions) -> JobId {
        let nonce = self.clients.rng.u64(..);
        self.submit_module(node, nonce, Hash::of(&nonce.to_be_bytes()), plans, failures_max, whole)
    }

    /// Hands a job of this module to a node.
    pub(crate) fn submit_module(
        &mut self,
        node: usize,
        nonce: u64,
        module: Hash,
        plans: Vec<StagePlan>,
        failures_max: u32,
        whole: JobOptions,
    ) -> JobId {
        let listed = vec![module];
        let list = Hash::of(&codec::encode(&listed));
        let now = self.now();
        let machine = &mut self.machines[node];
        machine.claim([list, module], now);
        let mut spec = spec_of(machine.id, nonce, list, module, failures_max, &plans, self.scenario.nodes);
        spec.options = whole;
        spec.submitted_unix_ms = machine.wall_ms(self.queue.now());
        let signed = SignedJob::sign(&spec, &machine.key).expect("the users keep every limit of a job");
        let (job, spec) = (signed.id(), Arc::new(spec));
        let scripts: Vec<_> = plans.into_iter().map(|plan| plan.script).collect();
        self.lists.insert(list, listed);
        self.jobs.insert(job, (Arc::clone(&spec), scripts.clone()));
        match spec.options.keep_ms {
            KEEP_MS_DEFAULT => self.clients.submitted.push(job),
            _ => self.clients.brief.push(job),
        }
        self.census.count("job submitted");
        let stages: Vec<_> = spec.stages.iter().map(|stage| stage.count).collect();
        self.note_at(node, format_args!("is handed {job:?} by a user: stages of {stages:?}"));
        self.observe(&Fact::Submitted { job, spec, scripts });
        let token = self.clients.ask(node, Asked::Submit(job));
        self.give(node, self.machines[node].boot, Event::Submit { token, job: signed });
        job
    }

    /// Hands a job of a few short tasks to a node.
    pub(crate) fn submit_small(&mut self, node: usize) -> JobId {
        let script = Script::running_for(Duration::from_millis(5));
        let plan = StagePlan::plain(5, script);
        self.submit(node, vec![plan], 0)
    }

    /// Asks a node to cancel a job.
    pub(crate) fn cancel(&mut self, node: usize, job: JobId) {
        self.census.count("job cancelled");
        self.note_at(node, format_args!("is told by a user to cancel {job:?}"));
        self.observe(&Fact::Cancelling { job });
        let token = self.clients.ask(node, Asked::Cancel(job));
        self.give(node, self.machines[node].boot, Event::Cancel { token, job });
    }

    /// Asks a node something.
    pub(crate) fn question(&mut self, node: usize, query: Query) {
        self.census.count("question");
        let token = self.clients.ask(node, Asked::Question(query.clone(), self.queue.now()));
        self.give(node, self.machines[node].boot, Event::Ask { token, query });
    }

    pub(crate) fn on_submitted(&mut self, node: usize, token: u64, result: Result<JobId, Refusal>) {
        let Some((_, Asked::Submit(job))) = self.clients.asked.remove(&token) else { return };
        self.note_at(node, format_args!("tells the user of {job:?}: {result:?}"));
        match result {
            Ok(named) if named == job => {
                self.census.count("job acknowledged");
                if !self.clients.brief.contains(&job) {
                    self.clients.acknowledged.insert(job);
                }
                self.job_acknowledged(node);
                self.observe(&Fact::Acknowledged { node: self.machines[node].id, job });
            }
            Ok(named) => self.break_with("answers_fit_questions", format!("{job:?} was acknowledged as {named:?}")),
            Err(Refusal::Invalid(why)) => {
                self.break_with("valid_jobs_are_accepted", format!("n{node} refuses {job:?}: {why}"));
            }
            Err(_) => self.census.count("job refused"),
        }
    }

    pub(crate) fn on_cancelled(&mut self, node: usize, token: u64, result: &Result<(), Refusal>) {
        let Some((_, Asked::Cancel(job))) = self.clients.asked.remove(&token) else { return };
        self.note_at(node, format_args!("tells the user of the end of {job:?}: {result:?}"));
        if result.is_ok() {
            self.census.count("cancel confirmed");
            self.observe(&Fact::Cancelled { node: self.machines[node].id, job });
        }
    }

    pub(crate) fn on_answered(&mut self, node: usize, token: u64, answer: &Answer) {
        let Some((_, Asked::Question(query, asked))) = self.clients.asked.remove(&token) else { return };
        self.note_answer(node, &query, answer);
        let id = self.machines[node].id;
        self.observe(&Fact::Told { node: id, asked, query: &query, answer });
        match answer {
            Answer::Job { job, status } if status.state().is_over() => {
                self.clients.over.insert(job.id());
            }
            Answer::Job { job, status } => self.cancel_at_the_last_moment(node, job.id(), status),
            Answer::Shard { segment, next, .. } => {
                self.note_results(&query, segment);
                if let (Query::Shard { shard, first }, Some(next)) = (query, *next)
                    && next > first
                {
                    self.question(node, Query::Shard { shard, first: next });
                }
            }
            _ => {}
        }
    }

    /// A cancel that races with the last tasks.
    fn cancel_at_the_last_moment(&mut self, node: usize, job: JobId, status: &JobStatus) {
        let left = status.tasks().saturating_sub(u64::from(status.counts().ended()));
        if self.stormy && left <= 3 && self.clients.rng.u32(0..4) == 0 {
            self.cancel(node, job);
        }
    }

    /// What results users were told of: in the end every blob of them must be somewhere.
    fn note_results(&mut self, query: &Query, segment: &[Run]) {
        let Query::Shard { shard, .. } = query else { return };
        let history = self.auditor.history();
        let acknowledged = history.jobs.get(&shard.job).is_some_and(|job| job.acknowledged.is_some());
        for Run { range, state } in segment {
            let Some(End::Done(results)) = &state.end else { continue };
            if results.is_disputed() {
                self.clients.disputed.extend(tasks_of(*range).map(|task| (*shard, task)));
            }
            if history.settled && acknowledged {
                self.clients.results.extend(results.outcome().blobs());
            }
        }
    }

    fn note_answer(&mut self, node: usize, query: &Query, answer: &Answer) {
        match answer {
            Answer::Job { status, .. } => {
                self.note_at(node, format_args!("answers {query:?}: {:?} {:?}", status.state(), status.stages));
            }
            Answer::Shard { segment, next, leased } => {
                let facts = crate::trace::Facts(segment);
                self.note_at(node, format_args!("answers {query:?}:{facts} next={next:?} leased={leased:?}"));
            }
            Answer::Jobs { jobs, .. } => self.note_at(node, format_args!("lists {} jobs", jobs.len())),
            Answer::Leases(leases) => self.note_at(node, format_args!("answers {query:?}: {leases:?}")),
            Answer::Modules(facts) => self.note_at(node, format_args!("knows {} facts about modules", facts.len())),
            Answer::WhyJob(_) | Answer::WhyShard(_) => self.note_at(node, format_args!("answers {query:?}")),
            Answer::Unknown => self.note_at(node, format_args!("answers {query:?}: unknown")),
        }
    }
}

pub(crate) fn spec_of(
    submitter: NodeId,
    nonce: u64,
    blobs: Hash,
    wasm: Hash,
    failures_max: u32,
    plans: &[StagePlan],
    nodes: usize,
) -> JobSpec {
    let stages = plans.iter().enumerate().map(|(position, plan)| stage_of(position, plan, wasm, nodes));
    JobSpec {
        version: swarm_protocol::JOB_SPEC_VERSION,
        name: "simulated".into(),
        description: String::new(),
        submitter,
        submitted_unix_ms: 0,
        nonce,
        source: None,
        blobs,
        failures_max,
        stages: stages.collect(),
        options: JobOptions::default(),
    }
}

fn stage_of(position: usize, plan: &StagePlan, wasm: Hash, nodes: usize) -> StageSpec {
    StageSpec {
        name: format!("stage-{position}"),
        wasm,
        entry: "_start".into(),
        args: Vec::new(),
        env: Vec::new(),
        stdin: Stdin::Empty,
        count: plan.count,
        shard_tasks: StageSpec::shard_tasks_for(plan.count, nodes),
        elements: if plan.count == 1 { Elements::One } else { Elements::Numbers { start: 0 } },
        inputs: Vec::new(),
        outputs: match plan.script.leaves {
            Leaves::File | Leaves::Common => vec![OutputSpec::required(FILE)],
            Leaves::Same | Leaves::Own => Vec::new(),
        },
        needs: plan.needs.clone(),
        retry: plan.retry.clone(),
        run_ms_max: plan.run_ms_max,
        queue_ms_max: None,
        limits: Limits {
            memory_bytes_max: 1 << 24,
            fuel_max: 1 << 40,
            stdout_bytes_max: 1024,
            outputs_bytes_max: 1024,
        },
        options: plan.options.clone(),
    }
}
