//! Configuration: what files say besides the command line and the environment, and `swarm config show`.
//!
//! A file has the flags of `swarm start` and those of every command, with underscores: `slots = 4`, `gc_grace = "30m"`,
//! `listen = ["/ip4/…"]`, `label = { zone = "a" }`.
//!
//! Always true: a flag goes before an environment variable, that before a file, that before what is built in; of two
//! files the nearer one. What a file says is read exactly as the flag would be; a key that there is not, or a value that
//! the flag would refuse, is an error with its place.
//!
//! Elsewhere: the flags are `args`; what `swarm start` makes of them is `start`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};
use etcetera::BaseStrategy;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use toml::de::{DeTable, DeValue};

use super::args::{self, Cli, Global};
use super::node::data_dir;
use super::output::{Row, bytes, list, shown};
use super::start::options;
use super::usage;
use crate::api::view::List;
use crate::api::{Code, Failure, causes};
use crate::jobfile::{Fault, FaultCode, suggestion};
use crate::runtime::{RuntimeOptions, machine_name};

/// Schema of a list of [`Setting`].
pub(super) const SETTINGS: &str = "swarm.settings/1";
/// Its name in a directory.
const FILE_NAME: &str = "config.toml";
/// The directory of our files in the user's and the system's configuration.
const DIR_NAME: &str = "swarm";
/// Where the whole machine is configured.
const SYSTEM_DIR: &str = "/etc";
/// Settings of every command that a file may have.
const GLOBAL_KEYS: [&str; 2] = ["node", "output"];
/// Where commands have the flags of `swarm start`.
const TAKERS: [&[&str]; 3] = [&["start"], &["doctor"], &["config", "show"]];
/// A file is written by hand.
const FILE_BYTES_MAX: usize = 64 << 10;

/// Where each setting came from.
#[derive(Debug)]
pub(super) struct Origins {
    matches: ArgMatches,
    /// By key: `FILE:LINE`.
    files: BTreeMap<String, String>,
}

/// A value in a file, as the flag's arguments would be.
struct Found {
    key: Key,
    texts: Vec<String>,
    /// `FILE:LINE`.
    place: String,
}

/// What may be set.
#[derive(Clone)]
struct Key {
    /// As in a file.
    name: String,
    /// As clap has it.
    arg: Arg,
}

/// Reads the command line, with what files say where it is silent. Ends the process when help was asked for.
pub(super) fn parse() -> Result<(Cli, Origins), Failure> {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let wrong = |error: clap::Error| usage::failure(&error, &words);
    let typed = Cli::command().try_get_matches().map_err(wrong)?;
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    for value in read_files(&typed)? {
        // The nearer file comes first.
        found.entry(value.key.name.clone()).or_insert(value);
    }
    let mut command = Cli::command();
    for value in found.values() {
        command = fill(command, &value.key, &value.texts);
    }
    let matches = if found.is_empty() { typed } else { command.try_get_matches().map_err(wrong)? };
    let cli = Cli::from_arg_matches(&matches).map_err(wrong)?;
    let files = found.into_iter().map(|(key, value)| (key, value.place)).collect();
    Ok((cli, Origins { matches, files }))
}

/// The values of all files, the nearest file first.
fn read_files(typed: &ArgMatches) -> Result<Vec<Found>, Failure> {
    let keys = keys();
    let mut far = Vec::new();
    let own = typed.get_one::<PathBuf>("config");
    if own.is_none() {
        far.extend(user_file().map_or(Ok(Vec::new()), |file| read(&file, &keys))?);
    }
    far.extend(read(&Path::new(SYSTEM_DIR).join(DIR_NAME).join(FILE_NAME), &keys)?);
    let mut near = match own {
        Some(file) if !file.exists() => {
            let message = format!("there is no configuration file `{}`", file.display());
            return Err(Failure::new(Code::NotFound, message).hint("swarm --config FILE …"));
        }
        Some(file) => read(file, &keys)?,
        None => read_in_data(typed, &keys, &far)?,
    };
    near.append(&mut far);
    Ok(near)
}

/// What the data directory's own file says; which directory that is, it cannot.
fn read_in_data(typed: &ArgMatches, keys: &[Key], far: &[Found]) -> Result<Vec<Found>, Failure> {
    let Some(dir) = data_dir_of(typed, far) else { return Ok(Vec::new()) };
    let path = dir.join(FILE_NAME);
    let keys: Vec<Key> = keys.iter().filter(|key| !["data", "node"].contains(&key.name.as_str())).cloned().collect();
    read(&path, &keys)
}

/// The data directory of the command, as far as it is known before that has its file read.
fn data_dir_of(typed: &ArgMatches, far: &[Found]) -> Option<PathBuf> {
    let typed_data = TAKERS.iter().find_map(|path| innermost(typed, path)?.get_one::<PathBuf>("data").cloned());
    let said = |key: &str| far.iter().find(|found| found.key.name == key).and_then(|found| found.texts.first());
    let takes_data = TAKERS.iter().any(|path| innermost(typed, path).is_some());
    let data = typed_data.or_else(|| said("data").filter(|_| takes_data).map(PathBuf::from));
    let node = || typed.get_one::<PathBuf>("node").cloned().or_else(|| said("node").map(PathBuf::from));
    data.or_else(node).or_else(|| data_dir(&Global::default()).ok())
}

fn innermost<'a>(matches: &'a ArgMatches, path: &[&str]) -> Option<&'a ArgMatches> {
    path.iter().try_fold(matches, |matches, name| matches.subcommand_matches(name))
}

fn user_file() -> Option<PathBuf> {
    let dirs = etcetera::choose_base_strategy().ok()?;
    Some(dirs.config_dir().join(DIR_NAME).join(FILE_NAME))
}

/// Everything that a file may have.
fn keys() -> Vec<Key> {
    let command = Cli::command();
    let start = command.find_subcommand(TAKERS[0][0]).into_iter().flat_map(Command::get_arguments);
    let global = command.get_arguments().filter(|arg| arg.get_long().is_some_and(|long| GLOBAL_KEYS.contains(&long)));
    let key = |arg: &Arg| Some(Key { name: arg.get_long()?.replace('-', "_"), arg: arg.clone() });
    start.chain(global).filter_map(key).collect()
}

/// The values in a file; none where there is no file.
fn read(path: &Path, keys: &[Key]) -> Result<Vec<Found>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        // A directory that is not ours tells us nothing; that is said where something is wanted from it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(Vec::new()),
        Err(error) => {
            let what = format!("the configuration file `{}` cannot be read", path.display());
            return Err(Failure::caused(Code::Invalid, &what, &error).hint("swarm --config FILE …"));
        }
    };
    if text.len() > FILE_BYTES_MAX {
        let message = format!("the configuration file `{}` is over {FILE_BYTES_MAX} bytes", path.display());
        return Err(Failure::new(Code::Invalid, message).hint("swarm --config FILE …"));
    }
    let name = path.display().to_string();
    values(&text, &name, keys).map_err(|fault| {
        let message = causes(&fault.in_file(&text, &name));
        Failure::new(Code::Invalid, message).hint(format!("mend it, then see `swarm config show --config {name}`"))
    })
}

fn values(text: &str, file_name: &str, keys: &[Key]) -> Result<Vec<Found>, Fault> {
    let end = text.len()..text.len();
    let table = DeTable::parse(text).map_err(|error| {
        let message = format!("not valid TOML: {}", error.message());
        Fault::new(&error.span().unwrap_or(end), message).coded(FaultCode::Syntax)
    })?;
    let mut found = Vec::new();
    for (name, value) in table.get_ref() {
        let name_text: &str = name.get_ref();
        let key = keys.iter().find(|key| key.name == name_text);
        let key = key.ok_or_else(|| unknown(name_text, &name.span(), keys))?;
        let wrong = |message: String| Fault::new(&value.span(), format!("`{name_text}`: {message}"));
        let texts = texts(value.get_ref()).ok_or_else(|| wrong("no setting is written so".into()))?;
        key.check(&texts).map_err(wrong)?;
        let line = text[..name.span().start].matches('\n').count() + 1;
        found.push(Found { key: key.clone(), texts, place: format!("{file_name}:{line}") });
    }
    Ok(found)
}

fn unknown(name: &str, span: &std::ops::Range<usize>, keys: &[Key]) -> Fault {
    let names = || keys.iter().map(|key| key.name.as_str());
    let hint = match suggestion(name, names()) {
        hint if !hint.is_empty() => hint,
        _ => format!("; there are {}", names().collect::<Vec<_>>().join(", ")),
    };
    Fault::new(span, format!("unknown key `{name}`{hint}")).coded(FaultCode::UnknownKey)
}

/// A value as the arguments of a flag: a list as several, a table as `KEY=VALUE` each.
fn texts(value: &DeValue<'_>) -> Option<Vec<String>> {
    match value {
        DeValue::Array(items) => items.iter().map(|item| scalar(item.get_ref())).collect(),
        DeValue::Table(table) => {
            let pair = |key: &str, value| Some(format!("{key}={}", scalar(value)?));
            table.iter().map(|(key, value)| pair(key.get_ref(), value.get_ref())).collect()
        }
        single => Some(vec![scalar(single)?]),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(integer) => Some(i64::from_str_radix(integer.as_str(), integer.radix()).ok()?.to_string()),
        DeValue::Boolean(boolean) => Some(boolean.to_string()),
        _ => None,
    }
}

impl Key {
    fn is_switch(&self) -> bool {
        !self.arg.get_action().takes_values()
    }

    fn is_list(&self) -> bool {
        matches!(self.arg.get_action(), clap::ArgAction::Append)
    }

    /// Whether the flag would take these.
    fn check(&self, texts: &[String]) -> Result<(), String> {
        match texts {
            [text] if self.is_switch() => match text.as_str() {
                "true" | "false" => Ok(()),
                _ => Err("it is true or false".into()),
            },
            [_] => self.check_values(texts),
            _ if self.is_list() => self.check_values(texts),
            _ => Err("it has one value".into()),
        }
    }

    fn check_values(&self, texts: &[String]) -> Result<(), String> {
        let alone = self.arg.clone().env(clap::builder::Resettable::Reset).global(false);
        let flag = format!("--{}", alone.get_long().unwrap_or_default());
        let words = texts.iter().map(|text| format!("{flag}={text}"));
        let tried =
            Command::new("swarm").arg(alone).try_get_matches_from(["swarm".to_owned()].into_iter().chain(words));
        tried.map(drop).map_err(|error| {
            let said = error.to_string();
            let said: Vec<&str> = said.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
            said.join(" ").trim_start_matches("error: ").to_owned()
        })
    }
}

/// The command, with these as what a flag is without being typed.
fn fill(command: Command, key: &Key, texts: &[String]) -> Command {
    // clap keeps only what lives as long as the process; a file has a few dozen values, and is read once.
    let texts: Vec<&'static str> = texts.iter().map(|text| &*Box::leak(text.clone().into_boxed_str())).collect();
    let id = key.arg.get_id().as_str();
    let set = |command: Command| command.mut_arg(id, |arg| arg.default_values(texts.clone()));
    if GLOBAL_KEYS.contains(&key.name.as_str()) {
        return set(command);
    }
    TAKERS.iter().fold(command, |command, path| match path {
        [outer, inner] => command.mut_subcommand(outer, |command| command.mut_subcommand(inner, set)),
        [outer, ..] => command.mut_subcommand(outer, set),
        [] => command,
    })
}

/// One setting, and where it came from.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Setting {
    /// As in a file.
    key: String,
    /// As it is used: bytes and slots as numbers, times as `30s`; null where there is no limit or no such thing.
    value: Value,
    /// `flag`, `environment`, `file` or `default`.
    from: &'static str,
    /// The flag, the variable, or `FILE:LINE`.
    #[serde(skip_serializing_if = "String::is_empty")]
    origin: String,
    /// In words, for a table.
    #[serde(skip)]
    words: String,
}

impl Row for Setting {
    const HEADER: &'static [&'static str] = &["SETTING", "VALUE", "FROM", "WHERE"];

    fn cells(&self) -> Vec<String> {
        vec![self.key.clone(), shown(&self.words), self.from.into(), shown(&self.origin)]
    }

    fn id(&self) -> String {
        self.key.clone()
    }
}

/// `swarm config show`.
pub(super) fn show(global: &Global, start: args::Start, origins: &Origins) -> Result<(), Failure> {
    let options = options(global, start)?;
    let mut settings: Vec<Setting> = used(&options).into_iter().map(|used| origins.setting(used)).collect();
    let node = origins.setting(Used::text("node", data_dir(global)?.display().to_string()));
    // A node keeps its data where commands look for it, unless it is told otherwise.
    for setting in settings.iter_mut().filter(|setting| setting.key == "data" && setting.from == "default") {
        (setting.from, setting.origin) = (node.from, node.origin.clone());
    }
    settings.push(node);
    let output = format!("{:?}", global.output).to_lowercase();
    settings.push(origins.setting(Used::text("output", output)));
    settings.push(log());
    list(global.output, &List::new(SETTINGS, settings))
}

impl Origins {
    fn setting(&self, Used { key, value, words }: Used) -> Setting {
        let (from, origin) = self.of(key);
        Setting { key: key.into(), value, from, origin, words }
    }

    fn of(&self, key: &str) -> (&'static str, String) {
        let show = innermost(&self.matches, TAKERS[2]);
        let Some(known) = keys().into_iter().find(|known| known.name == key) else { return ("default", String::new()) };
        match show.and_then(|matches| matches.value_source(known.arg.get_id().as_str())) {
            Some(ValueSource::CommandLine) => ("flag", format!("--{}", key.replace('_', "-"))),
            Some(ValueSource::EnvVariable) => {
                let variable = known.arg.get_env().map(|name| name.to_string_lossy().into_owned());
                ("environment", variable.unwrap_or_default())
            }
            _ => self.files.get(key).map_or(("default", String::new()), |place| ("file", place.clone())),
        }
    }
}

/// The filter of the log, which only the environment sets.
fn log() -> Setting {
    let set = ["SWARM_LOG", "RUST_LOG"].into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
    let (from, origin, words) = match set {
        Some((name, filter)) => ("environment", name.to_owned(), filter),
        None => ("default", String::new(), "warn, and info of a node on a terminal".into()),
    };
    Setting { key: "log".into(), value: words.clone().into(), from, origin, words }
}

/// A setting as a node would use it.
struct Used {
    key: &'static str,
    value: Value,
    words: String,
}

impl Used {
    fn text(key: &'static str, text: String) -> Self {
        Self { key, value: text.clone().into(), words: text }
    }

    fn number(key: &'static str, number: u64) -> Self {
        Self { key, value: number.into(), words: number.to_string() }
    }

    fn size(key: &'static str, size: Option<u64>, none: &str) -> Self {
        Self { key, value: json!(size), words: size.map_or_else(|| none.to_owned(), bytes) }
    }

    fn time(key: &'static str, time: Duration) -> Self {
        // What was read as such a time is one.
        let words = jiff::SignedDuration::try_from(time).map(|time| format!("{time:#}")).unwrap_or_default();
        Self { key, value: words.clone().into(), words }
    }

    fn texts(key: &'static str, texts: &[String], none: &str) -> Self {
        let words = if texts.is_empty() { none.to_owned() } else { texts.join(" ") };
        Self { key, value: json!(texts), words }
    }
}

/// Everything that a node is started with.
fn used(options: &RuntimeOptions) -> Vec<Used> {
    let labels: Vec<String> = options.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let rate = |rate: Option<std::num::NonZeroU64>| rate.map(std::num::NonZeroU64::get);
    let name = options.name.clone().or_else(machine_name).unwrap_or_default();
    vec![
        Used::text("data", options.data.display().to_string()),
        Used::text("name", name),
        Used::text("swarm", options.swarm.clone()),
        Used::texts("listen", &options.listen, "QUIC and TCP on free ports"),
        Used::texts("bootstrap", &options.bootstrap, "none"),
        Used { key: "lan", value: options.lan.into(), words: options.lan.to_string() },
        Used::texts("label", &labels, "none"),
        Used::number("slots", options.slots as u64),
        Used::size("memory", Some(options.memory_bytes), ""),
        Used::size("disk", options.disk_bytes, "the disk, but for the reserve"),
        Used::size("disk_reserve", options.disk_reserve_bytes, "64 MiB, or a sixteenth of a small disk"),
        Used::size("code_cache", Some(options.code_cache_bytes), ""),
        Used::time("gc_grace", options.gc_grace),
        Used::time("scrub_every", options.scrub_every),
        Used::time("drain_timeout", options.drain_timeout),
        Used::size("upload_rate", rate(options.upload_rates.total), "no limit"),
        Used::size("upload_rate_per_peer", rate(options.upload_rates.per_peer), "no limit"),
        Used::size("download_rate", rate(options.download_rates.total), "no limit"),
        Used::size("download_rate_per_peer", rate(options.download_rates.per_peer), "no limit"),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read_text(text: &str) -> Result<Vec<(String, Vec<String>)>, String> {
        let found = values(text, "c.toml", &keys()).map_err(|fault| causes(&fault.in_file(text, "c.toml")))?;
        Ok(found.into_iter().map(|found| (found.key.name, found.texts)).collect())
    }

    #[test]
    fn what_flags_take_files_take() {
        let text = "slots = 4\nlan = true\ngc_grace = \"30m\"\nlisten = [\"/ip4/127.0.0.1/tcp/1\", \"/ip4/127.0.0.1/tcp/2\"]\n\
                    label = { zone = \"a\", disk = \"nvme\" }\nmemory = 4294967296\noutput = \"json\"\n";
        let found: BTreeMap<_, _> = read_text(text).unwrap().into_iter().collect();
        assert_eq!((found["slots"][0].as_str(), found["lan"][0].as_str()), ("4", "true"));
        assert_eq!((found["listen"].len(), found["label"].len(), found["memory"][0].as_str()), (2, 2, "4294967296"));
    }

    #[test]
    fn what_is_wrong_is_shown_where_it_stands() {
        for (text, said) in [
            ("a = 1\nslots = 4\n", "unknown key `a`; there are bootstrap, listen"),
            ("solts = 4\n", "unknown key `solts`; did you mean `slots`?"),
            ("slots = 0\n", "`slots`: invalid value '0' for '--slots <N>'"),
            ("slots = [1, 2]\n", "it has one value"),
            ("slots = 1.5\n", "no setting is written so"),
            ("lan = \"maybe\"\n", "it is true or false"),
            ("output = \"xml\"\n", "[possible values: table, json, jsonl, id]"),
            ("gc_grace = \"90\"\n", "a time is a number and a unit"),
            ("listen = [\"nonsense\"]\n", "/ip4/"),
            ("slots = ", "not valid TOML"),
            ("help = true\n", "unknown key `help`"),
            ("verbose = 1\n", "unknown key `verbose`"),
        ] {
            let refused = read_text(text).unwrap_err();
            assert!(refused.contains(said) && refused.contains("c.toml:1:"), "{text}: {refused}");
        }
    }

    #[test]
    fn every_flag_of_start_is_shown() {
        let flags: BTreeSet<String> = keys().into_iter().map(|key| key.name).collect();
        let mut shown: BTreeSet<String> =
            used(&RuntimeOptions::new("/data")).into_iter().map(|used| used.key.to_owned()).collect();
        shown.extend(GLOBAL_KEYS.map(str::to_owned));
        assert_eq!(flags, shown);
    }
}
