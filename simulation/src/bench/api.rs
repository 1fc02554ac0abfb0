//! A user of one node who holds on to one connection: what a question takes is then the node's part.
//!
//! Always true: whatever is asked has a deadline. Elsewhere: `cluster::client` asks on a connection of its own each time.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use swarm_protocol::{Hash, JobSpec, codec};

use super::BenchError;
use crate::cluster::{ClusterError, Job, Node, check_interrupted};

/// The socket in a data directory.
const SOCKET_NAME: &str = "api.sock";
/// Longer than a node takes for anything that is asked here.
const ANSWER_WAIT: Duration = Duration::from_secs(120);
/// How long the node is asked to wait at once; meanwhile nobody sees that the user has had enough.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The longest answer: a job's tasks.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A connection to a node, made when it is first used.
#[derive(Debug)]
pub(super) struct Api {
    socket: PathBuf,
    connection: Option<BufReader<UnixStream>>,
}

/// What is told of a task.
#[derive(Deserialize)]
struct Task {
    ended: Option<String>,
}

/// The answer to a submission.
#[derive(Deserialize)]
struct Submitted {
    job: String,
}

impl Api {
    /// A user of a node.
    pub(super) fn of(node: &Node) -> Self {
        Self { socket: node.dir().join(SOCKET_NAME), connection: None }
    }

    /// Whether it answers.
    pub(super) fn answers(&mut self) -> bool {
        self.ask("GET", "/v1/status", &[]).is_ok()
    }

    /// Hands over a blob that the node may have already.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Result<Hash, BenchError> {
        let hash = Hash::of(bytes);
        self.ask("PUT", &format!("/v1/blobs/{}", hash.to_hex()), bytes)?;
        Ok(hash)
    }

    /// Has the node bring a blob to itself from another one.
    pub(super) fn hold(&mut self, blob: Hash, from: &str) -> Result<(), BenchError> {
        self.ask("POST", &format!("/v1/blobs/{}?from={from}", blob.to_hex()), &[]).map(drop)
    }

    /// Bytes of blobs that the node has sent since its start.
    pub(super) fn sent_bytes(&mut self) -> Result<u64, BenchError> {
        let answer = self.ask("GET", "/v1/status", &[])?;
        Ok(read::<crate::cluster::Status>("GET /v1/status", &answer)?.transfers.sent_bytes)
    }

    /// Submits a job and returns its id once it is acknowledged.
    pub(super) fn submit(&mut self, spec: &JobSpec) -> Result<String, BenchError> {
        let answer = self.ask("POST", "/v1/jobs", &codec::encode(spec))?;
        Ok(read::<Submitted>("POST /v1/jobs", &answer)?.job)
    }

    /// Waits for the result of a job of one task: one answer, when it comes in time.
    pub(super) fn wait_result(&mut self, job: &str, within: Duration) -> Result<(), BenchError> {
        let ended = self.wait(job, "/tasks", within, |task: &Task| task.ended.is_some())?.ended;
        let is_done = ended.as_deref() == Some("done");
        if is_done { Ok(()) } else { Err(BenchError::NotDone { job: job.into(), state: ended.unwrap_or_default() }) }
    }

    /// Waits until a job is done, as told by the node.
    pub(super) fn wait_done(&mut self, job: &str, within: Duration) -> Result<(), BenchError> {
        let seen = self.wait_over(job, within)?;
        if seen.state == "done" && seen.done == seen.tasks {
            return Ok(());
        }
        Err(BenchError::NotDone { job: job.into(), state: seen.state })
    }

    fn wait_over(&mut self, job: &str, within: Duration) -> Result<Job, BenchError> {
        self.wait(job, "", within, Job::is_over)
    }

    /// Asks for a part of what is known of a job until it says that it is over.
    fn wait<T: DeserializeOwned>(
        &mut self,
        job: &str,
        part: &str,
        within: Duration,
        is_over: impl Fn(&T) -> bool,
    ) -> Result<T, BenchError> {
        let (began, path) = (Instant::now(), format!("/v1/jobs/{job}{part}?wait_ms={}", LOOK_EVERY.as_millis()));
        loop {
            let answer = self.ask("GET", &path, &[])?;
            let seen = read(&path, &answer)?;
            if is_over(&seen) {
                return Ok(seen);
            }
            check_interrupted()?;
            if began.elapsed() > within {
                let (what, last) = (format!("the end of the job {job}"), String::from_utf8_lossy(&answer).into());
                return Err(ClusterError::Deadline { what, waited: within, last }.into());
            }
        }
    }

    /// Cancels a job and waits until nothing of it runs.
    pub(super) fn cancel(&mut self, job: &str) -> Result<(), BenchError> {
        self.ask("POST", &format!("/v1/jobs/{job}/cancel"), &[])?;
        self.wait_over(job, ANSWER_WAIT).map(drop)
    }

    /// How many tasks the node runs now.
    pub(super) fn slots_busy(&mut self) -> Result<u32, BenchError> {
        let answer = self.ask("GET", "/v1/status", &[])?;
        Ok(read::<crate::cluster::Status>("GET /v1/status", &answer)?.slots_busy)
    }

    fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, BenchError> {
        let answer = self.exchange(method, path, body);
        let asked = || format!("{method} {path} of {}", self.socket.display());
        match answer.map_err(|source| ClusterError::Unanswered { asked: asked(), source })? {
            (200..300, body) => Ok(body),
            (status, body) => {
                let said = String::from_utf8_lossy(&body).into();
                Err(ClusterError::Refused { asked: asked(), status, said }.into())
            }
        }
    }

    /// The status and the body. A connection on which anything went wrong is not used again.
    fn exchange(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<(u16, Vec<u8>)> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect()?,
        };
        let head = format!("{method} {path} HTTP/1.1\r\nhost: swarm\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.get_mut().write_all(&[head.as_bytes(), body].concat())?;
        let answer = answer(&mut connection)?;
        self.connection = Some(connection);
        Ok(answer)
    }

    fn connect(&self) -> io::Result<BufReader<UnixStream>> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        Ok(BufReader::new(stream))
    }
}

fn read<T: DeserializeOwned>(asked: &str, answer: &[u8]) -> Result<T, BenchError> {
    serde_json::from_slice(answer).map_err(|source| {
        let (command, answer) = (asked.to_owned(), String::from_utf8_lossy(answer).into());
        ClusterError::Answer { command, answer, source }.into()
    })
}

/// One HTTP/1.1 answer, read to its end and no further.
fn answer(from: &mut impl BufRead) -> io::Result<(u16, Vec<u8>)> {
    let status = line(from)?.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(unreadable)?;
    let (mut length, mut chunked) = (0, false);
    loop {
        let field = line(from)?.to_ascii_lowercase();
        match field.split_once(':').map(|(name, value)| (name, value.trim())) {
            None if field.is_empty() => break,
            Some(("content-length", value)) => length = value.parse().map_err(|_| unreadable())?,
            Some(("transfer-encoding", "chunked")) => chunked = true,
            _ => {}
        }
    }
    let body = if chunked { chunks(from)? } else { piece(from, length)? };
    Ok((status, body))
}

fn chunks(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let length = usize::from_str_radix(line(from)?.trim(), 16).map_err(|_| unreadable())?;
        whole.extend(piece(from, length)?);
        line(from)?;
        if length == 0 {
            return Ok(whole);
        }
    }
}

fn piece(from: &mut impl Read, length: usize) -> io::Result<Vec<u8>> {
    if length > ANSWER_BYTES_MAX {
        return Err(unreadable());
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    match from.read_line(&mut line)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.trim_end().to_owned()),
    }
}

fn unreadable() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_on_one_connection_are_read_one_by_one() {
        let mut both = "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc\
            HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n\
            HTTP/1.1 204 No Content\r\n\r\n"
            .as_bytes();
        assert_eq!(answer(&mut both).unwrap(), (404, b"abc".to_vec()));
        assert_eq!(answer(&mut both).unwrap(), (200, b"abc0123456789".to_vec()));
        assert_eq!(answer(&mut both).unwrap(), (204, Vec::new()));
        assert_eq!(answer(&mut both).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
