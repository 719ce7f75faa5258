//! Assignments to prototypes: SwAV's balanced codes, DINO's centred teacher, MIRA's informative labels, CARL and IIC.

use crate::common::*;
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, ErrorKind, ops};
use selfsame_kernels::math::Real;
use selfsame_losses::{
    Carl, Codes, LOSSES, Mira, Scan, balanced_codes, carl, carl_ranks, centred_targets, evaluate, find, iic, iic_ranks,
    informative_labels, mean_entropy, scan, swapped_cross_entropy,
};
use std::collections::BTreeMap;

fn leaf(x: &Array) -> Tensor {
    Tensor::leaf(x.clone())
}

fn constant(x: Array) -> Tensor {
    Tensor::constant(x)
}

/// Scores of random unit vectors of `d` elements with random unit prototypes.
fn cosines(rows: usize, k: usize, d: usize, number: u64) -> Array {
    let unit = |x: Array| ops::l2_normalize(&x, 1e-12).unwrap().0;
    let (z, c) = (unit(random(rows, d, number)), unit(random(k, d, number + 1)));
    ops::matmul(&z, &c.transpose(0, 1).unwrap()).unwrap()
}

fn codes(scores: &Array, epsilon: f64, iterations: usize) -> Vec<f64> {
    balanced_codes(scores, None, &Codes { epsilon, iterations }, &single()).unwrap().to_vec().unwrap()
}

fn masses(rows: &[f64], k: usize) -> Vec<f64> {
    (0..k).map(|j| rows.iter().skip(j).step_by(k).sum()).collect()
}

#[test]
fn codes_are_distributions_and_prototypes_get_nearly_equal_shares() {
    let (n, k) = (256, 32);
    let scores = cosines(n, k, 16, 1);
    for (iterations, low, high) in [(3, 0.6, 1.4), (10, 0.98, 1.02), (200, 1.0 - 1e-6, 1.0 + 1e-6)] {
        let q = codes(&scores, 0.05, iterations);
        assert!(q.chunks(k).all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-12));
        let share = |mass: &f64| mass * k as f64 / n as f64;
        let shares: Vec<f64> = masses(&q, k).iter().map(share).collect();
        assert!(shares.iter().all(|share| (low..high).contains(share)), "{iterations}: {shares:?}");
    }
}

#[test]
fn equal_scores_give_uniform_codes_and_a_loss_of_ln_k() {
    let (n, k) = (8, 5);
    let scores = Array::full(0.3, &[n, k], &device()).unwrap();
    let q = codes(&scores, 0.05, 3);
    q.iter().for_each(|q| close(*q, 0.2));
    let q = array(&q, &[n, k]);
    let views = [leaf(&scores), leaf(&scores)];
    let loss = swapped_cross_entropy(&views, &[constant(q.clone()), constant(q)], 0.1, &single()).unwrap();
    close(value(&loss), Real::log(5.0));
}

#[test]
fn one_prototype_leaves_nothing_to_predict() {
    let views = [leaf(&random(6, 1, 3)), leaf(&random(6, 1, 4))];
    let targets = views.each_ref().map(|s| constant(array(&codes(s.array(), 0.05, 3), &[6, 1])));
    let loss = swapped_cross_entropy(&views, &targets, 0.1, &single()).unwrap();
    assert_eq!(value(&loss), 0.0);
    assert!(gradient(&loss, &views[0]).iter().all(|d| *d == 0.0));
    let dino = centred_targets(views[0].array(), &array(&[0.4], &[1]), 0.04).unwrap();
    assert_eq!(dino.to_vec::<f64>().unwrap(), [1.0; 6]);
}

#[test]
fn what_is_added_to_a_prototype_s_scores_does_not_change_codes() {
    let (n, k) = (20, 6);
    let scores = cosines(n, k, 8, 5);
    let shifted = ops::add(&scores, &array(&[0.3, -0.2, 0.0, 0.1, 0.25, -0.3], &[k])).unwrap();
    for iterations in [1, 3] {
        let (a, b) = (codes(&scores, 0.25, iterations), codes(&shifted, 0.25, iterations));
        a.iter().zip(&b).for_each(|(a, b)| assert!((a - b).abs() < 1e-12));
    }
    // Added to a sample's scores, at convergence alone.
    let offsets: Vec<f64> = (0..n).map(|i| 0.03 * i as f64 - 0.3).collect();
    let lifted = ops::add(&scores, &array(&offsets, &[n, 1])).unwrap();
    let difference = |iterations| {
        let (a, b) = (codes(&scores, 0.25, iterations), codes(&lifted, 0.25, iterations));
        a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
    };
    assert!(difference(1) > 1e-3 && difference(300) < 1e-9);
}

#[test]
fn epsilon_goes_from_one_hot_to_uniform_codes() {
    let (n, k) = (24, 6);
    let scores = cosines(n, k, 8, 7);
    let sharp = codes(&scores, 0.002, 50);
    let sure = sharp.chunks(k).filter(|row| row.iter().any(|q| *q > 0.99)).count();
    assert!(sure >= n - k, "{sure}: all but a few on the borders");
    codes(&scores, 1e6, 3).iter().for_each(|q| assert!((q - 1.0 / k as f64).abs() < 1e-5));
}

#[test]
fn a_queue_takes_its_share_and_the_codes_are_the_batch_s() {
    let (n, k) = (16, 4);
    let (batch, queue) = (cosines(n, k, 8, 9), cosines(48, k, 8, 11));
    let o = Codes::default();
    let with = balanced_codes(&batch, Some(&queue), &o, &single()).unwrap();
    assert_eq!(with.shape(), [n, k]);
    let joined = balanced_codes(&ops::concat(&[&queue, &batch], 0).unwrap(), None, &o, &single()).unwrap();
    let last = joined.slice(0, 48, 64).unwrap().to_vec::<f64>().unwrap();
    let with = with.to_vec::<f64>().unwrap();
    with.iter().zip(&last).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "the order of the queue is rounding"));
    let alone = codes(&batch, 0.05, 3);
    assert!(with.iter().zip(&alone).any(|(a, b)| (a - b).abs() > 1e-3));
    let narrow = balanced_codes(&batch, Some(&cosines(8, 3, 8, 0)), &o, &single());
    assert_eq!(narrow.unwrap_err().kind(), ErrorKind::Shape);
}

#[test]
fn large_views_may_change_places_and_the_gradient_is_that_of_fixed_codes() {
    let (n, k) = (12, 5);
    let views = [0, 1, 2].map(|view| leaf(&cosines(n, k, 8, 20 + 2 * view)));
    let q = [0, 1].map(|a| constant(array(&codes(views[a].array(), 0.05, 3), &[n, k])));
    let [a, b, small] = views.clone();
    let loss = swapped_cross_entropy(&views, &q, 0.1, &single()).unwrap();
    let swapped = swapped_cross_entropy(&[b, a, small.clone()], &[q[1].clone(), q[0].clone()], 0.1, &single()).unwrap();
    close(value(&loss), value(&swapped));
    let found = gradient(&loss, &small);
    all_close(&found, &gradient(&swapped, &small));

    // A pair's gradient is (p - q) / (τ B); the small view is in two pairs of four.
    let p = views[2].scale(10.0).unwrap().softmax().unwrap().array().to_vec::<f64>().unwrap();
    let q: Vec<Vec<f64>> = q.iter().map(|q| q.array().to_vec().unwrap()).collect();
    let expected: Vec<f64> =
        (0..n * k).map(|i| ((p[i] - q[0][i]) + (p[i] - q[1][i])) / (0.1 * n as f64) / 4.0).collect();
    found.iter().zip(&expected).for_each(|(a, b)| assert!((a - b).abs() < 1e-14));
}

#[test]
fn targets_need_other_views() {
    let x = leaf(&random(4, 3, 0));
    let t = x.detach();
    let (one, target) = (std::slice::from_ref(&x), std::slice::from_ref(&t));
    let run = |views: &[Tensor], targets: &[Tensor]| swapped_cross_entropy(views, targets, 0.1, &single());
    assert_eq!(run(one, target).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(run(&[x.clone(), x.clone()], &[]).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(run(&[x.clone(), leaf(&random(4, 2, 0))], target).unwrap_err().kind(), ErrorKind::Shape);
    assert_eq!(
        swapped_cross_entropy(&[x.clone(), x.clone()], target, 0.0, &single()).unwrap_err().kind(),
        ErrorKind::Config
    );
}

#[test]
fn a_teacher_without_preferences_gives_ln_k() {
    let k = 65536;
    let flat = Array::full(0.2, &[2, k], &device()).unwrap();
    let targets = constant(centred_targets(&flat, &Array::full(0.0, &[k], &device()).unwrap(), 0.04).unwrap());
    let views = [leaf(&flat), leaf(&flat)];
    let loss = swapped_cross_entropy(&views, &[targets.clone(), targets.clone()], 0.1, &single()).unwrap();
    assert!((value(&loss) - 11.090354888959125).abs() < 1e-10, "16 ln 2");
    assert!((mean_entropy(&[targets], &single()).unwrap() - value(&loss)).abs() < 1e-10);
}

#[test]
fn what_is_added_to_teacher_and_centre_cancels() {
    let (n, k) = (6, 5);
    let teacher = random(n, k, 30);
    let (centre, vector) = (random(1, k, 31).reshape(&[k]).unwrap(), random(1, k, 32).reshape(&[k]).unwrap());
    let targets = |teacher: &Array, centre: &Array| -> Vec<f64> {
        centred_targets(teacher, centre, 0.3).unwrap().to_vec().unwrap()
    };
    let plain = targets(&teacher, &centre);
    let near = |a: &[f64]| a.iter().zip(&plain).for_each(|(a, b)| assert!((a - b).abs() < 1e-13));
    near(&targets(&ops::add(&teacher, &vector).unwrap(), &ops::add(&centre, &vector).unwrap()));
    near(&targets(&ops::add(&teacher, &Array::scalar(2.5, &device()).unwrap()).unwrap(), &centre));
    assert_eq!(centred_targets(&teacher, &array(&[0.0; 4], &[4]), 0.3).unwrap_err().kind(), ErrorKind::Shape);
}

#[test]
fn the_loss_is_at_least_the_entropy_of_the_teacher_and_equals_it_for_the_same_distributions() {
    let (n, k) = (6, 5);
    let [a, b, s] = [33, 34, 35].map(|number| random(n, k, number));
    let zero = Array::full(0.0, &[k], &device()).unwrap();
    let t = [&a, &b].map(|t| constant(centred_targets(t, &zero, 0.2).unwrap()));
    let entropy = mean_entropy(&t, &single()).unwrap();
    let other = swapped_cross_entropy(&[leaf(&s), leaf(&a)], &t, 0.1, &single()).unwrap();
    assert!(value(&other) > entropy + 1e-3);
    // Each view gives what the teacher gives for the other one, at a temperature of its own.
    let half = |x: &Array| leaf(&ops::scale(x.copy().unwrap(), 0.5).unwrap());
    let same = swapped_cross_entropy(&[half(&b), half(&a)], &t, 0.1, &single()).unwrap();
    close(value(&same), entropy);
}

fn labels_of(logits: &Array, o: &Mira) -> Vec<f64> {
    informative_labels(logits, o, &single()).unwrap().to_vec().unwrap()
}

fn softmax(logits: &Array, temperature: f64) -> Vec<f64> {
    ops::softmax(&ops::scale(logits.copy().unwrap(), 1.0 / temperature).unwrap()).unwrap().to_vec().unwrap()
}

/// mean KL(W_i || p_i) - β I(W), and I(W).
fn objective(w: &[f64], p: &[f64], k: usize, beta: f64) -> (f64, f64) {
    let n = (w.len() / k) as f64;
    let x_ln_x = |x: f64| if x > 0.0 { x * Real::log(x) } else { 0.0 };
    let divergence: f64 = w.iter().zip(p).map(|(w, p)| x_ln_x(*w) - w * Real::log(*p)).sum();
    let information =
        w.iter().map(|w| x_ln_x(*w)).sum::<f64>() / n - masses(w, k).iter().map(|m| x_ln_x(m / n)).sum::<f64>();
    (divergence / n - beta * information, information)
}

#[test]
fn beta_0_leaves_the_teacher_s_probabilities() {
    let logits = random(9, 4, 40);
    let p = softmax(&logits, 0.225);
    for iterations in [0, 1, 30] {
        let w = labels_of(&logits, &Mira { beta: 0.0, iterations, ..Mira::default() });
        w.iter().zip(&p).for_each(|(w, p)| assert!((w - p).abs() < 1e-14));
    }
}

#[test]
fn equal_logits_in_all_rows_leave_the_teacher_s_probabilities() {
    let k = 4;
    let row = random(1, k, 41);
    let logits = row.broadcast_to(&[8, k]).unwrap().contiguous().unwrap();
    let p = softmax(&logits, 0.225);
    for (beta, iterations) in [(0.5, 1), (2.0 / 3.0, 30), (0.75, 5)] {
        let w = labels_of(&logits, &Mira { beta, iterations, ..Mira::default() });
        w.iter().zip(&p).for_each(|(w, p)| assert!((w - p).abs() < 1e-12, "{w} and {p}"));
    }
}

#[test]
fn the_solver_s_error_shrinks_at_least_by_beta_each_iteration() {
    let (n, k) = (64, 8);
    let logits = cosines(n, k, 8, 42);
    for beta in [0.5, 2.0 / 3.0, 0.75] {
        let shares = |iterations| masses(&labels_of(&logits, &Mira { temperature: 0.225, beta, iterations }), k);
        let exact = shares(400);
        let error =
            |iterations| shares(iterations).iter().zip(&exact).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt();
        // v itself shrinks by β, for its scale does; the labels do not see its scale.
        assert!(error(5) > 1e-9);
        assert!(error(10) / error(5) < Real::exp(5.0 * Real::log(beta)), "{} and {} for {beta}", error(10), error(5));
    }
}

#[test]
fn labels_are_the_optimum_and_tell_more_than_the_teacher() {
    let (n, k) = (32, 6);
    let logits = cosines(n, k, 8, 44);
    let (temperature, beta) = (0.225, 0.75);
    let p = softmax(&logits, temperature);
    let w = labels_of(&logits, &Mira { temperature, beta, iterations: 300 });
    assert!(w.chunks(k).all(|row| (row.iter().sum::<f64>() - 1.0).abs() < 1e-12));
    // The stationary point: W_ij ∝ p_ij^(1/(1-β)) u_j^(-β/(1-β)) with u the mean of W.
    let u: Vec<f64> = masses(&w, k).iter().map(|m| m / n as f64).collect();
    for (w, p) in w.chunks(k).zip(p.chunks(k)) {
        let unnormalised = |j: usize| Real::exp((Real::log(p[j]) - beta * Real::log(u[j])) / (1.0 - beta));
        let total: f64 = (0..k).map(unnormalised).sum();
        (0..k).for_each(|j| assert!((w[j] - unnormalised(j) / total).abs() < 1e-9));
    }
    let (best, information) = objective(&w, &p, k, beta);
    let (of_p, information_of_p) = objective(&p, &p, k, beta);
    assert!(best < of_p && information > information_of_p);
    for number in 0..20 {
        let noise = random(n, k, 200 + number).to_vec::<f64>().unwrap();
        let mut moved: Vec<f64> = w.iter().zip(&noise).map(|(w, e)| w * Real::exp(0.05 * e)).collect();
        for row in moved.chunks_mut(k) {
            let total: f64 = row.iter().sum();
            row.iter_mut().for_each(|w| *w /= total);
        }
        assert!(objective(&moved, &p, k, beta).0 > best);
    }
    let few = labels_of(&logits, &Mira { temperature, beta, iterations: 1 });
    assert!(objective(&few, &p, k, beta).0 > best + 1e-6, "one iteration is not enough");
}

#[test]
fn mass_moves_towards_equal_use_but_not_all_the_way() {
    let (n, k) = (64, 6);
    let biased = ops::add(&cosines(n, k, 8, 46), &array(&[0.4, 0.2, 0.0, 0.0, -0.1, -0.3], &[k])).unwrap();
    let entropy = |w: &[f64]| {
        let shares = masses(w, k).into_iter().map(|m| m / n as f64);
        -shares.map(|m| m * Real::log(m)).sum::<f64>()
    };
    let of = |beta| entropy(&labels_of(&biased, &Mira { beta, ..Mira::default() }));
    assert!(of(0.0) < of(0.5) && of(0.5) < of(0.75) && of(0.75) < Real::log(6.0) - 1e-3);
    let out = informative_labels(&biased, &Mira { beta: 1.0, ..Mira::default() }, &single());
    assert_eq!(out.unwrap_err().kind(), ErrorKind::Config);
}

/// Logits whose softmax is one-hot at the given prototypes, to f64.
fn one_hot(at: &[usize], k: usize) -> Array {
    let values: Vec<f64> = at.iter().flat_map(|at| (0..k).map(move |j| if j == *at { 2000.0 } else { 0.0 })).collect();
    array(&values, &[at.len(), k])
}

#[test]
fn carl_s_terms_at_their_corners() {
    let run = |a: &Array, b: &Array| {
        let l = carl(&leaf(a), &leaf(b), &Carl::default()).unwrap();
        (value(&l.consistency), value(&l.usage))
    };
    let (k, eps) = (4, f64::from(f32::EPSILON));
    let near = |(c, u): (f64, f64), (wanted_c, wanted_u): (f64, f64)| {
        assert!((c - wanted_c).abs() < 2.0 * eps && (u - wanted_u).abs() < 1e-12, "{c} {u}");
    };
    let balanced = one_hot(&[0, 1, 2, 3], k);
    near(run(&balanced, &balanced), (0.0, 0.0));
    let single_one = one_hot(&[2, 2, 2, 2], k);
    near(run(&single_one, &single_one), (0.0, Real::log(4.0)));
    near(run(&balanced, &one_hot(&[1, 2, 3, 0], k)), (-Real::log(eps), 0.0));
    let uniform = Array::full(0.7, &[4, k], &device()).unwrap();
    near(run(&uniform, &uniform), (Real::log(4.0), 0.0));
    let alone = random(4, 1, 50);
    near(run(&alone, &alone), (0.0, 0.0));
}

#[test]
fn carl_s_consistency_of_equal_views_is_a_renyi_entropy() {
    let (n, k) = (5, 6);
    let x = random(n, k, 51);
    let p = softmax(&x, 1.0);
    let l = carl(&leaf(&x), &leaf(&x), &Carl::default()).unwrap();
    let expected: f64 = p.chunks(k).map(|p| -Real::log(p.iter().map(|p| p * p).sum::<f64>())).sum::<f64>() / n as f64;
    close(value(&l.consistency), expected);
}

#[test]
fn carl_does_not_tell_prototypes_views_or_logit_offsets_apart() {
    let (n, k) = (6, 5);
    let (a, b) = (random(n, k, 52), random(n, k, 53));
    let loss = |a: &Array, b: &Array| value(&carl(&leaf(a), &leaf(b), &Carl::default()).unwrap().loss);
    let plain = loss(&a, &b);
    close(loss(&b, &a), plain);
    close(loss(&a.flip(1).unwrap(), &b.flip(1).unwrap()), plain);
    let offsets = array(&[1.0, -2.0, 0.5, 3.0, 0.0, 7.0], &[n, 1]);
    close(loss(&ops::add(&a, &offsets).unwrap(), &b), plain);
    let both = carl(&leaf(&a), &leaf(&b), &Carl { lambda: 2.5, temperature: 1.0 }).unwrap();
    close(value(&both.loss), value(&both.consistency) + 2.5 * value(&both.usage));
}

/// Distributions that put everything on one cluster.
fn certain(at: &[usize], c: usize) -> Array {
    array(&at.iter().flat_map(|at| (0..c).map(move |j| f64::from(j == *at))).collect::<Vec<_>>(), &[at.len(), c])
}

#[test]
fn iic_at_its_corners() {
    let c = 10;
    let balanced: Vec<usize> = (0..40).map(|i| i % c).collect();
    let run = |x: &Array, y: &Array, lambda| value(&iic(&leaf(x), &leaf(y), lambda).unwrap());
    let x = certain(&balanced, c);
    // What the clamp adds: C² entries of 2.2e-16, times logarithms of up to 36.
    let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-11, "{a} and {b}");
    near(run(&x, &x, 1.0), -Real::log(10.0));
    near(run(&x, &x, 1.5), -2.0 * Real::log(10.0));
    let uniform = Array::full(0.1, &[40, c], &device()).unwrap();
    near(run(&uniform, &uniform, 1.0), 0.0);
    let one = certain(&[3; 40], c);
    near(run(&one, &one, 1.0), 0.0);
    // Every cluster with every cluster, equally often: independent.
    let (i, j): (Vec<usize>, Vec<usize>) = (0..100).map(|pair| (pair / 10, pair % 10)).unzip();
    near(run(&certain(&i, c), &certain(&j, c), 1.0), 0.0);
}

#[test]
fn iic_is_bounded_and_does_not_tell_clusters_sides_or_pairs_apart() {
    let (n, c) = (400, 6);
    for number in 60..70 {
        let (x, y) = (array(&softmax(&random(n, c, number), 0.3), &[n, c]), softmax(&random(n, c, number + 10), 0.3));
        let y = array(&y, &[n, c]);
        let run = |x: &Array, y: &Array| value(&iic(&leaf(x), &leaf(y), 1.0).unwrap());
        let plain = run(&x, &y);
        assert!((-Real::log(6.0)..=1e-12).contains(&plain));
        close(run(&y, &x), plain);
        close(run(&x.flip(1).unwrap(), &y.flip(1).unwrap()), plain);
        close(run(&x.flip(0).unwrap(), &y.flip(0).unwrap()), plain);
        let shuffled = run(&x, &x.flip(0).unwrap());
        assert!(shuffled.abs() < 0.2 && run(&x, &x) < -0.5, "partners of others tell little: {shuffled}");
    }
    let x = leaf(&random(4, 3, 0));
    assert_eq!(iic(&x, &x, 0.0).unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(iic_ranks(&x, &[], 1.0, &single()).unwrap_err().kind(), ErrorKind::Shape);
}

#[test]
fn several_partners_are_more_pairs() {
    let (n, c) = (20, 4);
    let p = |number| array(&softmax(&random(n, c, number), 0.5), &[n, c]);
    let [x, y, z] = [74, 75, 76].map(p);
    let both = iic_ranks(&leaf(&x), &[leaf(&y), leaf(&z)], 1.0, &single()).unwrap();
    let twice = |a: &Array, b: &Array| leaf(&ops::concat(&[a, b], 0).unwrap());
    close(value(&both), value(&iic(&twice(&x, &x), &twice(&y, &z), 1.0).unwrap()));
}

#[test]
fn ranks_do_not_change_a_bit() {
    let x: Vec<Array> = (80..83).map(|number| cosines(64, 12, 8, number)).collect();
    let queue = cosines(20, 12, 8, 90);
    for queued in [false, true] {
        expect_same_bits("swapped_prediction", &x, &|x, comm| {
            let queue = ops::cast(&queue, x[0].dtype())?;
            let codes =
                |x: &Array| balanced_codes(x, queued.then_some(&queue), &Codes::default(), &comm).map(Tensor::constant);
            let views = [leaf(&x[0]), leaf(&x[1]), leaf(&x[2])];
            let loss = swapped_cross_entropy(&views, &[codes(&x[0])?, codes(&x[1])?], 0.1, &comm)?;
            Ok((loss, local(views)))
        });
    }
    expect_same_bits("mira", &x, &|x, comm| {
        let labels = |x: &Array| informative_labels(x, &Mira::default(), &comm).map(Tensor::constant);
        let views = [leaf(&x[0]), leaf(&x[1]), leaf(&x[2])];
        let targets = [labels(&x[0])?, labels(&x[1])?];
        let entropy = mean_entropy(&targets, &comm)?;
        Ok((swapped_cross_entropy(&views, &targets, 0.1, &comm)?.scale(entropy)?, local(views)))
    });
    expect_same_bits("carl", &x[..2], &|x, comm| {
        let (a, b) = (leaf(&x[0]), leaf(&x[1]));
        Ok((carl_ranks(&a, &b, &Carl { temperature: 0.1, lambda: 1.0 }, &comm)?.loss, local([a, b])))
    });
    expect_same_bits("iic", &x, &|x, comm| {
        let views = [leaf(&x[0]), leaf(&x[1]), leaf(&x[2])];
        let p = |x: &Tensor| x.scale(5.0)?.softmax();
        Ok((iic_ranks(&p(&views[0])?, &[p(&views[1])?, p(&views[2])?], 1.5, &comm)?, local(views)))
    });
}

/// Codes made of the very scores that predict are constants all the same, as are targets that could have a gradient.
#[test]
fn no_gradient_goes_through_codes() {
    let (n, k) = (12, 5);
    let scores = [26, 28].map(|number| cosines(n, k, 8, number));
    let both = ops::concat(&[&scores[0], &scores[1]], 0).unwrap().reshape(&[2, n, k]).unwrap();
    let spec = find(LOSSES, "swapped_prediction").unwrap();
    let out = evaluate(spec, BTreeMap::from([("scores".to_string(), both)]), &[]).unwrap();
    let (found, q) = (out["grad_scores"].to_vec::<f64>().unwrap(), out["codes"].to_vec::<f64>().unwrap());
    for (view, (scores, found)) in scores.iter().zip(found.chunks(n * k)).enumerate() {
        let other = &q[(1 - view) * n * k..][..n * k];
        for ((d, p), q) in found.iter().zip(softmax(scores, 0.1)).zip(other) {
            // (p - q) / (τ B) of one pair of two.
            assert!((d - (p - q) / (0.1 * n as f64) / 2.0).abs() < 1e-14);
        }
    }
    let targets = scores.each_ref().map(|scores| leaf(&array(&codes(scores, 0.05, 3), &[n, k])));
    let loss = swapped_cross_entropy(&scores.each_ref().map(leaf), &targets, 0.1, &single()).unwrap();
    let grads = loss.backward().unwrap();
    assert!(targets.iter().all(|target| grads.get(target).unwrap().is_none()));
}

#[test]
fn a_pair_s_gradient_is_the_student_s_surplus_and_teacher_and_centre_get_none() {
    let (n, k, tau) = (6, 5, 0.1);
    let (teacher, centre) = (leaf(&random(n, k, 36)), leaf(&random(1, k, 37).reshape(&[k]).unwrap()));
    let students = [38, 39].map(|number| leaf(&random(n, k, number)));
    let target = teacher.sub(&centre).unwrap().scale(1.0 / 0.4).unwrap().softmax().unwrap();
    // The one target is that of the first view: its only pair is with the second.
    let loss = swapped_cross_entropy(&students, &[target], tau, &single()).unwrap();
    let grads = loss.backward().unwrap();
    assert!([&teacher, &centre, &students[0]].into_iter().all(|x| grads.get(x).unwrap().is_none()));
    let p_t = centred_targets(teacher.array(), centre.array(), 0.4).unwrap().to_vec::<f64>().unwrap();
    let p_s = softmax(students[1].array(), tau);
    let expected: Vec<f64> = p_s.iter().zip(&p_t).map(|(s, t)| (s - t) / (tau * n as f64)).collect();
    all_close(&grads.get(&students[1]).unwrap().unwrap().to_vec::<f64>().unwrap(), &expected);
}

/// SCAN takes the use of clusters over the images alone, CARL over both views: here the second views are the first ones
/// of other images, so that both means are one.
#[test]
fn carl_is_scan_with_the_other_view_as_neighbour() {
    let (n, k) = (6, 5);
    let x = random(n, k, 54);
    let (a, b) = (leaf(&x), leaf(&x.flip(0).unwrap()));
    let of_carl = carl(&a, &b, &Carl { lambda: 2.5, temperature: 1.0 }).unwrap();
    let of_scan = scan(&a, &b, &Scan { entropy_weight: 2.5 }).unwrap();
    close(value(&of_carl.consistency), value(&of_scan.consistency));
    close(value(&of_carl.usage) + value(&of_scan.entropy), Real::log(5.0));
    close(value(&of_carl.loss), value(&of_scan.loss) + 2.5 * Real::log(5.0));
}

/// The slope of CARL's loss along `direction` `[n, k]`, at a hundredth of it as the logits of both views.
fn carl_slope(direction: &Array, lambda: f64) -> f64 {
    let x = ops::scale(direction.copy().unwrap(), 0.01).unwrap();
    let (a, b) = (leaf(&x), leaf(&x));
    let loss = carl(&a, &b, &Carl { lambda, temperature: 1.0 }).unwrap().loss;
    let slopes = gradients(&loss, [&a, &b]).concat();
    let direction = direction.to_vec::<f64>().unwrap();
    slopes.iter().zip(direction.iter().cycle()).map(|(slope, x)| slope * x).sum()
}

/// Small logits grow where they tell images apart, whatever the weight of equal use. What all images share gains twice
/// as much from consistency as it loses by equal use: up to a weight of 2 it grows, towards a single prototype.
#[test]
fn carl_lets_what_images_share_grow_up_to_a_weight_of_2() {
    let apart = axes(8, 4, 1.0);
    let shared = axes(1, 4, 1.0).broadcast_to(&[8, 4]).unwrap();
    for lambda in [0.0, 1.0, 3.0, 100.0] {
        assert!(carl_slope(&apart, lambda) < 0.0, "{lambda}");
    }
    for (lambda, grows) in [(0.0, true), (1.0, true), (1.9, true), (2.1, false), (3.0, false)] {
        assert_eq!(carl_slope(&shared, lambda) < 0.0, grows, "{lambda}");
    }
}

/// Gradient descent on the logits of images whose partners differ by a fixed change.
#[test]
fn iic_makes_outputs_certain_and_keeps_all_clusters_in_use() {
    let (n, c) = (64, 4);
    let half = |number| ops::scale(random(n, c, number), 0.5).unwrap();
    let (mut logits, change) = (half(110), constant(half(111)));
    // Of the mean output, and the mean of the outputs' own.
    let entropies = |logits: &Array| {
        let p = ops::softmax(logits).unwrap();
        let mean = ops::mean(&p, &[0], true).unwrap();
        [mean, p].map(|p| mean_entropy(&[constant(p)], &single()).unwrap())
    };
    assert!(entropies(&logits)[1] > 1.0);
    for _ in 0..40 {
        let x = leaf(&logits);
        let partners = x.add(&change).unwrap().softmax().unwrap();
        let loss = iic(&x.softmax().unwrap(), &partners, 1.0).unwrap();
        let slopes = array(&gradient(&loss, &x), &[n, c]);
        logits = ops::add_scaled(logits, -64.0, &slopes).unwrap();
        assert!(entropies(&logits)[0] > Real::log(4.0) - 0.1);
    }
    assert!(entropies(&logits)[1] < 0.1);
}
