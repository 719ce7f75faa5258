//! Updates of an array in place.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::Case;
use crate::device::run::{EACH, RUN, THREADS, each};
use crate::kernel;
use crate::math::Real;
use crate::simt::*;

kernel! {
    /// y = y + x.
    add_assign(x: In<f32>[n], y: InOut<f32>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: n }
    cases add_assign_cases
    {
        each::<EACH, _>(n, |i| (x.get(i), y.get(i)), |i, (x_i, y_i)| y.set(i, y_i + x_i));
    }

    /// y = alpha x + y, one fused multiply-add per element.
    axpy(alpha: f32, x: In<f32>[n], y: InOut<f32>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: 2 * n }
    cases axpy_cases
    {
        each::<EACH, _>(n, |i| (x.get(i), y.get(i)), |i, (x_i, y_i)| y.set(i, Real::mul_add(alpha, x_i, y_i)));
    }

    /// y = y alpha.
    scale(alpha: f32, y: InOut<f32>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost { flop: n }
    cases scale_cases
    {
        each::<EACH, _>(n, |i| y.get(i), |i, y_i| y.set(i, y_i * alpha));
    }
}

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[&add_assign::SPEC, &axpy::SPEC, &scale::SPEC];

#[cfg(not(target_arch = "nvptx64"))]
use cases::{add_assign_cases, axpy_cases, scale_cases};

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::{change, exactly};
    use crate::device::run::cases::{SIZES, pairs};

    pub(super) fn add_assign_cases() -> Vec<Case> {
        SIZES
            .map(|n| {
                let (x, y) = pairs(n, 1);
                let after = x.iter().zip(&y).map(|(x, y)| y + x).collect();
                add_assign::TestCase { x, y: change(y, exactly(after)), n: n as u32 }.named(format!("{n} elements"))
            })
            .into()
    }

    pub(super) fn axpy_cases() -> Vec<Case> {
        SIZES
            .map(|n| {
                let (alpha, (x, y)) = (0.3, pairs(n, 2));
                let after = x.iter().zip(&y).map(|(&x, &y)| Real::mul_add(alpha, x, y)).collect();
                axpy::TestCase { alpha, x, y: change(y, exactly(after)), n: n as u32 }.named(format!("{n} elements"))
            })
            .into()
    }

    pub(super) fn scale_cases() -> Vec<Case> {
        SIZES
            .map(|n| {
                let (alpha, y) = (-0.7, pairs(n, 3).0);
                let after = y.iter().map(|y| y * alpha).collect();
                scale::TestCase { alpha, y: change(y, exactly(after)), n: n as u32 }.named(format!("{n} elements"))
            })
            .into()
    }
}
