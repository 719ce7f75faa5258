//! PCL: prototypical contrastive learning (Li, Zhou, Xiong, Hoi, ICLR 2021, arXiv:2005.04966), Algorithm 1.
//!
//! ```text
//! q, k, queue as in MoCo
//! at the start of each epoch after the first ones:
//!     v = the momentum encoder's embeddings of all images, without augmentation
//!     for each number of clusters: k-means on v gives centroids, clusters and concentrations phi
//! for each batch:
//!     L = InfoNCE(q, k, queue; T)
//!       + mean over clusterings of ProtoNCE: q must pick the centroid of its cluster out of those of the batch
//!         and of negatives drawn from clusters that are nobody's in the batch, each centroid at temperature phi
//! ```
//!
//! Centroids and phi are constants for an epoch. During the plain epochs it is MoCo, to the bit. The defaults are v2's;
//! v1 is `head=linear temperature=0.1 jitter=1 hue=0.8 blur=0`. On small data choose numbers of clusters well below the
//! number of images, such as `50,100,200`.

use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Result, ops};
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_losses::proto_nce::{Prototypes, concentrations, draw_negatives};
use selfsame_losses::state::{KMeans, k_means};
use selfsame_losses::{InfoNce, ProtoNce, info_nce_ranks, proto_nce_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::{Ctx, Init};

use crate::config::Config;
use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, MomentumContrast};
use crate::sweep::Sweep;
use crate::trainer::scalar;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "pcl",
    paper: "arXiv:2005.04966",
    title: "Prototypical Contrastive Learning of Unsupervised Representations",
    family: Family::Contrastive,
    status: Status::Complete,
    views: parts::two_views,
    defaults: concat!(
        parts::momentum_contrast_keys!(),
        r#"
queue = 16384           # past keys, a multiple of the batch; well below the number of images: 4096 for 50,000
clusters = "25000,50000,100000" # numbers of clusters; 50,100,200 for 10 classes of small images
negatives = 16384       # prototypes drawn besides the batch's, where so many are nobody's
alpha = 10.0            # smooths phi of small clusters
concentrations = true   # false: every prototype has the temperature in place of phi
unique = false          # true: the own prototype standing for other queries is no negative (not the authors')
restarts = 5            # runs of k-means, the best of which counts
plain_epochs = 20       # epochs of MoCo at the start
instance_weight = 1.0   # weight of InfoNCE after them
"#
    ),
    build: |config, init, plan| {
        let mut granularities = Vec::new();
        for (m, clusters) in parts::numbers(config, "clusters")?.into_iter().enumerate() {
            granularities.push(Granularity::new(config, init, m, [clusters, plan.images])?);
        }
        Ok(Box::new(Pcl {
            contrast: MomentumContrast::new(config, init, false)?,
            info_nce: InfoNce { temperature: config.positive("temperature")? },
            proto_nce: ProtoNce { unique: config.bool("unique")? },
            granularities,
            alpha: config.positive("alpha")?,
            has_concentrations: config.bool("concentrations")?,
            restarts: config.at_least("restarts", 1)?,
            plain_epochs: config.usize("plain_epochs")? as u64,
            plain_steps: config.usize("plain_epochs")? as u64 * plan.steps_per_epoch,
            instance_weight: config.f64("instance_weight")?,
            seed: config.usize("seed")? as u64,
        }))
    },
    facts: &[],
};

struct Pcl {
    contrast: MomentumContrast,
    info_nce: InfoNce,
    proto_nce: ProtoNce,
    granularities: Vec<Granularity>,
    alpha: f64,
    has_concentrations: bool,
    restarts: usize,
    plain_epochs: u64,
    plain_steps: u64,
    instance_weight: f64,
    seed: u64,
}

/// The prototypes of one clustering.
struct Granularity {
    clusters: usize,
    /// Negatives for each batch.
    negatives: usize,
    /// `[K, dim]`.
    centroids: Param,
    /// phi, `[K]`.
    concentrations: Param,
    /// The cluster of each image of the training set, i64.
    assigned: Param,
}

impl Granularity {
    fn new(config: &Config, init: &Init, m: usize, [clusters, images]: [usize; 2]) -> Result<Granularity> {
        let init = init.at(&format!("prototypes.{m}"));
        let left = clusters.saturating_sub(config.at_least("batch", 2)?);
        let assigned = Array::full(0i64, &[images], init.device())?;
        Ok(Granularity {
            clusters,
            negatives: config.usize("negatives")?.min(left),
            centroids: init.buffer("centroids", &[clusters, config.at_least("dim", 1)?], 0.0)?,
            concentrations: init.buffer("concentrations", &[clusters], config.positive("temperature")? as f32)?,
            assigned: Param::new(format!("{}.assigned", init.path()), Role::Buffer, assigned),
        })
    }
}

impl Pcl {
    /// ProtoNCE of one clustering, whose number is `m`.
    fn prototypes(&self, q: &Tensor, images: &Array, (m, of): (usize, &Granularity), cx: &Ctx) -> Result<Tensor> {
        let assigned = ops::index_select(&of.assigned.array(), 0, images)?;
        let stream = Key::new(self.seed, Purpose::Cluster).stream(cx.steps_done(), m as u64, 1);
        let everywhere = cx.ranks().all_gather(&assigned)?;
        let negatives = draw_negatives(&everywhere, of.clusters, of.negatives, stream)?;
        let prototypes = Prototypes { centroids: of.centroids.constant(), concentrations: of.concentrations.array() };
        proto_nce_ranks(q, &prototypes, &assigned, &negatives, &self.proto_nce, cx.ranks())
    }
}

impl Method for Pcl {
    fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<Vec<String>> {
        if epoch < self.plain_epochs {
            return Ok(Vec::new());
        }
        let v = sweep.features(|x, cx| self.contrast.embed_by_teacher(x, cx))?;
        for (m, of) in self.granularities.iter().enumerate() {
            let o = KMeans { restarts: self.restarts, rows_per_cluster: 1000, ..KMeans::new(of.clusters) };
            // The same draws in every epoch: clusterings are comparable.
            let found = k_means(&v, &o, self.seed, m as u64)?;
            if self.has_concentrations {
                of.concentrations.set(concentrations(&v, &found, self.info_nce.temperature, self.alpha)?)?;
            }
            of.centroids.set(found.centroids)?;
            of.assigned.set(found.assignments)?;
        }
        Ok(Vec::new())
    }

    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("q", self.contrast.queries(views, cx)?))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let k = self.contrast.keys(views, cx)?;
        let images = views.index_tensor(k.device())?;
        Ok(Embeddings::default().with("k", k).with("images", images))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (q, k, images) = (z.get("q")?, z.get("k")?, z.get("images")?.array());
        let instances = info_nce_ranks(q, k, &self.contrast.queue().keys(), &self.info_nce, cx.ranks())?;
        self.contrast.enqueue(k, None, cx)?;
        if cx.steps_done() < self.plain_steps || self.granularities.is_empty() {
            return Ok(Step::new(instances).embeddings(q));
        }
        let mut clusterings = Vec::new();
        for numbered in self.granularities.iter().enumerate() {
            clusterings.push(self.prototypes(q, images, numbered, cx)?);
        }
        let prototypes = Tensor::stack(&clusterings.iter().collect::<Vec<_>>(), 0)?.mean_all()?;
        let (of_instances, of_prototypes) = (scalar(instances.array())?, scalar(prototypes.array())?);
        Ok(Step::new(instances.scale(self.instance_weight)?.add(&prototypes)?)
            .embeddings(q)
            .scalar("loss/instances", of_instances)
            .scalar("loss/prototypes", of_prototypes))
    }

    fn after_step(&mut self, _: u64) -> Result<()> {
        self.contrast.follow()
    }

    fn encoder(&self) -> &dyn Backbone {
        self.contrast.encoder()
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.contrast.visit(visitor);
        for of in &self.granularities {
            for buffer in [&of.centroids, &of.concentrations, &of.assigned] {
                visitor.param(buffer.path(), buffer);
            }
        }
    }
}
