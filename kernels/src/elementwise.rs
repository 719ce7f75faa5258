//! Element functions over slices: one stamped loop per operation, the operation chosen outside the loop.
//!
//! Slices of one call have the same length; surplus elements of a longer one are left alone.

use crate::math::Real;
#[cfg(not(target_arch = "nvptx64"))]
use crate::math::{cos_moderate, is_moderate, sin_moderate};

/// Declares an enum of operations, each with its name and its definition, and stamps the loops over them.
///
/// A definition may name a second, branch-free one for the loop (`bulk`), which holds where `is_moderate`.
macro_rules! operations {
    (
        $(#[$enum_meta:meta])* $enum:ident ($($arg:ident),+) -> $result:ty {
            $($(#[$meta:meta])* $variant:ident $name:literal = $value:expr $(, bulk $bulk:expr)?;)+
        }
        loops { $($(#[$loop_meta:meta])* $function:ident [$($outer:ident),*] [$($inner:ident),+] -> $stored:ty;)+ }
    ) => {
        $(#[$enum_meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $enum {
            $($(#[$meta])* $variant,)+
        }

        impl $enum {
            /// Every operation, in the order of declaration.
            pub const ALL: &[$enum] = &[$($enum::$variant),+];

            /// The operation's name, as in messages and tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $($enum::$variant => $name,)+
                }
            }

            /// The operation on one element: its definition.
            #[inline(always)]
            pub fn apply<T: Real>(self, $($arg: T),+) -> $result {
                match self {
                    $($enum::$variant => $value,)+
                }
            }
        }

        operations! { @loops $enum { $($variant = operations!(@bulk $value $(, $bulk)?);)+ }
            $($(#[$loop_meta])* $function [$($outer),*] [$($inner),+] -> $stored;)+ }
    };
    (@bulk $value:expr) => { $value };
    (@bulk $value:expr, $bulk:expr) => { $bulk };
    (@loops $enum:ident $arms:tt $($(#[$meta:meta])* $function:ident $outer:tt $inner:tt -> $stored:ty;)+) => {
        $(operations! { @loop $enum $arms $(#[$meta])* $function $outer $inner $inner -> $stored })+
    };
    (
        @loop $enum:ident { $($variant:ident = $value:expr;)+ }
        $(#[$meta:meta])* $function:ident [$($outer:ident),*] [$($input:ident),+] $inputs:tt -> $stored:ty
    ) => {
        crate::stamp! {
            $(#[$meta])*
            pub fn $function<T: Real>(op: $enum, $($input: &[T],)+ $($outer: T,)* y: &mut [$stored]) {
                match op {
                    $($enum::$variant => {
                        operations!(@zip y $inputs; $value);
                    })+
                }
            }
        }
    };
    (@zip $y:ident [$a:ident]; $value:expr) => {
        for (y, &$a) in $y.iter_mut().zip($a) {
            *y = $value.into();
        }
    };
    (@zip $y:ident [$a:ident, $b:ident]; $value:expr) => {
        for ((y, &$a), &$b) in $y.iter_mut().zip($a).zip($b) {
            *y = $value.into();
        }
    };
}

operations! {
    /// Functions of one element.
    Unary (x) -> T {
    /// -x.
    Neg "neg" = -x;
    /// |x|.
    Abs "abs" = Real::abs(x);
    /// 1, -1, or x itself where x is a zero or NaN.
    Sign "sign" = Real::sign(x);
    /// The largest integer not above x.
    Floor "floor" = Real::floor(x);
    /// 1 / x.
    Recip "recip" = T::ONE / x;
    /// x x.
    Square "square" = x * x;
    /// The square root.
    Sqrt "sqrt" = Real::sqrt(x);
    /// 1 / sqrt(x), two roundings.
    Rsqrt "rsqrt" = Real::rsqrt(x);
    /// e^x.
    Exp "exp" = Real::exp(x);
    /// e^x - 1.
    Expm1 "expm1" = Real::expm1(x);
    /// The natural logarithm.
    Log "log" = Real::log(x);
    /// log(1 + x).
    Log1p "log1p" = Real::log1p(x);
    /// The hyperbolic tangent.
    Tanh "tanh" = Real::tanh(x);
    /// 1 / (1 + e^-x).
    Sigmoid "sigmoid" = Real::sigmoid(x);
    /// log(1 + e^x).
    Softplus "softplus" = Real::softplus(x);
    /// x where x > 0, otherwise +0.
    Relu "relu" = Real::relu(x);
    /// x times the normal distribution function: [`gelu`].
    Gelu "gelu" = gelu(x);
    /// The error function.
    Erf "erf" = Real::erf(x);
    /// The sine.
    Sin "sin" = Real::sin(x), bulk sin_moderate(x);
    /// The cosine.
    Cos "cos" = Real::cos(x), bulk cos_moderate(x);
    }
    loops {
        /// The branch-free part of [`unary`].
        unary_bulk [] [x] -> T;
    }
}

operations! {
    /// Functions of two elements; among them the gradients that a backward pass multiplies in, fused.
    Binary (a, b) -> T {
    /// a + b.
    Add "add" = a + b;
    /// a - b.
    Sub "sub" = a - b;
    /// a b.
    Mul "mul" = a * b;
    /// a / b.
    Div "div" = a / b;
    /// The smaller; NaN if either is; a of equals.
    Min "min" = Real::min(a, b);
    /// The larger; NaN if either is; a of equals.
    Max "max" = Real::max(a, b);
    /// a^b.
    Pow "pow" = Real::pow(a, b);
    /// From (x or y, dy): dy where the first is above 0, otherwise +0.
    ReluGrad "relu_grad" = if a > T::ZERO { b } else { T::ZERO };
    /// From (x, dy): dy (cdf(x) + x pdf(x)) of the normal distribution: [`gelu_derivative`].
    GeluGrad "gelu_grad" = b * gelu_derivative(a);
    /// From (y, dy): dy (1 - y^2).
    TanhGrad "tanh_grad" = b * Real::mul_add(-a, a, T::ONE);
    /// From (y, dy): dy (y (1 - y)).
    SigmoidGrad "sigmoid_grad" = b * (a * (T::ONE - a));
    /// From (x, dy): dy sigmoid(x).
    SoftplusGrad "softplus_grad" = b * Real::sigmoid(a);
    /// From (y, dy): (dy / 2) / y.
    SqrtGrad "sqrt_grad" = b * T::HALF / a;
    /// From (x, dy): dy, -dy where x < 0, +0 where x is zero or NaN.
    AbsGrad "abs_grad" = if a > T::ZERO { b } else if a < T::ZERO { -b } else { T::ZERO };
    }
    loops {
        /// y = op(a, b), element by element.
        binary [] [a, b] -> T;
        /// y = op(a, b) with the same b for all elements.
        binary_scalar [b] [a] -> T;
    }
}

operations! {
    /// Comparisons of two elements as IEEE-754 has them: with a NaN all are false but `Ne`.
    Compare (a, b) -> bool {
    /// a = b; -0 equals +0.
    Eq "eq" = a == b;
    /// Not a = b.
    Ne "ne" = a != b;
    /// a < b.
    Lt "lt" = a < b;
    /// a <= b.
    Le "le" = a <= b;
    /// a > b.
    Gt "gt" = a > b;
    /// a >= b.
    Ge "ge" = a >= b;
    }
    loops {
        /// y = 1 where the comparison of a and b holds, otherwise 0.
        compare [] [a, b] -> u8;
        /// y = 1 where the comparison with the same b for all elements holds, otherwise 0.
        compare_scalar [b] [a] -> u8;
    }
}

/// y = op(x), element by element.
#[cfg(not(target_arch = "nvptx64"))]
pub fn unary<T: Real>(isa: crate::isa::Isa, op: Unary, x: &[T], y: &mut [T]) {
    unary_bulk(isa, op, x, y);
    if matches!(op, Unary::Sin | Unary::Cos) && x.iter().any(|&x| !is_moderate(x)) {
        for (y, &x) in y.iter_mut().zip(x).filter(|(_, x)| !is_moderate(**x)) {
            *y = op.apply(x);
        }
    }
}

/// (x / 2) (1 + erf(x / sqrt 2)).
#[inline(always)]
pub fn gelu<T: Real>(x: T) -> T {
    (x * T::HALF) * (T::ONE + Real::erf(x * T::FRAC_1_SQRT_2))
}

/// (1 + erf(x / sqrt 2)) / 2 + x e^(-x^2 / 2) / sqrt(2 pi), the last product added by a fused multiply-add.
#[inline(always)]
pub fn gelu_derivative<T: Real>(x: T) -> T {
    let cdf = T::HALF * (T::ONE + Real::erf(x * T::FRAC_1_SQRT_2));
    let pdf = (T::HALF * T::FRAC_2_SQRT_PI * T::FRAC_1_SQRT_2) * Real::exp(x * x * -T::HALF);
    Real::mul_add(x, pdf, cdf)
}

crate::stamp! {
    /// y = y + x.
    pub fn add_assign<T: Real>(x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += x;
        }
    }

    /// y = y alpha.
    pub fn scale<T: Real>(alpha: T, y: &mut [T]) {
        for y in y {
            *y *= alpha;
        }
    }

    /// y = alpha x + y, one fused multiply-add per element.
    pub fn axpy<T: Real>(alpha: T, x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = Real::mul_add(alpha, x, *y);
        }
    }

    /// y = a b + c, one fused multiply-add per element.
    pub fn mul_add<T: Real>(a: &[T], b: &[T], c: &[T], y: &mut [T]) {
        for (((y, &a), &b), &c) in y.iter_mut().zip(a).zip(b).zip(c) {
            *y = Real::mul_add(a, b, c);
        }
    }

    /// y = low where x < low, high where x > high, otherwise x; NaN for NaN.
    pub fn clamp<T: Real>(low: T, high: T, x: &[T], y: &mut [T]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = Real::clamp(x, low, high);
        }
    }

    /// y = a where the mask is not 0, otherwise b.
    pub fn select<T: Real>(mask: &[u8], a: &[T], b: &[T], y: &mut [T]) {
        for (((y, &mask), &a), &b) in y.iter_mut().zip(mask).zip(a).zip(b) {
            *y = if mask != 0 { a } else { b };
        }
    }
}
