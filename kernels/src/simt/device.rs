//! The vocabulary on the device: each name is one instruction or a few.
#![allow(unsafe_code)]

use super::{AtomicInteger, Dim3, Element, Word};
use crate::kernel::Param;
use core::arch::asm;
use core::arch::nvptx;
use core::marker::PhantomData;

/// The position of this thread in its block.
#[inline(always)]
pub fn thread_idx() -> Dim3 {
    // SAFETY: reading special registers has no precondition.
    unsafe { Dim3::new(nvptx::_thread_idx_x() as u32, nvptx::_thread_idx_y() as u32, nvptx::_thread_idx_z() as u32) }
}

/// The position of this block in the grid.
#[inline(always)]
pub fn block_idx() -> Dim3 {
    // SAFETY: as above.
    unsafe { Dim3::new(nvptx::_block_idx_x() as u32, nvptx::_block_idx_y() as u32, nvptx::_block_idx_z() as u32) }
}

/// Threads per block.
#[inline(always)]
pub fn block_dim() -> Dim3 {
    // SAFETY: as above.
    unsafe { Dim3::new(nvptx::_block_dim_x() as u32, nvptx::_block_dim_y() as u32, nvptx::_block_dim_z() as u32) }
}

/// Blocks of the grid.
#[inline(always)]
pub fn grid_dim() -> Dim3 {
    // SAFETY: as above.
    unsafe { Dim3::new(nvptx::_grid_dim_x() as u32, nvptx::_grid_dim_y() as u32, nvptx::_grid_dim_z() as u32) }
}

/// The number of this thread in its block.
#[inline(always)]
fn thread() -> u32 {
    let (at, of) = (thread_idx(), block_dim());
    at.x + of.x * (at.y + of.y * at.z)
}

/// This thread's lane in its warp.
#[inline(always)]
pub fn lane() -> u32 {
    thread() % 32
}

/// The number of this thread's warp in its block.
#[inline(always)]
pub fn warp() -> u32 {
    thread() / 32
}

// Convergent operations are LLVM intrinsics: an `asm!` block is not marked convergent, and the optimiser may duplicate
// it or sink it under a branch.
unsafe extern "unadjusted" {
    #[link_name = "llvm.nvvm.shfl.sync.idx.i32"]
    fn shfl_idx(mask: u32, value: u32, lane: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.bfly.i32"]
    fn shfl_bfly(mask: u32, value: u32, lanes: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.shfl.sync.down.i32"]
    fn shfl_down(mask: u32, value: u32, lanes: u32, clamp: u32) -> u32;
    #[link_name = "llvm.nvvm.vote.ballot.sync"]
    fn vote_ballot(mask: u32, predicate: bool) -> u32;
    #[link_name = "llvm.nvvm.vote.any.sync"]
    fn vote_any(mask: u32, predicate: bool) -> bool;
    #[link_name = "llvm.nvvm.vote.all.sync"]
    fn vote_all(mask: u32, predicate: bool) -> bool;
    #[link_name = "llvm.nvvm.bar.warp.sync"]
    fn bar_warp_sync(mask: u32);
    #[link_name = "llvm.nvvm.membar.gl"]
    fn membar_gl();
    #[link_name = "llvm.nvvm.mma.m16n8k16.row.col.bf16"]
    fn mma_m16n8k16_bf16(
        a0: u32,
        a1: u32,
        a2: u32,
        a3: u32,
        b0: u32,
        b1: u32,
        c0: f32,
        c1: f32,
        c2: f32,
        c3: f32,
    ) -> Four;
    #[link_name = "llvm.nvvm.mma.m16n8k8.row.col.tf32"]
    fn mma_m16n8k8_tf32(
        a0: u32,
        a1: u32,
        a2: u32,
        a3: u32,
        b0: u32,
        b1: u32,
        c0: f32,
        c1: f32,
        c2: f32,
        c3: f32,
    ) -> Four;
}

#[repr(C)]
struct Four(f32, f32, f32, f32);

/// Waits for every thread of the block; what they wrote before is seen after.
#[inline(always)]
pub fn barrier() {
    // SAFETY: the kernels' checker proves that all threads of a block arrive.
    unsafe { nvptx::_syncthreads() }
}

/// Waits for the lanes of `mask`; what they wrote before is seen after.
#[inline(always)]
pub fn sync_warp(mask: u32) {
    // SAFETY: the checker proves that all lanes of the mask arrive.
    unsafe { bar_warp_sync(mask) }
}

/// What this thread wrote before is seen by the whole grid before what it writes after.
#[inline(always)]
pub fn fence() {
    // SAFETY: no precondition.
    unsafe { membar_gl() }
}

/// `value` of lane `source` (mod 32).
#[inline(always)]
pub fn shuffle<T: Word>(mask: u32, value: T, source: u32) -> T {
    // SAFETY: the checker proves that all lanes of the mask arrive.
    T::from_bits(u64::from(unsafe { shfl_idx(mask, value.to_bits() as u32, source, 31) }))
}

/// `value` of the lane whose number differs by exclusive or with `lanes`.
#[inline(always)]
pub fn shuffle_xor<T: Word>(mask: u32, value: T, lanes: u32) -> T {
    // SAFETY: as above.
    T::from_bits(u64::from(unsafe { shfl_bfly(mask, value.to_bits() as u32, lanes, 31) }))
}

/// `value` of the lane `lanes` above; the own value where there is none.
#[inline(always)]
pub fn shuffle_down<T: Word>(mask: u32, value: T, lanes: u32) -> T {
    // SAFETY: as above.
    T::from_bits(u64::from(unsafe { shfl_down(mask, value.to_bits() as u32, lanes, 31) }))
}

/// The lanes of `mask` whose `predicate` holds.
#[inline(always)]
pub fn ballot(mask: u32, predicate: bool) -> u32 {
    // SAFETY: as above.
    unsafe { vote_ballot(mask, predicate) }
}

/// Whether `predicate` holds in some lane of `mask`.
#[inline(always)]
pub fn any(mask: u32, predicate: bool) -> bool {
    // SAFETY: as above.
    unsafe { vote_any(mask, predicate) }
}

/// Whether `predicate` holds in every lane of `mask`.
#[inline(always)]
pub fn all(mask: u32, predicate: bool) -> bool {
    // SAFETY: as above.
    unsafe { vote_all(mask, predicate) }
}

/// D = A B + C on tensor cores: A 16x16 and B 16x8 in bf16 (two to a register), C and D 16x8 in f32, spread over the
/// lanes as PTX has it (`mma.m16n8k16`). All 32 lanes take part.
#[inline(always)]
pub fn mma_bf16(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    // SAFETY: the checker proves that all lanes arrive.
    let d = unsafe { mma_m16n8k16_bf16(a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], c[2], c[3]) };
    [d.0, d.1, d.2, d.3]
}

/// D = A B + C on tensor cores: A 16x8 and B 8x8 in tf32 (bits of f32), C and D 16x8 in f32 (`mma.m16n8k8`).
#[inline(always)]
pub fn mma_tf32(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    // SAFETY: as above.
    let d = unsafe { mma_m16n8k8_tf32(a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], c[2], c[3]) };
    [d.0, d.1, d.2, d.3]
}

/// Whether `i` lies below `end`.
#[inline(always)]
pub fn within(i: u32, end: u32) -> bool {
    i < end
}

/// The end of a loop.
#[inline(always)]
pub(super) fn bound(end: u32) -> u32 {
    end
}

/// Four elements that one instruction moves; of 8-byte elements, two instructions.
#[repr(C, align(16))]
#[derive(Clone, Copy)]
struct Quad16<T>([T; 4]);

/// Four 2-byte elements.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Quad8<T>([T; 4]);

/// Four 1-byte elements.
#[repr(C, align(4))]
#[derive(Clone, Copy)]
struct Quad4<T>([T; 4]);

/// # Safety
/// Four elements from `pointer` on lie inside their memory, aligned to their size, at most 16 bytes.
#[inline(always)]
unsafe fn load4<T: Copy>(pointer: *const T) -> [T; 4] {
    // SAFETY: the caller's.
    unsafe {
        match size_of::<T>() {
            1 => (*pointer.cast::<Quad4<T>>()).0,
            2 => (*pointer.cast::<Quad8<T>>()).0,
            _ => (*pointer.cast::<Quad16<T>>()).0,
        }
    }
}

/// # Safety
/// As for [`load4`].
#[inline(always)]
unsafe fn store4<T: Copy>(pointer: *mut T, values: [T; 4]) {
    // SAFETY: the caller's.
    unsafe {
        match size_of::<T>() {
            1 => (*pointer.cast::<Quad4<T>>()).0 = values,
            2 => (*pointer.cast::<Quad8<T>>()).0 = values,
            _ => (*pointer.cast::<Quad16<T>>()).0 = values,
        }
    }
}

macro_rules! memory {
    ($(#[$meta:meta])* $name:ident, $pointer:ty) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        #[repr(transparent)]
        pub struct $name<T>($pointer, PhantomData<T>);

        impl<T: Element> Param for $name<T> {
            type Raw = $pointer;
            #[inline(always)]
            unsafe fn from_raw(raw: $pointer) -> $name<T> {
                $name(raw, PhantomData)
            }
        }

        impl<T> $name<T> {
            /// # Safety
            /// Element `i` lies inside the memory.
            #[inline(always)]
            unsafe fn element(self, i: u32) -> $pointer {
                // SAFETY: the caller's.
                unsafe { self.0.add(i as usize) }
            }
        }
    };
}
memory! {
    /// Global memory that the kernel reads.
    In, *const T
}
memory! {
    /// Global memory that the kernel writes, every element exactly once.
    Out, *mut T
}
memory! {
    /// Global memory that the kernel reads and writes.
    InOut, *mut T
}

macro_rules! scalars {
    ($($type:ty)*) => {$(
        impl Param for $type {
            type Raw = $type;
            #[inline(always)]
            unsafe fn from_raw(raw: $type) -> $type {
                raw
            }
        }
    )*};
}
scalars!(u32 i32 u64 f32 f64);

// SAFETY of every access below: the checker proves on the host that each index lies inside its memory, that it is
// aligned, initialised and free of races; the launcher checks the lengths that the launch rule asks for.
macro_rules! reads {
    ($($name:ident)*) => {$(
        impl<T: Element> $name<T> {
            /// Element `i`.
            #[inline(always)]
            pub fn get(self, i: u32) -> T {
                // SAFETY: see above.
                unsafe { *self.element(i) }
            }
            /// Elements `i..i + 4` in one access; `i` is a multiple of 4.
            #[inline(always)]
            pub fn get4(self, i: u32) -> [T; 4] {
                // SAFETY: see above.
                unsafe { load4(self.element(i)) }
            }
        }
    )*};
}
macro_rules! writes {
    ($($name:ident)*) => {$(
        impl<T: Element> $name<T> {
            /// Writes element `i`.
            #[inline(always)]
            pub fn set(self, i: u32, value: T) {
                // SAFETY: see above.
                unsafe { *self.element(i) = value }
            }
            /// Writes elements `i..i + 4` in one access; `i` is a multiple of 4.
            #[inline(always)]
            pub fn set4(self, i: u32, values: [T; 4]) {
                // SAFETY: see above.
                unsafe { store4(self.element(i), values) }
            }
        }
    )*};
}
reads!(In InOut);
writes!(Out InOut);

macro_rules! atomics {
    ($($name:ident)*) => {$(
        impl<T: AtomicInteger> $name<T> {
            /// Adds `value` to element `i` as one step, wrapping; gives what was there.
            #[inline(always)]
            pub fn atomic_add(self, i: u32, value: T) -> T {
                // SAFETY: see above; relaxed order.
                unsafe { core::intrinsics::atomic_xadd::<T, T, { core::intrinsics::AtomicOrdering::Relaxed }>(self.element(i), value) }
            }
            /// Puts the larger of `value` and element `i` there as one step; gives what was there.
            #[inline(always)]
            pub fn atomic_max(self, i: u32, value: T) -> T {
                // SAFETY: see above; relaxed order.
                unsafe { core::intrinsics::atomic_umax::<T, { core::intrinsics::AtomicOrdering::Relaxed }>(self.element(i), value) }
            }
        }
    )*};
}
atomics!(InOut);
