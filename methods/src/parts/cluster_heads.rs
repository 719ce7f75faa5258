//! What DeepCluster-v2 and its relatives keep: an embedding of every image, clusters of these, and the clusters'
//! centroids as classifiers (Caron et al. 2020, arXiv:2006.09882, appendix).

use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Comm, DType, Device, Error, ErrorKind, Result, ops};
use selfsame_losses::IGNORED;
use selfsame_losses::state::{Empty, KMeans, MemoryBank, Metric, Start, k_means};
use selfsame_models::heads::Prototypes;
use selfsame_models::{Ctx, Init, Module};

use crate::config::Config;
use crate::trainer::Plan;

/// Banks of embeddings, one for each crop that is clustered, and heads: centroids of length 1 with the cluster of every
/// image. Head h clusters bank h mod banks. Centroids have no gradient; they change between epochs alone.
pub struct ClusterHeads {
    banks: Vec<MemoryBank>,
    heads: Vec<Head>,
    /// The epoch in which an image's rows were written last, `[N]` i64; those of the first filling count as epoch -1's.
    written: Param,
    k_means: KMeans,
    seed: u64,
    steps_per_epoch: u64,
}

struct Head {
    centroids: Prototypes,
    /// `[N]` i64.
    labels: Param,
}

impl ClusterHeads {
    /// `banks` banks of embeddings of length `dim`; `heads` heads of `prototypes` clusters each, from `iterations`
    /// iterations of spherical k-means. Before the first clustering image i is in cluster i mod K.
    ///
    /// # Errors
    /// `Config` for keys out of range.
    pub fn new(config: &Config, init: &Init, plan: &Plan, banks: usize, dim: usize) -> Result<ClusterHeads> {
        let (seed, clusters) = (config.usize("seed")? as u64, config.at_least("prototypes", 1)?);
        let (images, device) = (plan.images, init.device());
        let bank = |b| MemoryBank::new(&format!("bank{b}"), images, dim, DType::F32, seed, device);
        let head = |h: usize| {
            let centroids = Prototypes::new(&init.at(&format!("head{h}")).frozen(), dim, clusters)?;
            centroids.normalize()?;
            let labels = integers((0..images).map(|i| (i % clusters) as i64).collect(), device)?;
            Ok(Head { centroids, labels: Param::new(format!("head{h}.labels"), Role::Buffer, labels) })
        };
        Ok(ClusterHeads {
            banks: (0..banks).map(bank).collect::<Result<_>>()?,
            heads: (0..config.at_least("heads", 1)?).map(head).collect::<Result<_>>()?,
            written: Param::new("written", Role::Buffer, integers(vec![-1; images], device)?),
            k_means: KMeans {
                metric: Metric::Spherical,
                start: Start::RandomRows,
                iterations: config.at_least("iterations", 1)?,
                empty: Empty::Keep,
                ..KMeans::new(clusters)
            },
            seed,
            steps_per_epoch: plan.steps_per_epoch,
        })
    }

    /// Heads.
    pub fn heads(&self) -> usize {
        self.heads.len()
    }

    /// Fills the banks from the embeddings `[N, D]` of every image, one for each bank.
    ///
    /// # Errors
    /// `Shape` unless they are as many and as long.
    pub fn fill(&self, z: &[Array]) -> Result<()> {
        for (bank, z) in self.banks.iter().zip(z) {
            let all = ops::arange(z.shape()[0], z.device())?;
            for (buffer, value) in bank.update(&all, z, 0.0, &Comm::single())? {
                buffer.set(value)?;
            }
        }
        Ok(())
    }

    /// Clusters the banks at the start of `epoch`: new centroids, and new labels of the images that the epoch before has
    /// seen; the others have none.
    ///
    /// # Errors
    /// `Config` when fewer images were seen than there are clusters.
    pub fn cluster(&self, epoch: u64) -> Result<()> {
        let written = self.written.array();
        let recent = epoch as i64 - 1;
        let seen: Vec<i64> =
            written.to_vec::<i64>()?.iter().zip(0..).filter(|(w, _)| **w == recent).map(|(_, i)| i).collect();
        if seen.len() < self.k_means.clusters {
            return Err(Error::new(
                ErrorKind::Config,
                "configuration key 'prototypes'",
                format!("{} clusters", self.k_means.clusters),
            )
            .expected(format!("at most the {} images of an epoch", seen.len())));
        }
        let rows = integers(seen.clone(), written.device())?;
        for (h, head) in self.heads.iter().enumerate() {
            let bank = ops::index_select(self.banks[h % self.banks.len()].rows().array(), 0, &rows)?;
            let round = epoch * self.heads.len() as u64 + h as u64;
            let found = k_means(&bank, &self.k_means, self.seed, round)?;
            head.centroids.set(&found.centroids)?;
            let mut labels = vec![IGNORED; written.numel()];
            for (image, cluster) in seen.iter().zip(found.assignments.to_vec::<i64>()?) {
                labels[*image as usize] = cluster;
            }
            head.labels.set(integers(labels, written.device())?)?;
        }
        Ok(())
    }

    /// The labels `[n]` of head `head` for the images `images` `[n]` i64.
    ///
    /// # Errors
    /// `Shape` when there is no such image.
    pub fn labels(&self, head: usize, images: &Array) -> Result<Array> {
        ops::index_select(&self.heads[head].labels.array(), 0, images)
    }

    /// The cosines `[n, K]` of unit vectors `z` `[n, D]` with the centroids of head `head`.
    ///
    /// # Errors
    /// `Shape` for other lengths.
    pub fn scores(&self, head: usize, z: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.heads[head].centroids.forward(z, cx)
    }

    /// The embeddings of the images `images` `[n]` i64 that head `head` was clustered from, until this step's are kept.
    ///
    /// # Errors
    /// `Shape` when there is no such image.
    pub fn memory(&self, head: usize, images: &Array) -> Result<Tensor> {
        let bank = &self.banks[head % self.banks.len()];
        Ok(Tensor::constant(ops::index_select(bank.rows().array(), 0, images)?))
    }

    /// Keeps the step's unit vectors `z` `[n, D]`, one for each bank, of the images `images` `[n]` i64.
    ///
    /// # Errors
    /// As for [`MemoryBank::update`].
    pub fn keep(&self, images: &Array, z: &[Tensor], cx: &Ctx) -> Result<()> {
        for (bank, z) in self.banks.iter().zip(z) {
            let values = bank.update(images, z.array(), 0.0, cx.ranks())?;
            values.into_iter().for_each(|(buffer, value)| cx.update(&buffer, value));
        }
        let epoch = (cx.steps_done() / self.steps_per_epoch) as i64;
        let mut written = self.written.array().to_vec::<i64>()?;
        for image in cx.ranks().exchange(images.to_vec::<i64>()?)?.concat() {
            written[image as usize] = epoch;
        }
        cx.update(&self.written, integers(written, self.written.array().device())?);
        Ok(())
    }

    /// Shows the buffers to `visitor`.
    pub fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.banks.iter().for_each(|bank| bank.visit(visitor));
        for head in &self.heads {
            head.centroids.visit(visitor);
            visitor.param(head.labels.path(), &head.labels);
        }
        visitor.param(self.written.path(), &self.written);
    }
}

fn integers(values: Vec<i64>, device: &Device) -> Result<Array> {
    Array::from_slice(&values, &[values.len()], device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings;
    use crate::zoo::deepcluster_v2;

    /// Ten images in two directions, of which an epoch of four steps of two images sees eight.
    fn heads(clusters: usize) -> (ClusterHeads, Device) {
        let mut config = settings::defaults(&deepcluster_v2::SPEC).unwrap();
        config.apply_setting(&format!("prototypes={clusters}")).unwrap();
        let device = Device::cpu_with(1).unwrap();
        let plan = Plan { steps_per_epoch: 4, epochs: 3, images: 10, dropped: 2 };
        (ClusterHeads::new(&config, &Init::new(&device, 0), &plan, 2, 3).unwrap(), device)
    }

    fn rows(device: &Device) -> Array {
        let rows: Vec<f32> = (0..10).flat_map(|i| [(i % 2) as f32, 1.0 - (i % 2) as f32, 0.1 * i as f32]).collect();
        Array::from_slice(&rows, &[10, 3], device).unwrap()
    }

    #[test]
    fn centroids_have_length_1_and_labels_are_the_best_scores_of_what_was_clustered() {
        let (heads, device) = heads(2);
        heads.fill(&[rows(&device), rows(&device)]).unwrap();
        heads.cluster(0).unwrap();
        let all = ops::arange(10, &device).unwrap();
        for h in 0..heads.heads() {
            let labels = heads.labels(h, &all).unwrap().to_vec::<i64>().unwrap();
            assert!((0..10).all(|i| (labels[i] == labels[0]) == (i % 2 == 0)), "{labels:?}");
            let scores = heads.scores(h, &heads.memory(h, &all).unwrap(), &Ctx::train()).unwrap();
            assert_eq!(ops::argmax(scores.array(), 1).unwrap().to_vec::<i64>().unwrap(), labels);
            let centroids = heads.heads[h].centroids.rows().unwrap().to_vec::<f32>().unwrap();
            assert!(centroids.chunks(3).all(|c| (c.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-6));
        }
    }

    #[test]
    fn as_many_clusters_as_images_make_every_image_its_own_class() {
        let (heads, device) = heads(10);
        heads.fill(&[rows(&device), rows(&device)]).unwrap();
        heads.cluster(0).unwrap();
        let mut labels = heads.labels(1, &ops::arange(10, &device).unwrap()).unwrap().to_vec::<i64>().unwrap();
        labels.sort_unstable();
        assert_eq!(labels, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn more_clusters_than_images_are_refused() {
        let (heads, _) = heads(11);
        assert_eq!(heads.cluster(0).unwrap_err().kind(), ErrorKind::Config);
    }

    #[test]
    fn images_that_an_epoch_has_not_seen_have_no_label_in_the_next() {
        let (heads, device) = heads(2);
        heads.fill(&[rows(&device), rows(&device)]).unwrap();
        heads.cluster(0).unwrap();
        let z = Tensor::constant(ops::l2_normalize(&rows(&device).slice(0, 0, 8).unwrap(), 1e-12).unwrap().0);
        let cx = Ctx::train().step(0, 3);
        heads.keep(&integers((0..8).collect(), &device).unwrap(), &[z.clone(), z], &cx).unwrap();
        cx.take_updates().commit().unwrap();
        heads.cluster(1).unwrap();
        let labels = heads.labels(0, &ops::arange(10, &device).unwrap()).unwrap().to_vec::<i64>().unwrap();
        assert!(labels[..8].iter().all(|label| *label >= 0) && labels[8..] == [IGNORED; 2], "{labels:?}");
    }
}
