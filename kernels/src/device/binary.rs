//! Functions of two elements with broadcasting; comparisons, selection, clamping.
//!
//! An operation has up to three kernels: `<name>` for operands of one shape, `<name>_scalar` for a second operand of one
//! element, and `<name>_broadcast` for operands read by strides. Integers have the last alone, which does for the
//! others, too.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::{Case, exactly};
#[cfg(not(target_arch = "nvptx64"))]
use crate::device::run::joined;
use crate::device::run::{EACH, RUN, THREADS, divide, each};
use crate::elementwise::{Binary, Compare, Unary};
use crate::kernel;
use crate::math::Real;
use crate::simt::*;

/// A shape of four axes in which two operands are read: lengths of the last three, strides of each operand. The stride
/// of an axis along which an operand has one element is 0.
#[derive(Clone, Copy)]
struct Broadcast {
    lengths: [u32; 3],
    a: [u32; 4],
    b: [u32; 4],
}

impl Broadcast {
    /// The positions of the two operands for element `i`.
    #[inline(always)]
    fn positions(self, i: u32) -> (u32, u32) {
        let (i, at3) = divide(i, self.lengths[2]);
        let (i, at2) = divide(i, self.lengths[1]);
        let (at0, at1) = divide(i, self.lengths[0]);
        let of = |s: [u32; 4]| at0 * s[0] + at1 * s[1] + at2 * s[2] + at3 * s[3];
        (of(self.a), of(self.b))
    }
}

/// The kernel that reads its operands by strides.
macro_rules! broadcast_kernels {
    ($($(#[doc = $doc:literal])+ $name:ident($type:ident) -> $out:ident = |$a:ident, $b:ident| $value:expr,
        expected $expected:expr, flop $flop:literal, special $special:literal, count $count:literal;)+) => {
        kernel! {$(
            $(#[doc = $doc])+
            /// y has the shape [d0, d1, d2, d3]; its element (i0, i1, i2, i3) reads a at i0 a0 + i1 a1 + i2 a2 + i3 a3
            /// and b likewise.
            $name(
                a: In<$type>[a_len], b: In<$type>[b_len], y: Out<$out>[d0 * d1 * d2 * d3],
                a_len: u32, b_len: u32, d0: u32, d1: u32, d2: u32, d3: u32,
                a0: u32, a1: u32, a2: u32, a3: u32, b0: u32, b1: u32, b2: u32, b3: u32,
            )
            grid [(d0 * d1 * d2 * d3).div_ceil(THREADS as u64 * $count)] block [THREADS]
            cost { flop: $flop * (d0 * d1 * d2 * d3), special: $special * (d0 * d1 * d2 * d3) }
            cases $name
            {
                let shape = Broadcast { lengths: [d1, d2, d3], a: [a0, a1, a2, a3], b: [b0, b1, b2, b3] };
                each::<$count, _>(
                    d0 * d1 * d2 * d3,
                    |i| {
                        let (at_a, at_b) = shape.positions(i);
                        (a.get(at_a), b.get(at_b))
                    },
                    |i, ($a, $b)| y.set(i, $value),
                );
            }
        )+}

        $(
            #[cfg(not(target_arch = "nvptx64"))]
            fn $name() -> Vec<Case> {
                cases::broadcast::<$type, $out>($expected, |c| {
                    let ([d0, d1, d2, d3], [a0, a1, a2, a3], [b0, b1, b2, b3]) = (c.lengths, c.a_strides, c.b_strides);
                    let (a_len, b_len) = (c.a.len() as u32, c.b.len() as u32);
                    let (a, b, y) = (c.a, c.b, exactly(c.y));
                    $name::TestCase {
                        a, b, y, a_len, b_len, d0, d1, d2, d3, a0, a1, a2, a3, b0, b1, b2, b3,
                    }
                    .named(format!("{:?}, strides {:?} and {:?}", c.lengths, c.a_strides, c.b_strides))
                })
            }
        )+
    };
}

/// All three kernels of an operation on f32: y = op(a, b).
macro_rules! float_kernels {
    ($($(#[doc = $doc:literal])+ $name:ident $scalar:ident $broadcast:ident: $op:expr => $out:ident,
        flop $flop:literal, special $special:literal, count $count:literal;)+) => {
        kernel! {$(
            $(#[doc = $doc])+
            $name(a: In<f32>[n], b: In<f32>[n], y: Out<$out>[n], n: u32)
            grid [n.div_ceil(THREADS as u64 * $count)] block [THREADS]
            cost { flop: $flop * n, special: $special * n }
            cases $name
            {
                each::<$count, _>(n, |i| (a.get(i), b.get(i)), |i, (a, b)| y.set(i, $out::from($op.apply(a, b))));
            }

            $(#[doc = $doc])+
            /// b is one element.
            $scalar(a: In<f32>[n], b: In<f32>[1], y: Out<$out>[n], n: u32)
            grid [n.div_ceil(THREADS as u64 * $count)] block [THREADS]
            cost { flop: $flop * n, special: $special * n }
            cases $scalar
            {
                let b = b.get(0);
                each::<$count, _>(n, |i| a.get(i), |i, a| y.set(i, $out::from($op.apply(a, b))));
            }
        )+}

        broadcast_kernels! {$(
            $(#[doc = $doc])+
            $broadcast(f32) -> $out = |a, b| $out::from($op.apply(a, b)),
                expected |a, b| $out::from($op.apply(a, b)), flop $flop, special $special, count $count;
        )+}

        $(
            #[cfg(not(target_arch = "nvptx64"))]
            fn $name() -> Vec<Case> {
                cases::pairwise(|a, b| $out::from($op.apply(a, b)), |a, b, y| {
                    let n = a.len() as u32;
                    $name::TestCase { a, b, y: exactly(y), n }.named(format!("{n} elements"))
                })
            }

            #[cfg(not(target_arch = "nvptx64"))]
            fn $scalar() -> Vec<Case> {
                cases::with_scalar(|a, b| $out::from($op.apply(a, b)), |a, b, y| {
                    let n = a.len() as u32;
                    $scalar::TestCase { a, b: vec![b], y: exactly(y), n }.named(format!("{n} elements and {b:e}"))
                })
            }
        )+

        #[cfg(not(target_arch = "nvptx64"))]
        const FLOATS: &[&kernel::KernelSpec] =
            &[$(&$name::SPEC, &$scalar::SPEC, &$broadcast::SPEC),+];
    };
}

float_kernels! {
    /// y = a + b.
    binary_add binary_add_scalar binary_add_broadcast: Binary::Add => f32, flop 1, special 0, count 4;
    /// y = a - b.
    binary_sub binary_sub_scalar binary_sub_broadcast: Binary::Sub => f32, flop 1, special 0, count 4;
    /// y = a b.
    binary_mul binary_mul_scalar binary_mul_broadcast: Binary::Mul => f32, flop 1, special 0, count 4;
    /// y = a / b.
    binary_div binary_div_scalar binary_div_broadcast: Binary::Div => f32, flop 0, special 1, count 4;
    /// y = the smaller; NaN if either is; a of equals.
    binary_min binary_min_scalar binary_min_broadcast: Binary::Min => f32, flop 1, special 0, count 4;
    /// y = the larger; NaN if either is; a of equals.
    binary_max binary_max_scalar binary_max_broadcast: Binary::Max => f32, flop 1, special 0, count 4;
    /// y = a^b.
    binary_pow binary_pow_scalar binary_pow_broadcast: Binary::Pow => f32, flop 0, special 2, count 1;
    /// From a = x or y and b = dy: dy where a > 0, otherwise +0.
    binary_relu_grad binary_relu_grad_scalar binary_relu_grad_broadcast: Binary::ReluGrad => f32, flop 1, special 0, count 4;
    /// From a = x and b = dy: dy (cdf(x) + x pdf(x)) of the normal distribution.
    binary_gelu_grad binary_gelu_grad_scalar binary_gelu_grad_broadcast: Binary::GeluGrad => f32, flop 9, special 2, count 1;
    /// From a = y and b = dy: dy (1 - y^2).
    binary_tanh_grad binary_tanh_grad_scalar binary_tanh_grad_broadcast: Binary::TanhGrad => f32, flop 4, special 0, count 4;
    /// From a = y and b = dy: dy (y (1 - y)).
    binary_sigmoid_grad binary_sigmoid_grad_scalar binary_sigmoid_grad_broadcast: Binary::SigmoidGrad => f32,
        flop 3, special 0, count 4;
    /// From a = x and b = dy: dy sigmoid(x).
    binary_softplus_grad binary_softplus_grad_scalar binary_softplus_grad_broadcast: Binary::SoftplusGrad => f32,
        flop 1, special 1, count 1;
    /// From a = y and b = dy: (dy / 2) / y.
    binary_sqrt_grad binary_sqrt_grad_scalar binary_sqrt_grad_broadcast: Binary::SqrtGrad => f32, flop 1, special 1, count 4;
    /// From a = x and b = dy: dy, -dy where x < 0, +0 where x is zero or NaN.
    binary_abs_grad binary_abs_grad_scalar binary_abs_grad_broadcast: Binary::AbsGrad => f32, flop 2, special 0, count 4;
    /// y = 1 where a = b, else 0.
    compare_eq compare_eq_scalar compare_eq_broadcast: Compare::Eq => u8, flop 1, special 0, count 4;
    /// y = 0 where a = b, else 1.
    compare_ne compare_ne_scalar compare_ne_broadcast: Compare::Ne => u8, flop 1, special 0, count 4;
    /// y = 1 where a < b, else 0.
    compare_lt compare_lt_scalar compare_lt_broadcast: Compare::Lt => u8, flop 1, special 0, count 4;
    /// y = 1 where a <= b, else 0.
    compare_le compare_le_scalar compare_le_broadcast: Compare::Le => u8, flop 1, special 0, count 4;
    /// y = 1 where a > b, else 0.
    compare_gt compare_gt_scalar compare_gt_broadcast: Compare::Gt => u8, flop 1, special 0, count 4;
    /// y = 1 where a >= b, else 0.
    compare_ge compare_ge_scalar compare_ge_broadcast: Compare::Ge => u8, flop 1, special 0, count 4;
}

/// The operations of integers: sums and products wrap.
macro_rules! integer_kernels {
    ($list:ident; $type:ident; $add:ident $sub:ident $mul:ident $min:ident $max:ident
        $eq:ident $ne:ident $lt:ident $le:ident $gt:ident $ge:ident) => {
        broadcast_kernels! {
            /// y = a + b, wrapping.
            $add($type) -> $type = |a, b| a.wrapping_add(b),
                expected |a, b| (i128::from(a) + i128::from(b)) as $type, flop 0, special 0, count 4;
            /// y = a - b, wrapping.
            $sub($type) -> $type = |a, b| a.wrapping_sub(b),
                expected |a, b| (i128::from(a) - i128::from(b)) as $type, flop 0, special 0, count 4;
            /// y = a b, wrapping.
            $mul($type) -> $type = |a, b| a.wrapping_mul(b),
                expected |a, b| (i128::from(a) * i128::from(b)) as $type, flop 0, special 0, count 4;
            /// y = the smaller.
            $min($type) -> $type = |a, b| a.min(b), expected |a, b| if b < a { b } else { a }, flop 0, special 0, count 4;
            /// y = the larger.
            $max($type) -> $type = |a, b| a.max(b), expected |a, b| if b > a { b } else { a }, flop 0, special 0, count 4;
            /// y = 1 where a = b, else 0.
            $eq($type) -> u8 = |a, b| u8::from(a == b),
                expected |a, b| u8::from(i128::from(a) - i128::from(b) == 0), flop 0, special 0, count 4;
            /// y = 0 where a = b, else 1.
            $ne($type) -> u8 = |a, b| u8::from(a != b),
                expected |a, b| u8::from(i128::from(a) - i128::from(b) != 0), flop 0, special 0, count 4;
            /// y = 1 where a < b, else 0.
            $lt($type) -> u8 = |a, b| u8::from(a < b),
                expected |a, b| u8::from(i128::from(a) - i128::from(b) < 0), flop 0, special 0, count 4;
            /// y = 1 where a <= b, else 0.
            $le($type) -> u8 = |a, b| u8::from(a <= b),
                expected |a, b| u8::from(i128::from(a) - i128::from(b) <= 0), flop 0, special 0, count 4;
            /// y = 1 where a > b, else 0.
            $gt($type) -> u8 = |a, b| u8::from(a > b),
                expected |a, b| u8::from(i128::from(a) - i128::from(b) > 0), flop 0, special 0, count 4;
            /// y = 1 where a >= b, else 0.
            $ge($type) -> u8 = |a, b| u8::from(a >= b),
                expected |a, b| u8::from(i128::from(a) - i128::from(b) >= 0), flop 0, special 0, count 4;
        }

        #[cfg(not(target_arch = "nvptx64"))]
        const $list: &[&kernel::KernelSpec] = &[
            &$add::SPEC,
            &$sub::SPEC,
            &$mul::SPEC,
            &$min::SPEC,
            &$max::SPEC,
            &$eq::SPEC,
            &$ne::SPEC,
            &$lt::SPEC,
            &$le::SPEC,
            &$gt::SPEC,
            &$ge::SPEC,
        ];
    };
}
integer_kernels! { I64; i64;
binary_add_i64_broadcast binary_sub_i64_broadcast binary_mul_i64_broadcast binary_min_i64_broadcast
binary_max_i64_broadcast compare_eq_i64_broadcast compare_ne_i64_broadcast compare_lt_i64_broadcast
compare_le_i64_broadcast compare_gt_i64_broadcast compare_ge_i64_broadcast }
integer_kernels! { I32; i32;
binary_add_i32_broadcast binary_sub_i32_broadcast binary_mul_i32_broadcast binary_min_i32_broadcast
binary_max_i32_broadcast compare_eq_i32_broadcast compare_ne_i32_broadcast compare_lt_i32_broadcast
compare_le_i32_broadcast compare_gt_i32_broadcast compare_ge_i32_broadcast }
integer_kernels! { U8; u8;
binary_add_u8_broadcast binary_sub_u8_broadcast binary_mul_u8_broadcast binary_min_u8_broadcast
binary_max_u8_broadcast compare_eq_u8_broadcast compare_ne_u8_broadcast compare_lt_u8_broadcast
compare_le_u8_broadcast compare_gt_u8_broadcast compare_ge_u8_broadcast }

/// y = a where the mask is not 0, else b.
macro_rules! select_kernels {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ident;)+) => {
        kernel! {$(
            $(#[doc = $doc])+
            $name(mask: In<u8>[n], a: In<$type>[n], b: In<$type>[n], y: Out<$type>[n], n: u32)
            grid [n.div_ceil(RUN)] block [THREADS]
            cost {}
            cases $name
            {
                each::<EACH, _>(
                    n,
                    |i| (mask.get(i), a.get(i), b.get(i)),
                    |i, (mask, a, b)| y.set(i, if mask != 0 { a } else { b }),
                );
            }
        )+}

        $(
            #[cfg(not(target_arch = "nvptx64"))]
            fn $name() -> Vec<Case> {
                cases::selection(|mask, picked| {
                    let n = mask.len() as u32;
                    let [a, b] = [0, 100].map(|from| (0..n).map(|i| (i % 99 + from) as $type).collect::<Vec<_>>());
                    let y = (0..n as usize).map(|i| [b[i], a[i]][picked[i]]).collect();
                    $name::TestCase { mask, a, b, y: exactly(y), n }.named(format!("{n} elements"))
                })
            }
        )+

        #[cfg(not(target_arch = "nvptx64"))]
        const SELECTIONS: &[&kernel::KernelSpec] = &[$(&$name::SPEC),+];
    };
}
select_kernels! {
    /// y = a where the mask is not 0, else b.
    select: f32;
    /// y = a where the mask is not 0, else b.
    select_f64: f64;
    /// y = a where the mask is not 0, else b, of 16-bit elements of any kind.
    select_u16: u16;
    /// y = a where the mask is not 0, else b.
    select_i32: i32;
    /// y = a where the mask is not 0, else b.
    select_i64: i64;
    /// y = a where the mask is not 0, else b.
    select_u8: u8;
}

kernel! {
    /// y = low where x < low, high where x > high, else x; NaN stays.
    clamp(x: In<f32>[n], y: Out<f32>[n], low: f32, high: f32, n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 2 * n }
    cases clamp_cases
    {
        each::<EACH, _>(n, |i| x.get(i), |i, x| y.set(i, Real::clamp(x, low, high)));
    }

    /// y = 1 where both a and b are 1, else 0, of truth values 0 and 1.
    logical_and(a: In<u8>[n], b: In<u8>[n], y: Out<u8>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost {}
    cases logical_and_cases
    {
        each::<EACH, _>(n, |i| (a.get(i), b.get(i)), |i, (a, b)| y.set(i, a & b));
    }

    /// y = 1 where a or b is 1, else 0, of truth values 0 and 1.
    logical_or(a: In<u8>[n], b: In<u8>[n], y: Out<u8>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost {}
    cases logical_or_cases
    {
        each::<EACH, _>(n, |i| (a.get(i), b.get(i)), |i, (a, b)| y.set(i, a | b));
    }

    /// y = 1 - x, of truth values 0 and 1.
    logical_not(x: In<u8>[n], y: Out<u8>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost {}
    cases logical_not_cases
    {
        each::<EACH, _>(n, |i| x.get(i), |i, x| y.set(i, x ^ 1));
    }

    /// y = x + bias\[column\] of a matrix `[rows, cols]`.
    bias_add(x: In<f32>[rows * cols], bias: In<f32>[cols], y: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [(rows * cols).div_ceil(RUN)] block [THREADS]
    cost { flop: rows * cols, reread: 4 * rows.saturating_sub(1) * cols }
    cases bias_add_cases
    {
        each::<EACH, _>(rows * cols, |i| x.get(i) + bias.get(divide(i, cols).1), |i, sum| y.set(i, sum));
    }

    /// y = relu(x + bias\[column\]) of a matrix `[rows, cols]`: the bits of the two operations one after the other.
    bias_relu(x: In<f32>[rows * cols], bias: In<f32>[cols], y: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [(rows * cols).div_ceil(RUN)] block [THREADS]
    cost { flop: 2 * rows * cols, reread: 4 * rows.saturating_sub(1) * cols }
    cases bias_relu_cases
    {
        each::<EACH, _>(
            rows * cols,
            |i| x.get(i) + bias.get(divide(i, cols).1),
            |i, sum| y.set(i, Unary::Relu.apply(sum)),
        );
    }

    /// y = gelu(x + bias\[column\]) of a matrix `[rows, cols]`: the bits of the two operations one after the other.
    bias_gelu(x: In<f32>[rows * cols], bias: In<f32>[cols], y: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [(rows * cols).div_ceil(RUN)] block [THREADS]
    cost { flop: 4 * rows * cols, special: rows * cols, reread: 4 * rows.saturating_sub(1) * cols }
    cases bias_gelu_cases
    {
        each::<EACH, _>(
            rows * cols,
            |i| x.get(i) + bias.get(divide(i, cols).1),
            |i, sum| y.set(i, Unary::Gelu.apply(sum)),
        );
    }

    /// Raises the flag to 1 when some x is NaN or infinite; otherwise leaves it, 0 at first, alone.
    all_finite(x: In<f32>[n], flag: InOut<u32>[1], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: n }
    cases all_finite_cases
    {
        let first = block_idx().x * RUN as u32 + thread_idx().x;
        let mut finite = true;
        for k in 0..EACH as u32 {
            let i = first + k * THREADS;
            if within(i, n) {
                finite &= Real::is_finite(x.get(i));
            }
        }
        if !all(ALL_LANES, finite) && lane() == 0 {
            flag.atomic_max(0, 1);
        }
    }
}

#[cfg(not(target_arch = "nvptx64"))]
const OTHERS: &[&kernel::KernelSpec] = &[
    &clamp::SPEC,
    &logical_and::SPEC,
    &logical_or::SPEC,
    &logical_not::SPEC,
    &bias_add::SPEC,
    &bias_relu::SPEC,
    &bias_gelu::SPEC,
    &all_finite::SPEC,
];

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &joined::<
    { FLOATS.len() + I64.len() + I32.len() + U8.len() + SELECTIONS.len() + OTHERS.len() },
>(&[FLOATS, I64, I32, U8, SELECTIONS, OTHERS]);

#[cfg(not(target_arch = "nvptx64"))]
use cases::{
    all_finite_cases, bias_add_cases, bias_gelu_cases, bias_relu_cases, clamp_cases, logical_and_cases,
    logical_not_cases, logical_or_cases,
};

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::change;
    use crate::device::run::cases::{SIZES, inputs, pairs};

    /// Cases of two operands of one shape.
    pub(super) fn pairwise<Y>(
        op: impl Fn(f32, f32) -> Y,
        case: impl Fn(Vec<f32>, Vec<f32>, Vec<Y>) -> Case,
    ) -> Vec<Case> {
        SIZES
            .map(|n| {
                let (a, b) = pairs(n, 1);
                let y = a.iter().zip(&b).map(|(&a, &b)| op(a, b)).collect();
                case(a, b, y)
            })
            .into()
    }

    /// Cases of a second operand of one element.
    pub(super) fn with_scalar<Y>(
        op: impl Fn(f32, f32) -> Y,
        case: impl Fn(Vec<f32>, f32, Vec<Y>) -> Case,
    ) -> Vec<Case> {
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
    pub(super) fn broadcast<T: Sample, Y>(
        op: impl Fn(T, T) -> Y,
        case: impl Fn(Broadcasting<T, Y>) -> Case,
    ) -> Vec<Case> {
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
        let n = RUN as usize + 266;
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
}
