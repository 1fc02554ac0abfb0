//! The local API: HTTP/1.1 over a Unix socket in the data directory, for the `swarm` command and for `curl`.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`view::NodeStatus`] |
//! | `GET /v1/nodes` | [`view::List`] of [`view::NodeItem`] |
//! | `GET /v1/jobs` | [`view::List`] of [`view::JobItem`], the newest first |
//! | `POST /v1/jobs` | takes the encoding of a `JobSpec` whose blobs are on the node; [`view::Submitted`] |
//! | `GET /v1/jobs/{id}` | [`view::JobDetail`]; the id in any form of [`ids`], here and below; `?wait_ms=N` answers when the job is over, or after so long |
//! | `GET /v1/jobs/{id}/tasks` | lines of [`view::TaskRun`], in task order; `?stage=N` and `?from=INDEX` narrow it |
//! | `GET /v1/jobs/{id}/running` | [`view::List`] of [`view::RunningTask`]: the first tasks of `?stage=N` that run now, `?from=INDEX` on |
//! | `GET /v1/jobs/{id}/news` | [`view::TaskNews`] of `?stage=N&task=INDEX`, behind `&stdout=N&stderr=N` bytes: at once, or within half a second when there is none |
//! | `GET /v1/jobs/{id}/explain` | [`view::Explanation`]; `?stage=N&first=INDEX&count=N` means some tasks |
//! | `GET /v1/jobs/{id}/spec` | the job file as it was written |
//! | `POST /v1/jobs/{id}/cancel` | [`view::JobDetail`] after it |
//! | `HEAD /v1/blobs/{hex}` | 200 when the blob is on the node |
//! | `PUT /v1/blobs/{hex}` | takes the bytes; [`view::Stored`] |
//! | `GET /v1/blobs/{hex}` | the bytes, fetched from other nodes when they must be; `?from=NODE,NODE` says who may have them, `?offset=N` begins there |
//! | `GET /v1/events` | lines of [`view::EventItem`]; `?since=SEQ`, `?job=ID`, `?follow=true` |
//! | `GET /v1/modules` | [`view::List`] of [`view::ModuleItem`]; `?name=NAME` narrows it |
//! | `POST /v1/modules` | takes a [`view::PublishModule`] whose module is on the node; [`view::ModuleItem`] |
//! | `GET /v1/modules/{reference}` | the [`view::ModuleItem`] that `NAME@VERSION` means |
//! | `POST /v1/modules/yank` | takes a [`view::YankModule`]; the list of that name after it |
//! | `GET /v1/kept` | [`view::List`] of [`view::BlobItem`]: every blob on the node |
//! | `POST`, `DELETE /v1/kept/{hex}` | pins and unpins a blob |
//! | `POST /v1/collect` | [`view::CollectedBlobs`]; `?grace_ms=N` for another grace than the node's own |
//! | `POST /v1/drain` | [`view::Drained`] when everything owed is handed over, or the time is over; then the process ends; `?timeout_ms=N` |
//! | `POST /v1/nodes/{id}/drain` | the same of another node, by its name or the beginning of its id; answers when it has left |
//!
//! Always true: only the owner of the data directory can connect (the socket's mode is 0600); every body has a limit; an
//! error is a [`Failure`] as JSON.

mod client;
mod error;
mod events;
pub mod ids;
mod keeping;
mod modules;
mod news;
mod server;
mod socket;
pub mod view;

pub use client::{BlobReader, Client, EventReader};
pub use error::{Code, Failure, causes};
pub use server::Server;
pub use socket::{SOCKET_NAME, SocketError};
