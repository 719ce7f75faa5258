//! The error function: x + x q(x^2) near 0, 1 - exp(p(|x|)) elsewhere.

use super::Real;

#[inline(always)]
pub(super) fn erf<T: Real>(x: T) -> T {
    let a = x.abs();
    let near = a.mul_add(T::erf_q(x * x), a);
    let capped = if a > T::ERF_SATURATED { T::ERF_SATURATED } else { a };
    let far = T::ONE - T::erfc_log(capped).exp();
    let y = if a < T::from_f64(0.921875) { near } else { far };
    y.copysign(x)
}
