//! Limit: a loop around wasmtime and its WASI with the executor's settings and nothing of ours, by threads of one process
//! and by processes. The same loop tells how long a round of the spinning guest takes.
//!
//! Always true: what is measured runs in processes that do nothing else, which begin at the same moment.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::iter::Sum;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use swarm_executor::{Bare, BareError, WASM_STACK_BYTES_MAX};

use super::machine::cores;
use super::work::{self, Noop};
use super::{Bench, BenchError, Row, Unit, processor};
use crate::cluster::check_interrupted;

/// As a slot's: half for the guest, half for the host, and some.
const STACK_BYTES: usize = 2 * WASM_STACK_BYTES_MAX + 1024 * 1024;
/// One round of no-op calls.
const ROUND: Duration = Duration::from_secs(1);
/// Calls before each round, so that pools and caches are warm.
const WARM: Duration = Duration::from_millis(200);
/// As many cores are compared as the swarms that are measured have slots.
const COUNTS: [usize; 5] = [1, 2, 3, 4, 8];
/// Two lengths of the spinning guest: their difference is computing alone, whatever a call costs. About 0.1 and 10 ms.
const ROUNDS: [u64; 2] = [5_000, 500_000];

/// Said when everything is compiled.
const READY: &str = "ready";

/// Calls a second that this machine can do: by threads of one process and by processes, for each number of them.
pub(super) type Rates = BTreeMap<usize, ByKind>;

/// Calls a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct ByKind {
    pub(super) threads: f64,
    pub(super) processes: f64,
}

/// Calls a guest in a bare loop; part of `swarm-sim bench`.
#[derive(Clone, Debug, Args)]
pub struct BareOptions {
    /// Threads that call it
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// For how long, in milliseconds
    #[arg(long, default_value_t = 1000)]
    pub millis: u64,
    /// With wasmtime's own pool of instances
    #[arg(long)]
    pub pool: bool,
    /// Another guest that does nothing
    #[arg(long)]
    pub noop: Option<PathBuf>,
    /// Not a guest that does nothing, but the one that spins for so many rounds
    #[arg(long)]
    pub spin: Option<u64>,
}

/// Calls a second of each round.
#[derive(Default)]
struct Samples {
    threads: Vec<f64>,
    processes: Vec<f64>,
    /// Of processes with wasmtime's own pool.
    plain: Vec<f64>,
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let counts: Vec<usize> = COUNTS.into_iter().filter(|count| *count < cores()).chain([cores()]).collect();
    let mut samples: BTreeMap<usize, Samples> = BTreeMap::new();
    for _ in 0..bench.rounds(5) {
        for count in &counts {
            let of_count = samples.entry(*count).or_default();
            let one = BareOptions::noop(bench, 1);
            of_count.threads.push(rate(1, &BareOptions::noop(bench, *count))?);
            of_count.processes.push(rate(*count, &one)?);
            of_count.plain.push(rate(*count, &BareOptions { pool: true, ..one })?);
        }
    }
    samples.into_iter().for_each(|(count, samples)| add(bench, count, samples));
    Ok(())
}

fn add(bench: &mut Bench, count: usize, Samples { threads, processes, plain }: Samples) {
    let row = |what: String, samples| Row::median("bare", what, Unit::PerSecond, samples);
    if count == 1 {
        // Of one, both are the same.
        let plain = row("bare no-op calls, one thread, wasmtime's pool".into(), plain);
        let row = row("bare no-op calls, one thread".into(), [threads, processes].concat());
        bench.limits.bare.insert(1, ByKind { threads: row.value, processes: row.value });
        bench.add(row);
        return bench.add(plain);
    }
    let one = bench.limits.bare.get(&1).map(|one| one.threads);
    let plain = row(format!("bare no-op calls, {count} processes, wasmtime's pool"), plain);
    let processes = row(format!("bare no-op calls, {count} processes"), processes).over("one thread", one);
    let threads = row(format!("bare no-op calls, {count} threads"), threads)
        .over("one thread", one)
        .over(format!("{count} processes"), Some(processes.value))
        .over(format!("{count} processes, wasmtime's pool"), Some(plain.value));
    bench.limits.bare.insert(count, ByKind { threads: threads.value, processes: processes.value });
    bench.add(threads);
    bench.add(processes);
    bench.add(plain);
}

/// What so many processes that spin at once get done.
pub(super) struct Spinning {
    /// How long one round of the spinning guest takes.
    pub(super) round: Duration,
    /// Of the time that passes, what each of them is on a processor.
    pub(super) on_processor: f64,
}

pub(super) fn spin(processes: usize) -> Result<Spinning, BenchError> {
    let of = |rounds| {
        let millis = ROUND.as_millis() as u64;
        did(processes, &BareOptions { threads: 1, millis, pool: false, noop: None, spin: Some(rounds) })
    };
    let [short, long] = [of(ROUNDS[0])?, of(ROUNDS[1])?];
    let [each_short, each_long] = [&short, &long].map(|did| processes as f64 / did.rate);
    let round = Duration::from_secs_f64((each_long - each_short) / (ROUNDS[1] - ROUNDS[0]) as f64);
    Ok(Spinning { round, on_processor: (short.on_processor + long.on_processor) / 2.0 / processes as f64 })
}

/// Calls a second of so many processes together.
fn rate(processes: usize, options: &BareOptions) -> Result<f64, BenchError> {
    did(processes, options).map(|did| did.rate)
}

fn did(processes: usize, options: &BareOptions) -> Result<Did, BenchError> {
    check_interrupted()?;
    let mut loops = (0..processes).map(|_| Loop::start(options)).collect::<Result<Vec<_>, _>>()?;
    loops.iter_mut().try_for_each(Loop::wait_ready)?;
    loops.iter_mut().try_for_each(Loop::go)?;
    loops.iter_mut().map(Loop::did).sum()
}

/// What loops did, all together.
#[derive(Clone, Copy, Debug, Default)]
struct Did {
    /// Calls a second.
    rate: f64,
    /// Threads that were on a processor at once, in the mean.
    on_processor: f64,
}

impl Sum for Did {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        let add =
            |sum: Self, it: Self| Self { rate: sum.rate + it.rate, on_processor: sum.on_processor + it.on_processor };
        all.fold(Self::default(), add)
    }
}

/// A process with a loop. It is killed when it is dropped.
struct Loop {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Loop {
    fn start(options: &BareOptions) -> Result<Self, BenchError> {
        let program = env::current_exe().map_err(BenchError::io("find", "swarm-sim"))?;
        let mut command = Command::new(&program);
        command.arg("bench-bare").args(options.args()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(BenchError::io("start", &program))?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.expect("both were asked for");
        Ok(Self { child, input, output: BufReader::new(output) })
    }

    fn wait_ready(&mut self) -> Result<(), BenchError> {
        let said = self.line()?;
        if said == READY { Ok(()) } else { Err(BenchError::Said(said)) }
    }

    fn go(&mut self) -> Result<(), BenchError> {
        self.input.write_all(b"\n").map_err(BenchError::io("write to", "swarm-sim bench-bare"))
    }

    fn did(&mut self) -> Result<Did, BenchError> {
        let said = self.line()?;
        let mut numbers = said.split(' ').map_while(|number| number.parse().ok());
        match (numbers.next(), numbers.next()) {
            (Some(rate), Some(on_processor)) => Ok(Did { rate, on_processor }),
            _ => Err(BenchError::Said(said)),
        }
    }

    fn line(&mut self) -> Result<String, BenchError> {
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(BenchError::io("read from", "swarm-sim bench-bare"))?;
        Ok(line.trim().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        // Both fail only when it has ended already, as nearly always.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl BareOptions {
    fn noop(bench: &Bench, threads: usize) -> Self {
        Self { threads, millis: ROUND.as_millis() as u64, pool: false, noop: bench.noop.path.clone(), spin: None }
    }

    fn args(&self) -> Vec<OsString> {
        let mut args = vec![format!("--threads={}", self.threads).into(), format!("--millis={}", self.millis).into()];
        args.extend(self.pool.then(|| "--pool".into()));
        args.extend(self.spin.map(|rounds| format!("--spin={rounds}").into()));
        args.extend(self.noop.iter().flat_map(|path| [OsString::from("--noop"), path.into()]));
        args
    }
}

/// The process with the loop: says that it is ready, waits for a line, and says how many calls a second it did, and how many
/// of its threads were on a processor meanwhile.
pub fn bare(options: &BareOptions) -> Result<(), BenchError> {
    let module = match options.spin {
        Some(_) => work::spin_module(),
        None => Noop::new(options.noop.clone())?.module,
    };
    let threads = u32::try_from(options.threads).unwrap_or(u32::MAX);
    let bare = if options.pool { Bare::pooled(&module, threads)? } else { Bare::new(&module)? };
    let args: Vec<String> = ["guest".to_owned()].into_iter().chain(options.spin.map(|it| it.to_string())).collect();
    let (begin, ready) = (Barrier::new(options.threads + 1), Barrier::new(options.threads + 1));
    let call_for = |time: Duration| calls(&bare, &args, time);
    let work = || {
        let warm = call_for(WARM);
        ready.wait();
        begin.wait();
        let (began, used) = (Instant::now(), processor::of_this_thread());
        let rate = warm.and_then(|_| call_for(Duration::from_millis(options.millis)))?;
        let on_processor = (processor::of_this_thread() - used) / began.elapsed().as_secs_f64();
        Ok(Did { rate, on_processor })
    };
    let did: Did = thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let threads = (0..options.threads).map(spawn).collect::<io::Result<Vec<_>>>();
        let threads = threads.map_err(BenchError::io("start a thread of", "swarm-sim bench-bare"))?;
        ready.wait();
        say(READY)?;
        io::stdin().read_line(&mut String::new()).map_err(BenchError::io("read from", "standard input"))?;
        begin.wait();
        let join = |thread: thread::ScopedJoinHandle<'_, _>| thread.join().expect("a loop does not panic");
        threads.into_iter().map(join).sum::<Result<Did, BareError>>().map_err(BenchError::from)
    })?;
    say(&format!("{} {}", did.rate, did.on_processor))
}

fn say(line: &str) -> Result<(), BenchError> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(BenchError::io("write to", "standard output"))
}

/// Calls a second over this time.
fn calls(bare: &Bare, args: &[String], time: Duration) -> Result<f64, BareError> {
    let (began, mut calls) = (Instant::now(), 0);
    while began.elapsed() < time {
        bare.call(args)?;
        calls += 1;
    }
    Ok(f64::from(calls) / began.elapsed().as_secs_f64())
}
