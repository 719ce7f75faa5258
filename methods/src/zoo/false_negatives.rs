//! IFND: incremental false-negative detection (Chen, Hung, Tseng, Chien, Yang, ICLR 2022, arXiv:2106.03719).
//!
//! MoCo v2 whose queue has false negatives that clustering finds, trusted more and more:
//!
//! ```text
//! q, k, queue as in MoCo; the queue keeps the image of each key
//! at the start of epoch e of E:
//!     v = the momentum encoder's embeddings of all images, without augmentation
//!     for each number of clusters: spherical k-means on v gives pseudo-labels;
//!         those of the e / (E - 1) most confident images are accepted, the others have none
//! for each batch: with the labels of the batch's and the queue's images, as they are now
//!     L = mean over clusterings of InfoNCE(q, k, queue; T) whose keys of q's label
//!         leave the denominator ("eliminate"), or are positives ("attract")
//! ```
//!
//! While no label is accepted it is MoCo. Elimination is the stable choice: attraction needs labels that are right.
//! Numbers of clusters and the growth of the accepted share are the sheet's best knowledge (unverified).

use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Result, ops};
use selfsame_losses::false_negatives::{FalseNegative, accepted};
use selfsame_losses::state::{KMeans, Metric, Queue, k_means};
use selfsame_losses::{FalseNegatives as Objective, false_negatives_ranks};
use selfsame_models::Ctx;
use selfsame_models::backbones::Backbone;

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, MomentumContrast};
use crate::sweep::Sweep;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "false-negatives",
    paper: "arXiv:2106.03719",
    title: "Incremental False Negative Detection for Contrastive Learning",
    family: Family::Contrastive,
    status: Status::Reconstructed,
    views: parts::two_views,
    defaults: concat!(
        parts::momentum_contrast_keys!(),
        r#"
queue = 65536           # past keys, a multiple of the batch; well below the number of images: 4096 for 50,000
form = "eliminate"      # false negatives: "eliminate" from the denominator, or "attract" as positives
clusters = "10000,30000" # numbers of clusters; a few times the number of classes for small images
confidence = 0.2        # temperature of the confidence; only its order counts
accepted = 1.0          # share of pseudo-labels accepted in the last epoch; it grows linearly from 0
"#
    ),
    build: |config, init, plan| {
        let form = match config.choice("form", &["eliminate", "attract"])? {
            "eliminate" => FalseNegative::Eliminated,
            _ => FalseNegative::Attracted,
        };
        let mut granularities = Vec::new();
        for (m, clusters) in parts::numbers(config, "clusters")?.into_iter().enumerate() {
            let none = Array::full(NONE, &[plan.images], init.device())?;
            granularities.push((clusters, Param::new(format!("labels.{m}"), Role::Buffer, none)));
        }
        Ok(Box::new(FalseNegatives {
            contrast: MomentumContrast::new(config, init, true)?,
            objective: Objective { temperature: config.positive("temperature")?, form },
            granularities,
            confidence: config.positive("confidence")?,
            accepted: config.fraction("accepted")?,
            last_epoch: plan.epochs.saturating_sub(1),
            seed: config.usize("seed")? as u64,
        }))
    },
    facts: &[],
};

/// The label of an image without one.
const NONE: i64 = -1;

struct FalseNegatives {
    contrast: MomentumContrast,
    objective: Objective,
    /// Numbers of clusters, and the pseudo-label of each image of the training set.
    granularities: Vec<(usize, Param)>,
    confidence: f64,
    accepted: f64,
    last_epoch: u64,
    seed: u64,
}

impl FalseNegatives {
    /// The share of labels accepted in `epoch`.
    fn rate(&self, epoch: u64) -> f64 {
        self.accepted * (epoch as f64 / self.last_epoch.max(1) as f64).min(1.0)
    }
}

impl Method for FalseNegatives {
    fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<Vec<String>> {
        let rate = self.rate(epoch);
        if rate == 0.0 {
            return Ok(Vec::new());
        }
        let v = sweep.features(|x, cx| self.contrast.embed_by_teacher(x, cx))?;
        for (m, (clusters, labels)) in self.granularities.iter().enumerate() {
            let o = KMeans { metric: Metric::Spherical, ..KMeans::new(*clusters) };
            let found = k_means(&v, &o, self.seed, m as u64)?;
            labels.set(accepted(&v, &found, self.confidence, rate)?)?;
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
        let (q, k, images) = (z.get("q")?, z.get("k")?, z.get("images")?);
        let queue = self.contrast.queue();
        let mut losses = Vec::new();
        for (_, labels) in &self.granularities {
            let of_batch = ops::index_select(&labels.array(), 0, images.array())?;
            let of_queue = labels_of_queue(queue, &labels.array())?;
            let o = &self.objective;
            losses.push(false_negatives_ranks(q, k, &queue.keys(), &of_batch, &of_queue, o, cx.ranks())?);
        }
        self.contrast.enqueue(k, Some(images), cx)?;
        Ok(Step::new(Tensor::stack(&losses.iter().collect::<Vec<_>>(), 0)?.mean_all()?).embeddings(q))
    }

    fn after_step(&mut self, _: u64) -> Result<()> {
        self.contrast.follow()
    }

    fn encoder(&self) -> &dyn Backbone {
        self.contrast.encoder()
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.contrast.visit(visitor);
        self.granularities.iter().for_each(|(_, labels)| visitor.param(labels.path(), labels));
    }
}

/// The labels of the queue's images: looked up now, so that a new clustering labels old keys anew.
fn labels_of_queue(queue: &Queue, labels: &Array) -> Result<Array> {
    let all = labels.to_vec::<i64>()?;
    let images = queue.images().map(|images| images.to_vec::<i64>()).transpose()?.unwrap_or_default();
    let label = |image: i64| usize::try_from(image).ok().and_then(|image| all.get(image)).copied().unwrap_or(NONE);
    let of_queue: Vec<i64> = images.into_iter().map(label).collect();
    Array::from_slice(&of_queue, &[of_queue.len()], labels.device())
}
