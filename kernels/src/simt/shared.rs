//! Shared memory on the device.
//!
//! Tiles are 32-bit addresses of the shared window, and accesses name the instruction. With generic pointers and hints
//! about their space LLVM finds `ld.shared` in straight code, but not in every loop.
#![allow(unsafe_code)]

use super::{AtomicInteger, Element};
use core::arch::asm;
use core::marker::PhantomData;

/// Shared memory of this block.
#[derive(Clone, Copy)]
pub struct Shared<T>(u32, PhantomData<T>);

/// A tile of static shared memory: `shared!(f32; 1024)` is a [`Shared<f32>`](crate::simt::Shared) of 1,024 elements,
/// uninitialised, 16-byte aligned, the same for all threads of the block. Each place in the source is one tile.
#[macro_export]
macro_rules! shared {
    ($type:ty; $count:expr) => {{
        let address: u64;
        #[allow(unsafe_code)]
        // SAFETY: declares a tile of this kernel and takes its address.
        let tile = unsafe {
            ::core::arch::asm!(
                concat!(".shared .align 16 .b8 tile_", line!(), "_", column!(), "[{bytes}];"),
                concat!("mov.u64 {address}, tile_", line!(), "_", column!(), ";"),
                bytes = const $count as usize * ::core::mem::size_of::<$type>(),
                address = out(reg64) address,
                options(pure, nomem, nostack)
            );
            $crate::simt::Shared::<$type>::at(address as u32)
        };
        tile
    }};
}

core::arch::global_asm!(".extern .shared .align 16 .b8 dynamic_shared_memory[];");

/// The shared memory whose size the launch decides, the same for all threads of the block; uninitialised, 16-byte
/// aligned. A kernel has one such tile; cut it with [`Shared::offset`] and [`Shared::cast`].
#[inline(always)]
pub fn dynamic_shared<T: Element>() -> Shared<T> {
    let address: u64;
    // SAFETY: takes the address of the tile declared above.
    unsafe {
        asm!("mov.u64 {}, dynamic_shared_memory;", out(reg64) address, options(pure, nomem, nostack));
        Shared::at(address as u32)
    }
}

impl<T> Shared<T> {
    /// # Safety
    /// From `address` on lies shared memory that is large and aligned enough for what the kernel does with it.
    #[inline(always)]
    #[doc(hidden)]
    pub unsafe fn at(address: u32) -> Shared<T> {
        Shared(address, PhantomData)
    }

    #[inline(always)]
    fn address(self, i: u32) -> u32 {
        self.0.wrapping_add(i.wrapping_mul(size_of::<T>() as u32))
    }
}

// SAFETY of every access below: as for global memory, the checker proves on the host that each index lies inside its
// tile, that it is aligned, initialised and free of races.

/// One load: the instruction, the class of its register and how wide it is.
macro_rules! load {
    ($instruction:literal $class:ident $bits:ty, $address:expr) => {{
        let value: $bits;
        // SAFETY: see above.
        unsafe {
            asm!(
                concat!($instruction, " {}, [{}];"), out($class) value, in(reg32) $address,
                options(pure, readonly, nostack)
            );
        }
        T::from_bits(u64::from(value))
    }};
}

/// One load of four.
macro_rules! load4 {
    ($instruction:literal $class:ident $bits:ty, $address:expr) => {{
        let (a, b, c, d): ($bits, $bits, $bits, $bits);
        // SAFETY: see above.
        unsafe {
            asm!(
                concat!($instruction, " {{{}, {}, {}, {}}}, [{}];"),
                out($class) a, out($class) b, out($class) c, out($class) d, in(reg32) $address,
                options(pure, readonly, nostack)
            );
        }
        [a, b, c, d].map(|bits| T::from_bits(u64::from(bits)))
    }};
}

/// One store.
macro_rules! store {
    ($instruction:literal $class:ident $bits:ty, $address:expr, $value:expr) => {
        // SAFETY: see above.
        unsafe {
            asm!(
                concat!($instruction, " [{}], {};"), in(reg32) $address, in($class) $value.to_bits() as $bits,
                options(nostack)
            )
        }
    };
}

/// One store of four.
macro_rules! store4 {
    ($instruction:literal $class:ident $bits:ty, $address:expr, $values:expr) => {{
        let [a, b, c, d] = $values.map(|value| value.to_bits() as $bits);
        // SAFETY: see above.
        unsafe {
            asm!(
                concat!($instruction, " [{}], {{{}, {}, {}, {}}};"),
                in(reg32) $address, in($class) a, in($class) b, in($class) c, in($class) d,
                options(nostack)
            )
        }
    }};
}

impl<T: Element> Shared<T> {
    /// Element `i`.
    #[inline(always)]
    pub fn get(self, i: u32) -> T {
        let address = self.address(i);
        match size_of::<T>() {
            1 => load!("ld.shared.u8" reg16 u16, address),
            2 => load!("ld.shared.b16" reg16 u16, address),
            4 => load!("ld.shared.b32" reg32 u32, address),
            _ => load!("ld.shared.b64" reg64 u64, address),
        }
    }

    /// Elements `i..i + 4` in one access (two where elements have 8 bytes); `i` is a multiple of 4.
    #[inline(always)]
    pub fn get4(self, i: u32) -> [T; 4] {
        let address = self.address(i);
        match size_of::<T>() {
            1 => load4!("ld.shared.v4.u8" reg16 u16, address),
            2 => load4!("ld.shared.v4.b16" reg16 u16, address),
            4 => load4!("ld.shared.v4.b32" reg32 u32, address),
            _ => [0, 1, 2, 3].map(|j| self.get(i + j)),
        }
    }

    /// Writes element `i`.
    #[inline(always)]
    pub fn set(self, i: u32, value: T) {
        let address = self.address(i);
        match size_of::<T>() {
            1 => store!("st.shared.b8" reg16 u16, address, value),
            2 => store!("st.shared.b16" reg16 u16, address, value),
            4 => store!("st.shared.b32" reg32 u32, address, value),
            _ => store!("st.shared.b64" reg64 u64, address, value),
        }
    }

    /// Writes elements `i..i + 4` in one access (four where elements have 8 bytes); `i` is a multiple of 4.
    #[inline(always)]
    pub fn set4(self, i: u32, values: [T; 4]) {
        let address = self.address(i);
        match size_of::<T>() {
            1 => store4!("st.shared.v4.b8" reg16 u16, address, values),
            2 => store4!("st.shared.v4.b16" reg16 u16, address, values),
            4 => store4!("st.shared.v4.b32" reg32 u32, address, values),
            _ => (0..4).zip(values).for_each(|(j, value)| self.set(i + j, value)),
        }
    }

    /// The tile from element `i` on.
    #[inline(always)]
    pub fn offset(self, i: u32) -> Shared<T> {
        Shared(self.address(i), PhantomData)
    }

    /// The same memory as elements of another type of the same size.
    #[inline(always)]
    pub fn cast<U: Element>(self) -> Shared<U> {
        const { assert!(size_of::<T>() == size_of::<U>()) };
        Shared(self.0, PhantomData)
    }
}

/// One atomic operation in relaxed order; gives what was there.
macro_rules! atomic {
    ($operation:literal, $address:expr, $value:expr) => {{
        let (address, value) = ($address, $value.to_bits());
        if size_of::<T>() == 4 {
            let old: u32;
            // SAFETY: see above.
            unsafe {
                asm!(
                    concat!("atom.shared.", $operation, ".u32 {}, [{}], {};"),
                    out(reg32) old, in(reg32) address, in(reg32) value as u32, options(nostack)
                );
            }
            T::from_bits(u64::from(old))
        } else {
            let old: u64;
            // SAFETY: see above.
            unsafe {
                asm!(
                    concat!("atom.shared.", $operation, ".u64 {}, [{}], {};"),
                    out(reg64) old, in(reg32) address, in(reg64) value, options(nostack)
                );
            }
            T::from_bits(old)
        }
    }};
}

impl<T: AtomicInteger> Shared<T> {
    /// Adds `value` to element `i` as one step, wrapping; gives what was there.
    #[inline(always)]
    pub fn atomic_add(self, i: u32, value: T) -> T {
        atomic!("add", self.address(i), value)
    }

    /// Puts the larger of `value` and element `i` there as one step; gives what was there.
    #[inline(always)]
    pub fn atomic_max(self, i: u32, value: T) -> T {
        atomic!("max", self.address(i), value)
    }
}
