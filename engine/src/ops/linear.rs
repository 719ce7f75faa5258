//! The weight gradient of a linear layer: a sum over samples.

use super::rows_sum::channels;
use super::{Float, expect_same_dtype, kernels_for, span, with_real};
use crate::cpu::contract;
use crate::gpu;
use crate::rows::dyadic_blocks;
use crate::{Array, Element, Result, Rows, SampleSum};

/// The gradient `[k, n]` of the weight from `x` `[images, …, k]` and `dy` `[images, …, n]`, summed over rows.
///
/// # Errors
/// `Shape` when the operands or `rows` do not fit; `DType` unless both are f32 or both f64.
pub fn linear_weight_grad(x: &Array, dy: &Array, rows: Rows) -> Result<SampleSum> {
    let (k, n) = (channels("linear backward", x, rows)?, channels("linear backward", dy, rows)?);
    expect_same_dtype("linear backward", x, dy)?;
    let _span = span("linear_weight_grad", &[x, dy], |_| (k * n, 2 * rows.len() * k * n, 0));
    if let Some(gpu) = kernels_for(x) {
        return gpu::contract::linear_weight_grad(gpu, x, dy, rows, [k, n]);
    }
    with_real!("linear backward", x.dtype(), T, weight_grad::<T>(x, dy, rows, [k, n]))
}

fn weight_grad<T: Float + contract::Real>(x: &Array, dy: &Array, rows: Rows, size: [usize; 2]) -> Result<SampleSum> {
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let (xs, dys) = (x.as_slice::<T>()?, dy.as_slice::<T>()?);
    sample_nodes::<T>(&x, rows, &size, "linear backward", |cx, nodes| {
        contract::linear_weight_grad(cx, rows.first_leaf(), [rows.images, rows.rows_per_image], size, xs, dys, nodes);
    })
}

/// The tree whose nodes `fill` computes: one array of `shape` per aligned dyadic block of the leaves of `rows`.
pub(super) fn sample_nodes<T: Element>(
    x: &Array,
    rows: Rows,
    shape: &[usize],
    owner: &'static str,
    fill: impl FnOnce(&contract::Context<'_>, &mut [&mut [T]]),
) -> Result<SampleSum> {
    let blocks = dyadic_blocks(rows.first_leaf(), rows.leaves());
    let mut nodes = blocks
        .iter()
        .map(|_| Array::build::<T>(x.device(), shape, owner, |_, _| Ok(())))
        .collect::<Result<Vec<_>>>()?;
    let mut slices = nodes.iter_mut().map(Array::make_mut::<T>).collect::<Result<Vec<_>>>()?;
    let cpu = x.device().host();
    fill(&cpu.contraction(), &mut slices);
    let mut tree = SampleSum::default();
    for ((first, level), node) in blocks.into_iter().zip(nodes) {
        tree.add(first, level, node)?;
    }
    Ok(tree)
}
