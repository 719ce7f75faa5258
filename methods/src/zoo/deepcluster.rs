//! DeepCluster (Caron, Bojanowski, Joulin, Douze, ECCV 2018, arXiv:1807.05520).
//!
//! ```text
//! before an epoch: features f of every image under the transform of evaluation, in front of the last ReLU
//!     g = unit(PCA of f, whitened)
//!     labels = k-means of g, from new random rows; clusters that run empty share the largest one's images
//!     a new classifier W, b
//! the epoch sees equally many images of every cluster
//! for each of N images: one augmentation; L = CE(labels, W f(x) + b), with the last ReLU
//! ```
//! The authors step the classifier without momentum; here it has that of the others, forgotten at each epoch. With
//! `balanced = false` an epoch sees every image once, and large clusters take over. AlexNet and VGG-16 with Sobel
//! filters in front are the paper's encoders; a ResNet's features have no ReLU to leave out.

use std::collections::BTreeMap;

use selfsame_autograd::{Param, ParamVisitor, Role};
use selfsame_engine::{Array, DType, Device, Result, ops};
use selfsame_kernels::math;
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_losses::cluster_cross_entropy_ranks;
use selfsame_losses::state::{KMeans, k_means};
use selfsame_models::backbones::Backbone;
use selfsame_models::layers::Linear;
use selfsame_models::{Ctx, Fill, Init, Module, copy_values, params};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, UNIT_EPS};
use crate::sweep::Sweep;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "deepcluster",
    paper: "arXiv:1807.05520",
    title: "Deep Clustering for Unsupervised Learning of Visual Features",
    family: Family::Clustering,
    status: Status::Complete,
    views: parts::one_view,
    defaults: r#"
clusters = 10000        # K: ten times the number of classes was best
components = 256        # principal components that are clustered
iterations = 20         # of k-means
balanced = true         # false: an epoch sees every image once instead of every cluster equally often

jitter = 0.0
grayscale = 0.0

lr = 0.05
lr_scaling = "none"
lr_end = 1.0
weight_decay = 1e-5
warmup_epochs = 0.0
"#,
    build: |config, init, plan| {
        let encoder = parts::backbone(config, &init.at("encoder"))?;
        let clusters = config.at_least("clusters", 1)?;
        let labels: Vec<i64> = (0..plan.images).map(|i| (i % clusters) as i64).collect();
        let labels = Array::from_slice(&labels, &[plan.images], init.device())?;
        let classifier = new_classifier(init, encoder.feature_dim(), clusters)?;
        Ok(Box::new(DeepCluster {
            classifier,
            labels: Param::new("labels", Role::Buffer, labels),
            nmi: init.buffer("nmi", &[], 0.0)?,
            k_means: KMeans { iterations: config.at_least("iterations", 1)?, ..KMeans::new(clusters) },
            components: config.at_least("components", 1)?,
            balanced: config.bool("balanced")?,
            seed: config.usize("seed")? as u64,
            device: init.device().clone(),
            encoder,
        }))
    },
    facts: &[parts::uniform_outputs(|config, _| parts::ln_of(config, "clusters"))],
};

/// A classifier of `features` below the path `classifier`.
fn new_classifier(init: &Init, features: usize, clusters: usize) -> Result<Linear> {
    let weight = Fill::Normal { std: 0.01 };
    Linear::filled(&init.at("classifier"), [features, clusters], weight, Some(Fill::Zeros))
}

struct DeepCluster {
    encoder: Box<dyn Backbone>,
    classifier: Linear,
    /// The cluster of each image, `[N]` i64.
    labels: Param,
    /// Agreement of the clusters with those of the epoch before, 0 to 1.
    nmi: Param,
    k_means: KMeans,
    components: usize,
    balanced: bool,
    seed: u64,
    device: Device,
}

impl Method for DeepCluster {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..1, "y", cx, |x, cx| self.encoder.forward(x, cx))
    }

    fn targets(&self, views: &Views, _: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("images", views.index_tensor(views.view(0)?.device())?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let y = z.get("y0")?;
        let labels = ops::index_select(&self.labels.array(), 0, z.get("images")?.array())?;
        let loss = cluster_cross_entropy_ranks(&[self.classifier.forward(y, cx)?], &labels, 1.0, cx.ranks())?;
        Ok(Step::new(loss).embeddings(y).scalar("clusters/nmi", f64::from(self.nmi.array().item::<f32>()?)))
    }

    fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<Vec<String>> {
        let f = sweep.features(|x, cx| self.encoder.before_relu(x, cx))?;
        let (g, _) = ops::l2_normalize(&parts::whiten(&f, self.components)?, UNIT_EPS)?;
        let found = k_means(&ops::cast(&g, DType::F32)?, &self.k_means, self.seed, epoch)?;
        let nmi = mutual_information(&self.labels.array().to_vec()?, &found.assignments.to_vec()?);
        self.nmi.set(Array::scalar(nmi as f32, &self.device)?)?;
        self.labels.set(found.assignments)?;
        // Cluster numbers mean nothing from one epoch to the next.
        let seed = Key::new(self.seed, Purpose::Cluster).stream(epoch, 0, 0).next_u64();
        let [features, clusters] = [self.encoder.feature_dim(), self.k_means.clusters];
        copy_values(&new_classifier(&Init::new(&self.device, seed), features, clusters)?, &self.classifier)?;
        Ok(params(&self.classifier).iter().map(|param| param.path().to_string()).collect())
    }

    fn begin_epoch(&mut self, epoch: u64) -> Result<Option<Vec<usize>>> {
        let labels = self.labels.array().to_vec::<i64>()?;
        Ok(self.balanced.then(|| balanced_order(&labels, self.seed, epoch)))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.encoder.visit(visitor);
        self.classifier.visit(visitor);
        visitor.param(self.labels.path(), &self.labels);
        visitor.param(self.nmi.path(), &self.nmi);
    }
}

/// As many images as there are, in random order, equally many of every cluster that has any (to one): of a larger
/// cluster distinct ones, of a smaller one with repetition.
fn balanced_order(labels: &[i64], seed: u64, epoch: u64) -> Vec<usize> {
    let mut clusters: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    labels.iter().enumerate().for_each(|(image, label)| clusters.entry(*label).or_default().push(image));
    let share = labels.len() / clusters.len().max(1) + 1;
    let mut stream = Key::new(seed, Purpose::Shuffle).stream(epoch, 1, 0);
    let mut order = Vec::with_capacity(share * clusters.len());
    for (_, mut images) in clusters {
        if images.len() > share {
            stream.shuffle(&mut images);
            order.extend(&images[..share]);
        } else {
            order.extend((0..share).map(|_| images[stream.range(images.len() as u64) as usize]));
        }
    }
    stream.shuffle(&mut order);
    order.truncate(labels.len());
    order
}

/// The mutual information of two labellings of the same images over the mean of their entropies, 0 to 1; 1 where both
/// are a single group.
fn mutual_information(a: &[i64], b: &[i64]) -> f64 {
    /// Entropy in nats of how often each value occurs.
    fn entropy<T: Ord>(values: impl Iterator<Item = T>) -> f64 {
        let mut counts: BTreeMap<T, u64> = BTreeMap::new();
        values.for_each(|value| *counts.entry(value).or_default() += 1);
        let total: u64 = counts.values().sum();
        counts.values().map(|n| *n as f64 / total as f64).map(|p| -p * math::f64::log(p)).sum()
    }
    let (of_a, of_b) = (entropy(a.iter()), entropy(b.iter()));
    let joint = entropy(a.iter().zip(b));
    if of_a + of_b == 0.0 { 1.0 } else { 2.0 * (of_a + of_b - joint) / (of_a + of_b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_clusters_of_any_size_equally_often() {
        // Sizes 1, 2, 47 and 150; number 2 is empty.
        let sizes = [(0, 1), (1, 2), (3, 47), (4, 150)];
        let labels: Vec<i64> = sizes.iter().flat_map(|(label, n)| std::iter::repeat_n(*label, *n)).collect();
        let order = balanced_order(&labels, 5, 3);
        assert_eq!(order.len(), 200);
        for (label, _) in sizes {
            let count = order.iter().filter(|image| labels[**image] == label).count();
            // A share of 51 each; four are cut off the end.
            assert!((47..=51).contains(&count), "{count} of cluster {label}");
        }
        let mut large: Vec<usize> = order.iter().copied().filter(|image| labels[*image] == 4).collect();
        large.sort_unstable();
        large.dedup();
        assert!(large.len() >= 47, "a large cluster repeats no image");
        assert_ne!(order, balanced_order(&labels, 5, 4));
        assert_eq!(order, balanced_order(&labels, 5, 3));
    }

    #[test]
    fn mutual_information_of_equal_renumbered_and_independent_labels() {
        let a = [0, 0, 1, 1, 2, 2];
        let close = |x: f64, y: f64| assert!((x - y).abs() < 1e-14, "{x}");
        close(mutual_information(&a, &a), 1.0);
        close(mutual_information(&a, &[7, 7, 3, 3, 5, 5]), 1.0);
        close(mutual_information(&[0, 0, 1, 1], &[0, 1, 0, 1]), 0.0);
        close(mutual_information(&[4; 3], &[9; 3]), 1.0);
        // H(a) = ln 2, H(b) = 0: nothing in common.
        close(mutual_information(&[0, 1], &[0, 0]), 0.0);
    }
}
