//! x^y = exp(y log|x|) with the special cases of IEEE-754 `pow`.

use super::Real;
use super::table::{Table, horner};

/// Through the f64 functions; one rounding to f32 at the end.
#[inline(always)]
pub(super) fn pow_f32(x: f32, y: f32) -> f32 {
    let log = Real::log(f64::from(Real::abs(x)));
    edges(x, y, Real::exp(f64::from(y) * log) as f32)
}

/// With log|x| as an unevaluated sum of two doubles.
#[inline(always)]
pub(super) fn pow_f64(x: f64, y: f64) -> f64 {
    let (high, low) = log_double(Real::abs(x));
    let product = y * high;
    let rest = Real::mul_add(y, high, -product) + y * low;
    let e = Real::exp(product);
    // Where the exponential is 0, infinite or NaN, or the rest lost its meaning, there is nothing to correct.
    let corrected = Real::mul_add(e, rest, e);
    edges(x, y, if Real::is_finite(corrected) & (Real::abs(rest) < 1.0) { corrected } else { e })
}

/// log x for x >= 0 as high + low, about 2^-66 relative to the larger of |high| and 2^-10.
///
/// With s = (m - 1) / (m + 1): log m = 2 s + 2/3 s^3 + s^5 t(s^2); the first two terms carry their rounding errors.
#[inline(always)]
fn log_double(x: f64) -> (f64, f64) {
    let subnormal = x < f64::MIN_POSITIVE;
    let normal = if subnormal { x * f64::SUBNORMAL_SCALE } else { x };
    let (k, m) = f64::split_exponent(normal);
    let k = if subnormal { k - f64::SUBNORMAL_EXPONENT } else { k };

    // s = (m - 1) / (m + 1): the numerator is exact, the denominator a sum of two.
    let f = m - 1.0;
    let denominator = m + 1.0;
    let denominator_low = m - (denominator - 1.0);
    let s = f / denominator;
    let s_low = (Real::mul_add(-s, denominator, f) - s * denominator_low) / denominator;

    // 2/3 s^3 as a pair.
    const TWO_THIRDS: f64 = 2.0 / 3.0;
    const TWO_THIRDS_LOW: f64 = 3.700743415417188e-17;
    let z = s * s;
    let z_low = Real::mul_add(s, s, -z) + 2.0 * s * s_low;
    let cube = z * s;
    let cube_low = Real::mul_add(z, s, -cube) + (z * s_low + z_low * s);
    let third = TWO_THIRDS * cube;
    let third_low = Real::mul_add(TWO_THIRDS, cube, -third) + (TWO_THIRDS * cube_low + TWO_THIRDS_LOW * cube);

    // The rest of the series: 2/5 + 2/7 z + … in s^5.
    let tail = horner!(z; 2.0 / 5.0, 2.0 / 7.0, 2.0 / 9.0, 2.0 / 11.0, 2.0 / 13.0, 2.0 / 15.0,
        2.0 / 17.0, 2.0 / 19.0, 2.0 / 21.0, 2.0 / 23.0, 2.0 / 25.0, 2.0 / 27.0)
        * (z * cube);

    let (sum, error_1) = two_sum(k * f64::LN2_HI, 2.0 * s);
    let (sum, error_2) = two_sum(sum, third);
    let low = error_1 + (error_2 + (third_low + (2.0 * s_low + Real::mul_add(k, f64::LN2_LO, tail))));
    let high = sum + low;
    let low = low - (high - sum);

    // At the ends the logarithm of the plain function, with nothing below it.
    let plain = Real::log(x);
    if Real::is_finite(plain) { (high, low) } else { (plain, 0.0) }
}

/// a + b as a rounded sum and its error (Knuth).
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let part = sum - a;
    (sum, (a - (sum - part)) + (b - part))
}

/// The cases in which |x|^y from the exponential is not yet the answer.
#[inline(always)]
fn edges<T: Real>(x: T, y: T, magnitude: T) -> T {
    let whole = y.floor() == y;
    let odd = whole & ((y * T::HALF).floor() * T::TWO != y);
    // -1 to an infinite power is 1: the exponential saw 0 times infinity.
    let magnitude = if (x.abs() == T::ONE) & !y.is_nan() { T::ONE } else { magnitude };
    let signed = if odd { magnitude.copysign(x) } else { magnitude };
    // A negative finite number has a real power only for whole y.
    let value = if (x < T::ZERO) & x.is_finite() & !whole { T::NAN } else { signed };
    if (y == T::ZERO) | (x == T::ONE) { T::ONE } else { value }
}
