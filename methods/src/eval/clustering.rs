//! How well clusters match classes: accuracy under the best matching, normalised mutual information, adjusted Rand
//! index.

use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::math;
use selfsame_losses::state::{KMeans, Metric, Start, k_means};

use super::assignment::largest_assignment;
use super::features::Features;

/// How features are clustered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByClusters {
    /// Number of clusters; `None` for one per class.
    pub clusters: Option<usize>,
    /// Runs of k-means, of which the one with the least objective counts.
    pub runs: usize,
    /// Seed of their starts.
    pub seed: u64,
}

impl Default for ByClusters {
    /// One cluster per class, 10 runs.
    fn default() -> ByClusters {
        ByClusters { clusters: None, runs: 10, seed: 0 }
    }
}

/// Clusters the features of `test` by cosine (spherical k-means, k-means++ starts, 100 iterations at most) and compares
/// the clusters with its labels, which k-means does not see.
///
/// # Errors
/// `Config` when `test` is unlabelled or there is no run; `Shape` for fewer images than clusters.
pub fn cluster_agreement(test: &Features, classes: usize, options: &ByClusters) -> Result<Agreement> {
    let labels = test.labels()?;
    let count = options.clusters.unwrap_or(classes);
    let how = KMeans {
        metric: Metric::Spherical,
        start: Start::PlusPlus,
        iterations: 100,
        restarts: options.runs,
        ..KMeans::new(count)
    };
    let found = k_means(&test.values, &how, options.seed, 0)?;
    let clusters: Vec<u32> = found.assignments.to_vec::<i64>()?.into_iter().map(|cluster| cluster as u32).collect();
    Agreement::of(&clusters, count, labels, classes)
}

/// Agreement of a clustering with classes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Share of images whose cluster is matched with their class, under the one-to-one matching of clusters and classes
    /// that makes it largest. Clusters beyond the number of classes are matched with none.
    pub accuracy: f64,
    /// Mutual information over the mean of both entropies, 0 to 1; 1 where both are a single group.
    pub nmi: f64,
    /// Adjusted Rand index (Hubert and Arabie 1985): 0 on average for random clusters, 1 for equal partitions.
    pub ari: f64,
}

impl Agreement {
    /// Compares `clusters`, each below `cluster_count`, with `labels`, each below `classes`.
    ///
    /// # Errors
    /// `Shape` when the lengths differ or there is nothing to compare; `Config` for a number out of range.
    pub fn of(clusters: &[u32], cluster_count: usize, labels: &[u32], classes: usize) -> Result<Agreement> {
        let table = Contingency::of(clusters, cluster_count, labels, classes)?;
        Ok(Agreement { accuracy: table.accuracy(), nmi: table.nmi(), ari: table.ari() })
    }
}

/// How many images each pair of cluster and class has.
struct Contingency {
    /// `[clusters, classes]`.
    counts: Vec<u64>,
    classes: usize,
    images: u64,
}

impl Contingency {
    fn of(clusters: &[u32], cluster_count: usize, labels: &[u32], classes: usize) -> Result<Contingency> {
        if clusters.len() != labels.len() || labels.is_empty() {
            let got = format!("{} clusters for {} labels", clusters.len(), labels.len());
            return Err(Error::new(ErrorKind::Shape, "agreement", got).expected("one for each, at least one"));
        }
        let mut counts = vec![0; cluster_count * classes];
        for (&cluster, &label) in clusters.iter().zip(labels) {
            let (cluster, label) = (cluster as usize, label as usize);
            if cluster >= cluster_count || label >= classes {
                let got = format!("cluster {cluster}, class {label}");
                return Err(Error::new(ErrorKind::Config, "agreement", got)
                    .expected(format!("a cluster below {cluster_count} and a class below {classes}")));
            }
            counts[cluster * classes + label] += 1;
        }
        Ok(Contingency { counts, classes, images: labels.len() as u64 })
    }

    fn clusters(&self) -> impl Iterator<Item = u64> + '_ {
        self.counts.chunks(self.classes).map(|row| row.iter().sum())
    }

    fn classes(&self) -> impl Iterator<Item = u64> + '_ {
        (0..self.classes).map(|class| self.counts.iter().skip(class).step_by(self.classes).sum())
    }

    fn accuracy(&self) -> f64 {
        let clusters = self.counts.len() / self.classes;
        let side = clusters.max(self.classes);
        let mut square = vec![0; side * side];
        for (row, counts) in self.counts.chunks(self.classes).enumerate() {
            square[row * side..row * side + self.classes].copy_from_slice(counts);
        }
        let matched = largest_assignment(&square, side);
        matched.iter().enumerate().map(|(row, column)| square[row * side + column]).sum::<u64>() as f64
            / self.images as f64
    }

    fn nmi(&self) -> f64 {
        let n = self.images as f64;
        let entropy = |counts: &mut dyn Iterator<Item = u64>| -> f64 {
            counts.filter(|count| *count > 0).map(|count| -(count as f64 / n) * math::f64::log(count as f64 / n)).sum()
        };
        let [joint, clusters, classes] =
            [entropy(&mut self.counts.iter().copied()), entropy(&mut self.clusters()), entropy(&mut self.classes())];
        if clusters == 0.0 && classes == 0.0 {
            return 1.0;
        }
        ((clusters + classes - joint) / (0.5 * (clusters + classes))).clamp(0.0, 1.0)
    }

    fn ari(&self) -> f64 {
        let pairs = |count: u64| (count * count.saturating_sub(1) / 2) as f64;
        let together: f64 = self.counts.iter().map(|count| pairs(*count)).sum();
        let (clusters, classes): (f64, f64) = (self.clusters().map(pairs).sum(), self.classes().map(pairs).sum());
        let all = pairs(self.images);
        let (expected, most) =
            if all > 0.0 { (clusters * classes / all, 0.5 * (clusters + classes)) } else { (0.0, 0.0) };
        if most == expected { 1.0 } else { (together - expected) / (most - expected) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::{Array, Device};

    /// By hand: the table is [[2, 1], [0, 3]]; 5 of 6 under the matching 0-0, 1-1. Of 15 pairs 4 are together in both
    /// (1 + 3), 6 in clusters (3 + 3), 7 in classes (1 + 6).
    #[test]
    fn a_small_case_by_hand() {
        let agreement = Agreement::of(&[0, 0, 0, 1, 1, 1], 2, &[0, 0, 1, 1, 1, 1], 2).unwrap();
        assert_eq!(agreement.accuracy, 5.0 / 6.0);
        let expected = 6.0 * 7.0 / 15.0;
        assert!((agreement.ari - (4.0 - expected) / (6.5 - expected)).abs() < 1e-15);
        let ln = |x: f64| math::f64::log(x);
        let clusters = ln(2.0);
        let classes = -(1.0 / 3.0) * ln(1.0 / 3.0) - (2.0 / 3.0) * ln(2.0 / 3.0);
        let joint = -(1.0 / 3.0) * ln(1.0 / 3.0) - (1.0 / 6.0) * ln(1.0 / 6.0) - 0.5 * ln(0.5);
        assert!((agreement.nmi - 2.0 * (clusters + classes - joint) / (clusters + classes)).abs() < 1e-14);
    }

    #[test]
    fn names_of_clusters_do_not_matter_and_surplus_clusters_count_as_wrong() {
        let labels = [0, 0, 1, 1, 2, 2];
        let equal = Agreement { accuracy: 1.0, nmi: 1.0, ari: 1.0 };
        assert_eq!(Agreement::of(&[2, 2, 0, 0, 1, 1], 3, &labels, 3).unwrap(), equal);
        let each_its_own = Agreement::of(&[0, 1, 2, 3, 4, 5], 6, &labels, 3).unwrap();
        assert_eq!((each_its_own.accuracy, each_its_own.ari), (0.5, 0.0));
        let one = Agreement::of(&[0; 6], 1, &labels, 3).unwrap();
        assert_eq!((one.accuracy, one.nmi, one.ari), (1.0 / 3.0, 0.0, 0.0));
        assert_eq!(Agreement::of(&[0; 4], 1, &[0; 4], 1).unwrap(), equal);
    }

    /// Three directions with little noise, at lengths that Euclidean distance would mistake for clusters.
    #[test]
    fn k_means_finds_directions_and_k_is_ours_to_choose() {
        let (labels, rows): (Vec<u32>, Vec<[f32; 3]>) = (0..30usize)
            .map(|i| {
                let mut row = [0.01 * (i % 7) as f32; 3];
                row[i % 3] = 1.0;
                ((i % 3) as u32, row.map(|x| x * if i < 15 { 1.0 } else { 50.0 }))
            })
            .unzip();
        let device = Device::cpu_with(1).unwrap();
        let values = Array::from_slice(rows.as_flattened(), &[30, 3], &device).unwrap();
        let test = Features::new(values, labels.iter().copied().map(Some).collect());
        let equal = Agreement { accuracy: 1.0, nmi: 1.0, ari: 1.0 };
        assert_eq!(cluster_agreement(&test, 3, &ByClusters::default()).unwrap(), equal);
        let two = ByClusters { clusters: Some(2), ..ByClusters::default() };
        assert_eq!(cluster_agreement(&test, 3, &two).unwrap().accuracy, 2.0 / 3.0);
        let many = ByClusters { clusters: Some(31), ..ByClusters::default() };
        assert_eq!(cluster_agreement(&test, 3, &many).unwrap_err().kind(), ErrorKind::Shape);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        assert_eq!(Agreement::of(&[], 1, &[], 1).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(Agreement::of(&[1], 1, &[0], 1).unwrap_err().kind(), ErrorKind::Config);
    }
}
