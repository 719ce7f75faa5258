//! [`Real`]: the floating-point types that results are computed in.

use super::table::Table;
use super::{erf, exponential, ieee, logarithm, select, trigonometric};
use core::fmt::{Debug, Display};
use core::ops::{Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Sub, SubAssign};

/// f32 or f64, with the element functions of this crate.
///
/// Every function has the same definition, sequence of operations included, in both formats; see `NUMERICS.md`.
pub trait Real:
    Table
    + PartialOrd
    + Default
    + Debug
    + Display
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + DivAssign
{
    /// +0.
    const ZERO: Self;
    /// 1.
    const ONE: Self;
    /// 2.
    const TWO: Self;
    /// 1/2.
    const HALF: Self;
    /// The distance from 1 to the next larger number.
    const EPSILON: Self;
    /// The smallest positive normal number.
    const MIN_POSITIVE: Self;
    /// The largest finite number.
    const MAX: Self;
    /// Positive infinity.
    const INFINITY: Self;
    /// Negative infinity.
    const NEG_INFINITY: Self;
    /// A quiet NaN.
    const NAN: Self;
    /// pi, rounded.
    const PI: Self;
    /// sqrt(1/2), rounded.
    const FRAC_1_SQRT_2: Self;
    /// 2 / sqrt(pi), rounded.
    const FRAC_2_SQRT_PI: Self;

    /// The nearest number of this format.
    fn from_f64(x: f64) -> Self;
    /// The number as f64, exactly.
    fn to_f64(self) -> f64;
    /// The nearest number of this format.
    fn from_f32(x: f32) -> Self;
    /// The nearest f32.
    fn to_f32(self) -> f32;
    /// The nearest number of this format.
    fn from_usize(n: usize) -> Self;
    /// The bits, zero-extended, with every NaN mapped to one quiet NaN: what hashes and comparisons use.
    fn canonical_bits(self) -> u64;

    /// self * b + c, rounded once.
    fn mul_add(self, b: Self, c: Self) -> Self;
    /// The correctly rounded square root; NaN below zero, -0 for -0.
    fn sqrt(self) -> Self;
    /// The largest integer not above.
    fn floor(self) -> Self;
    /// Clears the sign bit.
    fn abs(self) -> Self;
    /// The magnitude of self with the sign bit of `sign`.
    fn copysign(self, sign: Self) -> Self;

    /// Whether this is a NaN.
    #[inline(always)]
    #[allow(clippy::eq_op)]
    fn is_nan(self) -> bool {
        self != self
    }

    /// Whether this is neither infinite nor NaN.
    #[inline(always)]
    fn is_finite(self) -> bool {
        self.abs() <= Self::MAX
    }

    /// 1 / sqrt(x), two roundings.
    #[inline(always)]
    fn rsqrt(self) -> Self {
        Self::ONE / self.sqrt()
    }

    /// e^x.
    #[inline(always)]
    fn exp(self) -> Self {
        exponential::exp(self)
    }

    /// e^x - 1, accurate near 0.
    #[inline(always)]
    fn expm1(self) -> Self {
        exponential::expm1(self)
    }

    /// The hyperbolic tangent.
    #[inline(always)]
    fn tanh(self) -> Self {
        exponential::tanh(self)
    }

    /// 1 / (1 + e^-x).
    #[inline(always)]
    fn sigmoid(self) -> Self {
        exponential::sigmoid(self)
    }

    /// log(1 + e^x).
    #[inline(always)]
    fn softplus(self) -> Self {
        exponential::softplus(self)
    }

    /// The natural logarithm.
    #[inline(always)]
    fn log(self) -> Self {
        logarithm::log(self)
    }

    /// log(1 + x), accurate near 0.
    #[inline(always)]
    fn log1p(self) -> Self {
        logarithm::log1p(self)
    }

    /// The error function 2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x.
    #[inline(always)]
    fn erf(self) -> Self {
        erf::erf(self)
    }

    /// The sine; NaN at infinity.
    #[inline(always)]
    fn sin(self) -> Self {
        trigonometric::sin(self)
    }

    /// The cosine; NaN at infinity.
    #[inline(always)]
    fn cos(self) -> Self {
        trigonometric::cos(self)
    }

    /// self^y with the special cases of IEEE-754 `pow`.
    #[inline(always)]
    fn pow(self, y: Self) -> Self {
        Table::pow(self, y)
    }

    /// The smaller; NaN if either is; of equal numbers (-0 and +0 included) self.
    #[inline(always)]
    fn min(self, b: Self) -> Self {
        select::min(self, b)
    }

    /// The larger; NaN if either is; of equal numbers (-0 and +0 included) self.
    #[inline(always)]
    fn max(self, b: Self) -> Self {
        select::max(self, b)
    }

    /// x where x > 0, otherwise +0; NaN for NaN.
    #[inline(always)]
    fn relu(self) -> Self {
        select::relu(self)
    }

    /// `low` where x < low, `high` where x > high, otherwise x; NaN for NaN.
    #[inline(always)]
    fn clamp(self, low: Self, high: Self) -> Self {
        select::clamp(self, low, high)
    }

    /// 1, -1, or x itself where x is a zero or NaN.
    #[inline(always)]
    fn sign(self) -> Self {
        select::sign(self)
    }
}

macro_rules! real {
    ($float:ident, $bits:ident) => {
        impl Real for $float {
            const ZERO: $float = 0.0;
            const ONE: $float = 1.0;
            const TWO: $float = 2.0;
            const HALF: $float = 0.5;
            const EPSILON: $float = $float::EPSILON;
            const MIN_POSITIVE: $float = $float::MIN_POSITIVE;
            const MAX: $float = $float::MAX;
            const INFINITY: $float = $float::INFINITY;
            const NEG_INFINITY: $float = $float::NEG_INFINITY;
            const NAN: $float = $float::NAN;
            const PI: $float = core::$float::consts::PI;
            const FRAC_1_SQRT_2: $float = core::$float::consts::FRAC_1_SQRT_2;
            const FRAC_2_SQRT_PI: $float = core::$float::consts::FRAC_2_SQRT_PI;

            #[inline(always)]
            fn from_f64(x: f64) -> $float {
                x as $float
            }

            #[inline(always)]
            fn to_f64(self) -> f64 {
                f64::from(self)
            }

            #[inline(always)]
            fn from_f32(x: f32) -> $float {
                $float::from(x)
            }

            #[inline(always)]
            fn to_f32(self) -> f32 {
                self as f32
            }

            #[inline(always)]
            fn from_usize(n: usize) -> $float {
                n as $float
            }

            #[inline(always)]
            fn canonical_bits(self) -> u64 {
                const QUIET_NAN: $bits = $float::INFINITY.to_bits() | (1 << ($float::MANTISSA_DIGITS - 2));
                u64::from(if self.is_nan() { QUIET_NAN } else { self.to_bits() })
            }

            #[inline(always)]
            fn mul_add(self, b: $float, c: $float) -> $float {
                ieee::$float::mul_add(self, b, c)
            }

            #[inline(always)]
            fn sqrt(self) -> $float {
                ieee::$float::sqrt(self)
            }

            #[inline(always)]
            fn floor(self) -> $float {
                ieee::$float::floor(self)
            }

            #[inline(always)]
            fn abs(self) -> $float {
                $float::from_bits(self.to_bits() & ($bits::MAX >> 1))
            }

            #[inline(always)]
            fn copysign(self, sign: $float) -> $float {
                const SIGN: $bits = 1 << ($bits::BITS - 1);
                $float::from_bits((self.to_bits() & !SIGN) | (sign.to_bits() & SIGN))
            }
        }
    };
}

real!(f32, u32);
real!(f64, u64);

/// The functions of [`Real`] by name, for concrete code.
macro_rules! named_functions {
    ($float:ident) => {
        $crate::math::real::named_functions! { @unary $float
            abs, floor, sqrt, rsqrt, exp, expm1, log, log1p, tanh, sigmoid, softplus, erf, sin, cos, relu, sign }
        $crate::math::real::named_functions! { @binary $float min, max, pow }

        /// [`Real::mul_add`](super::Real::mul_add): a b + c, rounded once.
        #[inline(always)]
        pub fn mul_add(a: $float, b: $float, c: $float) -> $float {
            super::Real::mul_add(a, b, c)
        }

        /// [`Real::clamp`](super::Real::clamp).
        #[inline(always)]
        pub fn clamp(x: $float, low: $float, high: $float) -> $float {
            super::Real::clamp(x, low, high)
        }
    };
    (@unary $float:ident $($name:ident),+) => {$(
        #[doc = concat!("[`Real::", stringify!($name), "`](super::Real::", stringify!($name), ").")]
        #[inline(always)]
        pub fn $name(x: $float) -> $float {
            super::Real::$name(x)
        }
    )+};
    (@binary $float:ident $($name:ident),+) => {$(
        #[doc = concat!("[`Real::", stringify!($name), "`](super::Real::", stringify!($name), ").")]
        #[inline(always)]
        pub fn $name(x: $float, y: $float) -> $float {
            super::Real::$name(x, y)
        }
    )+};
}
pub(super) use named_functions;
