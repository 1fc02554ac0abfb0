//! `swarm-sim`: runs swarms in virtual time, many seeds at once or one to read.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> anyhow::Result<ExitCode> {
    cli::Cli::parse().run()
}
