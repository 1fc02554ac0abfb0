//! What may go wrong in a run, by name, and which of it a seed switches on.
//!
//! Always true: whether and how a seed switches on one kind does not depend on the other kinds, so a run without some of
//! them differs as little as possible. The one exception is `wipe-after-ack`, which tolerates few others.
//!
//! Elsewhere: doing it to the swarm is `strikes` and its neighbours; the network's own faults are done by `network`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use fastrand::Rng;

use crate::dice;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Fault {
    /// Messages and gossip vanish.
    Loss,
    /// Messages arrive twice.
    Duplication,
    /// Messages overtake others, or arrive on a later link than that on which they were sent.
    Reordering,
    /// Messages arrive up to 5 s late, and hold up those behind them.
    Delay,
    /// The swarm falls into two halves for a while.
    Partition,
    /// Packets from some nodes to the others vanish for a while; the other way they pass.
    OneWay,
    /// Some nodes do not see some others for a while, and the rest see both.
    Bridge,
    /// A link breaks and may be dialled again at once.
    LinkCut,
    /// A link is closed at one end, the other takes it for open for up to 25 s, and neither hears the other meanwhile.
    HalfOpen,
    /// A node takes messages at a crawl; peers give up a link of which too many wait.
    SlowReader,
    /// A process ends without a word, and starts again on the same disk.
    Crash,
    /// The same in the middle of a write.
    CrashInWrite,
    /// All machines lose their power at once.
    PowerCut,
    /// A node stands still for up to 10 s, and finds its events waiting when it goes on.
    Pause,
    /// A node stands still for one to ten minutes; the storm lasts as long.
    LongPause,
    /// The event loop of a node handles nothing for up to 6 s, while its network layer goes on accepting.
    Stall,
    /// A wall clock is set forward or back by up to an hour: the core must not notice.
    ClockJump,
    /// Clocks run up to 500 ppm too fast or too slow.
    ClockDrift,
    /// A node loses its records and blobs, but not its identity, and starts again. Only when others have all that it has.
    Wipe,
    /// The same, but it finds an old copy of them.
    OldDisk,
    /// A node that has just acknowledged something loses its disk, whatever others have; no other fault but those of
    /// single messages and clocks happens in such a run.
    WipeAfterAck,
    /// A second machine runs with the identity of a node, on a copy of its disk, perhaps an old one.
    Twin,
    /// A crash loses what was not synced.
    LostWrites,
    /// A crash tears the batch that was being written, and loses those after it.
    TornWrite,
    /// Syncs take up to half a second, and rarely 3 s.
    SlowSync,
    /// A disk takes no batch for a while: the node stops, and whenever it starts, until there is room.
    FullDisk,
    /// The records cannot be read at a start: the node refuses to start, and is tried again.
    ReadError,
    /// A node is told to drain; when it is drained it leaves for good, or comes back later.
    Drain,
    /// Some tasks trap or exit with a code, always.
    GuestTraps,
    /// Some tasks never end by themselves.
    GuestHangs,
    /// Some tasks take the node down that runs them, always.
    GuestKills,
    /// Some successful tasks leave something else behind on one machine than on all others.
    GuestLies,
}

impl Fault {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What it is, in one line.
    pub fn help(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|value| value.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// Within how many seconds it strikes again; `None` for what is not done to the swarm from time to time.
    const fn again_within(self) -> Option<u64> {
        match self {
            Self::LinkCut => Some(4),
            Self::Crash | Self::CrashInWrite | Self::Pause | Self::Stall | Self::ClockJump => Some(8),
            Self::Wipe | Self::OldDisk | Self::FullDisk | Self::Twin | Self::Drain => Some(10),
            Self::Partition | Self::OneWay | Self::Bridge | Self::HalfOpen | Self::SlowReader => Some(12),
            Self::PowerCut | Self::LongPause => Some(20),
            _ => None,
        }
    }

    /// Whether no node is ever hindered, cut off or stopped by it, so that two copies are two copies.
    const fn hinders_nobody(self) -> bool {
        let of_messages = matches!(self, Self::Loss | Self::Duplication | Self::Reordering);
        of_messages || matches!(self, Self::ClockJump | Self::ClockDrift | Self::WipeAfterAck)
    }

    /// How much rarer than others a seed switches it on: one in so many of those that otherwise would.
    const fn rarity(self) -> u32 {
        match self {
            Self::PowerCut | Self::SlowSync => 2,
            // It drives out others.
            Self::WipeAfterAck => 3,
            // Each costs as much as some other runs.
            Self::LongPause => 3,
            _ => 1,
        }
    }
}

/// Some kinds of faults: `all`, `none`, or names with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultSet(BTreeSet<Fault>);

impl FaultSet {
    /// Every kind.
    pub fn all() -> Self {
        Self(Fault::value_variants().iter().copied().collect())
    }

    /// No kind.
    pub const fn none() -> Self {
        Self(BTreeSet::new())
    }

    /// Whether this kind is one of them.
    pub fn contains(&self, fault: Fault) -> bool {
        self.0.contains(&fault)
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = Fault> + '_ {
        self.0.iter().copied()
    }

    /// All but this one.
    #[must_use]
    pub fn without(&self, fault: Fault) -> Self {
        Self(self.iter().filter(|other| *other != fault).collect())
    }
}

impl FromIterator<Fault> for FaultSet {
    fn from_iter<I: IntoIterator<Item = Fault>>(faults: I) -> Self {
        Self(faults.into_iter().collect())
    }
}

impl fmt::Display for FaultSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Fault::name).collect();
        match names.len() {
            0 => f.write_str("none"),
            len if len == Fault::value_variants().len() => f.write_str("all"),
            _ => f.write_str(&names.join(",")),
        }
    }
}

/// A name that no kind of fault has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault `{name}`; there are all, none, {}", FaultSet::all().iter().map(Fault::name).collect::<Vec<_>>().join(", "))]
pub struct UnknownFault {
    name: String,
}

impl FromStr for FaultSet {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let kind = |name: &str| Fault::from_str(name, false).map_err(|_| UnknownFault { name: name.into() });
        match text {
            "all" => Ok(Self::all()),
            "none" => Ok(Self::none()),
            names => names.split(',').map(|name| kind(name.trim())).collect(),
        }
    }
}

/// The faults that one seed switched on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    on: FaultSet,
    /// What the network does to single messages.
    pub(crate) rates: Rates,
}

/// How often single messages suffer, per thousand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) loss: u32,
    pub(crate) duplication: u32,
    pub(crate) reordering: u32,
    pub(crate) delay: u32,
}

/// Which share of all kinds a seed may switch on, per cent: many at once, or few, so that quiet combinations are met too.
const SHARES: [u32; 8] = [0, 10, 20, 20, 35, 35, 50, 70];

impl Faults {
    /// What this seed switches on of what is allowed.
    pub(crate) fn choose(seed: u64, allowed: &FaultSet) -> Self {
        let share = SHARES[dice::fork(seed, "faults").usize(..SHARES.len())];
        let is_on = |fault: &Fault| dice::fork(seed, &fault.name()).u32(0..100 * fault.rarity()) < share;
        let mut on: FaultSet = allowed.iter().filter(is_on).collect();
        if on.contains(Fault::WipeAfterAck) {
            on = on.iter().filter(|fault| fault.hinders_nobody()).collect();
        }
        let rate = |fault, most| if on.contains(fault) { dice_of(seed, fault).u32(1..=most) } else { 0 };
        let rates = Rates {
            loss: rate(Fault::Loss, 100),
            duplication: rate(Fault::Duplication, 100),
            reordering: rate(Fault::Reordering, 100),
            delay: rate(Fault::Delay, 50),
        };
        Self { on, rates }
    }

    /// Nothing but messages that vanish, so many of a thousand.
    pub(crate) fn only_loss(loss: u32) -> Self {
        Self { on: FaultSet::from_iter([Fault::Loss]), rates: Rates { loss, ..Rates::default() } }
    }

    /// Exactly these, as far as they are no matter of rates.
    pub(crate) fn exactly(on: FaultSet) -> Self {
        Self { on, rates: Rates::default() }
    }

    /// The kinds that are switched on.
    pub const fn on(&self) -> &FaultSet {
        &self.on
    }

    /// Whether this kind is switched on.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.on.contains(fault)
    }

    /// Whether nodes may stop without a word.
    pub(crate) fn end_processes(&self) -> bool {
        use Fault::{
            Crash, CrashInWrite, FullDisk, GuestKills, LongPause, OldDisk, Pause, PowerCut, ReadError, Stall, Wipe,
        };
        let all =
            [Crash, CrashInWrite, FullDisk, GuestKills, LongPause, OldDisk, Pause, PowerCut, ReadError, Stall, Wipe];
        all.into_iter().any(|fault| self.has(fault))
    }

    /// The strikes that are switched on, each with the seconds within which it comes again.
    pub(crate) fn strikes(&self) -> Vec<(Fault, u64)> {
        self.on.iter().filter_map(|fault| Some((fault, fault.again_within()?))).collect()
    }
}

/// The dice of one kind of fault.
pub(crate) fn dice_of(seed: u64, fault: Fault) -> Rng {
    dice::fork(dice::mix(seed), &fault.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_read_as_it_is_written() {
        for text in ["all", "none", "loss", "loss,power-cut"] {
            assert_eq!(text.parse::<FaultSet>().unwrap().to_string(), text);
        }
        let error = "loss,storm".parse::<FaultSet>().unwrap_err().to_string();
        assert!(error.starts_with("there is no fault `storm`; there are all, none, loss, "), "{error}");
    }

    #[test]
    fn what_is_not_allowed_changes_nothing_else() {
        for seed in 0..100 {
            let everything = Faults::choose(seed, &FaultSet::all());
            let less = Faults::choose(seed, &FaultSet::all().without(Fault::Delay));
            assert_eq!(*less.on(), everything.on().without(Fault::Delay));
            assert_eq!(less.rates, Rates { delay: 0, ..everything.rates });
        }
    }
}
