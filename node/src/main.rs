//! The `swarm` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    swarm_node::cli::main()
}
