//! Why no node can run a stage, for programs and for people.
//!
//! Elsewhere: what a stage demands is `demands`; other reasons are `reasons`.

use core::fmt;
use std::collections::BTreeMap;

use bytesize::ByteSize;
use serde::Serialize;

use crate::demands::{Attribute, Condition, Resources, Test};
use crate::{NodeRecord, StageSpec};

/// Values of an attribute that are named where none fits.
const VALUES_NAMED_MAX: usize = 4;

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

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodes => f.write_str("no node is alive"),
            Self::Condition { condition, attribute, found } => {
                write!(f, "no node satisfies `{}`", condition_text(condition))?;
                let found: Vec<String> = found.iter().take(VALUES_NAMED_MAX).map(|it| it.text(attribute)).collect();
                if found.is_empty() { Ok(()) } else { write!(f, " ({})", found.join("; ")) }
            }
            Self::Resources { memory_bytes, slots, most_memory_bytes, most_slots } => {
                let (wanted, slots) = (size(*memory_bytes), count(*slots as usize, "slot"));
                let most = size(*most_memory_bytes);
                write!(f, "it needs {wanted} and {slots}, and the largest node offers {most} and {most_slots}")
            }
            Self::Together { conditions } => {
                let all: Vec<String> = conditions.iter().map(|it| format!("`{}`", condition_text(it))).collect();
                write!(f, "no node satisfies all of {} and offers what it needs", all.join(", "))
            }
        }
    }
}

impl Found {
    fn text(&self, attribute: &str) -> String {
        let (key, is_label) = attribute.strip_prefix("label.").map_or((attribute, false), |key| (key, true));
        let nodes = count(self.nodes, "node");
        match &self.value {
            Some(value) => format!("{nodes}: {key} = {}", value_text(attribute, value)),
            None if is_label => format!("{nodes}: no label"),
            None => format!("{nodes}: nothing said"),
        }
    }
}

/// A condition as its user would write it: nodes and specs know sizes in bytes alone.
fn condition_text(condition: &str) -> String {
    match condition.split_once(' ') {
        Some(("memory", test)) => {
            let words: Vec<String> = test.split(' ').map(|word| value_text("memory", word)).collect();
            format!("memory {}", words.join(" "))
        }
        _ => condition.to_owned(),
    }
}

fn value_text(attribute: &str, value: &str) -> String {
    match (attribute, value.parse()) {
        ("memory", Ok(bytes)) => size(bytes),
        _ => value.to_owned(),
    }
}

/// `1.5GiB`, in one word, as job files have it.
fn size(bytes: u64) -> String {
    ByteSize(bytes).to_string().replace(' ', "")
}

/// `1 node`, `2 nodes`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_on_memory_is_told_in_its_units() {
        assert_eq!(condition_text("memory >= 17179869184"), "memory >= 16.0GiB");
        assert_eq!(condition_text("label.zone in (a, 1024)"), "label.zone in (a, 1024)");
    }
}
