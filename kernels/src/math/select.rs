//! Minimum, maximum and their kin as selects: the standard ones leave the sign of zero open.

use super::Real;

#[inline(always)]
pub(super) fn min<T: Real>(a: T, b: T) -> T {
    if (b < a) | b.is_nan() { b } else { a }
}

#[inline(always)]
pub(super) fn max<T: Real>(a: T, b: T) -> T {
    if (b > a) | b.is_nan() { b } else { a }
}

#[inline(always)]
pub(super) fn relu<T: Real>(x: T) -> T {
    if x <= T::ZERO { T::ZERO } else { x }
}

#[inline(always)]
pub(super) fn clamp<T: Real>(x: T, low: T, high: T) -> T {
    let raised = if x < low { low } else { x };
    if raised > high { high } else { raised }
}

#[inline(always)]
pub(super) fn sign<T: Real>(x: T) -> T {
    if x > T::ZERO {
        T::ONE
    } else if x < T::ZERO {
        -T::ONE
    } else {
        x
    }
}
