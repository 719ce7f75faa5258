//! exp, expm1, tanh, sigmoid, softplus.
//!
//! x = n ln 2 + r with |r| <= ln 2 / 2; ln 2 is subtracted in two parts, the first product being exact.

use super::Real;

/// (r, n) with n as a shifted integer, for x of moderate size.
#[inline(always)]
fn reduce<T: Real>(x: T) -> (T, T) {
    let shifted = x.mul_add(T::LOG2_E, T::SHIFT);
    let n = shifted - T::SHIFT;
    let r = n.mul_add(-T::LN2_LO, n.mul_add(-T::LN2_HI, x));
    (r, shifted)
}

/// The clamp lets NaN through.
#[inline(always)]
pub(super) fn exp<T: Real>(x: T) -> T {
    let (r, n) = reduce(x.clamp(T::EXP_UNDERFLOW, T::EXP_OVERFLOW));
    let p = (r * r).mul_add(T::exp_q(r), r) + T::ONE;
    T::scale(p, n)
}

/// 2^n (e^r - 1) + (2^n - 1), halved inside so that n = 1 + the largest exponent stays finite.
#[inline(always)]
pub(super) fn expm1<T: Real>(x: T) -> T {
    let (r, n) = reduce(x.clamp(T::EXPM1_SATURATED, T::EXP_OVERFLOW));
    let p = (r * r).mul_add(T::exp_q(r), r);
    let half = T::half_pow2(n);
    let y = T::TWO * p.mul_add(half, half - T::HALF);
    if x == T::ZERO { x } else { y }
}

/// x + x^3 q(x^2) near 0, 1 - 2 / (e^(2|x|) + 1) elsewhere.
#[inline(always)]
pub(super) fn tanh<T: Real>(x: T) -> T {
    let a = x.abs();
    let z = x * x;
    let near = (a * z).mul_add(T::tanh_q(z), a);
    let far = T::ONE - T::TWO / (exp(a + a) + T::ONE);
    let y = if a < T::from_f64(0.55) { near } else { far };
    y.copysign(x)
}

/// With e = e^-|x| and d = 1 + e: q = 1 / d for x >= 0, q = e / d below, so that small results keep their accuracy;
/// then q less q times the part of e lost in d, relative to d (1 / d is q above 0 and about 1 - q below).
#[inline(always)]
pub(super) fn sigmoid<T: Real>(x: T) -> T {
    let e = exp(-x.abs());
    let d = T::ONE + e;
    let lost = e - (d - T::ONE);
    let positive = x >= T::ZERO;
    let q = if positive { T::ONE } else { e } / d;
    let reciprocal = if positive { q } else { T::ONE - q };
    (-q * lost).mul_add(reciprocal, q)
}

/// relu(x) + log1p(e^-|x|).
#[inline(always)]
pub(super) fn softplus<T: Real>(x: T) -> T {
    x.relu() + exp(-x.abs()).log1p()
}
