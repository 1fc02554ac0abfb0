//! Room: whether the disk has room for what guests and the cache of compiled code write.
//!
//! Elsewhere: who says so knows the disk.

use std::fmt;
use std::sync::Arc;

/// Says whether so many bytes more may be written now. All clones ask the same.
#[derive(Clone)]
pub struct Room(Arc<dyn Fn(u64) -> bool + Send + Sync>);

impl Room {
    /// Asks this.
    pub fn new(has: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(has))
    }

    /// Whether so many bytes more may be written.
    pub fn has(&self, bytes: u64) -> bool {
        (self.0)(bytes)
    }
}

/// Room without end.
impl Default for Room {
    fn default() -> Self {
        Self::new(|_| true)
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room")
    }
}
