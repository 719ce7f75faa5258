//! The vocabulary on the host: each name is a call into the executor, which knows the thread that says it and the line
//! it is said on.

use super::{AtomicInteger, Dim3, Element, Word};
use crate::case::{CaseData, Change, Expected};
use crate::host::exec::{self, BoundArg, View};
use crate::host::{Operation, mma};
use crate::kernel::{Param, ParamKind};
use crate::launch::{ArgValue, Slice, SliceMut};
use std::marker::PhantomData;

/// The position of this thread in its block.
pub fn thread_idx() -> Dim3 {
    exec::position().thread
}

/// The position of this block in the grid.
pub fn block_idx() -> Dim3 {
    exec::position().block
}

/// Threads per block.
pub fn block_dim() -> Dim3 {
    exec::position().block_dim
}

/// Blocks of the grid.
pub fn grid_dim() -> Dim3 {
    exec::position().grid_dim
}

/// This thread's lane in its warp.
pub fn lane() -> u32 {
    exec::position().number % super::WARP
}

/// The number of this thread's warp in its block.
pub fn warp() -> u32 {
    exec::position().number / super::WARP
}

/// Waits for every thread of the block; what they wrote before is seen after.
#[track_caller]
pub fn barrier() {
    exec::barrier();
}

/// Waits for the lanes of `mask`; what they wrote before is seen after.
#[track_caller]
pub fn sync_warp(mask: u32) {
    exec::exchange(mask, 0, Operation::SyncWarp, exec::Exchange::Sync);
}

/// What this thread wrote before is seen by the whole grid before what it writes after.
#[track_caller]
pub fn fence() {
    exec::fence();
}

/// `value` of lane `source` (mod 32).
#[track_caller]
pub fn shuffle<T: Word>(mask: u32, value: T, source: u32) -> T {
    let exchange = exec::Exchange::Shuffle { source: source % super::WARP };
    T::from_bits(exec::exchange(mask, value.to_bits(), Operation::Shuffle, exchange))
}

/// `value` of the lane whose number differs by exclusive or with `lanes`.
#[track_caller]
pub fn shuffle_xor<T: Word>(mask: u32, value: T, lanes: u32) -> T {
    let source = lane() ^ lanes;
    T::from_bits(exec::exchange(mask, value.to_bits(), Operation::ShuffleXor, exec::Exchange::Shuffle { source }))
}

/// `value` of the lane `lanes` above; the own value where there is none.
#[track_caller]
pub fn shuffle_down<T: Word>(mask: u32, value: T, lanes: u32) -> T {
    let source = if lane() + lanes < super::WARP { lane() + lanes } else { lane() };
    T::from_bits(exec::exchange(mask, value.to_bits(), Operation::ShuffleDown, exec::Exchange::Shuffle { source }))
}

/// The lanes of `mask` whose `predicate` holds.
#[track_caller]
pub fn ballot(mask: u32, predicate: bool) -> u32 {
    exec::exchange(mask, u64::from(predicate), Operation::Vote, exec::Exchange::Ballot) as u32
}

/// Whether `predicate` holds in some lane of `mask`.
#[track_caller]
pub fn any(mask: u32, predicate: bool) -> bool {
    exec::exchange(mask, u64::from(predicate), Operation::Vote, exec::Exchange::Ballot) != 0
}

/// Whether `predicate` holds in every lane of `mask`.
#[track_caller]
pub fn all(mask: u32, predicate: bool) -> bool {
    exec::exchange(mask, u64::from(!predicate), Operation::Vote, exec::Exchange::Ballot) == 0
}

/// D = A B + C on tensor cores: A 16x16 and B 16x8 in bf16 (two to a register), C and D 16x8 in f32, spread over the
/// lanes as PTX has it (`mma.m16n8k16`). All 32 lanes take part. The host's model is [`mma::bf16_m16n8k16`].
#[track_caller]
pub fn mma_bf16(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    exec::mma(mma::Fragment { a, b, c }, Operation::MmaBf16, mma::bf16_m16n8k16)
}

/// D = A B + C on tensor cores: A 16x8 and B 8x8 in tf32 (bits of f32), C and D 16x8 in f32 (`mma.m16n8k8`).
#[track_caller]
pub fn mma_tf32(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
    exec::mma(mma::Fragment { a, b, c }, Operation::MmaTf32, mma::tf32_m16n8k8)
}

/// Whether `i` lies below `end`.
#[track_caller]
pub fn within(i: u32, end: u32) -> bool {
    exec::within(i, end)
}

/// The end of a loop.
#[track_caller]
pub(super) fn bound(end: u32) -> u32 {
    exec::bound(end)
}

macro_rules! memory {
    ($(#[$meta:meta])* $name:ident, $launch:ident, $kind:ident, $data:ident, $convert:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub struct $name<T>(View, PhantomData<T>);

        impl<T: Element> Param for $name<T> {
            type Launch<'a> = $launch<'a, T>;
            type Data = $data<T>;
            type Extent = u64;
            const KIND: ParamKind = ParamKind::$kind(T::TYPE);
            fn value(launch: &$launch<'_, T>) -> ArgValue {
                launch.value()
            }
            fn data(data: $data<T>) -> CaseData {
                CaseData::$convert(data)
            }
            fn extent(value: &ArgValue) -> u64 {
                match value {
                    ArgValue::Memory { len, .. } => *len,
                    ArgValue::Scalar { bits, .. } => *bits,
                }
            }
            fn bind(value: &BoundArg) -> $name<T> {
                match value {
                    BoundArg::Memory(view) => $name(*view, PhantomData),
                    BoundArg::Scalar(_) => unreachable!("the launcher binds memory to memory"),
                }
            }
        }
    };
}
memory! {
    /// Global memory that the kernel reads.
    In, Slice, In, Vec, input
}
memory! {
    /// Global memory that the kernel writes, every element exactly once.
    Out, SliceMut, Out, Expected, output
}
memory! {
    /// Global memory that the kernel reads and writes.
    InOut, SliceMut, InOut, Change, changed
}

macro_rules! scalars {
    ($($type:ty => $extent:ty;)*) => {$(
        impl Param for $type {
            type Launch<'a> = $type;
            type Data = $type;
            type Extent = $extent;
            const KIND: ParamKind = ParamKind::Scalar(<$type as Element>::TYPE);
            fn value(launch: &$type) -> ArgValue {
                ArgValue::Scalar { bits: Element::to_bits(*launch), element: <$type as Element>::TYPE }
            }
            fn data(data: $type) -> CaseData {
                CaseData::scalar(data)
            }
            fn extent(value: &ArgValue) -> $extent {
                match value {
                    ArgValue::Scalar { bits, .. } => <$type as Element>::from_bits(*bits) as $extent,
                    ArgValue::Memory { .. } => unreachable!("a number is passed for a number"),
                }
            }
            fn bind(value: &BoundArg) -> $type {
                match value {
                    BoundArg::Scalar(bits) => <$type as Element>::from_bits(*bits),
                    BoundArg::Memory(_) => unreachable!("the launcher binds numbers to numbers"),
                }
            }
        }
    )*};
}
scalars! {
    u32 => u64;
    u64 => u64;
    i32 => i64;
    f32 => f32;
    f64 => f64;
}

/// Shared memory of this block.
#[derive(Clone, Copy)]
pub struct Shared<T>(View, PhantomData<T>);

impl<T: Element> Shared<T> {
    /// The tile from element `i` on.
    #[track_caller]
    pub fn offset(self, i: u32) -> Shared<T> {
        Shared(self.0.offset(i, size_of::<T>()), PhantomData)
    }

    /// The same memory as elements of another type of the same size.
    pub fn cast<U: Element>(self) -> Shared<U> {
        const { assert!(size_of::<T>() == size_of::<U>()) };
        Shared(self.0, PhantomData)
    }
}

/// What stands for one [`shared!`](crate::shared!) in the source: its address.
#[derive(Debug, Default)]
#[doc(hidden)]
pub struct TileKey {
    /// Statics that could change have addresses of their own.
    _unique: std::sync::atomic::AtomicU8,
}

impl TileKey {
    #[allow(missing_docs)]
    pub const fn new() -> TileKey {
        TileKey { _unique: std::sync::atomic::AtomicU8::new(0) }
    }
}

/// The tile of static shared memory that `key` stands for; see [`shared!`](crate::shared!).
#[track_caller]
#[doc(hidden)]
pub fn static_shared<T: Element>(key: &'static TileKey, count: usize) -> Shared<T> {
    Shared(exec::static_shared((&raw const *key).cast(), count, size_of::<T>()), PhantomData)
}

/// The shared memory whose size the launch decides, the same for all threads of the block; uninitialised, 16-byte
/// aligned. A kernel has one such tile; cut it with [`Shared::offset`] and [`Shared::cast`].
pub fn dynamic_shared<T: Element>() -> Shared<T> {
    Shared(exec::dynamic_shared(size_of::<T>()), PhantomData)
}

/// A tile of static shared memory: `shared!(f32; 1024)` is a [`Shared<f32>`](crate::simt::Shared) of 1,024 elements,
/// uninitialised, 16-byte aligned, the same for all threads of the block. Each place in the source is one tile.
#[macro_export]
macro_rules! shared {
    ($type:ty; $count:expr) => {{
        static KEY: $crate::simt::TileKey = $crate::simt::TileKey::new();
        $crate::simt::static_shared::<$type>(&KEY, $count as usize)
    }};
}

macro_rules! reads {
    ($($name:ident)*) => {$(
        impl<T: Element> $name<T> {
            /// Element `i`.
            #[track_caller]
            pub fn get(self, i: u32) -> T {
                let [value] = exec::read(self.0, i);
                value
            }
            /// Elements `i..i + 4` in one access; `i` is a multiple of 4.
            #[track_caller]
            pub fn get4(self, i: u32) -> [T; 4] {
                exec::read(self.0, i)
            }
        }
    )*};
}
macro_rules! writes {
    ($($name:ident)*) => {$(
        impl<T: Element> $name<T> {
            /// Writes element `i`.
            #[track_caller]
            pub fn set(self, i: u32, value: T) {
                exec::write(self.0, i, [value]);
            }
            /// Writes elements `i..i + 4` in one access; `i` is a multiple of 4.
            #[track_caller]
            pub fn set4(self, i: u32, values: [T; 4]) {
                exec::write(self.0, i, values);
            }
        }
    )*};
}
reads!(In InOut Shared);
writes!(Out InOut Shared);

macro_rules! atomics {
    ($($name:ident)*) => {$(
        impl<T: AtomicInteger> $name<T> {
            /// Adds `value` to element `i` as one step, wrapping; gives what was there.
            #[track_caller]
            pub fn atomic_add(self, i: u32, value: T) -> T {
                exec::atomic(self.0, i, |old: T| T::from_bits(old.to_bits().wrapping_add(value.to_bits())))
            }
            /// Puts the larger of `value` and element `i` there as one step; gives what was there.
            #[track_caller]
            pub fn atomic_max(self, i: u32, value: T) -> T {
                exec::atomic(self.0, i, |old: T| T::from_bits(old.to_bits().max(value.to_bits())))
            }
        }
    )*};
}
atomics!(InOut Shared);
