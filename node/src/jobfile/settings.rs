//! What a task may use and when it is tried again: built-in values, then `[defaults]`, then the task's own.
//!
//! Always true: every value is finite, and each has a limit that is named when it is passed.

use std::time::Duration;

use swarm_protocol::{Limits, Resources, Retry, RetryOn, Where};

use super::conditions;
use super::error::{Fault, FaultCode, suggestion};
use super::keys;
use super::tree::{Table, Value};

/// One page of WebAssembly memory, up to all that 32 bits address.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 64 * 1024..=4 << 30;
/// Most tasks of real sweeps fit, and an ordinary node runs dozens at once.
const MEMORY_BYTES_DEFAULT: u64 = 256 << 20;
/// About one unit an instruction and a thousand million a second: some ten minutes of computing, so that fuel and time
/// end a runaway at about the same point.
const FUEL_DEFAULT: u64 = 1_000_000_000_000;
/// Kept with the results by every custodian.
const STDOUT_BYTES: std::ops::RangeInclusive<u64> = 1..=64 << 20;
const STDOUT_BYTES_DEFAULT: u64 = 1 << 20;
/// On the disk of the node that runs it, then on two nodes.
pub(super) const OUTPUTS_BYTES: std::ops::RangeInclusive<u64> = 1..=4 << 30;
const OUTPUTS_BYTES_DEFAULT: u64 = 64 << 20;
/// A task that runs for a week should be cut into smaller ones: all of it is lost with its node.
const RUN: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 3600);
/// Below a second a busy swarm would fail what it is about to run.
const QUEUE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(366 * 24 * 3600);
/// Long enough for work that is worth a task, short enough that a hang is seen the same day.
const RUN_MS_DEFAULT: u64 = 10 * 60 * 1000;
/// Attempts are kept in the record of the task; a thousand of them say no more than a hundred.
const ATTEMPTS: std::ops::RangeInclusive<i64> = 0..=100;
const BACKOFF: std::ops::RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(24 * 3600);

/// A job that has to be over in time is given at least as long as its tasks' queue.
const TOTAL: std::ops::RangeInclusive<Duration> = QUEUE;
/// More slots than any node has.
const SLOTS: std::ops::RangeInclusive<i64> = 1..=4096;
/// Each is looked at for every grant.
const ALTERNATIVES_MAX: usize = 16;

/// All settings of one task table.
pub(super) struct Settings {
    pub(super) retry: Retry,
    pub(super) run_ms_max: u64,
    pub(super) queue_ms_max: Option<u64>,
    pub(super) total_ms_max: Option<u64>,
    pub(super) limits: Limits,
    pub(super) slots: u32,
    pub(super) alternatives: Vec<Resources>,
    pub(super) place: Where,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry: Retry { max: 3, lost_max: 5, backoff_ms: 1000, backoff_ms_max: 60_000, on: Vec::new() },
            run_ms_max: RUN_MS_DEFAULT,
            queue_ms_max: None,
            total_ms_max: None,
            slots: 1,
            alternatives: Vec::new(),
            place: Where::default(),
            limits: Limits {
                memory_bytes_max: MEMORY_BYTES_DEFAULT,
                fuel_max: FUEL_DEFAULT,
                stdout_bytes_max: STDOUT_BYTES_DEFAULT,
                outputs_bytes_max: OUTPUTS_BYTES_DEFAULT,
            },
        }
    }
}

impl Settings {
    /// Takes what a table says about retry, timeout, resources and limits.
    pub(super) fn apply(&mut self, table: &Table) -> Result<(), Fault> {
        for entry in &table.entries {
            match entry.key.as_str() {
                "retry" => self.apply_retry(&entry.value)?,
                "timeout" => self.apply_timeout(&entry.value)?,
                "resources" => self.apply_resources(&entry.value)?,
                "limits" => self.apply_limits(&entry.value)?,
                "where" => conditions::read(&entry.value, &mut self.place)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn apply_retry(&mut self, value: &Value) -> Result<(), Fault> {
        if value.as_integer().is_some() {
            self.retry.max = attempts(value)?;
            self.retry.on = vec![RetryOn::Trap, RetryOn::AnyExit, RetryOn::Timeout];
            return Ok(());
        }
        let table = value.as_table().ok_or_else(|| value.mismatch("an integer or a table such as { max = 3 }"))?;
        keys::RETRY.check(table)?;
        for entry in &table.entries {
            let value = &entry.value;
            match entry.key.as_str() {
                "max" => self.retry.max = attempts(value)?,
                "lost_max" => self.retry.lost_max = attempts(value)?,
                "backoff" => self.retry.backoff_ms = value.duration_ms(BACKOFF)?,
                "max_backoff" => self.retry.backoff_ms_max = value.duration_ms(BACKOFF)?,
                _ => self.retry.on = value.list("strings")?.iter().map(retry_on).collect::<Result<_, _>>()?,
            }
        }
        Ok(())
    }

    fn apply_timeout(&mut self, value: &Value) -> Result<(), Fault> {
        if value.as_text().is_some() {
            self.run_ms_max = value.duration_ms(RUN)?;
            return Ok(());
        }
        let wanted = "a duration such as \"10m\" or a table such as { run = \"10m\" }";
        let table = value.as_table().ok_or_else(|| value.mismatch(wanted))?;
        keys::TIMEOUT.check(table)?;
        if let Some(run) = table.get("run") {
            self.run_ms_max = run.duration_ms(RUN)?;
        }
        if let Some(queue) = table.get("queue") {
            self.queue_ms_max = Some(queue.duration_ms(QUEUE)?);
        }
        if let Some(total) = table.get("total") {
            self.total_ms_max = Some(total.duration_ms(TOTAL)?);
        }
        Ok(())
    }

    fn apply_resources(&mut self, value: &Value) -> Result<(), Fault> {
        let Some(list) = value.as_list() else {
            let one = resources(value, self.first())?;
            self.alternatives.clear();
            self.set_first(one);
            return Ok(());
        };
        let before = self.first();
        let read = list.iter().map(|item| resources(item, before)).collect::<Result<Vec<_>, _>>()?;
        let Some((first, rest)) = read.split_first() else {
            return Err(value.fault("`resources` is an empty list").coded(FaultCode::Type));
        };
        if rest.len() >= ALTERNATIVES_MAX {
            let message = format!("`resources` has at most {ALTERNATIVES_MAX} alternatives");
            return Err(value.fault(message).coded(FaultCode::Limit));
        }
        self.set_first(*first);
        self.alternatives = rest.to_vec();
        Ok(())
    }

    const fn first(&self) -> Resources {
        Resources { memory_bytes_max: self.limits.memory_bytes_max, slots: self.slots }
    }

    const fn set_first(&mut self, first: Resources) {
        self.limits.memory_bytes_max = first.memory_bytes_max;
        self.slots = first.slots;
    }

    fn apply_limits(&mut self, value: &Value) -> Result<(), Fault> {
        let table = value.table("{ stdout = \"1MiB\" }")?;
        keys::LIMITS.check(table)?;
        for entry in &table.entries {
            let value = &entry.value;
            match entry.key.as_str() {
                "fuel" => self.limits.fuel_max = value.integer(1..=i64::MAX)?.unsigned_abs(),
                "stdout" => self.limits.stdout_bytes_max = value.size(STDOUT_BYTES)?,
                _ => self.limits.outputs_bytes_max = value.size(OUTPUTS_BYTES)?,
            }
        }
        Ok(())
    }
}

/// One alternative; what it does not say is as before.
fn resources(value: &Value, before: Resources) -> Result<Resources, Fault> {
    let table = value.table("{ memory = \"256MiB\", slots = 1 }")?;
    keys::RESOURCES.check(table)?;
    let memory = table.get("memory").map(|memory| memory.size(MEMORY_BYTES)).transpose()?;
    let slots = table.get("slots").map(|slots| slots.integer(SLOTS)).transpose()?;
    Ok(Resources {
        memory_bytes_max: memory.unwrap_or(before.memory_bytes_max),
        slots: slots.and_then(|slots| u32::try_from(slots).ok()).unwrap_or(before.slots),
    })
}

fn attempts(value: &Value) -> Result<u16, Fault> {
    value.integer(ATTEMPTS).map(|attempts| u16::try_from(attempts).unwrap_or(u16::MAX))
}

fn retry_on(value: &Value) -> Result<RetryOn, Fault> {
    let text = value.text()?;
    match text {
        "trap" => Ok(RetryOn::Trap),
        "exit" => Ok(RetryOn::AnyExit),
        "timeout" => Ok(RetryOn::Timeout),
        _ => match text.strip_prefix("exit:").map(str::parse) {
            Some(Ok(0)) => Err(value.fault("exit code 0 is success, which is never tried again")),
            Some(Ok(code)) => Ok(RetryOn::Exit(code)),
            Some(Err(_)) => Err(value.fault(format!("`{text}` must have an exit code after `exit:`, as in `exit:75`"))),
            None => {
                let hint = suggestion(text, ["trap", "exit", "timeout"]);
                let known = "`retry.on` knows `trap`, `exit`, `exit:CODE` and `timeout`";
                Err(value.fault(format!("`{text}` is no reason to retry: {known}{hint}")))
            }
        },
    }
}
