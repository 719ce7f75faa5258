//! k-nearest-neighbour classification on frozen features: cosine similarity, votes weighted by exp(similarity / tau).
//!
//! The protocol of Wu et al. 2018 (arXiv:1805.01978): k = 200, tau = 0.07. Exact search. Of equally similar
//! neighbours the first in the training set counts as nearer, of equally voted classes the lowest wins.

use selfsame_engine::{Array, Error, ErrorKind, Result, ops};
use selfsame_kernels::math;

use super::Accuracy;
use super::features::Features;

/// Options of the vote.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Knn {
    /// Neighbours that vote; all training images when there are fewer.
    pub k: usize,
    /// Temperature of the weights.
    pub temperature: f64,
}

impl Default for Knn {
    fn default() -> Self {
        Knn { k: 200, temperature: 0.07 }
    }
}

/// Similarities that are held at once: 128 MiB of them, for the training set is read anew for each block of queries.
const SIMILARITIES: usize = 1 << 25;

/// Fewer queries at once are no use, however large the training set.
const LEAST_QUERIES: usize = 64;

/// Classifies the `test` features by their neighbours among `train` and compares with the test labels.
///
/// # Errors
/// `Config` when a set is unlabelled or `k` is 0; `Shape` when the features have different lengths.
pub fn knn(train: &Features, test: &Features, classes: usize, options: &Knn) -> Result<Accuracy> {
    let predictions = classify(train, &test.values, classes, options)?;
    Accuracy::of(&predictions, test.labels()?, classes)
}

/// The class of every row of `queries` `[n, d]`.
///
/// # Errors
/// As for [`knn`].
pub fn classify(train: &Features, queries: &Array, classes: usize, options: &Knn) -> Result<Vec<u32>> {
    let labels = train.labels()?;
    if let Some(label) = labels.iter().find(|label| **label as usize >= classes) {
        return Err(
            Error::new(ErrorKind::Config, "knn", format!("label {label}")).expected(format!("a class below {classes}"))
        );
    }
    let mut predictions = Vec::with_capacity(queries.shape().first().copied().unwrap_or(0));
    for (similarity, index) in neighbours(&train.values, queries, options.k)? {
        let mut votes = vec![0.0f64; classes];
        for (similarity, &neighbour) in similarity.iter().zip(&index) {
            votes[labels[neighbour] as usize] += math::f64::exp(f64::from(*similarity) / options.temperature);
        }
        let winner = (1..classes).fold(0, |best, class| if votes[class] > votes[best] { class } else { best });
        predictions.push(winner as u32);
    }
    Ok(predictions)
}

/// For every row of `queries` `[n, d]` the cosine similarities and the indices of its `k` nearest rows in `bank`
/// `[m, d]` (of all `m` when there are fewer), nearest first.
///
/// # Errors
/// `Config` when `k` is 0 or the bank is empty, `Shape` when the lengths of the features differ.
pub fn neighbours(bank: &Array, queries: &Array, k: usize) -> Result<Vec<(Vec<f32>, Vec<usize>)>> {
    let [m, d] = bank.dims()?;
    let [_, query_length] = queries.dims()?;
    if d != query_length {
        return Err(Error::new(
            ErrorKind::Shape,
            "knn",
            format!("bank {:?}, queries {:?}", bank.shape(), queries.shape()),
        )
        .expected("features of one length"));
    }
    let k = k.min(m);
    if k == 0 {
        return Err(Error::new(ErrorKind::Config, "knn", format!("k = {k} of {m} images")).expected("at least one"));
    }
    let bank = ops::l2_normalize(bank, EPSILON)?.0.transpose(0, 1)?;
    let queries = ops::l2_normalize(queries, EPSILON)?.0;
    search(&bank, &queries, k, (SIMILARITIES / m).max(LEAST_QUERIES))
}

/// The `k` best of each query, `[n, d]`, among the columns of the bank, `[d, m]`, so many queries at once.
fn search(bank: &Array, queries: &Array, k: usize, at_once: usize) -> Result<Vec<(Vec<f32>, Vec<usize>)>> {
    let [n, _] = queries.dims()?;
    let mut found = Vec::with_capacity(n);
    for start in (0..n).step_by(at_once) {
        let similarity = ops::matmul(&queries.slice(0, start, n.min(start + at_once))?, bank)?;
        let (values, indices) = ops::topk(&similarity, k)?;
        let (values, indices) = (values.to_vec::<f32>()?, indices.to_vec::<i64>()?);
        for (values, indices) in values.chunks(k).zip(indices.chunks(k)) {
            found.push((values.to_vec(), indices.iter().map(|&index| index as usize).collect()));
        }
    }
    Ok(found)
}

/// Added to nothing but a zero feature's length.
const EPSILON: f64 = 1e-12;

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    fn features(values: &[[f32; 2]], labels: &[u32]) -> Features {
        let device = Device::cpu_with(1).unwrap();
        let values = Array::from_slice(values.as_flattened(), &[values.len(), 2], &device).unwrap();
        Features::new(values, labels.iter().map(|&label| Some(label)).collect())
    }

    #[test]
    fn direction_decides_and_length_does_not() {
        let train = features(&[[1.0, 0.1], [9.0, -0.5], [0.0, 1.0], [0.2, 30.0]], &[0, 0, 1, 1]);
        let test = features(&[[100.0, 1.0], [0.001, 0.02]], &[0, 1]);
        let accuracy = knn(&train, &test, 2, &Knn { k: 2, temperature: 0.07 }).unwrap();
        assert_eq!(accuracy.overall, 1.0);
    }

    #[test]
    fn one_near_neighbour_outvotes_many_far_ones() {
        let train = features(&[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]], &[0, 1, 1, 1]);
        let test = features(&[[1.0, 0.05]], &[0]);
        assert_eq!(knn(&train, &test, 2, &Knn::default()).unwrap().overall, 1.0);
        // At an infinite temperature the majority wins.
        assert_eq!(knn(&train, &test, 2, &Knn { k: 4, temperature: 1e9 }).unwrap().overall, 0.0);
    }

    #[test]
    fn ties_go_to_the_first_neighbour() {
        let train = features(&[[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]], &[0, 1, 1]);
        let found = neighbours(&train.values, &train.values, 2).unwrap();
        assert_eq!(found[1].1, [0, 1]);
    }

    #[test]
    fn searching_in_blocks_changes_nothing() {
        let many: Vec<[f32; 2]> =
            (0..600).map(|i| [((i * 7) % 13) as f32 - 6.0, ((i * 5) % 11) as f32 - 5.0]).collect();
        let bank = features(&many, &[0; 600]);
        let columns = bank.values.transpose(0, 1).unwrap();
        let all = search(&columns, &bank.values, 3, 600).unwrap();
        assert_eq!(all.len(), 600);
        for at_once in [1, 64, 599, 1000] {
            assert_eq!(search(&columns, &bank.values, 3, at_once).unwrap(), all, "{at_once}");
        }
    }

    #[test]
    fn missing_labels_are_an_error() {
        let train = features(&[[1.0, 0.0]], &[0]);
        let unlabelled = Features::new(train.values.clone(), vec![None]);
        let error = knn(&unlabelled, &train, 1, &Knn::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(knn(&train, &train, 1, &Knn { k: 0, temperature: 0.07 }).is_err());
    }
}
