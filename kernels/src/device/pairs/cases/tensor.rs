//! Cases of the tensor-core kernels. Expected values are the reference's in f64 on the same bf16 numbers; what is kept
//! from them is bounded by the f32 arithmetic of sums, and for gradients by the rounding of G.

use super::super::tensor::*;
use super::gradient::Weighted;
use super::*;
use crate::case::{Expected, nearly};
use crate::half_precision::{bf16_bits_of_f32, f32_of_bf16_bits};
use crate::reference::PairRow;

/// Sums of up to 1,030 terms in f32, and an exponential of an argument of about 10: 2^-23 times less than 128, of the
/// largest result.
const SUM_ERROR: f64 = 1.0 / 65536.0;

/// Rounding G to bf16: 2^-9 of each term, and as much again for the rest.
const G_ERROR: f64 = 1.0 / 256.0;

/// The term, in f64.
fn in_f64(term: PairTerm<f32>) -> PairTerm<f64> {
    match term {
        PairTerm::ExpShifted { scale, shift } => PairTerm::ExpShifted { scale: scale.into(), shift: shift.into() },
        PairTerm::Exp { scale } => PairTerm::Exp { scale: scale.into() },
        PairTerm::Softplus { scale, bias } => PairTerm::Softplus { scale: scale.into(), bias: bias.into() },
    }
}

fn f64s(x: &[f32]) -> Vec<f64> {
    x.iter().map(|x| f64::from(*x)).collect()
}

fn bf16s(x: &[f32]) -> Vec<u16> {
    x.iter().map(|x| bf16_bits_of_f32(*x)).collect()
}

/// The problem with numbers that bf16 holds.
fn rounded(mut problem: Problem) -> Problem {
    for x in [&mut problem.q, &mut problem.k] {
        x.iter_mut().for_each(|x| *x = f32_of_bf16_bits(bf16_bits_of_f32(*x)));
    }
    problem
}

/// Values of which each is at most `share` of the largest size away.
fn within_share(values: Vec<f64>, sizes: &[f64], share: f64) -> Expected<f32> {
    let largest = sizes.iter().map(|x| x.abs()).filter(|x| x.is_finite()).fold(0.0, f64::max);
    nearly(values.into_iter().map(|x| x as f32).collect(), share * largest)
}

/// Scales at which dot products of 128 elements stay in the range of exp.
const SMALL_FIXED: PairTerm<f32> = PairTerm::ExpShifted { scale: 0.0625, shift: 1.5 };
const SMALL_ONLINE: PairTerm<f32> = PairTerm::Exp { scale: 0.0625 };

/// What the kernels of rows write where all columns are one part.
fn planes(problem: &Problem, term: PairTerm<f32>) -> (Expected<f32>, Vec<u32>) {
    let Problem { m, n, d, .. } = *problem;
    let (q, k) = (f64s(&problem.q), f64s(&problem.k));
    let rows = reference::pair_rows([m, n, d], &q, &k, in_f64(term), |i, j| problem.excluded(i, j));
    let dot = |i: usize, j: usize| (0..d).map(|p| q[i * d + p] * k[j * d + p]).sum::<f64>();
    let lead = |(i, _): (usize, &PairRow<f64>)| match term {
        PairTerm::Exp { scale } => {
            let x = (0..n).filter(|j| !problem.excluded(i, *j)).map(|j| dot(i, j) * f64::from(scale));
            x.fold(f64::NEG_INFINITY, f64::max)
        }
        _ => 0.0,
    };
    let top = |(i, row): (usize, &PairRow<f64>)| row.top.map_or(f64::NEG_INFINITY, |j| dot(i, j));
    let indexed = || rows.iter().enumerate();
    let values: Vec<f64> = indexed()
        .map(lead)
        .chain(rows.iter().map(|row| row.sum))
        .chain(rows.iter().map(|row| row.weighted_dot))
        .chain(indexed().map(top))
        .collect();
    let sizes = values.clone();
    let tops = rows.iter().map(|row| row.top.map_or(NONE, |j| j as u32)).collect();
    (within_share(values, &sizes, SUM_ERROR), tops)
}

/// Edges of tiles, of steps and of rows; rules of each kind.
fn problems() -> [Problem; 6] {
    [
        Problem::new([1, 1, 1]),
        Problem::new([2, 64, 4]),
        Problem::new([17, 66, 5]).keyed(),
        Problem::new([3, 130, 128]).listed(),
        Problem::new([129, 9, 20]),
        Problem::new([2, 65, 125]).keyed().listed(),
    ]
    .map(rounded)
}

macro_rules! row_cases {
    ($($name:ident $kernel:ident $term:ident;)+) => {$(
        pub(in super::super) fn $name() -> Vec<Case> {
            let case = |problem: Problem| {
                let (sums, tops) = planes(&problem, $term);
                let ([m, n, d], [scale, bias], name) = (problem.dims(), numbers($term), problem.named());
                let Problem { q, k, own, rules, row_key, column_key, keep, starts, list, .. } = problem;
                let (q, k, listed) = (bf16s(&q), bf16s(&k), list.len() as u32);
                $kernel::TestCase {
                    q, k, own, row_key, column_key, keep, starts, list, sums, tops: exactly(tops),
                    m, n, d, rules, listed, each: 1, scale, bias,
                }
                .named(name)
            };
            problems().map(case).into()
        }
    )+};
}
row_cases! {
    rows_fixed_cases pair_rows_bf16_fixed SMALL_FIXED;
    rows_online_cases pair_rows_bf16_online SMALL_ONLINE;
}

/// The gradient with factor 1, by its formula.
fn gradient(weighted: &Weighted, term: PairTerm<f32>) -> Expected<f32> {
    let Weighted { problem, row, column } = weighted;
    let Problem { m, n, d, q, k, .. } = problem;
    let [scale, bias] = numbers(term).map(f64::from);
    let g = |i: usize, j: usize| {
        let dot: f64 = (0..*d).map(|p| f64::from(q[i * d + p]) * f64::from(k[j * d + p])).sum();
        let x = dot * scale + bias;
        let [side_i, side_j] = [(row, i), (column, j)].map(|(side, at)| side.each_ref().map(|x| f64::from(x[at])));
        match term {
            _ if problem.excluded(i, j) => 0.0,
            PairTerm::Exp { .. } => side_i[0] * (x - side_i[1]).exp() + side_j[0] * (x - side_j[1]).exp(),
            _ => x.exp() * (side_i[0] + side_j[0]),
        }
    };
    let (mut values, mut sizes) = (Vec::new(), Vec::new());
    for i in 0..*m {
        let row: Vec<f64> = (0..*n).map(|j| g(i, j)).collect();
        for p in 0..*d {
            let terms = || row.iter().enumerate().map(|(j, g)| g * f64::from(k[j * d + p]));
            values.push(terms().sum());
            sizes.push(terms().map(f64::abs).sum());
        }
    }
    within_share(values, &sizes, G_ERROR)
}

/// The last column has an infinite element, and so has its part of the gradient: what lies behind it in the tile must be
/// 0, and not the last column again, times 0.
fn infinite_at_the_end() -> Weighted {
    let mut problem = rounded(Problem::new([1, 3, 4]));
    problem.q[0] = 1.0;
    problem.k[2 * 4] = f32::INFINITY;
    let mut weighted = Weighted::new(problem);
    for weight in [&mut weighted.row[0], &mut weighted.column[0]] {
        weight.iter_mut().for_each(|x| *x = 1.0);
    }
    weighted
}

macro_rules! gradient_cases {
    ($($name:ident $kernel:ident $term:ident;)+) => {$(
        pub(in super::super) fn $name() -> Vec<Case> {
            let case = |weighted: Weighted| {
                let dq = gradient(&weighted, $term);
                let Weighted { problem, row: [row_weight, row_value], column: [column_weight, column_value] } = weighted;
                let ([m, n, d], [scale, bias], name) = (problem.dims(), numbers($term), problem.named());
                let Problem { q, k, own, rules, row_key, column_key, keep, starts, list, .. } = problem;
                let (q, k, listed) = (bf16s(&q), bf16s(&k), list.len() as u32);
                $kernel::TestCase {
                    q, k, own, row_key, column_key, keep, starts, list,
                    row_weight, row_value: gradient::values($term, row_value),
                    column_weight, column_value: gradient::values($term, column_value),
                    dq, m, n, d, rules, listed, each: 1, scale, bias, factor: 1.0,
                }
                .named(name)
            };
            let mut weighted: Vec<Weighted> = problems().map(Weighted::new).into();
            weighted.push(infinite_at_the_end());
            weighted.into_iter().map(case).collect()
        }
    )+};
}
gradient_cases! {
    grad_fixed_cases pair_grad_bf16_fixed SMALL_FIXED;
    grad_online_cases pair_grad_bf16_online SMALL_ONLINE;
}
