//! Functions of two elements with broadcasting; comparisons, selection, clamping.
//!
//! An operation has up to three kernels: `<name>` for operands of one shape, `<name>_scalar` for a second operand of
//! one element, and `<name>_broadcast` for operands read by strides. Integers have the last alone, which does for the
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
    binary_relu_grad binary_relu_grad_scalar binary_relu_grad_broadcast: Binary::ReluGrad => f32,
        flop 1, special 0, count 4;
    /// From a = x and b = dy: dy (cdf(x) + x pdf(x)) of the normal distribution.
    binary_gelu_grad binary_gelu_grad_scalar binary_gelu_grad_broadcast: Binary::GeluGrad => f32,
        flop 9, special 2, count 1;
    /// From a = y and b = dy: dy (1 - y^2).
    binary_tanh_grad binary_tanh_grad_scalar binary_tanh_grad_broadcast: Binary::TanhGrad => f32,
        flop 4, special 0, count 4;
    /// From a = y and b = dy: dy (y (1 - y)).
    binary_sigmoid_grad binary_sigmoid_grad_scalar binary_sigmoid_grad_broadcast: Binary::SigmoidGrad => f32,
        flop 3, special 0, count 4;
    /// From a = x and b = dy: dy sigmoid(x).
    binary_softplus_grad binary_softplus_grad_scalar binary_softplus_grad_broadcast: Binary::SoftplusGrad => f32,
        flop 1, special 1, count 1;
    /// From a = y and b = dy: (dy / 2) / y.
    binary_sqrt_grad binary_sqrt_grad_scalar binary_sqrt_grad_broadcast: Binary::SqrtGrad => f32,
        flop 1, special 1, count 4;
    /// From a = x and b = dy: dy, -dy where x < 0, +0 where x is zero or NaN.
    binary_abs_grad binary_abs_grad_scalar binary_abs_grad_broadcast: Binary::AbsGrad => f32,
        flop 2, special 0, count 4;
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
            $min($type) -> $type = |a, b| a.min(b),
                expected |a, b| if b < a { b } else { a }, flop 0, special 0, count 4;
            /// y = the larger.
            $max($type) -> $type = |a, b| a.max(b),
                expected |a, b| if b > a { b } else { a }, flop 0, special 0, count 4;
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

    /// y = x + `bias[column]` of a matrix `[rows, cols]`.
    bias_add(x: In<f32>[rows * cols], bias: In<f32>[cols], y: Out<f32>[rows * cols], rows: u32, cols: u32)
    grid [(rows * cols).div_ceil(RUN)] block [THREADS]
    cost { flop: rows * cols, reread: 4 * rows.saturating_sub(1) * cols }
    cases bias_add_cases
    {
        each::<EACH, _>(rows * cols, |i| x.get(i) + bias.get(divide(i, cols).1), |i, sum| y.set(i, sum));
    }

    /// y = relu(x + `bias[column]`) of a matrix `[rows, cols]`: the bits of the two operations one after the other.
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

    /// y = gelu(x + `bias[column]`) of a matrix `[rows, cols]`: the bits of the two operations one after the other.
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
mod cases;
