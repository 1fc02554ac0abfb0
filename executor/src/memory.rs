//! The linear memories of guests: each thread keeps one reservation of address space and uses it for one guest after
//! the other.
//!
//! Always true: a memory that is given out is zero everywhere, whoever used it before; beyond its size nothing can be
//! read or written, by the guest or by the host.
//!
//! The pages that a guest wrote are found with one system call (`PAGEMAP_SCAN`, Linux 6.7) and overwritten with zeros.
//! That leaves the address space as it is, so guests on other processors are not interrupted; giving pages back to the
//! system would (bytecodealliance/wasmtime 11372). Every page that is not known to be untouched counts as written, also
//! one that the kernel has swapped out or is moving just now: wasmtime's own use of the call takes those for clean
//! (bytecodealliance/wasmtime 14357). Where the call is missing, everything is given back and mapped anew.
#![expect(unsafe_code, reason = "address space is reserved, protected and wiped by system calls")]

use std::cell::RefCell;
use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr::{self, NonNull};
use std::sync::LazyLock;

use rustix::ioctl;
use rustix::mm::{self, MapFlags, MprotectFlags, ProtFlags};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Written bytes that are wiped and kept for the next guest; what was written beyond is given back to the system.
/// Wiping so much takes some 100 µs; a small program writes a tenth of it.
const KEPT_BYTES_MAX: usize = 2 * 1024 * 1024;
/// Regions of written pages asked for at a time: a small program has its stack, its data and its heap. The kernel copies as
/// many with each call.
const REGIONS: usize = 16;

thread_local! {
    static KEPT: RefCell<Option<Reservation>> = const { RefCell::new(None) };
}

/// Gives wasmtime its memories.
pub(crate) struct Memories;

// SAFETY: what `new_memory` returns is page-aligned, zero, reserved as asked, and inaccessible beyond its size.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let capacity = reserved.ok_or("the engine reserves no address space")?;
        let len = capacity.checked_add(guard).ok_or("the engine reserves too much address space")?;
        let kept = KEPT.with_borrow_mut(Option::take).filter(|kept| kept.len == len);
        let reservation = kept.map_or_else(|| Reservation::new(len), Ok).map_err(|error| error.to_string())?;
        let mut memory = Memory { reservation: Some(reservation), size: 0, capacity };
        memory.resize(minimum).map_err(|error| error.to_string())?;
        Ok(Box::new(memory))
    }
}

/// The memory of one guest.
struct Memory {
    /// There until dropped.
    reservation: Option<Reservation>,
    size: usize,
    capacity: usize,
}

impl Memory {
    fn resize(&mut self, size: usize) -> io::Result<()> {
        if size > self.capacity {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.reservation.as_mut().expect("there until dropped").open(size)?;
        self.size = size;
        Ok(())
    }
}

// SAFETY: as for `Memories`; growing never moves the memory.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.size
    }

    fn byte_capacity(&self) -> usize {
        self.capacity
    }

    fn grow_to(&mut self, size: usize) -> wasmtime::Result<()> {
        Ok(self.resize(size)?)
    }

    fn as_ptr(&self) -> *mut u8 {
        self.reservation.as_ref().expect("there until dropped").base.as_ptr()
    }
}

impl Drop for Memory {
    /// What cannot be wiped is not used again.
    fn drop(&mut self) {
        let reservation = self.reservation.take().and_then(|used| used.wiped(PAGEMAP.as_ref()).ok());
        // A thread that ends has no place to keep it any more.
        let _ = KEPT.try_with(|kept| *kept.borrow_mut() = reservation);
    }
}

/// Address space, of which a beginning can be used.
struct Reservation {
    base: NonNull<u8>,
    len: usize,
    open: usize,
}

// SAFETY: it owns its address space, and nothing in it is bound to a thread.
unsafe impl Send for Reservation {}
// SAFETY: a shared reference gives nothing but the address.
unsafe impl Sync for Reservation {}

impl Reservation {
    fn new(len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: the system chooses an address that nobody uses.
        let base = unsafe { mm::mmap_anonymous(ptr::null_mut(), len, ProtFlags::empty(), flags)? };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, len, open: 0 })
    }

    /// Makes exactly the first `size` bytes usable.
    fn open(&mut self, size: usize) -> io::Result<()> {
        if size > self.open {
            self.protect(self.open, size, MprotectFlags::READ | MprotectFlags::WRITE)?;
        } else if size < self.open {
            self.protect(size, self.open, MprotectFlags::empty())?;
        }
        self.open = size;
        Ok(())
    }

    fn protect(&self, from: usize, to: usize, flags: MprotectFlags) -> io::Result<()> {
        // SAFETY: the range is within this reservation, and no reference into it outlives a guest's call.
        unsafe { mm::mprotect(self.at(from), to - from, flags)? };
        Ok(())
    }

    fn at(&self, offset: usize) -> *mut c_void {
        self.base.as_ptr().wrapping_add(offset).cast()
    }

    /// Zero everywhere again. Without knowing what was written, all of it is given back to the system.
    fn wiped(mut self, pagemap: Option<&File>) -> io::Result<Self> {
        let wiped = pagemap.and_then(|pagemap| self.wipe_written(pagemap).ok()).unwrap_or(0);
        if wiped < self.open {
            self.give_back(wiped)?;
        }
        Ok(self)
    }

    /// Overwrites written pages until [`KEPT_BYTES_MAX`] are found; returns up to where all is zero.
    fn wipe_written(&self, pagemap: &File) -> io::Result<usize> {
        let base = self.base.as_ptr() as usize;
        let (mut clean, mut kept) = (0, 0);
        while clean < self.open && kept < KEPT_BYTES_MAX {
            let mut regions = [Region::default(); REGIONS];
            let scan = Scan::new(base + clean..base + self.open, KEPT_BYTES_MAX - kept, &mut regions);
            // SAFETY: the call writes nothing but the scan and its regions, which live longer.
            let (found, walked) = unsafe { ioctl::ioctl(pagemap, scan)? };
            for region in regions.iter().take(found) {
                let (start, len) = (region.start as usize - base, (region.end - region.start) as usize);
                // SAFETY: the scan reports pages between its ends, which are open; no guest uses them any more.
                unsafe { ptr::write_bytes(self.base.as_ptr().add(start), 0, len) };
                kept += len;
            }
            clean = walked - base;
        }
        Ok(clean)
    }

    /// Maps everything from there on anew: inaccessible, and zero once opened.
    fn give_back(&mut self, from: usize) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the range is within this reservation, and no guest uses it any more.
        unsafe { mm::mmap_anonymous(self.at(from), self.open - from, ProtFlags::empty(), flags)? };
        self.open = from;
        Ok(())
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the whole of it is ours, and nobody uses it any more.
        let unmapped = unsafe { mm::munmap(self.at(0), self.len) };
        debug_assert!(unmapped.is_ok(), "{unmapped:?}");
    }
}

// ---- which pages were written

/// This process's pages, if the kernel can be asked about them.
static PAGEMAP: LazyLock<Option<File>> = LazyLock::new(|| {
    let pagemap = File::open("/proc/self/pagemap").ok()?;
    let mut regions = [Region::default(); REGIONS];
    // SAFETY: the call writes nothing but the scan and its regions, which live longer.
    let answer = unsafe { ioctl::ioctl(&pagemap, Scan::new(0..0, 0, &mut regions)) };
    answer.is_ok().then_some(pagemap)
});

/// Whether guests' memories are wiped page by page here, which is much faster on several processors.
pub(crate) fn are_wiped_by_page() -> bool {
    PAGEMAP.is_some()
}

const PAGE_IS_PRESENT: u64 = 1 << 3;
/// Also one that is being moved.
const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// Read, never written.
const PAGE_IS_PFNZERO: u64 = 1 << 5;

/// One answer, by its layout in `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Region {
    start: u64,
    end: u64,
    categories: u64,
}

/// The argument of `PAGEMAP_SCAN`, by its layout in `linux/fs.h`.
#[repr(C)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    pages_max: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

impl Scan {
    /// Of at most so many written bytes, whose regions go where the last argument points.
    fn new(range: std::ops::Range<usize>, bytes_max: usize, regions: &mut [Region; REGIONS]) -> Self {
        Self {
            size: size_of::<Self>() as u64,
            flags: 0,
            start: range.start as u64,
            end: range.end as u64,
            walk_end: 0,
            regions: regions.as_mut_ptr() as u64,
            regions_len: regions.len() as u64,
            pages_max: (bytes_max / rustix::param::page_size()) as u64,
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: 0,
        }
    }
}

// SAFETY: this is `_IOWR('f', 16, struct pm_scan_arg)`, which reads and writes its argument and the regions.
unsafe impl ioctl::Ioctl for Scan {
    /// How many regions were found, and up to which address.
    type Output = (usize, usize);
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> ioctl::Opcode {
        ioctl::opcode::read_write::<Self>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(found: ioctl::IoctlOutput, scan: *mut c_void) -> rustix::io::Result<Self::Output> {
        // SAFETY: the pointer is that of `as_ptr`.
        let walk_end = unsafe { (*scan.cast::<Self>()).walk_end };
        Ok((found as usize, walk_end as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: usize = 64 * 1024;
    const CAPACITY: usize = 256 * PAGE;

    /// What a guest of this size finds in its memory that is not zero; it leaves every `step`th byte written.
    fn visit(reservation: &mut Reservation, size: usize, step: usize) -> Option<usize> {
        reservation.open(size).expect("within the reservation");
        // SAFETY: so many bytes are open, and nobody else has them.
        let bytes = unsafe { std::slice::from_raw_parts_mut(reservation.base.as_ptr(), size) };
        let found = bytes.iter().position(|byte| *byte != 0);
        bytes.iter_mut().step_by(step).for_each(|byte| *byte = 0xa5);
        found
    }

    fn nobody_meets_another(pagemap: Option<&File>) {
        let mut reservation = Reservation::new(CAPACITY + PAGE).expect("address space");
        // Few pages and many, scattered ones and all, more than are kept, and smaller guests after larger ones.
        for (pages, step) in
            [(1, 1), (17, 9000), (17, 1), (3, 50), (200, 4096), (200, 70_000), (40, 1), (256, 1), (2, 1)]
        {
            assert_eq!(visit(&mut reservation, pages * PAGE, step), None, "{pages} pages, every {step}th byte");
            reservation = reservation.wiped(pagemap).expect("the system wipes");
        }
        assert_eq!(visit(&mut reservation, CAPACITY, CAPACITY), None);
    }

    #[test]
    fn no_guest_meets_what_another_left_when_pages_are_known() {
        nobody_meets_another(PAGEMAP.as_ref());
    }

    #[test]
    fn no_guest_meets_what_another_left_when_they_are_not() {
        nobody_meets_another(None);
    }

    #[test]
    fn a_page_that_was_moved_away_is_wiped_too() {
        let mut reservation = Reservation::new(CAPACITY).expect("address space");
        assert_eq!(visit(&mut reservation, 64 * PAGE, 4096), None);
        // SAFETY: the range is open. Pages go to swap where there is any.
        unsafe { mm::madvise(reservation.at(0), 64 * PAGE, mm::Advice::LinuxPageOut) }.expect("advice is taken");
        let mut reservation = reservation.wiped(PAGEMAP.as_ref()).expect("the system wipes");
        assert_eq!(visit(&mut reservation, 64 * PAGE, 4096), None);
    }
}
