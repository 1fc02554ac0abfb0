//! What happened, as text: hashed to compare two runs, printed to read one, as JSON for machines to read.
//!
//! A line of JSON is one object: `time_us`, the microseconds of virtual time; `node`, the number of the node of which it
//! tells, `null` when it is the whole swarm; `to`, the node to which a message goes, only of messages; `what`, the text.
//!
//! A line costs nothing but its time unless somebody wants the text.

use std::fmt::{self, Write as _};
use std::io;

use serde::Serialize;
use swarm_protocol::lattice::{End, Segment};
use swarm_protocol::message::NodeRecord;
use swarm_protocol::{Gossip, Message, Time};

use crate::dice;

/// How much of a run is wanted as text.
pub enum Trace {
    /// Only a rough hash: the moments at which something happened.
    Rough,
    /// The hash of every line.
    Exact,
    /// That, and the lines themselves.
    Printed(Box<dyn io::Write>),
    /// The same lines, as JSON.
    Json(Box<dyn io::Write>),
}

/// Of whom a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nobody alone.
    Swarm,
    /// This node.
    Node(usize),
    /// A message from one node to another.
    Way(usize, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Swarm => Ok(()),
            Self::Node(node) => write!(f, "n{node} "),
            Self::Way(from, to) => write!(f, "n{from} → n{to} "),
        }
    }
}

/// A line for machines.
#[derive(Serialize)]
struct JsonLine<'a> {
    time_us: u64,
    node: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<usize>,
    what: &'a str,
}

/// Hashes, and prints if asked, the lines of a run.
pub(crate) struct Tracer {
    wanted: Trace,
    hash: Fnv,
    line: String,
}

impl Tracer {
    pub(crate) const fn new(wanted: Trace) -> Self {
        Self { wanted, hash: Fnv(0xcbf2_9ce4_8422_2325), line: String::new() }
    }

    /// Notes one line.
    pub(crate) fn note(&mut self, at: Time, place: Place, text: fmt::Arguments<'_>) {
        if let Trace::Rough = self.wanted {
            self.hash.0 = dice::mix(self.hash.0 ^ at.as_micros());
            return;
        }
        self.line.clear();
        writeln!(self.line, "{at} {place}{text}").expect("a String takes every write");
        self.hash.write_str(&self.line).expect("hashing cannot fail");
        // Whoever closes the pipe has read enough.
        match &mut self.wanted {
            Trace::Printed(out) => drop(out.write_all(self.line.as_bytes())),
            Trace::Json(out) => drop(writeln!(out, "{}", json(at, place, &text.to_string()))),
            Trace::Rough | Trace::Exact => {}
        }
    }

    /// The hash of all lines so far.
    pub(crate) const fn hash(&self) -> u64 {
        self.hash.0
    }
}

fn json(at: Time, place: Place, what: &str) -> String {
    let (node, to) = match place {
        Place::Swarm => (None, None),
        Place::Node(node) => (Some(node), None),
        Place::Way(from, to) => (Some(from), Some(to)),
    };
    let line = JsonLine { time_us: at.as_micros(), node, to, what };
    serde_json::to_string(&line).expect("numbers and text are always JSON")
}

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl fmt::Write for Fnv {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

/// A message in one line.
pub(crate) struct Brief<'a>(pub(crate) &'a Message);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Message::Hello(record) => write!(f, "Hello {}", Seen(record)),
            Message::Peers(records) => {
                f.write_str("Peers")?;
                records.iter().try_for_each(|record| write!(f, " {}", Seen(record)))
            }
            Message::Publish(job) => write!(f, "Publish {:?}", job.id()),
            Message::JobPush { job, stop } => write!(f, "JobPush {:?} stop={stop:?}", job.id()),
            Message::Record { shard, epoch, number, segment } => {
                write!(f, "Record {shard:?} {epoch:?} #{number} {}", Facts(segment))
            }
            Message::Merge { shard, segment, .. } => write!(f, "Merge {shard:?} {}", Facts(segment)),
            Message::Report { lease, outcomes } => {
                write!(f, "Report {lease:?}")?;
                outcomes.iter().try_for_each(|(range, outcome)| write!(f, " {range:?} {:?}", outcome.ending))
            }
            Message::Answer { number, .. } => write!(f, "Answer #{number}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// Gossip in one line.
pub(crate) struct BriefGossip<'a>(pub(crate) &'a Gossip);

impl fmt::Display for BriefGossip<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Gossip::Alive(record) => write!(f, "Alive {}", Seen(record)),
            other => write!(f, "{other:?}"),
        }
    }
}

struct Seen<'a>(&'a NodeRecord);

impl fmt::Display for Seen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let NodeRecord { name, incarnation, sequence, slots_free, draining, .. } = self.0;
        write!(f, "{name}:{incarnation}.{sequence} free={slots_free}{}", if *draining { " draining" } else { "" })
    }
}

/// Facts about tasks in one line.
pub(crate) struct Facts<'a>(pub(crate) &'a Segment);

impl fmt::Display for Facts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for run in self.0 {
            let end = match &run.state.end {
                None => "open",
                Some(End::Done(_)) => "done",
                Some(End::Cancelled) => "cancelled",
                Some(End::Exhausted(_)) => "exhausted",
            };
            write!(f, " {:?}={end}", run.range)?;
            if !run.state.failures.is_empty() {
                write!(f, "(failures {})", run.state.failures.len())?;
            }
        }
        Ok(())
    }
}
