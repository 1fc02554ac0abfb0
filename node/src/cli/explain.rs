//! `swarm explain`: why a job or some of its tasks are not done, and what to type next.

use super::args::{self, Global};
use super::output::{Format, json, print, shown};
use super::target::Target;
use crate::api::view::{Explanation, JobItem};
use crate::api::{Client, Failure};

/// `swarm explain`.
pub(super) async fn explain(client: &Client, global: &Global, args: &args::Explain) -> Result<(), Failure> {
    let target = Target::parse(&args.target)?;
    let (id, tasks) = match target.is_whole() {
        true => (target.job.clone(), None),
        false => {
            let job = client.job(&target.job).await?;
            let selected = target.select(&job)?.into_iter().next();
            (job.item.job, selected.map(|selected| (selected.stage, selected.tasks)))
        }
    };
    let explanation = client.explain(&id, tasks).await?;
    print(&match global.output {
        Format::Table => text(&explanation),
        Format::Json => json(&explanation)?,
        Format::Jsonl => explanation.reasons.iter().map(json).collect::<Result<_, _>>()?,
        Format::Id => format!("{}\n", explanation.id),
    })
}

/// The state, a line for each reason, and what to type next.
fn text(explanation: &Explanation) -> String {
    let Explanation { id, state, done, tasks, reasons, not_asked, next, .. } = explanation;
    let mut text = format!("{id}: {}, {done} of {tasks} done\n", JobItem::state_word(*state));
    if reasons.is_empty() {
        text.push_str("  nothing is in its way as far as this node can tell\n");
    }
    reasons.iter().for_each(|reason| text.push_str(&format!("  {}\n", shown(&reason.text))));
    for (stage, groups) in not_asked {
        text.push_str(&format!("  {}: {groups} more groups of tasks were not looked at\n", shown(stage)));
    }
    text.push_str(&format!("{next}\n"));
    text
}
