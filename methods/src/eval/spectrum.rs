//! Eigenvalues of symmetric matrices in f64: Householder's tridiagonal form, then QL with implicit shifts
//! (Golub & Van Loan, Matrix Computations, sections 8.3 and 8.4). O(n³) with a small constant, sequential.

/// The eigenvalues, in no particular order, of the symmetric `[n, n]` `matrix` (row-major).
pub(crate) fn symmetric_eigenvalues(matrix: Vec<f64>, n: usize) -> Vec<f64> {
    debug_assert_eq!(matrix.len(), n * n);
    let (diagonal, below) = tridiagonal(matrix, n);
    tridiagonal_eigenvalues(diagonal, below)
}

/// Diagonal and subdiagonal (`n - 1` values) of an orthogonally similar tridiagonal matrix.
fn tridiagonal(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut below = Vec::with_capacity(n.saturating_sub(1));
    for k in 0..n.saturating_sub(1) {
        // Reflect column k below the diagonal onto its first entry.
        let mut v: Vec<f64> = (k + 1..n).map(|i| a[i * n + k]).collect();
        let norm = v.iter().map(|value| value * value).sum::<f64>().sqrt();
        let alpha = if v[0] > 0.0 { -norm } else { norm };
        below.push(alpha);
        v[0] -= alpha;
        let scale: f64 = v.iter().map(|value| value * value).sum();
        if scale == 0.0 {
            continue;
        }
        // B ← H B H with H = I - 2 v vᵀ / |v|²:  w = 2 B v / |v|²,  w ← w - (wᵀv / |v|²) v,  B ← B - v wᵀ - w vᵀ.
        let m = v.len();
        let at = |i: usize, j: usize| (k + 1 + i) * n + k + 1 + j;
        let mut w: Vec<f64> = (0..m).map(|i| 2.0 / scale * (0..m).map(|j| a[at(i, j)] * v[j]).sum::<f64>()).collect();
        let along = w.iter().zip(&v).map(|(w, v)| w * v).sum::<f64>() / scale;
        w.iter_mut().zip(&v).for_each(|(w, v)| *w -= along * v);
        for i in 0..m {
            for j in 0..m {
                a[at(i, j)] -= v[i] * w[j] + w[i] * v[j];
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), below)
}

/// Rounds after which an eigenvalue is taken as it is; convergence is cubic, two or three are usual.
const ROUNDS: usize = 60;

fn tridiagonal_eigenvalues(mut d: Vec<f64>, below: Vec<f64>) -> Vec<f64> {
    let n = d.len();
    let mut e = below;
    e.push(0.0);
    for first in 0..n {
        for _ in 0..ROUNDS {
            // The block first..=last has no negligible subdiagonal entry.
            let negligible = |m: usize| e[m].abs() <= f64::EPSILON * (d[m].abs() + d[m + 1].abs());
            let last = (first..n - 1).find(|&m| negligible(m)).unwrap_or(n - 1);
            if last == first {
                break;
            }
            let half = (d[first + 1] - d[first]) / (2.0 * e[first]);
            let root = (half * half + 1.0).sqrt();
            let mut g = d[last] - d[first] + e[first] / (half + root.copysign(half));
            let (mut sine, mut cosine, mut carried) = (1.0, 1.0, 0.0);
            let mut split = false;
            for i in (first..last).rev() {
                let f = sine * e[i];
                let b = cosine * e[i];
                let r = (f * f + g * g).sqrt();
                e[i + 1] = r;
                if r == 0.0 {
                    d[i + 1] -= carried;
                    e[last] = 0.0;
                    split = true;
                    break;
                }
                sine = f / r;
                cosine = g / r;
                g = d[i + 1] - carried;
                let r = (d[i] - g) * sine + 2.0 * cosine * b;
                carried = sine * r;
                d[i + 1] = g + carried;
                g = cosine * r - b;
            }
            if !split {
                d[first] -= carried;
                e[first] = g;
                e[last] = 0.0;
            }
        }
    }
    d
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_difference_matrix_has_its_known_spectrum() {
        // 2 on the diagonal, -1 beside it: 4 sin²(π k / 2(n+1)).
        for n in [1usize, 2, 3, 10, 65] {
            let entry = |i: usize, j: usize| match i.abs_diff(j) {
                0 => 2.0,
                1 => -1.0,
                _ => 0.0,
            };
            let matrix: Vec<f64> = (0..n * n).map(|at| entry(at / n, at % n)).collect();
            let mut found = symmetric_eigenvalues(matrix, n);
            found.sort_by(f64::total_cmp);
            for (k, value) in found.iter().enumerate() {
                let half_angle = std::f64::consts::PI * (k + 1) as f64 / (2 * (n + 1)) as f64;
                let known = 4.0 * half_angle.sin() * half_angle.sin();
                assert!((value - known).abs() < 1e-12, "n {n}: {value} against {known}");
            }
        }
    }

    #[test]
    fn dense_matrices_keep_trace_and_frobenius_norm() {
        let n = 40;
        let mut matrix: Vec<f64> = (0..n * n).map(|at| ((at * 37 + 11) % 101) as f64 / 50.0 - 1.0).collect();
        for i in 0..n {
            for j in 0..i {
                matrix[i * n + j] = matrix[j * n + i];
            }
        }
        let trace: f64 = (0..n).map(|i| matrix[i * n + i]).sum();
        let squares: f64 = matrix.iter().map(|value| value * value).sum();
        let found = symmetric_eigenvalues(matrix, n);
        assert!((found.iter().sum::<f64>() - trace).abs() < 1e-10);
        assert!((found.iter().map(|value| value * value).sum::<f64>() - squares).abs() < 1e-8);
    }

    #[test]
    fn zero_and_rank_one_matrices_are_no_trouble() {
        assert_eq!(symmetric_eigenvalues(vec![0.0; 25], 5), vec![0.0; 5]);
        let mut found = symmetric_eigenvalues(vec![1.0; 36], 6);
        found.sort_by(f64::total_cmp);
        assert!((found[5] - 6.0).abs() < 1e-12 && found[..5].iter().all(|value| value.abs() < 1e-12), "{found:?}");
    }
}
