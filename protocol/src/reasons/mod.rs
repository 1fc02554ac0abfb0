//! Why a job, or some tasks of it, are not done: what follows from what its custodians and the members say.
//!
//! Always true: a plain function of its evidence. The root cause comes first, equal reasons are one, and what is only a
//! consequence of another reason comes last.
//!
//! `asking` says about what custodians should be asked, `evidence` is what they said; from it follow the `causes` of what is
//! `past`, or of what is `present`, told in their `order`.
//!
//! Elsewhere: the evidence is gathered by `node::explain`, which also puts the reasons into words.

mod asking;
mod causes;
mod evidence;
mod order;
mod past;
mod present;

pub use self::asking::{SHARDS_ASKED_MAX, not_asked, to_ask};
pub use self::causes::{Cause, Named, NodeGone, Reason, RunningOn, last_line};
pub use self::evidence::{Evidence, Target};
use self::order::{merged, rank};

/// Nodes named in one reason.
const NODES_NAMED_MAX: usize = 8;

/// Why it is not done. Empty only when nothing is known.
pub fn reasons(evidence: &Evidence) -> Vec<Reason> {
    let mut reasons = if evidence.status.state().is_over() { evidence.past() } else { evidence.present() };
    reasons = merged(reasons);
    let own = |reason: &Reason| evidence.target_name().is_none_or(|name| reason.stage.as_deref() == Some(name));
    // What the user asked about comes first, then why that waits.
    reasons.sort_by_key(|reason| (!own(reason), rank(&reason.cause)));
    reasons
}
