//! sin and cos: x = n pi / 2 + r with |r| <= pi / 4, then a polynomial in r^2 chosen by n mod 4.
//!
//! Up to `ANGLE_MODERATE` the multiple of pi / 2 is subtracted in three parts by fused multiply-adds (Cody and
//! Waite); beyond, x 2/pi modulo 4 is formed in integers from a long enough stretch of 2/pi (Payne and Hanek).

use super::Real;

/// 64 zero bits, then the first 1280 binary digits of 2/pi after the point.
const TWO_OVER_PI_BITS: [u64; 21] = [
    0,
    0xa2f9836e4e441529,
    0xfc2757d1f534ddc0,
    0xdb6295993c439041,
    0xfe5163abdebbc561,
    0xb7246e3a424dd2e0,
    0x06492eea09d1921c,
    0xfe1deb1cb129a73e,
    0xe88235f52ebb4484,
    0xe99c7026b45f7e41,
    0x3991d639835339f4,
    0x9c845f8bbdf9283b,
    0x1ff897ffde05980f,
    0xef2f118b5a0a6d1f,
    0x6d367ecf27cb09b7,
    0x4f463f669e5fea2d,
    0x7527bac7ebe5f17b,
    0x3d0739f78a5292ea,
    0x6bfb5fb11f8d5d08,
    0x56033046fc7b6bab,
    0xf0cfbc209af4361d,
];

/// Whether [`sin_moderate`] and [`cos_moderate`] hold for x.
#[inline(always)]
pub(crate) fn is_moderate<T: Real>(x: T) -> bool {
    x.abs() <= T::ANGLE_MODERATE
}

#[inline(always)]
pub(super) fn sin<T: Real>(x: T) -> T {
    if is_moderate(x) { sin_moderate(x) } else { sin_huge(x) }
}

#[inline(always)]
pub(super) fn cos<T: Real>(x: T) -> T {
    if is_moderate(x) { cos_moderate(x) } else { cos_huge(x) }
}

/// The sine of |x| <= `ANGLE_MODERATE`, branch-free.
#[inline(always)]
pub(crate) fn sin_moderate<T: Real>(x: T) -> T {
    let (r, n) = reduce(x);
    let y = quarter_turns(r, T::integer_bit(n, 0), T::integer_bit(n, 1));
    if x == T::ZERO { x } else { y }
}

/// The cosine of |x| <= `ANGLE_MODERATE`, branch-free: the sine, one quarter turn on.
#[inline(always)]
pub(crate) fn cos_moderate<T: Real>(x: T) -> T {
    let (r, n) = reduce(x);
    let (low, high) = (T::integer_bit(n, 0), T::integer_bit(n, 1));
    quarter_turns(r, !low, low ^ high)
}

/// (r, n) with n as a shifted integer.
#[inline(always)]
fn reduce<T: Real>(x: T) -> (T, T) {
    let shifted = x.mul_add(T::TWO_OVER_PI, T::SHIFT);
    let n = shifted - T::SHIFT;
    let [first, second, third] = T::PI_OVER_2;
    let r = n.mul_add(-third, n.mul_add(-second, n.mul_add(-first, x)));
    (r, shifted)
}

/// sin(r + q pi / 2), where `odd` and `upper` are bits 0 and 1 of q.
#[inline(always)]
fn quarter_turns<T: Real>(r: T, odd: bool, upper: bool) -> T {
    let z = r * r;
    let sine = (r * z).mul_add(T::sin_q(z), r);
    let cosine = (z * z).mul_add(T::cos_q(z), z.mul_add(-T::HALF, T::ONE));
    let y = if odd { cosine } else { sine };
    if upper { -y } else { y }
}

#[cold]
fn sin_huge<T: Real>(x: T) -> T {
    if !x.is_finite() {
        return T::NAN;
    }
    let (r, q) = reduce_huge(x.abs());
    let y = quarter_turns(r, q & 1 == 1, q & 2 == 2);
    if x < T::ZERO { -y } else { y }
}

#[cold]
fn cos_huge<T: Real>(x: T) -> T {
    if !x.is_finite() {
        return T::NAN;
    }
    let (r, q) = reduce_huge(x.abs());
    let q = q + 1;
    quarter_turns(r, q & 1 == 1, q & 2 == 2)
}

/// (r, n mod 4) for finite x of at least 1.
///
/// x = M 2^e. Digits of 2/pi with weight 2^(2-e) and above contribute multiples of 4 and are left out; 192 digits
/// from there on leave an error below 2^-136 quarter turns, where the closest double to a multiple of pi / 2 is
/// about 2^-62 away.
fn reduce_huge<T: Real>(x: T) -> (T, u32) {
    let (significand, exponent) = T::integer_parts(x);
    let start = (exponent + 62) as usize;
    let (word, shift) = (start / 64, start % 64);
    let digits = |i: usize| {
        let pair = (u128::from(TWO_OVER_PI_BITS[word + i]) << 64) | u128::from(TWO_OVER_PI_BITS[word + i + 1]);
        ((pair << shift) >> 64) as u64
    };
    let product = |i: usize| u128::from(significand) * u128::from(digits(i));
    let low = product(2);
    let middle = product(1) + (low >> 64);
    let high = (product(0) + (middle >> 64)) as u64;

    // Two bits of whole quarter turns, then the fraction, read as a signed number in [-1/2, 1/2).
    let top = (u128::from(high) << 64) | u128::from(middle as u64);
    let fraction = ((top << 2) | u128::from((low as u64) >> 62)) as i128;
    let n = (high >> 62) as u32 + u32::from(fraction < 0);
    const QUARTER_TURN: f64 = core::f64::consts::FRAC_PI_2 / (u64::MAX as f64) / (u64::MAX as f64); // pi / 2 * 2^-128
    let magnitude = nearest_f64(fraction.unsigned_abs());
    (T::from_f64(if fraction < 0 { -magnitude } else { magnitude } * QUARTER_TURN), n)
}

/// The nearest f64. Written out, since devices have no conversion from 128 bits: the leading 64 bits, the last of them
/// standing for all that follow, round as the whole does.
fn nearest_f64(x: u128) -> f64 {
    let unused = x.leading_zeros().min(127);
    let leading = x << unused;
    let sticky = u64::from(leading as u64 != 0);
    let scale = f64::from_bits(u64::from(1023 + 64 - unused) << 52);
    ((leading >> 64) as u64 | sticky) as f64 * scale
}

#[cfg(test)]
mod tests {
    use super::nearest_f64;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn wide_integers_round_as_the_language_rounds_them(x in any::<u128>(), shift in 0u32..128, ones in 0u32..128) {
            for x in [x >> shift, x & !(u128::MAX >> shift), u128::MAX >> ones, 1 << shift, (1 << shift) - 1] {
                prop_assert_eq!(nearest_f64(x), x as f64);
            }
        }
    }
}
