//! `swarm events`: what a node hears of, from where the reader was on.

use super::args::{self, Global};
use super::output::{Format, Row, json, list, print, shown};
use crate::api::view::{EVENTS, EventItem, List};
use crate::api::{Client, Failure};

/// `swarm events`.
pub(super) async fn events(client: &Client, global: &Global, args: &args::Events) -> Result<(), Failure> {
    let mut events = client.events(args.since, args.job.as_deref(), args.follow).await?;
    if args.follow {
        return follow(&mut events, global.output).await;
    }
    let mut items = Vec::new();
    while let Some(event) = events.next().await? {
        items.push(event);
    }
    list(global.output, &List::new(EVENTS, items))
}

/// Until the node ends or Ctrl-C.
async fn follow(events: &mut crate::api::EventReader, format: Format) -> Result<(), Failure> {
    loop {
        let next = tokio::select! {
            next = events.next() => next?,
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(event) = next else { return Ok(()) };
        print(&match format {
            Format::Table => format!("{}\n", event.cells().join("  ")),
            Format::Json | Format::Jsonl => json(&event)?,
            Format::Id => format!("{}\n", event.seq),
        })?;
    }
}

impl Row for EventItem {
    const HEADER: &'static [&'static str] = &["SEQ", "AT", "KIND", "JOB", "WHAT"];

    fn cells(&self) -> Vec<String> {
        let job = self.job.as_deref().unwrap_or_default().chars().take(6).collect();
        vec![self.seq.to_string(), self.at.clone(), self.kind.clone(), job, what(self)]
    }

    fn id(&self) -> String {
        self.seq.to_string()
    }
}

/// `tile[0..8, 9]`, and what else there is to say.
fn what(event: &EventItem) -> String {
    let tasks = event.tasks.iter().map(|range| match range.count {
        1 => range.first.to_string(),
        count => format!("{}..{}", range.first, range.first.saturating_add(count)),
    });
    let tasks = tasks.collect::<Vec<_>>().join(", ");
    let stage = event.stage_name.as_deref().map(shown).or_else(|| Some(format!("stage {}", event.stage?)));
    let tasks = stage.map(|stage| format!("{stage}[{tasks}]"));
    let name = event.name.as_deref().map(shown);
    tasks.into_iter().chain(name).chain(event.cause.clone()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::TaskRange;

    #[test]
    fn tasks_are_named_as_everywhere() {
        let range = |first, count| TaskRange { first, count, change: None };
        let tasks = vec![range(0, 8), range(9, 1)];
        let event = EventItem { stage: Some(1), tasks, ..EventItem::default() };
        assert_eq!(what(&event), "stage 1[0..8, 9]", "of an earlier version");
        assert_eq!(what(&EventItem { stage_name: Some("tile".into()), ..event }), "tile[0..8, 9]");
    }
}
