//! Functions and reductions of rows as kernels: softmax and its kin, layer, group and L2 normalisation, sums and
//! extrema over axes.

use super::{GpuDevice, extent};
use crate::{Array, DType, Result};
use selfsame_kernels::device::{norms as n, reduce as r, softmax as s};

/// The rows of an array: how many, and how long.
fn rows_of(x: &Array) -> Result<(u32, u32)> {
    let cols = x.shape().last().copied().unwrap_or(1);
    let rows: usize = x.shape().iter().rev().skip(1).product();
    Ok((extent(rows)?, extent(cols)?))
}

macro_rules! row_functions {
    ($($(#[doc = $doc:literal])+ $name:ident($($arg:ident),+) -> $out:ident: $owner:literal;)+) => {$(
        $(#[doc = $doc])+
        pub(crate) fn $name(gpu: &GpuDevice, $($arg: &Array),+) -> Result<Array> {
            $(let $arg = $arg.contiguous()?;)+
            let operands = [$(&$arg),+];
            let (rows, cols) = rows_of(operands[0])?;
            let mut result = gpu.empty(operands[0].shape(), DType::F32, $owner)?;
            let args = s::$name::Args { $($arg: $arg.cells()?,)+ $out: result.cells_mut()?, rows, cols };
            gpu.submit(|launcher| args.launch(launcher))?;
            Ok(result)
        }
    )+};
}
row_functions! {
    /// Softmax over the last axis.
    softmax(x) -> y: "softmax";
    /// Its gradient from the result.
    softmax_grad(y, dy) -> dx: "softmax_grad";
    /// Log-softmax over the last axis.
    log_softmax(x) -> y: "log_softmax";
    /// Its gradient from the result.
    log_softmax_grad(y, dy) -> dx: "log_softmax_grad";
}

/// log of the sum of exp over the last axis.
pub(crate) fn log_sum_exp(gpu: &GpuDevice, x: &Array, lead: &[usize]) -> Result<Array> {
    let x = x.contiguous()?;
    let (rows, cols) = rows_of(&x)?;
    let mut y = gpu.empty(lead, DType::F32, "log_sum_exp")?;
    let args = s::log_sum_exp::Args { x: x.cells()?, y: y.cells_mut()?, rows, cols };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(y)
}

/// A parameter that may be missing: its elements, or one that is not read, and the flag that says which.
pub(super) fn optional(gpu: &GpuDevice, parameter: Option<&Array>) -> Result<(Array, u32)> {
    match parameter {
        Some(parameter) => Ok((parameter.contiguous()?, 1)),
        None => Ok((gpu.empty(&[0], DType::F32, "parameter")?, 0)),
    }
}

/// Layer norm over the last axis: the result, and mean and 1 / standard deviation of each row.
pub(crate) fn layer_norm(
    gpu: &GpuDevice,
    x: &Array,
    gamma: Option<&Array>,
    beta: Option<&Array>,
    eps: f32,
    lead: &[usize],
) -> Result<(Array, Array, Array)> {
    let x = x.contiguous()?;
    let (rows, cols) = rows_of(&x)?;
    let ((gamma, has_gamma), (beta, has_beta)) = (optional(gpu, gamma)?, optional(gpu, beta)?);
    let mut y = gpu.empty(x.shape(), DType::F32, "layer_norm")?;
    let mut mean = gpu.empty(lead, DType::F32, "layer_norm")?;
    let mut rstd = gpu.empty(lead, DType::F32, "layer_norm")?;
    let args = n::layer_norm::Args {
        x: x.cells()?,
        gamma: gamma.cells()?,
        beta: beta.cells()?,
        y: y.cells_mut()?,
        mean: mean.cells_mut()?,
        rstd: rstd.cells_mut()?,
        rows,
        cols,
        eps,
        has_gamma,
        has_beta,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok((y, mean, rstd))
}

/// dx of layer norm.
pub(crate) fn layer_norm_grad(
    gpu: &GpuDevice,
    dy: &Array,
    x: &Array,
    mean: &Array,
    rstd: &Array,
    gamma: Option<&Array>,
) -> Result<Array> {
    let [dy, x, mean, rstd] = contiguous([dy, x, mean, rstd])?;
    let (rows, cols) = rows_of(&x)?;
    let (gamma, has_gamma) = optional(gpu, gamma)?;
    let mut dx = gpu.empty(x.shape(), DType::F32, "layer_norm_grad")?;
    let args = n::layer_norm_grad::Args {
        dy: dy.cells()?,
        x: x.cells()?,
        mean: mean.cells()?,
        rstd: rstd.cells()?,
        gamma: gamma.cells()?,
        dx: dx.cells_mut()?,
        rows,
        cols,
        has_gamma,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(dx)
}

/// Group norm of `[images, pixels, groups, width]`: the result in the shape of `x`, and mean and 1 / standard deviation
/// `[images, groups]`.
pub(crate) fn group_norm(
    gpu: &GpuDevice,
    x: &Array,
    [images, pixels, groups, width]: [usize; 4],
    gamma: Option<&Array>,
    beta: Option<&Array>,
    eps: f32,
) -> Result<(Array, Array, Array)> {
    let x = x.contiguous()?;
    let ((gamma, has_gamma), (beta, has_beta)) = (optional(gpu, gamma)?, optional(gpu, beta)?);
    let mut y = gpu.empty(x.shape(), DType::F32, "group_norm")?;
    let mut mean = gpu.empty(&[images, groups], DType::F32, "group_norm")?;
    let mut rstd = gpu.empty(&[images, groups], DType::F32, "group_norm")?;
    let args = n::group_norm::Args {
        x: x.cells()?,
        gamma: gamma.cells()?,
        beta: beta.cells()?,
        y: y.cells_mut()?,
        mean: mean.cells_mut()?,
        rstd: rstd.cells_mut()?,
        images: extent(images)?,
        pixels: extent(pixels)?,
        groups: extent(groups)?,
        width: extent(width)?,
        eps,
        has_gamma,
        has_beta,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok((y, mean, rstd))
}

/// dx of group norm.
pub(crate) fn group_norm_grad(
    gpu: &GpuDevice,
    dy: &Array,
    x: &Array,
    [images, pixels, groups, width]: [usize; 4],
    mean: &Array,
    rstd: &Array,
    gamma: Option<&Array>,
) -> Result<Array> {
    let [dy, x, mean, rstd] = contiguous([dy, x, mean, rstd])?;
    let (gamma, has_gamma) = optional(gpu, gamma)?;
    let mut dx = gpu.empty(x.shape(), DType::F32, "group_norm_grad")?;
    let args = n::group_norm_grad::Args {
        dy: dy.cells()?,
        x: x.cells()?,
        mean: mean.cells()?,
        rstd: rstd.cells()?,
        gamma: gamma.cells()?,
        dx: dx.cells_mut()?,
        images: extent(images)?,
        pixels: extent(pixels)?,
        groups: extent(groups)?,
        width: extent(width)?,
        has_gamma,
    };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(dx)
}

/// Rows over their length, and the lengths.
pub(crate) fn l2_normalize(gpu: &GpuDevice, x: &Array, eps: f32, lead: &[usize]) -> Result<(Array, Array)> {
    let x = x.contiguous()?;
    let (rows, cols) = rows_of(&x)?;
    let mut y = gpu.empty(x.shape(), DType::F32, "l2_normalize")?;
    let mut norm = gpu.empty(lead, DType::F32, "l2_normalize")?;
    let args = n::l2_normalize::Args { x: x.cells()?, y: y.cells_mut()?, norm: norm.cells_mut()?, rows, cols, eps };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok((y, norm))
}

/// dx of `l2_normalize`.
pub(crate) fn l2_normalize_grad(gpu: &GpuDevice, dy: &Array, y: &Array, norm: &Array, eps: f32) -> Result<Array> {
    let [dy, y, norm] = contiguous([dy, y, norm])?;
    let (rows, cols) = rows_of(&y)?;
    let mut dx = gpu.empty(y.shape(), DType::F32, "l2_normalize_grad")?;
    let (dy, y, norm) = (dy.cells()?, y.cells()?, norm.cells()?);
    let args = n::l2_normalize_grad::Args { dy, y, norm, dx: dx.cells_mut()?, rows, cols, eps };
    gpu.submit(|launcher| args.launch(launcher))?;
    Ok(dx)
}

/// What a reduction does with its elements.
#[derive(Clone, Copy)]
pub(crate) enum Reduction {
    Sum,
    Product,
    Largest,
    Smallest,
}

/// Reduces the middle axis of contiguous `x`, read as `[outer, reduced, inner]`, to an array of `shape`.
pub(crate) fn reduce(
    gpu: &GpuDevice,
    reduction: Reduction,
    x: &Array,
    [outer, reduced, inner]: [usize; 3],
    shape: &[usize],
    owner: &'static str,
) -> Result<Array> {
    let mut result = gpu.empty(shape, DType::F32, owner)?;
    let (x, y) = (x.cells()?, result.cells_mut()?);
    let [outer, reduced, inner] = [extent(outer)?, extent(reduced)?, extent(inner)?];
    macro_rules! launch {
        ($($kind:ident: $row:ident, $col:ident;)+) => {
            match reduction {
                $(Reduction::$kind if inner == 1 => {
                    gpu.submit(|launcher| r::$row::Args { x, y, rows: outer, cols: reduced }.launch(launcher))
                }
                Reduction::$kind => {
                    gpu.submit(|launcher| r::$col::Args { x, y, outer, reduced, inner }.launch(launcher))
                })+
            }
        };
    }
    launch! {
        Sum: row_sum, col_sum;
        Product: row_prod, col_prod;
        Largest: row_max, col_max;
        Smallest: row_min, col_min;
    }?;
    Ok(result)
}

/// Each array without gaps.
pub(super) fn contiguous<const N: usize>(arrays: [&Array; N]) -> Result<[Array; N]> {
    let contiguous = arrays.iter().map(|x| x.contiguous()).collect::<Result<Vec<_>>>()?;
    Ok(contiguous.try_into().expect("as many arrays as before"))
}
