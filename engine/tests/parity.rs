//! Every primitive gives the same bits on `simt` as on the CPU, through kernels alone.

mod common;

use common::{noise, same};
use selfsame_engine::ops::{self, Binary, Compare, Conv2d, Unary};
use selfsame_engine::{Array, Rows};

#[test]
fn unary() {
    same(|device| {
        let x = noise(&[7, 150], 1, device);
        Unary::ALL.iter().flat_map(|op| [ops::unary(*op, &x), ops::unary(*op, &x.slice(0, 1, 3).unwrap())]).collect()
    });
}

#[test]
fn binary_and_compare_under_broadcast() {
    same(|device| {
        let (a, row, column) = (noise(&[3, 4, 50], 1, device), noise(&[50], 2, device), noise(&[4, 1], 3, device));
        let forms = [(&a, &a), (&a, &row), (&column, &a), (&row, &column)];
        let mut results = Vec::new();
        for (a, b) in forms {
            for op in Binary::ALL {
                results.push(ops::binary(*op, a, b)?);
                results.push(ops::binary_scalar(*op, a, 0.75)?);
            }
            for op in Compare::ALL {
                results.push(ops::compare(*op, a, b)?);
                results.push(ops::compare_scalar(*op, a, 0.25)?);
            }
        }
        Ok(results)
    });
}

#[test]
fn matmul() {
    same(|device| {
        let (a, b) = (noise(&[2, 70, 33], 1, device), noise(&[33, 65], 2, device));
        let long = noise(&[3, 1030], 3, device);
        Ok(vec![
            ops::matmul(&a, &b)?,
            ops::matmul(&b.transpose(0, 1)?, &a.transpose(1, 2)?)?,
            ops::matmul(&long, &long.transpose(0, 1)?)?,
        ])
    });
}

#[test]
fn views_become_contiguous() {
    same(|device| {
        let x = noise(&[2, 3, 4, 5, 3, 2, 3], 1, device);
        let views = [
            x.permute(&[6, 5, 4, 3, 2, 1, 0])?,
            x.permute(&[0, 2, 1, 3, 4, 6, 5])?.flip(3)?,
            x.slice(3, 1, 4)?.flip(0)?,
            x.slice_step(4, 0, 3, 2)?,
            noise(&[3, 1], 2, device).broadcast_to(&[2, 3, 70])?,
        ];
        let small = ops::compare_scalar(Compare::Gt, &x, 0.0)?.permute(&[1, 0, 2, 3, 6, 5, 4])?;
        views.iter().chain([&small]).map(Array::contiguous).collect()
    });
}

#[test]
fn functions_of_rows() {
    same(|device| {
        let mut results = Vec::new();
        for shape in [&[5, 7][..], &[2, 3, 300], &[2, 0], &[1, 1]] {
            let (x, dy) = (noise(shape, 1, device), noise(shape, 2, device));
            let gamma = noise(&shape[shape.len() - 1..], 3, device);
            let (soft, log_soft) = (ops::softmax(&x)?, ops::log_softmax(&x)?);
            results.push(ops::softmax_grad(&soft, &dy)?);
            results.push(ops::log_softmax_grad(&log_soft, &dy)?);
            results.extend([soft, log_soft, ops::log_sum_exp(&x)?]);
            let (y, norm) = ops::l2_normalize(&x, 1e-6)?;
            results.extend([ops::l2_normalize_grad(&dy, &y, &norm, 1e-6)?, y, norm]);
            for (gamma, beta) in [(None, None), (Some(&gamma), Some(&gamma))] {
                let (y, mean, rstd) = ops::layer_norm(&x, gamma, beta, 1e-5)?;
                results.push(ops::layer_norm_grad(&dy, &x, &mean, &rstd, gamma)?);
                results.extend([ops::layer_norm_normalized(&x, &mean, &rstd)?, y, mean, rstd]);
            }
        }
        let (x, dy, gamma) = (noise(&[3, 4, 5, 6], 4, device), noise(&[3, 4, 5, 6], 5, device), noise(&[6], 6, device));
        let (y, mean, rstd) = ops::group_norm(&x, 2, Some(&gamma), None, 1e-5)?;
        results.push(ops::group_norm_grad(&dy, &x, &mean, &rstd, Some(&gamma))?);
        results.extend([ops::group_norm_normalized(&x, &mean, &rstd)?, y, mean, rstd]);
        Ok(results)
    });
}

#[test]
fn reductions_over_any_axes() {
    same(|device| {
        let x = noise(&[3, 40, 5, 7], 1, device);
        let mut results = Vec::new();
        for axes in [&[3][..], &[0], &[1, 2], &[0, 2], &[0, 1, 2, 3], &[]] {
            for reduce in [ops::sum, ops::mean, ops::prod, ops::max, ops::min] {
                results.push(reduce(&x, axes, axes.len() == 1)?);
            }
        }
        results.push(ops::sum_to(&x, &[40, 1, 7])?);
        let long = noise(&[9, 1111], 2, device);
        let scalars = [ops::norm_sq(&long)?, ops::dot(&long, &long.flip(0)?)?, ops::norm_sq(&long.slice(0, 0, 0)?)?];
        results.push(Array::from_slice(&scalars, &[3], device)?);
        Ok(results)
    });
}

#[test]
fn sums_over_samples() {
    same(|device| {
        let mut results = Vec::new();
        for (first, images, rows) in [(0, 50, 3), (32, 17, 40), (16, 5, 1)] {
            let (a, b) = (noise(&[images, rows, 9], 1, device), noise(&[images, rows, 5], 2, device));
            let over = |x: &Array| Rows::of(x.shape(), first);
            let sums = [
                ops::rows_sum(&a, over(&a)?)?,
                ops::rows_dot(&a, &ops::unary(Unary::Relu, &a)?, over(&a)?)?,
                ops::linear_weight_grad(&a, &b, over(&a)?)?,
            ];
            results.extend(sums.into_iter().flat_map(|sum| sum.into_blocks().map(|(_, _, node)| node)));
        }
        Ok(results)
    });
}

#[test]
fn convolutions() {
    let strided = Conv2d { stride: [2, 2], padding: [1, 1], ..Conv2d::default() };
    let grouped = Conv2d { padding: [2, 0], dilation: [2, 1], groups: 2, ..Conv2d::default() };
    same(|device| {
        let mut results = Vec::new();
        for (x, weight, options) in [
            ([3, 7, 6, 4], [3, 3, 4, 10], strided),
            ([2, 5, 9, 6], [3, 2, 3, 8], grouped),
            ([17, 4, 4, 2], [1, 1, 2, 3], Conv2d::default()),
        ] {
            let (x, weight) = (noise(&x, 1, device), noise(&weight, 2, device));
            let y = ops::conv2d(&x, &weight, &options)?;
            let dy = noise(y.shape(), 3, device);
            results.push(ops::conv2d_input_grad(&dy, &weight, x.shape(), &options)?);
            let rows = Rows::of(dy.shape(), 0)?;
            let dw = ops::conv2d_weight_grad(&x, &dy, weight.shape(), &options, rows)?;
            results.extend(dw.into_blocks().map(|(_, _, node)| node).chain([y]));
        }
        Ok(results)
    });
}

#[test]
fn batch_norm() {
    same(|device| {
        let mut results = Vec::new();
        for (first, shape) in [(0, [37, 2, 3, 5]), (16, [16, 1, 1, 40])] {
            let [x, dy, residual] = [1, 2, 3].map(|seed| noise(&shape, seed, device));
            let (gamma, beta) = (noise(&shape[3..], 4, device), noise(&shape[3..], 5, device));
            let rows = Rows::of(&shape, first)?;
            let mut tree = ops::StatsTree::default();
            tree.merge(ops::channel_stats(&x, rows)?)?;
            let stats: Vec<_> = tree.values().cloned().collect();
            for (mean, m2) in stats.iter().map(|stats| (&stats.mean, &stats.m2)) {
                results.extend([mean.clone(), m2.clone()]);
            }
            let stats = stats.into_iter().reduce(|a, b| a.merge(b).unwrap()).expect("a leaf at least");
            let (variance, mean) = (stats.variance()?, &stats.mean);
            let rstd = ops::reciprocal_std(&variance, 1e-5)?;
            let y = ops::batch_norm_apply(&x, mean, &rstd, Some(&gamma), Some(&beta), Some(&residual), true)?;
            results.push(ops::batch_norm_apply(&x, mean, &rstd, None, None, None, false)?);
            for y in [None, Some(&y)] {
                let (dbeta, dgamma) = ops::batch_norm_grad_sums(&dy, &x, y, mean, &rstd, rows)?;
                let sums = [dbeta, dgamma].map(|sum| sum.into_blocks().map(|(_, _, node)| node).collect::<Vec<_>>());
                let totals = Some((&sums[0][0], &sums[1][0], stats.count));
                results.push(ops::batch_norm_input_grad(&dy, &x, y, mean, &rstd, Some(&gamma), totals)?);
                results.push(ops::batch_norm_input_grad(&dy, &x, y, mean, &rstd, None, None)?);
                results.extend(sums.into_iter().flatten());
            }
            results.extend([y, stats.unbiased_variance()?, rstd]);
        }
        Ok(results)
    });
}
