//! Signs of collapse in a set of embeddings: spread, effective rank, alignment and uniformity.
//!
//! Effective rank: Roy & Vetterli 2007 (used for self-supervised encoders as RankMe, arXiv:2210.02885).
//! Alignment and uniformity: Wang & Isola 2020, arXiv:2005.10242.
//! All sums run in f64, in row-major order.

use selfsame_engine::{Array, Result, ops};
use selfsame_kernels::math;

use super::spectrum::symmetric_eigenvalues;

/// Rows that [`effective_rank`] and [`uniformity`] look at: a sample says enough for a log line.
pub const SAMPLE: usize = 512;

/// Mean over dimensions of the standard deviation of the L2-normalised rows of `embeddings` `[n, d]`: 0 when
/// collapsed, about 1/sqrt(d) when spread over the sphere.
///
/// # Errors
/// `Shape` when it is no f32 matrix.
pub fn embedding_std(embeddings: &Array) -> Result<f64> {
    let (rows, [n, d]) = unit_rows(embeddings)?;
    let mut total = 0.0;
    for dimension in 0..d {
        let column = || rows.iter().skip(dimension).step_by(d).map(|&value| f64::from(value));
        let mean = column().sum::<f64>() / n as f64;
        total += (column().map(|value| (value - mean) * (value - mean)).sum::<f64>() / n as f64).sqrt();
    }
    Ok(total / d as f64)
}

/// exp of the entropy of the normalised singular values of the centred matrix `embeddings` `[n, d]` (its first
/// [`SAMPLE`] rows): from 1 (all on a line, or one point) to min(n, d).
///
/// # Errors
/// `Shape` when it is no f32 matrix.
pub fn effective_rank(embeddings: &Array) -> Result<f64> {
    let [n, d] = embeddings.dims()?;
    let n = n.min(SAMPLE);
    let rows = embeddings.slice(0, 0, n)?.to_vec::<f32>()?;
    let mut centred: Vec<f64> = rows.iter().map(|&value| f64::from(value)).collect();
    for dimension in 0..d {
        let mean = centred.iter().skip(dimension).step_by(d).sum::<f64>() / n.max(1) as f64;
        centred.iter_mut().skip(dimension).step_by(d).for_each(|value| *value -= mean);
    }
    // The smaller of the two Gram matrices has the same non-zero eigenvalues.
    let by_column = d <= n;
    let (side, length) = if by_column { (d, n) } else { (n, d) };
    let at = |i: usize, k: usize| if by_column { centred[k * d + i] } else { centred[i * d + k] };
    let mut gram = vec![0.0; side * side];
    for k in 0..length {
        for i in 0..side {
            let left = at(i, k);
            for j in 0..=i {
                gram[i * side + j] += left * at(j, k);
            }
        }
    }
    for i in 0..side {
        for j in 0..i {
            gram[j * side + i] = gram[i * side + j];
        }
    }
    let singular: Vec<f64> = symmetric_eigenvalues(gram, side)
        .into_iter()
        .map(|value| if value > 0.0 { value.sqrt() } else { 0.0 })
        .collect();
    let total: f64 = singular.iter().sum();
    if total == 0.0 {
        return Ok(1.0);
    }
    let entropy: f64 =
        singular.iter().map(|value| value / total).filter(|p| *p > 0.0).map(|p| -p * math::f64::log(p)).sum();
    Ok(math::f64::exp(entropy))
}

/// Mean squared distance between the L2-normalised rows of `a` and `b` `[n, d]`, the two views of each image.
///
/// # Errors
/// `Shape` when they are not f32 matrices of one shape.
pub fn alignment(a: &Array, b: &Array) -> Result<f64> {
    let (a, [n, _]) = unit_rows(a)?;
    let (b, _) = unit_rows(b)?;
    Ok(squared_distance(&a, &b) / n as f64)
}

/// log of the mean of exp(-2 |u - v|²) over the pairs of distinct L2-normalised rows (the first [`SAMPLE`]) of
/// `embeddings` `[n, d]`: 0 when collapsed, towards -4 when uniform on a sphere of many dimensions.
///
/// # Errors
/// `Shape` when it is no f32 matrix.
pub fn uniformity(embeddings: &Array) -> Result<f64> {
    let [n, d] = embeddings.dims()?;
    let n = n.min(SAMPLE);
    let (rows, _) = unit_rows(&embeddings.slice(0, 0, n)?)?;
    let row = |i: usize| &rows[i * d..(i + 1) * d];
    let mut sum = 0.0;
    for i in 0..n {
        for j in 0..i {
            sum += math::f64::exp(-2.0 * squared_distance(row(i), row(j)));
        }
    }
    let pairs = (n * n.saturating_sub(1) / 2).max(1);
    Ok(math::f64::log(sum / pairs as f64))
}

fn unit_rows(embeddings: &Array) -> Result<(Vec<f32>, [usize; 2])> {
    let shape = embeddings.dims()?;
    Ok((ops::l2_normalize(embeddings, 1e-12)?.0.to_vec()?, shape))
}

fn squared_distance(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) - f64::from(b)).map(|difference| difference * difference).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    fn matrix(values: &[f32], shape: [usize; 2]) -> Array {
        Array::from_slice(values, &shape, &Device::cpu_with(1).unwrap()).unwrap()
    }

    #[test]
    fn one_point_is_collapsed() {
        let same = matrix(&[0.5, -1.0, 2.0].repeat(8), [8, 3]);
        assert!(embedding_std(&same).unwrap() < 1e-6);
        assert_eq!(effective_rank(&same).unwrap(), 1.0);
        assert!(uniformity(&same).unwrap().abs() < 1e-6);
        assert_eq!(alignment(&same, &same).unwrap(), 0.0);
    }

    #[test]
    fn equal_spread_over_k_axes_has_rank_k() {
        // ± unit vectors on three of five axes: mean 0, three equal singular values.
        let mut values = Vec::new();
        for axis in 0..3 {
            for sign in [1.0, -1.0] {
                values.extend((0..5).map(|at| if at == axis { sign } else { 0.0 }));
            }
        }
        for (values, shape) in [(values.clone(), [6, 5]), (values.repeat(3), [18, 5])] {
            let rank = effective_rank(&matrix(&values, shape)).unwrap();
            assert!((rank - 3.0).abs() < 1e-9, "{rank}");
        }
    }

    #[test]
    fn opposite_views_are_worst_aligned() {
        let a = matrix(&[1.0, 0.0, 0.0, 2.0], [2, 2]);
        let b = matrix(&[-3.0, 0.0, 0.0, -1.0], [2, 2]);
        assert!((alignment(&a, &b).unwrap() - 4.0).abs() < 1e-6);
        // Two rows at right angles: one pair at squared distance 2.
        assert!((uniformity(&a).unwrap() + 4.0).abs() < 1e-6);
    }
}
