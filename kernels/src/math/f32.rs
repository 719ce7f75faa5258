//! Coefficients of the f32 functions, and the functions by name.
//!
//! Polynomials: weighted least squares on Chebyshev nodes in 60 digits, the weight being the coefficient's share in
//! the relative error of the function; coefficients are rounded one after the other, lowest degree first, and the
//! rest fitted again. The note beside each is the largest weighted error of the rounded polynomial.

use super::real::named_functions;
#[cfg(target_arch = "x86_64")]
use super::table::ExpFma;
use super::table::{Table, horner, table_bit_operations};

/// [`Table::exp_q`]; 2^-31.0.
pub(crate) const EXP_Q: [f32; 6] = [0.5, 0.16666667, 0.041666478, 0.008333191, 0.0013933693, 0.00019959324];

impl Table for f32 {
    const SHIFT: f32 = 12582912.0;
    const LOG2_E: f32 = core::f32::consts::LOG2_E;
    // 16 bits: n has at most 8.
    const LN2_HI: f32 = 0.69314575;
    const LN2_LO: f32 = 1.4286068e-6;
    const EXP_OVERFLOW: f32 = 89.0;
    const EXP_UNDERFLOW: f32 = -104.0;
    const EXPM1_SATURATED: f32 = -18.0;
    const SUBNORMAL_SCALE: f32 = 8388608.0;
    const SUBNORMAL_EXPONENT: f32 = 23.0;
    const ERF_SATURATED: f32 = 4.0;
    const TWO_OVER_PI: f32 = core::f32::consts::FRAC_2_PI;
    const PI_OVER_2: [f32; 3] = [core::f32::consts::FRAC_PI_2, -4.371139e-8, -1.7151245e-15];
    const ANGLE_MODERATE: f32 = 131072.0;

    #[cfg(target_arch = "x86_64")]
    const EXP_FMA_AVX512: Option<ExpFma<f32>> = Some(crate::lanes::exponential::avx512::exp_fma);

    #[inline(always)]
    fn exp_q(r: f32) -> f32 {
        let [c0, c1, c2, c3, c4, c5] = EXP_Q;
        horner!(r; c0, c1, c2, c3, c4, c5)
    }

    // 2^-30.1
    #[inline(always)]
    fn log_q(f: f32) -> f32 {
        horner!(f; 0.3333331, -0.25000015, 0.20002227, -0.16667727, 0.1421756, -0.12409741, 0.11905452, -0.11655238,
            0.06684166)
    }

    // 2^-31.5
    #[inline(always)]
    fn tanh_q(z: f32) -> f32 {
        horner!(z; -0.3333333, 0.13333227, -0.05394915, 0.021711396, -0.008194299, 0.002145727)
    }

    // 2^-30.1
    #[inline(always)]
    fn erf_q(z: f32) -> f32 {
        horner!(z; 0.12837917, -0.3761263, 0.11283626, -0.02685573, 0.0051923925, -0.0008049515, 7.9950485e-5)
    }

    // 2^-33.5
    #[inline(always)]
    fn erfc_log(x: f32) -> f32 {
        horner!(x; 0.00017518627, -1.1295173, -0.63334215, -0.10828525, 0.025122708, -0.004172284, 0.00043470782,
            -2.1115342e-5)
    }

    // 2^-32.5
    #[inline(always)]
    fn sin_q(z: f32) -> f32 {
        horner!(z; -0.16666667, 0.008333379, -0.00019853064, 2.83251e-6)
    }

    // 2^-37.0
    #[inline(always)]
    fn cos_q(z: f32) -> f32 {
        horner!(z; 0.041666668, -0.001388898, 2.4822008e-5, -2.8878452e-7)
    }

    // The f64 functions leave 29 bits to spare, more than y log|x| < 2^7 can lose.
    #[inline(always)]
    fn pow(x: f32, y: f32) -> f32 {
        super::pow::pow_f32(x, y)
    }

    table_bit_operations!(f32, u32, i32, 23, 127, 0x3f3504f3);
}

named_functions!(f32);
