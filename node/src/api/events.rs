//! The events of a node, as lines that a reader takes at its own pace.
//!
//! Always true: a reader that gives the number of the last line that it dealt with gets all that followed, or a line of kind
//! `gap` first.

use std::io;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::StreamExt;
use serde::Deserialize;
use swarm_protocol::JobId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::server::{Answer, Api, named};
use super::view::EventItem;
use crate::events::Events;

/// Events in one piece.
const PIECE_EVENTS_MAX: usize = 1024;

pub(super) fn routes() -> Router<Api> {
    Router::new().route("/v1/events", get(events))
}

#[derive(Deserialize)]
struct EventsQuery {
    since: Option<u64>,
    job: Option<String>,
    #[serde(default)]
    follow: bool,
}

async fn events(State(api): State<Api>, Query(query): Query<EventsQuery>) -> Answer<Response> {
    let job = match &query.job {
        Some(id) => Some(named(&api.handle, id).await?),
        None => None,
    };
    let (lines, read) = mpsc::channel(2);
    let events = api.handle.events().clone();
    tokio::spawn(send(events, query.since, job, query.follow, lines));
    let body = Body::from_stream(ReceiverStream::new(read).map(Ok::<_, io::Error>));
    Ok(([(header::CONTENT_TYPE, "application/jsonl")], body).into_response())
}

/// Ends when the reader goes away, or has all and does not follow.
async fn send(events: Events, since: Option<u64>, job: Option<JobId>, follow: bool, lines: mpsc::Sender<Vec<u8>>) {
    let mut news = events.watch();
    let mut cursor = since;
    loop {
        news.mark_unchanged();
        let read = events.after(cursor, PIECE_EVENTS_MAX);
        let is_wanted = |event: &&crate::events::Numbered| job.is_none() || event.what.job() == job;
        let gap = read.gap.map(EventItem::gap);
        let items = gap.into_iter().chain(read.events.iter().filter(is_wanted).map(EventItem::of));
        let piece: Vec<u8> = items.flat_map(|item| line(&item)).collect();
        if !piece.is_empty() && lines.send(piece).await.is_err() {
            return;
        }
        cursor = Some(read.cursor);
        if !read.events.is_empty() {
            continue;
        }
        if !follow {
            return;
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() { return },
            () = lines.closed() => return,
        }
    }
}

fn line(item: &EventItem) -> Vec<u8> {
    let mut line = serde_json::to_vec(item).expect("our documents are plain");
    line.push(b'\n');
    line
}
