//! The process: what a node is made of, as a library.

pub mod jobfile;
pub mod network;
