//! Principal components at equal variance.

use selfsame_engine::{Array, DType, Error, ErrorKind, Result, ops};
use selfsame_kernels::philox::{Key, Purpose};

/// Components whose variance is below this share of the largest are noise: they are set to 0, not blown up.
const LEAST_SHARE: f64 = 1e-10;

/// Dimensions up to which all eigenvectors are computed, which takes time with their cube.
const DENSE: usize = 512;

/// Iterations that find the largest components of more dimensions, and directions that these take along.
const ITERATIONS: usize = 12;
const SPARE: usize = 16;

/// Sweeps of rotations after which eigenvectors are taken as they are; convergence is quadratic, seven are usual.
const SWEEPS: usize = 30;

/// The first `components` principal components of the rows `x` `[N, D]`, each at variance 1 over the rows: `[N, min(D,
/// components)]` f64. Variance is that of the population; components are in falling order of theirs, each with a largest
/// coefficient that is positive. Of more than 512 dimensions the smallest components asked for are approximate: they have
/// the variance and the orthogonality that is asked for, and may miss a little of the directions.
///
/// # Errors
/// `Shape` unless there are rows.
pub fn whiten(x: &Array, components: usize) -> Result<Array> {
    let [n, d] = x.dims()?;
    if n == 0 {
        return Err(Error::new(ErrorKind::Shape, "whiten", format!("{:?}", x.shape())).expected("at least one row"));
    }
    let x = ops::cast(x, DType::F64)?;
    let centred = ops::sub(&x, &ops::mean(&x, &[0], true)?)?;
    let covariance = ops::binary_scalar(
        ops::Binary::Div,
        &ops::matmul(&centred.transpose(0, 1)?.contiguous()?, &centred)?,
        n as f64,
    )?;
    let (values, vectors) = if d > DENSE && 2 * components < d {
        largest(&covariance, d, components)?
    } else {
        eigen(covariance.to_vec::<f64>()?, d)
    };
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order.truncate(components);
    let floor = order.first().map_or(0.0, |first| values[*first] * LEAST_SHARE);
    let mut projection = vec![0.0; d * order.len()];
    for (column, component) in order.iter().enumerate().filter(|(_, component)| values[**component] > floor) {
        let vector = &vectors[component * d..(component + 1) * d];
        let largest = vector.iter().fold(0.0f64, |a, b| if b.abs() > a.abs() { *b } else { a });
        let scale = largest.signum() / values[*component].sqrt();
        vector.iter().enumerate().for_each(|(row, v)| projection[row * order.len() + column] = v * scale);
    }
    ops::matmul(&centred, &Array::from_slice(&projection, &[d, order.len()], x.device())?)
}

/// The largest eigenvalues with their eigenvectors, one a row, of a symmetric matrix `[n, n]` whose eigenvalues are not
/// negative: subspace iteration from random directions (Halko, Martinsson and Tropp 2011). The vectors are an
/// orthonormal basis of what the iteration has found, and diagonal in it, however far it has come.
fn largest(matrix: &Array, n: usize, count: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let wide = count + SPARE;
    let start = Key::new(0, Purpose::Project).stream(0, n as u64, 0);
    let mut basis = ops::normal(&[wide, n], DType::F64, 0.0, 1.0, &start, matrix.device())?;
    for _ in 0..ITERATIONS {
        let mut rows = ops::matmul(&basis, matrix)?.to_vec::<f64>()?;
        orthonormalise(&mut rows, n);
        basis = Array::from_slice(&rows, &[wide, n], matrix.device())?;
    }
    let inside = ops::matmul(&ops::matmul(&basis, matrix)?, &basis.transpose(0, 1)?)?;
    let (values, turn) = eigen(inside.to_vec::<f64>()?, wide);
    let vectors = ops::matmul(&Array::from_slice(&turn, &[wide, wide], matrix.device())?, &basis)?;
    Ok((values, vectors.to_vec::<f64>()?))
}

/// Makes rows of `n` numbers orthonormal, by Gram and Schmidt twice over; a row that depends on those before it becomes 0.
fn orthonormalise(rows: &mut [f64], n: usize) {
    for at in 0..rows.len() / n {
        let (before, rest) = rows.split_at_mut(at * n);
        let row = &mut rest[..n];
        let length = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        let first = length(row);
        for _ in 0..2 {
            for other in before.chunks(n) {
                let along: f64 = row.iter().zip(other).map(|(a, b)| a * b).sum();
                row.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let left = length(row);
        let scale = if left > first * 1e-12 { 1.0 / left } else { 0.0 };
        row.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Eigenvalues and eigenvectors, one a row, of a symmetric `[n, n]` matrix, by Jacobi's rotations (Golub and Van Loan,
/// section 8.5) in the order of rows.
fn eigen(mut a: Vec<f64>, n: usize) -> (Vec<f64>, Vec<f64>) {
    let mut vectors = vec![0.0; n * n];
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let total: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..SWEEPS {
        let off: f64 = (0..n).map(|p| (0..p).map(|q| a[p * n + q] * a[p * n + q]).sum::<f64>()).sum();
        if off <= f64::EPSILON * f64::EPSILON * total {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                let apq = a[p * n + q];
                if apq == 0.0 {
                    continue;
                }
                let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * apq);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let c = 1.0 / (t * t + 1.0).sqrt();
                let s = t * c;
                for k in 0..n {
                    let (x, y) = (a[k * n + p], a[k * n + q]);
                    (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
                }
                rotate(&mut a, n, [p, q], c, s);
                rotate(&mut vectors, n, [p, q], c, s);
            }
        }
    }
    ((0..n).map(|i| a[i * n + i]).collect(), vectors)
}

/// Rows p and q of an `[n, n]` matrix become c·p - s·q and s·p + c·q.
fn rotate(matrix: &mut [f64], n: usize, [p, q]: [usize; 2], c: f64, s: f64) {
    let (head, tail) = matrix.split_at_mut(q * n);
    for (x, y) in head[p * n..(p + 1) * n].iter_mut().zip(&mut tail[..n]) {
        (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    /// Rows of `d` correlated numbers of very different sizes.
    fn rows(n: usize, d: usize) -> Vec<f64> {
        let mut stream = Key::new(4, Purpose::Check).stream(0, 0, 0);
        let mut rows = Vec::new();
        for _ in 0..n {
            let shared = f64::from(stream.normal());
            rows.extend((0..d).map(|k| 3.0 + shared * k as f64 + f64::from(stream.normal()) * 2f64.powi(k as i32 % 5)));
        }
        rows
    }

    #[test]
    fn the_covariance_of_what_is_whitened_is_the_identity() {
        let (n, d) = (300, 12);
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&rows(n, d), &[n, d], &device).unwrap();
        for components in [5, 12, 40] {
            let y = whiten(&x, components).unwrap();
            let kept = components.min(d);
            assert_eq!(y.shape(), [n, kept]);
            let y = y.to_vec::<f64>().unwrap();
            for i in 0..kept {
                assert!((0..n).map(|row| y[row * kept + i]).sum::<f64>().abs() < 1e-8);
                for j in 0..kept {
                    let covariance = (0..n).map(|row| y[row * kept + i] * y[row * kept + j]).sum::<f64>() / n as f64;
                    assert!((covariance - f64::from(i == j)).abs() < 1e-9, "{i} {j}: {covariance}");
                }
            }
        }
    }

    #[test]
    fn many_dimensions_give_the_same_leading_components() {
        let (n, d, components) = (60, 40, 5);
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&rows(n, d), &[n, d], &device).unwrap();
        let centred = ops::sub(&x, &ops::mean(&x, &[0], true).unwrap()).unwrap();
        let matrix = ops::matmul(&centred.transpose(0, 1).unwrap().contiguous().unwrap(), &centred).unwrap();
        let (mut all, _) = eigen(matrix.to_vec::<f64>().unwrap(), d);
        let (mut found, vectors) = largest(&matrix, d, components).unwrap();
        all.sort_by(|a, b| b.total_cmp(a));
        found.sort_by(|a, b| b.total_cmp(a));
        for (found, exact) in found.iter().zip(&all).take(components) {
            assert!((found / exact - 1.0).abs() < 1e-6, "{found} {exact}");
        }
        for (i, a) in vectors.chunks(d).enumerate() {
            for (j, b) in vectors.chunks(d).enumerate() {
                let dot: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                assert!((dot - f64::from(i == j)).abs() < 1e-9, "{i} {j}: {dot}");
            }
        }
    }

    #[test]
    fn directions_without_variance_stay_empty() {
        let device = Device::cpu_with(1).unwrap();
        // The second column is the first, the third constant.
        let values: Vec<f64> = (0..20).flat_map(|i| [f64::from(i), f64::from(i), 7.0]).collect();
        let y = whiten(&Array::from_slice(&values, &[20, 3], &device).unwrap(), 3).unwrap().to_vec::<f64>().unwrap();
        assert!(y.chunks(3).all(|row| row[1] == 0.0 && row[2] == 0.0));
        assert!((y.chunks(3).map(|row| row[0] * row[0]).sum::<f64>() / 20.0 - 1.0).abs() < 1e-12);
    }
}
