//! Sinkhorn's alternating normalisation of scores `[n, k]` (samples by prototypes), in its two domains.
//!
//! One iteration is a column half, then a row half, and a row half is the last: rows meet their mass, columns come near
//! theirs. Only a potential per row and one per column change between iterations.

use super::rows::{lane_dot, lane_max, lane_sum_exp};
use super::samples::{Samples, rows_dot};
use crate::math::Real;
use crate::order::LEAF;
use crate::tree::fold_tree;

/// What is asked of the codes of scores `[n, k]`.
#[derive(Clone, Copy, Debug)]
pub struct Sinkhorn<'a, T> {
    /// The factor of the scores, 1 / epsilon.
    pub scale: T,
    /// Iterations, at least 1.
    pub iterations: usize,
    /// The mass of each row `[n]`.
    pub row_mass: &'a [T],
    /// The mass of each column `[k]`.
    pub column_mass: &'a [T],
    /// What each row of codes adds up to `[n]`: its mass for a transport plan, 1 for codes that are probabilities.
    pub code_mass: &'a [T],
}

/// The codes by scaling vectors: q = exp((score - largest) scale), and u = 1 to begin with. Columns: v = mass / sum of
/// q u over samples. Rows: u = mass / lane sum of q v. Codes: (q u) v, with u of the code mass.
pub fn sinkhorn_scaling<T: Real>(scores: &[T], options: Sinkhorn<'_, T>) -> Vec<T> {
    let (n, k) = (options.row_mass.len(), options.column_mass.len());
    let largest = lane_max(scores);
    let q: Vec<T> = scores.iter().map(|&score| Real::exp((score - largest) * options.scale)).collect();
    let (mut u, mut v) = (vec![T::ONE; n], vec![T::ZERO; k]);
    for iteration in 1..=options.iterations {
        let sums = column_sums(&q, &u);
        v = options.column_mass.iter().zip(sums).map(|(&mass, sum)| mass / sum).collect();
        let mass = if iteration < options.iterations { options.row_mass } else { options.code_mass };
        u = q.chunks(k).zip(mass).map(|(row, &mass)| mass / lane_dot(row, &v)).collect();
    }
    q.iter().enumerate().map(|(i, &q)| (q * u[i / k]) * v[i % k]).collect()
}

/// The codes in the log domain: potentials f of rows, 0 to begin with, and g of columns. Columns: with x = fma(score,
/// scale, f), g = log(mass / sum) - shift, the parts of log-sum-exp over samples. Rows: with x = fma(score, scale, g),
/// f = log(mass / sum) - shift, by lanes. Codes: exp(x - shift) (code mass / sum) of the last rows.
pub fn sinkhorn_log<T: Real>(scores: &[T], options: Sinkhorn<'_, T>) -> Vec<T> {
    let (n, k) = (options.row_mass.len(), options.column_mass.len());
    let shifted = |potential: &dyn Fn(usize) -> T| -> Vec<T> {
        scores.iter().enumerate().map(|(i, &score)| Real::mul_add(score, options.scale, potential(i))).collect()
    };
    let (mut f, mut codes) = (vec![T::ZERO; n], Vec::new());
    for iteration in 1..=options.iterations {
        let columns = column_sums_exp(&shifted(&|i| f[i / k]), k);
        let parts = columns.iter().zip(options.column_mass);
        let g: Vec<T> = parts.map(|(&[max, sum], &mass)| Real::log(mass / sum) - shift_of(max)).collect();
        let x = shifted(&|i| g[i % k]);
        let parts = x.chunks(k).map(|row| (row, shift_of(lane_max(row))));
        let rows: Vec<_> = parts.map(|(row, shift)| (row, shift, lane_sum_exp(row, shift))).collect();
        if iteration < options.iterations {
            f = rows.iter().zip(options.row_mass).map(|((_, shift, sum), &m)| Real::log(m / *sum) - *shift).collect();
        } else {
            let code = |((row, shift, sum), &mass): (&(&[T], T, T), &T)| -> Vec<T> {
                row.iter().map(|&x| Real::exp(x - *shift) * (mass / *sum)).collect()
            };
            codes = rows.iter().zip(options.code_mass).flat_map(code).collect();
        }
    }
    codes
}

/// Per column of q `[n, k]`, the sum of q u over samples: in a leaf of [`LEAF`] rows a chain of fused multiply-adds, the
/// leaves by the tree.
pub fn column_sums<T: Real>(q: &[T], u: &[T]) -> Vec<T> {
    let (n, k) = (u.len(), q.len() / u.len());
    let spread: Vec<T> = (0..n * k).map(|i| u[i / k]).collect();
    rows_dot(Samples { images: n, rows_per_image: 1 }, k, q, &spread)
}

/// Per column of x `[n, k]`, [largest, sum of exp(x - shift)] over samples, the shift being the largest, or 0 where
/// that is infinite or NaN. In a leaf of [`LEAF`] rows both are chains, the sum with the leaf's shift; leaves are joined
/// in the tree by [`join_sums_exp`].
pub fn column_sums_exp<T: Real>(x: &[T], k: usize) -> Vec<[T; 2]> {
    let n = x.len() / k;
    let leaf = |leaf: usize, j: usize| {
        let column = || (leaf * LEAF..n.min((leaf + 1) * LEAF)).map(|row| x[row * k + j]);
        let max = column().fold(T::NEG_INFINITY, Real::max);
        [max, column().fold(T::ZERO, |sum, x| sum + Real::exp(x - shift_of(max)))]
    };
    let nothing = [T::NEG_INFINITY, T::ZERO];
    let column = |j| fold_tree(n.div_ceil(LEAF), &mut |i| leaf(i, j), &mut join_sums_exp).unwrap_or(nothing);
    (0..k).map(column).collect()
}

/// Joins two parts [largest, sum of exp(x - largest)], a before b: max = the larger; sum = fma(sum_b, rescaled_b, sum_a
/// rescaled_a), rescaled_i = exp(max_i - max), or 1 where the two are equal.
pub fn join_sums_exp<T: Real>([max_a, sum_a]: [T; 2], [max_b, sum_b]: [T; 2]) -> [T; 2] {
    let max = Real::max(max_a, max_b);
    // Equal infinities have no difference.
    let rescaled = |own: T| if own == max { T::ONE } else { Real::exp(own - max) };
    [max, Real::mul_add(sum_b, rescaled(max_b), sum_a * rescaled(max_a))]
}

fn shift_of<T: Real>(max: T) -> T {
    if max.is_finite() { max } else { T::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::noise;

    /// Uniform masses: of rows, of columns, of codes.
    fn uniform(n: usize, k: usize) -> [Vec<f64>; 3] {
        [vec![1.0 / n as f64; n], vec![1.0 / k as f64; k], vec![1.0; n]]
    }

    #[test]
    fn both_domains_meet_both_marginals() {
        let (n, k) = (37, 5);
        let scores: Vec<f64> = noise(n * k, 1).into_iter().map(f64::from).collect();
        let [rows, columns, ones] = uniform(n, k);
        let options =
            Sinkhorn { scale: 2.0, iterations: 200, row_mass: &rows, column_mass: &columns, code_mass: &ones };
        let codes = [sinkhorn_scaling(&scores, options), sinkhorn_log(&scores, options)];
        for codes in &codes {
            for row in codes.chunks(k) {
                assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-14);
            }
            for j in 0..k {
                let mass: f64 = codes.iter().skip(j).step_by(k).sum();
                assert!((mass - n as f64 / k as f64).abs() < 1e-12, "{mass}");
            }
        }
        assert!(codes[0].iter().zip(&codes[1]).all(|(a, b)| (a - b).abs() < 1e-13));
    }

    #[test]
    fn parts_of_a_log_sum_exp_join_to_the_whole() {
        let [max, sum] = join_sums_exp([1.0f64, 3.0], [-2.0, 5.0]);
        assert_eq!(max, 1.0);
        assert!((sum - (3.0 + 5.0 * (-3.0f64).exp())).abs() < 1e-15);
        assert_eq!(join_sums_exp([f64::NEG_INFINITY, 0.0], [f64::NEG_INFINITY, 0.0]), [f64::NEG_INFINITY, 0.0]);
    }
}
