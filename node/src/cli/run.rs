//! `swarm run`: one module, without writing a job file. It becomes a job file, so that it is checked, stored and shown
//! as any other job.

use std::path::Path;

use super::args::{self, Global};
use super::get::{self, Destination};
use super::logs::{Choice, Printer};
use super::node::Node;
use super::submit::{Names, parse, upload_and_submit};
use super::usage;
use super::wait::{Meanwhile, or_detach, or_give_up, until_over, verdict};
use crate::api::view::JobDetail;
use crate::api::{Client, Code, Failure, causes};
use crate::jobfile::{JobFileError, Plan};
use crate::modules::Reference;

/// The name of a job whose module's name has nothing usable in it.
const NAME: &str = "run";
/// The longest job name.
const NAME_CHARS_MAX: usize = 63;
/// The only task's name.
const TASK: &str = "main";

/// `swarm run`.
pub(super) async fn run(global: &Global, args: &args::Run) -> Result<(), Failure> {
    let lines = job_file(args)?;
    let plan = parse(text(&lines), "swarm run", Names::of(global, args.local)?).await?;
    let plan = plan.map_err(|error| invalid(&error, &args.module, &lines))?;
    let node = Node::open(global, args.local).await?;
    let done = carry_out(&node, args, &plan).await;
    node.close().await;
    done
}

/// What is wrong, without the job file that nobody wrote: of a flag, what it may be.
fn invalid(error: &JobFileError, module: &str, lines: &[Line]) -> Failure {
    let JobFileError::Invalid(problem) = error else { return of_module(causes(error), module) };
    let message = problem.message().replace(&format!(" (task {TASK})"), "").replace(&format!(" of task `{TASK}`"), "");
    let line = lines.get(problem.position().0.saturating_sub(1));
    let Some(Line { flag: Some(flag), .. }) = line else { return of_module(message, module) };
    let message = message.replace(&format!("`{}`", flag.key), &format!("`{}`", flag.name));
    let next = line_of([module, flag.name, flag.example].into_iter().filter(|word| !word.is_empty()));
    Failure::new(Code::Usage, message).hint(format!("{next}   # more: swarm run --help"))
}

fn line_of<'a>(words: impl Iterator<Item = &'a str>) -> String {
    usage::line(["swarm", "run"].into_iter().chain(words))
}

fn of_module(message: String, module: &str) -> Failure {
    let failure = Failure::new(Code::Invalid, message);
    match Path::new(module) {
        path if module.ends_with(".toml") => failure.hint(format!("swarm submit {}", path.display())),
        path if path.exists() => {
            failure.hint(format!("swarm module inspect {}   # a task is a WASI program in WebAssembly", path.display()))
        }
        _ if module.contains('@') => failure.hint("swarm module ls"),
        _ => failure.hint("swarm run FILE.wasm   # or the name of a module: swarm module ls"),
    }
}

async fn carry_out(node: &Node, args: &args::Run, plan: &Plan) -> Result<(), Failure> {
    let submitted = or_give_up(upload_and_submit(node.client(), plan)).await?;
    or_detach(&submitted.id, node.is_embedded(), finish(node, args, &submitted.job)).await
}

async fn finish(node: &Node, args: &args::Run, id: &str) -> Result<(), Failure> {
    let client = node.client();
    let job = until_over(client, id, None, Meanwhile::Progress).await?;
    Printer::new(Choice::as_if_here()).print_all(client, &job).await?;
    if !args.outputs.is_empty() {
        fetch(client, &job).await?;
    }
    match job.item.done == job.item.tasks {
        // The module's own output says all there is to say.
        true => Ok(()),
        false => verdict(client, &job, node.is_embedded()).await,
    }
}

/// One task's files go where they are named, as a command's own would; those of an array into a directory for the job.
async fn fetch(client: &Client, job: &JobDetail) -> Result<(), Failure> {
    if job.stages.iter().any(|stage| stage.array) {
        return get::fetch_all(client, job, &Destination::open(Path::new(&job.item.id), false)?).await;
    }
    let here = Destination::open(Path::new("."), true)?;
    let mut runs = client.tasks(&job.item.job, None, 0).await?;
    while let Some(run) = runs.next().await? {
        here.put(client, &run).await?;
    }
    Ok(())
}

/// A flag that becomes a line of the job file.
struct Flag {
    name: &'static str,
    /// The key that errors name.
    key: &'static str,
    /// A value, or what follows it.
    example: &'static str,
}

const ARGS: Flag = Flag { name: "--range", key: "args", example: "0..3" };
const STDIN: Flag = Flag { name: "--stdin", key: "stdin", example: "FILE" };
const RANGE: Flag = Flag { name: "--range", key: "array", example: "0..100" };
const EACH_LINE: Flag = Flag { name: "--each-line", key: "each.lines", example: "FILE" };
const TIMEOUT: Flag = Flag { name: "--timeout", key: "timeout", example: "30s" };
const MEMORY: Flag = Flag { name: "--memory", key: "resources.memory", example: "256MiB" };
const OUT: Flag = Flag { name: "--out", key: "outputs", example: "PATH" };
const IN: Flag = Flag { name: "--in", key: "inputs", example: "SRC:DST" };

/// A line of the job file, and the flag that it stands for.
struct Line {
    text: String,
    flag: Option<&'static Flag>,
}

fn text(lines: &[Line]) -> String {
    lines.iter().map(|line| format!("{}\n", line.text)).collect()
}

/// The job file that says the same.
fn job_file(args: &args::Run) -> Result<Vec<Line>, Failure> {
    let plain = |text| Line { text, flag: None };
    let mut lines = vec![
        plain(format!("name = {}", quoted(&name(&args.module)))),
        plain(format!("[task.{TASK}]")),
        plain(format!("wasm = {}", quoted(&module(&args.module)))),
    ];
    let mut flag = |flag, text: Option<String>| lines.extend(text.map(|text| Line { text, flag: Some(flag) }));
    flag(&ARGS, Some(format!("args = {}", list(&args.args))));
    flag(&STDIN, args.stdin.as_deref().map(|file| format!("stdin = {{ file = {} }}", path(file))));
    flag(&RANGE, args.range.as_ref().map(|range| format!("array = {}", quoted(range))));
    flag(&EACH_LINE, args.each_line.as_deref().map(|file| format!("each = {{ lines = {} }}", path(file))));
    flag(&TIMEOUT, args.timeout.as_ref().map(|time| format!("timeout = {}", quoted(time))));
    flag(&MEMORY, args.memory.as_ref().map(|size| format!("resources = {{ memory = {} }}", quoted(size))));
    flag(&OUT, (!args.outputs.is_empty()).then(|| format!("outputs = {}", list(&args.outputs))));
    for spec in &args.inputs {
        flag(&IN, Some(input(spec)?));
    }
    Ok(lines)
}

/// `SRC[:DST]`; without a DST, the file keeps its name.
fn input(spec: &str) -> Result<String, Failure> {
    let (source, destination) = match spec.rsplit_once(':') {
        Some((source, destination)) => (Path::new(source), Some(destination.to_owned())),
        None => (Path::new(spec), None),
    };
    let own_name = || source.file_name().map(|name| name.to_string_lossy().into_owned());
    let nameless = || {
        let message = format!("`--in {spec}` has no name for the guest");
        Failure::new(Code::Usage, message).hint(format!("--in {spec}:NAME"))
    };
    let destination = destination.or_else(own_name).ok_or_else(nameless)?;
    let kind = if source.is_dir() { "dir" } else { "file" };
    Ok(format!("inputs.{} = {{ {kind} = {} }}", quoted(&destination), path(source)))
}

/// The module as a job file names it. A file that is there goes before a published name.
fn module(text: &str) -> String {
    let published = || !text.ends_with(".wasm") && text.parse::<Reference>().is_ok();
    if text.contains('@') || Path::new(text).exists() || !published() { text.into() } else { format!("{text}@*") }
}

/// The module's own name, with what a job name may hold.
fn name(module: &str) -> String {
    let stem = match module.parse::<Reference>() {
        Ok(published) if !module.ends_with(".wasm") => published.name.rsplit('.').next().unwrap_or_default().into(),
        _ => Path::new(module).file_stem().map(|stem| stem.to_string_lossy().to_lowercase()).unwrap_or_default(),
    };
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = stem.chars().map(plain).take(NAME_CHARS_MAX).collect();
    let name = name.trim_matches('-');
    if name.is_empty() || module.starts_with("blake3:") { NAME.into() } else { name.into() }
}

fn path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn list(texts: &[String]) -> String {
    let items: Vec<String> = texts.iter().map(|text| quoted(text)).collect();
    format!("[{}]", items.join(", "))
}

/// A TOML basic string. JSON's escapes are TOML's, but for DEL, which TOML wants escaped.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007f")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use insta::assert_snapshot;

    use super::*;

    fn written(line: &[&str]) -> String {
        let cli = args::Cli::parse_from([&["swarm", "run"], line].concat());
        let args::Command::Run(run) = cli.command else { panic!("run") };
        text(&job_file(&run).unwrap())
    }

    #[test]
    fn a_command_line_becomes_a_job_file() {
        let line = [
            "dir/My Tool.wasm",
            "--stdin",
            "a.txt",
            "--in",
            "scene.json:s.json",
            "--in",
            "b/c.txt",
            "--out",
            "x.ppm",
            "--range",
            "0..4",
            "--timeout",
            "30s",
            "--",
            "--x",
            "a\"b\\\u{7f}",
        ];
        assert_snapshot!(written(&line), @r#"
        name = "my-tool"
        [task.main]
        wasm = "dir/My Tool.wasm"
        args = ["--x", "a\"b\\\u007f"]
        stdin = { file = "a.txt" }
        array = "0..4"
        timeout = "30s"
        outputs = ["x.ppm"]
        inputs."s.json" = { file = "scene.json" }
        inputs."c.txt" = { file = "b/c.txt" }
        "#);
    }

    #[test]
    fn whatever_is_typed_the_job_file_is_toml() {
        let odd = "\u{0}\u{1b}\n\t\u{7f}\"\\é\u{2028}";
        let table: toml::Table = written(&["m.wasm", "--", odd]).parse().unwrap();
        assert_eq!(table["task"]["main"]["args"][0].as_str(), Some(odd));
    }

    #[test]
    fn a_job_has_a_name_whatever_the_module_is_called() {
        assert_eq!(
            (name("Ä.wasm").as_str(), name("blake3:ab").as_str(), name("a_b.wasm").as_str()),
            ("run", "run", "a-b")
        );
    }
}
