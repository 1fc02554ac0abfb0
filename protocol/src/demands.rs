//! Where a task may run and where it would rather run: conditions on what nodes say of themselves.
//!
//! Always true: a node that says nothing of an attribute fails every comparison with it but `!=` and `not in`.
//!
//! Elsewhere: the text of a condition is read by `node::jobfile`; who asks for work and is granted some is `claims`.

use core::cmp::Ordering;
use core::fmt;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{NodeRecord, StageSpec};

/// Conditions of one stage: each is looked at for every grant.
pub const CONDITIONS_MAX: usize = 64;

/// `where`: conditions on the nodes that run a stage's tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Where {
    /// All must hold.
    #[serde(default)]
    pub require: Vec<Condition>,
    /// Nodes for which all hold are given the tasks first.
    #[serde(default)]
    pub prefer: Vec<Condition>,
    /// Nodes for which one of them holds are given the tasks last.
    #[serde(default)]
    pub avoid: Vec<Condition>,
}

/// One condition, as `label.zone in (a, b)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Condition {
    /// What is looked at.
    pub attribute: Attribute,
    /// What must be true of it.
    pub test: Test,
}

/// Something that a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Attribute {
    /// Processor architecture.
    Arch,
    /// Memory offered, in bytes.
    Memory,
    /// Tasks run at once.
    Slots,
    /// `--label K=V`.
    Label(String),
    /// Its id (any prefix counts as equal) or name.
    Node,
    /// The program's version.
    Version,
}

/// What must be true of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Test {
    /// It compares so with the value.
    Compares(Comparison, String),
    /// It is one of these.
    In(Vec<String>),
    /// It is none of these.
    NotIn(Vec<String>),
    /// The node says it at all.
    Exists,
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

/// What one attempt takes of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Resources {
    /// Linear memory in bytes.
    pub memory_bytes_max: u64,
    /// Slots.
    pub slots: u32,
}

impl Where {
    /// Whether nothing is said.
    pub const fn is_empty(&self) -> bool {
        self.require.is_empty() && self.prefer.is_empty() && self.avoid.is_empty()
    }

    /// Whether the node must not be left out.
    pub fn allows(&self, node: &NodeRecord) -> bool {
        self.require.iter().all(|condition| condition.holds(node))
    }

    /// Whether there is no better node.
    pub fn likes(&self, node: &NodeRecord) -> bool {
        self.prefer.iter().all(|it| it.holds(node)) && !self.avoid.iter().any(|it| it.holds(node))
    }

    /// Whether all nodes that it allows are the same to it.
    pub(crate) const fn is_indifferent(&self) -> bool {
        self.prefer.is_empty() && self.avoid.is_empty()
    }

    /// Every condition.
    pub fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.require.iter().chain(&self.prefer).chain(&self.avoid)
    }
}

impl Condition {
    /// Whether it is true of the node.
    pub fn holds(&self, node: &NodeRecord) -> bool {
        let said = self.attribute.said(node);
        let is = |value: &String| said.iter().any(|said| self.attribute.compare(said, value) == Ordering::Equal);
        match &self.test {
            Test::Exists => !said.is_empty(),
            Test::In(values) => values.iter().any(is),
            Test::NotIn(values) => !values.iter().any(is),
            Test::Compares(Comparison::Equal, value) => is(value),
            Test::Compares(Comparison::NotEqual, value) => !is(value),
            Test::Compares(comparison, value) => {
                said.first().is_some_and(|said| comparison.accepts(self.attribute.compare(said, value)))
            }
        }
    }
}

impl Attribute {
    /// What the node says; a node has an id and a name.
    fn said(&self, node: &NodeRecord) -> Vec<String> {
        match self {
            Self::Arch => vec![node.arch.clone()],
            Self::Memory => vec![node.memory_bytes.to_string()],
            Self::Slots => vec![node.slots.to_string()],
            Self::Label(key) => node.labels.get(key).cloned().into_iter().collect(),
            Self::Node => vec![node.node.to_hex(), node.name.clone()],
            Self::Version => vec![node.version.clone()],
        }
    }

    /// Numbers as numbers, versions part by part, other texts as texts.
    fn compare(&self, said: &str, value: &str) -> Ordering {
        let number = |text: &str| text.parse::<f64>().ok().filter(|number| number.is_finite());
        let parts = |text: &str| {
            text.split(['.', '-', '+']).map(|part| (number(part).unwrap_or(-1.0), part.to_owned())).collect::<Vec<_>>()
        };
        match self {
            Self::Node if value.len() >= 6 && said.starts_with(value) => Ordering::Equal,
            Self::Version => parts(said).partial_cmp(&parts(value)).unwrap_or(Ordering::Equal),
            Self::Memory | Self::Slots | Self::Label(_) => match (number(said), number(value)) {
                (Some(said), Some(value)) => said.total_cmp(&value),
                _ => said.cmp(value),
            },
            Self::Arch | Self::Node => said.cmp(value),
        }
    }
}

impl Comparison {
    const fn accepts(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::AtMost => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::AtLeast => ordering.is_ge(),
        }
    }
}

impl Resources {
    /// Whether the node has so much. One that says nothing of its memory is taken to have enough.
    const fn are_on(&self, node: &NodeRecord) -> bool {
        self.slots <= node.slots && (node.memory_bytes == 0 || self.memory_bytes_max <= node.memory_bytes)
    }
}

/// What nodes have to offer for a task.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Needs {
    /// In order of preference.
    pub(crate) resources: Vec<Resources>,
    pub(crate) place: Where,
}

impl Needs {
    pub(crate) fn of(stage: &StageSpec) -> Self {
        Self { resources: stage.resources().collect(), place: stage.options.place.clone() }
    }

    /// Whether this node can run such tasks at all.
    pub(crate) fn fit(&self, node: &NodeRecord) -> bool {
        self.resources.iter().any(|it| it.are_on(node)) && self.place.allows(node)
    }
}

impl StageSpec {
    /// What an attempt takes on this node: the first of the alternatives that the node has; `None` when it has none.
    pub fn resources_on(&self, node: &NodeRecord) -> Option<Resources> {
        self.resources().find(|it| it.are_on(node))
    }

    /// What an attempt takes, in order of preference.
    pub fn resources(&self) -> impl Iterator<Item = Resources> + '_ {
        let first = Resources { memory_bytes_max: self.limits.memory_bytes_max, slots: self.options.slots.max(1) };
        core::iter::once(first).chain(self.options.alternatives.iter().copied())
    }

    /// Whether this node can run its tasks at all.
    pub fn fits(&self, node: &NodeRecord) -> bool {
        self.resources_on(node).is_some() && self.options.place.allows(node)
    }
}

/// What nodes lack that cannot run a stage: the first cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "lacks", rename_all = "snake_case")]
pub enum Unmet {
    /// There is no node.
    Nodes,
    /// A condition that holds for none of them.
    Condition {
        /// As it is written.
        condition: String,
        /// What it is about, as `label.zone`.
        attribute: String,
        /// What they say instead.
        found: Vec<Found>,
    },
    /// More memory or slots than any offers.
    Resources {
        /// The least that is enough.
        memory_bytes: u64,
        /// The same of slots.
        slots: u32,
        /// The most that one offers.
        most_memory_bytes: u64,
        /// The slots of that node.
        most_slots: u32,
    },
    /// Each holds somewhere, but nowhere all with what is needed.
    Together {
        /// The conditions.
        conditions: Vec<String>,
    },
}

/// What some nodes say of an attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Found {
    /// What; `None` where they say nothing.
    pub value: Option<String>,
    /// How many say it.
    pub nodes: usize,
}

impl StageSpec {
    /// Why none of these nodes can run its tasks; said only of those that cannot.
    pub fn unmet(&self, nodes: &[&NodeRecord]) -> Unmet {
        let require = &self.options.place.require;
        let unmet = || require.iter().find(|it| !nodes.iter().any(|node| it.holds(node)));
        if nodes.is_empty() {
            Unmet::Nodes
        } else if let Some(condition) = unmet() {
            Unmet::Condition {
                condition: condition.to_string(),
                attribute: condition.attribute.to_string(),
                found: condition.found(nodes),
            }
        } else if !nodes.iter().any(|node| self.resources_on(node).is_some()) {
            let least = self.resources().last().unwrap_or(Resources { memory_bytes_max: 0, slots: 1 });
            let most = nodes.iter().map(|node| (node.memory_bytes, node.slots)).max().unwrap_or_default();
            Unmet::Resources {
                memory_bytes: least.memory_bytes_max,
                slots: least.slots,
                most_memory_bytes: most.0,
                most_slots: most.1,
            }
        } else {
            Unmet::Together { conditions: require.iter().map(ToString::to_string).collect() }
        }
    }
}

impl Condition {
    /// What nodes say of its attribute, where that is a help; nothing of names.
    fn found(&self, nodes: &[&NodeRecord]) -> Vec<Found> {
        let mut values: BTreeMap<Option<String>, usize> = BTreeMap::new();
        if self.attribute != Attribute::Node {
            nodes.iter().for_each(|node| *values.entry(self.attribute.said(node).pop()).or_default() += 1);
        }
        // That none has it is said already.
        values.retain(|value, _| value.is_some() || self.test != Test::Exists);
        values.into_iter().map(|(value, nodes)| Found { value, nodes }).collect()
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attribute, test } = self;
        match test {
            Test::Compares(comparison, value) => write!(f, "{attribute} {comparison} {value}"),
            Test::In(values) => write!(f, "{attribute} in ({})", values.join(", ")),
            Test::NotIn(values) => write!(f, "{attribute} not in ({})", values.join(", ")),
            Test::Exists => write!(f, "{attribute} exists"),
        }
    }
}

impl fmt::Display for Attribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Arch => f.write_str("arch"),
            Self::Memory => f.write_str("memory"),
            Self::Slots => f.write_str("slots"),
            Self::Label(key) => write!(f, "label.{key}"),
            Self::Node => f.write_str("node"),
            Self::Version => f.write_str("version"),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Greater => ">",
            Self::AtLeast => ">=",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NodeId;

    fn node() -> NodeRecord {
        NodeRecord {
            node: NodeId::from_bytes([0xab; 32]),
            incarnation: 1,
            sequence: 0,
            name: "anna".into(),
            addresses: vec![],
            slots: 4,
            slots_free: 4,
            memory_bytes: 8 << 30,
            labels: BTreeMap::from([("zone".into(), "a".into()), ("rack".into(), "12".into())]),
            arch: "x86_64".into(),
            version: "0.10.2".into(),
            draining: false,
        }
    }

    fn holds(attribute: Attribute, test: Test) -> bool {
        Condition { attribute, test }.holds(&node())
    }

    fn compares(attribute: Attribute, comparison: Comparison, value: &str) -> bool {
        holds(attribute, Test::Compares(comparison, value.into()))
    }

    #[test]
    fn numbers_versions_and_words_compare_as_what_they_are() {
        use Comparison::{AtLeast, AtMost, Equal, Greater, Less, NotEqual};
        assert!(compares(Attribute::Memory, AtLeast, &(8u64 << 30).to_string()));
        assert!(!compares(Attribute::Memory, Greater, &(8u64 << 30).to_string()));
        assert!(compares(Attribute::Slots, Less, "16") && compares(Attribute::Slots, AtMost, "4"));
        assert!(compares(Attribute::Version, Greater, "0.9.7") && compares(Attribute::Version, Less, "0.10.3"));
        assert!(compares(Attribute::Arch, Equal, "x86_64") && compares(Attribute::Arch, NotEqual, "aarch64"));
        assert!(compares(Attribute::Label("rack".into()), Greater, "9"));
        assert!(compares(Attribute::Node, Equal, "anna") && compares(Attribute::Node, Equal, "ababab"));
    }

    #[test]
    fn what_a_node_does_not_say_it_only_differs_from() {
        let label = || Attribute::Label("disk".into());
        assert!(!holds(label(), Test::Exists) && !holds(label(), Test::In(vec!["nvme".into()])));
        assert!(holds(label(), Test::NotIn(vec!["nvme".into()])));
        assert!(compares(label(), Comparison::NotEqual, "nvme") && !compares(label(), Comparison::Less, "nvme"));
        assert!(holds(Attribute::Label("zone".into()), Test::In(vec!["b".into(), "a".into()])));
    }

    #[test]
    fn a_condition_is_shown_as_it_is_written() {
        let zone =
            Condition { attribute: Attribute::Label("zone".into()), test: Test::NotIn(vec!["a".into(), "b".into()]) };
        assert_eq!(zone.to_string(), "label.zone not in (a, b)");
    }
}
