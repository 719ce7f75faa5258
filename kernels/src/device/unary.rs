//! Functions of one element.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::Case;
use crate::device::run::{THREADS, each};
use crate::elementwise::Unary;
use crate::kernel;
use crate::simt::*;

/// y = op(x) for each operation: `count` elements to a thread.
macro_rules! unary_kernels {
    (
        $($(#[doc = $doc:literal])+ $name:ident: $op:ident, flop $flop:literal, special $special:literal,
            count $count:literal;)+
        integers {
            $($(#[doc = $integer_doc:literal])+ $integer:ident: $type:ident, |$x:ident| $value:expr, wide $wide:expr;)+
        }
    ) => {
        kernel! {$(
            $(#[doc = $doc])+
            $name(x: In<f32>[n], y: Out<f32>[n], n: u32)
            grid [n.div_ceil(THREADS as u64 * $count)] block [THREADS]
            cost { flop: $flop * n, special: $special * n }
            cases $name
            {
                each::<$count, _>(n, |i| x.get(i), |i, x| y.set(i, Unary::$op.apply(x)));
            }
        )+}
        kernel! {$(
            $(#[doc = $integer_doc])+
            $integer(x: In<$type>[n], y: Out<$type>[n], n: u32)
            grid [n.div_ceil(THREADS as u64 * 4)] block [THREADS]
            cost {}
            cases $integer
            {
                each::<4, _>(n, |i| x.get(i), |i, $x| y.set(i, $value));
            }
        )+}

        $(
            #[cfg(not(target_arch = "nvptx64"))]
            fn $name() -> Vec<Case> {
                cases::floats(|x| {
                    let (n, y) = (x.len() as u32, x.iter().map(|&x| Unary::$op.apply(x)).collect());
                    $name::TestCase { x, y: crate::case::exactly(y), n }.named(format!("{n} elements"))
                })
            }
        )+
        $(
            #[cfg(not(target_arch = "nvptx64"))]
            fn $integer() -> Vec<Case> {
                let wide: fn(i128) -> i128 = $wide;
                let edges = [$type::MIN, $type::MIN + 1, -3, -1, 0, 1, 7, 0x1234_5678, $type::MAX];
                let case = |len: usize| {
                    let x: Vec<$type> = edges.into_iter().cycle().take(len).collect();
                    let (n, y) = (len as u32, x.iter().map(|&x| wide(i128::from(x)) as $type).collect());
                    $integer::TestCase { x, y: crate::case::exactly(y), n }.named(format!("{len} edges of the range"))
                };
                crate::device::run::cases::SIZES.map(case).into()
            }
        )+

        /// The kernels of this file.
        #[cfg(not(target_arch = "nvptx64"))]
        pub(super) static KERNELS: &[&kernel::KernelSpec] = &[$(&$name::SPEC,)+ $(&$integer::SPEC),+];
    };
}

unary_kernels! {
    /// y = -x.
    unary_neg: Neg, flop 1, special 0, count 4;
    /// y = |x|.
    unary_abs: Abs, flop 1, special 0, count 4;
    /// y = 1, -1, or x itself where x is a zero or NaN.
    unary_sign: Sign, flop 1, special 0, count 4;
    /// y = the largest integer not above x.
    unary_floor: Floor, flop 1, special 0, count 4;
    /// y = 1 / x.
    unary_recip: Recip, flop 0, special 1, count 4;
    /// y = x x.
    unary_square: Square, flop 1, special 0, count 4;
    /// y = the square root of x.
    unary_sqrt: Sqrt, flop 0, special 1, count 4;
    /// y = 1 / sqrt(x), two roundings.
    unary_rsqrt: Rsqrt, flop 0, special 2, count 4;
    /// y = e^x.
    unary_exp: Exp, flop 0, special 1, count 4;
    /// y = e^x - 1.
    unary_expm1: Expm1, flop 0, special 1, count 4;
    /// y = the natural logarithm of x.
    unary_log: Log, flop 0, special 1, count 4;
    /// y = log(1 + x).
    unary_log1p: Log1p, flop 0, special 1, count 4;
    /// y = the hyperbolic tangent of x.
    unary_tanh: Tanh, flop 0, special 1, count 1;
    /// y = 1 / (1 + e^-x).
    unary_sigmoid: Sigmoid, flop 0, special 1, count 1;
    /// y = log(1 + e^x).
    unary_softplus: Softplus, flop 0, special 1, count 1;
    /// y = x where x > 0, else +0.
    unary_relu: Relu, flop 1, special 0, count 4;
    /// y = x times the normal distribution function.
    unary_gelu: Gelu, flop 3, special 1, count 1;
    /// y = the error function of x.
    unary_erf: Erf, flop 0, special 1, count 1;
    /// y = the sine of x.
    unary_sin: Sin, flop 0, special 1, count 1;
    /// y = the cosine of x.
    unary_cos: Cos, flop 0, special 1, count 1;
    integers {
        /// y = -x, wrapping.
        unary_neg_i32: i32, |x| x.wrapping_neg(), wide |x| -x;
        /// y = -x, wrapping.
        unary_neg_i64: i64, |x| x.wrapping_neg(), wide |x| -x;
        /// y = |x|, wrapping.
        unary_abs_i32: i32, |x| x.wrapping_abs(), wide |x| x.abs();
        /// y = |x|, wrapping.
        unary_abs_i64: i64, |x| x.wrapping_abs(), wide |x| x.abs();
        /// y = 1, 0 or -1.
        unary_sign_i32: i32, |x| x.signum(), wide |x| i128::from(x > 0) - i128::from(x < 0);
        /// y = 1, 0 or -1.
        unary_sign_i64: i64, |x| x.signum(), wide |x| i128::from(x > 0) - i128::from(x < 0);
        /// y = x x, wrapping.
        unary_square_i32: i32, |x| x.wrapping_mul(x), wide |x| x * x;
        /// y = x x, wrapping.
        unary_square_i64: i64, |x| x.wrapping_mul(x), wide |x| x * x;
    }
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::device::run::cases::{SIZES, inputs};

    /// A case of each size.
    pub(super) fn floats(case: impl Fn(Vec<f32>) -> Case) -> Vec<Case> {
        SIZES.map(|n| case(inputs(n, 1))).into()
    }
}
