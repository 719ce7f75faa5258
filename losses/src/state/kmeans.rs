//! k-means over the features of a whole data set (Lloyd 1982), Euclidean and spherical.
//!
//! ```text
//! choose initial centroids among the rows
//! repeat: assign each row to its nearest centroid; centroid = mean of its rows (spherical: at length 1)
//! assign once more
//! ```
//!
//! Assignments are products of matrices and an argmax, so that ties go to the lowest cluster; the rows of a cluster are
//! added in their order. The result has the same bits for any number of threads. A centroid that nobody is near may be
//! put beside another one ([`Empty::Split`]), which takes no row farther from its centroid than before: the objective
//! never rises.

use crate::batch::LEAST_NORM;
use selfsame_engine::ops::Unary;
use selfsame_engine::{Array, DType, Error, ErrorKind, Result, Rows, ops};
use selfsame_kernels::philox::{Key, Purpose, Stream};

/// What is near.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The least |x - c|²; centroids are means.
    Euclidean,
    /// The largest cosine; rows and centroids are brought to length 1.
    Spherical,
}

/// The initial centroids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Distinct rows drawn uniformly.
    RandomRows,
    /// k-means++ (Arthur and Vassilvitskii 2007): each next row with a probability in proportion to its squared distance
    /// from the nearest one drawn before.
    PlusPlus,
}

/// What becomes of a centroid without rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Empty {
    /// It stays where it is (DeepCluster-v2).
    Keep,
    /// It goes beside the centroid of the largest cluster, which counts as half as large from then on (DeepCluster): that
    /// one times 1 + j/1024 and 1 - j/1024 at even and odd elements, for its j-th copy.
    Split,
}

/// How to cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KMeans {
    /// Number of clusters.
    pub clusters: usize,
    /// What is near.
    pub metric: Metric,
    /// The initial centroids.
    pub start: Start,
    /// Changes of the centroids; fewer where nothing changes any more.
    pub iterations: usize,
    /// Runs from different initial centroids, of which the one with the least objective is taken.
    pub restarts: usize,
    /// What becomes of a centroid without rows.
    pub empty: Empty,
    /// The centroids are found on at most that many rows for each cluster, drawn at random; 0 takes all rows.
    pub rows_per_cluster: usize,
}

impl KMeans {
    /// One Euclidean run of 20 iterations from random rows, empty clusters split.
    pub fn new(clusters: usize) -> KMeans {
        KMeans {
            clusters,
            metric: Metric::Euclidean,
            start: Start::RandomRows,
            iterations: 20,
            restarts: 1,
            empty: Empty::Split,
            rows_per_cluster: 0,
        }
    }
}

/// What [`k_means`] finds.
#[derive(Clone, Debug)]
pub struct Clustering {
    /// `[K, D]`.
    pub centroids: Array,
    /// The cluster of each row, `[N]` i64.
    pub assignments: Array,
    /// The rows of each cluster, K of them.
    pub counts: Vec<usize>,
    /// Mean of |x - c|² (spherical: of 1 - cos) over the rows that centroids were found on, before each change of the
    /// centroids and after the last.
    pub objective: Vec<f64>,
}

/// Clusters the rows of `x` `[N, D]`. Random numbers depend on `seed` and `round`: the epoch, or the number of the
/// clustering among several.
///
/// # Errors
/// `Shape` unless there are as many rows as clusters, and at least one cluster; `Config` for no run; `DType` unless f32
/// or f64; `NonFinite` for features that are no finite numbers.
pub fn k_means(x: &Array, o: &KMeans, seed: u64, round: u64) -> Result<Clustering> {
    let [n, _] = x.dims()?;
    if o.clusters == 0 || n < o.clusters {
        return Err(Error::new(ErrorKind::Shape, "k_means", format!("{n} rows for {} clusters", o.clusters))
            .expected("at least one cluster, and a row for each")
            .hint("choose a number of clusters well below the number of images"));
    }
    if o.restarts == 0 {
        return Err(Error::new(ErrorKind::Config, "k_means", "0 runs").expected("at least 1"));
    }
    if !ops::is_finite(x)? {
        return Err(Error::new(ErrorKind::NonFinite, "k_means", "features that are infinite or NaN")
            .expected("finite features")
            .hint("training has diverged before the clustering"));
    }
    let x = match o.metric {
        Metric::Euclidean => x.contiguous()?,
        Metric::Spherical => ops::l2_normalize(x, LEAST_NORM)?.0,
    };
    let stream = |run: u64| Key::new(seed, Purpose::Cluster).stream(round, run, 0);
    let most = o.rows_per_cluster.saturating_mul(o.clusters);
    let some = if most == 0 || n <= most { None } else { Some(drawn_rows(n, most, &mut stream(u64::MAX))) };
    let sample = match &some {
        Some(rows) => select(&x, rows)?,
        None => x.clone(),
    };
    let mut best = lloyd(&sample, o, stream(0))?;
    for run in 1..o.restarts as u64 {
        let next = lloyd(&sample, o, stream(run))?;
        if next.objective.last() < best.objective.last() {
            best = next;
        }
    }
    if some.is_some() {
        best.assignments = assign(&x, &best.centroids, o.metric)?.0;
        best.counts = counts(&best.assignments, o.clusters)?;
    }
    Ok(best)
}

/// One run.
fn lloyd(x: &Array, o: &KMeans, mut stream: Stream) -> Result<Clustering> {
    let mut centroids = match o.start {
        Start::RandomRows => select(x, &drawn_rows(x.shape()[0], o.clusters, &mut stream))?,
        Start::PlusPlus => plus_plus(x, o.clusters, &mut stream)?,
    };
    let (mut assignments, objective) = assign(x, &centroids, o.metric)?;
    let mut history = vec![objective];
    for _ in 0..o.iterations {
        centroids = move_centroids(x, &assignments, centroids, o)?;
        let (next, objective) = assign(x, &centroids, o.metric)?;
        history.push(objective);
        let same = next.as_slice::<i64>()? == assignments.as_slice::<i64>()?;
        assignments = next;
        // The same rows would give the same centroids for ever.
        if same {
            break;
        }
    }
    let counts = counts(&assignments, o.clusters)?;
    Ok(Clustering { centroids, assignments, counts, objective: history })
}

/// Elements of a block of the rows' own centroids, which are never held all at once.
const BLOCK: usize = 1 << 22;

/// The nearest centroid of each row, `[N]` i64, and the objective.
fn assign(x: &Array, centroids: &Array, metric: Metric) -> Result<(Array, f64)> {
    let [n, d] = x.dims()?;
    // |x - c|² / 2 without the share of x alone, which does not tell centroids apart, is |c|² / 2 - x·c.
    let half_squares = match metric {
        Metric::Euclidean => Some(ops::scale(ops::sum(&ops::unary(Unary::Square, centroids)?, &[1], false)?, 0.5)?),
        Metric::Spherical => None,
    };
    let nearest = ops::nearest(x, centroids, half_squares.as_ref())?;
    let rows = (BLOCK / d.max(1)).max(1);
    let mut costs = Vec::new();
    for first in (0..n).step_by(rows) {
        let last = (first + rows).min(n);
        let own = ops::index_select(centroids, 0, &nearest.slice(0, first, last)?)?;
        costs.push(cost(&x.slice(0, first, last)?, &own, metric)?);
    }
    let costs = ops::concat(&costs.iter().collect::<Vec<_>>(), 0)?;
    let total = ops::rows_sum(&costs, Rows::of(costs.shape(), 0)?)?.total()?;
    let total = ops::cast(&total, DType::F64)?.reshape(&[])?.item::<f64>()?;
    Ok((nearest, total / n as f64))
}

/// What each row of `x` adds to the objective with that row of `own` as its centroid: `[n, 1]`.
fn cost(x: &Array, own: &Array, metric: Metric) -> Result<Array> {
    match metric {
        Metric::Euclidean => ops::sum(&ops::unary(Unary::Square, &ops::sub(x, own)?)?, &[1], true),
        Metric::Spherical => {
            let cosines = ops::sum(&ops::mul(x, own)?, &[1], true)?;
            ops::scalar_binary(ops::Binary::Sub, 1.0, &cosines)
        }
    }
}

/// The means of the clusters' rows, and what becomes of centroids without any.
fn move_centroids(x: &Array, assignments: &Array, old: Array, o: &KMeans) -> Result<Array> {
    let device = x.device();
    let counts = counts(assignments, o.clusters)?;
    let sums = ops::index_add(Array::zeros(old.shape(), x.dtype(), device)?, 0, assignments, x)?;
    let divisors: Vec<f64> = counts.iter().map(|count| (*count).max(1) as f64).collect();
    let divisors = ops::cast(&Array::from_slice(&divisors, &[o.clusters, 1], device)?, x.dtype())?;
    let mut centroids = ops::div(&sums, &divisors)?;
    if counts.contains(&0) {
        let is_empty: Vec<bool> = counts.iter().map(|count| *count == 0).collect();
        centroids = ops::select(&Array::from_slice(&is_empty, &[o.clusters, 1], device)?, &old, &centroids)?;
        if o.empty == Empty::Split {
            centroids = split(&centroids, counts)?;
        }
    }
    match o.metric {
        Metric::Euclidean => Ok(centroids),
        Metric::Spherical => Ok(ops::l2_normalize(&centroids, LEAST_NORM)?.0),
    }
}

/// See [`Empty::Split`].
fn split(centroids: &Array, mut counts: Vec<usize>) -> Result<Array> {
    let [k, d] = centroids.dims()?;
    let empty: Vec<usize> = (0..k).filter(|cluster| counts[*cluster] == 0).collect();
    // Which centroid each is a copy of, the how-manyth, and how many copies each has.
    let (mut of, mut number, mut copies) = ((0..k).collect::<Vec<_>>(), vec![0usize; k], vec![0usize; k]);
    for cluster in empty {
        let largest = (0..k).fold(0, |best, i| if counts[i] > counts[best] { i } else { best });
        let root = of[largest];
        copies[root] += 1;
        (of[cluster], number[cluster]) = (root, copies[root]);
        counts[cluster] = counts[largest] / 2;
        counts[largest] -= counts[cluster];
    }
    let factors: Vec<f64> =
        (0..k * d).map(|i| if i % d % 2 == 0 { 1.0 } else { -1.0 } * number[i / d] as f64 / 1024.0 + 1.0).collect();
    let factors = ops::cast(&Array::from_slice(&factors, &[k, d], centroids.device())?, centroids.dtype())?;
    ops::mul(&select(centroids, &of)?, &factors)
}

/// Rows in each cluster.
fn counts(assignments: &Array, clusters: usize) -> Result<Vec<usize>> {
    let mut counts = vec![0; clusters];
    assignments.to_vec::<i64>()?.into_iter().for_each(|cluster| counts[cluster as usize] += 1);
    Ok(counts)
}

/// `count` of `n` rows, distinct, in random order.
fn drawn_rows(n: usize, count: usize, stream: &mut Stream) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..n).collect();
    stream.shuffle(&mut rows);
    rows.truncate(count);
    rows
}

/// The initial centroids of [`Start::PlusPlus`].
fn plus_plus(x: &Array, clusters: usize, stream: &mut Stream) -> Result<Array> {
    let n = x.shape()[0];
    let mut drawn = vec![stream.range(n as u64) as usize];
    let mut nearest = vec![f64::INFINITY; n];
    while drawn.len() < clusters {
        let last = drawn[drawn.len() - 1];
        let squares = ops::cast(&cost(x, &x.slice(0, last, last + 1)?, Metric::Euclidean)?, DType::F64)?;
        nearest.iter_mut().zip(squares.to_vec::<f64>()?).for_each(|(nearest, square)| *nearest = nearest.min(square));
        let threshold = stream.uniform_f64() * nearest.iter().sum::<f64>();
        let mut sum = 0.0;
        let past = nearest.iter().position(|square| {
            sum += square;
            *square > 0.0 && sum > threshold
        });
        // All rows may be equal to a drawn one: any other one then.
        let other = || (0..n).find(|row| !drawn.contains(row));
        drawn.extend(past.or_else(other));
    }
    select(x, &drawn)
}

fn select(x: &Array, rows: &[usize]) -> Result<Array> {
    let rows: Vec<i64> = rows.iter().map(|row| *row as i64).collect();
    ops::index_select(x, 0, &Array::from_slice(&rows, &[rows.len()], x.device())?)
}
