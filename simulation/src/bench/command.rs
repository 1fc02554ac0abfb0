//! A `swarm` command from its start to its end, to a fraction of a millisecond.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::BenchError;
use crate::cluster::{ClusterError, check_interrupted};

/// Longer than any command that is timed takes.
const DEADLINE: Duration = Duration::from_secs(60);
/// How often a running command is looked at: little beside what starting a process takes.
const LOOK_EVERY: Duration = Duration::from_micros(200);

/// A process that is killed when nobody waits for it any more.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already, as nearly always.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long a command takes, which must succeed.
pub(super) fn time<S: AsRef<OsStr>>(program: &Path, args: &[S]) -> Result<Duration, BenchError> {
    let began = Instant::now();
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = Running(command.spawn().map_err(BenchError::io("start", program))?);
    loop {
        if let Some(status) = child.0.try_wait().map_err(BenchError::io("wait for", program))? {
            let took = began.elapsed();
            return if status.success() { Ok(took) } else { Err(failed(args, status.code())) };
        }
        check_interrupted()?;
        if began.elapsed() > DEADLINE {
            return Err(failed(args, None));
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn failed<S: AsRef<OsStr>>(args: &[S], code: Option<i32>) -> BenchError {
    let args: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
    ClusterError::Command { command: format!("swarm {}", args.join(" ")), code, stderr: String::new() }.into()
}
