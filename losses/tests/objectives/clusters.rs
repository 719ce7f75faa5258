//! Cluster numbers as labels: DeepCluster's cross-entropy, self-labelling, and distillation beside it.

use crate::common::*;
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, Comm, ErrorKind, ops};
use selfsame_kernels::math::Real;
use selfsame_losses::{ClusterDistillation, IGNORED, cluster_cross_entropy_ranks, cluster_distillation_ranks};

fn leaf(x: &Array) -> Tensor {
    Tensor::leaf(x.clone())
}

fn cross_entropy(views: &[Tensor], y: &[i64]) -> Tensor {
    cluster_cross_entropy_ranks(views, &labels(y), 1.0, &single()).unwrap()
}

#[test]
fn one_cluster_costs_nothing() {
    let x = leaf(&random(5, 1, 0));
    let loss = cross_entropy(std::slice::from_ref(&x), &[0; 5]);
    assert_eq!(value(&loss), 0.0);
    assert!(gradient(&loss, &x).iter().all(|d| *d == 0.0));
    let soft = distilled(&x, &[0; 5], &random(5, 1, 1), ClusterDistillation::default());
    assert_eq!(value(&soft), 0.0);
    assert!(gradient(&soft, &x).iter().all(|d| *d == 0.0));
}

#[test]
fn images_without_a_cluster_count_neither_above_nor_below() {
    let (views, k) = ([leaf(&random(6, 4, 2)), leaf(&random(6, 4, 3))], 4);
    let some = cross_entropy(&views, &[1, IGNORED, 3, 0, IGNORED, 2]);
    let kept = |x: &Tensor| Tensor::concat(&[&x.slice(0, 0, 1)?, &x.slice(0, 2, 4)?, &x.slice(0, 5, 6)?], 0);
    let left = views.each_ref().map(|x| kept(x).unwrap());
    close(value(&some), value(&cross_entropy(&left, &[1, 3, 0, 2])));
    let dx = gradient(&some, &views[1]);
    assert!(dx[k..2 * k].iter().chain(&dx[4 * k..5 * k]).all(|d| *d == 0.0));
    assert!(dx[..k].iter().all(|d| *d != 0.0));

    let none = cross_entropy(&views, &[IGNORED; 6]);
    assert_eq!(value(&none), 0.0);
    assert!(gradient(&none, &views[0]).iter().all(|d| *d == 0.0));
    for bad in [4, -1] {
        let refused = cluster_cross_entropy_ranks(&views, &labels(&[0, 0, 0, 0, 0, bad]), 1.0, &single());
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Shape);
    }
}

#[test]
fn views_share_the_cluster_of_their_image() {
    let (a, b) = (leaf(&random(4, 3, 4)), leaf(&random(4, 3, 5)));
    let y = [2, 0, 1, 1];
    let one = |x: &Tensor| value(&cross_entropy(std::slice::from_ref(x), &y));
    close(value(&cross_entropy(&[a.clone(), b.clone()], &y)), (one(&a) + one(&b)) / 2.0);
    close(one(&a), value(&a.cross_entropy(&labels(&y)).unwrap()));
}

fn distilled(scores: &Tensor, y: &[i64], memory: &Array, o: ClusterDistillation) -> Tensor {
    cluster_distillation_ranks(scores, &labels(y), &leaf(memory), &o, &single()).unwrap()
}

const Y: [i64; 6] = [1, IGNORED, 3, 0, IGNORED, 2];

#[test]
fn alpha_0_is_deepcluster_to_the_bit() {
    let (x, memory) = (leaf(&random(6, 4, 6)), random(6, 4, 7));
    let o = ClusterDistillation { alpha: 0.0, ..ClusterDistillation::default() };
    let with = distilled(&x, &Y, &memory, o);
    let without = cluster_cross_entropy_ranks(std::slice::from_ref(&x), &labels(&Y), 0.1, &single()).unwrap();
    assert_eq!(value(&with), value(&without));
    assert_eq!(gradient(&with, &x), gradient(&without, &x));
}

#[test]
fn a_cold_teacher_gives_the_cluster_numbers_again() {
    let (x, memory) = (leaf(&random(6, 4, 8)), random(6, 4, 9));
    let nearest = ops::argmax(&memory, 1).unwrap().to_vec::<i64>().unwrap();
    let o = ClusterDistillation {
        distillation_temperature: 1e-4,
        alpha: 0.6,
        mix_targets: true,
        ..ClusterDistillation::default()
    };
    let (mixed, hard) = (distilled(&x, &nearest, &memory, o), distilled(&x, &nearest, &memory, zero_alpha(o)));
    close(value(&mixed), value(&hard));
    all_close(&gradient(&mixed, &x), &gradient(&hard, &x));
}

fn zero_alpha(o: ClusterDistillation) -> ClusterDistillation {
    ClusterDistillation { alpha: 0.0, ..o }
}

#[test]
fn clusters_may_be_renumbered() {
    let (x, memory) = (random(6, 4, 10), random(6, 4, 11));
    let turned: Vec<i64> = Y.iter().map(|y| if *y == IGNORED { IGNORED } else { 3 - y }).collect();
    for (mix_targets, rescale) in [(false, false), (false, true), (true, false)] {
        let o = ClusterDistillation {
            mix_targets,
            rescale,
            distillation_temperature: 0.3,
            ..ClusterDistillation::default()
        };
        let plain = distilled(&leaf(&x), &Y, &memory, o);
        let renumbered = distilled(&leaf(&x.flip(1).unwrap()), &turned, &memory.flip(1).unwrap(), o);
        close(value(&plain), value(&renumbered));
    }
}

#[test]
fn equal_temperatures_make_mixed_losses_and_mixed_targets_one() {
    let (x, memory) = (leaf(&random(6, 4, 12)), random(6, 4, 13));
    let o = ClusterDistillation { alpha: 0.3, ..ClusterDistillation::default() };
    let (losses, targets) = (distilled(&x, &Y, &memory, o), ClusterDistillation { mix_targets: true, ..o });
    close(value(&losses), value(&distilled(&x, &Y, &memory, targets)));
    let memory = leaf(&memory);
    let loss = cluster_distillation_ranks(&x, &labels(&Y), &memory, &o, &single()).unwrap();
    assert!(loss.backward().unwrap().get(&memory).unwrap().is_none());
}

/// SeLa's labels from log-probabilities: the argmax of balanced codes.
fn self_labels(log_p: &Array, lambda: f64, column_error: f64) -> (Vec<i64>, ops::SinkhornResult) {
    let result = ops::sinkhorn(log_p, &ops::Sinkhorn::sela(lambda, column_error, 2000), &Comm::single()).unwrap();
    (ops::argmax(&result.codes, 1).unwrap().to_vec().unwrap(), result)
}

/// Log-probabilities of 10 classes for `n` images, with a strong preference for some classes.
fn biased(n: usize) -> Array {
    let bias: Vec<f64> = (0..10).map(|k| if k % 3 == 0 { 2.0 } else { -0.3 * k as f64 }).collect();
    ops::log_softmax(&ops::add(&random(n, 10, 14), &array(&bias, &[10])).unwrap()).unwrap()
}

#[test]
fn self_labelling_balances_a_biased_classifier() {
    let n = 2000;
    let log_p = biased(n);
    let counts = |y: &[i64]| (0..10).map(|k| y.iter().filter(|y| **y == k).count()).collect::<Vec<_>>();
    let raw = counts(&ops::argmax(&log_p, 1).unwrap().to_vec::<i64>().unwrap());
    assert!(raw.iter().any(|count| *count < 50) && raw.iter().any(|count| *count > 400), "{raw:?}");
    let mut iterations = Vec::new();
    for lambda in [10.0, 25.0] {
        // The script's tolerance 0.1 bounds a sum over images of relative errors: N times the error of the masses.
        let (y, result) = self_labels(&log_p, lambda, 0.1 / n as f64);
        let balanced = counts(&y);
        // The codes are balanced; their argmax is to a few per cent.
        assert!(balanced.iter().all(|count| count.abs_diff(n / 10) <= n / 10 * 5 / 100), "{balanced:?}");
        assert!(result.row_error.max < 1e-12 && result.column_error.l1 < 0.1 / n as f64);
        iterations.push(result.iterations);
    }
    assert!(iterations[0] < iterations[1], "{iterations:?}: more for a larger lambda");
}

#[test]
fn self_labels_do_not_change_when_a_class_is_multiplied() {
    let log_p = biased(200);
    let factors = array(&(0..10).map(|k| 0.37 * k as f64 - 1.0).collect::<Vec<_>>(), &[10]);
    let scaled = ops::add(&log_p, &factors).unwrap();
    let (plain, _) = self_labels(&log_p, 10.0, 1e-9);
    assert_eq!(self_labels(&scaled, 10.0, 1e-9).0, plain);
}

#[test]
fn self_labels_are_the_argmax_of_scaled_log_probabilities_plus_an_offset_per_class() {
    let log_p = biased(300);
    let (y, result) = self_labels(&log_p, 10.0, 1e-9);
    let (log_p, codes) = (log_p.to_vec::<f64>().unwrap(), result.codes.to_vec::<f64>().unwrap());
    // ln a_k from the first image's codes, up to a constant; Q = a p^λ b.
    let offset = |row: usize, k: usize| Real::log(codes[row * 10 + k]) - 10.0 * log_p[row * 10 + k];
    let offsets: Vec<f64> = (0..10).map(|k| offset(0, k) - offset(0, 0)).collect();
    for (row, label) in y.iter().enumerate() {
        let score = |k: usize| 10.0 * log_p[row * 10 + k] + offsets[k];
        let best = (0..10).max_by(|a, b| score(*a).total_cmp(&score(*b))).unwrap();
        assert_eq!(best as i64, *label);
    }
}

#[test]
fn a_balanced_classifier_keeps_its_labels_and_relabelling_lowers_the_loss() {
    // Every class first choice of one image in ten, by as much.
    let rows: Vec<f64> = (0..400).map(|i| if i % 10 == i / 10 % 10 { 2.0 } else { 0.0 }).collect();
    let log_p = ops::log_softmax(&array(&rows, &[40, 10])).unwrap();
    let (y, _) = self_labels(&log_p, 25.0, 1e-9);
    assert_eq!(y, ops::argmax(&log_p, 1).unwrap().to_vec::<i64>().unwrap());

    let n = 400;
    let log_p = biased(n);
    let cost = |y: &[i64]| value(&cluster_cross_entropy_ranks(&[leaf(&log_p)], &labels(y), 1.0, &single()).unwrap());
    let before: Vec<i64> = (0..n as i64).map(|i| (i * 7 + 3) % 10).collect();
    let (after, _) = self_labels(&log_p, 25.0, 1e-6);
    assert!(cost(&after) < cost(&before));
}

#[test]
fn ranks_do_not_change_a_bit() {
    let y = labels(&(0..64).map(|i| if i % 5 == 0 { IGNORED } else { i * i % 12 }).collect::<Vec<_>>());
    let inputs = [random(64, 12, 20), random(64, 12, 21), y];
    expect_same_bits("cluster_cross_entropy", &inputs, &|x, comm| {
        let views = [leaf(&x[0]), leaf(&x[1])];
        Ok((cluster_cross_entropy_ranks(&views, &x[2], 0.5, &comm)?, local(views)))
    });
    expect_same_bits("cluster_distillation", &inputs, &|x, comm| {
        let scores = leaf(&x[0]);
        let o =
            ClusterDistillation { temperature: 0.5, distillation_temperature: 1.0, ..ClusterDistillation::default() };
        Ok((cluster_distillation_ranks(&scores, &x[2], &leaf(&x[1]), &o, &comm)?, local([scores])))
    });
}
