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
    #[inline]
    fn next(&self, layout: Layout) -> Option<*mut u8> {
        if self.used.load(Relaxed) < EARLY {
            self.take(layout)
        } else {
            None
        }
    }

    // Not as a part of each place that allocates, of which there are thousands.
    #[inline(never)]
    fn take(&self, layout: Layout) -> Option<*mut u8> {
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

    /// Reallocates a block of the early memory.
    ///
    /// # Safety
    /// As [`GlobalAlloc::realloc`], and the block is at that place.
    #[allow(unsafe_code)]
    #[inline(never)]
    unsafe fn move_on(&self, block: *mut u8, place: usize, layout: Layout, size: usize) -> *mut u8 {
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
        match self.place(block) {
            // SAFETY: it is not of the early memory, so it is mimalloc's.
            None => unsafe { MiMalloc.realloc(block, layout, size) },
            // SAFETY: the caller's promises are the same.
            Some(place) => unsafe { self.move_on(block, place, layout, size) },
        }
    }
}

#[cfg(test)]
#[allow(unsafe_code, clippy::unwrap_used)]
mod tests {
    use std::{slice, thread};

    use super::*;

    /// What one caller was given, until it is dropped.
    struct Block<'a> {
        memory: &'a Memory,
        start: *mut u8,
        layout: Layout,
    }

    impl<'a> Block<'a> {
        fn new(memory: &'a Memory, size: usize, align: usize) -> Self {
            let layout = Layout::from_size_align(size, align).unwrap();
            // SAFETY: no size here is zero.
            let start = unsafe { memory.alloc_zeroed(layout) };
            assert!(!start.is_null());
            assert_eq!(start.addr() % align, 0);
            Self {
                memory,
                start,
                layout,
            }
        }

        fn bytes(&mut self) -> &mut [u8] {
            // SAFETY: these bytes are this block's alone, and have a value.
            unsafe { slice::from_raw_parts_mut(self.start, self.layout.size()) }
        }

        fn resize(&mut self, size: usize) {
            // SAFETY: the block is of this memory, and has this layout.
            self.start = unsafe { self.memory.realloc(self.start, self.layout, size) };
            assert!(!self.start.is_null());
            self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        }

        fn is_early(&self) -> bool {
            self.memory.place(self.start).is_some()
        }
    }

    impl Drop for Block<'_> {
        fn drop(&mut self) {
            // SAFETY: the block is of this memory, has this layout, and is used no more.
            unsafe { self.memory.dealloc(self.start, self.layout) }
        }
    }

    fn memory() -> &'static Memory {
        Box::leak(Box::new(Memory::new()))
    }

    #[test]
    fn blocks_are_aligned_and_zero_and_come_from_elsewhere_once_used_up() {
        let memory = memory();
        let mut blocks = Vec::new();
        for at in 0..4000 {
            let mut block = Block::new(memory, 1 + at % 300, 1 << (at % 9));
            assert!(block.bytes().iter().all(|byte| *byte == 0), "{at}");
            block.bytes().fill(at as u8);
            blocks.push((block, at as u8));
        }
        let early = blocks.iter().filter(|(block, _)| block.is_early());
        assert!((500..4000).contains(&early.count()));
        for (mut block, filled) in blocks {
            assert!(block.bytes().iter().all(|byte| *byte == filled));
        }
    }

    #[test]
    fn the_last_block_grows_where_it_is_and_others_move() {
        let memory = memory();
        let mut first = Block::new(memory, 100, 8);
        first.bytes().fill(7);
        let began = first.start;
        first.resize(1000);
        assert_eq!(first.start, began);
        let _second = Block::new(memory, 8, 8);
        first.resize(500);
        assert_eq!(first.start, began);
        first.resize(2000);
        assert!(first.start != began && first.is_early());
        // Further than the early memory reaches.
        for size in [EARLY, 2 * EARLY] {
            first.resize(size);
            assert!(!first.is_early());
            assert!(first.bytes()[..100].iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn threads_never_share_a_block() {
        let memory = memory();
        thread::scope(|scope| {
            for mark in 1..=4_u8 {
                scope.spawn(move || {
                    let mut blocks = Vec::new();
                    for at in 0..3000 {
                        let mut block = Block::new(memory, 1 + at % 40, 1);
                        block.bytes().fill(mark);
                        blocks.push(block);
                    }
                    for block in &mut blocks {
                        assert!(block.bytes().iter().all(|byte| *byte == mark));
                    }
                });
            }
        });
    }
}
