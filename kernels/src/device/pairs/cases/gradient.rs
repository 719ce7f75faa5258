//! Cases of the gradient: problems with weights on both sides.

use super::super::gradient::*;
use super::*;
use crate::case::change;
use crate::reference::PairWeights;

/// The scale of all terms here: a power of two, which [`Weighted::g`] divides out again exactly.
const SCALE: f32 = 0.5;
const FIXED_TERM: PairTerm<f32> = PairTerm::ExpShifted { scale: SCALE, shift: 1.5 };
const ONLINE_TERM: PairTerm<f32> = PairTerm::Exp { scale: SCALE };
const SOFTPLUS_TERM: PairTerm<f32> = PairTerm::Softplus { scale: SCALE, bias: -0.5 };

/// A problem, the weights of both sides, and the values.
pub(super) struct Weighted {
    pub(super) problem: Problem,
    pub(super) row: [Vec<f32>; 2],
    pub(super) column: [Vec<f32>; 2],
}

impl Weighted {
    pub(super) fn new(problem: Problem) -> Weighted {
        let side = |count, seed| [noise(count, seed), noise(count, seed + 1).into_iter().map(|x| x + 2.0).collect()];
        Weighted { row: side(problem.m, 3), column: side(problem.n, 5), problem }
    }

    /// The gradient, in parts of `each` blocks without the factor, or whole with it.
    fn gradient(&self, term: PairTerm<f32>, each: usize) -> Vec<f32> {
        let Problem { m, n, d, q, k, .. } = &self.problem;
        if each * CHUNK >= *n {
            let [row, column] = [&self.row, &self.column].map(|[weight, value]| PairWeights { weight, value });
            return reference::pair_rows_grad([*m, *n, *d], q, k, term, row, column, |i, j| {
                self.problem.excluded(i, j)
            });
        }
        let g = self.g(term);
        let part = |start: usize| {
            let columns = (n - start).min(each * CHUNK);
            let g: Vec<f32> = (0..*m).flat_map(|i| &g[i * n + start..][..columns]).copied().collect();
            reference::contract(*m, *d, columns, &g, &k[start * d..][..columns * d])
        };
        (0..*n).step_by(each * CHUNK).flat_map(part).collect()
    }

    /// G: the gradient of each pair alone, of which the column is the number 1.
    fn g(&self, term: PairTerm<f32>) -> Vec<f32> {
        let Problem { m, n, d, q, k, .. } = &self.problem;
        let dots = reference::contract(*m, *n, *d, q, &turned(k, *d));
        let pair = |at: usize| {
            let (i, j) = (at / n, at % n);
            let row = PairWeights { weight: &self.row[0][i..=i], value: &self.row[1][i..=i] };
            let column = PairWeights { weight: &self.column[0][j..=j], value: &self.column[1][j..=j] };
            let excluded = |_, _| self.problem.excluded(i, j);
            reference::pair_rows_grad([1, 1, 1], &dots[at..=at], &[1.0], term, row, column, excluded)[0] / SCALE
        };
        (0..m * n).map(pair).collect()
    }
}

/// The values, for kernels that read them.
pub(super) fn values(term: PairTerm<f32>, value: Vec<f32>) -> Vec<f32> {
    if matches!(term, PairTerm::Exp { .. }) { value } else { Vec::new() }
}

/// (problem, blocks to a part): edges of tiles, of steps of both products, of blocks and of rows of `width`.
fn problems(width: usize) -> Vec<(Problem, usize)> {
    vec![
        (Problem::new([1, 1, 1]), 1),
        (Problem::new([2, 65, width - 3]), 1),
        (Problem::new([65, 63, 3]).keyed(), 1),
        (Problem::new([3, 130, width]).listed(), 1),
        (Problem::new([1, CHUNK, 1]), 1),
        (Problem::new([2, 514, 1]), 1),
        (Problem::new([3, 514, 2]).keyed().listed(), 2),
    ]
}

macro_rules! gradient_cases {
    ($($name:ident $kernel:ident $term:ident $width:literal;)+) => {$(
        pub(in super::super) fn $name() -> Vec<Case> {
            let case = |(problem, each): (Problem, usize)| {
                let weighted = Weighted::new(problem);
                let dq = weighted.gradient($term, each);
                let Weighted { problem, row: [row_weight, row_value], column: [column_weight, column_value] } = weighted;
                let ([m, n, d], [scale, bias], name) = (problem.dims(), numbers($term), problem.named());
                let whole = each * CHUNK >= problem.n;
                let Problem { q, k, own, rules, row_key, column_key, keep, starts, list, .. } = problem;
                let listed = list.len() as u32;
                // What was there before shows where it is read.
                let dq = change(vec![f32::NAN; dq.len()], exactly(dq));
                $kernel::TestCase {
                    q, k, own, row_key, column_key, keep, starts, list,
                    row_weight, row_value: values($term, row_value),
                    column_weight, column_value: values($term, column_value),
                    dq, m, n, d, rules, listed, each: each as u32, scale, bias, factor: if whole { scale } else { 1.0 },
                }
                .named(format!("{name}, {each} blocks to a part"))
            };
            problems($width).into_iter().map(case).collect()
        }
    )+};
}
gradient_cases! {
    fixed_cases pair_grad_fixed FIXED_TERM 128;
    softplus_cases pair_grad_softplus SOFTPLUS_TERM 128;
    online_cases pair_grad_online ONLINE_TERM 128;
    fixed_wide_cases pair_grad_fixed_wide FIXED_TERM 256;
    softplus_wide_cases pair_grad_softplus_wide SOFTPLUS_TERM 256;
    online_wide_cases pair_grad_online_wide ONLINE_TERM 256;
}

macro_rules! weight_cases {
    ($($name:ident $kernel:ident $term:ident;)+) => {$(
        pub(in super::super) fn $name() -> Vec<Case> {
            let case = |problem: Problem| {
                let weighted = Weighted::new(problem);
                let g = exactly(weighted.g($term));
                let Weighted { problem, row: [row_weight, row_value], column: [column_weight, column_value] } = weighted;
                let ([m, n, d], [scale, bias], name) = (problem.dims(), numbers($term), problem.named());
                let Problem { q, k, own, rules, row_key, column_key, keep, starts, list, .. } = problem;
                let listed = list.len() as u32;
                $kernel::TestCase {
                    q, k, own, row_key, column_key, keep, starts, list,
                    row_weight, row_value: values($term, row_value),
                    column_weight, column_value: values($term, column_value),
                    g, m, n, d, rules, listed, scale, bias,
                }
                .named(name)
            };
            let problems = [
                Problem::new([1, 1, 1]),
                Problem::new([65, 130, 20]).keyed().listed(),
                Problem::new([2, 3, 512]),
                Problem::new([1, 65, 513]),
                Problem::new([2, 2, 1030]),
            ];
            problems.map(case).into()
        }
    )+};
}
weight_cases! {
    fixed_weight_cases pair_weights_fixed FIXED_TERM;
    softplus_weight_cases pair_weights_softplus SOFTPLUS_TERM;
    online_weight_cases pair_weights_online ONLINE_TERM;
}

pub(in super::super) fn join_cases() -> Vec<Case> {
    let case = |shape: [usize; 3]| {
        let weighted = Weighted::new(Problem::new(shape));
        let (len, parts) = (shape[0] * shape[2], shape[1].div_ceil(CHUNK));
        let part = |p: usize| weighted.gradient(FIXED_TERM, 1)[p * len..][..len].to_vec();
        // One part alone comes out of `gradient` with its factor.
        let (dq, factor) = if parts == 1 { (part(0), 1.0) } else { ((0..parts).flat_map(part).collect(), SCALE) };
        let sum = exactly(weighted.gradient(FIXED_TERM, parts));
        pair_grad_join::TestCase { dq, sum, len: len as u32, parts: parts as u32, factor }
            .named(format!("{parts} parts of {len}"))
    };
    [[3, 5, 2], [129, 1030, 2]].map(case).into()
}
