//! What happened, as text: hashed to compare two runs, printed to read one.
//!
//! A line costs nothing but its time unless somebody wants the text.

use std::fmt::{self, Write as _};
use std::io;

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
    pub(crate) fn note(&mut self, at: Time, text: fmt::Arguments<'_>) {
        if let Trace::Rough = self.wanted {
            self.hash.0 = dice::mix(self.hash.0 ^ at.as_micros());
            return;
        }
        self.line.clear();
        writeln!(self.line, "{at} {text}").expect("a String takes every write");
        self.hash.write_str(&self.line).expect("hashing cannot fail");
        if let Trace::Printed(out) = &mut self.wanted {
            // Whoever closes the pipe has read enough.
            drop(out.write_all(self.line.as_bytes()));
        }
    }

    /// The hash of all lines so far.
    pub(crate) const fn hash(&self) -> u64 {
        self.hash.0
    }
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
            Message::Merge { shard, segment } => write!(f, "Merge {shard:?} {}", Facts(segment)),
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
