//! The parts of WASI preview 1 that would tell a guest something about this machine or this moment, replaced: clocks,
//! sleeping, random numbers, and the exit code.
//!
//! Always true: what these functions return depends on the guest's seed and on what it called before, on nothing else;
//! none of them waits.

use wasmtime::{Caller, Extern, Linker};
use wasmtime_wasi::I32Exit;

use crate::guest::Guest;
use crate::validate::WASI_MODULE;

/// What every guest's calendar shows at its start: 2000-01-01T00:00:00Z, in nanoseconds since 1970.
const EPOCH_NS: u64 = 946_684_800 * 1_000_000_000;
/// How far time goes on with each look at a clock: a guest that waits for time to pass sees it pass.
const STEP_NS: u64 = 1_000;
/// Subscriptions in one call of `poll_oneoff`; programs use a handful.
const SUBSCRIPTIONS_MAX: u32 = 4096;

const SUCCESS: i32 = 0;
const ERRNO_BADF: u16 = 8;
const ERRNO_FAULT: i32 = 21;
const ERRNO_INVAL: i32 = 28;

/// Time as a guest sees it: nanoseconds since its start.
#[derive(Default)]
pub(crate) struct VirtualClock {
    elapsed_ns: u64,
}

impl VirtualClock {
    fn now(&mut self) -> u64 {
        self.advance(STEP_NS);
        self.elapsed_ns
    }

    fn advance(&mut self, by_ns: u64) {
        self.elapsed_ns = self.elapsed_ns.saturating_add(by_ns);
    }
}

/// Replaces the functions in a linker that has WASI preview 1.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(WASI_MODULE, "clock_time_get", clock_time_get)?;
    linker.func_wrap(WASI_MODULE, "clock_res_get", clock_res_get)?;
    linker.func_wrap(WASI_MODULE, "random_get", random_get)?;
    linker.func_wrap(WASI_MODULE, "poll_oneoff", poll_oneoff)?;
    linker.func_wrap(WASI_MODULE, "proc_exit", proc_exit)?;
    Ok(())
}

/// The guest's memory beside its state; validation saw to it that there is an exported memory.
pub(crate) fn memory<'a>(caller: &'a mut Caller<'_, Guest>) -> wasmtime::Result<(&'a mut [u8], &'a mut Guest)> {
    match caller.get_export("memory") {
        Some(Extern::Memory(memory)) => Ok(memory.data_and_store_mut(caller)),
        _ => Err(wasmtime::Error::msg("the module has no memory")),
    }
}

/// `len` bytes of a guest's memory, or `None` when they are not all there.
pub(crate) fn slice(memory: &mut [u8], at: u32, len: u32) -> Option<&mut [u8]> {
    let (at, len) = (at as usize, len as usize);
    memory.get_mut(at..at.checked_add(len)?)
}

fn clock_time_get(mut caller: Caller<'_, Guest>, clock: u32, _precision: i64, at: u32) -> wasmtime::Result<i32> {
    let (memory, guest) = memory(&mut caller)?;
    let time = match clock {
        0 => EPOCH_NS.saturating_add(guest.clock.now()),
        1..=3 => guest.clock.now(),
        _ => return Ok(ERRNO_INVAL),
    };
    Ok(write(memory, at, &time.to_le_bytes()))
}

fn clock_res_get(mut caller: Caller<'_, Guest>, clock: u32, at: u32) -> wasmtime::Result<i32> {
    let (memory, _) = memory(&mut caller)?;
    if clock > 3 {
        return Ok(ERRNO_INVAL);
    }
    Ok(write(memory, at, &STEP_NS.to_le_bytes()))
}

fn random_get(mut caller: Caller<'_, Guest>, at: u32, len: u32) -> wasmtime::Result<i32> {
    let (memory, guest) = memory(&mut caller)?;
    let Some(bytes) = slice(memory, at, len) else { return Ok(ERRNO_FAULT) };
    guest.random.fill(bytes);
    Ok(SUCCESS)
}

fn write(memory: &mut [u8], at: u32, bytes: &[u8; 8]) -> i32 {
    let Some(place) = slice(memory, at, 8) else { return ERRNO_FAULT };
    place.copy_from_slice(bytes);
    SUCCESS
}

/// Any code may be returned; wasmtime's own version refuses 126 and above.
fn proc_exit(_: Caller<'_, Guest>, code: i32) -> wasmtime::Result<()> {
    Err(I32Exit(code).into())
}

/// What one subscription of `poll_oneoff` waits for.
enum Wait {
    /// A time of the guest's clock, in nanoseconds since its start.
    Until(u64),
    /// A file or stream; none of ours ever makes a reader or writer wait.
    Ready,
    /// Not a clock that exists.
    Invalid,
}

/// Never waits: files are ready at once, and when there are only clocks, the guest's time jumps to the earliest.
fn poll_oneoff(mut caller: Caller<'_, Guest>, subs: u32, events: u32, count: u32, out: u32) -> wasmtime::Result<i32> {
    let (memory, guest) = memory(&mut caller)?;
    if count == 0 || count > SUBSCRIPTIONS_MAX {
        return Ok(ERRNO_INVAL);
    }
    let mut waits = Vec::new();
    for number in 0..count {
        let Some(bytes) = slice(memory, subs.wrapping_add(number * Subscription::BYTES), Subscription::BYTES) else {
            return Ok(ERRNO_FAULT);
        };
        let subscription = Subscription::read(bytes);
        let wait = subscription.wait(guest.clock.elapsed_ns);
        waits.push((subscription, wait));
    }
    let earliest = waits.iter().filter_map(|(_, wait)| wait.deadline(guest.clock.elapsed_ns)).min();
    guest.clock.elapsed_ns = earliest.unwrap_or(0).max(guest.clock.elapsed_ns);
    let mut ended = 0;
    for (subscription, wait) in waits {
        let Some(errno) = wait.errno(guest.clock.elapsed_ns) else { continue };
        let Some(bytes) =
            slice(memory, events.wrapping_add(ended * Subscription::EVENT_BYTES), Subscription::EVENT_BYTES)
        else {
            return Ok(ERRNO_FAULT);
        };
        subscription.write_event(bytes, errno);
        ended += 1;
    }
    let Some(place) = slice(memory, out, 4) else { return Ok(ERRNO_FAULT) };
    place.copy_from_slice(&ended.to_le_bytes());
    Ok(SUCCESS)
}

impl Wait {
    /// When this is over; `now` for what is over already.
    fn deadline(&self, now: u64) -> Option<u64> {
        match self {
            Self::Until(time) => Some(*time),
            Self::Ready | Self::Invalid => Some(now),
        }
    }

    /// The error number to report, once it is over.
    fn errno(&self, now: u64) -> Option<u16> {
        match self {
            Self::Until(time) => (*time <= now).then_some(0),
            Self::Ready => Some(0),
            Self::Invalid => Some(ERRNO_BADF),
        }
    }
}

/// One `subscription` of WASI preview 1, by its layout in memory.
struct Subscription {
    user_data: [u8; 8],
    tag: u8,
    clock: u32,
    timeout_ns: u64,
    absolute: bool,
}

impl Subscription {
    const BYTES: u32 = 48;
    const EVENT_BYTES: u32 = 32;

    /// From [`Self::BYTES`] bytes.
    fn read(bytes: &[u8]) -> Self {
        let u64_at = |at: usize| *bytes[at..].first_chunk::<8>().expect("the caller gives 48 bytes");
        Self {
            user_data: u64_at(0),
            tag: bytes[8],
            clock: u64_at(16)[0].into(),
            timeout_ns: u64::from_le_bytes(u64_at(24)),
            absolute: bytes[40] & 1 == 1,
        }
    }

    fn wait(&self, now: u64) -> Wait {
        match (self.tag, self.clock, self.absolute) {
            (0, 0..=3, false) => Wait::Until(now.saturating_add(self.timeout_ns)),
            (0, 0, true) => Wait::Until(self.timeout_ns.saturating_sub(EPOCH_NS)),
            (0, 1..=3, true) => Wait::Until(self.timeout_ns),
            (1 | 2, ..) => Wait::Ready,
            _ => Wait::Invalid,
        }
    }

    /// Into [`Self::EVENT_BYTES`] bytes.
    fn write_event(&self, bytes: &mut [u8], errno: u16) {
        bytes.fill(0);
        bytes[..8].copy_from_slice(&self.user_data);
        bytes[8..10].copy_from_slice(&errno.to_le_bytes());
        bytes[10] = self.tag;
        bytes[16] = u8::from(self.tag != 0); // At least one byte can be read or written.
    }
}
