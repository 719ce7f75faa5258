//! Functions of the similarities of all pairs: rows q_i `[m, d]` against columns k_j `[n, d]`, dot_ij = q_i · k_j.
//!
//! No one has to hold the `[m, n]` matrix: a row's result is a sum over column blocks in order, and the gradient is a
//! contraction over columns, so any tiling has these bits. As dot_ij has the same terms in the same order as dot_ji,
//! the matrix of q = k is symmetric to the bit, and one tile may serve both sides.

use super::{contract, contract_bf16};
use crate::bf16::split_bf16;
use crate::math::Real;
use crate::order::{CHUNK, LANES};

/// What is added up over the columns of a row; `T` is the type of its parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum PairTerm<T = f64> {
    /// e^x with x = dot scale; e = exp(fma(dot, scale, -shift)). For similarities of known bound: where 2 shift is not
    /// far from 88 in f32, sums underflow, and [`PairTerm::Exp`] is the form to take.
    ExpShifted {
        /// Multiplies the dot product: 1 / temperature.
        scale: T,
        /// The same for all pairs: the largest x that can occur.
        shift: T,
    },
    /// e^x with x = dot scale; e = exp(x - shift), the shift being the largest x of the column block. For all
    /// similarities.
    Exp {
        /// Multiplies the dot product: 1 / temperature.
        scale: T,
    },
    /// softplus(x) with x = fma(dot, scale, bias).
    Softplus {
        /// Multiplies the dot product.
        scale: T,
        /// Added to it.
        bias: T,
    },
}

impl PairTerm {
    /// The same with parameters of another type, rounded.
    pub fn cast<T: Real>(self) -> PairTerm<T> {
        match self {
            PairTerm::ExpShifted { scale, shift } => {
                PairTerm::ExpShifted { scale: T::from_f64(scale), shift: T::from_f64(shift) }
            }
            PairTerm::Exp { scale } => PairTerm::Exp { scale: T::from_f64(scale) },
            PairTerm::Softplus { scale, bias } => {
                PairTerm::Softplus { scale: T::from_f64(scale), bias: T::from_f64(bias) }
            }
        }
    }
}

impl<T: Copy> PairTerm<T> {
    /// What multiplies the dot product.
    pub fn scale(&self) -> T {
        match *self {
            PairTerm::ExpShifted { scale, .. } | PairTerm::Exp { scale } | PairTerm::Softplus { scale, .. } => scale,
        }
    }
}

/// What is known of a row after all its columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairRow<T> {
    /// log sum e^x over the columns taken, -infinity if there is none; `Softplus`: sum softplus(x).
    pub value: T,
    /// Sum of e; `Exp`: relative to the largest x; `Softplus`: sum of sigmoid(x).
    pub sum: T,
    /// Sum of fma(e, dot, .), e as in `sum`: over `sum` it is the mean dot product under the softmax, which is the
    /// derivative of `value` with respect to `scale`.
    pub weighted_dot: T,
    /// The column of the largest dot product above -infinity, the first of equals. None if no column taken has one.
    pub top: Option<usize>,
}

/// Rows of e and of e dot by block: lanes inside a block of [`CHUNK`] columns, then blocks in order.
struct Block<T> {
    largest: T,
    value: T,
    sum: T,
    weighted_dot: T,
}

impl<T: Real> Block<T> {
    /// No columns.
    fn none() -> Block<T> {
        Block { largest: T::NEG_INFINITY, value: T::ZERO, sum: T::ZERO, weighted_dot: T::ZERO }
    }
}

/// The results of every row. Pair (i, j) is left out where `excluded(i, j)`.
pub fn pair_rows<T: Real>(
    [m, n, d]: [usize; 3],
    q: &[T],
    k: &[T],
    term: PairTerm<T>,
    excluded: impl Fn(usize, usize) -> bool,
) -> Vec<PairRow<T>> {
    rows_of_dots([m, n], &contract(m, n, d, q, &transpose(n, d, k)), term, excluded)
}

/// [`pair_rows`] of bf16 rows and columns, given as their bits, from the dot products of [`contract_bf16`].
pub fn pair_rows_bf16(
    [m, n, d]: [usize; 3],
    q: &[u16],
    k: &[u16],
    term: PairTerm<f32>,
    excluded: impl Fn(usize, usize) -> bool,
) -> Vec<PairRow<f32>> {
    rows_of_dots([m, n], &contract_bf16([m, n, d], &[q], &transpose(n, d, k)), term, excluded)
}

fn rows_of_dots<T: Real>(
    [m, n]: [usize; 2],
    dots: &[T],
    term: PairTerm<T>,
    excluded: impl Fn(usize, usize) -> bool,
) -> Vec<PairRow<T>> {
    let row = |i: usize| {
        let dot = &dots[i * n..][..n];
        let taken = |j: usize| !excluded(i, j);
        let blocks = (0..n.div_ceil(CHUNK)).map(|b| block(b * CHUNK..n.min((b + 1) * CHUNK), dot, term, &taken));
        let joined = blocks.reduce(|a, b| join(&a, &b, term));
        let larger = |best: usize, j: usize| if dot[j] > dot[best] { j } else { best };
        let top = (0..n).filter(|&j| taken(j) && dot[j] > T::NEG_INFINITY).reduce(larger);
        let Block { largest, value, sum, weighted_dot } = joined.unwrap_or(Block::none());
        let value = match term {
            PairTerm::ExpShifted { shift, .. } => shift + Real::log(sum),
            PairTerm::Exp { .. } => shift_of(largest) + Real::log(sum),
            PairTerm::Softplus { .. } => value,
        };
        PairRow { value, sum, weighted_dot, top }
    };
    (0..m).map(row).collect()
}

/// dq_i = scale sum_j G_ij k_j, where G_ij is +0 for excluded pairs and else:
///
/// - `ExpShifted`, `Softplus`: e_ij (row_weight_i + column_weight_j), with e as in [`PairTerm`], or sigmoid(x_ij).
///   The weight of a row is the gradient of its value, over its `sum` for `ExpShifted`; that of a column is what it
///   has as a row of the transposed problem, or +0.
/// - `Exp`: row_weight_i exp(x_ij - row_value_i) + column_weight_j exp(x_ij - column_value_j), the weights being
///   gradients of the values.
///
/// The sum over j is that of [`contract`], times `scale` at the end.
pub fn pair_rows_grad<T: Real>(
    [m, n, d]: [usize; 3],
    q: &[T],
    k: &[T],
    term: PairTerm<T>,
    row: PairWeights<'_, T>,
    column: PairWeights<'_, T>,
    excluded: impl Fn(usize, usize) -> bool,
) -> Vec<T> {
    let g = weights_of_dots([m, n], &contract(m, n, d, q, &transpose(n, d, k)), term, row, column, excluded);
    contract(m, d, n, &g, k).into_iter().map(|sum| sum * term.scale()).collect()
}

/// [`pair_rows_grad`] of bf16 rows and columns, given as their bits. G is taken as the sum of two bf16 numbers, G
/// rounded and what that leaves rounded, which go through [`contract_bf16`] one after the other.
pub fn pair_rows_grad_bf16(
    [m, n, d]: [usize; 3],
    q: &[u16],
    k: &[u16],
    term: PairTerm<f32>,
    row: PairWeights<'_, f32>,
    column: PairWeights<'_, f32>,
    excluded: impl Fn(usize, usize) -> bool,
) -> Vec<f32> {
    let dots = contract_bf16([m, n, d], &[q], &transpose(n, d, k));
    let g = weights_of_dots([m, n], &dots, term, row, column, excluded);
    let (high, low): (Vec<u16>, Vec<u16>) = g.into_iter().map(split_bf16).unzip();
    contract_bf16([m, d, n], &[&high, &low], k).into_iter().map(|sum| sum * term.scale()).collect()
}

/// G `[m, n]`.
fn weights_of_dots<T: Real>(
    [m, n]: [usize; 2],
    dots: &[T],
    term: PairTerm<T>,
    row: PairWeights<'_, T>,
    column: PairWeights<'_, T>,
    excluded: impl Fn(usize, usize) -> bool,
) -> Vec<T> {
    let pair = |i: usize, j: usize| match term {
        _ if excluded(i, j) => T::ZERO,
        PairTerm::ExpShifted { scale, shift } => {
            Real::exp(Real::mul_add(dots[i * n + j], scale, -shift)) * (row.weight[i] + column.weight[j])
        }
        PairTerm::Exp { scale } => {
            let x = dots[i * n + j] * scale;
            let share = |side: PairWeights<'_, T>, at: usize| side.weight[at] * Real::exp(x - side.value[at]);
            share(row, i) + share(column, j)
        }
        PairTerm::Softplus { scale, bias } => {
            let x = Real::mul_add(dots[i * n + j], scale, bias);
            Real::sigmoid(x) * (row.weight[i] + column.weight[j])
        }
    };
    (0..m * n).map(|at| pair(at / n, at % n)).collect()
}

/// One side of [`pair_rows_grad`].
#[derive(Clone, Copy, Debug)]
pub struct PairWeights<'a, T> {
    /// By row or column.
    pub weight: &'a [T],
    /// The values of [`pair_rows`]; read by `Exp` alone.
    pub value: &'a [T],
}

/// One block of columns of a row.
fn block<T: Real>(
    columns: std::ops::Range<usize>,
    dot: &[T],
    term: PairTerm<T>,
    taken: &impl Fn(usize) -> bool,
) -> Block<T> {
    let lanes = |start: T, step: &dyn Fn(T, usize) -> T, fold: &dyn Fn(T, T) -> T| {
        let mut lane = [start; LANES];
        for j in columns.clone() {
            lane[j % LANES] = step(lane[j % LANES], j);
        }
        for half in [8, 4, 2, 1] {
            for l in 0..half {
                lane[l] = fold(lane[l], lane[l + half]);
            }
        }
        lane[0]
    };
    let largest = match term {
        PairTerm::Exp { scale } => {
            lanes(T::NEG_INFINITY, &|max, j| if taken(j) { Real::max(max, dot[j] * scale) } else { max }, &Real::max)
        }
        _ => T::NEG_INFINITY,
    };
    let e = |j: usize| match term {
        _ if !taken(j) => T::ZERO,
        PairTerm::ExpShifted { scale, shift } => Real::exp(Real::mul_add(dot[j], scale, -shift)),
        PairTerm::Exp { scale } => Real::exp(dot[j] * scale - shift_of(largest)),
        PairTerm::Softplus { scale, bias } => Real::sigmoid(Real::mul_add(dot[j], scale, bias)),
    };
    let value = match term {
        PairTerm::Softplus { scale, bias } => lanes(
            T::ZERO,
            &|s, j| if taken(j) { s + Real::softplus(Real::mul_add(dot[j], scale, bias)) } else { s },
            &|a, b| a + b,
        ),
        _ => T::ZERO,
    };
    Block {
        largest,
        value,
        sum: lanes(T::ZERO, &|s, j| s + e(j), &|a, b| a + b),
        weighted_dot: lanes(T::ZERO, &|s, j| if taken(j) { Real::mul_add(e(j), dot[j], s) } else { s }, &|a, b| a + b),
    }
}

/// Columns so far and the next block. `Exp` rescales both to the larger maximum.
fn join<T: Real>(a: &Block<T>, b: &Block<T>, term: PairTerm<T>) -> Block<T> {
    if !matches!(term, PairTerm::Exp { .. }) {
        return Block {
            largest: a.largest,
            value: a.value + b.value,
            sum: a.sum + b.sum,
            weighted_dot: a.weighted_dot + b.weighted_dot,
        };
    }
    let largest = Real::max(a.largest, b.largest);
    let rescale = |x: T| if x == largest { T::ONE } else { Real::exp(x - largest) };
    let (of_a, of_b) = (rescale(a.largest), rescale(b.largest));
    Block {
        largest,
        value: T::ZERO,
        sum: Real::mul_add(b.sum, of_b, a.sum * of_a),
        weighted_dot: Real::mul_add(b.weighted_dot, of_b, a.weighted_dot * of_a),
    }
}

/// A maximum as shift: 0 where it is infinite or NaN.
fn shift_of<T: Real>(largest: T) -> T {
    if largest.is_finite() { largest } else { T::ZERO }
}

fn transpose<T: Copy>(rows: usize, columns: usize, x: &[T]) -> Vec<T> {
    (0..rows * columns).map(|at| x[at % rows * columns + at / rows]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::half_precision::{bf16_bits_of_f32, f32_of_bf16_bits};

    fn noise(seed: u64, len: usize) -> Vec<f64> {
        crate::case::noise(len, seed).into_iter().map(f64::from).collect()
    }

    fn value(q: &[f64], k: &[f64], dims: [usize; 3], term: PairTerm<f64>) -> f64 {
        pair_rows(dims, q, k, term, |i, j| i == j).iter().enumerate().map(|(i, row)| (i as f64 + 1.0) * row.value).sum()
    }

    #[test]
    fn the_gradient_is_that_of_the_values() {
        let dims @ [m, n, d] = [3, 600, 2];
        let (q, k) = (noise(1, m * d), noise(2, n * d));
        let terms = [
            PairTerm::ExpShifted { scale: 1.5, shift: 2.0 },
            PairTerm::Exp { scale: 1.5 },
            PairTerm::Softplus { scale: 1.5, bias: -0.5 },
        ];
        for term in terms {
            let rows = pair_rows(dims, &q, &k, term, |i, j| i == j);
            let upstream = |i: usize| i as f64 + 1.0;
            let weight: Vec<f64> = match term {
                PairTerm::ExpShifted { .. } => (0..m).map(|i| upstream(i) / rows[i].sum).collect(),
                _ => (0..m).map(upstream).collect(),
            };
            let values: Vec<f64> = rows.iter().map(|row| row.value).collect();
            let none = vec![0.0; n];
            let row = PairWeights { weight: &weight, value: &values };
            let column = PairWeights { weight: &none, value: &none };
            let gradient = pair_rows_grad(dims, &q, &k, term, row, column, |i, j| i == j);
            for at in 0..q.len() {
                let step = 1e-5;
                let moved = |by: f64| {
                    let mut q = q.clone();
                    q[at] += by;
                    value(&q, &k, dims, term)
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * step);
                assert!(
                    (slope - gradient[at]).abs() < 1e-6 * slope.abs().max(1.0),
                    "{term:?} {slope} {}",
                    gradient[at]
                );
            }
        }
    }

    #[test]
    fn fixed_shift_and_online_maximum_agree() {
        let dims @ [m, n, d] = [4, 1100, 3];
        let (q, k) = (noise(3, m * d), noise(4, n * d));
        let fixed = pair_rows(dims, &q, &k, PairTerm::ExpShifted { scale: 0.5, shift: 1.0 }, |_, j| j % 7 == 0);
        let online = pair_rows(dims, &q, &k, PairTerm::Exp { scale: 0.5 }, |_, j| j % 7 == 0);
        for (a, b) in fixed.iter().zip(&online) {
            assert!((a.value - b.value).abs() < 1e-12 && a.top == b.top);
            assert!((a.weighted_dot / a.sum - b.weighted_dot / b.sum).abs() < 1e-12);
        }
    }

    #[test]
    fn bf16_is_near_f32() {
        let dims @ [m, n, d] = [3, 600, 40];
        let bits = |x: &f64| bf16_bits_of_f32(*x as f32 / 8.0);
        let (q, k): (Vec<u16>, Vec<u16>) =
            (noise(5, m * d).iter().map(bits).collect(), noise(6, n * d).iter().map(bits).collect());
        let wide = |x: &[u16]| -> Vec<f64> { x.iter().map(|x| f64::from(f32_of_bf16_bits(*x))).collect() };
        let term = PairTerm::Exp { scale: 1.5 };
        let rows = pair_rows_bf16(dims, &q, &k, term.cast(), |i, j| i == j);
        let exact = pair_rows(dims, &wide(&q), &wide(&k), term, |i, j| i == j);
        assert!(rows.iter().zip(&exact).all(|(a, b)| (f64::from(a.value) - b.value).abs() < 1e-6 && a.top == b.top));

        let (values, exact_values): (Vec<f32>, Vec<f64>) =
            rows.iter().zip(&exact).map(|(a, b)| (a.value, b.value)).unzip();
        let (none, none_wide) = (vec![0.0; n], vec![0.0; n]);
        let [row, column] =
            [(&[1.0; 3][..], &values), (&none[..], &none)].map(|(weight, value)| PairWeights { weight, value });
        let found = pair_rows_grad_bf16(dims, &q, &k, term.cast(), row, column, |_, _| false);
        let [row, column] = [(&[1.0; 3][..], &exact_values), (&none_wide[..], &none_wide)]
            .map(|(weight, value)| PairWeights { weight, value });
        let expected = pair_rows_grad(dims, &wide(&q), &wide(&k), term, row, column, |_, _| false);
        // Two parts of 8 bits: what they leave of a weight is below 2^-17 of it.
        let largest = expected.iter().fold(0f64, |largest, x| largest.max(x.abs()));
        assert!(found.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-5 * largest));
    }

    #[test]
    fn an_excluded_pair_adds_nothing_whatever_its_dot_product() {
        let terms = [
            PairTerm::ExpShifted { scale: 1.0, shift: 0.0 },
            PairTerm::Exp { scale: 1.0 },
            PairTerm::Softplus { scale: 1.0, bias: 0.0 },
        ];
        for term in terms {
            for wild in [f64::INFINITY, f64::NEG_INFINITY, f64::NAN] {
                let with = pair_rows([1, 3, 1], &[1.0], &[0.5, wild, -0.25], term, |_, j| j == 1);
                let without = pair_rows([1, 3, 1], &[1.0], &[0.5, 0.0, -0.25], term, |_, j| j == 1);
                assert_eq!(with, without, "{term:?} {wild}");
            }
        }
    }

    #[test]
    fn a_row_without_columns_has_an_empty_sum() {
        let rows = pair_rows([1, 2, 1], &[1.0], &[1.0, 2.0], PairTerm::Exp { scale: 1.0 }, |_, _| true);
        assert_eq!(rows[0], PairRow { value: f64::NEG_INFINITY, sum: 0.0, weighted_dot: 0.0, top: None });
    }
}
