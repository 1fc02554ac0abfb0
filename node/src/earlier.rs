//! Results that a job takes over from the one it repeats: they are in a blob of the job, and stand in for the tasks that it
//! skips.
//!
//! Elsewhere: which tasks are skipped is in the stages of the spec; who makes the blob is `cli::retry`.

use swarm_protocol::lattice::{Run, Segment, ShardState};
use swarm_protocol::{Range, StageSpec};

/// Bytes of the encoded results: some million short ones.
pub const EARLIER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The results of an earlier job, by the position of their stage.
pub type Earlier = Vec<(u16, Segment)>;

/// The runs of some tasks with the earlier results in place of what stands for skipped tasks.
pub(crate) fn substitute(
    stage: &StageSpec,
    position: u16,
    tasks: Range,
    runs: Vec<Run>,
    earlier: &Earlier,
) -> Vec<Run> {
    let mut own = ShardState::default();
    let skipped = skipped_in(stage, tasks);
    for run in runs {
        own.join(&outside(&run, &skipped));
    }
    let segments = earlier.iter().filter(|(at, _)| *at == position).flat_map(|(_, segment)| segment);
    for run in segments {
        let within = skipped.iter().filter_map(|range| common(run.range, *range));
        own.join(&within.map(|range| Run { range, state: run.state.clone() }).collect::<Segment>());
    }
    own.runs().collect()
}

/// The skipped tasks among these, in order.
fn skipped_in(stage: &StageSpec, tasks: Range) -> Vec<Range> {
    let mut skipped: Vec<Range> = stage.options.skip.iter().filter_map(|range| common(*range, tasks)).collect();
    skipped.sort_unstable_by_key(|range| range.first);
    skipped
}

/// The parts of a run that are not skipped.
fn outside(run: &Run, skipped: &[Range]) -> Segment {
    let (mut parts, mut at) = (Segment::new(), run.range.first);
    let mut push = |first: u32, end: u32| {
        if first < end {
            parts.push(Run { range: Range { first, count: end - first }, state: run.state.clone() });
        }
    };
    for range in skipped.iter().filter_map(|range| common(*range, run.range)) {
        push(at, range.first);
        at = range.end();
    }
    push(at, run.range.end());
    parts
}

fn common(a: Range, b: Range) -> Option<Range> {
    let (first, end) = (a.first.max(b.first), a.end().min(b.end()));
    (first < end).then(|| Range { first, count: end - first })
}

#[cfg(test)]
mod tests {
    use swarm_protocol::lattice::{End, Results, TaskState};
    use swarm_protocol::{Content, Ending, Hash, Outcome, StageOptions};

    use super::*;

    fn run(first: u32, count: u32, line: &str) -> Run {
        let stdout = Content::Inline(line.into());
        let outcome = Outcome { stdout, ..Outcome::bare(Ending::Exited(0)) };
        Run { range: Range { first, count }, state: TaskState::ended(End::Done(Results::one(outcome, []))) }
    }

    #[test]
    fn skipped_tasks_have_the_results_of_the_earlier_job() {
        let skip = vec![Range { first: 0, count: 3 }, Range { first: 5, count: 5 }];
        let options = StageOptions { skip, ..StageOptions::default() };
        let stage = StageSpec { count: 10, options, ..StageSpec::plain("a", Hash::of(b"")) };
        let earlier = vec![(1, vec![run(0, 10, "other")]), (0, vec![run(0, 10, "old")])];
        let tasks = Range { first: 0, count: 10 };
        let runs = substitute(&stage, 0, tasks, vec![run(0, 10, "new")], &earlier);
        assert_eq!(runs, [run(0, 3, "old"), run(3, 2, "new"), run(5, 5, "old")]);
    }
}
