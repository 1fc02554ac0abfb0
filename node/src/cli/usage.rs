//! Command lines that make no sense: what is wrong with one, and the line that was probably meant.
//!
//! Elsewhere: what may be typed is `args`.

use std::fmt::Display;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, CommandFactory, Error};

use super::args::Cli;
use crate::api::{Code, Failure};

/// What clap says of every error, and we in the last line.
const TAIL: [&str; 2] = ["Usage:", "For more information"];
/// Begins the examples in a command's help.
const EXAMPLES: &str = "Examples:";

/// What is wrong. Ends the process when it was asked for help or the version.
pub(super) fn failure(error: &Error, typed: &[String]) -> Failure {
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    let text = error.to_string();
    let said = text.lines().take_while(|line| !TAIL.iter().any(|tail| line.starts_with(tail)));
    let said: Vec<&str> = said.filter(|line| !line.trim().is_empty()).collect();
    let message = said.join("\n");
    Failure::new(Code::Usage, message.trim_start_matches("error: ")).hint(next(error, typed))
}

/// The line that was probably meant, or one like it.
fn next(error: &Error, typed: &[String]) -> String {
    let words: Vec<&str> = std::iter::once("swarm").chain(typed.iter().skip(1).map(String::as_str)).collect();
    let (path, command) = reached(&words);
    let wrong = one(error, ContextKind::InvalidSubcommand).or_else(|| one(error, ContextKind::InvalidArg));
    let meant = nearest(error, ContextKind::SuggestedSubcommand, wrong.as_deref());
    let meant = meant.or_else(|| nearest(error, ContextKind::SuggestedArg, wrong.as_deref()));
    if let (Some(wrong), Some(meant)) = (&wrong, meant) {
        // A flag is shown with its value's name, and may be typed with its value.
        let wrong = wrong.split([' ', '=']).next().unwrap_or_default();
        let meant = meant.split([' ', '=']).next().unwrap_or_default();
        return line(words.iter().map(|word| if *word == wrong { meant } else { word }));
    }
    if let (ErrorKind::UnknownArgument, "swarm run", Some(wrong)) = (error.kind(), path.as_str(), &wrong) {
        let at = words.iter().position(|word| word == wrong).unwrap_or(words.len());
        return line(words[..at].iter().copied().chain(["--"]).chain(words[at..].iter().copied()));
    }
    let flag = wrong.as_deref().and_then(|wrong| wrong.split(' ').next()).filter(|wrong| wrong.starts_with("--"));
    let examples = examples(&command);
    let fitting = examples.iter().find(|example| flag.is_none_or(|flag| example.contains(flag)));
    fitting
        .filter(|_| error.kind() != ErrorKind::UnknownArgument)
        .map_or(format!("{path} --help"), |example| format!("{example}   # more: {path} --help"))
}

/// The command that the words lead to, and how it is called.
fn reached(words: &[&str]) -> (String, Command) {
    let (mut path, mut command) = ("swarm".to_owned(), Cli::command());
    for word in words.iter().skip(1) {
        if let Some(inner) = command.find_subcommand(word).cloned() {
            (path, command) = (format!("{path} {word}"), inner);
        }
    }
    (path, command)
}

fn examples(command: &Command) -> Vec<String> {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    help.lines().skip_while(|line| *line != EXAMPLES).skip(1).map(|line| line.trim().to_owned()).collect()
}

/// What is spelt most like the word that was typed.
fn nearest(error: &Error, kind: ContextKind, typed: Option<&str>) -> Option<String> {
    let distance = |word: &&String| strsim::damerau_levenshtein(word, typed.unwrap_or_default());
    match error.get(kind)? {
        ContextValue::Strings(words) => words.iter().min_by_key(distance).cloned(),
        _ => one(error, kind),
    }
}

/// The first of what the error knows of a kind.
fn one(error: &Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(texts) => texts.first().cloned(),
        _ => None,
    }
}

/// Words as they are typed into a shell.
pub(super) fn line<'a>(words: impl Iterator<Item = impl Display + 'a>) -> String {
    let quoted = words.map(|word| {
        let word = word.to_string();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
        if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> (String, String) {
        let typed: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let failure = failure(&Cli::command().try_get_matches_from(words).unwrap_err(), &typed);
        (failure.message.lines().next().unwrap_or_default().to_owned(), failure.hint)
    }

    #[test]
    fn the_line_that_was_meant_comes_last() {
        for (words, hint) in [
            (&["swarm", "sumbit", "my job.toml"][..], "swarm submit 'my job.toml'"),
            (&["swarm", "statsu"], "swarm status"),
            (&["swarm", "submit"], "swarm submit job.toml   # more: swarm submit --help"),
            (&["swarm", "ls", "--lmit", "3"], "swarm ls --limit 3"),
            (&["swarm", "run", "m.wasm", "x", "y"], "swarm run m.wasm -- x y"),
            (
                &["swarm", "wait", "@last", "--timeout", "9"],
                "swarm wait @last --timeout 5m   # more: swarm wait --help",
            ),
            (
                &["swarm", "start", "--bootstrap", "x"],
                "swarm start --bootstrap /ip4/192.0.2.7/tcp/4001   # more: swarm start --help",
            ),
            (&["swarm", "blob", "put"], "swarm blob put hello.wasm   # more: swarm blob put --help"),
        ] {
            assert_eq!(said(words).1, hint, "{words:?}");
        }
        assert_eq!(said(&["swarm", "ls", "x"]).0, "unexpected argument 'x' found");
    }
}
