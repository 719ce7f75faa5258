//! Measures the error of the f32 functions in units in the last place, over all 2^32 inputs if wanted.
//!
//! The oracle is the same function in f64, whose own error (about 2^-52) is below 2^-27 f32 units. For functions built
//! of several roundings in f64 too (sigmoid, softplus, tanh) that still holds; `gelu`, whose cancellation below -1 is
//! part of its definition, is measured in units of its input.

use crate::elementwise::{Unary, unary};
use crate::isa::Isa;
use std::ops::Range;

/// What a survey found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Survey {
    /// The largest error, in f32 units in the last place of the true value, for `gelu` of the input; 1/2 is the best a
    /// rounding can promise. Infinite where a NaN, or its absence, is wrong.
    pub max_ulp: f64,
    /// An input with that error.
    pub worst: f32,
    /// Inputs looked at.
    pub inputs: u64,
}

impl Survey {
    /// The survey of both parts.
    pub fn merge(self, other: Survey) -> Survey {
        let worse = if other.max_ulp > self.max_ulp { other } else { self };
        Survey { inputs: self.inputs + other.inputs, ..worse }
    }
}

/// Surveys `op` over every `stride`-th bit pattern in `patterns` (`0..1 << 32` for all inputs; a stride of 0 counts as
/// 1). Split the patterns to use several threads, and [`Survey::merge`].
pub fn ulp_survey(isa: Isa, op: Unary, patterns: Range<u64>, stride: u64) -> Survey {
    const BLOCK: usize = 1024;
    let stride = stride.max(1);
    let mut survey = Survey { max_ulp: 0.0, worst: 0.0, inputs: 0 };
    let (mut x, mut exact_x) = ([0f32; BLOCK], [0f64; BLOCK]);
    let (mut y, mut exact, mut ulps) = ([0f32; BLOCK], [0f64; BLOCK], [0f64; BLOCK]);
    let mut next = patterns.start;
    while next < patterns.end {
        let count = ((patterns.end - next).div_ceil(stride) as usize).min(BLOCK);
        for i in 0..count {
            x[i] = f32::from_bits((next + i as u64 * stride) as u32);
            exact_x[i] = f64::from(x[i]);
        }
        unary(isa, op, &x[..count], &mut y[..count]);
        unary(isa, op, &exact_x[..count], &mut exact[..count]);
        let of = if op == Unary::Gelu { &exact_x } else { &exact };
        ulp_errors(isa, &y[..count], &exact[..count], &of[..count], &mut ulps[..count]);
        for i in 0..count {
            if ulps[i] > survey.max_ulp {
                survey.max_ulp = ulps[i];
                survey.worst = x[i];
            }
        }
        survey.inputs += count as u64;
        next += count as u64 * stride;
    }
    survey
}

/// The error of `y` against the true value, in f32 units in the last place of `of`.
#[inline(always)]
fn ulp_error(y: f32, exact: f64, of: f64) -> f64 {
    // Beyond this an f32 is infinite; one step further stands for infinity, so that only a wrong one is an error.
    const OVERFLOW: f64 = 340282356779733661637539395458142568448.0;
    const SMALLEST_NORMAL: f64 = f32::MIN_POSITIVE as f64;
    let overflows = exact.abs() >= OVERFLOW;
    let magnitude = if of.abs() < SMALLEST_NORMAL { SMALLEST_NORMAL } else { of.abs() };
    let unit = f64::from_bits(magnitude.to_bits() & 0x7ff0_0000_0000_0000) * (1.0 / 8388608.0);
    let error = (f64::from(y) - exact).abs() / unit;
    let error = if overflows {
        if y.is_infinite() & ((y > 0.0) == (exact > 0.0)) { 0.0 } else { f64::INFINITY }
    } else {
        error
    };
    if exact.is_nan() | y.is_nan() { if exact.is_nan() & y.is_nan() { 0.0 } else { f64::INFINITY } } else { error }
}

crate::stamp! {
    fn ulp_errors(y: &[f32], exact: &[f64], of: &[f64], ulps: &mut [f64]) {
        for (((ulp, &y), &exact), &of) in ulps.iter_mut().zip(y).zip(exact).zip(of) {
            *ulp = ulp_error(y, exact, of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_in_units_of_the_true_value() {
        let ulp_error = |y, exact| ulp_error(y, exact, exact);
        assert_eq!(ulp_error(1.0, 1.0 + f64::from(f32::EPSILON) / 2.0), 0.5);
        assert_eq!(ulp_error(f32::from_bits(3), f64::from(f32::from_bits(1))), 2.0);
        assert_eq!(ulp_error(f32::INFINITY, 1e300), 0.0);
        assert_eq!(ulp_error(f32::MAX, 1e300), f64::INFINITY);
        assert_eq!(ulp_error(f32::NAN, f64::NAN), 0.0);
        assert_eq!(ulp_error(0.0, f64::NAN), f64::INFINITY);
    }

    #[test]
    fn gelu_is_accurate_to_two_units_of_its_input() {
        let found = ulp_survey(Isa::detect(), Unary::Gelu, 0..1 << 32, 40009);
        assert!(found.max_ulp <= 2.0, "{found:?}");
    }

    #[test]
    fn parts_merge_to_the_whole() {
        let survey = |patterns| ulp_survey(Isa::detect(), Unary::Exp, patterns, 1);
        let (start, cut, end) = (0x3f80_0000, 0x3f80_1234, 0x3f80_4000);
        let whole = survey(start..end);
        assert_eq!(survey(start..cut).merge(survey(cut..end)), whole);
        assert_eq!(whole.inputs, end - start);
        assert!(whole.max_ulp >= 0.25, "no rounding is exact on 16384 neighbours");
    }
}
