//! What differs between f32 and f64: constants, polynomials and the layout of the bits.

/// y = e^fma(x, scale, -shift): x, scale, shift, y, and the number of elements there are at x and y.
#[cfg(not(target_arch = "nvptx64"))]
pub(crate) type ExpFma<T> = unsafe fn(*const T, T, T, *mut T, usize);

/// Constants and bit operations of one floating-point format. Sealed: implemented for f32 and f64 only.
///
/// A *shifted integer* is `SHIFT + n` for an integer `n` of moderate size: adding `SHIFT` rounds to the nearest
/// integer (ties to even), which then stands in the low bits of the significand.
pub trait Table: Copy {
    /// 1.5 * 2^(significand bits): see above.
    const SHIFT: Self;
    /// 1 / ln 2.
    const LOG2_E: Self;
    /// The leading bits of ln 2, few enough that n LN2_HI is exact for every exponent n.
    const LN2_HI: Self;
    /// ln 2 - LN2_HI.
    const LN2_LO: Self;
    /// exp overflows from here on (a little beyond the true bound).
    const EXP_OVERFLOW: Self;
    /// exp rounds to +0 from here down.
    const EXP_UNDERFLOW: Self;
    /// expm1 rounds to -1 from here down.
    const EXPM1_SATURATED: Self;
    /// Two to the number of stored significand bits, to bring subnormal numbers into the normal range.
    const SUBNORMAL_SCALE: Self;
    /// The exponent of [`Table::SUBNORMAL_SCALE`].
    const SUBNORMAL_EXPONENT: Self;
    /// |erf| rounds to 1 from here on.
    const ERF_SATURATED: Self;
    /// 2 / pi.
    const TWO_OVER_PI: Self;
    /// pi / 2 in three parts, each the rest rounded to this format.
    const PI_OVER_2: [Self; 3];
    /// Largest |x| for which sine and cosine reduce by the three parts of pi / 2.
    const ANGLE_MODERATE: Self;

    /// Written by hand for AVX-512: see [`crate::lanes`].
    #[cfg(not(target_arch = "nvptx64"))]
    const EXP_FMA_AVX512: Option<ExpFma<Self>> = None;

    /// (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2.
    fn exp_q(r: Self) -> Self;
    /// (log(1 + f) - f + f^2 / 2) / f^3 on sqrt(1/2) - 1 <= f <= sqrt(2) - 1.
    fn log_q(f: Self) -> Self;
    /// (tanh(x) - x) / x^3 as a function of z = x^2, |x| <= 0.55.
    fn tanh_q(z: Self) -> Self;
    /// erf(x) / x - 1 as a function of z = x^2, |x| <= 0.921875.
    fn erf_q(z: Self) -> Self;
    /// log(1 - erf(x)) on 0.921875 <= x <= ERF_SATURATED.
    fn erfc_log(x: Self) -> Self;
    /// (sin(r) - r) / r^3 as a function of z = r^2, |r| <= pi / 4.
    fn sin_q(z: Self) -> Self;
    /// (cos(r) - 1 + r^2 / 2) / r^4 as a function of z = r^2, |r| <= pi / 4.
    fn cos_q(z: Self) -> Self;

    /// p 2^n for the shifted integer n, as two products with powers of two, so that a subnormal result is rounded
    /// once and an overflow gives infinity.
    fn scale(p: Self, shifted: Self) -> Self;
    /// 2^(n-1) for the shifted integer n, where that is a normal number.
    fn half_pow2(shifted: Self) -> Self;
    /// Bit `bit` of the shifted integer (two's complement).
    fn integer_bit(shifted: Self, bit: u32) -> bool;
    /// x = m 2^k with sqrt(1/2) <= m < sqrt(2), for positive normal x.
    fn split_exponent(x: Self) -> (Self, Self);
    /// |x| = significand 2^exponent with an integer significand, for finite normal x.
    fn integer_parts(x: Self) -> (u64, i32);
    /// x^y.
    fn pow(x: Self, y: Self) -> Self;
}

/// c0 + z (c1 + z (c2 + …)), each step one fused multiply-add.
macro_rules! horner {
    ($z:expr; $c:expr $(,)?) => { $c };
    ($z:expr; $c:expr, $($rest:expr),+ $(,)?) => {
        $crate::math::Real::mul_add($z, horner!($z; $($rest),+), $c)
    };
}
pub(super) use horner;

/// The bit operations of [`Table`], the same for both formats up to widths.
macro_rules! table_bit_operations {
    ($float:ident, $bits:ident, $signed:ident, $significand:literal, $bias:literal, $sqrt_half:literal) => {
        #[inline(always)]
        fn scale(p: $float, shifted: $float) -> $float {
            let n = shifted.to_bits().wrapping_sub(Self::SHIFT.to_bits()) as $signed;
            let first = n >> 1;
            let pow2 = |n: $signed| <$float>::from_bits((n.wrapping_add($bias) as $bits) << $significand);
            (p * pow2(first)) * pow2(n.wrapping_sub(first))
        }

        #[inline(always)]
        fn half_pow2(shifted: $float) -> $float {
            let n = shifted.to_bits().wrapping_sub(Self::SHIFT.to_bits());
            <$float>::from_bits(n.wrapping_add($bias - 1) << $significand)
        }

        #[inline(always)]
        fn integer_bit(shifted: $float, bit: u32) -> bool {
            (shifted.to_bits() >> bit) & 1 == 1
        }

        #[inline(always)]
        fn split_exponent(x: $float) -> ($float, $float) {
            // The bits of sqrt(1/2), rounded up: subtracting them moves the exponent's carry to m >= sqrt(1/2).
            const SQRT_HALF: $bits = $sqrt_half;
            let moved = x.to_bits().wrapping_sub(SQRT_HALF);
            let exponent = ((moved as $signed) >> $significand) as $bits;
            let k = <$float>::from_bits(Self::SHIFT.to_bits().wrapping_add(exponent)) - Self::SHIFT;
            let m = <$float>::from_bits((moved & ((1 << $significand) - 1)).wrapping_add(SQRT_HALF));
            (k, m)
        }

        #[inline(always)]
        fn integer_parts(x: $float) -> (u64, i32) {
            let magnitude = x.to_bits() & ($bits::MAX >> 1);
            let significand = (magnitude & ((1 << $significand) - 1)) | (1 << $significand);
            (u64::from(significand), (magnitude >> $significand) as i32 - $bias - $significand)
        }
    };
}
pub(super) use table_bit_operations;
