//! Conversions between element types.
//!
//! `cast_<from>_<to>`. bf16 and f16 are their 16 bits; truth values (`bool`) are bytes 0 and 1, and convert to numbers
//! as u8 does.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::{Case, exactly};
use crate::device::run::{EACH, RUN, THREADS, each};
use crate::half_precision::{
    bf16_bits_of_f32, bf16_bits_of_f64, f16_bits_of_f32, f16_bits_of_f64, f32_of_bf16_bits, f32_of_f16_bits,
};
use crate::kernel;
use crate::simt::*;

macro_rules! cast_kernels {
    ($($(#[doc = $doc:literal])+ $name:ident: $from:ident => $to:ident, |$x:ident| $value:expr;)+) => {
        kernel! {$(
            $(#[doc = $doc])+
            $name(x: In<$from>[n], y: Out<$to>[n], n: u32)
            grid [n.div_ceil(RUN)] block [THREADS]
            cost {}
            cases $name
            {
                each::<EACH, _>(n, |i| x.get(i), |i, $x| y.set(i, $value));
            }
        )+}

        $(
            #[cfg(not(target_arch = "nvptx64"))]
            fn $name() -> Vec<Case> {
                crate::device::run::cases::SIZES
                    .map(|n| {
                        let x = cases::samples::<$from>(n);
                        let y = exactly(x.iter().map(|&$x| $value).collect());
                        $name::TestCase { x, y, n: n as u32 }.named(format!("{n} elements"))
                    })
                    .into()
            }
        )+

        /// The kernels of this file.
        #[cfg(not(target_arch = "nvptx64"))]
        pub(super) static KERNELS: &[&kernel::KernelSpec] = &[$(&$name::SPEC),+];
    };
}

cast_kernels! {
    /// y = x, exactly.
    cast_f32_f64: f32 => f64, |x| f64::from(x);
    /// y = x, to nearest, ties to even.
    cast_f32_bf16: f32 => u16, |x| bf16_bits_of_f32(x);
    /// y = x, to nearest, ties to even.
    cast_f32_f16: f32 => u16, |x| f16_bits_of_f32(x);
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f32_i32: f32 => i32, |x| x as i32;
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f32_i64: f32 => i64, |x| x as i64;
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f32_u8: f32 => u8, |x| x as u8;
    /// y = 1 where x differs from 0 (as NaN does), else 0.
    cast_f32_bool: f32 => u8, |x| u8::from(x != 0.0);
    /// y = x, to nearest, ties to even.
    cast_f64_f32: f64 => f32, |x| x as f32;
    /// y = x, to nearest, ties to even.
    cast_f64_bf16: f64 => u16, |x| bf16_bits_of_f64(x);
    /// y = x, to nearest, ties to even.
    cast_f64_f16: f64 => u16, |x| f16_bits_of_f64(x);
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f64_i32: f64 => i32, |x| x as i32;
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f64_i64: f64 => i64, |x| x as i64;
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f64_u8: f64 => u8, |x| x as u8;
    /// y = 1 where x differs from 0 (as NaN does), else 0.
    cast_f64_bool: f64 => u8, |x| u8::from(x != 0.0);
    /// y = x, exactly.
    cast_bf16_f32: u16 => f32, |x| f32_of_bf16_bits(x);
    /// y = x, exactly.
    cast_bf16_f64: u16 => f64, |x| f64::from(f32_of_bf16_bits(x));
    /// y = x, to nearest, ties to even.
    cast_bf16_f16: u16 => u16, |x| f16_bits_of_f32(f32_of_bf16_bits(x));
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_bf16_i32: u16 => i32, |x| f32_of_bf16_bits(x) as i32;
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_bf16_i64: u16 => i64, |x| f32_of_bf16_bits(x) as i64;
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_bf16_u8: u16 => u8, |x| f32_of_bf16_bits(x) as u8;
    /// y = 1 where x differs from 0 (as NaN does), else 0.
    cast_bf16_bool: u16 => u8, |x| u8::from(f32_of_bf16_bits(x) != 0.0);
    /// y = x, exactly.
    cast_f16_f32: u16 => f32, |x| f32_of_f16_bits(x);
    /// y = x, exactly.
    cast_f16_f64: u16 => f64, |x| f64::from(f32_of_f16_bits(x));
    /// y = x, to nearest, ties to even.
    cast_f16_bf16: u16 => u16, |x| bf16_bits_of_f32(f32_of_f16_bits(x));
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f16_i32: u16 => i32, |x| f32_of_f16_bits(x) as i32;
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f16_i64: u16 => i64, |x| f32_of_f16_bits(x) as i64;
    /// y = x towards zero, clamped to the range; 0 for NaN.
    cast_f16_u8: u16 => u8, |x| f32_of_f16_bits(x) as u8;
    /// y = 1 where x differs from 0 (as NaN does), else 0.
    cast_f16_bool: u16 => u8, |x| u8::from(f32_of_f16_bits(x) != 0.0);
    /// y = x, to nearest, ties to even.
    cast_i32_f32: i32 => f32, |x| x as f32;
    /// y = x, exactly.
    cast_i32_f64: i32 => f64, |x| f64::from(x);
    /// y = x, to nearest, ties to even.
    cast_i32_bf16: i32 => u16, |x| bf16_bits_of_f64(f64::from(x));
    /// y = x, to nearest, ties to even.
    cast_i32_f16: i32 => u16, |x| f16_bits_of_f64(f64::from(x));
    /// y = x, exactly.
    cast_i32_i64: i32 => i64, |x| i64::from(x);
    /// y = the low bits of x.
    cast_i32_u8: i32 => u8, |x| x as u8;
    /// y = 1 where x differs from 0, else 0.
    cast_i32_bool: i32 => u8, |x| u8::from(x != 0);
    /// y = x, to nearest, ties to even.
    cast_i64_f32: i64 => f32, |x| x as f32;
    /// y = x, to nearest, ties to even.
    cast_i64_f64: i64 => f64, |x| x as f64;
    /// y = x, to nearest, ties to even, by way of f64.
    cast_i64_bf16: i64 => u16, |x| bf16_bits_of_f64(x as f64);
    /// y = x, to nearest, ties to even, by way of f64.
    cast_i64_f16: i64 => u16, |x| f16_bits_of_f64(x as f64);
    /// y = the low bits of x.
    cast_i64_i32: i64 => i32, |x| x as i32;
    /// y = the low bits of x.
    cast_i64_u8: i64 => u8, |x| x as u8;
    /// y = 1 where x differs from 0, else 0.
    cast_i64_bool: i64 => u8, |x| u8::from(x != 0);
    /// y = x, exactly.
    cast_u8_f32: u8 => f32, |x| f32::from(x);
    /// y = x, exactly.
    cast_u8_f64: u8 => f64, |x| f64::from(x);
    /// y = x, to nearest, ties to even.
    cast_u8_bf16: u8 => u16, |x| bf16_bits_of_f64(f64::from(x));
    /// y = x, to nearest, ties to even.
    cast_u8_f16: u8 => u16, |x| f16_bits_of_f64(f64::from(x));
    /// y = x, exactly.
    cast_u8_i32: u8 => i32, |x| i32::from(x);
    /// y = x, exactly.
    cast_u8_i64: u8 => i64, |x| i64::from(x);
    /// y = 1 where x differs from 0, else 0.
    cast_u8_bool: u8 => u8, |x| u8::from(x != 0);
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::device::run::cases::inputs;

    /// Types that are converted.
    pub(super) trait Sample: Element {
        /// The nearest value to a number.
        fn near(x: f64) -> Self;
    }

    macro_rules! numbers {
        ($($type:ident)+) => {$(
            impl Sample for $type {
                fn near(x: f64) -> $type {
                    x as $type
                }
            }
        )+};
    }
    numbers!(f32 f64 i32 i64 u8);

    impl Sample for u16 {
        /// Bits of a bf16, which as those of an f16 are an ordinary number, too.
        fn near(x: f64) -> u16 {
            bf16_bits_of_f64(x)
        }
    }

    /// Ordinary numbers of many magnitudes, special ones, the ends of the integers' ranges, and arbitrary bits.
    pub(super) fn samples<T: Sample>(n: usize) -> Vec<T> {
        const EDGES: [f64; 16] = [
            127.5,
            128.0,
            255.0,
            255.5,
            256.0,
            -0.75,
            65_504.0,
            65_520.0,
            16_777_217.0,
            2_147_483_647.0,
            2_147_483_648.0,
            -2_147_483_649.0,
            9.3e18,
            -9.3e18,
            1.001_953_126,
            6e-8,
        ];
        let numbers = inputs(n, 9).into_iter().enumerate();
        numbers
            .map(|(i, x)| match i % 4 {
                0 => T::near(EDGES[i / 4 % EDGES.len()]),
                1 => T::from_bits((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                2 => T::near(f64::from(x) * f64::from(1 << (i % 31))),
                _ => T::near(f64::from(x)),
            })
            .collect()
    }
}
