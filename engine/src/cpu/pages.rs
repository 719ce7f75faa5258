//! Memory from the system: small pieces from the heap, large ones as mappings that ask for huge pages.
//!
//! Huge pages spare a training step most of its translation misses: 3 to 5 % of a matrix product, more where a pass
//! only moves memory.
#![allow(unsafe_code)]

use memmap2::MmapMut;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

/// Every piece starts on a cache line, which is also the widest vector.
pub(super) const ALIGN: usize = 64;

/// From this size on a piece is a mapping of its own.
const MAPPED: usize = 1 << 21;

/// A piece of memory, zero when new, given back to the system on drop.
pub(super) struct Pages {
    start: NonNull<u8>,
    len: usize,
    /// Holds the memory when it is a mapping; without it, `start` came from the heap.
    mapping: Option<MmapMut>,
}

// SAFETY: a piece owns its bytes, and shared access through `&self` hands out no reference to them.
unsafe impl Send for Pages {}
// SAFETY: as above.
unsafe impl Sync for Pages {}

impl Pages {
    /// `len` bytes, at least one; `None` when the system refuses.
    pub(super) fn new(len: usize) -> Option<Pages> {
        if len >= MAPPED {
            let mut mapping = MmapMut::map_anon(len).ok()?;
            // Advice: where it is refused, ordinary pages do. Miri knows no pages.
            #[cfg(all(target_os = "linux", not(miri)))]
            let _ = mapping.advise(memmap2::Advice::HugePage);
            let start = NonNull::new(mapping.as_mut_ptr())?;
            return Some(Pages { start, len, mapping: Some(mapping) });
        }
        let layout = heap_layout(len)?;
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Pages { start, len, mapping: None })
    }

    /// How many bytes there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The first byte. Reading and writing through it follows the borrow rules of whoever owns this piece.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }
}

fn heap_layout(len: usize) -> Option<Layout> {
    Layout::from_size_align(len.max(1), ALIGN).ok()
}

impl Drop for Pages {
    fn drop(&mut self) {
        if self.mapping.is_none() {
            let layout = heap_layout(self.len).expect("the piece was allocated with it");
            // SAFETY: `start` came from the heap with this layout, and nobody else frees it.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}
