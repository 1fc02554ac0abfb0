//! A network of its own for each node, so that some can be cut off from the others while users reach all of them.
//!
//! Every node has a network namespace with one address; a further namespace, the hub, has two bridges. All nodes are at
//! the first bridge; whoever is cut off is moved to the second. The sockets of the local API are files, so users on both
//! sides go on.
//!
//! Always true: what was made is removed when this is dropped. Names carry the id of this process, and what an earlier
//! process left behind because it was killed is removed first.
//!
//! Why not a proxy on loopback: nodes learn each other's addresses from each other and dial them past any proxy. Who is
//! not root can have a root of his own: `unshare -Urnm sh -c 'mount -t tmpfs tmpfs /run && swarm-sim cluster …'`.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use super::ClusterError;
use super::node::Transport;

const NAMED: &str = "/run/netns";
const PREFIX: &str = "swarm-sim-";
/// Addresses are 10.87.0.1 and so on: the last byte counts the nodes.
const NODES_MAX: usize = 250;
/// Nothing else listens in a namespace of our own.
const PORT: u16 = 4100;

/// Where a node's processes live.
#[derive(Clone, Debug)]
pub(super) enum Home {
    /// On this machine's loopback.
    Here,
    /// In a network namespace.
    Apart { namespace: String, host: String },
}

impl Home {
    /// A command that runs `program` there; it keeps the process id.
    pub(super) fn command(&self, program: &Path) -> Command {
        match self {
            Self::Here => Command::new(program),
            Self::Apart { namespace, .. } => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        }
    }

    /// Where to listen for the first time.
    pub(super) fn listen(&self, transport: Transport) -> String {
        let port = match self {
            Self::Here => 0,
            Self::Apart { .. } => PORT,
        };
        let suffix = if transport == Transport::Quic { "/quic-v1" } else { "" };
        format!("{}{port}{suffix}", transport.at(self.host()))
    }

    /// The host of its address.
    pub(super) fn host(&self) -> &str {
        match self {
            Self::Here => "127.0.0.1",
            Self::Apart { host, .. } => host,
        }
    }
}

/// The networks of some nodes.
#[derive(Debug)]
pub(super) struct Namespaces {
    prefix: String,
    nodes: usize,
}

impl Namespaces {
    /// Makes the networks of `nodes` nodes, all at the first bridge.
    pub(super) fn create(nodes: usize) -> Result<Self, ClusterError> {
        if nodes > NODES_MAX {
            return Err(ClusterError::Options(format!("partitions are for at most {NODES_MAX} nodes")));
        }
        remove_left_behind();
        let namespaces = Self { prefix: format!("{PREFIX}{}-", std::process::id()), nodes };
        ip(&[], &namespaces.add_namespaces())?;
        let hub = namespaces.hub();
        ip(&["-n", &hub], &namespaces.build_hub())?;
        for node in 0..nodes {
            ip(&["-n", &namespaces.name(node)], &settle(node))?;
        }
        Ok(namespaces)
    }

    /// Where a node lives.
    pub(super) fn home(&self, node: usize) -> Home {
        Home::Apart { namespace: self.name(node), host: host(node) }
    }

    /// Cuts these nodes off from all others.
    pub(super) fn cut(&self, side: &[usize]) -> Result<(), ClusterError> {
        self.arrange(|node| side.contains(&node))
    }

    /// Ends every cut.
    pub(super) fn heal(&self) -> Result<(), ClusterError> {
        self.arrange(|_| false)
    }

    fn arrange(&self, is_apart: impl Fn(usize) -> bool) -> Result<(), ClusterError> {
        let bridge = |node| if is_apart(node) { "bridge1" } else { "bridge0" };
        let lines = (0..self.nodes).map(|node| format!("link set port{node} master {}\n", bridge(node)));
        ip(&["-n", &self.hub()], &lines.collect::<String>())
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    fn name(&self, node: usize) -> String {
        format!("{}{node}", self.prefix)
    }

    fn add_namespaces(&self) -> String {
        let names = (0..self.nodes).map(|node| self.name(node)).chain([self.hub()]);
        names.map(|name| format!("netns add {name}\n")).collect()
    }

    fn build_hub(&self) -> String {
        let bridges = ["bridge0", "bridge1"].map(|name| format!("link add {name} type bridge\nlink set {name} up\n"));
        let cable = |node| {
            let namespace = self.name(node);
            format!(
                "link add port{node} type veth peer name eth0 netns {namespace}\n\
                 link set port{node} master bridge0\nlink set port{node} up\n"
            )
        };
        bridges.into_iter().chain((0..self.nodes).map(cable)).collect()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        remove(|name| name.starts_with(&self.prefix));
    }
}

fn settle(node: usize) -> String {
    format!("link set lo up\naddr add {}/24 dev eth0\nlink set eth0 up\n", host(node))
}

fn host(node: usize) -> String {
    format!("10.87.0.{}", node + 1)
}

/// What processes that are no more could not remove.
fn remove_left_behind() {
    remove(|name| {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        process.is_some_and(|id| !Path::new("/proc").join(id).exists())
    });
}

/// Removing a namespace removes what is in it, and with the hub's ports the other ends of the cables.
fn remove(chosen: impl Fn(&str) -> bool) {
    let names = fs::read_dir(NAMED).into_iter().flatten().flatten().map(|entry| entry.file_name());
    for name in names.filter_map(|name| name.into_string().ok()).filter(|name| chosen(name)) {
        if let Err(error) = ip(&[], &format!("netns del {name}\n")) {
            eprintln!("{error}");
        }
    }
}

/// Runs lines of `ip`.
fn ip(options: &[&str], lines: &str) -> Result<(), ClusterError> {
    let failed = |said: String| ClusterError::Network {
        command: format!("ip {} -batch -", options.join(" ")),
        said: format!("{said} (it takes root, or `unshare -Urnm`; see --help)"),
    };
    let mut command = Command::new("ip");
    command.args(options).args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(lines.as_bytes()));
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    match (output.status.success(), written) {
        (true, Ok(())) => Ok(()),
        (true, Err(error)) => Err(failed(error.to_string())),
        (false, _) => Err(failed(String::from_utf8_lossy(&output.stderr).trim().into())),
    }
}
