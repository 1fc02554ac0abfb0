//! One real `swarm` process and its data directory.
//!
//! Always true: at most one process at a time; it is killed by its own id and waited for, at the latest when this is
//! dropped. Its address, once it has one, is the same in every life.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::answers::Members;
use super::client::{Client, Output};
use super::namespaces::Home;
use super::{ClusterError, DEADLINE, Job, Member, Status, wait_until};

/// How much of its standard error is told when it ends by itself.
const SAID_LINES: usize = 20;
/// Draining takes up to a minute when tasks run.
pub(super) const STOP_DEADLINE: Duration = Duration::from_secs(90);
/// What its processes log: what is wrong, and each batch of tasks that is granted to them or ended on them.
const LOG: &str = "warn,libp2p_kad=error,swarm_node::tasks=debug";
/// What of a data directory makes a node the same node.
const IDENTITY: &str = "identity.key";

/// How nodes reach each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// TCP, Noise and Yamux.
    #[default]
    Tcp,
    /// QUIC.
    Quic,
}

/// A node: its data directory lives longer than its processes.
#[derive(Debug)]
pub struct Node {
    number: usize,
    program: PathBuf,
    /// Its data directory is `NUMBER` in here, what its processes say is beside it.
    root: PathBuf,
    slots: usize,
    home: Home,
    transport: Transport,
    bootstrap: Vec<String>,
    environment: BTreeMap<String, String>,
    greeting: Option<Greeting>,
    child: Option<Child>,
    client: Client,
    peak_memory_bytes: u64,
}

impl Node {
    /// A node that is not running yet. The directories of all nodes of a cluster are in `root`.
    pub(super) fn new(number: usize, program: &Path, root: &Path, slots: usize, home: Home) -> Self {
        let client = Client::new(program, &root.join(number.to_string()));
        Self {
            number,
            program: program.into(),
            root: root.into(),
            slots,
            home,
            transport: Transport::default(),
            bootstrap: Vec::new(),
            environment: BTreeMap::new(),
            greeting: None,
            child: None,
            client,
            peak_memory_bytes: 0,
        }
    }

    /// Its position in the cluster, from 0.
    pub const fn number(&self) -> usize {
        self.number
    }

    /// Its data directory.
    pub fn dir(&self) -> PathBuf {
        self.root.join(self.number.to_string())
    }

    /// Its id, 64 hexadecimal digits.
    ///
    /// # Panics
    /// When it was never started.
    pub fn id(&self) -> &str {
        &self.greeted().id
    }

    /// Where it can be dialled: `/ip4/127.0.0.1/tcp/PORT/p2p/PEERID`, or the same for QUIC.
    ///
    /// # Panics
    /// When it was never started.
    pub fn address(&self) -> &str {
        &self.greeted().address
    }

    /// Whether it was started and neither stopped nor killed since.
    pub const fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The addresses it is told to dial from its next start on.
    pub fn set_bootstrap(&mut self, addresses: Vec<String>) {
        self.bootstrap = addresses;
    }

    /// The transport that it listens on. To be set before its first start.
    pub fn set_transport(&mut self, transport: Transport) {
        self.transport = transport;
    }

    /// A variable in the environment of its processes from its next start on; an empty value takes it away.
    pub fn set_variable(&mut self, name: &str, value: impl Into<String>) {
        match value.into() {
            value if value.is_empty() => self.environment.remove(name),
            value => self.environment.insert(name.into(), value),
        };
    }

    /// Starts it and waits until it is ready.
    pub fn start(&mut self) -> Result<(), ClusterError> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts it, without waiting.
    pub fn launch(&mut self) -> Result<(), ClusterError> {
        self.kill();
        let listen = self.greeting.as_ref().and_then(|greeting| greeting.address.split("/p2p/").next());
        let listen = listen.map_or_else(|| self.home.listen(self.transport), str::to_owned);
        let mut command = self.home.command(&self.program);
        command.arg("start").arg("--data").arg(self.dir());
        command.args(["--listen", &listen, "--slots", &self.slots.to_string()]);
        command.args(self.bootstrap.iter().flat_map(|address| ["--bootstrap", address]));
        command.env("SWARM_LOG", LOG);
        command.envs(&self.environment);
        command.stdin(Stdio::null()).stdout(create(&self.file("out"))?).stderr(append(&self.file("err"))?);
        self.child = Some(command.spawn().map_err(ClusterError::io("start", &self.program))?);
        Ok(())
    }

    /// Waits until it has greeted.
    pub fn wait_ready(&mut self) -> Result<(), ClusterError> {
        let what = format!("the start of node {}", self.number);
        wait_until(&what, DEADLINE, || self.look_ready())
    }

    /// Whether it has greeted.
    pub(crate) fn look_ready(&mut self) -> Result<Option<()>, ClusterError> {
        self.check_alive()?;
        let out = self.file("out");
        let text = fs::read_to_string(&out).map_err(ClusterError::io("read", &out))?;
        let wrong = |what| ClusterError::Greeting { node: self.number, what, greeting: text.clone() };
        let greeting = Greeting::parse(&text, &self.transport.at(self.home.host())).map_err(wrong)?;
        let ready = greeting.is_some().then_some(());
        self.greeting = greeting.or(self.greeting.take());
        Ok(ready)
    }

    /// Kills it (SIGKILL), as a power cut would. Does nothing when it does not run.
    pub fn kill(&mut self) {
        self.note_memory();
        let Some(mut child) = self.child.take() else { return };
        // Both fail only when it has ended by itself already.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Stops it where it stands (SIGSTOP), as a machine that stalls would.
    pub(crate) fn pause(&self) -> Result<(), ClusterError> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    pub(super) fn resume(&self) -> Result<(), ClusterError> {
        self.signal(Signal::CONT)
    }

    /// Asks it to leave (SIGTERM), without waiting.
    pub(super) fn leave(&mut self) -> Result<(), ClusterError> {
        self.note_memory();
        self.signal(Signal::TERM)
    }

    /// Whether it has left; it must end with success.
    pub(super) fn look_left(&mut self) -> Result<Option<()>, ClusterError> {
        let Some(status) = self.ended()? else { return Ok(self.child.is_none().then_some(())) };
        self.child = None;
        if status.success() { Ok(Some(())) } else { Err(self.ended_badly(status)) }
    }

    /// Asks it to leave (SIGTERM) and waits until it has handed over what it owes and ended; it must end with success.
    pub fn stop(&mut self) -> Result<(), ClusterError> {
        self.leave()?;
        let what = format!("the end of node {}", self.number);
        wait_until(&what, STOP_DEADLINE, || self.look_left())
    }

    fn signal(&self, signal: Signal) -> Result<(), ClusterError> {
        let Some(child) = &self.child else { return Ok(()) };
        kill_process(Pid::from_child(child), signal)
            .map_err(|errno| ClusterError::io("signal the process of", self.dir())(errno.into()))
    }

    /// Kills it and empties its directory, as a replaced disk would be; with its identity it is the same node that
    /// forgot everything, without it a new one.
    pub(super) fn wipe(&mut self, keeps_identity: bool) -> Result<(), ClusterError> {
        self.kill();
        let (dir, identity) = (self.dir(), self.dir().join(IDENTITY));
        let key = fs::read(&identity).map_err(ClusterError::io("read", &identity))?;
        fs::remove_dir_all(&dir).map_err(ClusterError::io("remove", &dir))?;
        if keeps_identity {
            let mode = fs::Permissions::from_mode(0o600);
            fs::create_dir(&dir).map_err(ClusterError::io("create", &dir))?;
            fs::write(&identity, key).map_err(ClusterError::io("write", &identity))?;
            fs::set_permissions(&identity, mode).map_err(ClusterError::io("protect", &identity))?;
        }
        Ok(())
    }

    /// The id of its process.
    ///
    /// # Panics
    /// When it does not run.
    pub(crate) fn process(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// The most memory that any of its processes had (VmHWM), as far as it was looked at before they ended.
    pub(crate) fn peak_memory_bytes(&mut self) -> u64 {
        self.note_memory();
        self.peak_memory_bytes
    }

    /// The memory that its process has now (VmRSS).
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn note_memory(&mut self) {
        self.peak_memory_bytes = self.peak_memory_bytes.max(self.memory("VmHWM:"));
    }

    /// A line of the system's account of its process; 0 when there is none.
    fn memory(&self, name: &str) -> u64 {
        let Some(child) = &self.child else { return 0 };
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"));
        line.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * 1024
    }

    /// The size of everything in its data directory.
    pub(crate) fn disk_bytes(&self) -> u64 {
        bytes_in(&self.dir())
    }

    /// The nodes that it knows, by its socket.
    pub(super) fn seen(&self) -> Result<Vec<Member>, ClusterError> {
        Ok(self.client.get_json::<Members>("/v1/nodes")?.items)
    }

    /// How many tasks it runs now, by its socket; `None` when it does not answer.
    pub(super) fn slots_busy(&self) -> Option<u32> {
        Some(self.client.get_json::<Status>("/v1/status").ok()?.slots_busy)
    }

    /// A user of it.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What its processes logged, all of them.
    pub(crate) fn log(&self) -> PathBuf {
        self.file("err")
    }

    /// Stops it cleanly and starts it again with the same data and address.
    pub fn restart(&mut self) -> Result<(), ClusterError> {
        self.stop()?;
        self.start()
    }

    /// Runs `swarm --node DIR …` and says what came of it. It is killed at the deadline.
    pub fn cli<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output, ClusterError> {
        self.client.run(args, DEADLINE * 2)
    }

    /// Submits a job file and returns the job's id.
    pub fn submit(&self, file: &Path) -> Result<String, ClusterError> {
        self.client.submit(file, DEADLINE * 2)
    }

    /// A job as this node knows it.
    pub fn show(&self, job: &str) -> Result<Job, ClusterError> {
        self.cli(&["show", job, "-o", "json"])?.json()
    }

    /// A job with the outcome of each task.
    pub fn show_tasks(&self, job: &str) -> Result<Job, ClusterError> {
        self.cli(&["show", job, "--tasks", "-o", "json"])?.json()
    }

    /// What the tasks of a job wrote, in task order.
    pub fn logs(&self, job: &str) -> Result<Vec<u8>, ClusterError> {
        Ok(self.cli(&["logs", job])?.good()?.stdout)
    }

    /// The nodes that it knows, itself included.
    pub fn members(&self) -> Result<Vec<Member>, ClusterError> {
        Ok(self.cli(&["nodes", "-o", "json"])?.json::<Members>()?.items)
    }

    /// Its own state.
    pub fn status(&self) -> Result<Status, ClusterError> {
        self.cli(&["status", "-o", "json"])?.json()
    }

    /// Fails when it should run and has ended by itself.
    pub fn check_alive(&mut self) -> Result<(), ClusterError> {
        match self.ended()? {
            Some(status) => Err(self.ended_badly(status)),
            None => Ok(()),
        }
    }

    /// The last lines of its standard error.
    pub fn said(&self) -> String {
        let text = fs::read(self.file("err")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SAID_LINES)..].join("\n")
    }

    /// How often one of its processes panicked. None ever should, whatever was done to it.
    pub fn panics(&self) -> usize {
        let text = fs::read(self.file("err")).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().filter(|line| line.contains("panicked at")).count()
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>, ClusterError> {
        let Some(child) = &mut self.child else { return Ok(None) };
        child.try_wait().map_err(ClusterError::io("wait for", &self.program))
    }

    fn ended_badly(&self, status: ExitStatus) -> ClusterError {
        ClusterError::Ended { node: self.number, status: status.to_string(), code: status.code(), said: self.said() }
    }

    fn greeted(&self) -> &Greeting {
        self.greeting.as_ref().expect("the node was started")
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.root.join(format!("{}.{kind}", self.number))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() && self.child.is_some() {
            eprintln!("node {} last said:\n{}", self.number, self.said());
        }
        self.kill();
    }
}

impl Transport {
    /// What an address at this host begins with.
    pub(super) fn at(self, host: &str) -> String {
        match self {
            Self::Tcp => format!("/ip4/{host}/tcp/"),
            Self::Quic => format!("/ip4/{host}/udp/"),
        }
    }
}

/// What `swarm start` says first.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Greeting {
    id: String,
    address: String,
}

impl Greeting {
    /// Reads the lines until `ready`; `None` while they are not all there.
    fn parse(text: &str, here: &str) -> Result<Option<Self>, &'static str> {
        let lines: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
        if !text.ends_with('\n') || !lines.contains(&("ready", "")) {
            return Ok(None);
        }
        let value = |word| move |(first, rest): &(&str, &str)| (*first == word).then(|| (*rest).to_owned());
        let id = lines.iter().find_map(value("node")).ok_or("no id")?;
        let dialable = |address: &String| address.starts_with(here) && address.contains("/p2p/");
        let address = lines.iter().filter_map(value("listen")).find(dialable).ok_or("no address where it should be")?;
        Ok(Some(Self { id, address }))
    }
}

fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_in(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}

fn create(path: &Path) -> Result<File, ClusterError> {
    File::create(path).map_err(ClusterError::io("create", path))
}

fn append(path: &Path) -> Result<File, ClusterError> {
    File::options().create(true).append(true).open(path).map_err(ClusterError::io("open", path))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_greeting_is_read_once_it_is_whole() {
        let whole = "node ab\nlisten /ip4/10.0.0.1/tcp/1/p2p/12D3\nlisten /ip4/127.0.0.1/tcp/2/p2p/12D3\ndata /tmp/x y\nready\n";
        for cut in 0..whole.len() {
            assert_eq!(Greeting::parse(&whole[..cut], LOOPBACK), Ok(None), "after {cut} bytes");
        }
        let greeting = Greeting { id: "ab".into(), address: "/ip4/127.0.0.1/tcp/2/p2p/12D3".into() };
        assert_eq!(Greeting::parse(whole, LOOPBACK), Ok(Some(greeting.clone())));
        assert_eq!(Greeting::parse(&format!("{whole}more\n"), LOOPBACK), Ok(Some(greeting)));
        assert_eq!(Greeting::parse("node ab\nready\n", LOOPBACK), Err("no address where it should be"));
    }

    #[test]
    fn a_program_that_ends_at_once_is_told_with_its_last_words() {
        let (_root, mut node) = node(r#"echo "no disk" >&2; exit 3"#);
        let error = node.start().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("no disk"), "{error}");
    }

    #[test]
    fn a_node_lives_between_start_and_kill_and_keeps_its_address() {
        let (root, mut node) = node(&format!("{HELLO} exec sleep 1000"));
        node.start().unwrap();
        let pid = Pid::from_child(node.child.as_ref().unwrap());
        assert_eq!((node.id(), node.address()), ("ab", "/ip4/127.0.0.1/tcp/7/p2p/12D3"));
        kill_process(pid, Signal::CONT).unwrap();
        node.kill();
        assert!(!node.is_running());
        kill_process(pid, Signal::CONT).unwrap_err();

        node.restart().unwrap();
        let args = fs::read_to_string(root.path().join("args")).unwrap();
        assert!(args.contains("--listen /ip4/127.0.0.1/tcp/7 --slots 2"), "{args}");
    }

    #[test]
    fn a_node_must_leave_with_success_and_its_panics_are_counted() {
        let leave = "trap 'kill $!; exit $CODE' TERM; sleep 1000 & wait";
        for (code, good) in [(0, true), (4, false)] {
            let (_root, mut node) =
                node(&format!("{HELLO} CODE={code}; echo \"thread 'x' panicked at y\" >&2; {leave}"));
            node.start().unwrap();
            assert_eq!(node.panics(), 1);
            assert_eq!(node.stop().is_ok(), good);
            assert!(!node.is_running());
        }
    }

    #[test]
    fn a_node_that_is_dropped_does_not_live_on() {
        let (_root, mut node) = node(&format!("{HELLO} exec sleep 1000"));
        node.start().unwrap();
        let pid = Pid::from_child(node.child.as_ref().unwrap());
        drop(node);
        kill_process(pid, Signal::CONT).unwrap_err();
    }

    #[test]
    fn a_command_gives_what_it_said_and_how_it_ended() {
        let (_root, node) = node(
            r#"[ "$3" = nodes ] && echo '{"items":[{"id":"ab","state":"alive"}]}' && exit 0; echo "why" >&2; exit 5"#,
        );
        assert_eq!(node.members().unwrap(), [Member { id: "ab".into(), state: "alive".into() }]);
        let error = node.show("x").unwrap_err();
        assert!(matches!(&error, ClusterError::Command { code: Some(5), stderr, .. } if stderr == "why"), "{error:?}");
    }

    const LOOPBACK: &str = "/ip4/127.0.0.1/tcp/";
    const HELLO: &str =
        r#"echo "$@" > "${3%/*}/args"; printf 'node ab\nlisten /ip4/127.0.0.1/tcp/7/p2p/12D3\ndata x\nready\n';"#;

    /// A node whose program is a shell script.
    fn node(script: &str) -> (tempfile::TempDir, Node) {
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join("swarm");
        let text = root.path().join("text");
        fs::write(&text, format!("#!/bin/sh\n{script}\n")).unwrap();
        // Written by another process: a file that this one has open for writing, in whatever thread, cannot be executed.
        let installed = Command::new("install").args(["-m", "755"]).args([&text, &program]).status().unwrap();
        assert!(installed.success());
        let node = Node::new(0, &program, root.path(), 2, Home::Here);
        (root, node)
    }
}
