//! The matrix product.

use super::Chain;
use crate::bf16::{BF16_GROUP, flushed, fma_flushed};
use crate::half_precision::f32_of_bf16_bits;
use crate::math::Real;
use crate::order::CHUNK;

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

/// C = (the sum of the parts of A) B in f32, with each part of A `[m, k]`, B `[k, n]`, C `[m, n]`, as bits of bf16.
///
/// A group is [`BF16_GROUP`] positions of k, filled up with zeros at the end: a chain of [`fma_flushed`] over its even
/// positions and one over its odd ones, each from +0, then their sum. A chunk starts at +0 and adds its groups in order,
/// those of the first part of A before those of the next; all of it flushes subnormal numbers. Chunk sums are added in
/// order, without flushing.
pub fn contract_bf16([m, n, k]: [usize; 3], a: &[&[u16]], b: &[u16]) -> Vec<f32> {
    let element = |i: usize, j: usize| {
        let mut total = None;
        for chunk in (0..k).step_by(CHUNK) {
            let end = k.min(chunk + CHUNK);
            let mut sum = 0.0f32;
            for part in a {
                for start in (chunk..end).step_by(BF16_GROUP) {
                    let mut chains = [0.0f32; 2];
                    for p in start..start + BF16_GROUP {
                        let (x, y) = if p < k { (part[i * k + p], b[p * n + j]) } else { (0, 0) };
                        chains[p % 2] = fma_flushed(f32_of_bf16_bits(x), f32_of_bf16_bits(y), chains[p % 2]);
                    }
                    sum = flushed(sum + flushed(chains[0] + chains[1]));
                }
            }
            total = Some(total.map_or(sum, |total: f32| total + sum));
        }
        total.unwrap_or(0.0)
    };
    (0..m * n).map(|at| element(at / n, at % n)).collect()
}
