//! Waiting for conditions, each with a deadline; Ctrl-C ends every wait.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::ClusterError;

/// For what takes a moment on a quiet machine: tests run beside each other on slow ones.
pub const DEADLINE: Duration = Duration::from_secs(60);
/// A look often costs a process; more often would steal the processor from the nodes.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Process-wide as signals are; set once and never cleared.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Looks again and again until `look` gives `Some`. `what` completes "… did not happen". An error of `look` counts as
/// "not yet" and is told if it was the last thing seen, because a swarm that is losing nodes may be slow to answer.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>, ClusterError>,
) -> Result<T, ClusterError> {
    let began = Instant::now();
    loop {
        check_interrupted()?;
        let last = match look() {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => "not yet".into(),
            Err(ended @ (ClusterError::Ended { .. } | ClusterError::Interrupted)) => return Err(ended),
            Err(error) => error.to_string(),
        };
        if began.elapsed() > deadline {
            return Err(ClusterError::Deadline { what: what.into(), waited: deadline, last });
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// From now on, Ctrl-C and SIGTERM make every wait end with [`ClusterError::Interrupted`], so that all that was started
/// is ended on the way out.
pub(crate) fn watch_interrupts() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
            match runtime.and_then(|runtime| runtime.block_on(interrupt())) {
                Ok(()) => INTERRUPTED.store(true, Ordering::Relaxed),
                Err(error) => eprintln!("Ctrl-C will leave nodes behind, as signals cannot be received: {error}"),
            }
        });
    });
}

async fn interrupt() -> std::io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

/// Fails after Ctrl-C.
pub(crate) fn check_interrupted() -> Result<(), ClusterError> {
    if INTERRUPTED.load(Ordering::Relaxed) { Err(ClusterError::Interrupted) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_its_condition_or_its_deadline() {
        let mut looks = 0;
        let third = wait_until("the third look", DEADLINE, || {
            looks += 1;
            Ok((looks == 3).then_some(looks))
        });
        assert_eq!(third.unwrap(), 3);
        let never = wait_until::<()>("never", Duration::ZERO, || Err(ClusterError::NoProgram)).unwrap_err();
        assert!(never.to_string().starts_with("never did not happen within 0 s; last: no `swarm` program"), "{never}");
    }
}
