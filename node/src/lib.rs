//! node
mod supervisor;
pub use supervisor::*;
