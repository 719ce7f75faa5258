//! `layer_norm` over the last axis and its gradient. The order of operations stands in `row_norm.rs`.

use super::by_row::{expect_shape, split_last, statistic, write_rows, write_rows_and_stats};
use super::operand::same_kind;
use super::row_norm::{
    GradRow, check_eps, expect_parameter, normalize_row, normalized, parameter, row_grad, row_grads, row_statistics,
    widened,
};
use super::rows_sum::{channels, fold_leaves, folded_tree, rows_dot, rows_sum};
use super::{cast, is_half, kernels_for, span, with_real};
use crate::gpu;
use crate::order::CHUNK;
use crate::{Array, DType, Result, Rows, SampleSum};
use selfsame_kernels::math::Real;

/// (y, mean, rstd) of x `[.., c]`; gamma and beta are `[c]`, mean and rstd `[..]` (f32 for bf16 and f16).
///
/// # Errors
/// When shapes or element types do not fit, the type is not a float, or `eps` is not positive.
pub fn layer_norm(x: &Array, gamma: Option<&Array>, beta: Option<&Array>, eps: f64) -> Result<(Array, Array, Array)> {
    check_eps("layer_norm", eps)?;
    if is_half(x.dtype()) {
        let (gamma, beta) = (widened(gamma)?, widened(beta)?);
        let (y, mean, rstd) = layer_norm(&cast(x, DType::F32)?, gamma.as_ref(), beta.as_ref(), eps)?;
        return Ok((cast(&y, x.dtype())?, mean, rstd));
    }
    let _span = span("layer_norm", &[x], |n| (n, 8 * n, 0));
    let (lead, len) = split_last("layer_norm", x)?;
    if let Some(gpu) = kernels_for(x) {
        for (name, parameter) in [("gamma", gamma), ("beta", beta)] {
            expect_parameter("layer_norm", name, parameter, (x, len))?;
        }
        return gpu::rows::layer_norm(gpu, x, gamma, beta, eps as f32, lead);
    }
    let rows = x.contiguous()?;
    with_real!("layer_norm", x.dtype(), T, {
        let gamma = parameter::<T>("layer_norm", "gamma", gamma, T::ONE, (x, len))?;
        let beta = parameter::<T>("layer_norm", "beta", beta, T::ZERO, (x, len))?;
        let (rows, eps) = (rows.as_slice::<T>()?, <T as Real>::from_f64(eps));
        let mut stats = vec![T::ZERO; 2 * lead.iter().product::<usize>()];
        let y = Array::build::<T>(x.device(), x.shape(), "layer_norm", |cpu, y| {
            write_rows_and_stats(cpu, (y, len), (&mut stats, 2), |_: &mut (), row, y, stats| {
                let x = &rows[row * len..(row + 1) * len];
                let (mean, rstd) = row_statistics(cpu.isa(), x, eps);
                stats.copy_from_slice(&[mean, rstd]);
                if len > 0 {
                    normalize_row(cpu.isa(), x, mean, rstd, &gamma, &beta, y);
                }
            });
            Ok(())
        })?;
        Ok((y, statistic(&stats, (0, 2), lead, x)?, statistic(&stats, (1, 2), lead, x)?))
    })
}

/// dx of [`layer_norm`]. With h from [`layer_norm_normalized`], dgamma is the sum over samples of dy h, dbeta of dy:
/// [`layer_norm_grads`] has all three.
///
/// # Errors
/// When shapes or element types do not fit, or the type is not a float.
pub fn layer_norm_grad(dy: &Array, x: &Array, mean: &Array, rstd: &Array, gamma: Option<&Array>) -> Result<Array> {
    const OP: &str = "layer_norm_grad";
    let len = check_grad(OP, dy, x, [mean, rstd])?;
    if is_half(x.dtype()) {
        let gamma = widened(gamma)?;
        let dx = layer_norm_grad(&cast(dy, DType::F32)?, &cast(x, DType::F32)?, mean, rstd, gamma.as_ref())?;
        return cast(&dx, x.dtype());
    }
    let _span = span(OP, &[dy, x], |n| (n, 10 * n, 0));
    if let Some(gpu) = kernels_for(x) {
        expect_parameter(OP, "gamma", gamma, (x, len))?;
        return gpu::rows::layer_norm_grad(gpu, dy, x, mean, rstd, gamma);
    }
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    with_real!(OP, x.dtype(), T, {
        let gamma = parameter::<T>(OP, "gamma", gamma, T::ONE, (&x, len))?;
        let (mean, rstd) = (mean.to_vec::<T>()?, rstd.to_vec::<T>()?);
        let (x_rows, dy_rows) = (x.as_slice::<T>()?, dy.as_slice::<T>()?);
        Array::build::<T>(x.device(), x.shape(), OP, |cpu, dx| {
            write_rows(cpu, dx, len, |_: &mut (), row, dx| {
                let range = row * len..(row + 1) * len;
                let (x, dy) = (&x_rows[range.clone()], &dy_rows[range]);
                row_grad(cpu.isa(), GradRow { x, dy, gamma: &gamma, mean: mean[row], rstd: rstd[row] }, dx);
            });
            Ok(())
        })
    })
}

/// Refuses operands of a backward that do not fit; the length of a row.
fn check_grad(op: &'static str, dy: &Array, x: &Array, [mean, rstd]: [&Array; 2]) -> Result<usize> {
    same_kind(op, dy, x)?;
    expect_shape(op, "dy", dy, x.shape())?;
    let (lead, len) = split_last(op, x)?;
    for (name, stat) in [("mean", mean), ("rstd", rstd)] {
        if !is_half(x.dtype()) {
            same_kind(op, x, stat)?;
        }
        expect_shape(op, name, stat, lead)?;
    }
    Ok(len)
}

/// dx of [`layer_norm`] and the sums over samples of dy h and of dy, in one pass over the rows: the bits of
/// [`layer_norm_grad`], of [`rows_dot`] of dy and [`layer_norm_normalized`], and of [`rows_sum`].
///
/// # Errors
/// When shapes or element types do not fit, `rows` does not describe `x`, or the type is not f32 or f64.
pub fn layer_norm_grads(
    dy: &Array,
    x: &Array,
    mean: &Array,
    rstd: &Array,
    gamma: Option<&Array>,
    rows: Rows,
) -> Result<(Array, SampleSum, SampleSum)> {
    const OP: &str = "layer_norm_grads";
    if kernels_for(x).is_some() {
        let normalized = layer_norm_normalized(x, mean, rstd)?;
        let dx = layer_norm_grad(dy, x, mean, rstd, gamma)?;
        return Ok((dx, rows_dot(dy, &normalized, rows)?, rows_sum(dy, rows)?));
    }
    let _span = span(OP, &[dy, x], |n| (n, 13 * n, 0));
    let len = check_grad(OP, dy, x, [mean, rstd])?;
    let c = channels(OP, x, rows)?;
    let (x, dy) = (x.contiguous()?, dy.contiguous()?);
    with_real!(OP, x.dtype(), T, {
        let gamma = parameter::<T>(OP, "gamma", gamma, T::ONE, (&x, len))?;
        let (mean, rstd) = (mean.to_vec::<T>()?, rstd.to_vec::<T>()?);
        let (x_rows, dy_rows) = (x.as_slice::<T>()?, dy.as_slice::<T>()?);
        let zeros = || Array::zeros(&[rows.leaves(), c], x.dtype(), x.device());
        let (mut dgamma, mut dbeta) = (zeros()?, zeros()?);
        let dx = Array::build::<T>(x.device(), x.shape(), OP, |cpu, dx| {
            if dx.is_empty() {
                return Ok(());
            }
            let (dgamma, dbeta) = (dgamma.make_mut::<T>()?, dbeta.make_mut::<T>()?);
            let leaves = dx.chunks_mut(rows.leaf(0).len() * c).zip(dgamma.chunks_mut(c)).zip(dbeta.chunks_mut(c));
            cpu.workers().run_parts(leaves, |leaf, ((dx, dgamma), dbeta)| {
                let mut part = [(); 2].map(|()| vec![T::ZERO; c]);
                for (chunk, dx) in dx.chunks_mut(CHUNK * c).enumerate() {
                    let [gammas, betas] = &mut part;
                    gammas.fill(T::ZERO);
                    betas.fill(T::ZERO);
                    for (row, dx) in dx.chunks_mut(c).enumerate() {
                        let row = rows.leaf(leaf).start + chunk * CHUNK + row;
                        let (x, dy) = (&x_rows[row * c..][..c], &dy_rows[row * c..][..c]);
                        let row = GradRow { x, dy, gamma: &gamma, mean: mean[row], rstd: rstd[row] };
                        row_grads(cpu.isa(), row, dx, gammas, betas);
                    }
                    for (sum, part) in [(&mut *dgamma, gammas), (&mut *dbeta, betas)] {
                        // The first chunk is the start, so that a sum of -0 stays one.
                        sum.iter_mut().zip(part).for_each(|(s, p)| *s = if chunk == 0 { *p } else { *s + *p });
                    }
                }
            });
            for sums in [dgamma, dbeta] {
                fold_leaves(cpu.isa(), sums, c, rows);
            }
            Ok(())
        })?;
        Ok((dx, folded_tree(&dgamma, rows)?, folded_tree(&dbeta, rows)?))
    })
}

/// (x - mean) rstd: what [`layer_norm`] scales by gamma.
///
/// # Errors
/// When shapes or element types do not fit.
pub fn layer_norm_normalized(x: &Array, mean: &Array, rstd: &Array) -> Result<Array> {
    let _span = span("layer_norm_normalized", &[x], |_| (0, 0, 0));
    let (lead, _) = split_last("layer_norm_normalized", x)?;
    let column: Vec<usize> = lead.iter().copied().chain([1]).collect();
    expect_shape("layer_norm_normalized", "mean", mean, lead)?;
    expect_shape("layer_norm_normalized", "rstd", rstd, lead)?;
    normalized(x, &mean.reshape(&column)?, &rstd.reshape(&column)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{assert_gradient, devices, f64s, noise};
    use crate::{Device, ErrorKind};
    use selfsame_kernels::reference;

    #[test]
    fn rows_have_the_bits_of_the_reference() {
        for device in devices() {
            for shape in [&[70, 384][..], &[2, 3, 17], &[5]] {
                let len = *shape.last().unwrap();
                let (x, gamma, beta) = (noise(shape, 1, &device), noise(&[len], 2, &device), noise(&[len], 3, &device));
                let (y, mean, rstd) = layer_norm(&x, Some(&gamma), Some(&beta), 1e-5).unwrap();
                let (g, b) = (gamma.to_vec::<f32>().unwrap(), beta.to_vec::<f32>().unwrap());
                let expected: Vec<_> = x
                    .to_vec::<f32>()
                    .unwrap()
                    .chunks(len)
                    .map(|row| reference::layer_norm(row, &g, &b, 1e-5))
                    .collect();
                assert_eq!(y.to_vec::<f32>().unwrap(), expected.iter().flat_map(|r| r.y.clone()).collect::<Vec<_>>());
                assert_eq!(mean.to_vec::<f32>().unwrap(), expected.iter().map(|r| r.mean).collect::<Vec<_>>());
                assert_eq!(rstd.to_vec::<f32>().unwrap(), expected.iter().map(|r| r.rstd).collect::<Vec<_>>());
                let plain = layer_norm(&x, None, None, 1e-5).unwrap().0;
                assert_eq!(f64s(&layer_norm_normalized(&x, &mean, &rstd).unwrap()), f64s(&plain));
            }
        }
    }

    #[test]
    fn one_pass_has_the_bits_of_three() {
        for device in devices() {
            // Several leaves, of more rows than a chunk; a ragged leaf alone; rows that are no vectors.
            for shape in [&[37, 40, 17][..], &[3, 5, 70], &[20, 384]] {
                let len = *shape.last().unwrap();
                let (x, dy, gamma) = (noise(shape, 1, &device), noise(shape, 2, &device), noise(&[len], 3, &device));
                let rows = Rows::of(shape, 32).unwrap();
                let (_, mean, rstd) = layer_norm(&x, Some(&gamma), None, 1e-5).unwrap();
                let (dx, dgamma, dbeta) = layer_norm_grads(&dy, &x, &mean, &rstd, Some(&gamma), rows).unwrap();
                assert_eq!(f64s(&dx), f64s(&layer_norm_grad(&dy, &x, &mean, &rstd, Some(&gamma)).unwrap()));
                let h = layer_norm_normalized(&x, &mean, &rstd).unwrap();
                let bits = |sum: SampleSum| -> Vec<(usize, u32, Vec<u64>)> {
                    let bits = |node: &Array| f64s(node).into_iter().map(f64::to_bits).collect();
                    sum.into_blocks().map(|(first, level, node)| (first, level, bits(&node))).collect()
                };
                assert_eq!(bits(dgamma), bits(rows_dot(&dy, &h, rows).unwrap()));
                assert_eq!(bits(dbeta), bits(rows_sum(&dy, rows).unwrap()));
            }
        }
    }

    #[test]
    fn gradient_matches_finite_differences() {
        let device = Device::cpu_with(2).unwrap();
        let x = cast(&noise(&[2, 3, 21], 4, &device), DType::F64).unwrap();
        let gamma = cast(&noise(&[21], 5, &device), DType::F64).unwrap();
        for gamma in [None, Some(&gamma)] {
            let run = |x: &Array| layer_norm(x, gamma, None, 1e-3).map(|(y, ..)| y);
            assert_gradient(&x, run, |dy| {
                let (_, mean, rstd) = layer_norm(&x, gamma, None, 1e-3)?;
                layer_norm_grad(dy, &x, &mean, &rstd, gamma)
            });
        }
    }

    #[test]
    fn wrong_operands_are_named() {
        let device = Device::cpu_with(1).unwrap();
        let x = noise(&[2, 3], 1, &device);
        let gamma = noise(&[2], 1, &device);
        assert!(layer_norm(&x, Some(&gamma), None, 1e-5).unwrap_err().sentence().contains("gamma [2]"));
        assert!(layer_norm(&x, None, None, 0.0).is_err());
        let (_, mean, rstd) = layer_norm(&x, None, None, 1e-5).unwrap();
        let error = layer_norm_grad(&x, &x, &mean, &rstd.slice(0, 0, 1).unwrap(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Shape);
    }
}
