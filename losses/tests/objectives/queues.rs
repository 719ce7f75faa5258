//! Losses of queries against a queue: MoCHi, false negatives, XMoCo.

use super::common::{all_close, array, axes, close, device, expect_same_bits, gradient, labels, local, random, value};
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, DType, ErrorKind, ops};
use selfsame_kernels::math::Real;
use selfsame_losses::false_negatives::{accepted, confidences};
use selfsame_losses::mochi::{proxy_accuracy, synthetic_negatives};
use selfsame_losses::state::{Clustering, KMeans, Metric, k_means};
use selfsame_losses::xmoco::Consistency;
use selfsame_losses::{
    FalseNegative, FalseNegatives, InfoNce, Mixture, Mochi, XMoco, false_negatives, false_negatives_ranks, info_nce,
    mochi, mochi_ranks, xmoco, xmoco_ranks,
};

fn leaf(rows: usize, d: usize, number: u64) -> Tensor {
    Tensor::leaf(random(rows, d, number))
}

fn unit(x: &Array) -> Array {
    ops::l2_normalize(x, 1e-12).unwrap().0
}

fn rows(x: &Array) -> Vec<Vec<f64>> {
    let d = *x.shape().last().unwrap();
    x.to_vec::<f64>().unwrap().chunks(d).map(<[f64]>::to_vec).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

const MOCHI: Mochi = Mochi { temperature: 0.2, hardest: 6 };

fn mixture(q: &Tensor, between: usize, towards: usize) -> Mixture {
    Mixture::draw(q, 0, [MOCHI.hardest, between, towards], 3, 5).unwrap()
}

#[test]
fn without_mixtures_mochi_is_info_nce_to_the_bit() {
    let (q, k, queue) = (leaf(5, 4, 0), leaf(5, 4, 1), leaf(33, 4, 2));
    let (mixed, plain) = (
        mochi(&q, &k, &queue, &mixture(&q, 0, 0), &MOCHI).unwrap(),
        info_nce(&q, &k, &queue, &InfoNce { temperature: 0.2 }),
    );
    let plain = plain.unwrap();
    assert_eq!(value(&mixed), value(&plain));
    assert_eq!(gradient(&mixed, &q), gradient(&plain, &q));
    assert!(value(&mochi(&q, &k, &queue, &mixture(&q, 8, 0), &MOCHI).unwrap()) > value(&plain));
    assert!(value(&mochi(&q, &k, &queue, &mixture(&q, 0, 8), &MOCHI).unwrap()) > value(&plain));
}

#[test]
fn mixtures_are_unit_vectors_at_least_as_hard_as_they_must_be() {
    let (q, queue) = (unit(&random(7, 4, 3)), unit(&random(40, 4, 4)));
    let tensor = Tensor::constant(q.clone());
    let mixture = mixture(&tensor, 9, 9);
    let synthetic = synthetic_negatives(&q, &queue, &mixture, MOCHI.hardest).unwrap().unwrap();
    let (pairs, points) = (mixture.pairs.to_vec::<i64>().unwrap(), mixture.points.to_vec::<i64>().unwrap());
    let (alpha, beta) = (mixture.alpha.to_vec::<f64>().unwrap(), mixture.beta.to_vec::<f64>().unwrap());
    assert!(pairs.chunks(2).all(|pair| pair[0] != pair[1]) && beta.iter().all(|beta| *beta < 0.5));
    for (i, (q, h)) in rows(&q).iter().zip(rows(&synthetic).chunks(18)).enumerate() {
        let mut hardest = rows(&queue);
        hardest.sort_by(|a, b| dot(q, b).total_cmp(&dot(q, a)));
        let at = |rank: i64| dot(q, &hardest[rank as usize]);
        for (j, h) in h.iter().enumerate() {
            assert!((dot(h, h) - 1.0).abs() < 1e-12);
            let found = dot(q, h);
            if j < 9 {
                let (a, b, alpha) = (at(pairs[2 * (9 * i + j)]), at(pairs[2 * (9 * i + j) + 1]), alpha[9 * i + j]);
                let line = alpha * a + (1.0 - alpha) * b;
                assert!(line < 0.0 || found >= line - 1e-12, "query {i}: {found} for {line}");
            } else {
                let source = at(points[9 * i + j - 9]);
                // Half of the angle between the query and the key: cos(x / 2) = sqrt((1 + cos x) / 2).
                let most = ((1.0 + source) / 2.0).sqrt();
                assert!(source - 1e-12 <= found && found <= most + 1e-12, "query {i}: {source}, {found}, {most}");
            }
        }
    }
}

#[test]
fn equal_shares_reach_half_of_the_angle() {
    let (q, queue) = (unit(&random(1, 4, 5)), unit(&random(6, 4, 6)));
    let half = Mixture {
        pairs: Array::zeros(&[1, 0, 2], DType::I64, &device()).unwrap(),
        alpha: array(&[], &[1, 0]),
        points: Array::from_slice(&[2i64], &[1, 1], &device()).unwrap(),
        beta: array(&[0.5], &[1, 1]),
    };
    let h = synthetic_negatives(&q, &queue, &half, 6).unwrap().unwrap();
    let q = rows(&q).remove(0);
    let mut cosines: Vec<f64> = rows(&queue).iter().map(|n| dot(&q, n)).collect();
    cosines.sort_by(|a, b| b.total_cmp(a));
    close(dot(&q, &rows(&h)[0]), ((1.0 + cosines[2]) / 2.0).sqrt());
}

/// The analytic gradient against differences of InfoNCE over the queue and the mixtures, held fixed.
#[test]
fn mixtures_are_constants() {
    let (q, k, queue) = (leaf(3, 4, 7), leaf(3, 4, 8), leaf(20, 4, 9));
    let mixture = mixture(&q, 4, 5);
    let loss = mochi(&q, &k, &queue, &mixture, &MOCHI).unwrap();
    let grads = loss.backward().unwrap();
    assert!(grads.get(&k).unwrap().is_none() && grads.get(&queue).unwrap().is_none());
    let found = grads.get(&q).unwrap().unwrap().to_vec::<f64>().unwrap();
    let fixed = synthetic_negatives(&unit(q.array()), &unit(queue.array()), &mixture, MOCHI.hardest).unwrap().unwrap();
    for query in 0..3 {
        let own = |x: &Array| x.slice(0, query, query + 1).unwrap();
        let negatives = ops::concat(&[&unit(queue.array()), &own(&fixed).reshape(&[9, 4]).unwrap()], 0).unwrap();
        let (q, k) = (Tensor::leaf(own(q.array())), Tensor::constant(own(k.array())));
        let alone = info_nce(&q, &k, &Tensor::constant(negatives), &InfoNce { temperature: 0.2 }).unwrap();
        let third: Vec<f64> = gradient(&alone, &q).iter().map(|d| d / 3.0).collect();
        all_close(&found[4 * query..4 * query + 4], &third);
    }
}

#[test]
fn mixtures_are_drawn_for_each_query_and_step() {
    let q = leaf(6, 4, 10);
    let draw = |q: &Tensor, first, step| Mixture::draw(q, first, [8, 5, 3], 1, step).unwrap();
    let values = |m: &Mixture| (m.pairs.to_vec::<i64>().unwrap(), m.alpha.to_vec::<f64>().unwrap());
    let (whole, later) = (draw(&q, 0, 2), draw(&q, 0, 3));
    assert_ne!(values(&whole), values(&later));
    let second = Tensor::constant(q.array().slice(0, 3, 6).unwrap());
    let part = values(&draw(&second, 3, 2));
    assert_eq!((&values(&whole).0[30..], &values(&whole).1[15..]), (&part.0[..], &part.1[..]), "not by who draws");
    assert_eq!(Mixture::draw(&q, 0, [1, 5, 0], 1, 0).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn synthetic_negatives_make_the_task_harder_to_solve() {
    let queue = axes(4, 4, 1.0);
    let q = array(&[1.0, 0.9, 0.0, 0.0], &[1, 4]);
    let key = array(&[0.9, 1.0, 0.3, 0.0], &[1, 4]);
    assert_eq!(proxy_accuracy(&q, &key, &queue).unwrap(), 1.0);
    assert_eq!(proxy_accuracy(&q, &key, &ops::concat(&[&queue, &q], 0).unwrap()).unwrap(), 0.0);
}

const LABELS: [i64; 5] = [0, 3, 2, 7, -1];

fn of_queue() -> Vec<i64> {
    (0..12).map(|j| [4, 3, 2, -1, 3, 9][j % 6]).collect()
}

fn form(form: FalseNegative) -> FalseNegatives {
    FalseNegatives { temperature: 0.2, form }
}

#[test]
fn without_equal_labels_both_forms_are_info_nce_to_the_bit() {
    let (q, k, queue) = (leaf(5, 4, 11), leaf(5, 4, 12), leaf(12, 4, 13));
    let plain = info_nce(&q, &k, &queue, &InfoNce { temperature: 0.2 }).unwrap();
    let (plain, slopes) = (value(&plain), gradient(&plain, &q));
    for f in [FalseNegative::Eliminated, FalseNegative::Attracted] {
        // No labels at all, as while nothing is accepted, and each its own cluster.
        for (own, others) in [([-1; 5], vec![-1; 12]), ([0, 1, 2, 3, 4], (5..17).collect())] {
            let loss = false_negatives(&q, &k, &queue, &labels(&own), &labels(&others), &form(f)).unwrap();
            assert_eq!(value(&loss), plain, "{f:?}");
            assert_eq!(gradient(&loss, &q), slopes, "{f:?}");
        }
    }
}

#[test]
fn eliminating_all_leaves_nothing_and_eliminating_some_less() {
    let (q, k, queue) = (leaf(5, 4, 14), leaf(5, 4, 15), leaf(12, 4, 16));
    let run = |own: &[i64], others: &[i64], f| {
        false_negatives(&q, &k, &queue, &labels(own), &labels(others), &form(f)).unwrap()
    };
    let none = run(&[2; 5], &[2; 12], FalseNegative::Eliminated);
    assert_eq!(value(&none), 0.0);
    assert!(gradient(&none, &q).iter().all(|d| *d == 0.0));
    let plain = value(&info_nce(&q, &k, &queue, &InfoNce { temperature: 0.2 }).unwrap());
    assert!(value(&run(&LABELS, &of_queue(), FalseNegative::Eliminated)) < plain);
}

/// By orthogonal keys of the queue the gradient of q is, up to the projection off q, that of the logits.
#[test]
fn eliminated_negatives_have_no_gradient_and_attracted_ones_are_pulled() {
    let t = 0.5;
    let q = Tensor::leaf(array(&[1.0, 0.0, 0.0, 0.0], &[1, 4]));
    let k = Tensor::constant(array(&[1.0, 0.0, 0.0, 0.0], &[1, 4]));
    let queue = Tensor::constant(axes(4, 4, 1.0).slice(0, 1, 4).unwrap());
    let run = |f| {
        let o = FalseNegatives { temperature: t, form: f };
        gradient(&false_negatives(&q, &k, &queue, &labels(&[5]), &labels(&[5, 5, 6]), &o).unwrap(), &q)
    };
    let weight = Real::exp(1.0 / t);
    // One negative is left: its logit has gradient P / t.
    let found = run(FalseNegative::Eliminated);
    assert_eq!(found[1..3], [0.0, 0.0]);
    close(found[3], 1.0 / (weight + 1.0) / t);
    // P_n - 1/(1 + |S+|) for the attracted two, P_n for the third.
    let (found, p) = (run(FalseNegative::Attracted), 1.0 / (weight + 3.0));
    all_close(&found[1..], &[(p - 1.0 / 3.0) / t, (p - 1.0 / 3.0) / t, p / t]);
}

#[test]
fn labels_of_the_most_confident_are_accepted() {
    // Centroids on two axes; samples at falling cosines to the first.
    let angles: [f64; 6] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.5];
    let v: Vec<f64> = angles.iter().flat_map(|a| [Real::cos(*a), Real::sin(*a)]).collect();
    let found = Clustering {
        centroids: axes(2, 2, 1.0),
        assignments: labels(&[0; 6]),
        counts: vec![6, 0],
        objective: vec![0.0],
    };
    let v = array(&v, &[6, 2]);
    let accept = |rate| accepted(&v, &found, 0.2, rate).unwrap().to_vec::<i64>().unwrap();
    assert_eq!(accept(0.0), [-1; 6]);
    assert_eq!(accept(0.5), [0, 0, 0, -1, -1, -1]);
    assert_eq!(accept(1.0), [0; 6]);
    let confidence = confidences(&v, &found, 0.2).unwrap();
    assert!(confidence.windows(2).all(|w| w[0] > w[1]) && confidence.iter().all(|c| (0.5..=1.0).contains(c)));
    let one = Clustering { centroids: axes(1, 2, 1.0), counts: vec![6], ..found.clone() };
    assert_eq!(confidences(&v, &one, 0.2).unwrap(), [1.0; 6], "of one cluster nobody is in doubt");
    assert_eq!(accepted(&v, &found, 0.2, 1.5).unwrap_err().kind(), ErrorKind::Config);
}

fn terms(q: &Tensor, k: &Tensor, queue: &Tensor, o: &XMoco) -> [f64; 2] {
    let terms = xmoco(q, k, queue, o).unwrap();
    [terms.consistency, terms.uniformity].map(|term| value(&term.unwrap()))
}

#[test]
fn without_regularisers_xmoco_is_info_nce_to_the_bit() {
    let (q, k, queue) = (leaf(5, 4, 17), leaf(5, 4, 18), leaf(12, 4, 19));
    let o = XMoco { consistency_weight: 0.0, uniformity_weight: 0.0, ..XMoco::default() };
    let (found, plain) = (xmoco(&q, &k, &queue, &o).unwrap(), info_nce(&q, &k, &queue, &InfoNce { temperature: 0.2 }));
    assert_eq!(value(&found.loss), value(plain.as_ref().unwrap()));
    assert_eq!(gradient(&found.loss, &q), gradient(&plain.unwrap(), &q));
    assert!(found.consistency.is_none() && found.uniformity.is_none());
    let one = xmoco(&leaf(1, 4, 0), &leaf(1, 4, 0), &queue, &XMoco::default());
    assert_eq!(one.err().unwrap().kind(), ErrorKind::Shape);
}

#[test]
fn equal_queries_and_keys_are_consistent() {
    let (q, queue) = (leaf(6, 4, 20), leaf(12, 4, 21));
    for consistency in Consistency::ALL {
        let [found, _] = terms(&q, &q, &queue, &XMoco { consistency, ..XMoco::default() });
        assert!(found.abs() <= 1e-15, "{consistency:?}: {found}");
        let [apart, _] = terms(&q, &leaf(6, 4, 22), &queue, &XMoco { consistency, ..XMoco::default() });
        assert!(apart > 1e-3, "{consistency:?}");
    }
}

#[test]
fn two_images_or_equal_negatives_are_uniform() {
    let queue = leaf(12, 4, 23);
    for by_entropy in [false, true] {
        let o = XMoco { by_entropy, ..XMoco::default() };
        let [_, two] = terms(&leaf(2, 4, 24), &leaf(2, 4, 25), &queue, &o);
        assert!(two.abs() < 1e-15);
        // Keys on the axes, queries on the same: all others orthogonal.
        let [_, equal] = terms(&Tensor::leaf(axes(4, 4, 2.0)), &Tensor::leaf(axes(4, 4, 1.0)), &queue, &o);
        assert!(equal.abs() < 1e-14);
        let [_, uneven] = terms(&leaf(6, 4, 26), &leaf(6, 4, 27), &queue, &o);
        assert!(uneven > 1e-3);
    }
}

#[test]
fn regularisers_know_neither_rotations_nor_the_order_of_images() {
    let (q, k, queue) = (random(6, 2, 28), random(6, 2, 29), random(8, 2, 30));
    let turn = array(&[0.6, 0.8, -0.8, 0.6], &[2, 2]);
    let turned = |x: &Array| Tensor::leaf(ops::matmul(x, &turn).unwrap());
    let order = labels(&[3, 1, 5, 0, 2, 4]);
    let ordered = |x: &Array| Tensor::leaf(ops::index_select(x, 0, &order).unwrap());
    let plain = |x: &Array| Tensor::leaf(x.clone());
    for consistency in Consistency::ALL {
        let o = XMoco { consistency, ..XMoco::default() };
        let expected = terms(&plain(&q), &plain(&k), &plain(&queue), &o);
        all_close(&terms(&turned(&q), &turned(&k), &turned(&queue), &o), &expected);
        all_close(&terms(&ordered(&q), &ordered(&k), &plain(&queue), &o), &expected);
    }
}

/// Keys on the axes make S the matrix of normalised queries: a common term of a row's other entries is free.
#[test]
fn uniformity_ignores_what_all_negatives_of_a_row_share() {
    // Rows of length 1 whose entries off the diagonal differ by a constant from row to row.
    let row = |i: usize, shift: f64| -> Vec<f64> {
        let mut row: Vec<f64> = (0..3).map(|j| shift + 0.1 * ((i + 2 * j) % 3) as f64).collect();
        row[i] = 0.0;
        row[i] = (1.0 - dot(&row, &row)).sqrt();
        row
    };
    let run = |shifts: [f64; 3]| {
        let q: Vec<f64> = (0..3).flat_map(|i| row(i, shifts[i])).collect();
        let (q, k) = (Tensor::leaf(array(&q, &[3, 3])), Tensor::leaf(axes(3, 3, 1.0)));
        terms(&q, &k, &leaf(5, 3, 31), &XMoco::default())[1]
    };
    close(run([0.0; 3]), run([0.05, -0.1, 0.2]));
}

#[test]
fn a_symmetric_change_of_similarities_leaves_the_swapped_form() {
    // S_ij = q_ij with keys on the axes; q and q + a symmetric matrix, both with rows of length 1 by their diagonal.
    let symmetric = [[0.0, 0.1, -0.2], [0.1, 0.0, 0.15], [-0.2, 0.15, 0.0]];
    let base = [[0.0, 0.3, 0.1], [-0.1, 0.0, 0.2], [0.25, 0.05, 0.0]];
    let run = |share: f64| {
        let mut q = Vec::new();
        for i in 0..3 {
            let mut row: Vec<f64> = (0..3).map(|j| base[i][j] + share * symmetric[i][j]).collect();
            row[i] = (1.0 - dot(&row, &row)).sqrt();
            q.extend(row);
        }
        let (q, k) = (Tensor::leaf(array(&q, &[3, 3])), Tensor::leaf(axes(3, 3, 1.0)));
        terms(&q, &k, &leaf(5, 3, 32), &XMoco::default())[0]
    };
    close(run(0.0), run(1.0));
    // (0.3 + 0.1)² + (0.1 - 0.25)² + (0.2 - 0.05)² over the three pairs, in both orders.
    close(run(0.0), (0.16 + 0.0225 + 0.0225) / 3.0);
}

/// The key's distribution is no function of the queries, although it is computed from them.
#[test]
fn the_target_distribution_has_no_gradient() {
    let (n, t) = (4, 0.5);
    let (q, k, queue) = (leaf(n, 3, 33), random(n, 3, 34), leaf(5, 3, 35));
    let o = XMoco { temperature: t, consistency: Consistency::Distributions, ..XMoco::default() };
    let term = xmoco(&q, &Tensor::constant(k.clone()), &queue, &o).unwrap().consistency.unwrap();
    let (units, keys) = (rows(&unit(q.array())), rows(&unit(&k)));
    let softmax = |row: Vec<f64>| {
        let total: f64 = row.iter().map(|x| Real::exp(x / t)).sum();
        row.iter().map(|x| Real::exp(x / t) / total).collect::<Vec<f64>>()
    };
    let others = |i: usize| (0..n).filter(move |j| *j != i);
    let mut expected = Vec::new();
    for i in 0..n {
        let p = softmax(others(i).map(|j| dot(&units[i], &keys[j])).collect());
        let r = softmax(others(i).map(|j| dot(&units[j], &keys[i])).collect());
        // d/dq_i of KL(R || P) is Σ (P - R) k / T, then through the length.
        let slope: Vec<f64> = (0..3)
            .map(|c| {
                others(i).zip(p.iter().zip(&r)).map(|(j, (p, r))| (p - r) * keys[j][c]).sum::<f64>() / t / n as f64
            })
            .collect();
        let along = dot(&slope, &units[i]);
        let length = dot(&rows(q.array())[i], &rows(q.array())[i]).sqrt();
        expected.extend((0..3).map(|c| (slope[c] - along * units[i][c]) / length));
    }
    all_close(&gradient(&term, &q), &expected);
    let tracked = Tensor::leaf(k);
    for consistency in Consistency::ALL {
        let loss = xmoco(&q, &tracked, &queue, &XMoco { consistency, ..XMoco::default() }).unwrap().loss;
        let grads = loss.backward().unwrap();
        assert!(grads.get(&tracked).unwrap().is_none() && grads.get(&queue).unwrap().is_none());
    }
}

#[test]
fn ranks_share_a_batch_of_queries() {
    let (a, b, queue) = (random(64, 8, 36), random(64, 8, 37), random(70, 8, 38));
    let of_queue = labels(&(0..70).map(|j| j % 9 - 1).collect::<Vec<_>>());
    let own = labels(&(0..64).map(|i| i % 7 - 1).collect::<Vec<_>>());
    let shared = |x: &Array, like: &Array| Tensor::constant(ops::cast(x, like.dtype()).unwrap());
    expect_same_bits("mochi", &[a.clone(), b.clone()], &|x, comm| {
        let (q, k) = (Tensor::leaf(x[0].clone()), Tensor::constant(x[1].clone()));
        let mixture = Mixture::draw(&q, comm.rank() * x[0].shape()[0], [6, 5, 4], 1, 0)?;
        Ok((mochi_ranks(&q, &k, &shared(&queue, &x[0]), &mixture, &MOCHI, &comm)?, local([q])))
    });
    for f in [FalseNegative::Eliminated, FalseNegative::Attracted] {
        expect_same_bits("false_negatives", &[a.clone(), b.clone(), own.clone()], &|x, comm| {
            let (q, k) = (Tensor::leaf(x[0].clone()), Tensor::constant(x[1].clone()));
            let queue = shared(&queue, &x[0]);
            let loss = false_negatives_ranks(&q, &k, &queue, &x[2], &of_queue, &form(f), &comm)?;
            Ok((loss, local([q])))
        });
    }
    for consistency in Consistency::ALL {
        expect_same_bits("xmoco", &[a.clone(), b.clone()], &|x, comm| {
            let (q, k) = (Tensor::leaf(x[0].clone()), Tensor::constant(x[1].clone()));
            let o = XMoco { consistency, ..XMoco::default() };
            Ok((xmoco_ranks(&q, &k, &shared(&queue, &x[0]), &o, &comm)?.loss, local([q])))
        });
    }
}

/// Every rank with itself: the share does not matter, and the queue is there twice.
#[test]
fn a_key_mixed_with_itself_is_that_key() {
    let (q, k, queue) = (leaf(3, 4, 40), leaf(3, 4, 41), leaf(8, 4, 42));
    let ranks: Vec<i64> = (0..3).flat_map(|_| (0..8).flat_map(|rank| [rank, rank])).collect();
    let pairs = Array::from_slice(&ranks, &[3, 8, 2], &device()).unwrap();
    let mixture = Mixture { pairs, ..mixture(&q, 8, 0) };
    let (units, keys) = (unit(q.array()), unit(queue.array()));
    let synthetic = synthetic_negatives(&units, &keys, &mixture, 8).unwrap().unwrap();
    for (q, h) in rows(&units).iter().zip(rows(&synthetic).chunks(8)) {
        let mut hardest = rows(&keys);
        hardest.sort_by(|a, b| dot(q, b).total_cmp(&dot(q, a)));
        h.iter().zip(&hardest).for_each(|(h, n)| all_close(h, n));
    }
    let loss = mochi(&q, &k, &queue, &mixture, &Mochi { hardest: 8, ..MOCHI }).unwrap();
    let twice = Tensor::constant(ops::concat(&[queue.array(), queue.array()], 0).unwrap());
    close(value(&loss), value(&info_nce(&q, &k, &twice, &InfoNce { temperature: 0.2 }).unwrap()));
}

/// With as many hardest keys as the queue has, random keys are mixed.
#[test]
fn every_rank_is_drawn_as_often() {
    let drawn = Mixture::draw(&leaf(64, 4, 43), 0, [8, 50, 50], 1, 0).unwrap();
    let (pairs, points) = (drawn.pairs.to_vec::<i64>().unwrap(), drawn.points.to_vec::<i64>().unwrap());
    let places: [Vec<i64>; 3] =
        [pairs.iter().step_by(2).copied().collect(), pairs.iter().skip(1).step_by(2).copied().collect(), points];
    for of_place in places {
        for rank in 0..8 {
            // An eighth of 3200, of standard deviation 19.
            let count = of_place.iter().filter(|drawn| **drawn == rank).count();
            assert!(count.abs_diff(400) < 100, "rank {rank}: {count}");
        }
    }
}

/// Half of the way to the query is nearer than a key that all of the queue is farther than.
#[test]
fn mixtures_towards_the_query_leave_a_solved_task_unsolved() {
    let (q, queue) = (axes(1, 4, 1.0), axes(4, 4, 1.0).slice(0, 1, 4).unwrap());
    let key = array(&[0.3, 0.9, 0.0, 0.0], &[1, 4]);
    let mixture = Mixture {
        pairs: Array::zeros(&[1, 0, 2], DType::I64, &device()).unwrap(),
        alpha: array(&[], &[1, 0]),
        points: Array::from_slice(&[0i64], &[1, 1], &device()).unwrap(),
        beta: array(&[0.4], &[1, 1]),
    };
    // Cosines with q: 0 in the queue, 0.3 / sqrt(0.9) of the key, 0.4 / sqrt(0.52) of the mixture.
    let h = synthetic_negatives(&q, &queue, &mixture, 3).unwrap().unwrap().reshape(&[1, 4]).unwrap();
    assert_eq!(proxy_accuracy(&q, &key, &queue).unwrap(), 1.0);
    assert_eq!(proxy_accuracy(&q, &key, &ops::concat(&[&queue, &h], 0).unwrap()).unwrap(), 0.0);
}

/// Five classes with noise: the share of pairs of one label that are of one class.
#[test]
fn labels_of_the_confident_half_are_right_more_often() {
    let (n, classes) = (120, 5);
    let noise = ops::scale(random(n, classes, 44), 0.4).unwrap();
    let v = unit(&ops::add(&axes(n, classes, 1.0), &noise).unwrap());
    let o = KMeans { metric: Metric::Spherical, ..KMeans::new(classes) };
    let found = k_means(&v, &o, 1, 0).unwrap();
    let cluster = found.assignments.to_vec::<i64>().unwrap();
    let confident = accepted(&v, &found, 0.2, 0.5).unwrap().to_vec::<i64>().unwrap();
    let precision = |half: bool| {
        let is_in = |i: usize| (confident[i] >= 0) == half;
        let pairs = (0..n).flat_map(|i| (0..i).map(move |j| (i, j)));
        let alike = pairs.filter(|(i, j)| is_in(*i) && is_in(*j) && cluster[*i] == cluster[*j]);
        let right: Vec<bool> = alike.map(|(i, j)| i % classes == j % classes).collect();
        right.iter().filter(|right| **right).count() as f64 / right.len() as f64
    };
    let (sure, unsure) = (precision(true), precision(false));
    assert!(sure > unsure + 0.1, "{sure} and {unsure}");
}
