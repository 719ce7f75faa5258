//! The SIMT vocabulary: what a kernel may say. The same names mean the instruction on a GPU and a call into the
//! checking executor ([`crate::host`]) on the host.
//!
//! - where am I: [`thread_idx`], [`block_idx`], [`block_dim`], [`grid_dim`], [`lane`], [`warp`];
//! - global memory: [`In`], [`Out`], [`InOut`], the arguments of a kernel ([`kernel!`](crate::kernel!));
//! - shared memory: [`shared!`](crate::shared!), [`dynamic_shared`] and [`Shared`];
//! - together: [`barrier`], [`sync_warp`], [`fence`]; [`shuffle`], [`shuffle_xor`], [`shuffle_down`]; [`ballot`],
//!   [`any`], [`all`]; [`mma_bf16`], [`mma_tf32`];
//! - limits: [`within`] and [`strided`], comparisons that the checker can weaken on purpose to prove that it would see
//!   the mistake.
//!
//! There are no floating-point atomics, by design: their order is not defined.
//!
//! Warp operations name the lanes that take part; every named lane must arrive. A thread of a block is numbered x
//! first, then y, then z; 32 consecutive ones are a warp.

#[cfg(target_arch = "nvptx64")]
mod device;
#[cfg(not(target_arch = "nvptx64"))]
mod host;
#[cfg(target_arch = "nvptx64")]
mod shared;
mod warp;

#[cfg(target_arch = "nvptx64")]
pub use device::*;
#[cfg(not(target_arch = "nvptx64"))]
pub use host::*;
#[cfg(target_arch = "nvptx64")]
pub use shared::*;
pub use warp::{half_warp_max, half_warp_min, half_warp_product, half_warp_sum};

/// All lanes of a warp.
pub const ALL_LANES: u32 = u32::MAX;

/// Lanes of a warp.
pub const WARP: u32 = 32;

/// A position or extent in three dimensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dim3 {
    /// The fastest dimension.
    pub x: u32,
    /// The second.
    pub y: u32,
    /// The slowest.
    pub z: u32,
}

impl Dim3 {
    /// (x, y, z).
    pub const fn new(x: u32, y: u32, z: u32) -> Dim3 {
        Dim3 { x, y, z }
    }

    /// The product of the three.
    pub const fn count(self) -> u64 {
        self.x as u64 * self.y as u64 * self.z as u64
    }
}

/// The element types of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum ElementType {
    F32,
    F64,
    U8,
    U16,
    U32,
    U64,
    I32,
    I64,
}

impl ElementType {
    /// Size in bytes.
    pub const fn bytes(self) -> usize {
        match self {
            ElementType::U8 => 1,
            ElementType::U16 => 2,
            ElementType::F32 | ElementType::U32 | ElementType::I32 => 4,
            ElementType::F64 | ElementType::U64 | ElementType::I64 => 8,
        }
    }

    /// The type's name in Rust.
    pub const fn name(self) -> &'static str {
        match self {
            ElementType::F32 => "f32",
            ElementType::F64 => "f64",
            ElementType::U8 => "u8",
            ElementType::U16 => "u16",
            ElementType::U32 => "u32",
            ElementType::U64 => "u64",
            ElementType::I32 => "i32",
            ElementType::I64 => "i64",
        }
    }
}

/// A type that memory can hold. bf16 and f16 are u16 here: their bits.
pub trait Element: Copy + Default + PartialEq + Send + Sync + core::fmt::Debug + 'static {
    /// The same, as a value.
    const TYPE: ElementType;
    /// The bits, zero-extended.
    fn to_bits(self) -> u64;
    /// The value of these bits; surplus bits are dropped.
    fn from_bits(bits: u64) -> Self;
}

macro_rules! elements {
    ($($type:ident $variant:ident: $self:ident => $to:expr, $bits:ident => $from:expr;)+) => {$(
        impl Element for $type {
            const TYPE: ElementType = ElementType::$variant;
            #[inline(always)]
            fn to_bits($self) -> u64 {
                $to
            }
            #[inline(always)]
            fn from_bits($bits: u64) -> $type {
                $from
            }
        }
    )+};
}
elements! {
    f32 F32: self => u64::from(f32::to_bits(self)), bits => f32::from_bits(bits as u32);
    f64 F64: self => f64::to_bits(self), bits => f64::from_bits(bits);
    u8 U8: self => u64::from(self), bits => bits as u8;
    u16 U16: self => u64::from(self), bits => bits as u16;
    u32 U32: self => u64::from(self), bits => bits as u32;
    u64 U64: self => self, bits => bits;
    i32 I32: self => u64::from(self as u32), bits => bits as i32;
    i64 I64: self => self as u64, bits => bits as i64;
}

/// The 32-bit types that travel between lanes.
pub trait Word: Element {}
impl Word for f32 {}
impl Word for u32 {}
impl Word for i32 {}

/// The integers that atomics act on.
pub trait AtomicInteger: Element {}
impl AtomicInteger for u32 {}
impl AtomicInteger for u64 {}

/// Every position from `start` below `end` in steps of `step`: a loop with [`within`] as its condition.
#[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
#[inline(always)]
pub fn strided(start: u32, end: u32, step: u32) -> Strided {
    Strided { at: start, end: bound(end), step }
}

/// See [`strided`].
#[derive(Clone, Debug)]
pub struct Strided {
    at: u32,
    end: u32,
    step: u32,
}

impl Iterator for Strided {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        let at = self.at;
        // The step past the end may leave u32; the loop ends before it is used.
        self.at = at.wrapping_add(self.step);
        if at < self.end { Some(at) } else { None }
    }
}
