//! The definitions against plain sums in f64, and the properties that the order is there for.

use proptest::prelude::*;
use selfsame_kernels::order::{CHUNK, LEAF};
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_kernels::reference::{self, Chain, Conv2d, Samples};

/// Uniform on [-1, 1), f32 numbers in both formats.
fn numbers(seed: u64, n: usize) -> Vec<f32> {
    let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    (0..n).map(|_| 2.0 * stream.uniform_f32() - 1.0).collect()
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&v| f64::from(v)).collect()
}

/// Each f32 element within the error of a sum of `terms` products below 1.
fn assert_close(got: &[f32], want: &[f64], terms: usize) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() <= terms as f64 * f64::from(f32::EPSILON), "{g} is not {w}");
    }
}

#[test]
fn chain_is_cut_at_nominal_positions() {
    // 2^24 + 1 + 1 is 2^24 in one f32 chain, 2^24 + 2 when the ones meet in a chunk of their own.
    let big = 16777216.0f32;
    let sum = |positions: [usize; 3]| {
        let mut chain = Chain::new();
        for (position, value) in positions.into_iter().zip([big, 1.0, 1.0]) {
            chain.add(position, value);
        }
        chain.finish()
    };
    assert_eq!(sum([0, 1, 2]), big);
    assert_eq!(sum([0, CHUNK, CHUNK + 1]), big + 2.0);
    assert_eq!(sum([CHUNK - 1, 3 * CHUNK, 4 * CHUNK - 1]), big + 2.0);
}

#[test]
fn sums_without_terms_are_positive_zero() {
    assert_eq!(Chain::<f32>::new().finish().to_bits(), 0);
    assert_eq!(reference::contract::<f32>(1, 2, 0, &[], &[]), [0.0, 0.0]);
    let samples = Samples { images: 0, rows_per_image: 4 };
    assert_eq!(reference::rows_sum::<f32>(samples, 2, &[]), [0.0, 0.0]);
    assert_eq!(reference::batch_stats::<f32>(samples, 1, &[])[0].count, 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn contract_is_the_matrix_product(m in 1usize..4, n in 1usize..4, k in 0usize..1200, seed: u64) {
        let (a, b) = (numbers(seed, m * k), numbers(seed + 1, k * n));
        let mut want = vec![0f64; m * n];
        for i in 0..m {
            for p in 0..k {
                for j in 0..n {
                    want[i * n + j] += f64::from(a[i * k + p]) * f64::from(b[p * n + j]);
                }
            }
        }
        assert_close(&reference::contract(m, n, k, &a, &b), &want, k);
    }

    // <dy, conv(x, w)> is linear in x and in w, and the gradients are its coefficients.
    #[test]
    fn convolution_and_its_gradients_are_adjoint(
        (n, groups, gc, gc_out) in (1usize..3, 1usize..3, 1usize..4, 1usize..4), (kh, kw) in (1usize..4, 1usize..4),
        (h, w) in (5usize..8, 5usize..8), stride in 1usize..3, padding in 0usize..3, dilation in 1usize..3, seed: u64,
    ) {
        let shape = Conv2d {
            n, h, w, c: groups * gc, c_out: groups * gc_out, kh, kw,
            stride: [stride, 3 - stride], padding: [padding, padding / 2], dilation: [dilation, 1], groups,
        };
        let x = widen(&numbers(seed, n * h * w * shape.c));
        let weight = widen(&numbers(seed + 1, kh * kw * gc * shape.c_out));
        let dy = widen(&numbers(seed + 2, n * shape.oh() * shape.ow() * shape.c_out));
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let value = dot(&dy, &reference::conv2d(&shape, &x, &weight));
        prop_assert!((dot(&x, &reference::conv2d_input_grad(&shape, &dy, &weight)) - value).abs() < 1e-10);
        prop_assert!((dot(&weight, &reference::conv2d_weight_grad(&shape, &x, &dy)) - value).abs() < 1e-10);
    }

    #[test]
    fn one_by_one_convolution_is_the_matrix_product_to_the_bit(c in 1usize..1100, c_out in 1usize..3, seed: u64) {
        let (x, weight) = (numbers(seed, 4 * c), numbers(seed + 1, c * c_out));
        let one = [1, 1];
        let shape = Conv2d {
            n: 1, h: 2, w: 2, c, c_out, kh: 1, kw: 1, stride: one, padding: [0, 0], dilation: one, groups: 1,
        };
        prop_assert_eq!(reference::conv2d(&shape, &x, &weight), reference::contract(4, c_out, c, &x, &weight));
    }

    #[test]
    fn batch_cut_on_a_node_of_the_tree_gives_the_same_bits(
        rows_per_image in 1usize..50, more in 1usize..=32, seed: u64,
    ) {
        let cut = 2 * LEAF;
        let samples = |images| Samples { images, rows_per_image };
        let (k, n) = (2, 3);
        let x = numbers(seed, (cut + more) * rows_per_image * k);
        let dy = numbers(seed + 1, (cut + more) * rows_per_image * n);
        let (x1, x2) = x.split_at(cut * rows_per_image * k);
        let (dy1, dy2) = dy.split_at(cut * rows_per_image * n);
        // With at most two further leaves the root's halves are the two parts.
        let add = |a: Vec<f32>, b: Vec<f32>| a.iter().zip(&b).map(|(a, b)| a + b).collect::<Vec<f32>>();
        prop_assert_eq!(
            reference::linear_weight_grad(samples(cut + more), k, n, &x, &dy),
            add(reference::linear_weight_grad(samples(cut), k, n, x1, dy1),
                reference::linear_weight_grad(samples(more), k, n, x2, dy2))
        );
        prop_assert_eq!(
            reference::rows_sum(samples(cut + more), n, &dy),
            add(reference::rows_sum(samples(cut), n, dy1), reference::rows_sum(samples(more), n, dy2))
        );
        let (whole, first, second) = (
            reference::batch_stats(samples(cut + more), n, &dy),
            reference::batch_stats(samples(cut), n, dy1),
            reference::batch_stats(samples(more), n, dy2),
        );
        for j in 0..n {
            prop_assert_eq!(whole[j], first[j].merge(second[j]));
        }
    }

    #[test]
    fn rows_dot_is_the_diagonal_of_the_weight_gradient(images in 1usize..40, rows_per_image in 1usize..60, seed: u64) {
        let samples = Samples { images, rows_per_image };
        let (a, b) = (numbers(seed, 2 * images * rows_per_image), numbers(seed + 1, 2 * images * rows_per_image));
        let full = reference::linear_weight_grad(samples, 2, 2, &a, &b);
        prop_assert_eq!(reference::rows_dot(samples, 2, &a, &b), vec![full[0], full[3]]);
    }

    #[test]
    fn batch_stats_are_mean_and_squared_deviation(images in 1usize..40, rows_per_image in 1usize..80, seed: u64) {
        let x: Vec<f32> = numbers(seed, images * rows_per_image).iter().map(|v| v + 100.0).collect();
        let stats = reference::batch_stats(Samples { images, rows_per_image }, 1, &x)[0];
        let count = x.len() as f64;
        let mean = widen(&x).iter().sum::<f64>() / count;
        let variance = widen(&x).iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / count;
        prop_assert_eq!(stats.count, x.len());
        prop_assert!((f64::from(stats.mean) - mean).abs() < 1e-4);
        prop_assert!((f64::from(stats.m2) / count - variance).abs() < 1e-4 * (1.0 + variance));
    }

    #[test]
    fn row_functions_agree_with_their_formulas(n in 1usize..70, seed: u64) {
        let x = widen(&numbers(seed, n));
        let softmax = reference::softmax(&x);
        prop_assert!((softmax.iter().sum::<f64>() - 1.0).abs() < 1e-14);
        let lse = x.iter().map(|v| v.exp()).sum::<f64>().ln();
        prop_assert!((reference::log_sum_exp(&x) - lse).abs() < 1e-14);
        for (j, log) in reference::log_softmax(&x).into_iter().enumerate() {
            prop_assert!((log - (x[j] - lse)).abs() < 1e-14);
            prop_assert!((softmax[j] - log.exp()).abs() < 1e-14);
        }
        let unit = reference::l2_normalize(&x, 1e-12);
        prop_assert!((unit.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-14);
        let normed = reference::layer_norm(&x, &vec![2.0; n], &vec![0.5; n], 1e-5);
        let mean = x.iter().sum::<f64>() / n as f64;
        let variance = x.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / n as f64;
        for (y, v) in normed.y.iter().zip(&x) {
            prop_assert!((y - (2.0 * (v - mean) / (variance + 1e-5).sqrt() + 0.5)).abs() < 1e-10);
        }
    }
}

#[test]
fn masked_rows_have_the_stated_limits() {
    let masked = [f32::NEG_INFINITY; 3];
    assert_eq!(reference::log_sum_exp(&masked), f32::NEG_INFINITY);
    assert!(reference::softmax(&masked).iter().all(|y| y.is_nan()));
    assert_eq!(reference::softmax(&[0.0f32, f32::NEG_INFINITY]), [1.0, 0.0]);
}
