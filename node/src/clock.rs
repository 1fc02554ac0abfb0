//! The process's one clock for the core: microseconds since the process began to care, never going back.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use swarm_protocol::Time;

/// Tells the core's time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    /// A clock at [`Time::ZERO`].
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// Now.
    pub(crate) fn now(&self) -> Time {
        Time::ZERO + self.0.elapsed()
    }

    /// The instant at which [`Self::now`] is `time`; already past when it is.
    pub(crate) fn instant(&self, time: Time) -> tokio::time::Instant {
        (self.0 + time.since(Time::ZERO)).into()
    }
}

/// Wall-clock milliseconds since 1970, for display; 0 when the clock stands before that.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
