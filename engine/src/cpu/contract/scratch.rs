//! Reusable working memory: packed operands, tiles, partial sums.
//!
//! Steady state allocates nothing: a buffer goes back to its pool when its lease is dropped, and the next lease of
//! that size or less takes it again.
#![allow(unsafe_code)]

use super::lanes::Real;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

/// One cache line; gives every buffer an alignment that whole-vector loads can rely on.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// A pool of buffers, shared by the threads of one device.
#[derive(Default)]
pub(crate) struct Scratch {
    free: Mutex<Vec<Vec<Line>>>,
}

impl Scratch {
    /// Leases `len` elements aligned to 64 bytes, with unspecified (but initialised) contents.
    pub(crate) fn lease<T: Real>(&self, len: usize) -> Lease<'_, T> {
        let lines = (len * size_of::<T>()).div_ceil(size_of::<Line>());
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let best = (0..free.len()).filter(|&i| free[i].len() >= lines).min_by_key(|&i| free[i].len());
        let memory = best.map(|i| free.swap_remove(i));
        drop(free);
        let memory = memory.unwrap_or_else(|| vec![Line([0; 64]); lines]);
        Lease { memory, len, pool: self, element: PhantomData }
    }
}

/// A buffer on loan from a [`Scratch`]; dereferences to a slice.
pub(crate) struct Lease<'a, T: Real> {
    memory: Vec<Line>,
    len: usize,
    pool: &'a Scratch,
    element: PhantomData<T>,
}

impl<T: Real> std::ops::Deref for Lease<'_, T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `lease` made at least `len` elements of initialised memory, aligned to 64 bytes, and every bit
        // pattern is a value of an `Real` (f32 or f64).
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.len) }
    }
}

impl<T: Real> std::ops::DerefMut for Lease<'_, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as for `deref`; the lease owns the memory.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Real> Drop for Lease<'_, T> {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(memory);
    }
}
