//! What the tests of the command share: a directory with guests in it, commands that are run there, nodes.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::guests::GUESTS;

/// No command of these tests should take longer, on any machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// A directory with guests in it, and with a data directory.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        for (name, wat) in GUESTS {
            fs::write(dir.path(&format!("{name}.wasm")), wat::parse_str(wat).unwrap()).unwrap();
        }
        dir.write("text.wasm", "This is no module.\n");
        let hello = fs::read(dir.path("hello.wasm")).unwrap();
        fs::write(dir.path("truncated.wasm"), &hello[..hello.len() / 2]).unwrap();
        fs::File::create(dir.path("huge.wasm")).unwrap().set_len(200 << 20).unwrap();
        dir
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.path("data")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn swarm(&self, line: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swarm"));
        command.args(line);
        self.run(command)
    }

    /// The same with some variables in its environment.
    pub(crate) fn swarm_in(&self, line: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_swarm"));
        command.args(line).envs(variables.iter().copied());
        self.run(command)
    }

    /// A line as a user types it, into a shell that finds this `swarm`.
    pub(crate) fn shell(&self, line: &str) -> Running {
        let here = Path::new(env!("CARGO_BIN_EXE_swarm")).parent().unwrap().to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(here).chain(std::env::split_paths(&path))).unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("PATH", path);
        self.run(command)
    }

    pub(crate) fn run(&self, mut command: Command) -> Running {
        command.current_dir(self.0.path()).env("SWARM_NODE", self.data());
        for other in ["SWARM_DATA", "SWARM_BOOTSTRAP", "SWARM_LISTEN", "SWARM_CONFIG", "SWARM_LOG", "RUST_LOG"] {
            command.env_remove(other);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Running::new(command.spawn().unwrap())
    }
}

/// A command that runs; ended by its own id when it is dropped.
pub(crate) struct Running {
    pub(crate) child: Child,
    pub(crate) stdout: Option<mpsc::Receiver<String>>,
    pub(crate) stderr: Option<mpsc::Receiver<String>>,
    before: String,
}

#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Running {
    pub(crate) fn new(mut child: Child) -> Self {
        let stdout = lines(child.stdout.take().unwrap());
        let stderr = lines(child.stderr.take().unwrap());
        Self { child, stdout: Some(stdout), stderr: Some(stderr), before: String::new() }
    }

    pub(crate) fn stdin(mut self, text: &str) -> Self {
        self.child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        self
    }

    pub(crate) fn first_stderr_line(mut self) -> (Self, String) {
        let line = self.stderr.as_ref().unwrap().recv_timeout(DEADLINE).unwrap();
        self.before.push_str(&line);
        (self, line)
    }

    pub(crate) fn finish(mut self) -> Finished {
        drop(self.child.stdin.take());
        let code = wait(&mut self.child).expect("the command takes too long").code().unwrap_or(-1);
        let all = |lines: Option<mpsc::Receiver<String>>| {
            lines.map(|lines| lines.iter().collect::<String>()).unwrap_or_default()
        };
        let (stdout, stderr) = (all(self.stdout.take()), all(self.stderr.take()));
        Finished { code, stdout, stderr: self.before.clone() + &stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already in a test that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Finished {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A node of a directory.
pub(crate) struct Node {
    pub(crate) running: Running,
    pub(crate) id: String,
    pub(crate) listen: Vec<String>,
}

impl Node {
    pub(crate) fn start(dir: &Dir) -> Self {
        Self::greeted(dir.swarm(&["start", "--listen", "/ip4/127.0.0.1/tcp/0", "--slots", "2"]), dir)
    }

    pub(crate) fn start_with(dir: &Dir, words: &[&str]) -> Self {
        Self::greeted(dir.swarm(&[&["start", "--listen", "/ip4/127.0.0.1/tcp/0"], words].concat()), dir)
    }

    pub(crate) fn leaves_in_order_when_told(self) {
        self.signal(rustix::process::Signal::TERM);
        self.leaves_in_order();
    }

    pub(crate) fn join(dir: &Dir, bootstrap: &str) -> Self {
        let listen = "/ip4/127.0.0.1/tcp/0";
        Self::greeted(dir.swarm(&["start", "--listen", listen, "--slots", "2", "--bootstrap", bootstrap]), dir)
    }

    pub(crate) fn greeted(running: Running, dir: &Dir) -> Self {
        let (mut id, mut listen) = (String::new(), Vec::new());
        loop {
            let Ok(line) = running.stdout.as_ref().unwrap().recv_timeout(DEADLINE) else {
                let ended = running.finish();
                panic!("the node does not start: {ended:?}");
            };
            match line.trim_end().split_once(' ') {
                Some(("node", node)) => id = node.to_owned(),
                Some(("listen", address)) => listen.push(address.to_owned()),
                Some(("data", data)) => assert_eq!(Path::new(data), dir.data()),
                None if line == "ready\n" => break,
                _ => panic!("unexpected line {line:?}"),
            }
        }
        Self { running, id, listen }
    }

    pub(crate) fn signal(&self, which: rustix::process::Signal) {
        signal(&self.running.child, which);
    }

    pub(crate) fn leaves_in_order(self) {
        let ended = self.running.finish();
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(!ended.stderr.contains("bug in swarm"), "{}", ended.stderr);
    }
}

pub(crate) fn signal(child: &Child, which: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, which).unwrap();
}

pub(crate) fn wait(child: &mut Child) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + DEADLINE;
    while Instant::now() < deadline {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a stream says, line by line, read by a thread of its own so that no pipe fills up.
pub(crate) fn lines(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (told, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            match stream.read_until(b'\n', &mut line) {
                Ok(read) if read > 0 => drop(told.send(String::from_utf8_lossy(&line).into_owned())),
                _ => return,
            }
        }
    });
    heard
}
