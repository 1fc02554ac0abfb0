//! From a failing run to the smallest one that breaks the same invariant.

use crate::faults::{Fault, FaultSet};
use crate::run::{Report, run};
use crate::scenario::Scenario;
use crate::trace::Trace;

/// Tries fewer faults, nodes, tasks and a shorter storm as long as the same invariant breaks. The last report is that of
/// the smallest run; `None` when the scenario itself breaks nothing. `tell` hears of each step.
pub fn shrink(scenario: &Scenario, mut tell: impl FnMut(&Report)) -> Option<Report> {
    let mut smallest = run(scenario, Trace::Rough);
    let invariant = smallest.violation.as_ref()?.invariant;
    tell(&smallest);
    let breaks_it = |report: &Report| report.violation.as_ref().is_some_and(|it| it.invariant == invariant);
    while let Some(smaller) = smaller(&smallest).map(|it| run(&it, Trace::Rough)).find(breaks_it) {
        tell(&smaller);
        smallest = smaller;
    }
    Some(smallest)
}

/// Scenarios that are one step smaller, the greatest steps first.
fn smaller(report: &Report) -> impl Iterator<Item = Scenario> + use<> {
    let scenario = report.scenario.clone();
    let met: FaultSet = report.faults.on().iter().filter(|fault| report.census.hits(*fault) > 0).collect();
    let on: Vec<Fault> = report.faults.on().iter().collect();
    let only_met = (met != scenario.faults).then_some(met);
    let one_less = on.into_iter().map({
        let faults = scenario.faults.clone();
        move |fault| faults.without(fault)
    });
    let faults = only_met.into_iter().chain(one_less);
    let nodes = 1..scenario.nodes;
    let tasks = less(u64::from(scenario.tasks));
    let storms = less(scenario.storm_seconds());
    let (a, b, c, d) = (scenario.clone(), scenario.clone(), scenario.clone(), scenario);
    faults
        .map(move |faults| Scenario { faults, ..a.clone() })
        .chain(nodes.map(move |nodes| Scenario { nodes, ..b.clone() }))
        .chain(tasks.map(move |tasks| Scenario { tasks: tasks as u32, ..c.clone() }))
        .chain(storms.map(move |storm| Scenario { storm: Some(storm), ..d.clone() }))
}

/// Smaller numbers, at least 1: a quarter, a half, three quarters, and one less.
fn less(number: u64) -> impl Iterator<Item = u64> {
    let steps = [number / 4, number / 2, number * 3 / 4, number.saturating_sub(1)];
    steps.into_iter().filter(move |step| (1..number).contains(step))
}
