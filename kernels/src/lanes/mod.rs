//! Row reductions in canonical order, and the norm over a parameter.
//!
//! Element `j` goes to lane `j % 16`; each lane takes its elements in order, from the start value; then lanes fold:
//! lane `i` takes lane `i + 8` for `i < 8`, then `i + 4`, `i + 2`, `i + 1`. An empty row gives the start value. The
//! lanes are the elements of one vector register, so the order costs nothing.

pub(crate) mod exponential;

pub use exponential::{exp_fma, exp_fma_in_place};

use crate::isa::Isa;
use crate::math::Real;
use crate::order::{LANES, NORM_CHUNK};
use crate::tree::fold_tree;

/// The lane reduction of one slice or two: `$lane` starts at `$start`, `$step` is its value after the next element of
/// each slice, `$fold` joins two lanes. A macro rather than a function of closures: a closure is not sure to be inlined
/// into the stamped instances.
macro_rules! reduce {
    ($start:expr; |$lane:ident, $x:ident in $xs:ident| $step:expr; $fold:expr) => {{
        let mut lanes = [$start; LANES];
        let rows = $xs.chunks_exact(LANES);
        let rest = rows.remainder();
        for row in rows {
            for i in 0..LANES {
                let ($lane, $x) = (lanes[i], row[i]);
                lanes[i] = $step;
            }
        }
        for (i, &$x) in rest.iter().enumerate() {
            let $lane = lanes[i];
            lanes[i] = $step;
        }
        fold_lanes!(lanes, $fold)
    }};
    ($start:expr; |$lane:ident, $a:ident in $xs:ident, $b:ident in $ys:ident| $step:expr; $fold:expr) => {{
        let mut lanes = [$start; LANES];
        let common = $xs.len().min($ys.len());
        let (xs, ys) = ($xs[..common].chunks_exact(LANES), $ys[..common].chunks_exact(LANES));
        let (rest_x, rest_y) = (xs.remainder(), ys.remainder());
        for (row_x, row_y) in xs.zip(ys) {
            for i in 0..LANES {
                let ($lane, $a, $b) = (lanes[i], row_x[i], row_y[i]);
                lanes[i] = $step;
            }
        }
        for (i, (&$a, &$b)) in rest_x.iter().zip(rest_y).enumerate() {
            let $lane = lanes[i];
            lanes[i] = $step;
        }
        fold_lanes!(lanes, $fold)
    }};
}

macro_rules! fold_lanes {
    ($lanes:ident, $fold:expr) => {{
        let mut half = LANES / 2;
        while half > 0 {
            for i in 0..half {
                $lanes[i] = $fold($lanes[i], $lanes[i + half]);
            }
            half /= 2;
        }
        $lanes[0]
    }};
}

/// The sum of all lanes, folded.
#[inline(always)]
pub fn fold_sums<T: Real>(mut lanes: [T; LANES]) -> T {
    fold_lanes!(lanes, |a, b| a + b)
}

crate::stamp! {
    /// The sum: lanes from +0 by addition.
    pub fn sum<T: Real>(x: &[T]) -> T {
        reduce!(T::ZERO; |lane, x in x| lane + x; |a, b| a + b)
    }

    /// The sum of a b: lanes from +0 by fused multiply-adds. Of slices of unequal length the common part counts.
    pub fn dot<T: Real>(a: &[T], b: &[T]) -> T {
        reduce!(T::ZERO; |lane, a in a, b in b| Real::mul_add(a, b, lane); |a, b| a + b)
    }

    /// The sum of x^2: lanes from +0 by fused multiply-adds.
    pub fn sum_sq<T: Real>(x: &[T]) -> T {
        reduce!(T::ZERO; |lane, x in x| Real::mul_add(x, x, lane); |a, b| a + b)
    }

    /// The sum of (x - centre)^2: lanes from +0, a subtraction and a fused multiply-add per element.
    pub fn sum_sq_centred<T: Real>(x: &[T], centre: T) -> T {
        reduce!(
            T::ZERO;
            |lane, x in x| {
                let centred = x - centre;
                Real::mul_add(centred, centred, lane)
            };
            |a, b| a + b
        )
    }

    /// The sum of e^(x - shift): lanes from +0 by addition.
    pub fn sum_exp<T: Real>(x: &[T], shift: T) -> T {
        reduce!(T::ZERO; |lane, x in x| lane + Real::exp(x - shift); |a, b| a + b)
    }

    /// The largest element by [`Real::max`], lanes from -infinity; NaN if there is one.
    pub fn max<T: Real>(x: &[T]) -> T {
        reduce!(T::NEG_INFINITY; |lane, x in x| Real::max(lane, x); |a, b| Real::max(a, b))
    }

    /// The smallest element by [`Real::min`], lanes from +infinity; NaN if there is one.
    pub fn min<T: Real>(x: &[T]) -> T {
        reduce!(T::INFINITY; |lane, x in x| Real::min(lane, x); |a, b| Real::min(a, b))
    }
}

/// The squared Euclidean norm of a parameter: [`sum_sq`] of each chunk of 4096 elements, chunk results added in the
/// tree of [`crate::order`].
pub fn norm_sq<T: Real>(isa: Isa, x: &[T]) -> T {
    let chunk = |i: usize| sum_sq(isa, &x[i * NORM_CHUNK..x.len().min((i + 1) * NORM_CHUNK)]);
    fold_tree(x.len().div_ceil(NORM_CHUNK), &mut { chunk }, &mut |a, b| a + b).unwrap_or(T::ZERO)
}
