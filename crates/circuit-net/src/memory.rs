//! The program's allocator.
//!
//! A CNI executable runs for a millisecond and allocates some kilobytes; getting
//! a good allocator ready, page by page for each size, takes longer than all that
//! it does with them. So the first [`EARLY`] bytes come one behind the other from
//! memory that the program has anyway, and are not used again. What comes later is
//! mimalloc's, as musl's own has one lock for all threads.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::UnsafeCell;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use mimalloc::MiMalloc;

/// Bytes that are there from the start; most executables need less.
pub const EARLY: usize = 256 << 10;

/// The allocator; a program has one, as its `#[global_allocator]`.
pub struct Memory {
    early: UnsafeCell<[u8; EARLY]>,
    /// Bytes of `early` that are given out; they only grow, so that what is given
    /// out is zeroes, and nobody else's.
    used: AtomicUsize,
}

// SAFETY: bytes of `early` are only reached by those whom they were given, and
// `used` gives each byte once.
#[allow(unsafe_code)]
unsafe impl Sync for Memory {}

impl Memory {
    /// Nothing is given out yet.
    #[allow(clippy::new_without_default, reason = "for a static")]
    pub const fn new() -> Self {
        Self {
            early: UnsafeCell::new([0; EARLY]),
            used: AtomicUsize::new(0),
        }
    }

    /// Where in the early memory that is, if there.
    fn place(&self, block: *const u8) -> Option<usize> {
        let place = block.addr().wrapping_sub(self.early.get().addr());
        (place < EARLY).then_some(place)
    }

    /// The next block of the early memory; none once it is used up.
    fn next(&self, layout: Layout) -> Option<*mut u8> {
        let base = self.early.get().cast::<u8>();
        let mut used = self.used.load(Relaxed);
        while used < EARLY {
            let free = base.addr() + used;
            let start = free.checked_next_multiple_of(layout.align())? - base.addr();
            let end = start.checked_add(layout.size())?;
            // One that does not fit is the end of it: to look again each time
            // would cost more than what is left over is worth.
            let new = if end < EARLY { end } else { EARLY };
            match self.used.compare_exchange_weak(used, new, Relaxed, Relaxed) {
                Ok(_) if end < EARLY => return Some(base.wrapping_add(start)),
                Ok(_) => return None,
                Err(now) => used = now,
            }
        }
        None
    }

    /// Makes a block longer or shorter where it is; only the last one can grow.
    fn stretch(&self, place: usize, layout: Layout, size: usize) -> bool {
        let (end, new) = (place + layout.size(), place.saturating_add(size));
        size <= layout.size()
            || (new < EARLY
                && self
                    .used
                    .compare_exchange(end, new, Relaxed, Relaxed)
                    .is_ok())
    }
}

// SAFETY: a block is mimalloc's, or lies in `early` at the alignment and with the
// length that were asked for and overlaps no other, as `used` passed over it; it
// stays until the program ends. Who frees or reallocates it is told by its address.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.next(layout) {
            Some(block) => block,
            // SAFETY: the caller's promises are the same.
            None => unsafe { MiMalloc.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        match self.next(layout) {
            Some(block) => block,
            // SAFETY: the caller's promises are the same.
            None => unsafe { MiMalloc.alloc_zeroed(layout) },
        }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if self.place(block).is_none() {
            // SAFETY: it is not of the early memory, so it is mimalloc's.
            unsafe { MiMalloc.dealloc(block, layout) }
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let Some(place) = self.place(block) else {
            // SAFETY: it is not of the early memory, so it is mimalloc's.
            return unsafe { MiMalloc.realloc(block, layout, size) };
        };
        if self.stretch(place, layout, size) {
            return block;
        }
        // SAFETY: the alignment is a valid one, and the caller promises the size.
        let new = unsafe { self.alloc(Layout::from_size_align_unchecked(size, layout.align())) };
        if !new.is_null() {
            // SAFETY: the new block is longer than the old one, which is the
            // caller's, and is none of it.
            unsafe { ptr::copy_nonoverlapping(block, new, layout.size()) };
        }
        new
    }
}

#[cfg(test)]
#[allow(unsafe_code, clippy::unwrap_used)]
mod tests {
    use std::slice;
    use std::thread;

    use super::*;

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    fn memory() -> &'static Memory {
        Box::leak(Box::new(Memory::new()))
    }

    #[test]
    fn blocks_are_aligned_and_zero_and_come_from_elsewhere_once_used_up() {
        let memory = memory();
        let mut blocks = Vec::new();
        for at in 0..4000 {
            let layout = layout(1 + at % 300, 1 << (at % 9));
            let block = unsafe { memory.alloc_zeroed(layout) };
            assert!(!block.is_null());
            assert_eq!(block.addr() % layout.align(), 0);
            let bytes = unsafe { slice::from_raw_parts_mut(block, layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == 0), "{at}");
            bytes.fill(at as u8);
            blocks.push((block, layout, at as u8));
        }
        let early = blocks
            .iter()
            .filter(|(block, ..)| memory.place(*block).is_some());
        assert!((500..4000).contains(&early.count()));
        for (block, layout, filled) in blocks {
            let bytes = unsafe { slice::from_raw_parts(block, layout.size()) };
            assert!(bytes.iter().all(|byte| *byte == filled));
            unsafe { memory.dealloc(block, layout) };
        }
    }

    #[test]
    fn the_last_block_grows_where_it_is_and_others_move() {
        let memory = memory();
        let grow = |block, from: usize, to| unsafe { memory.realloc(block, layout(from, 8), to) };
        let first = unsafe { memory.alloc(layout(100, 8)) };
        unsafe { first.write_bytes(7, 100) };
        assert_eq!(grow(first, 100, 1000), first);
        let second = unsafe { memory.alloc(layout(8, 8)) };
        assert_eq!(grow(first, 1000, 500), first);
        let moved = grow(first, 500, 2000);
        assert_ne!(moved, first);
        assert!(memory.place(moved).is_some());
        // Further than the early memory reaches, and back.
        let far = grow(moved, 2000, EARLY);
        assert!(memory.place(far).is_none());
        let far = grow(far, EARLY, 2 * EARLY);
        let bytes = unsafe { slice::from_raw_parts(far, 100) };
        assert!(bytes.iter().all(|byte| *byte == 7));
        unsafe {
            memory.dealloc(far, layout(2 * EARLY, 8));
            memory.dealloc(second, layout(8, 8));
        }
    }

    #[test]
    fn threads_never_share_a_block() {
        let memory = memory();
        thread::scope(|scope| {
            for mark in 1..=4_u8 {
                scope.spawn(move || {
                    let blocks: Vec<_> = (0..3000)
                        .map(|at| {
                            let size = 1 + at % 40;
                            let block = unsafe { memory.alloc(layout(size, 1)) };
                            unsafe { block.write_bytes(mark, size) };
                            (block, size)
                        })
                        .collect();
                    for (block, size) in blocks {
                        let bytes = unsafe { slice::from_raw_parts(block, size) };
                        assert!(bytes.iter().all(|byte| *byte == mark));
                        unsafe { memory.dealloc(block, layout(size, 1)) };
                    }
                });
            }
        });
    }
}
