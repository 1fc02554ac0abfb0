//! Bootstrap addresses with a host's name (`/dns4/seed.example/tcp/4001`): the system looks the name up, again and again,
//! because the machine behind a name changes.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use tokio::net::lookup_host;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::driver::Command;

/// How soon a name that has been found is looked up again.
const FOUND_AGAIN: Duration = Duration::from_secs(30);
/// How soon a name that has not been found is looked up again.
const MISSED_AGAIN: Duration = Duration::from_secs(2);

/// Whether the address begins with a name.
pub(super) fn has_name(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_)))
}

/// Looks the name up for as long as the network lives, and hands what is found to the driver.
pub(super) async fn keep_resolving(address: Multiaddr, commands: mpsc::WeakSender<Command>) {
    loop {
        let wait = match resolve(&address).await {
            Ok(found) => {
                let Some(commands) = commands.upgrade() else { return };
                if commands.send(Command::Bootstrap(found)).await.is_err() {
                    return;
                }
                FOUND_AGAIN
            }
            Err(error) => {
                tracing::debug!(%address, "name not found: {error}");
                MISSED_AGAIN
            }
        };
        sleep(wait).await;
    }
}

/// The addresses with numbers instead of the name.
async fn resolve(address: &Multiaddr) -> io::Result<Vec<Multiaddr>> {
    let (name, wanted): (_, fn(&IpAddr) -> bool) = match address.iter().next() {
        Some(Protocol::Dns(name)) => (name, |_| true),
        Some(Protocol::Dns4(name)) => (name, IpAddr::is_ipv4),
        Some(Protocol::Dns6(name)) => (name, IpAddr::is_ipv6),
        _ => return Ok(vec![address.clone()]),
    };
    let found = lookup_host((name.as_ref(), 0)).await?.map(|socket| socket.ip()).filter(wanted);
    let numbered = |ip: IpAddr| std::iter::once(Protocol::from(ip)).chain(address.iter().skip(1)).collect();
    Ok(found.map(numbered).collect())
}
