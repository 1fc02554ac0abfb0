//! What is printed for the user to read.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::process::exit;

/// Prints a line on standard output. A reader that went away wants no more: that ends the program, and is no error.
pub(super) fn say(line: &dyn Display) {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit(0),
        Err(error) => {
            eprintln!("cannot write to standard output: {error}");
            exit(1)
        }
        Ok(()) => {}
    }
}
