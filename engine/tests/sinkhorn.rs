//! Sinkhorn: the definition's bits on any number of threads and ranks, both marginals at the fixed point, SwAV's
//! numbers, no NaN at any temperature.

use proptest::prelude::*;
use selfsame_engine::ops::{
    self, CodeScale, Marginal, Sinkhorn, SinkhornDomain, SinkhornResult, SinkhornStop, sinkhorn,
};
use selfsame_engine::{Array, Comm, DType, Device, ErrorKind, Result};
use selfsame_kernels::math::Real;
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_kernels::reference;

const DOMAINS: [SinkhornDomain; 2] = [SinkhornDomain::Scaling, SinkhornDomain::Log];

/// Numbers over [-1, 1) times `size`.
fn values(n: usize, seed: u64, size: f32) -> Vec<f32> {
    let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    (0..n).map(|_| size * (2.0 * stream.uniform_f32() - 1.0)).collect()
}

fn array(values: &[f32], n: usize, threads: usize) -> Array {
    Array::from_slice(values, &[n, values.len() / n], &Device::cpu_with(threads).unwrap()).unwrap()
}

fn alone(scores: &Array, options: &Sinkhorn) -> Result<SinkhornResult> {
    sinkhorn(scores, options, &Comm::single())
}

fn codes(result: &SinkhornResult) -> Vec<f32> {
    result.codes.to_vec().unwrap()
}

/// The definition's codes, for positive weights of rows and columns.
fn defined<T: Real>(scores: &[T], options: &Sinkhorn, domain: SinkhornDomain, weights: [&[f64]; 2]) -> Vec<T> {
    let SinkhornStop::Iterations(iterations) = options.stop else { panic!("a number of iterations") };
    let [rows, columns] = weights.map(|weights| {
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| T::from_f64(w / total)).collect::<Vec<T>>()
    });
    let ones = vec![T::ONE; rows.len()];
    let code_mass = if options.codes == CodeScale::Plan { &rows } else { &ones };
    let scale = T::from_f64(1.0 / options.epsilon);
    let options = reference::Sinkhorn { scale, iterations, row_mass: &rows, column_mass: &columns, code_mass };
    match domain {
        SinkhornDomain::Scaling => reference::sinkhorn_scaling(scores, options),
        SinkhornDomain::Log => reference::sinkhorn_log(scores, options),
    }
}

/// Runs one rank per part of the rows, each on a device of its own.
fn on_ranks(scores: &[f32], k: usize, cuts: &[usize], options: &Sinkhorn) -> Vec<Result<SinkhornResult>> {
    let comms = Comm::emulated(cuts.len() - 1).unwrap();
    std::thread::scope(|scope| {
        let ranks = comms.into_iter().zip(cuts.windows(2)).map(|(comm, cut)| {
            let mut options = options.clone();
            if let Marginal::Given(weights) = &mut options.rows {
                *weights = weights[cut[0]..cut[1]].to_vec();
            }
            let part = array(&scores[cut[0] * k..cut[1] * k], cut[1] - cut[0], 1);
            scope.spawn(move || sinkhorn(&part, &options, &comm))
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn codes_have_the_bits_of_the_definition(
        n in 1usize..150, k in 1usize..90, iterations in 1usize..4, seed in any::<u32>(), plan in any::<bool>(),
        uneven in any::<bool>(),
    ) {
        let scores = values(n * k, u64::from(seed), 1.0);
        let wide: Vec<f64> = scores.iter().map(|s| f64::from(*s)).collect();
        let weights = |len: usize| (0..len).map(|i| if uneven { 1.0 + (i % 7) as f64 } else { 1.0 }).collect::<Vec<_>>();
        let (rows, columns) = (weights(n), weights(k));
        for domain in DOMAINS {
            let options = Sinkhorn {
                codes: if plan { CodeScale::Plan } else { CodeScale::Probabilities },
                rows: if uneven { Marginal::Given(rows.clone()) } else { Marginal::Balanced },
                columns: if uneven { Marginal::Given(columns.clone()) } else { Marginal::Balanced },
                domain: Some(domain),
                ..Sinkhorn::swav(0.1, iterations)
            };
            let expected = defined(&scores, &options, domain, [&rows, &columns]);
            for threads in [1, 2, 3, 8] {
                prop_assert_eq!(&codes(&alone(&array(&scores, n, threads), &options).unwrap()), &expected);
            }
            let scores = Array::from_slice(&wide, &[n, k], &Device::cpu_with(2).unwrap()).unwrap();
            let expected = defined(&wide, &options, domain, [&rows, &columns]);
            prop_assert_eq!(alone(&scores, &options).unwrap().codes.to_vec::<f64>().unwrap(), expected);
        }
    }

    #[test]
    fn many_iterations_meet_both_marginals(n in 1usize..40, k in 1usize..40, seed in any::<u32>()) {
        let scores: Vec<f64> = values(n * k, u64::from(seed), 1.0).into_iter().map(f64::from).collect();
        let scores = Array::from_slice(&scores, &[n, k], &Device::cpu_with(1).unwrap()).unwrap();
        for domain in DOMAINS {
            let options = Sinkhorn { domain: Some(domain), ..Sinkhorn::swav(0.5, 300) };
            let result = alone(&scores, &options).unwrap();
            prop_assert!(result.row_error.l1 < 1e-13, "{:?}", result.row_error);
            prop_assert!(result.column_error.l1 < 1e-12, "{:?}", result.column_error);
        }
    }
}

#[test]
fn ranks_have_the_bits_of_one() {
    let (n, k) = (300, 37);
    let scores = values(n * k, 3, 1.0);
    let given = Marginal::Given((0..n).map(|i| 1.0 + (i % 5) as f64).collect());
    for domain in DOMAINS {
        for rows in [Marginal::Balanced, given.clone()] {
            let options = Sinkhorn { rows, domain: Some(domain), ..Sinkhorn::swav(0.1, 3) };
            let one = alone(&array(&scores, n, 2), &options).unwrap();
            for cuts in [&[0, 128, 300][..], &[0, 16, 48, 300], &[0, 64, 128, 192, 300], &[0, 272, 300]] {
                let parts: Vec<SinkhornResult> =
                    on_ranks(&scores, k, cuts, &options).into_iter().map(Result::unwrap).collect();
                assert_eq!(parts.iter().flat_map(codes).collect::<Vec<_>>(), codes(&one), "{domain:?}, {cuts:?}");
                for part in &parts {
                    assert_eq!((part.row_error, part.column_error), (one.row_error, one.column_error));
                }
            }
        }
    }
}

#[test]
fn ranks_that_differ_are_refused_together() {
    let scores = values(60 * 4, 4, 1.0);
    for rank in on_ranks(&scores, 4, &[0, 24, 60], &Sinkhorn::swav(0.1, 3)) {
        assert_eq!(rank.unwrap_err().kind(), ErrorKind::Numerics);
    }
    let mut scores = scores;
    scores[40 * 4 + 1] = f32::NAN;
    for rank in on_ranks(&scores, 4, &[0, 32, 60], &Sinkhorn::swav(0.1, 3)) {
        let error = rank.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(error.to_string().contains("row 8, column 1 of rank 1"), "{error}");
    }
}

/// Q of SwAV's algorithm in f64, step by step on the whole matrix: exponentials, their sum divided out, prototypes and
/// samples in turn, and a last scaling to probabilities.
fn swav(scores: &[f32], n: usize, k: usize, epsilon: f64, iterations: usize) -> Vec<f64> {
    let mut q: Vec<f64> = scores.iter().map(|s| Real::exp(f64::from(*s) / epsilon)).collect();
    let total: f64 = q.iter().sum();
    q.iter_mut().for_each(|q| *q /= total);
    for _ in 0..iterations {
        for j in 0..k {
            let sum: f64 = q.iter().skip(j).step_by(k).sum();
            q.iter_mut().skip(j).step_by(k).for_each(|q| *q /= sum * k as f64);
        }
        for row in q.chunks_mut(k) {
            let sum: f64 = row.iter().sum();
            row.iter_mut().for_each(|q| *q /= sum * n as f64);
        }
    }
    q.iter_mut().for_each(|q| *q *= n as f64);
    q
}

#[test]
fn both_domains_are_swav_at_three_iterations() {
    for (n, k, size) in [(64, 30, 1.0f32), (17, 40, 0.5), (200, 3, 0.9)] {
        let scores = values(n * k, 5, size);
        let expected = swav(&scores, n, k, 0.05, 3);
        for domain in DOMAINS {
            let options = Sinkhorn { domain: Some(domain), ..Sinkhorn::swav(0.05, 3) };
            let got = codes(&alone(&array(&scores, n, 2), &options).unwrap());
            let apart = got.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
            // Exponents up to 40 are rounded to 2^-19, relative; a few such factors meet in a code.
            assert!(apart < 20.0 * 2f64.powi(-19), "{domain:?}: {apart}");
        }
    }
}

#[test]
fn a_constant_per_prototype_changes_nothing_and_one_per_sample_does() {
    let (n, k) = (48, 6);
    let scores = values(n * k, 6, 0.3);
    let moved = |by: &dyn Fn(usize) -> f32| -> Vec<f32> { scores.iter().enumerate().map(|(i, s)| s + by(i)).collect() };
    let result = |scores: &[f32]| codes(&alone(&array(scores, n, 1), &Sinkhorn::swav(0.05, 3)).unwrap());
    let apart = |scores: &[f32]| {
        result(scores).iter().zip(result(&moved(&|_| 0.0))).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    };
    assert!(apart(&moved(&|i| 0.25 * (i % k) as f32)) < 1e-4);
    assert!(apart(&moved(&|i| 0.25 * (i / k % 3) as f32)) > 1e-2);
}

#[test]
fn the_domain_follows_from_the_range() {
    let scores = |range: f32| array(&[0.0, range, 0.5 * range, 0.1 * range], 2, 1);
    let domain = |range: f32, epsilon: f64| alone(&scores(range), &Sinkhorn::swav(epsilon, 3)).unwrap().domain;
    assert_eq!(domain(2.0, 0.05), SinkhornDomain::Scaling);
    assert_eq!(domain(2.0, 0.047), SinkhornDomain::Scaling);
    assert_eq!(domain(2.0, 0.046), SinkhornDomain::Log);
    let unsafe_scaling = Sinkhorn { domain: Some(SinkhornDomain::Scaling), ..Sinkhorn::swav(0.005, 3) };
    assert_eq!(alone(&scores(2.0), &unsafe_scaling).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn the_scaling_domain_is_safe_up_to_its_bound() {
    // Two groups that want each other's prototypes least, and a prototype nobody wants: the worst the bound allows.
    for (n, k) in [(40, 7), (1, 5), (5, 1), (9, 300)] {
        let score = |i: usize| if (i % k) % 2 == (i / k) % 2 && i % k != k - 1 { 0.0 } else { -42.9f32 };
        let scores: Vec<f32> = (0..n * k).map(score).collect();
        for iterations in [1, 3, 50] {
            let results = DOMAINS.map(|domain| {
                let options = Sinkhorn { domain: Some(domain), ..Sinkhorn::swav(1.0, iterations) };
                alone(&array(&scores, n, 1), &options).unwrap()
            });
            let [scaling, log] = &results;
            assert!(scaling.row_error.l1 < 1e-5 && log.row_error.l1 < 1e-5);
            let apart = codes(scaling).iter().zip(codes(log)).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(apart < 1e-3, "{n} x {k}, {iterations} iterations: {apart}");
        }
    }
}

#[test]
fn any_temperature_and_logits_give_probabilities() {
    for (n, k) in [(1, 1), (1, 9), (9, 1), (7, 200), (70, 33)] {
        let cases = [values(n * k, 7, 50.0), values(n * k, 8, 1.0), vec![0.3; n * k], vec![-50.0; n * k]];
        for scores in &cases {
            for epsilon in [1e-4, 5e-3, 0.04, 0.05, 1.0, 10.0] {
                let result = alone(&array(scores, n, 2), &Sinkhorn::swav(epsilon, 3)).unwrap();
                let codes = codes(&result);
                assert!(codes.iter().all(|q| (0.0..=1.0 + 1e-5).contains(q)), "{n} x {k}, epsilon {epsilon}");
                assert!(result.row_error.max < 1e-5 && result.column_error.l1 <= 2.0);
            }
        }
        let uniform = codes(&alone(&array(&cases[2], n, 1), &Sinkhorn::swav(0.05, 3)).unwrap());
        assert!(uniform.iter().all(|q| (q - 1.0 / k as f32).abs() < 1e-6));
    }
}

#[test]
fn tolerance_stops_early_at_the_bits_of_that_many_iterations() {
    let (n, k) = (100, 20);
    let scores = array(&values(n * k, 9, 1.0), n, 2);
    for domain in DOMAINS {
        let options = |stop| Sinkhorn { stop, domain: Some(domain), ..Sinkhorn::swav(0.2, 1) };
        let stopped = alone(&scores, &options(SinkhornStop::Tolerance { column_error: 1e-3, at_most: 500 })).unwrap();
        assert!((2..100).contains(&stopped.iterations), "{}", stopped.iterations);
        assert!(stopped.column_error.l1 <= 1e-3);
        let counted = alone(&scores, &options(SinkhornStop::Iterations(stopped.iterations))).unwrap();
        assert_eq!(codes(&stopped), codes(&counted));
        let short = alone(&scores, &options(SinkhornStop::Iterations(stopped.iterations - 2))).unwrap();
        assert!(short.column_error.l1 > 1e-3);
        let cut_off = alone(&scores, &options(SinkhornStop::Tolerance { column_error: 1e-12, at_most: 4 })).unwrap();
        assert_eq!(cut_off.iterations, 4);
    }
}

#[test]
fn given_marginals_are_met() {
    let (n, k) = (50, 4);
    let scores: Vec<f64> = values(n * k, 10, 1.0).into_iter().map(f64::from).collect();
    let scores = Array::from_slice(&scores, &[n, k], &Device::cpu_with(1).unwrap()).unwrap();
    let (rows, columns): (Vec<f64>, _) = ((0..n).map(|i| 1.0 + (i % 3) as f64).collect(), vec![1.0, 2.0, 3.0, 4.0]);
    let options = Sinkhorn {
        rows: Marginal::Given(rows.clone()),
        columns: Marginal::Given(columns),
        ..Sinkhorn::sela(2.0, 1e-12, 1000)
    };
    let plan = alone(&scores, &options).unwrap().codes;
    let total: f64 = rows.iter().sum();
    let row_sums = ops::sum(&plan, &[1], false).unwrap().to_vec::<f64>().unwrap();
    assert!(row_sums.iter().zip(&rows).all(|(sum, w)| (sum - w / total).abs() < 1e-14));
    let column_sums = ops::sum(&plan, &[0], false).unwrap().to_vec::<f64>().unwrap();
    assert!(column_sums.iter().enumerate().all(|(j, sum)| (sum - 0.1 * (j + 1) as f64).abs() < 1e-11));
}

#[test]
fn half_precision_scores_are_those_numbers_in_f32() {
    let scores = ops::cast(&array(&values(40 * 6, 11, 1.0), 40, 1), DType::BF16).unwrap();
    let exact = ops::cast(&scores, DType::F32).unwrap();
    let [half, exact] = [scores, exact].map(|scores| codes(&alone(&scores, &Sinkhorn::dino(0.04)).unwrap()));
    assert_eq!(half, exact);
}

#[test]
fn what_is_wrong_is_named() {
    let good = array(&[0.1; 12], 4, 1);
    let kind = |scores: &Array, options: &Sinkhorn| alone(scores, options).unwrap_err().kind();
    let base = Sinkhorn::swav(0.05, 3);
    for epsilon in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-60] {
        assert_eq!(kind(&good, &Sinkhorn { epsilon, ..base.clone() }), ErrorKind::Config);
    }
    let none = SinkhornStop::Tolerance { column_error: 0.0, at_most: 3 };
    for stop in [SinkhornStop::Iterations(0), none] {
        assert_eq!(kind(&good, &Sinkhorn { stop, ..base.clone() }), ErrorKind::Config);
    }
    let weights = |weights: &[f64]| Sinkhorn { columns: Marginal::Given(weights.into()), ..base.clone() };
    assert_eq!(kind(&good, &weights(&[1.0, 2.0])), ErrorKind::Shape);
    for wrong in [[1.0, 0.0, 1.0], [1.0, -1.0, 1.0], [1.0, f64::NAN, 1.0], [1.0, 1e9, 1.0]] {
        assert_eq!(kind(&good, &weights(&wrong)), ErrorKind::Config);
    }
    assert_eq!(kind(&good.reshape(&[12]).unwrap(), &base), ErrorKind::Shape);
    assert_eq!(kind(&good.slice(0, 0, 0).unwrap(), &base), ErrorKind::Shape);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut scores = vec![0.0; 12];
        scores[7] = bad;
        let error = alone(&array(&scores, 4, 1), &base).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NonFinite);
        assert!(error.to_string().contains("row 2, column 1"), "{error}");
    }
    assert_eq!(kind(&array(&[0.0, 3e38], 1, 1), &base), ErrorKind::NonFinite);
    let integers = Array::full(1i32, &[2, 2], &Device::cpu_with(1).unwrap()).unwrap();
    assert_eq!(kind(&integers, &base), ErrorKind::DType);
}
