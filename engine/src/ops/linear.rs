//! A linear layer: matrix products, and the gradient of the weight, a sum over samples.

use super::conv::of_f32;
use super::rows_sum::channels;
use super::{expect_same_dtype, kernels_for, matmul, span, with_real};
use crate::cpu::contract::{self, ConvShape, rounded};
use crate::gpu;
use crate::rows::dyadic_blocks;
use crate::{Array, DType, Element, Numerics, Result, Rows, SampleSum};

/// The rows `x` `[rows, k]` times the weight `[k, n]`: `[rows, n]`. [`matmul`], but for bf16 numerics, which round both.
///
/// # Errors
/// As for [`matmul`].
pub fn linear(x: &Array, weight: &Array) -> Result<Array> {
    match (x.shape(), weight.shape()) {
        (&[rows, k], &[depth, n]) if k == depth && is_rounded(x, weight) => {
            let _span = span("linear", &[x, weight], |_| (rows * n, 2 * rows * k * n, 0));
            let shape = ConvShape::pointwise([1, rows], [k, n]);
            of_f32(x, weight, &[rows, n], "linear", |cx, x, weight, y| rounded::conv2d(cx, &shape, x, weight, y))
        }
        _ => matmul(x, weight),
    }
}

/// The gradient `[rows, k]` of the rows from `dy` `[rows, n]` and the weight `[k, n]`. [`matmul`] with the transposed
/// weight, but for bf16 numerics, which round both.
///
/// # Errors
/// As for [`matmul`].
pub fn linear_input_grad(dy: &Array, weight: &Array) -> Result<Array> {
    match (dy.shape(), weight.shape()) {
        (&[rows, n], &[k, columns]) if n == columns && is_rounded(dy, weight) => {
            let _span = span("linear_input_grad", &[dy, weight], |_| (rows * k, 2 * rows * k * n, 0));
            let shape = ConvShape::pointwise([1, rows], [k, n]);
            of_f32(dy, weight, &[rows, k], "linear backward", |cx, dy, weight, dx| {
                rounded::conv2d_input_grad(cx, &shape, dy, weight, dx);
            })
        }
        _ => matmul(dy, &weight.transpose(0, 1)?),
    }
}

/// Whether products of the two are those of bf16 numerics.
fn is_rounded(a: &Array, b: &Array) -> bool {
    a.device().numerics() == Numerics::Bf16 && [a, b].iter().all(|x| x.dtype() == DType::F32)
}

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
    let shape = ConvShape::pointwise([rows.images, rows.rows_per_image], [k, n]);
    if is_rounded(x, dy) {
        return weight_grad::<f32>(x, dy, rows, &[k, n], "linear backward", &shape, rounded::conv2d_weight_grad);
    }
    with_real!("linear backward", x.dtype(), T, {
        weight_grad::<T>(x, dy, rows, &[k, n], "linear backward", &shape, contract::conv2d_weight_grad)
    })
}

/// Computes the nodes of a weight gradient on the CPU from x and dy, whose first image is the first of that leaf.
pub(super) type WeightPass<T> = fn(&contract::Context<'_>, &ConvShape, usize, &[T], &[T], &mut [&mut [T]]);

/// The gradient, of shape `weight_shape`, of the weight of a convolution of `shape`.
pub(super) fn weight_grad<T: Element>(
    x: &Array,
    dy: &Array,
    rows: Rows,
    weight_shape: &[usize],
    owner: &'static str,
    shape: &ConvShape,
    pass: WeightPass<T>,
) -> Result<SampleSum> {
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    let (xs, dys) = (x.as_slice::<T>()?, dy.as_slice::<T>()?);
    sample_nodes::<T>(&x, rows, weight_shape, owner, |cx, nodes| {
        pass(cx, shape, rows.first_leaf(), xs, dys, nodes);
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
