//! A user of one node: commands of the `swarm` program, and questions to the socket in the node's data directory.
//!
//! Always true: whatever is asked has a deadline, for a node may be stopped in the middle of an answer; an answer that
//! breaks off is an error, never a shorter answer.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{ClusterError, wait_until};

/// The socket in a data directory.
const SOCKET_NAME: &str = "api.sock";
/// A node that is asked for what it must ask others for may take some rounds of a second.
const ANSWER_WAIT: Duration = Duration::from_secs(40);

/// A user of one node. Cheap to clone; usable whether the node runs or not.
#[derive(Clone, Debug)]
pub(super) struct Client {
    program: PathBuf,
    data: PathBuf,
    /// What commands say goes to files beside the data directory, so that no pipe can fill up.
    talk: PathBuf,
    commands: Arc<AtomicU64>,
}

/// What a command said and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// As it could be typed.
    pub command: String,
    /// `None` when it was killed.
    pub code: Option<i32>,
    /// Data.
    pub stdout: Vec<u8>,
    /// Talk.
    pub stderr: String,
}

/// `swarm submit -o json`.
#[derive(Deserialize)]
struct Submitted {
    /// 64 hexadecimal digits.
    job: String,
}

impl Client {
    /// A user of the node with this data directory.
    pub(super) fn new(program: &Path, data: &Path) -> Self {
        Self { program: program.into(), data: data.into(), talk: data.into(), commands: Arc::default() }
    }

    /// Runs `swarm --node DIR …` and says what came of it. It is killed at the deadline.
    pub(super) fn run<S: AsRef<OsStr>>(&self, args: &[S], within: Duration) -> Result<Output, ClusterError> {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let [out, err] = ["out", "err"].map(|kind| self.talk.with_extension(format!("command-{number}.{kind}")));
        let mut command = Command::new(&self.program);
        command.arg("--node").arg(&self.data).args(args);
        command.stdin(Stdio::null()).stdout(create(&out)?).stderr(create(&err)?);
        let typed = typed(&command);
        let mut child = Running(command.spawn().map_err(ClusterError::io("start", &self.program))?);
        let ended = wait_until(&format!("the end of `{typed}`"), within, || {
            child.0.try_wait().map_err(ClusterError::io("wait for", &self.program))
        });
        let (stdout, stderr) = (take(&out)?, String::from_utf8_lossy(&take(&err)?).into_owned());
        Ok(Output { command: typed, code: ended?.code(), stdout, stderr })
    }

    /// Submits a job file and returns the job's full id.
    pub(super) fn submit(&self, file: &Path, within: Duration) -> Result<String, ClusterError> {
        let args = [OsStr::new("submit"), file.as_os_str(), OsStr::new("-o"), OsStr::new("json")];
        Ok(self.run(&args, within)?.json::<Submitted>()?.job)
    }

    /// What the node's socket answers to `GET PATH`; an answer other than 200 is an error.
    pub(super) fn get(&self, path: &str) -> Result<Vec<u8>, ClusterError> {
        let asked = || format!("GET {path} of {}", self.data.display());
        let answer = exchange(&self.data.join(SOCKET_NAME), path)
            .map_err(|source| ClusterError::Unanswered { asked: asked(), source })?;
        match answer {
            (200, body) => Ok(body),
            (status, body) => {
                Err(ClusterError::Refused { asked: asked(), status, said: String::from_utf8_lossy(&body).into() })
            }
        }
    }

    /// As [`Self::get`], for a document.
    pub(super) fn get_json<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClusterError> {
        read(format!("GET {path}"), &self.get(path)?)
    }
}

impl Output {
    /// Itself, when the command succeeded.
    pub fn good(self) -> Result<Self, ClusterError> {
        if self.code == Some(0) {
            return Ok(self);
        }
        Err(ClusterError::Command { command: self.command, code: self.code, stderr: self.stderr.trim().into() })
    }

    /// The document that it printed, when it succeeded.
    pub fn json<T: DeserializeOwned>(self) -> Result<T, ClusterError> {
        let Self { command, stdout, .. } = self.good()?;
        read(command, &stdout)
    }
}

fn read<T: DeserializeOwned>(command: String, answer: &[u8]) -> Result<T, ClusterError> {
    let wrong = |source| ClusterError::Answer { command, answer: String::from_utf8_lossy(answer).into(), source };
    serde_json::from_slice(answer).map_err(wrong)
}

/// One request on a connection of its own: the status and the body.
fn exchange(socket: &Path, path: &str) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    stream.set_write_timeout(Some(ANSWER_WAIT))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: swarm\r\nconnection: close\r\n\r\n")?;
    let (mut answer, until) = (Vec::new(), Instant::now() + ANSWER_WAIT);
    let mut piece = [0; 16 * 1024];
    loop {
        match stream.read(&mut piece)? {
            0 => return parse(&answer).ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
            read => answer.extend_from_slice(&piece[..read]),
        }
        if Instant::now() > until {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// The status and the body of a whole HTTP/1.1 answer; `None` when it is not whole.
fn parse(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase(), &answer[end + 4..]);
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let body = match (field("transfer-encoding"), field("content-length")) {
        (Some("chunked"), _) => unchunked(body)?,
        (_, Some(length)) => body.get(..length.parse().ok()?)?.to_vec(),
        _ => return None,
    };
    Some((status, body))
}

/// The bytes of a chunked body, if its last chunk is there.
fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let end = body.windows(2).position(|bytes| bytes == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&body[..end]).ok()?.trim(), 16).ok()?;
        if length == 0 {
            return Some(whole);
        }
        let chunk = body.get(end + 2..)?;
        whole.extend_from_slice(chunk.get(..length)?);
        body = chunk.get(length + 2..)?;
    }
}

/// A command that is killed when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already, as nearly always.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn typed(command: &Command) -> String {
    let args = command.get_args().map(OsStr::to_string_lossy);
    ["swarm".into()].into_iter().chain(args).collect::<Vec<_>>().join(" ")
}

fn create(path: &Path) -> Result<File, ClusterError> {
    File::create(path).map_err(ClusterError::io("create", path))
}

/// Reads a file and removes it.
fn take(path: &Path) -> Result<Vec<u8>, ClusterError> {
    let bytes = fs::read(path).map_err(ClusterError::io("read", path))?;
    fs::remove_file(path).map_err(ClusterError::io("remove", path))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_counts_only_when_it_is_whole() {
        let plain = "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc";
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n";
        assert_eq!(parse(plain.as_bytes()), Some((404, b"abc".to_vec())));
        assert_eq!(parse(chunked.as_bytes()), Some((200, b"abc0123456789".to_vec())));
        let last_chunk = chunked.len() - 4;
        for cut in 0..plain.len() {
            assert_eq!(parse(&plain.as_bytes()[..cut]), None, "after {cut} bytes");
        }
        for cut in 0..last_chunk {
            assert_eq!(parse(&chunked.as_bytes()[..cut]), None, "after {cut} bytes");
        }
    }
}
