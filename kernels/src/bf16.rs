//! Products of bf16 numbers in f32 as matrix units of CPUs compute them: the steps of
//! [`contract_bf16`](crate::reference::contract_bf16).
//!
//! They are those of Intel's `TDPBF16PS`, which was compared with them to the bit. They differ from ordinary IEEE-754
//! operations in one way: subnormal numbers, read or made, become zeros of their sign.

use crate::half_precision::{bf16_bits_of_f32, f32_of_bf16_bits};
use crate::math::Real;

/// Positions that are summed on their own before they are added to the sum so far.
pub const BF16_GROUP: usize = 32;

/// `x`, or a zero of its sign where it is subnormal.
#[inline(always)]
pub fn flushed(x: f32) -> f32 {
    if Real::abs(x) < f32::MIN_POSITIVE { f32::from_bits(x.to_bits() & 0x8000_0000) } else { x }
}

/// fma(a, b, sum) of bf16 numbers a and b, subnormal operands and results flushed.
///
/// A result is subnormal if it is below 2^-126 when rounded to 24 bits whatever its exponent. Numbers just below round
/// to 2^-126 as subnormals, with fewer bits, so that 2^-126 has to be looked at again.
#[inline(always)]
pub fn fma_flushed(a: f32, b: f32, sum: f32) -> f32 {
    let (a, b, sum) = (flushed(a), flushed(b), flushed(sum));
    let result = Real::mul_add(a, b, sum);
    let is_tiny = Real::abs(result) == f32::MIN_POSITIVE && is_below_least_normal(a, b, sum);
    if is_tiny { f32::from_bits(result.to_bits() & 0x8000_0000) } else { flushed(result) }
}

/// Whether a b + sum, which lies at most 2^-150 below 2^-126 in magnitude, is below it when rounded to 24 bits: less
/// than 2^-126 - 2^-151, the tie.
fn is_below_least_normal(a: f32, b: f32, sum: f32) -> bool {
    // The product of two numbers of 8 bits is exact, and the sum of two numbers is `near + rest` (Knuth's TwoSum).
    let (product, sum) = (f64::from(a) * f64::from(b), f64::from(sum));
    let near = product + sum;
    let part = near - product;
    let rest = (product - (near - part)) + (sum - part);
    let (near, rest) = if near < 0.0 { (-near, -rest) } else { (near, rest) };
    let tie = f64::from(f32::MIN_POSITIVE) * (1.0 - f64::from(f32::EPSILON) / 4.0);
    near < tie || (near == tie && rest < 0.0)
}

/// `x` as the sum of two bf16 numbers: x rounded, and what that leaves, rounded. Together they are within 2^-17 of x
/// where nothing is subnormal.
#[inline(always)]
pub fn split_bf16(x: f32) -> (u16, u16) {
    let high = bf16_bits_of_f32(x);
    (high, bf16_bits_of_f32(x - f32_of_bf16_bits(high)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn power(exponent: i32) -> f32 {
        f32::from_bits(((127 + exponent) as u32) << 23)
    }

    #[test]
    fn subnormal_operands_and_results_are_zeros() {
        let least = f32::MIN_POSITIVE;
        assert_eq!(fma_flushed(least / 2.0, power(100), 1.0), 1.0);
        assert_eq!(fma_flushed(1.0, 1.0, -least / 2.0), 1.0);
        assert_eq!(fma_flushed(power(-63), power(-64), 0.0).to_bits(), 0);
        assert_eq!(fma_flushed(-power(-63), power(-64), 0.0).to_bits(), (-0.0f32).to_bits());
        assert_eq!(fma_flushed(power(-63), power(-63), 0.0), least);
    }

    #[test]
    fn what_rounds_up_to_the_least_normal_number_with_24_bits_stays() {
        let least = f32::MIN_POSITIVE;
        // 2^-126 less 1/4, 1/2, 1 and 3/2 of 2^-151: kept, kept, the tie goes to the even 2^-126, flushed.
        let less = |halves: f32| fma_flushed(-power(-76) * halves, power(-76), least);
        assert_eq!([less(0.5), less(1.0), less(2.0), less(3.0)], [least, least, least, 0.0]);
        assert_eq!(fma_flushed(power(-76) * 3.0, power(-76), -least).to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn two_parts_hold_sixteen_bits() {
        for i in 0..1000 {
            let x = 0.37 + i as f32 * 0.0113;
            let (high, low) = split_bf16(x);
            let sum = f64::from(f32_of_bf16_bits(high)) + f64::from(f32_of_bf16_bits(low));
            assert!((sum - f64::from(x)).abs() <= f64::from(x) / f64::from(1 << 17), "{x}");
        }
    }
}
