//! The error of the element functions: f32 against f64 by survey, f64 against the platform's libm and identities.

use proptest::prelude::*;
use selfsame_kernels::elementwise::Unary;
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::{self, Real};
use selfsame_kernels::survey::ulp_survey;

/// The bounds that `NUMERICS.md` states for f32, over all inputs.
fn bound(op: Unary) -> f64 {
    match op {
        Unary::Neg | Unary::Abs | Unary::Sign | Unary::Floor | Unary::Relu => 0.0,
        Unary::Recip | Unary::Square | Unary::Sqrt => 0.5,
        Unary::Exp | Unary::Log | Unary::Log1p => 1.0,
        // Below -1 the cancellation in 1 + erf is part of its definition.
        Unary::Gelu => f64::INFINITY,
        _ => 2.0,
    }
}

#[test]
fn f32_functions_keep_their_bounds_over_a_sample_of_all_inputs() {
    // A prime stride visits every exponent and a spread of significands.
    const STRIDE: u64 = 4001;
    for &op in Unary::ALL {
        let survey = ulp_survey(Isa::detect(), op, 0..1 << 32, STRIDE);
        assert!(survey.max_ulp <= bound(op), "{}: {survey:?}", op.name());
        assert_eq!(survey.inputs, (1u64 << 32).div_ceil(STRIDE));
    }
}

#[test]
fn gelu_is_accurate_to_the_size_of_its_input() {
    for i in -8000..8000 {
        let x = i as f32 / 1000.0;
        let exact = Unary::Gelu.apply(f64::from(x));
        assert!((f64::from(Unary::Gelu.apply(x)) - exact).abs() <= 2.0 * f64::from(f32::EPSILON) * f64::from(x.abs()));
    }
}

/// |y - oracle| in units in the last place of the oracle.
fn ulps(y: f64, oracle: f64) -> f64 {
    if y.to_bits() == oracle.to_bits() || (y.is_nan() && oracle.is_nan()) {
        return 0.0;
    }
    let magnitude = oracle.abs().max(f64::MIN_POSITIVE);
    (y - oracle).abs() / (f64::from_bits(magnitude.to_bits() & (0x7ff << 52)) * f64::EPSILON)
}

/// Numbers of every size: uniform on a few ranges, and random bits.
fn any_f64() -> impl Strategy<Value = f64> {
    prop_oneof![-1.0..1.0, -20.0..20.0, -750.0..750.0, -1e5..1e5, any::<u64>().prop_map(f64::from_bits)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    // The platform's functions err by less than 1 ulp themselves.
    #[test]
    fn f64_functions_agree_with_the_platform(x in any_f64(), y in -40.0..40.0f64) {
        for (name, ours, theirs) in [
            ("exp", math::f64::exp(x), x.exp()),
            ("expm1", math::f64::expm1(x), x.exp_m1()),
            ("log", math::f64::log(x), x.ln()),
            ("log1p", math::f64::log1p(x), x.ln_1p()),
            ("tanh", math::f64::tanh(x), x.tanh()),
            ("sin", math::f64::sin(x), x.sin()),
            ("cos", math::f64::cos(x), x.cos()),
            ("pow", math::f64::pow(x, y), x.powf(y)),
        ] {
            prop_assert!(ulps(ours, theirs) <= 3.0, "{name}({x:e}, {y:e}) = {ours:e}, not {theirs:e}");
        }
    }

    #[test]
    fn f32_pow_is_almost_always_the_nearest(x in 0f32..1e10, y in -30f32..30.0) {
        let exact = f64::from(x).powf(f64::from(y));
        let ours = math::f32::pow(x, y);
        let close = (f64::from(ours) - exact).abs() <= 0.51 * f64::from(f32::EPSILON) * exact.abs();
        prop_assert!(ours == exact as f32 || close);
    }

    #[test]
    fn identities_hold_in_f64(x in -5.0..5.0f64) {
        prop_assert!((math::f64::sigmoid(x) + math::f64::sigmoid(-x) - 1.0).abs() <= 4.0 * f64::EPSILON);
        prop_assert!((math::f64::softplus(x) - math::f64::softplus(-x) - x).abs() <= 4.0 * f64::EPSILON * 5.0);
        prop_assert_eq!(math::f64::erf(-x).to_bits(), (-math::f64::erf(x)).to_bits());
    }

    // erf' = 2 / sqrt(pi) e^(-x^2): the five-point rule, whose error here is below 1e-11.
    #[test]
    fn erf_has_the_gaussian_as_derivative(x in -4.0..4.0f64) {
        let h = 1e-3;
        let e = math::f64::erf;
        let slope = (8.0 * (e(x + h) - e(x - h)) - (e(x + 2.0 * h) - e(x - 2.0 * h))) / (12.0 * h);
        prop_assert!((slope - f64::FRAC_2_SQRT_PI * math::f64::exp(-x * x)).abs() < 1e-11);
    }
}

/// erf at a few places (NIST Digital Library of Mathematical Functions, and Abramowitz and Stegun table 7.1).
#[test]
fn erf_matches_tables() {
    for (x, value) in [(0.5, 0.520499877813), (1.0, 0.842700792950), (2.0, 0.995322265019)] {
        assert!((math::f64::erf(x) - value).abs() < 5e-13);
    }
}

#[test]
fn special_values() {
    use math::f32::*;
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    let same = |a: f32, b: f32| Real::canonical_bits(a) == Real::canonical_bits(b);
    for (got, want) in [
        (exp(inf), inf),
        (exp(-inf), 0.0),
        (exp(nan), nan),
        (exp(0.0), 1.0),
        (exp(-0.0), 1.0),
        (expm1(-0.0), -0.0),
        (expm1(inf), inf),
        (expm1(-inf), -1.0),
        (log(0.0), -inf),
        (log(-0.0), -inf),
        (log(-1.0), nan),
        (log(inf), inf),
        (log(1.0), 0.0),
        (log(nan), nan),
        (log1p(-0.0), -0.0),
        (log1p(-1.0), -inf),
        (log1p(-2.0), nan),
        (log1p(inf), inf),
        (tanh(-0.0), -0.0),
        (tanh(inf), 1.0),
        (tanh(-inf), -1.0),
        (tanh(nan), nan),
        (sigmoid(inf), 1.0),
        (sigmoid(-inf), 0.0),
        (sigmoid(0.0), 0.5),
        (sigmoid(nan), nan),
        (softplus(inf), inf),
        (softplus(-inf), 0.0),
        (softplus(nan), nan),
        (erf(-0.0), -0.0),
        (erf(inf), 1.0),
        (erf(-inf), -1.0),
        (erf(nan), nan),
        (sin(-0.0), -0.0),
        (sin(inf), nan),
        (cos(-inf), nan),
        (cos(0.0), 1.0),
        (sin(nan), nan),
        (relu(-0.0), 0.0),
        (relu(nan), nan),
        (relu(-inf), 0.0),
        (sign(-0.0), -0.0),
        (sign(-3.0), -1.0),
        (min(nan, 1.0), nan),
        (min(1.0, nan), nan),
        (max(nan, 1.0), nan),
        (max(1.0, nan), nan),
        (min(-0.0, 0.0), -0.0),
        (min(0.0, -0.0), 0.0),
        (max(-0.0, 0.0), -0.0),
        (max(0.0, -0.0), 0.0),
        (clamp(nan, 0.0, 1.0), nan),
        (clamp(-2.0, -1.0, 1.0), -1.0),
        (clamp(2.0, -1.0, 1.0), 1.0),
        (sqrt(-0.0), -0.0),
        (sqrt(-1.0), nan),
        (rsqrt(0.0), inf),
    ] {
        assert!(same(got, want), "{got} is not {want}");
    }
}

/// Every case of IEEE-754 `pow`, against the platform's.
#[test]
fn pow_has_the_special_cases_of_ieee_754() {
    let values = [
        0.0,
        -0.0,
        0.5,
        -0.5,
        1.0,
        -1.0,
        2.0,
        -2.0,
        3.0,
        -3.0,
        2.5,
        -2.5,
        1e300,
        -1e300,
        5e-324,
        -5e-324,
        9007199254740993.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    for x in values {
        for y in values {
            let (ours, theirs) = (math::f64::pow(x, y), x.powf(y));
            assert!(ulps(ours, theirs) <= 2.0, "pow({x}, {y}) = {ours}, not {theirs}");
            let (ours, theirs) = (math::f32::pow(x as f32, y as f32), (x as f32).powf(y as f32));
            let equal = Real::canonical_bits(ours) == Real::canonical_bits(theirs);
            let close = (ours - theirs).abs() <= 2.0 * f32::EPSILON * theirs.abs();
            assert!(equal || close, "pow({x}, {y}) = {ours}, not {theirs} (f32)");
        }
    }
}
