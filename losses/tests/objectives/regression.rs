//! BYOL's regression and the correlations of Barlow Twins.

use crate::common::*;
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, ErrorKind, ops};
use selfsame_losses::{BarlowTwins, barlow_twins, barlow_twins_ranks, byol, byol_ranks, cosine_regression};

fn leaf(x: &Array) -> Tensor {
    Tensor::leaf(x.clone())
}

fn scaled(x: &Array, factor: f64) -> Array {
    ops::scale(x.copy().unwrap(), factor).unwrap()
}

#[test]
fn parallel_predictions_cost_0_orthogonal_ones_4_and_opposite_ones_8() {
    let (x, y) = (random(5, 6, 1), random(5, 6, 2));
    let loss = |p: [&Array; 2], z: [&Array; 2]| {
        let [p, z] = [p.map(leaf), z.map(leaf)];
        value(&byol([&p[0], &p[1]], [&z[0], &z[1]]).unwrap())
    };
    // A power of two leaves the unit vector as it is, to the bit.
    assert_eq!(loss([&scaled(&x, 4.0), &y], [&scaled(&y, 0.5), &x]), 0.0);
    close(loss([&scaled(&x, -3.0), &y], [&scaled(&y, -0.7), &x]), 8.0);
    let (a, b) = (axes(4, 8, 2.0), axes(8, 8, 0.3).slice(0, 4, 8).unwrap());
    close(loss([&a, &a], [&b, &b]), 4.0);
}

#[test]
fn lengths_do_not_matter_and_gradients_are_orthogonal_to_predictions() {
    let (p, z) = (leaf(&random(7, 4, 3)), random(7, 4, 4));
    let one = cosine_regression(&p, &leaf(&z), &single()).unwrap();
    let other = cosine_regression(&leaf(&scaled(p.array(), 3.0)), &leaf(&scaled(&z, 0.1)), &single()).unwrap();
    close(value(&one), value(&other));
    let (dp, p) = (gradient(&one, &p), p.array().to_vec::<f64>().unwrap());
    for (d, p) in dp.chunks(4).zip(p.chunks(4)) {
        let dot: f64 = d.iter().zip(p).map(|(d, p)| d * p).sum();
        assert!(dot.abs() < 1e-15 && d.iter().any(|d| d.abs() > 1e-3));
    }
}

#[test]
fn targets_get_no_gradient_and_views_may_change_places() {
    let [p0, p1, z0, z1] = [5, 6, 7, 8].map(|number| leaf(&random(6, 5, number)));
    let loss = byol([&p0, &p1], [&z0, &z1]).unwrap();
    let grads = loss.backward().unwrap();
    assert!(grads.get(&z0).unwrap().is_none() && grads.get(&z1).unwrap().is_none());
    let swapped = byol([&p1, &p0], [&z1, &z0]).unwrap();
    close(value(&loss), value(&swapped));
    let dp0 = grads.get(&p0).unwrap().unwrap().to_vec::<f64>().unwrap();
    all_close(&dp0, &gradient(&swapped, &p0));
    let short = byol([&p0, &p1], [&z0, &leaf(&random(5, 5, 0))]);
    assert_eq!(short.unwrap_err().kind(), ErrorKind::Shape);
}

fn barlow(a: &Array, b: &Array, lambda: f64) -> f64 {
    value(&barlow_twins(&leaf(a), &leaf(b), &BarlowTwins { lambda, ..BarlowTwins::default() }).unwrap())
}

/// `x` `[n, d]` with each dimension times its own factor, and its own number added.
fn moved(x: &Array, factors: &[f64], offsets: &[f64]) -> Array {
    let d = factors.len();
    ops::add(&ops::mul(x, &array(factors, &[d])).unwrap(), &array(offsets, &[d])).unwrap()
}

#[test]
fn equal_views_leave_the_redundancy_alone() {
    let z = random(64, 6, 9);
    // C_ii = var / (var + eps), short of 1 by about eps.
    assert!(barlow(&z, &z, 0.0) < 6.0 * (3e-5f64).powi(2));
    assert!(barlow(&z, &z, 1.0) > 0.1);
}

#[test]
fn independent_views_give_the_expected_value() {
    let (b, d) = (128, 32);
    // The mean over draws of what has expectation D (1 + 1/(B-1)) and D (D-1) / (B-1).
    let draws = 20;
    let (mut diagonal, mut rest) = (0.0, 0.0);
    for draw in 0..draws {
        let (x, y) = (random(b, d, 100 + 2 * draw), random(b, d, 101 + 2 * draw));
        let invariance = barlow(&x, &y, 0.0);
        diagonal += invariance / draws as f64;
        rest += (barlow(&x, &y, 1.0) - invariance) / draws as f64;
    }
    let (b, d) = (b as f64, d as f64);
    // Four standard errors: a diagonal entry varies by 2/sqrt(B), a square off it by sqrt(2)/B.
    assert!((diagonal - d * (1.0 + 1.0 / (b - 1.0))).abs() < 4.0 * 2.0 * (d / b / draws as f64).sqrt(), "{diagonal}");
    assert!((rest - d * (d - 1.0) / (b - 1.0)).abs() < 4.0 * 2f64.sqrt() * d / b / (draws as f64).sqrt(), "{rest}");
}

#[test]
fn scales_shifts_order_and_sides_do_not_matter() {
    let (n, d) = (40, 5);
    let (x, y) = (random(n, d, 10), random(n, d, 11));
    let loss = |x: &Array, y: &Array| {
        let o = BarlowTwins { lambda: 0.3, eps: 1e-12, ..BarlowTwins::default() };
        value(&barlow_twins(&leaf(x), &leaf(y), &o).unwrap())
    };
    let same = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} and {b}");
    let plain = loss(&x, &y);
    same(loss(&moved(&x, &[2.0, 0.1, 7.0, 1.0, 3.0], &[5.0, -1.0, 0.0, 2.0, 0.3]), &y), plain);
    same(loss(&x, &moved(&y, &[0.2, 3.0, 1.0, 9.0, 0.5], &[0.0, 4.0, -3.0, 1.0, 1.0])), plain);
    same(loss(&y, &x), plain);
    same(loss(&x.flip(0).unwrap(), &y.flip(0).unwrap()), plain);
    let flip = |x: &Array| moved(x, &[1.0, -1.0, 1.0, 1.0, 1.0], &[0.0; 5]);
    same(loss(&flip(&x), &flip(&y)), plain);
    // In one view alone it turns C_11 around: (1 + C)² in place of (1 - C)².
    let c = selfsame_losses::cross_correlation(&leaf(&x), &leaf(&y), 1e-12, &single()).unwrap();
    let c11 = c.array().to_vec::<f64>().unwrap()[d + 1];
    same(loss(&flip(&x), &y) - plain, 4.0 * c11);
}

#[test]
fn constant_embeddings_cost_d_and_a_copied_dimension_2_lambda() {
    let constant = array(&[0.5, -1.0, 3.0], &[3]).broadcast_to(&[32, 3]).unwrap();
    assert_eq!(barlow(&constant, &constant, 0.0051), 3.0);
    let x = random(256, 1, 12);
    let copied = ops::concat(&[&x, &x], 1).unwrap();
    let lambda = 0.25;
    assert!((barlow(&copied, &copied, lambda) - barlow(&copied, &copied, 0.0) - 2.0 * lambda).abs() < 1e-4);
}

#[test]
fn gradients_reach_both_views_and_neither_shift_nor_scale_a_dimension() {
    let (n, d) = (24, 4);
    let (a, b) = (leaf(&random(n, d, 13)), leaf(&random(n, d, 14)));
    let o = BarlowTwins { eps: 1e-12, lambda: 0.1, ..BarlowTwins::default() };
    let loss = barlow_twins(&a, &b, &o).unwrap();
    for (dz, z) in gradients(&loss, [&a, &b]).into_iter().zip([&a, &b]) {
        let z = z.array().to_vec::<f64>().unwrap();
        assert!(dz.iter().any(|d| d.abs() > 1e-3));
        for k in 0..d {
            let mean = (0..n).map(|i| z[i * d + k]).sum::<f64>() / n as f64;
            assert!((0..n).map(|i| dz[i * d + k]).sum::<f64>().abs() < 1e-12);
            assert!((0..n).map(|i| dz[i * d + k] * (z[i * d + k] - mean)).sum::<f64>().abs() < 1e-10);
        }
    }
    let negative = BarlowTwins { lambda: -1.0, ..o };
    assert_eq!(barlow_twins(&a, &b, &negative).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn ranks_do_not_change_a_bit() {
    let x: Vec<Array> = (20..24).map(|number| random(64, 8, number)).collect();
    expect_same_bits("byol", &x, &|x, comm| {
        let (p0, p1) = (leaf(&x[0]), leaf(&x[1]));
        Ok((byol_ranks([&p0, &p1], [&leaf(&x[2]), &leaf(&x[3])], &comm)?, local([p0, p1])))
    });
    expect_same_bits("barlow_twins", &x[..2], &|x, comm| {
        let (a, b) = (leaf(&x[0]), leaf(&x[1]));
        Ok((barlow_twins_ranks(&a, &b, &BarlowTwins::default(), &comm)?, local([a, b])))
    });
}
