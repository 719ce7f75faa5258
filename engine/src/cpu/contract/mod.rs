//! Contractions in canonical order: matrix products, convolutions and their gradients, on plain slices.
//!
//! - `lanes`, `micro`: vectors per instruction set, and the two micro-kernels, written once over them.
//! - `left`, `pack`, `driver`: the left operand in tiles, the right one in panels, and the loops around the row kernel.
//! - `matmul`, `conv`: what rows are: those of a matrix, or pixels gathered by class of real taps.
//! - `winograd`: 3 x 3 taps in fast numerics. `rounded`: convolutions and linear layers of numbers rounded to bf16.
//! - `weight_grad`: sums over samples, from registers into the nodes of the sample tree.
//!
//! Bits follow from the canonical order alone: a chunk of [`CHUNK`](selfsame_kernels::order::CHUNK) positions is one
//! chain of fused multiply-adds from +0 in a register, and chunk sums are added in order. Threads, tiles, column
//! blocks and instruction sets only choose which elements are computed when.
//!
//! Measured in f32 GFLOP/s on one core of an Intel Xeon with AVX-512 (2 cores, 2 MiB L2 each), where registers alone
//! reach 242; a convolution counts taps in the padding too. Best of repetitions on a shared machine: differences
//! below 5 % mean nothing.
//!
//! - Chunk, of 128, 256, 384, 512, 1024 positions: 1024 cubed 144, 152, 158, 158, 161; 2048 cubed 143, 149, 153,
//!   152, 152; 3 x 3 of 64 channels forward 145, 150, 159, 159, 164; of 128 channels 168, 176, 182, 182, 185.
//! - Leaf of 8, 16, 32 images, medians while other work had most of the machine, so only ratios count: gradient of a
//!   3 x 3 weight, 64 channels 101, 102, 103; 128 channels 94, 95, 96; 256 channels 89, 90, 91; 512 channels 100, 99,
//!   103; of 2048 x 2048 with one row per image 32, 41, 51.
//! - Requests for B eight positions ahead: 1024 cubed 157 to 163; four or thirty-two ahead give the same. Requests for
//!   the columns of A: weight gradient of 512 channels 163 to 187. Requests for the output spread over the chunk: 3 %
//!   slower than all at its start, by the loop they need.
//! - Chunks of B in blocks of 256 or 512 columns, with a chunk of 256: 1024 cubed 152, 160; 2048 cubed 149, 156.
//!
//! - Packing B block by block, right before it is read, against all of it first; medians of three alternating rounds of
//!   five, on a quiet machine and with huge pages: 1024 cubed 172 to 177, 2048 cubed 168 to 173, 256 x 2048 x 2048 with
//!   B transposed 141 to 152. PyTorch (MKL) in the same rounds: 170, 180, 169.
//! - Transposes in squares of vectors (`transpose`): attention's gradients of ViT-Tiny 1.1 times as fast.
#![allow(unsafe_code)]

mod conv;
mod driver;
mod lanes;
mod left;
mod matmul;
pub(super) mod micro;
pub(super) mod pack;
pub(crate) mod rounded;
mod scratch;
mod transpose;
mod weight_grad;
pub(crate) mod winograd;

#[cfg(test)]
mod tests;

pub(crate) use conv::{ConvShape, conv2d, conv2d_input_grad};
pub(crate) use lanes::Real;
pub(crate) use matmul::{Matrix, matmul};
pub(crate) use scratch::Scratch;
pub(crate) use scratch::{Lease, Plain};
pub(crate) use weight_grad::conv2d_weight_grad;

use super::Workers;
use selfsame_kernels::isa::Isa;

/// What a contraction runs on. No part of it reaches a bit of the result.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    /// `None` runs everything on the calling thread.
    pub(crate) workers: Option<&'a Workers>,
    pub(crate) isa: Isa,
    pub(crate) scratch: &'a Scratch,
}

impl<'a> Context<'a> {
    pub(super) fn threads(&self) -> usize {
        self.workers.map_or(1, Workers::threads)
    }

    /// The same, on the calling thread alone.
    pub(crate) fn serial(&self) -> Context<'a> {
        Context { workers: None, ..*self }
    }

    pub(super) fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        match self.workers {
            Some(workers) => workers.run(tasks, task),
            None => (0..tasks).for_each(task),
        }
    }
}

/// A mutable slice that tasks write disjoint parts of.
#[derive(Clone, Copy)]
pub(crate) struct SharedMut<T> {
    start: *mut T,
    len: usize,
}

// SAFETY: parts are only reached through `slice`, whose callers promise that no two tasks hold overlapping ones, and
// through `at`, whose pointers carry no promise.
unsafe impl<T: Send> Send for SharedMut<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for SharedMut<T> {}

impl<T> SharedMut<T> {
    pub(super) fn new(slice: &mut [T]) -> SharedMut<T> {
        SharedMut { start: slice.as_mut_ptr(), len: slice.len() }
    }

    /// The part `at .. at + len`.
    ///
    /// # Safety
    /// The memory must outlive the part, and nothing else may hold an overlapping one.
    pub(super) unsafe fn slice<'a>(self, at: usize, len: usize) -> &'a mut [T] {
        assert!(at <= self.len && len <= self.len - at, "part outside its slice");
        // SAFETY: in bounds by the assertion; lifetime and uniqueness are the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(at), len) }
    }

    /// The address of element `at`.
    pub(super) fn at(self, at: usize) -> *mut T {
        self.start.wrapping_add(at)
    }
}
