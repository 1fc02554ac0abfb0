//! The parts of WASI preview 1 through which the disk under `/in` and `/out` would show, or be filled: what a
//! directory lists and what is known of a file are made the same on every machine, and what is written or made is counted.
//!
//! Always true: names are listed in order; times are 0; inode numbers count the files that the guest met.

use std::future::Future;

use wasmtime::{Caller, Linker};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _};
use wasmtime_wasi::runtime::in_tokio;
use wiggle::GuestMemory;

use crate::deterministic::{memory, slice};
use crate::guest::{Guest, Halt};
use crate::validate::WASI_MODULE;

/// Bytes of a listing to begin with; doubled until it fits.
const LISTING_BYTES: u32 = 64 * 1024;
/// The longest listing: half a million files with names of a hundred characters.
const LISTING_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Standard input, output and error come first; what they write has limits of its own.
const STDIO_MAX: i32 = 2;

/// How much a guest may write before the disk is looked at again: little beside any reserve, and a look is a system call.
const ROOM_BYTES: u64 = 64 * 1024;

/// The bit in how a file is opened that makes it when it is missing.
const OPEN_CREATES: i32 = 1;
const SUCCESS: i32 = 0;
const ERRNO_FAULT: i32 = 21;
const ERRNO_NOMEM: i32 = 48;

/// Replaces the functions in a linker that has WASI preview 1.
pub(crate) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(WASI_MODULE, "fd_readdir", fd_readdir)?;
    linker.func_wrap(WASI_MODULE, "fd_filestat_get", fd_filestat_get)?;
    linker.func_wrap(WASI_MODULE, "path_filestat_get", path_filestat_get)?;
    linker.func_wrap(WASI_MODULE, "fd_write", fd_write)?;
    linker.func_wrap(WASI_MODULE, "fd_pwrite", fd_pwrite)?;
    linker.func_wrap(WASI_MODULE, "path_open", path_open)?;
    linker.func_wrap(WASI_MODULE, "path_create_directory", path_create_directory)?;
    linker.func_wrap(WASI_MODULE, "path_symlink", path_symlink)?;
    linker.func_wrap(WASI_MODULE, "path_link", path_link)?;
    Ok(())
}

/// Waits for one of wasmtime's own functions; with blocking file access it is ready at once.
fn wait<T>(future: impl Future<Output = wasmtime::Result<T>>) -> wasmtime::Result<T> {
    in_tokio(future)
}

fn allow_copies(wasi: &mut WasiP1Ctx, bytes: usize) {
    wasi.set_hostcall_fuel(bytes);
}

fn fd_write(mut caller: Caller<'_, Guest>, fd: i32, iovs: i32, len: i32, out: i32) -> wasmtime::Result<i32> {
    let fuel = caller_fuel(&mut caller);
    let (memory, guest) = memory(&mut caller)?;
    allow_copies(&mut guest.wasi, fuel);
    let errno = wait(wasi::fd_write(&mut guest.wasi, &mut GuestMemory::Unshared(memory), fd, iovs, len, out))?;
    count_written(memory, guest, fd, errno, out)
}

fn fd_pwrite(mut caller: Caller<'_, Guest>, fd: i32, iovs: i32, len: i32, at: i64, out: i32) -> wasmtime::Result<i32> {
    let fuel = caller_fuel(&mut caller);
    let (memory, guest) = memory(&mut caller)?;
    allow_copies(&mut guest.wasi, fuel);
    let errno = wait(wasi::fd_pwrite(&mut guest.wasi, &mut GuestMemory::Unshared(memory), fd, iovs, len, at, out))?;
    count_written(memory, guest, fd, errno, out)
}

fn caller_fuel(caller: &mut Caller<'_, Guest>) -> usize {
    wasmtime::AsContextMut::as_context_mut(caller).hostcall_fuel()
}

/// Ends a guest that writes far more than its outputs may hold, before the disk is full.
fn count_written(memory: &mut [u8], guest: &mut Guest, fd: i32, errno: i32, out: i32) -> wasmtime::Result<i32> {
    if errno == SUCCESS && fd > STDIO_MAX {
        let written = slice(memory, out as u32, 4).and_then(|bytes| bytes.first_chunk().copied());
        let written = u64::from(u32::from_le_bytes(written.unwrap_or_default()));
        let left = guest.file_bytes_left.checked_sub(written);
        guest.file_bytes_left = left.ok_or(Halt::OutputTooLarge("what was written to /out"))?;
        check_room(guest, written)?;
    }
    Ok(errno)
}

/// Ends a guest that would leave the disk without its reserve.
fn check_room(guest: &mut Guest, written: u64) -> Result<(), Halt> {
    match guest.room_left.checked_sub(written) {
        Some(left) => guest.room_left = left,
        None if guest.room.has(ROOM_BYTES) => guest.room_left = ROOM_BYTES,
        None => return Err(Halt::NoRoom),
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "WASI's own signature")]
fn path_open(
    mut caller: Caller<'_, Guest>,
    fd: i32,
    look: i32,
    path: i32,
    len: i32,
    how: i32,
    rights: i64,
    inherited: i64,
    flags: i32,
    out: i32,
) -> wasmtime::Result<i32> {
    let fuel = caller_fuel(&mut caller);
    let (memory, guest) = memory(&mut caller)?;
    allow_copies(&mut guest.wasi, fuel);
    let mut unshared = GuestMemory::Unshared(memory);
    let opened =
        wasi::path_open(&mut guest.wasi, &mut unshared, fd, look, path, len, how, rights, inherited, flags, out);
    let errno = wait(opened)?;
    if how & OPEN_CREATES != 0 { count_made(guest, errno) } else { Ok(errno) }
}

fn path_create_directory(mut caller: Caller<'_, Guest>, fd: i32, path: i32, len: i32) -> wasmtime::Result<i32> {
    let fuel = caller_fuel(&mut caller);
    let (memory, guest) = memory(&mut caller)?;
    allow_copies(&mut guest.wasi, fuel);
    let mut unshared = GuestMemory::Unshared(memory);
    let errno = wait(wasi::path_create_directory(&mut guest.wasi, &mut unshared, fd, path, len))?;
    count_made(guest, errno)
}

fn path_symlink(
    mut caller: Caller<'_, Guest>,
    target: i32,
    target_len: i32,
    fd: i32,
    path: i32,
    len: i32,
) -> wasmtime::Result<i32> {
    let fuel = caller_fuel(&mut caller);
    let (memory, guest) = memory(&mut caller)?;
    allow_copies(&mut guest.wasi, fuel);
    let mut unshared = GuestMemory::Unshared(memory);
    let errno = wait(wasi::path_symlink(&mut guest.wasi, &mut unshared, target, target_len, fd, path, len))?;
    count_made(guest, errno)
}

#[expect(clippy::too_many_arguments, reason = "WASI's own signature")]
fn path_link(
    mut caller: Caller<'_, Guest>,
    old_fd: i32,
    look: i32,
    old: i32,
    old_len: i32,
    fd: i32,
    path: i32,
    len: i32,
) -> wasmtime::Result<i32> {
    let fuel = caller_fuel(&mut caller);
    let (memory, guest) = memory(&mut caller)?;
    allow_copies(&mut guest.wasi, fuel);
    let mut unshared = GuestMemory::Unshared(memory);
    let errno = wait(wasi::path_link(&mut guest.wasi, &mut unshared, old_fd, look, old, old_len, fd, path, len))?;
    count_made(guest, errno)
}

/// Ends a guest that makes files without end: each takes a place on the disk that its bytes do not tell of.
fn count_made(guest: &mut Guest, errno: i32) -> wasmtime::Result<i32> {
    if errno == SUCCESS {
        guest.files_left =
            guest.files_left.checked_sub(1).ok_or(Halt::OutputTooLarge("the number of files in /out"))?;
    }
    Ok(errno)
}

fn fd_filestat_get(mut caller: Caller<'_, Guest>, fd: i32, out: i32) -> wasmtime::Result<i32> {
    let (memory, guest) = memory(&mut caller)?;
    let errno = wait(wasi::fd_filestat_get(&mut guest.wasi, &mut GuestMemory::Unshared(memory), fd, out))?;
    Ok(plain_stat(memory, guest, errno, out))
}

fn path_filestat_get(
    mut caller: Caller<'_, Guest>,
    fd: i32,
    flags: i32,
    path: i32,
    len: i32,
    out: i32,
) -> wasmtime::Result<i32> {
    let fuel = caller_fuel(&mut caller);
    let (memory, guest) = memory(&mut caller)?;
    allow_copies(&mut guest.wasi, fuel);
    let mut unshared = GuestMemory::Unshared(memory);
    let errno = wait(wasi::path_filestat_get(&mut guest.wasi, &mut unshared, fd, flags, path, len, out))?;
    Ok(plain_stat(memory, guest, errno, out))
}

/// A `filestat` of 64 bytes: device, inode, type, links, size and three times of 8 bytes each.
fn plain_stat(memory: &mut [u8], guest: &mut Guest, errno: i32, out: i32) -> i32 {
    let Some(stat) = slice(memory, out as u32, 64).filter(|_| errno == SUCCESS) else { return errno };
    let inode = stat[8..16].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    stat[8..16].copy_from_slice(&guest.inode(inode).to_le_bytes());
    stat[24..32].copy_from_slice(&1u64.to_le_bytes());
    stat[40..].fill(0);
    SUCCESS
}

/// Lists a directory in the order of its names, from entry number `cookie` on.
fn fd_readdir(
    mut caller: Caller<'_, Guest>,
    fd: i32,
    buffer: u32,
    len: u32,
    cookie: i64,
    out: u32,
) -> wasmtime::Result<i32> {
    let (memory, guest) = memory(&mut caller)?;
    let listing = match read_listing(&mut guest.wasi, fd)? {
        Ok(listing) => listing,
        Err(errno) => return Ok(errno),
    };
    let mut entries = Entry::all(&listing);
    entries.sort_by(|one, other| (one.special(), one.name).cmp(&(other.special(), other.name)));
    let Some(place) = slice(memory, buffer, len) else { return Ok(ERRNO_FAULT) };
    let first = usize::try_from(cookie).unwrap_or(usize::MAX);
    let mut used = 0;
    for (number, entry) in entries.iter().enumerate() {
        let inode = guest.inode(entry.inode);
        if number >= first && used < place.len() {
            used += put(&mut place[used..], &entry.encode(number as u64 + 1, inode));
        }
    }
    let Some(place) = slice(memory, out, 4) else { return Ok(ERRNO_FAULT) };
    place.copy_from_slice(&(used as u32).to_le_bytes());
    Ok(SUCCESS)
}

/// As much of `bytes` as there is room for: WASI cuts the last entry off, and the guest asks again.
fn put(place: &mut [u8], bytes: &[u8]) -> usize {
    let len = place.len().min(bytes.len());
    place[..len].copy_from_slice(&bytes[..len]);
    len
}

/// The whole listing, read into memory of ours as if it were a guest's: the length, then the entries.
fn read_listing(wasi: &mut WasiP1Ctx, fd: i32) -> wasmtime::Result<Result<Vec<u8>, i32>> {
    const HEAD: u32 = 8;
    let mut room = LISTING_BYTES;
    while room <= LISTING_BYTES_MAX {
        let mut bytes = vec![0; (HEAD + room) as usize];
        let mut memory = GuestMemory::Unshared(&mut bytes);
        let errno = wait(wasi::fd_readdir(wasi, &mut memory, fd, HEAD as i32, room as i32, 0, 0))?;
        if errno != SUCCESS {
            return Ok(Err(errno));
        }
        let used = u32::from_le_bytes(*bytes.first_chunk().expect("there are 8 bytes and more"));
        if used < room {
            bytes.truncate((HEAD + used) as usize);
            return Ok(Ok(bytes.split_off(HEAD as usize)));
        }
        room *= 2;
    }
    Ok(Err(ERRNO_NOMEM))
}

/// One `dirent`: the number of the next one (8 bytes), inode (8), length of the name (4), type (1), 3 unused; then the name.
struct Entry<'a> {
    inode: u64,
    kind: u8,
    name: &'a [u8],
}

impl<'a> Entry<'a> {
    const HEAD: usize = 24;

    fn all(mut listing: &'a [u8]) -> Vec<Self> {
        let mut entries = Vec::new();
        while let Some((head, rest)) = listing.split_at_checked(Self::HEAD) {
            let inode = u64::from_le_bytes(*head[8..].first_chunk().expect("24 bytes"));
            let len = u32::from_le_bytes(*head[16..].first_chunk().expect("24 bytes"));
            let Some((name, rest)) = rest.split_at_checked(len as usize) else { break };
            entries.push(Self { inode, kind: head[20], name });
            listing = rest;
        }
        entries
    }

    /// Sorts `.` and `..` to the front.
    fn special(&self) -> u8 {
        match self.name {
            b"." => 0,
            b".." => 1,
            _ => 2,
        }
    }

    fn encode(&self, next: u64, inode: u64) -> Vec<u8> {
        let len = self.name.len() as u32;
        let kind = [self.kind, 0, 0, 0];
        [&next.to_le_bytes(), &inode.to_le_bytes(), &len.to_le_bytes()[..], &kind, self.name].concat()
    }
}
