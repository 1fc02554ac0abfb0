//! simulation
pub mod cluster;
