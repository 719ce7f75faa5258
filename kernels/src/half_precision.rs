//! Conversions between f32 and the 16-bit storage formats, element by element and over slices; from f64, element by
//! element. Kernels have the 16 bits as u16, the host as the types of the `half` crate.
//!
//! To 16 bits: round to nearest, ties to even; subnormals are kept; overflow gives infinity; a NaN keeps its sign and
//! upper payload and becomes quiet. To f32: exact. Written out in integers, so that no platform's conversion
//! instruction (or its absence) shows.

use crate::math::Real;
#[cfg(not(target_arch = "nvptx64"))]
use half::{bf16, f16};

/// The bits of the nearest bf16.
#[inline(always)]
pub fn bf16_bits_of_f32(x: f32) -> u16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let nan = (bits >> 16) | 0x40;
    (if x.is_nan() { nan } else { rounded }) as u16
}

/// The number with these bits of a bf16.
#[inline(always)]
pub fn f32_of_bf16_bits(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// The bits of the nearest f16.
#[inline(always)]
pub fn f16_bits_of_f32(x: f32) -> u16 {
    // 65520, halfway between the largest f16 and the next power of two, and 2^-14, the smallest normal f16.
    const OVERFLOW: u32 = 0x477f_f000;
    const NORMAL: u32 = 0x3880_0000;
    const EXPONENT_SHIFT: u32 = (127 - 15) << 23;

    let sign = x.to_bits() & 0x8000_0000;
    let bits = x.to_bits() ^ sign;
    let normal = bits.wrapping_add(0xfff + ((bits >> 13) & 1)).wrapping_sub(EXPONENT_SHIFT) >> 13;
    // Adding 1/2 rounds to multiples of 2^-24, the unit of the subnormal f16.
    let subnormal = (f32::from_bits(bits) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let nan = 0x7e00 | ((bits >> 13) & 0x3ff);
    let magnitude = if bits < NORMAL { subnormal } else { normal };
    let magnitude = if bits >= OVERFLOW { 0x7c00 } else { magnitude };
    let magnitude = if x.is_nan() { nan } else { magnitude };
    ((sign >> 16) | magnitude) as u16
}

/// The number with these bits of an f16.
#[inline(always)]
pub fn f32_of_f16_bits(x: u16) -> f32 {
    let bits = u32::from(x);
    let magnitude = (bits & 0x7fff) << 13;
    let exponent = magnitude & 0x0f80_0000;
    let normal = magnitude + ((127 - 15) << 23);
    let special = magnitude + ((255 - 31) << 23);
    // A subnormal is its significand in units of 2^-24: read as 2^-14 (1 + m), less 2^-14.
    let subnormal = (f32::from_bits(magnitude + (113 << 23)) - f32::from_bits(113 << 23)).to_bits();
    let value = if exponent == 0 { subnormal } else { normal };
    let value = if exponent == 0x0f80_0000 { special } else { value };
    f32::from_bits(value | ((bits & 0x8000) << 16))
}

/// The f32 from which an f64 is rounded to 16 bits as if at once: rounded to odd, which is towards zero with the last
/// bit set where anything was lost (Boldo and Melquiond, *Emulation of FMA and correctly rounded sums*, 2008). A NaN
/// keeps its sign and upper payload.
#[inline(always)]
fn rounded_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let beyond = u32::from(Real::abs(back) > Real::abs(x));
    let odd = f32::from_bits(nearest.to_bits().wrapping_sub(beyond) | 1);
    let nan = f32::from_bits(
        ((x.to_bits() >> 32) as u32 & 0x8000_0000) | 0x7fc0_0000 | (x.to_bits() >> 29) as u32 & 0x3f_ffff,
    );
    let value = if back == x { nearest } else { odd };
    if x.is_nan() { nan } else { value }
}

/// The bits of the nearest bf16.
#[inline(always)]
pub fn bf16_bits_of_f64(x: f64) -> u16 {
    bf16_bits_of_f32(rounded_to_odd(x))
}

/// The bits of the nearest f16.
#[inline(always)]
pub fn f16_bits_of_f64(x: f64) -> u16 {
    f16_bits_of_f32(rounded_to_odd(x))
}

/// The same numbers in the types of the `half` crate.
macro_rules! half_types {
    ($(
        $type:ident: $of_f32:ident $of_f32_bits:ident, $of_f64:ident $of_f64_bits:ident,
            $to_f32:ident $to_f32_bits:ident;
    )+) => {$(
        #[doc = concat!("The nearest ", stringify!($type), ".")]
        #[cfg(not(target_arch = "nvptx64"))]
        #[inline(always)]
        pub fn $of_f32(x: f32) -> $type {
            $type::from_bits($of_f32_bits(x))
        }

        #[doc = concat!("The nearest ", stringify!($type), ".")]
        #[cfg(not(target_arch = "nvptx64"))]
        #[inline(always)]
        pub fn $of_f64(x: f64) -> $type {
            $type::from_bits($of_f64_bits(x))
        }

        /// The same number as f32.
        #[cfg(not(target_arch = "nvptx64"))]
        #[inline(always)]
        pub fn $to_f32(x: $type) -> f32 {
            $to_f32_bits(x.to_bits())
        }
    )+};
}
half_types! {
    bf16: bf16_of_f32 bf16_bits_of_f32, bf16_of_f64 bf16_bits_of_f64, f32_of_bf16 f32_of_bf16_bits;
    f16: f16_of_f32 f16_bits_of_f32, f16_of_f64 f16_bits_of_f64, f32_of_f16 f32_of_f16_bits;
}

crate::stamp! {
    /// y = x, rounded to bf16.
    pub fn f32_to_bf16(x: &[f32], y: &mut [bf16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = bf16_of_f32(x);
        }
    }

    /// y = x, exactly.
    pub fn bf16_to_f32(x: &[bf16], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f32_of_bf16(x);
        }
    }

    /// y = x, rounded to f16.
    pub fn f32_to_f16(x: &[f32], y: &mut [f16]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f16_of_f32(x);
        }
    }

    /// y = x, exactly.
    pub fn f16_to_f32(x: &[f16], y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = f32_of_f16(x);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use proptest::prelude::*;

    #[test]
    fn all_16_bit_numbers_survive_the_round_trip() {
        for bits in 0..=u16::MAX {
            let (b, h) = (bf16::from_bits(bits), f16::from_bits(bits));
            assert!(f32_of_bf16(b) == b.to_f32_const() || b.is_nan() && f32_of_bf16(b).is_nan());
            assert!(f32_of_f16(h) == h.to_f32_const() || h.is_nan() && f32_of_f16(h).is_nan());
            assert_eq!(f32_of_bf16(b).is_sign_negative(), b.is_sign_negative());
            assert_eq!(f32_of_f16(h).is_sign_negative(), h.is_sign_negative());
            if !b.is_nan() {
                assert_eq!(bf16_of_f32(f32_of_bf16(b)).to_bits(), bits);
            }
            if !h.is_nan() {
                assert_eq!(f16_of_f32(f32_of_f16(h)).to_bits(), bits);
            }
        }
    }

    #[test]
    fn f64_beyond_the_range_of_f32_goes_to_the_ends() {
        assert_eq!([1e300, -1e300, 1e-300, -1e-300].map(bf16_bits_of_f64), [0x7f80, 0xff80, 0, 0x8000]);
        assert_eq!([1e300, -1e300, 1e-300, -1e-300].map(f16_bits_of_f64), [0x7c00, 0xfc00, 0, 0x8000]);
        assert!(f16_of_f64(f64::NAN).is_nan() && bf16_of_f64(-f64::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn rounding_is_to_nearest_even(bits: u32) {
            let x = f32::from_bits(bits);
            if x.is_nan() {
                prop_assert!(bf16_of_f32(x).is_nan() && f16_of_f32(x).is_nan());
            } else {
                prop_assert_eq!(bf16_of_f32(x).to_bits(), bf16::from_f32_const(x).to_bits());
                prop_assert_eq!(f16_of_f32(x).to_bits(), f16::from_f32_const(x).to_bits());
            }
        }

        #[test]
        fn halfway_cases_of_f16_go_to_even(bits: u16, below: bool) {
            let h = f16::from_bits(bits & 0x7bfe);
            let next = f16::from_bits((bits & 0x7bfe) + 1);
            let middle = (f32_of_f16(h) + f32_of_f16(next)) / 2.0;
            let x = if below { middle } else { f32::from_bits(middle.to_bits() + 1) };
            let want = if below { h } else { next };
            prop_assert_eq!(f16_of_f32(x).to_bits(), want.to_bits());
        }

        #[test]
        fn f64_is_rounded_once(bits: u16, side in -1i8..=1) {
            // Nearer to the middle of two neighbours than an f32 can tell.
            let beside = |low: f32, high: f32| {
                let middle = (f64::from(low) + f64::from(high)) / 2.0;
                f64::from_bits(middle.to_bits().wrapping_add_signed(side.into()))
            };
            let (h, next) = (f16::from_bits(bits & 0x7bfe), f16::from_bits((bits & 0x7bfe) + 1));
            let want = if side == 1 { next } else { h };
            prop_assert_eq!(f16_of_f64(beside(f32_of_f16(h), f32_of_f16(next))).to_bits(), want.to_bits());
            let (b, next) = (bf16::from_bits(bits & 0x7f7e), bf16::from_bits((bits & 0x7f7e) + 1));
            let want = if side == 1 { next } else { b };
            prop_assert_eq!(bf16_of_f64(-beside(f32_of_bf16(b), f32_of_bf16(next))).to_bits(), want.to_bits() | 0x8000);
        }

        #[test]
        fn f64_that_is_an_f32_is_rounded_as_one(bits: u32) {
            let x = f32::from_bits(bits);
            prop_assert_eq!(bf16_bits_of_f64(f64::from(x)), bf16_bits_of_f32(x));
            prop_assert_eq!(f16_bits_of_f64(f64::from(x)), f16_bits_of_f32(x));
        }

        #[test]
        fn slices_have_the_same_bits_on_every_level(bits in proptest::collection::vec(any::<u32>(), 0..70)) {
            let x: Vec<f32> = bits.iter().map(|&b| f32::from_bits(b)).collect();
            for isa in Isa::available() {
                let (mut b, mut h) = (vec![bf16::ZERO; x.len()], vec![f16::ZERO; x.len()]);
                f32_to_bf16(isa, &x, &mut b);
                f32_to_f16(isa, &x, &mut h);
                let (mut from_b, mut from_h) = (vec![0f32; x.len()], vec![0f32; x.len()]);
                bf16_to_f32(isa, &b, &mut from_b);
                f16_to_f32(isa, &h, &mut from_h);
                for i in 0..x.len() {
                    prop_assert_eq!(b[i].to_bits(), bf16_of_f32(x[i]).to_bits());
                    prop_assert_eq!(h[i].to_bits(), f16_of_f32(x[i]).to_bits());
                    prop_assert_eq!(from_b[i].to_bits(), f32_of_bf16(b[i]).to_bits());
                    prop_assert_eq!(from_h[i].to_bits(), f32_of_f16(h[i]).to_bits());
                }
            }
        }
    }
}
