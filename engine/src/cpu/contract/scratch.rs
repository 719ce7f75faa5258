//! Reusable working memory: packed operands, tiles, partial sums.
//!
//! Steady state allocates nothing: a buffer goes back to its pool when its lease is dropped, and the next lease of
//! that size or less takes it again.
#![allow(unsafe_code)]

use super::super::pages::Pages;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

/// A type of which every bit pattern is a value.
///
/// # Safety
/// That must be so.
pub(crate) unsafe trait Plain: Copy + Send + Sync {}
// SAFETY: a number of any bits.
unsafe impl Plain for f32 {}
// SAFETY: as above.
unsafe impl Plain for f64 {}
// SAFETY: as above.
unsafe impl Plain for u16 {}

/// A pool of buffers, shared by the threads of one device.
#[derive(Default)]
pub(crate) struct Scratch {
    free: Mutex<Vec<Pages>>,
    held: AtomicUsize,
}

impl Scratch {
    /// Leases `len` elements aligned to 64 bytes, with unspecified (but initialised) contents.
    pub(crate) fn lease<T: Plain>(&self, len: usize) -> Lease<'_, T> {
        let bytes = len * size_of::<T>();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let best = (0..free.len()).filter(|&i| free[i].len() >= bytes).min_by_key(|&i| free[i].len());
        let memory = best.map(|i| free.swap_remove(i));
        drop(free);
        let made = || {
            self.held.fetch_add(bytes, Ordering::Relaxed);
            Pages::new(bytes)
        };
        let memory = memory.or_else(made).unwrap_or_else(|| {
            std::alloc::handle_alloc_error(std::alloc::Layout::array::<T>(len).expect("a size the system refused"))
        });
        Lease { memory: Some(memory), len, pool: self, element: PhantomData }
    }

    /// Bytes of all buffers, on loan or not.
    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// A buffer on loan from a [`Scratch`]; dereferences to a slice.
pub(crate) struct Lease<'a, T: Plain> {
    /// Taken out only by `drop`.
    memory: Option<Pages>,
    len: usize,
    pool: &'a Scratch,
    element: PhantomData<T>,
}

impl<T: Plain> Lease<'_, T> {
    fn start(&self) -> *mut T {
        self.memory.as_ref().expect("present until dropped").as_ptr().cast()
    }
}

impl<T: Plain> std::ops::Deref for Lease<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `lease` made at least `len` elements of initialised memory, aligned to 64 bytes, and every bit
        // pattern is a value.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }
}

impl<T: Plain> std::ops::DerefMut for Lease<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the lease owns the memory.
        unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) }
    }
}

impl<T: Plain> Drop for Lease<'_, T> {
    fn drop(&mut self) {
        let memory = self.memory.take();
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).extend(memory);
    }
}
