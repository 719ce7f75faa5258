//! The matrix product.

use super::Chain;
use crate::math::Real;

/// C = A B with A `[m, k]`, B `[k, n]`, C `[m, n]`, row-major.
///
/// Each element is a [`Chain`] of fused multiply-adds a b over k increasing, the position being k. k = 0 gives +0.
pub fn contract<T: Real>(m: usize, n: usize, k: usize, a: &[T], b: &[T]) -> Vec<T> {
    let mut c = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let mut sum = Chain::new();
            for p in 0..k {
                sum.fma(p, a[i * k + p], b[p * n + j]);
            }
            c.push(sum.finish());
        }
    }
    c
}
