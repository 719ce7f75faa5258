//! Cases of the kernels of two operands, with their expected results.

use super::*;
use crate::case::change;
use crate::device::run::cases::{SIZES, inputs, pairs};

/// Cases of two operands of one shape.
pub(super) fn pairwise<Y>(op: impl Fn(f32, f32) -> Y, case: impl Fn(Vec<f32>, Vec<f32>, Vec<Y>) -> Case) -> Vec<Case> {
    SIZES
        .map(|n| {
            let (a, b) = pairs(n, 1);
            let y = a.iter().zip(&b).map(|(&a, &b)| op(a, b)).collect();
            case(a, b, y)
        })
        .into()
}

/// Cases of a second operand of one element.
pub(super) fn with_scalar<Y>(op: impl Fn(f32, f32) -> Y, case: impl Fn(Vec<f32>, f32, Vec<Y>) -> Case) -> Vec<Case> {
    [(1, 0.3), (40, 0.0), (RUN as usize - 1, f32::NAN), (RUN as usize + 266, -1.5)]
        .map(|(n, b)| {
            let a = inputs(n, 2);
            let y = a.iter().map(|&a| op(a, b)).collect();
            case(a, b, y)
        })
        .into()
}

/// Operands with their shape and strides, and the result.
pub(super) struct Broadcasting<T, Y> {
    pub lengths: [u32; 4],
    pub a: Vec<T>,
    pub a_strides: [u32; 4],
    pub b: Vec<T>,
    pub b_strides: [u32; 4],
    pub y: Vec<Y>,
}

/// Operands that are contiguous, transposed, and repeated along some axes.
pub(super) fn broadcast<T: Sample, Y>(op: impl Fn(T, T) -> Y, case: impl Fn(Broadcasting<T, Y>) -> Case) -> Vec<Case> {
    [
        ([1, 1, 1, 1], [0; 4], [0; 4]),
        ([1, 1, 7, 5], [0, 0, 5, 1], [0, 0, 0, 1]),
        ([2, 3, 4, 5], [60, 20, 5, 1], [0, 1, 0, 3]),
        ([2, 3, 4, 5], [1, 2, 6, 24], [12, 0, 1, 0]),
        ([3, 1, 31, 11], [0, 0, 0, 0], [341, 341, 1, 31]),
        ([3, 1, 37, 11], [407, 0, 0, 37], [0, 0, 1, 37]),
    ]
    .map(|(lengths, a_strides, b_strides)| {
        let operand = |strides: [u32; 4], seed| {
            let last: u32 = strides.iter().zip(lengths).map(|(s, n)| s * (n - 1)).sum();
            T::samples(last as usize + 1, seed)
        };
        let (a, b) = (operand(a_strides, 3), operand(b_strides, 4));
        let mut y = Vec::new();
        for i0 in 0..lengths[0] {
            for i1 in 0..lengths[1] {
                for i2 in 0..lengths[2] {
                    for i3 in 0..lengths[3] {
                        let at = |s: [u32; 4]| (i0 * s[0] + i1 * s[1] + i2 * s[2] + i3 * s[3]) as usize;
                        y.push(op(a[at(a_strides)], b[at(b_strides)]));
                    }
                }
            }
        }
        case(Broadcasting { lengths, a, a_strides, b, b_strides, y })
    })
    .into()
}

/// Types of operands.
pub(super) trait Sample: Element {
    /// `n` values.
    fn samples(n: usize, seed: u64) -> Vec<Self>;
}

impl Sample for f32 {
    fn samples(n: usize, seed: u64) -> Vec<f32> {
        inputs(n, seed)
    }
}

macro_rules! integer_samples {
    ($($type:ident)+) => {$(
        impl Sample for $type {
            /// Small numbers, so that equals meet, and the ends of the range.
            fn samples(n: usize, seed: u64) -> Vec<$type> {
                let small = |x: f32| ((x + 2.0) * 2.0) as $type;
                let mut x: Vec<$type> = crate::case::noise(n, seed).into_iter().map(small).collect();
                for (x, special) in x.iter_mut().zip([$type::MIN, $type::MAX, $type::MIN.wrapping_add(5)]) {
                    *x = special;
                }
                x.rotate_left(seed as usize % n);
                x
            }
        }
    )+};
}
integer_samples!(i64 i32 u8);

/// Masks, and for each element whether the first operand is picked.
pub(super) fn selection(case: impl Fn(Vec<u8>, Vec<usize>) -> Case) -> Vec<Case> {
    SIZES
        .map(|n| {
            let mask: Vec<u8> = (0..n).map(|i| [0, 1, 255, 0, 2][i % 5]).collect();
            case(mask, (0..n).map(|i| [0, 1, 1, 0, 1][i % 5]).collect())
        })
        .into()
}

pub(super) fn clamp_cases() -> Vec<Case> {
    [(1, 0.0, 0.5), (RUN as usize - 1, -1.0, 1.0), (RUN as usize + 266, 0.25, f32::INFINITY)]
        .map(|(n, low, high)| {
            let x = inputs(n, 5);
            let y = x
                .iter()
                .map(|&x| {
                    if x < low {
                        low
                    } else if x > high {
                        high
                    } else {
                        x
                    }
                })
                .collect();
            clamp::TestCase { x, y: exactly(y), low, high, n: n as u32 }.named(format!("{n} to {low}..={high}"))
        })
        .into()
}

/// All pairs of truth values, over several blocks.
fn truths(n: usize) -> (Vec<u8>, Vec<u8>) {
    (0..n).map(|i| ((i & 1) as u8, (i >> 1 & 1) as u8)).unzip()
}

pub(super) fn logical_and_cases() -> Vec<Case> {
    SIZES
        .map(|n| {
            let (a, b) = truths(n);
            let y = (0..n).map(|i| u8::from(i % 4 == 3)).collect();
            logical_and::TestCase { a, b, y: exactly(y), n: n as u32 }.named(format!("{n} elements"))
        })
        .into()
}

pub(super) fn logical_or_cases() -> Vec<Case> {
    SIZES
        .map(|n| {
            let (a, b) = truths(n);
            let y = (0..n).map(|i| u8::from(i % 4 != 0)).collect();
            logical_or::TestCase { a, b, y: exactly(y), n: n as u32 }.named(format!("{n} elements"))
        })
        .into()
}

pub(super) fn logical_not_cases() -> Vec<Case> {
    SIZES
        .map(|n| {
            let y = (0..n).map(|i| u8::from(i % 2 == 0)).collect();
            logical_not::TestCase { x: truths(n).0, y: exactly(y), n: n as u32 }.named(format!("{n} elements"))
        })
        .into()
}

/// A matrix, a bias, and the sums through `f`.
fn biased(f: impl Fn(f32) -> f32, case: impl Fn([Vec<f32>; 3], u32, u32) -> Case) -> Vec<Case> {
    [(1, 1), (5, 7), (33, 31), (3, 500)]
        .map(|(rows, cols)| {
            let (x, bias) = (inputs(rows * cols, 6), inputs(cols, 7));
            let y = x.chunks(cols).flat_map(|row| row.iter().zip(&bias).map(|(x, b)| f(x + b))).collect();
            case([x, bias, y], rows as u32, cols as u32)
        })
        .into()
}

macro_rules! bias_cases {
    ($($function:ident $kernel:ident: $f:expr;)+) => {$(
        pub(super) fn $function() -> Vec<Case> {
            biased($f, |[x, bias, y], rows, cols| {
                $kernel::TestCase { x, bias, y: exactly(y), rows, cols }.named(format!("{rows} x {cols}"))
            })
        }
    )+};
}
bias_cases! {
    bias_add_cases bias_add: |sum| sum;
    bias_relu_cases bias_relu: |sum| Unary::Relu.apply(sum);
    bias_gelu_cases bias_gelu: |sum| Unary::Gelu.apply(sum);
}

pub(super) fn all_finite_cases() -> Vec<Case> {
    // Odd, so that the last element has no neighbour.
    let n = RUN as usize + 267;
    let with = |at: usize, value: f32| {
        let mut x = crate::case::noise(n, 8);
        x[at] = value;
        let flag = u32::from(!value.is_finite());
        all_finite::TestCase { x, flag: change(vec![0], exactly(vec![flag])), n: n as u32 }
            .named(format!("element {at} of {n} is {value:e}"))
    };
    vec![
        with(0, f32::MAX),
        with(0, f32::NAN),
        with(31, f32::INFINITY),
        with(1023, f32::NEG_INFINITY),
        with(n - 1, f32::NAN),
    ]
}
