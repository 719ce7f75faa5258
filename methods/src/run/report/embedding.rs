//! Two coordinates for many: the two principal components of a set of embeddings.

use selfsame_engine::{Error, ErrorKind, Result};

/// Vectors of the iterated block: two are wanted, the others let close eigenvalues separate sooner.
const BLOCK: usize = 8;
/// Rounds at most; the map is a picture, and the last digits of a slow direction would not be seen.
const ROUNDS: usize = 200;
/// Relative change of the two leading eigenvalues below which the iteration has converged.
const TOLERANCE: f64 = 1e-10;

/// Projects `points` (`[n, d]`, row-major) onto their two leading principal components, in f64.
///
/// The result depends on the input alone: subspace iteration on the covariance from fixed start vectors; each
/// component's entry of largest magnitude is made positive. A missing component (`d` = 1, or points on a line or in
/// one place) gives zeros.
///
/// Errors: `Shape` when `points` has not `n * d` values, `NonFinite` when one is NaN or infinite.
pub fn pca_2d(points: &[f32], n: usize, d: usize) -> Result<Vec<[f32; 2]>> {
    if Some(points.len()) != n.checked_mul(d) {
        return Err(Error::new(ErrorKind::Shape, "pca_2d", format!("{} values", points.len()))
            .expected(format!("[n, d] = [{n}, {d}]")));
    }
    if let Some(at) = points.iter().position(|value| !value.is_finite()) {
        return Err(Error::new(ErrorKind::NonFinite, "pca_2d", format!("{} in row {}", points[at], at / d)));
    }
    if n == 0 || d == 0 {
        return Ok(vec![[0.0; 2]; n]);
    }
    let centred = centre(points, n, d);
    let covariance = covariance(&centred, n, d);
    let axes = leading_axes(&covariance, d);
    let along = |row: &[f64], axis: &[f64]| dot(row, axis) as f32;
    Ok(centred.chunks_exact(d).map(|row| [along(row, &axes[0]), along(row, &axes[1])]).collect())
}

fn centre(points: &[f32], n: usize, d: usize) -> Vec<f64> {
    let mut mean = vec![0.0; d];
    for row in points.chunks_exact(d) {
        for (sum, &value) in mean.iter_mut().zip(row) {
            *sum += f64::from(value);
        }
    }
    mean.iter_mut().for_each(|sum| *sum /= n as f64);
    points.chunks_exact(d).flat_map(|row| row.iter().zip(&mean).map(|(&value, mean)| f64::from(value) - mean)).collect()
}

/// `[d, d]`, both triangles filled.
fn covariance(centred: &[f64], n: usize, d: usize) -> Vec<f64> {
    let mut covariance = vec![0.0; d * d];
    for row in centred.chunks_exact(d) {
        for (i, &left) in row.iter().enumerate() {
            for (sum, right) in covariance[i * d + i..(i + 1) * d].iter_mut().zip(&row[i..]) {
                *sum += left * right;
            }
        }
    }
    for i in 0..d {
        for j in i..d {
            let value = covariance[i * d + j] / n as f64;
            covariance[i * d + j] = value;
            covariance[j * d + i] = value;
        }
    }
    covariance
}

/// The two leading eigenvectors of a symmetric positive semidefinite `[d, d]` matrix; zeros for those of eigenvalue 0.
fn leading_axes(matrix: &[f64], d: usize) -> [Vec<f64>; 2] {
    let mut basis: Vec<Vec<f64>> = (0..BLOCK.min(d)).map(|vector| start_vector(vector, d)).collect();
    orthonormalise(&mut basis);
    let mut before = [0.0; 2];
    for _ in 0..ROUNDS {
        let mut image: Vec<Vec<f64>> = basis.iter().map(|vector| multiply(matrix, vector)).collect();
        // Rayleigh-Ritz: the eigenvectors of the matrix within the span of the block.
        let k = basis.len();
        let mut small: Vec<f64> = (0..k * k).map(|at| dot(&basis[at / k], &image[at % k])).collect();
        let rotation = jacobi_eigenvectors(&mut small, k);
        let mut order: Vec<usize> = (0..k).collect();
        order.sort_by(|&a, &b| small[b * k + b].total_cmp(&small[a * k + a]));
        image = order.iter().map(|&column| combine(&image, |row| rotation[row * k + column], d)).collect();
        let values = [0, 1].map(|at| order.get(at).map_or(0.0, |&column| small[column * k + column]));
        orthonormalise(&mut image);
        basis = image;
        let scale = values[0] * TOLERANCE;
        if (values[0] - before[0]).abs() <= scale && (values[1] - before[1]).abs() <= scale {
            break;
        }
        before = values;
    }
    basis.resize(2.max(basis.len()), vec![0.0; d]);
    [0, 1].map(|at| upright(std::mem::take(&mut basis[at])))
}

/// Entries in [-1, 1] without pattern: splitmix64 of the position (Steele, Lea, Flood 2014).
fn start_vector(vector: usize, d: usize) -> Vec<f64> {
    let entry = |position: usize| {
        let mut bits = ((vector * d + position) as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..d).map(entry).collect()
}

fn multiply(matrix: &[f64], vector: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(vector.len()).map(|row| dot(row, vector)).collect()
}

fn combine(vectors: &[Vec<f64>], weight: impl Fn(usize) -> f64, d: usize) -> Vec<f64> {
    let mut sum = vec![0.0; d];
    for (row, vector) in vectors.iter().enumerate() {
        let weight = weight(row);
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += weight * value);
    }
    sum
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).fold(0.0, |sum, (a, b)| sum + a * b)
}

/// Modified Gram-Schmidt, twice for accuracy; a vector that lies in the span of those before becomes zero.
fn orthonormalise(vectors: &mut [Vec<f64>]) {
    for at in 0..vectors.len() {
        let (before, rest) = vectors.split_at_mut(at);
        let vector = &mut rest[0];
        let length = dot(vector, vector).sqrt();
        for other in before.iter().chain(before.iter()) {
            let along = dot(vector, other);
            vector.iter_mut().zip(other).for_each(|(value, other)| *value -= along * other);
        }
        let left = dot(vector, vector).sqrt();
        let factor = if left > length * 1e-12 { 1.0 / left } else { 0.0 };
        vector.iter_mut().for_each(|value| *value *= factor);
    }
}

/// Cyclic Jacobi rotations: makes the symmetric `[k, k]` matrix diagonal and returns its eigenvectors as columns.
fn jacobi_eigenvectors(matrix: &mut [f64], k: usize) -> Vec<f64> {
    let mut vectors: Vec<f64> = (0..k * k).map(|at| if at / k == at % k { 1.0 } else { 0.0 }).collect();
    // Convergence is quadratic: a small matrix needs five or six sweeps.
    for _ in 0..12 {
        for p in 0..k {
            for q in p + 1..k {
                let off = matrix[p * k + q];
                if off == 0.0 {
                    continue;
                }
                let theta = (matrix[q * k + q] - matrix[p * k + p]) / (2.0 * off);
                let tangent = 1.0_f64.copysign(theta) / (theta.abs() + (theta * theta + 1.0).sqrt());
                let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
                let sine = tangent * cosine;
                for i in 0..k {
                    rotate(matrix, i * k + p, i * k + q, cosine, sine);
                }
                for i in 0..k {
                    rotate(matrix, p * k + i, q * k + i, cosine, sine);
                    rotate(&mut vectors, i * k + p, i * k + q, cosine, sine);
                }
            }
        }
    }
    vectors
}

fn rotate(values: &mut [f64], p: usize, q: usize, cosine: f64, sine: f64) {
    let (a, b) = (values[p], values[q]);
    values[p] = cosine * a - sine * b;
    values[q] = sine * a + cosine * b;
}

/// An eigenvector's sign is arbitrary: the entry of largest magnitude (the first of equals) becomes positive.
fn upright(mut axis: Vec<f64>) -> Vec<f64> {
    let largest = axis.iter().fold(0.0_f64, |best, &value| if value.abs() > best.abs() { value } else { best });
    if largest < 0.0 {
        axis.iter_mut().for_each(|value| *value = -*value);
    }
    axis
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `n` points on known orthogonal axes with spreads 5, 2 and 0.1 inside `d` dimensions, off the origin.
    fn planted(n: usize, d: usize) -> (Vec<f32>, [Vec<f64>; 3]) {
        let mut axes: Vec<Vec<f64>> = (40..43).map(|seed| start_vector(seed, d)).collect();
        orthonormalise(&mut axes);
        let spread = [5.0, 2.0, 0.1];
        let weights: Vec<Vec<f64>> = (0..3).map(|axis| start_vector(90 + axis, n)).collect();
        let entry = |point: usize, at: usize| {
            let sum: f64 = (0..3).map(|axis| spread[axis] * weights[axis][point] * axes[axis][at]).sum();
            (sum + 7.0) as f32
        };
        let points = (0..n * d).map(|index| entry(index / d, index % d)).collect();
        (points, axes.try_into().unwrap())
    }

    #[test]
    fn pca_finds_planted_axes() {
        let (n, d) = (600, 40);
        let (points, axes) = planted(n, d);
        let covariance = covariance(&centre(&points, n, d), n, d);
        let found = leading_axes(&covariance, d);
        for (found, planted) in found.iter().zip(&axes) {
            // The sampled weights are not exactly uncorrelated, so the axes tilt a little.
            assert!(dot(found, planted).abs() > 0.99, "{}", dot(found, planted));
        }
    }

    #[test]
    fn leading_axes_are_eigenvectors() {
        for d in [2, 3, 8, 33] {
            let (points, _) = planted(200, d.max(3));
            let d = d.max(3);
            let covariance = covariance(&centre(&points, 200, d), 200, d);
            let axes = leading_axes(&covariance, d);
            for axis in &axes {
                let image = multiply(&covariance, axis);
                let value = dot(axis, &image);
                let residual: f64 = image.iter().zip(axis).map(|(a, b)| (a - value * b).abs()).sum();
                assert!(residual < 1e-5 * value, "d {d}: eigenvalue {value}, residual {residual}");
            }
            assert!(dot(&axes[0], &axes[1]).abs() < 1e-12);
        }
    }

    #[test]
    fn pca_variances_are_ordered_and_add_up_in_two_dimensions() {
        let (n, d) = (300, 2);
        let points: Vec<f32> = start_vector(5, n * d).iter().map(|&value| value as f32).collect();
        let map = pca_2d(&points, n, d).unwrap();
        let variance = |at: usize| map.iter().map(|point| f64::from(point[at]) * f64::from(point[at])).sum::<f64>();
        let total: f64 = centre(&points, n, d).iter().map(|value| value * value).sum();
        assert!(variance(0) >= variance(1));
        assert!((variance(0) + variance(1) - total).abs() < 1e-5 * total);
    }

    #[test]
    fn degenerate_inputs_give_zeros() {
        assert_eq!(pca_2d(&[], 0, 5).unwrap(), Vec::<[f32; 2]>::new());
        assert_eq!(pca_2d(&[3.0; 12], 4, 3).unwrap(), [[0.0; 2]; 4]);
        assert_eq!(pca_2d(&[1.0, 2.0, 3.0], 3, 1).unwrap(), [[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0]]);
        let line: Vec<f32> = (0..10).flat_map(|i| [i as f32, 2.0 * i as f32, 0.0]).collect();
        assert!(pca_2d(&line, 10, 3).unwrap().iter().all(|point| point[1].abs() < 1e-6));
    }

    #[test]
    fn bad_input_is_an_error() {
        assert_eq!(pca_2d(&[0.0; 5], 2, 3).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(pca_2d(&[0.0, f32::NAN], 1, 2).unwrap_err().kind(), ErrorKind::NonFinite);
        assert_eq!(pca_2d(&[], usize::MAX, 2).unwrap_err().kind(), ErrorKind::Shape);
    }
}
