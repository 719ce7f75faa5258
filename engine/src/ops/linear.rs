//! A linear layer: matrix products, and the gradient of the weight, a sum over samples.

use super::conv::of_f32;
use super::matmul::{batch_of, product, work};
use super::operand::same_kind;
use super::rows_sum::channels;
use super::{expect_same_dtype, kernels_for, span, with_real};
use crate::cpu::contract::{self, ConvShape, rounded};
use crate::gpu;
use crate::rows::dyadic_blocks;
use crate::{Array, DType, Element, Error, ErrorKind, Numerics, Result, Rows, SampleSum};

/// The rows `x` `[rows, k]` times the weight `[k, n]`, plus a bias `[n]` for each row: `[rows, n]`.
/// [`matmul`](super::matmul) and [`add`](super::add), but for bf16 numerics, which round rows and weight.
///
/// # Errors
/// As for [`matmul`](super::matmul); `Shape`, `DType` or `Device` for a bias that does not fit.
pub fn linear(x: &Array, weight: &Array, bias: Option<&Array>) -> Result<Array> {
    if let (Some(bias), &[_, n]) = (bias, weight.shape()) {
        if bias.shape() != [n] {
            let got = format!("bias {:?}, weight {:?}", bias.shape(), weight.shape());
            return Err(Error::new(ErrorKind::Shape, "linear", got).expected(format!("a bias of shape [{n}]")));
        }
        same_kind("linear", weight, bias)?;
    }
    let batch = batch_of("linear", x, weight)?;
    let _span = span("linear", &[x, weight], |_| work(x, weight, &batch));
    match (x.shape(), weight.shape()) {
        (&[rows, k], &[_, n]) if k > 0 && is_rounded(&[x, weight]) => {
            let shape = ConvShape::pointwise([1, rows], [k, n]);
            let bias = bias.map(Array::contiguous).transpose()?;
            let bias = bias.as_ref().map(Array::as_slice::<f32>).transpose()?;
            of_f32(x, weight, &[rows, n], "linear", |cx, x, weight, y| rounded::linear(cx, &shape, x, weight, bias, y))
        }
        _ => product(x, weight, bias, &batch),
    }
}

/// The gradient `[rows, k]` of the rows from `dy` `[rows, n]` and the weight `[k, n]`. [`matmul`](super::matmul) with the
/// transposed weight, but for bf16 numerics, which round both.
///
/// # Errors
/// As for [`matmul`](super::matmul).
pub fn linear_input_grad(dy: &Array, weight: &Array) -> Result<Array> {
    let turned = weight.transpose(0, 1)?;
    let batch = batch_of("linear backward", dy, &turned)?;
    let _span = span("linear_input_grad", &[dy, weight], |_| work(dy, &turned, &batch));
    match (dy.shape(), weight.shape()) {
        (&[rows, n], &[k, _]) if is_rounded(&[dy, weight]) => {
            let shape = ConvShape::pointwise([1, rows], [k, n]);
            of_f32(dy, weight, &[rows, k], "linear backward", |cx, dy, weight, dx| {
                rounded::conv2d_input_grad(cx, &shape, dy, weight, dx);
            })
        }
        _ => product(dy, &turned, None, &batch),
    }
}

/// Whether products of these are those of bf16 numerics.
pub(super) fn is_rounded(operands: &[&Array]) -> bool {
    operands.iter().all(|x| x.device().numerics() == Numerics::Bf16 && x.dtype() == DType::F32)
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
    if is_rounded(&[x, dy]) {
        return weight_grad::<f32>(x, dy, rows, &[k, n], "linear backward", &shape, rounded::conv2d_weight_grad);
    }
    with_real!("linear backward", x.dtype(), T, {
        weight_grad::<T>(x, dy, rows, &[k, n], "linear backward", &shape, contract::conv2d_weight_grad)
    })
}

/// Both gradients, those of [`linear_input_grad`] and [`linear_weight_grad`], from x and dy as that takes them and the weight
/// `[k, n]`: dx has the shape of x. On the CPU in bf16 numerics from one rounding of dy.
///
/// # Errors
/// As for these.
pub fn linear_grads(x: &Array, dy: &Array, weight: &Array, rows: Rows) -> Result<(Array, SampleSum)> {
    let (k, n) = (channels("linear backward", x, rows)?, channels("linear backward", dy, rows)?);
    if weight.shape() != [k, n] {
        let got = format!("weight {:?}, input {:?}, output gradient {:?}", weight.shape(), x.shape(), dy.shape());
        return Err(
            Error::new(ErrorKind::Shape, "linear backward", got).expected(format!("a weight of shape [{k}, {n}]"))
        );
    }
    if !is_rounded(&[x, dy, weight]) {
        let dx = linear_input_grad(&dy.reshape(&[rows.len(), n])?, weight)?.reshape(x.shape())?;
        return Ok((dx, linear_weight_grad(x, dy, rows)?));
    }
    let _span = span("linear_grads", &[x, dy, weight], |_| (rows.len() * k + k * n, 4 * rows.len() * k * n, 0));
    let shape = ConvShape::pointwise([rows.images, rows.rows_per_image], [k, n]);
    rounded_grads([x, dy, weight], rows, "linear backward", &shape)
}

/// Both gradients of a convolution of `shape`, from x, dy and the weight in f32, in bf16 numerics.
pub(super) fn rounded_grads(
    operands: [&Array; 3],
    rows: Rows,
    owner: &'static str,
    shape: &ConvShape,
) -> Result<(Array, SampleSum)> {
    let [x, dy, weight] = operands.map(Array::contiguous);
    let [x, dy, weight] = [x?, dy?, weight?];
    let slices = [x.as_slice::<f32>()?, dy.as_slice::<f32>()?, weight.as_slice::<f32>()?];
    let mut dw = SampleSum::default();
    let dx = Array::build::<f32>(x.device(), x.shape(), owner, |_, dx| {
        dw = sample_nodes::<f32>(&x, rows, weight.shape(), owner, |cx, nodes| {
            rounded::conv2d_grads(cx, shape, rows.first_leaf(), slices, dx, nodes);
        })?;
        Ok(())
    })?;
    Ok((dx, dw))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::CpuDevice;
    use crate::ops::add;
    use crate::ops::testing::{devices, noise};
    use crate::{Device, ErrorKind};

    /// Rows, depth and columns that take every path of the product: no positions, several chunks and blocks of columns,
    /// ragged ones, a right operand that is packed on demand and one that is packed ahead.
    const SIZES: [[usize; 3]; 6] =
        [[3, 0, 5], [0, 4, 5], [7, 1100, 3], [130, 600, 545], [130, 64, 1100], [2100, 8, 530]];

    #[test]
    fn a_bias_is_added_to_whole_sums() {
        let in_bf16 = [1, 2].map(|n| Device::open_with("cpu", CpuDevice::new(n).unwrap(), Numerics::Bf16).unwrap());
        for device in devices().into_iter().chain(in_bf16) {
            for [rows, k, n] in SIZES {
                let (x, weight, bias) =
                    (noise(&[rows, k], 1, &device), noise(&[k, n], 2, &device), noise(&[n], 3, &device));
                let expected = add(&linear(&x, &weight, None).unwrap(), &bias).unwrap();
                let got = linear(&x, &weight, Some(&bias)).unwrap();
                assert!(
                    got.to_vec::<f32>().unwrap() == expected.to_vec::<f32>().unwrap(),
                    "{rows} {k} {n}, {device:?}"
                );
            }
        }
    }

    #[test]
    fn both_gradients_are_those_of_two_passes() {
        let in_bf16 = Device::open_with("cpu", CpuDevice::new(2).unwrap(), Numerics::Bf16).unwrap();
        for (device, [k, n]) in devices().iter().chain([&in_bf16]).flat_map(|x| [(x, [40, 36]), (x, [5, 7])]) {
            let (x, dy) = (noise(&[18, 3, k], 1, device), noise(&[18, 3, n], 2, device));
            let (weight, rows) = (noise(&[k, n], 3, device), Rows::of(dy.shape(), 0).unwrap());
            let (dx, dw) = linear_grads(&x, &dy, &weight, rows).unwrap();
            let one = linear_input_grad(&dy.reshape(&[54, n]).unwrap(), &weight).unwrap();
            let other = linear_weight_grad(&x, &dy, rows).unwrap();
            assert_eq!(dx.shape(), x.shape());
            let bits = |x: &Array| x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let same = bits(&dx) == bits(&one) && bits(&dw.total().unwrap()) == bits(&other.total().unwrap());
            assert!(same, "{k} to {n}, {device:?}");
            let turned = weight.transpose(0, 1).unwrap();
            assert_eq!(linear_grads(&x, &dy, &turned, rows).unwrap_err().kind(), ErrorKind::Shape);
        }
    }

    #[test]
    fn a_bias_that_does_not_fit_is_named() {
        let device = Device::cpu_with(1).unwrap();
        let (x, weight) = (noise(&[2, 3], 1, &device), noise(&[3, 4], 2, &device));
        let kind = |bias: &Array| linear(&x, &weight, Some(bias)).unwrap_err().kind();
        assert_eq!(kind(&noise(&[3], 3, &device)), ErrorKind::Shape);
        assert_eq!(kind(&Array::zeros(&[4], DType::F64, &device).unwrap()), ErrorKind::DType);
    }
}
