//! Contrasts with weights or similarities of their own: CACR, MACL, Bregman divergence.

use super::common::{
    all_close, array, axes, close, expect_same_bits, gradient, gradients, labels, local, random, value,
};
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use selfsame_losses::bregman::active_subnetworks;
use selfsame_losses::macl::{Adaptation, Candidates};
use selfsame_losses::{
    Bregman, BregmanMargin, Cacr, CacrMomentum, Cancellation, Clip, Coefficient, InfoNce, Macl, NtXent, bregman,
    bregman_margin, bregman_ranks, cacr, cacr_momentum, cacr_momentum_ranks, cacr_ranks, clip,
    false_negative_cancellation, false_negative_cancellation_ranks, info_nce, macl, macl_queue, macl_queue_ranks,
    macl_ranks, nt_xent,
};

fn leaf(rows: usize, d: usize, number: u64) -> Tensor {
    Tensor::leaf(random(rows, d, number))
}

/// Unit rows.
fn units(x: &Tensor) -> Vec<Vec<f64>> {
    let unit = ops::l2_normalize(x.array(), 1e-12).unwrap().0;
    let d = unit.shape()[1];
    unit.to_vec::<f64>().unwrap().chunks(d).map(<[f64]>::to_vec).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn cost(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Attraction and repulsion.
fn parts(views: &[&Tensor], o: &Cacr) -> [f64; 2] {
    let terms = cacr(views, o).unwrap();
    close(value(&terms.loss), value(&terms.attraction) + value(&terms.repulsion));
    [value(&terms.attraction), value(&terms.repulsion)]
}

#[test]
fn of_two_views_the_attraction_is_alignment() {
    let (a, b) = (leaf(7, 4, 0), leaf(7, 4, 1));
    let mean = units(&a).iter().zip(&units(&b)).map(|(a, b)| cost(a, b)).sum::<f64>() / 7.0;
    for t_plus in [0.0, 1.0, 50.0] {
        close(parts(&[&a, &b], &Cacr { t_plus, ..Cacr::default() })[0], mean);
    }
}

#[test]
fn weights_go_from_the_mean_to_the_extreme() {
    let views = [leaf(5, 4, 2), leaf(5, 4, 3), leaf(5, 4, 4)];
    let (refs, z) = (views.iter().collect::<Vec<_>>(), views.iter().map(units).collect::<Vec<_>>());
    let at = |t: f64| parts(&refs, &Cacr { t_plus: t, t_minus: t, ..Cacr::default() });
    let (mut positives, mut negatives) = ([0.0; 2], [0.0; 2]);
    for x in 0..3 {
        for i in 0..5 {
            let costs: Vec<f64> = (0..3).filter(|m| *m != x).map(|m| cost(&z[x][i], &z[m][i])).collect();
            positives[0] += costs.iter().sum::<f64>() / 2.0 / 15.0;
            positives[1] += costs.iter().copied().fold(0.0, f64::max) / 15.0;
            for y in x + 1..3 {
                let costs: Vec<f64> = (0..5).filter(|j| *j != i).map(|j| cost(&z[x][i], &z[y][j])).collect();
                negatives[0] -= costs.iter().sum::<f64>() / 4.0 / 15.0;
                negatives[1] -= costs.iter().copied().fold(f64::INFINITY, f64::min) / 15.0;
            }
        }
    }
    let [attraction, repulsion] = at(0.0);
    close(attraction, positives[0]);
    close(repulsion, negatives[0]);
    // exp of a difference of costs times 1e4 is 0 for all but the extreme.
    let [farthest, nearest] = at(1e4);
    close(farthest, positives[1]);
    close(nearest, negatives[1]);
    for t in [0.5, 1.0, 3.0] {
        let [attraction, repulsion] = at(t);
        assert!(attraction >= positives[0] && repulsion >= negatives[0], "weighted means beside plain ones");
    }
}

#[test]
fn equal_embeddings_have_no_cost() {
    let equal = Tensor::leaf(random(1, 4, 5).broadcast_to(&[6, 4]).unwrap());
    let [attraction, repulsion] = parts(&[&equal, &equal, &equal], &Cacr::default());
    assert!(attraction.abs() < 1e-14 && repulsion.abs() < 1e-14);
}

#[test]
fn of_two_images_the_other_one_repels_alone() {
    let (a, b) = (leaf(2, 4, 6), leaf(2, 4, 7));
    let (u, v) = (units(&a), units(&b));
    let mean = (cost(&u[0], &v[1]) + cost(&u[1], &v[0])) / 2.0;
    for t_minus in [0.0, 1.0, 30.0] {
        close(parts(&[&a, &b], &Cacr { t_minus, ..Cacr::default() })[1], -mean);
    }
    let rbf = parts(&[&a, &b], &Cacr { rbf: 1.5, beta: 2.0, ..Cacr::default() })[1];
    let kernel = |c: f64| Real::exp(-1.5 * c);
    close(rbf, 2.0 * Real::log((kernel(cost(&u[0], &v[1])) + kernel(cost(&u[1], &v[0]))) / 2.0));
    let positive = (cost(&u[0], &v[0]) + cost(&u[1], &v[1])) / 2.0;
    let debiased = parts(&[&a, &b], &Cacr { tau_plus: 0.1, ..Cacr::default() })[1];
    close(debiased, (-mean - 0.1 * positive) / 0.9);
}

#[test]
fn cacr_knows_neither_rotations_nor_the_order_of_images() {
    let views = [random(6, 2, 8), random(6, 2, 9), random(6, 2, 10)];
    let turn = array(&[0.6, 0.8, -0.8, 0.6], &[2, 2]);
    let run = |change: &dyn Fn(&Array) -> Result<Array>| {
        let changed: Vec<Tensor> = views.iter().map(|view| Tensor::leaf(change(view).unwrap())).collect();
        parts(&changed.iter().collect::<Vec<_>>(), &Cacr::default())
    };
    let plain = run(&|x| Ok(x.clone()));
    all_close(&run(&|x| ops::matmul(x, &turn)), &plain);
    all_close(&run(&|x| ops::index_select(x, 0, &labels(&[3, 1, 5, 0, 2, 4]))), &plain);
    // Views change places: the attraction has every view as query.
    let back: Vec<Tensor> = views.iter().rev().cloned().map(Tensor::leaf).collect();
    close(parts(&back.iter().collect::<Vec<_>>(), &Cacr::default())[0], plain[0]);
}

/// Of two views and two images all weights are 1, so that they have no gradient either way; of three they have.
#[test]
fn fixed_weights_change_the_gradient_and_not_the_value() {
    let run = |n: usize, fixed_weights| {
        let (a, b) = (leaf(n, 4, 11), leaf(n, 4, 12));
        let loss = cacr(&[&a, &b], &Cacr { fixed_weights, ..Cacr::default() }).unwrap().loss;
        (value(&loss), gradient(&loss, &a))
    };
    let (two, fixed) = (run(2, false), run(2, true));
    all_close(&two.1, &fixed.1);
    let (three, fixed) = (run(3, false), run(3, true));
    assert_eq!(three.0, fixed.0);
    assert!(three.1.iter().zip(&fixed.1).any(|(a, b)| (a - b).abs() > 1e-3));
}

#[test]
fn cacr_wants_two_views_of_two_images() {
    let x = leaf(4, 3, 0);
    let one = leaf(1, 3, 0);
    for views in [vec![&x], vec![&one, &one], vec![&x, &one]] {
        assert_eq!(cacr(&views, &Cacr::default()).err().unwrap().kind(), ErrorKind::Shape);
    }
    let negative = Cacr { t_plus: -1.0, ..Cacr::default() };
    assert_eq!(cacr(&[&x, &x], &negative).err().unwrap().kind(), ErrorKind::Config);
}

fn plain(candidates: Candidates) -> Macl {
    let adaptation = Adaptation::Linear { alpha: 0.0, origin: 0.0 };
    Macl { temperature: 0.2, adaptation, reweight: false, candidates }
}

#[test]
fn without_adaptation_and_weights_macl_is_info_nce() {
    let (q, k, queue) = (leaf(5, 4, 13), leaf(5, 4, 14), leaf(12, 4, 15));
    let found = macl_queue(&q, &k, &queue, &plain(Candidates::OtherView)).unwrap();
    let expected = info_nce(&q, &k, &queue, &InfoNce { temperature: 0.2 }).unwrap();
    assert_eq!(value(&found.loss), value(&expected));
    assert_eq!(gradient(&found.loss, &q), gradient(&expected, &q));

    let pairs = macl(&q, &k, &plain(Candidates::BothViews)).unwrap();
    let z = Tensor::concat(&[&q, &k], 0).unwrap();
    let expected = nt_xent(&z, &NtXent { temperature: 0.2, ..NtXent::default() }).unwrap();
    close(value(&pairs.loss), value(&expected));
    all_close(&gradient(&pairs.loss, &q), &gradient(&expected, &q));
}

/// A queue of axes and a query on another axis: the gradient of q off its own direction is that of the logits.
#[test]
fn weights_undo_what_takes_the_gradient_away() {
    for (n, tau) in [(2, 0.5), (6, 0.2)] {
        let adaptation = Adaptation::Linear { alpha: 0.0, origin: 0.0 };
        let o = Macl { temperature: tau, adaptation, reweight: true, candidates: Candidates::OtherView };
        // q is orthogonal to key and queue, so that no gradient is lost along it.
        let q = Tensor::leaf(axes(1, n + 1, 1.0));
        let k = Tensor::constant(axes(n + 1, n + 1, 1.0).slice(0, 1, 2).unwrap());
        let queue = Tensor::constant(axes(n + 1, n + 1, 1.0).slice(0, 2, n + 1).unwrap());
        let slopes = gradient(&macl_queue(&q, &k, &queue, &o).unwrap().loss, &q);
        close(slopes[1], -1.0 / tau);
        close(slopes[2..].iter().sum(), 1.0 / tau);
        let unweighted = Macl { reweight: false, ..o };
        let slopes = gradient(&macl_queue(&q, &k, &queue, &unweighted).unwrap().loss, &q);
        close(slopes[1], -(1.0 - 1.0 / n as f64) / tau);
    }
}

#[test]
fn equal_features_have_known_temperature_and_loss() {
    let equal = Tensor::leaf(random(1, 4, 16).broadcast_to(&[6, 4]).unwrap());
    let run = |adaptation| macl(&equal, &equal, &Macl { adaptation, ..Macl::default() }).unwrap();
    let linear = run(Adaptation::Linear { alpha: 0.5, origin: 0.0 });
    close(linear.alignment, 1.0);
    close(linear.temperature, 0.1 * 1.5);
    close(run(Adaptation::Exponential { base: 2.0 }).temperature, 0.2);
    close(run(Adaptation::Linear { alpha: 0.5, origin: 0.4 }).temperature, 0.1 * 1.3);
    close(value(&linear.loss), 6.0 / 5.0 * Real::log(6.0));
    close(value(&linear.info_nce), Real::log(6.0));
    // Never below a thousandth.
    close(run(Adaptation::Linear { alpha: -5.0, origin: 0.0 }).temperature, 1e-3);
}

#[test]
fn perfect_positives_of_orthogonal_images_follow_the_formula() {
    let n = 6;
    let z = Tensor::leaf(axes(n, n, 1.0));
    let tau = 0.75;
    let adaptation = Adaptation::Linear { alpha: 0.5, origin: 0.0 };
    let o = Macl { temperature: 0.5, adaptation, ..Macl::default() };
    let found = macl(&z, &z, &o).unwrap();
    let p = 1.0 / (1.0 + (n - 1) as f64 * Real::exp(-1.0 / tau));
    close(value(&found.loss), -Real::log(p) / (1.0 - p));
    assert!(value(&found.loss) > value(&found.info_nce));
}

/// Against InfoNCE at the temperature found: each image's gradient times its weight.
#[test]
fn temperature_and_weights_have_no_gradient() {
    let (q, k, queue) = (leaf(4, 3, 17), leaf(4, 3, 18), leaf(9, 3, 19));
    let adaptation = Adaptation::Linear { alpha: 1.0, origin: -0.5 };
    let o = Macl { temperature: 0.4, adaptation, ..Macl::default() };
    let found = macl_queue(&q, &k, &queue, &o).unwrap();
    let tau = found.temperature;
    let slopes = gradient(&found.loss, &q);
    let (uq, uk, un) = (units(&q), units(&k), units(&queue));
    close(found.alignment, (0..4).map(|i| dot(&uq[i], &uk[i])).sum::<f64>() / 4.0);
    for i in 0..4 {
        let own = |x: &Tensor| Tensor::leaf(x.array().slice(0, i, i + 1).unwrap());
        let (q, k) = (own(&q), own(&k));
        let alone = info_nce(&q, &k, &queue, &InfoNce { temperature: tau }).unwrap();
        let positive = Real::exp(dot(&uq[i], &uk[i]) / tau);
        let negatives: f64 = un.iter().map(|n| Real::exp(dot(&uq[i], n) / tau)).sum();
        let weight = 1.0 + positive / negatives;
        let expected: Vec<f64> = gradient(&alone, &q).iter().map(|d| d * weight / 4.0).collect();
        all_close(&slopes[3 * i..3 * i + 3], &expected);
    }
}

#[test]
fn weights_have_a_largest_value() {
    // At 1e-3 the positive is e^1000 times as likely as the negatives.
    let z = Tensor::leaf(axes(3, 3, 1.0));
    let adaptation = Adaptation::Linear { alpha: 0.0, origin: 0.0 };
    let found = macl(&z, &z, &Macl { temperature: 1e-3, adaptation, ..Macl::default() }).unwrap();
    assert!(value(&found.loss).is_finite() && gradient(&found.loss, &z).iter().all(|d| d.is_finite()));
    let one = leaf(1, 3, 0);
    assert_eq!(macl(&one, &one, &Macl::default()).err().unwrap().kind(), ErrorKind::Shape);
}

const HALF: Bregman = Bregman { temperature: 0.5, sigma: 0.9 };

#[test]
fn one_subnetwork_or_one_winner_tells_nothing_apart() {
    let dead = Real::log(11.0);
    let one = leaf(12, 1, 20);
    let loss = bregman(&one, &HALF).unwrap();
    close(value(&loss), dead);
    assert!(gradient(&loss, &one).iter().all(|d| *d == 0.0));
    // The last of three is the largest by far for all.
    let shift = array(&[0.0, 0.0, 50.0], &[3]);
    let shared = Tensor::leaf(ops::add(&random(12, 3, 21), &shift).unwrap());
    close(value(&bregman(&shared, &HALF).unwrap()), dead);
    assert_eq!(active_subnetworks(shared.array(), 1).unwrap(), 1);
    let two = array(&[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], &[3, 2]);
    assert_eq!((active_subnetworks(&two, 1).unwrap(), active_subnetworks(&two, 2).unwrap()), (2, 1));
}

#[test]
fn a_number_added_to_a_row_changes_nothing() {
    let f = random(12, 4, 22);
    let by_row =
        Array::from_slice(&(0..12).map(|i| 3.0 * f64::from(i) - 7.0).collect::<Vec<_>>(), &[12, 1], f.device());
    let moved = ops::add(&f, &by_row.unwrap()).unwrap();
    let run = |f: &Array| value(&bregman(&Tensor::leaf(f.clone()), &HALF).unwrap());
    assert!((run(&f) - run(&moved)).abs() < 1e-11);
    let by_column = ops::add(&f, &array(&[0.0, 1.0, -1.0, 0.5], &[4])).unwrap();
    assert!((run(&f) - run(&by_column)).abs() > 1e-3);
}

#[test]
fn the_width_goes_from_winners_alone_to_nothing() {
    let f = leaf(8, 4, 23);
    let wide = Bregman { sigma: 1e6, ..HALF };
    assert!((value(&bregman(&f, &wide).unwrap()) - Real::log(7.0)).abs() < 1e-9);
    // Two winners, in turn by image: partners share theirs, at S = 1 for 3 of the other 7 and 0 for 4.
    let rows: Vec<f64> = (0..8).flat_map(|i| if i % 2 == 0 { [1.0, 0.0] } else { [0.0, 1.0] }).collect();
    let narrow = Bregman { sigma: 1e-3, ..HALF };
    let found = value(&bregman(&Tensor::leaf(array(&rows, &[8, 2])), &narrow).unwrap());
    close(found, Real::log((3.0 * Real::exp(2.0) + 4.0) / Real::exp(2.0)));
    // Each image has a winner of its own: the least value there is.
    let least = value(&bregman(&Tensor::leaf(axes(8, 4, 1.0)), &narrow).unwrap());
    close(least, Real::log(1.0 + 6.0 * Real::exp(-2.0)));
}

/// D_12 = max f_1 - f_1 at the winner of 2: rows' own values alone.
#[test]
fn the_divergence_takes_the_values_of_the_anchor() {
    let f = Tensor::leaf(array(&[3.0, 1.0, 0.0, 2.0], &[2, 2]));
    // Two views of one image: the only candidate is the partner, so the loss is 0, and the margin form shows D.
    assert_eq!(value(&bregman(&f, &HALF).unwrap()), 0.0);
    let loss = bregman_margin(&f, &labels(&[0, 1]), &BregmanMargin { margin: 0.0 }).unwrap();
    // D_12 = 3 - 1, D_21 = 2 - 0; a view does not diverge from itself.
    close(value(&loss), (2.0 + 2.0) / 2.0 / 2.0);
    assert_eq!(gradient(&loss, &f), [0.25, -0.25, -0.25, 0.25]);
    let with_margin = bregman_margin(&f, &labels(&[0, 1]), &BregmanMargin { margin: 1.0 }).unwrap();
    close(value(&with_margin), (2.0 + 1.0 + 2.0 + 1.0) / 2.0 / 2.0);
}

/// Values have the same bits; what a row receives from the rows of other ranks is added within ranks first.
#[test]
fn ranks_share_weighted_contrasts() {
    let (a, b, queue) = (random(64, 8, 24), random(64, 8, 25), random(70, 8, 26));
    let inputs = [a, b];
    let leaves = |x: &[Array]| [Tensor::leaf(x[0].clone()), Tensor::leaf(x[1].clone())];
    expect_same_bits("cacr", &inputs, &|x, comm| {
        let [a, b] = leaves(x);
        Ok((cacr_ranks(&[&a, &b], &Cacr::default(), &comm)?.loss, local([a, b])))
    });
    for rbf in [false, true] {
        expect_same_bits("cacr_momentum", &inputs, &|x, comm| {
            let ([a, b], k) = (leaves(x), Tensor::constant(ops::unary(ops::Unary::Square, &x[0])?));
            let o = CacrMomentum { temperature: 0.5, rbf };
            Ok((cacr_momentum_ranks(&[&a, &b], &k, &o, &comm)?, local([a, b])))
        });
    }
    expect_same_bits("false_negative_cancellation", &inputs, &|x, comm| {
        let [a, b] = leaves(x);
        let o = Cancellation { threshold: 0.5, ..Cancellation::default() };
        Ok((false_negative_cancellation_ranks(&[&a, &b], &o, &comm)?.loss, local([a, b])))
    });
    expect_same_bits("macl", &inputs, &|x, comm| {
        let [a, b] = leaves(x);
        Ok((macl_ranks(&a, &b, &Macl::default(), &comm)?.loss, local([a, b])))
    });
    expect_same_bits("macl of both views", &inputs, &|x, comm| {
        let [a, b] = leaves(x);
        let o = Macl { candidates: Candidates::BothViews, ..Macl::default() };
        Ok((macl_ranks(&a, &b, &o, &comm)?.loss, local([a, b])))
    });
    expect_same_bits("macl of a queue", &inputs, &|x, comm| {
        let [q, k] = leaves(x);
        let queue = Tensor::constant(ops::cast(&queue, x[0].dtype())?);
        Ok((macl_queue_ranks(&q, &k, &queue, &Macl::default(), &comm)?.loss, local([q])))
    });
    expect_same_bits("bregman", &inputs, &|x, comm| {
        let [a, b] = leaves(x);
        Ok((bregman_ranks(&a, &b, &HALF, &comm)?, local([a, b])))
    });
}

#[test]
fn both_directions_have_gradients() {
    let (a, b) = (leaf(5, 3, 27), leaf(5, 3, 28));
    let [da, db] = gradients(&macl(&a, &b, &Macl::default()).unwrap().loss, [&a, &b]);
    assert!(da.iter().chain(&db).all(|d| *d != 0.0));
}

/// The forms written out, gradients included: weights and targets are constants.
#[test]
fn weights_over_queries_and_targets_have_no_gradient() {
    let (n, d, t) = (4, 3, 0.5);
    let (q0, q1, k) = (leaf(n, d, 29), leaf(n, d, 30), leaf(n, d, 31));
    for rbf in [false, true] {
        let o = CacrMomentum { temperature: t, rbf };
        let loss = cacr_momentum(&[&q0, &q1], &k, &o).unwrap();
        let grads = loss.backward().unwrap();
        assert!(grads.get(&k).unwrap().is_none());
        let keys = units(&k);
        let queries = [units(&q0), units(&q1)];
        let far = |v: usize, i: usize| Real::exp(cost(&queries[v][i], &keys[i]) / t);
        let mut expected = 0.0;
        for (v, q) in [&q0, &q1].into_iter().enumerate() {
            let found = grads.get(q).unwrap().unwrap().to_vec::<f64>().unwrap();
            for i in 0..n {
                let p = far(v, i) / (far(0, i) + far(1, i));
                let dots: Vec<f64> = keys.iter().map(|k| dot(&queries[v][i], k)).collect();
                let weights: Vec<f64> =
                    (0..n).map(|j| if j == i && !rbf { 0.0 } else { Real::exp(dots[j] / t) }).collect();
                let total: f64 = weights.iter().sum();
                // d/dq: of -q·k_i + Σ w q·k_j, times 1, or 2 T / (N T).
                let scale = if rbf { 2.0 / n as f64 } else { 1.0 };
                let slope: Vec<f64> = (0..d)
                    .map(|c| {
                        let pushed: f64 = (0..n).map(|j| weights[j] / total * keys[j][c]).sum();
                        p * scale * (pushed - keys[i][c])
                    })
                    .collect();
                expected += p * match rbf {
                    true => -2.0 * t / n as f64 * Real::log(weights[i] / total),
                    false => 1.0 - dots[i] - (0..n).map(|j| weights[j] / total * (1.0 - dots[j])).sum::<f64>(),
                };
                let along = dot(&slope, &queries[v][i]);
                let row = &q.array().to_vec::<f64>().unwrap()[i * d..(i + 1) * d];
                let length = dot(row, row).sqrt();
                let off: Vec<f64> = (0..d).map(|c| (slope[c] - along * queries[v][i][c]) / length).collect();
                all_close(&found[i * d..(i + 1) * d], &off);
            }
        }
        close(value(&loss), expected);
    }
}

#[test]
fn one_query_is_a_weighted_info_nce() {
    let (q, k, t) = (leaf(5, 4, 32), leaf(5, 4, 33), 0.5);
    let loss = cacr_momentum(&[&q], &k, &CacrMomentum { temperature: t, rbf: true }).unwrap();
    let (uq, uk) = (units(&q), units(&k));
    let entropy = |i: usize| {
        let weights: Vec<f64> = uk.iter().map(|k| Real::exp(dot(&uq[i], k) / t)).collect();
        -Real::log(weights[i] / weights.iter().sum::<f64>())
    };
    close(value(&loss), 2.0 * t * (0..5).map(entropy).sum::<f64>() / 5.0);
}

#[test]
fn no_false_negatives_of_two_views_is_nt_xent_twice() {
    let (a, b) = (leaf(6, 4, 34), leaf(6, 4, 35));
    let o = Cancellation { temperature: 0.3, most: 10, threshold: 1.0 };
    let found = false_negative_cancellation(&[&a, &b], &o).unwrap();
    assert_eq!(found.found, 0.0);
    let z = Tensor::concat(&[&a, &b], 0).unwrap();
    let pairs = nt_xent(&z, &NtXent { temperature: 0.3, ..NtXent::default() }).unwrap();
    close(value(&found.loss), 2.0 * value(&pairs));
    let (found, pairs) = (gradient(&found.loss, &a), gradient(&pairs, &a));
    all_close(&found, &pairs.iter().map(|d| 2.0 * d).collect::<Vec<_>>());
}

#[test]
fn equal_images_are_each_others_false_negatives() {
    // Images 0 and 1 are equal; image 2 lies apart.
    let view = Tensor::leaf(array(&[1.0, 0.0, 1.0, 0.0, 0.0, 1.0], &[3, 2]));
    let found = false_negative_cancellation(&[&view, &view], &Cancellation::default()).unwrap();
    close(found.found, 4.0 / 3.0);
    // Three candidates at cosine 1 and two at 0; of the third image one at 1 and four at 0. All positives are at 1.
    let entropy = |near: f64, far: f64| Real::log(near + far * Real::exp(-10.0));
    close(value(&found.loss), 2.0 * (2.0 * entropy(3.0, 2.0) + entropy(1.0, 4.0)) / 3.0);
    let one = Cancellation { most: 1, ..Cancellation::default() };
    close(false_negative_cancellation(&[&view, &view], &one).unwrap().found, 2.0 / 3.0);
}

/// Where all costs are equal, the slope along another vector tells its weight: 1/2 of either positive, 1/3 of each of
/// three negatives.
#[test]
fn equal_costs_weigh_alike() {
    let views = [0, 4, 8].map(|first| Tensor::leaf(axes(12, 12, 1.0).slice(0, first, first + 4).unwrap()));
    let [a, b, c] = &views;
    let terms = || cacr(&[a, b, c], &Cacr::default()).unwrap();
    let (attraction, repulsion) = (gradient(&terms().attraction, c), gradient(&terms().repulsion, c));
    for image in 0..4 {
        for axis in 0..12 {
            // The cost 2 - 2 u·v. Means are over 12 queries, of which two see a positive of an image, one from each
            // side; and over 12 rows of three pairs of views.
            let (pull, push) = match (axis < 8, axis % 4 == image) {
                (true, true) => (-2.0 * (0.5 + 0.5) / 12.0, 0.0),
                (true, false) => (0.0, 2.0 / 3.0 / 12.0),
                (false, _) => (0.0, 0.0),
            };
            close(attraction[12 * image + axis], pull);
            close(repulsion[12 * image + axis], push);
        }
    }
}

/// The repulsion is the mean over pairs of views, the first of which asks: all that the order of views changes.
#[test]
fn the_order_of_views_says_who_asks_and_nothing_else() {
    let views = [36, 37, 38].map(|number| leaf(5, 4, number));
    let [a, b, c] = &views;
    let repulsion = |views: &[&Tensor]| parts(views, &Cacr::default())[1];
    let (there, back) = (repulsion(&[a, b, c]), repulsion(&[c, b, a]));
    close(there, (repulsion(&[a, b]) + repulsion(&[a, c]) + repulsion(&[b, c])) / 3.0);
    close(back, (repulsion(&[b, a]) + repulsion(&[c, a]) + repulsion(&[c, b])) / 3.0);
    assert!((there - back).abs() > 1e-6);
}

#[test]
fn between_views_without_adaptation_and_weights_macl_is_clip_s_loss() {
    let (a, b) = (leaf(5, 4, 39), leaf(5, 4, 40));
    let found = macl(&a, &b, &plain(Candidates::OtherView)).unwrap().loss;
    let expected = clip(&a, &b, &Clip { scale: Coefficient::Fixed(1.0 / 0.2) }).unwrap();
    close(value(&found), value(&expected));
    let (found, expected) = (gradients(&found, [&a, &b]), gradients(&expected, [&a, &b]));
    found.iter().zip(&expected).for_each(|(found, expected)| all_close(found, expected));
}

/// With key and queue on axes the coordinates of q are the scores. A further axis has the rest of q's length, and shows
/// what the projection off q has taken from the slopes.
#[test]
fn weights_make_the_slopes_of_any_scores_add_up_to_one_over_the_temperature() {
    let o = Macl { reweight: true, ..plain(Candidates::OtherView) };
    for scores in [&[0.7, -0.4][..], &[-0.6, 0.5], &[0.2, 0.9], &[0.5, -0.3, 0.4, 0.1, -0.2, 0.6]] {
        let n = scores.len();
        let rest = (1.0 - dot(scores, scores)).sqrt();
        let q = Tensor::leaf(array(&[scores, &[rest]].concat(), &[1, n + 1]));
        let k = Tensor::constant(axes(1, n + 1, 1.0));
        let queue = Tensor::constant(axes(n, n + 1, 1.0).slice(0, 1, n).unwrap());
        let found = gradient(&macl_queue(&q, &k, &queue, &o).unwrap().loss, &q);
        let slope = |j: usize| found[j] - found[n] / rest * scores[j];
        close(slope(0), -1.0 / 0.2);
        close((1..n).map(slope).sum(), 1.0 / 0.2);
    }
}

/// D of one row from another, by what it is short of a margin.
#[test]
fn the_divergence_is_0_of_one_winner_alone_and_has_a_direction() {
    let f = random(10, 3, 40);
    let winners = ops::argmax(&f, 1).unwrap().to_vec::<i64>().unwrap();
    let divergence = |i: i64, j: i64| {
        let rows = Tensor::leaf(ops::index_select(&f, 0, &labels(&[i, j])).unwrap());
        // The second row is its own negative, so that the margin adds ((m - D)² + m²) / 4.
        let at = |margin| value(&bregman_margin(&rows, &labels(&[1, 1]), &BregmanMargin { margin }).unwrap());
        let margin = 9.0;
        margin - (4.0 * (at(margin) - at(0.0)) - margin * margin).sqrt()
    };
    let mut has_direction = false;
    for i in 0..10 {
        for j in 0..10 {
            let found = divergence(i, j);
            let is_one_winner = winners[i as usize] == winners[j as usize];
            assert!(found > -1e-9 && (found < 1e-9) == is_one_winner, "{found} of {i} from {j}");
            has_direction |= (found - divergence(j, i)).abs() > 0.1;
        }
    }
    assert!(has_direction);
}
