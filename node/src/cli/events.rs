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

fn what(event: &EventItem) -> String {
    let tasks = event.tasks.iter().map(|range| match range.count {
        1 => range.first.to_string(),
        count => format!("{}..{}", range.first, range.first.saturating_add(count)),
    });
    let mut words: Vec<String> = event.stage.iter().map(|stage| format!("stage {stage}")).collect();
    words.extend(tasks);
    words.extend(event.name.iter().map(|name| shown(name)));
    words.extend(event.cause.clone());
    words.join(" ")
}
