//! Joining knowledge: order, repetition and grouping do not matter.

use std::collections::BTreeMap;

use proptest::prelude::*;
use swarm_protocol::lattice::{AttemptId, End, Failure, Results, Run, ShardState, TaskState};
use swarm_protocol::{Content, Ending, Epoch, Hash, NodeId, Outcome, Range};

fn node() -> impl Strategy<Value = NodeId> {
    (0u8..4).prop_map(|byte| NodeId::from_bytes([byte; 32]))
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![Just(Ending::Lost), (0i32..3).prop_map(Ending::Exited), Just(Ending::TimedOut)]
}

fn outcome() -> impl Strategy<Value = Outcome> {
    (ending(), prop::option::of(0u8..3)).prop_map(|(ending, blob)| {
        let blob = blob.map(|byte| Content::Blob { hash: Hash::from_bytes([byte; 32]), len: 9 });
        Outcome { ending, stdout: blob.unwrap_or(Content::EMPTY), stderr: Content::EMPTY, outputs: vec![] }
    })
}

fn results() -> impl Strategy<Value = Results> {
    (outcome(), prop::collection::vec(node(), 0..3)).prop_map(|(outcome, holders)| Results::one(outcome, holders))
}

fn end() -> impl Strategy<Value = End> {
    prop_oneof![results().prop_map(End::Done), results().prop_map(End::Exhausted), Just(End::Cancelled)]
}

fn state() -> impl Strategy<Value = TaskState> {
    let attempt = (0u64..3, 0u64..3).prop_map(|(counter, lease)| AttemptId { epoch: Epoch { counter, tie: 0 }, lease });
    let failure = (node(), ending()).prop_map(|(node, ending)| Failure { node, ending });
    let failures = prop::collection::vec((attempt, failure), 0..3);
    (failures, prop::option::of(end()))
        .prop_map(|(failures, end)| TaskState { failures: failures.into_iter().collect::<BTreeMap<_, _>>(), end })
}

fn run() -> impl Strategy<Value = Run> {
    (0u32..20, 0u32..10, state()).prop_map(|(first, count, state)| Run { range: Range { first, count }, state })
}

fn shard(runs: &[Run]) -> ShardState {
    let mut shard = ShardState::default();
    shard.join(runs);
    shard
}

proptest! {
    #[test]
    fn join_is_commutative(a in state(), b in state()) {
        let (mut ab, mut ba) = (a.clone(), b.clone());
        ab.join(&b);
        ba.join(&a);
        prop_assert_eq!(ab, ba);
    }

    #[test]
    fn join_is_associative(a in state(), b in state(), c in state()) {
        let mut left = a.clone();
        left.join(&b);
        left.join(&c);
        let mut bc = b;
        bc.join(&c);
        let mut right = a;
        right.join(&bc);
        prop_assert_eq!(left, right);
    }

    #[test]
    fn what_is_covered_is_what_joining_would_not_change(
        a in prop::collection::vec(run(), 0..6),
        b in prop::collection::vec(run(), 0..6),
    ) {
        let (mut joined, other) = (shard(&a), shard(&b));
        let covers = joined.covers(&other);
        let segment: Vec<_> = other.runs().collect();
        prop_assert_eq!(covers, !joined.join(&segment));
        prop_assert_eq!(covers, joined == shard(&a));
        prop_assert!(joined.covers(&other) && joined.covers(&shard(&a)));
    }

    #[test]
    fn join_is_idempotent(a in state(), b in state()) {
        let mut once = a;
        once.join(&b);
        let mut twice = once.clone();
        twice.join(&b);
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn the_order_and_repetition_of_facts_do_not_change_a_shard(runs in prop::collection::vec(run(), 0..8)) {
        let mut shuffled = runs.clone();
        shuffled.reverse();
        shuffled.extend(runs.iter().cloned());
        let (one, other) = (shard(&runs), shard(&shuffled));
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(one, other);
    }

    #[test]
    fn runs_know_what_each_task_would_know_alone(runs in prop::collection::vec(run(), 0..8)) {
        let together = shard(&runs);
        let mut ended = 0;
        for task in 0..40 {
            let mut alone = TaskState::default();
            for run in runs.iter().filter(|run| run.range.indexes().contains(&task)) {
                alone.join(&run.state);
            }
            prop_assert_eq!(together.get(task).cloned().unwrap_or_default(), alone);
            ended += u32::from(together.has_ended(task));
        }
        prop_assert_eq!(together.counts().ended(), ended);
    }

    #[test]
    fn a_page_misses_nothing_from_where_it_begins(runs in prop::collection::vec(run(), 0..8), first in 0u32..40) {
        let whole = shard(&runs);
        let page = shard(&whole.runs_from(first).collect::<Vec<_>>());
        for task in first..40 {
            prop_assert_eq!(page.get(task), whole.get(task));
        }
    }

    #[test]
    fn equal_neighbours_are_one_run(runs in prop::collection::vec(run(), 0..8)) {
        let all: Vec<_> = shard(&runs).runs().collect();
        for pair in all.windows(2) {
            prop_assert!(pair[0].range.end() <= pair[1].range.first);
            prop_assert!(pair[0].range.end() < pair[1].range.first || pair[0].state != pair[1].state);
        }
    }
}

/// Every state of a task against every fact that may reach it: what stands afterwards.
#[test]
fn what_becomes_of_each_state_with_each_fact() {
    let done = || End::Done(Results::one(Outcome::bare(Ending::Exited(0)), []));
    let exhausted = || End::Exhausted(Results::one(Outcome::bare(Ending::Exited(7)), []));
    let ends = [None, Some(End::Cancelled), Some(exhausted()), Some(done())];
    // Rows: what is known. Columns: what is learnt. In order: nothing, cancelled, exhausted, done.
    let table = [[0, 1, 2, 3], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]];
    for (row, known) in ends.iter().enumerate() {
        for (column, learnt) in ends.iter().enumerate() {
            let mut state = TaskState { failures: BTreeMap::new(), end: known.clone() };
            state.join(&TaskState { failures: BTreeMap::new(), end: learnt.clone() });
            assert_eq!(state.end, ends[table[row][column]], "row {row}, column {column}");
        }
    }
}

#[test]
fn two_different_outcomes_are_kept_and_one_is_chosen_by_all() {
    let done = |text: &[u8]| {
        let outcome = Outcome { stdout: Content::Inline(text.to_vec()), ..Outcome::bare(Ending::Exited(0)) };
        TaskState::ended(End::Done(Results::one(outcome, [])))
    };
    let (mut here, mut there) = (done(b"one"), done(b"two"));
    here.join(&done(b"two"));
    there.join(&done(b"one"));
    let (Some(End::Done(here)), Some(End::Done(there))) = (here.end, there.end) else { panic!("both are done") };
    assert!(here.is_disputed());
    assert_eq!(here.outcome(), there.outcome());
}
