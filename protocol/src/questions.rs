//! Questions of this node's users, put to the nodes that should know, and the answers of this node to others.
//!
//! Elsewhere: putting pages together and waiting for completeness is the asker's (`node::results`).

use core::cmp::Reverse;
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use crate::custody::Shard;
use crate::message::{Answer, CHUNK_BYTES, JobState, JobStatus, JobSummary, Message, Query};
use crate::node::Node;
use crate::placement::Key;
use crate::{JobId, NodeId, Notice, Range, ShardId, Time};

/// How long one node may take to answer before another is asked, or the answer is given without it.
const ANSWER_MAX: Duration = Duration::from_millis(1000);
/// Questions under way.
const QUESTIONS_MAX: usize = 16 * 1024;

#[derive(Debug)]
struct Question {
    token: u64,
    query: Query,
    /// Asked, not answered.
    waiting: BTreeSet<NodeId>,
    /// To be asked when those are silent or know nothing.
    then: Vec<NodeId>,
    answers: Vec<Answer>,
    deadline: Time,
}

#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: BTreeMap<u64, Question>,
    pub(crate) last: u64,
}

impl Node {
    pub(crate) fn on_ask(&mut self, token: u64, query: Query) {
        if self.questions.open.len() >= QUESTIONS_MAX {
            self.out.notify.push(Notice::Answered { token, answer: Answer::Unknown });
            return;
        }
        if let Some(answer) = self.answer_of_the_past(&query) {
            return self.out.notify.push(Notice::Answered { token, answer });
        }
        let everyone = self.linked_and_me();
        let (first, then) = match &query {
            Query::Modules(name) if name.is_empty() => (vec![self.me()], Vec::new()),
            Query::Jobs { .. } | Query::Modules(_) => (everyone, Vec::new()),
            // One of them arbitrates, and of two that think so each knows a part.
            Query::Leases(shard) => (self.custodians_to_ask(Key::of_shard(*shard)), Vec::new()),
            // What I know of it myself belongs to it: I may be the one that submits it.
            Query::WhyJob(job) => {
                let mut first = self.custodians_to_ask(Key::of_job(*job));
                first.retain(|node| *node != self.me());
                first.push(self.me());
                let others = everyone.into_iter().filter(|node| !first.contains(node)).collect();
                (first, others)
            }
            Query::WhyShard { shard, .. } => {
                let custodians = self.custodians_to_ask(Key::of_shard(*shard));
                let others = everyone.into_iter().filter(|node| !custodians.contains(node)).collect();
                (custodians, others)
            }
            Query::Job(job) => {
                let custodians = self.custodians_to_ask(Key::of_job(*job));
                let others = everyone.into_iter().filter(|node| !custodians.contains(node)).collect();
                (custodians, others)
            }
            Query::Shard { shard, .. } => {
                // Whoever asks again, because the answer was not complete, begins with another custodian.
                let mut custodians = self.custodians_to_ask(Key::of_shard(*shard));
                let others: Vec<_> = everyone.into_iter().filter(|node| !custodians.contains(node)).collect();
                let turn = self.questions.last as usize % custodians.len().max(1);
                custodians.rotate_left(turn);
                custodians.extend(others);
                custodians.reverse();
                (custodians.pop().into_iter().collect(), custodians)
            }
        };
        self.questions.last += 1;
        let (number, deadline) = (self.questions.last, self.now + ANSWER_MAX);
        let question = Question { token, query, waiting: BTreeSet::new(), then, answers: Vec::new(), deadline };
        self.questions.open.insert(number, question);
        self.put(number, first);
    }

    /// The custodians that this node reaches. In a sparse swarm, where its neighbours know little, all of them when it seems
    /// to reach none: who is doubted at the moment may yet answer.
    fn custodians_to_ask(&self, key: Key) -> Vec<NodeId> {
        let custodians = self.membership.view.custodians(key);
        let reached: Vec<_> = custodians.iter().copied().filter(|node| self.reaches(*node)).collect();
        if reached.is_empty() && self.membership.sparse { custodians } else { reached }
    }

    /// What nobody can add to, because this node was told everything: how a job ended, and a shard that it keeps and all of
    /// whose tasks are done, when no other node was out of reach since the job came. Who keeps a shard no more is not told
    /// that another run of a task left something else behind.
    fn answer_of_the_past(&self, query: &Query) -> Option<Answer> {
        match query {
            Query::Jobs { .. } | Query::Modules(_) | Query::Leases(_) | Query::WhyJob(_) | Query::WhyShard { .. } => {
                None
            }
            Query::Job(id) => {
                let done = self.job_status(*id).is_some_and(|status| status.state() == JobState::Done);
                (done && self.was_never_parted(*id)).then(|| self.answer_job(*id))
            }
            Query::Shard { shard: id, first } => {
                let me = self.me();
                let is_done = |shard: &Shard| shard.is_settled() && shard.is_done() && shard.custodians.contains(&me);
                let done = self.custody.shard(*id).is_some_and(is_done);
                (done && self.was_never_parted(id.job)).then(|| self.answer_shard(*id, *first))
            }
        }
    }

    /// Whether every member has been linked with this node since it took up the job.
    fn was_never_parted(&self, id: JobId) -> bool {
        let Some(since) = self.jobs.get(id).map(|job| job.arrived) else { return false };
        !self.membership.sparse && self.has_settled() && self.membership.are_linked_since(since)
    }

    fn linked_and_me(&self) -> Vec<NodeId> {
        self.linked().into_iter().filter(|node| self.reaches(*node)).chain([self.me()]).collect()
    }

    /// Puts a question to some nodes.
    fn put(&mut self, number: u64, nodes: Vec<NodeId>) {
        let Some(question) = self.questions.open.get_mut(&number) else { return };
        question.waiting.extend(&nodes);
        question.deadline = self.now + ANSWER_MAX;
        let query = question.query.clone();
        for node in nodes {
            self.send(node, Message::Query { number, query: query.clone() });
        }
        self.conclude(number);
        self.await_answers();
    }

    /// Wakes when the next answer is overdue.
    fn await_answers(&mut self) {
        let next = self.questions.open.values().map(|question| question.deadline).min();
        self.set_alarm("question", next);
    }

    pub(crate) fn on_answer(&mut self, from: NodeId, number: u64, answer: Answer) {
        // What my user is told of a stop I know from then on, whoever else can be reached.
        if let Answer::Job { job, status: JobStatus { stop: Some(cause), .. } } = &answer {
            self.apply_stop(job.id(), *cause);
        }
        let Some(question) = self.questions.open.get_mut(&number) else { return };
        if question.waiting.remove(&from) && answers(&question.query, &answer) {
            question.answers.push(answer);
        }
        self.conclude(number);
        self.await_answers();
    }

    /// Called every tick.
    pub(crate) fn keep_questions(&mut self) {
        let late = self.questions.open.iter().filter(|(_, question)| self.now >= question.deadline);
        let late: Vec<_> = late.map(|(number, _)| *number).collect();
        for number in late {
            if let Some(question) = self.questions.open.get_mut(&number) {
                question.waiting.clear();
            }
            self.conclude(number);
        }
    }

    /// Answers the user, or asks on, once nobody is left to wait for.
    fn conclude(&mut self, number: u64) {
        let Some(question) = self.questions.open.get_mut(&number) else { return };
        if !question.waiting.is_empty() {
            return;
        }
        if question.answers.is_empty() && !question.then.is_empty() {
            let next = match question.query {
                Query::Shard { .. } => question.then.pop().into_iter().collect(),
                _ => core::mem::take(&mut question.then),
            };
            return self.put(number, next);
        }
        if let Some(mut question) = self.questions.open.remove(&number) {
            if let Query::Job(job) = question.query {
                // What I know belongs to it: a stop that I confirmed to my user, for one.
                question.answers.extend(Some(self.answer_job(job)).filter(|answer| *answer != Answer::Unknown));
            }
            let mut answer = merge(question.answers);
            if let Answer::Job { job, status } = &mut answer {
                // So does one of a job whose record is still on its way here.
                status.stop = status.stop.max(self.jobs.early_stop(job.id()));
            }
            self.out.notify.push(Notice::Answered { token: question.token, answer });
        }
    }

    // ---- answering others

    pub(crate) fn on_query(&mut self, from: NodeId, number: u64, query: Query) {
        let answer = match query {
            Query::Jobs { after } => self.answer_jobs(from, after),
            Query::Job(job) => self.answer_job(job),
            Query::Shard { shard, first } => self.answer_shard(shard, first),
            Query::Leases(shard) => Answer::Leases(self.leases(shard)),
            // All of them are too many for a frame; each node tells them to its own users alone.
            Query::Modules(name) if name.is_empty() && from != self.me() => Answer::Unknown,
            Query::Modules(name) => self.answer_modules(&name),
            Query::WhyJob(job) => self.job_situation(job).map_or(Answer::Unknown, |it| Answer::WhyJob(vec![it])),
            Query::WhyShard { shard, tasks } => {
                self.shard_situation(shard, tasks).map_or(Answer::Unknown, |it| Answer::WhyShard(vec![it]))
            }
        };
        self.send(from, Message::Answer { number, answer });
    }

    /// What a node says to itself is no message, and has room for all.
    fn answer_jobs(&self, from: NodeId, after: Option<(u64, JobId)>) -> Answer {
        let room = if from == self.me() { usize::MAX } else { CHUNK_BYTES };
        let ordered = |(unix_ms, id)| (Reverse(unix_ms), id);
        let mut left: Vec<_> = self.known_jobs().map(ordered).filter(|job| Some(*job) > after.map(ordered)).collect();
        left.sort_unstable();
        let (mut jobs, mut weight) = (Vec::new(), 0);
        for summary in left.into_iter().filter_map(|(_, id)| self.job_summary(id)) {
            if weight >= room {
                return Answer::Jobs { jobs, more: true };
            }
            weight += summary.weight();
            jobs.push(summary);
        }
        Answer::Jobs { jobs, more: false }
    }

    fn answer_job(&self, job: JobId) -> Answer {
        match self.signed_job(job) {
            Some((job, status)) => Answer::Job { job, status },
            None => Answer::Unknown,
        }
    }

    fn leases(&self, id: ShardId) -> Vec<(Range, NodeId)> {
        let arbiter = self.custody.shard(id).and_then(|shard| shard.arbiter.as_ref());
        arbiter.map(|arbiter| arbiter.leased()).unwrap_or_default()
    }

    fn answer_shard(&self, id: ShardId, first: u32) -> Answer {
        let Some(shard) = self.custody.shard(id) else { return Answer::Unknown };
        let leased = self.leases(id);
        let (mut segment, mut weight) = (Vec::new(), 0);
        for run in shard.state.runs_from(first) {
            if weight >= CHUNK_BYTES {
                return Answer::Shard { segment, next: Some(run.range.first), leased };
            }
            weight += run.weight();
            segment.push(run);
        }
        Answer::Shard { segment, next: None, leased }
    }
}

/// Whether an answer is of the kind that the question asks for.
fn answers(query: &Query, answer: &Answer) -> bool {
    match (query, answer) {
        (Query::Jobs { .. }, Answer::Jobs { .. })
        | (Query::Shard { .. }, Answer::Shard { .. })
        | (Query::Leases(_), Answer::Leases(_))
        | (Query::Modules(_), Answer::Modules(_))
        | (Query::WhyJob(_), Answer::WhyJob(_)) => true,
        (Query::WhyShard { shard, .. }, Answer::WhyShard(said)) => said.iter().all(|it| it.shard == *shard),
        (Query::Job(id), Answer::Job { job, .. }) => job.id() == *id,
        _ => false,
    }
}

/// What several nodes know together.
fn merge(answers: Vec<Answer>) -> Answer {
    let mut jobs: BTreeMap<JobId, JobSummary> = BTreeMap::new();
    // Up to here nobody knows of others.
    let mut cut = None;
    let mut best = Answer::Unknown;
    for answer in answers {
        match (answer, &mut best) {
            (Answer::Jobs { jobs: list, more }, _) => {
                best = Answer::Jobs { jobs: Vec::new(), more };
                let last = list.last().map(JobSummary::order).filter(|_| more);
                cut = [cut, last].into_iter().flatten().min();
                for job in list {
                    jobs.entry(job.job).or_insert_with(|| job.clone()).status.join(&job.status);
                }
            }
            (Answer::Modules(facts), Answer::Modules(known)) => {
                let new = facts.into_iter().filter(|fact| !known.contains(fact)).collect::<Vec<_>>();
                known.extend(new);
            }
            (Answer::Leases(leases), Answer::Leases(known)) => known.extend(leases),
            (Answer::WhyJob(more), Answer::WhyJob(known)) => known.extend(more),
            (Answer::WhyShard(more), Answer::WhyShard(known)) => known.extend(more),
            (Answer::Job { status, .. }, Answer::Job { status: known, .. }) => known.join(&status),
            (answer, best) => *best = answer,
        }
    }
    match best {
        Answer::Jobs { .. } => {
            let mut jobs: Vec<_> = jobs.into_values().filter(|job| cut.is_none_or(|cut| job.order() <= cut)).collect();
            jobs.sort_unstable_by_key(JobSummary::order);
            Answer::Jobs { jobs, more: cut.is_some() }
        }
        best => best,
    }
}
