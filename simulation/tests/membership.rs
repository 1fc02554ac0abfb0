//! Who is in a swarm that is too large for a link between each two.

use swarm_simulation::{MembershipOptions, membership};

#[test]
fn a_crash_is_soon_known_to_all_and_nobody_alive_is_mourned() {
    let report = membership(&MembershipOptions { nodes: 150, loss: 20, churn: 20, minutes: 2, seed: 1 });
    assert!(report.crashes() > 0 && report.is_good(), "{report}");
    assert_eq!(report.wrong_at_the_end, 0, "{report}");
}
