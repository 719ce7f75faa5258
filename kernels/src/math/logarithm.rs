//! log and log1p: x = 2^k (1 + f) with sqrt(1/2) <= 1 + f < sqrt(2), log x = k ln 2 + f - f^2 / 2 + f^3 q(f).

use super::Real;

/// k ln 2 + log(1 + f) + c, the small terms first.
#[inline(always)]
fn assemble<T: Real>(k: T, f: T, c: T) -> T {
    let bend = f.mul_add(T::log_q(f), -T::HALF);
    let low = (f * f).mul_add(bend, k.mul_add(T::LN2_LO, c));
    k.mul_add(T::LN2_HI, f + low)
}

#[inline(always)]
pub(super) fn log<T: Real>(x: T) -> T {
    let subnormal = x < T::MIN_POSITIVE;
    let normal = if subnormal { x * T::SUBNORMAL_SCALE } else { x };
    let (k, m) = T::split_exponent(normal);
    let k = if subnormal { k - T::SUBNORMAL_EXPONENT } else { k };
    edges(x, assemble(k, m - T::ONE, T::ZERO))
}

/// With u = 1 + x rounded, log u plus the rounding's share (1 + x - u) / u.
#[inline(always)]
pub(super) fn log1p<T: Real>(x: T) -> T {
    let u = T::ONE + x;
    let (k, m) = T::split_exponent(u);
    let lost = if x < T::ONE { x - (u - T::ONE) } else { T::ONE - (u - x) };
    let whole = k == T::ZERO;
    let f = if whole { x } else { m - T::ONE };
    let c = if whole { T::ZERO } else { lost / u };
    let y = edges(u, assemble(k, f, c));
    if x == T::ZERO { x } else { y }
}

/// log at the ends of its domain: -inf at 0, NaN below, x itself at infinity and NaN; `y` everywhere else.
#[inline(always)]
fn edges<T: Real>(x: T, y: T) -> T {
    let y = if x == T::ZERO { T::NEG_INFINITY } else { y };
    let y = if x < T::ZERO { T::NAN } else { y };
    if (x == T::INFINITY) | x.is_nan() { x } else { y }
}
