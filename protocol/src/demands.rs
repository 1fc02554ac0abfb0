//! Where a task may run and where it would rather run: conditions on what nodes say of themselves.
//!
//! Always true: a node that says nothing of an attribute fails every comparison with it but `!=` and `not in`.
//!
//! Elsewhere: the text of a condition is read by `node::jobfile`; why no node is allowed is `unmet`; who asks for work and is
//! granted some is `claims`.

use core::cmp::Ordering;
use core::fmt;
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
    /// Which of those that are left.
    #[serde(default)]
    pub strategy: Strategy,
}

/// Which of several nodes that may run a task is given it; a wish, for which nothing waits long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// The one that asks first: those with nothing to do do.
    #[default]
    Any,
    /// One with as few tasks of the same shard as any: what one node's end takes with it is little.
    Spread,
    /// The one with the fewest free slots: whole nodes stay free for what needs them.
    Pack,
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
        self.require.is_empty() && self.is_indifferent()
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
        self.prefer.is_empty() && self.avoid.is_empty() && matches!(self.strategy, Strategy::Any)
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
    pub(crate) fn said(&self, node: &NodeRecord) -> Vec<String> {
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
    use std::collections::BTreeMap;

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
