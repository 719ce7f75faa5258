//! IIC, clustering (Ji, Henriques, Vedaldi, ICCV 2019, arXiv:1807.06653).
//!
//! ```text
//! for each of N images: a plain crop x and r transformed partners x'
//!     p = softmax(W f(x)) for each sub-head W of two groups: more clusters than classes, and as many
//! P = mean over images and partners of p p'ᵀ, made symmetric, for each sub-head
//! L = mean over the sub-heads of the active group of - Σ P_cd (ln P_cd - λ ln P_c - λ ln P_d)
//! ```
//! With λ = 1 that is minus the mutual information of the two assignments. The groups take turns by epochs: one of
//! over-clustering, then two of clustering; with `turns = "both"` their losses are added, with `turns = "clusters"`
//! there is no over-clustering. Clusters come without a further step: the output of the second group. The input is
//! Sobel-filtered and has no colours.

use std::sync::Arc;

use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_data::augment::{CropFlip, HorizontalFlip, RandomResizedCrop};
use selfsame_engine::Result;
use selfsame_losses::{Usage, iic_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::layers::Linear;
use selfsame_models::{Ctx, Init, Module};

use crate::config::Config;
use crate::method::{Augmentations, Embeddings, Fact, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "iic",
    paper: "arXiv:1807.06653",
    title: "Invariant Information Clustering for Unsupervised Image Classification and Segmentation",
    family: Family::Clustering,
    status: Status::Complete,
    views: |config| {
        let mut base =
            CropFlip { crop: RandomResizedCrop::new(config.at_least("size", 8)?), flip: HorizontalFlip { p: 0.0 } };
        base.crop.area = (config.fraction("crop_min")? as f32, config.fraction("crop_max")? as f32);
        let mut views: Augmentations = vec![Arc::new(base)];
        for _ in 0..config.at_least("partners", 1)? {
            views.extend(parts::one_view(config)?);
        }
        Ok(views)
    },
    defaults: r#"
clusters = 10           # outputs of the group that clusters: the number of classes
over_clusters = 70      # outputs of the group that over-clusters
sub_heads = 5           # classifiers in each group, which differ by their first values
lambda = 1.0            # weight of the entropy of clusters; above 1 presses for equal sizes
turns = "epochs"        # groups: epochs (in turns), both (every step), or clusters (no over-clustering)
over_epochs = 1         # epochs of over-clustering in a turn
cluster_epochs = 2      # epochs of clustering in a turn
partners = 3            # transformed partners of each image of the batch

backbone_options = "sobel=true"
crop_min = 0.39         # 20 of 32 pixels
crop_max = 0.39
strength = 0.5          # jitter 0.4 of brightness, contrast and saturation
saturation = 0.8
hue = 0.25
grayscale = 0.0

batch = 220             # images, each with its partners
optimizer = "adamw"
weight_decay = 0.0
lr = 1e-4
lr_scaling = "none"
warmup_epochs = 0.0
"#,
    build: |config, init, plan| {
        let encoder = parts::backbone(config, &init.at("encoder"))?;
        let group = |name: &str, outputs: &str| Group::new(config, &init.at(name), encoder.feature_dim(), outputs);
        let turns = match config.choice("turns", &["epochs", "both", "clusters"])? {
            "epochs" => {
                let (over, cluster) = (config.at_least("over_epochs", 1)?, config.at_least("cluster_epochs", 1)?);
                Turns::Epochs([over, cluster].map(|epochs| epochs as u64 * plan.steps_per_epoch))
            }
            "both" => Turns::Both,
            _ => Turns::Clusters,
        };
        Ok(Box::new(Iic {
            over: (turns != Turns::Clusters).then(|| group("over", "over_clusters")).transpose()?,
            clusters: group("clusters", "clusters")?,
            encoder,
            lambda: config.positive("lambda")?,
            turns,
            partners: config.at_least("partners", 1)?,
        }))
    },
    facts: &[Fact {
        formula: "0",
        meaning: "one cluster for everything, or uniform outputs: assignments tell nothing of the image",
        advice: "a larger batch, a lambda above 1, or another learning rate",
        value: |_, _| Ok(0.0),
    }],
};

/// Which group learns.
#[derive(Clone, Copy, PartialEq)]
enum Turns {
    /// Over-clustering for the first number of steps, clustering for the second, and again.
    Epochs([u64; 2]),
    Both,
    Clusters,
}

/// Classifiers of the same features.
struct Group(Vec<Linear>);

impl Group {
    fn new(config: &Config, init: &Init, features: usize, outputs: &str) -> Result<Group> {
        let outputs = config.at_least(outputs, 2)?;
        let heads = 0..config.at_least("sub_heads", 1)?;
        Ok(Group(heads.map(|h| Linear::new(&init.at(&h.to_string()), features, outputs, true)).collect::<Result<_>>()?))
    }

    /// The mean of the sub-heads' losses, and the outputs of the first one for `x`.
    fn loss(&self, x: &Tensor, partners: &[Tensor], lambda: f64, cx: &Ctx) -> Result<(Tensor, Tensor)> {
        let (mut losses, mut outputs) = (Vec::new(), Vec::new());
        for head in &self.0 {
            let p = |y: &Tensor| head.forward(y, cx)?.softmax();
            let (x, partners) = (p(x)?, partners.iter().map(p).collect::<Result<Vec<_>>>()?);
            losses.push(iic_ranks(&x, &partners, lambda, cx.ranks())?);
            outputs.push(x.detach());
        }
        Ok((parts::mean_of(&losses)?, outputs.swap_remove(0)))
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.0.iter().for_each(|head| head.visit(visitor));
    }
}

struct Iic {
    encoder: Box<dyn Backbone>,
    over: Option<Group>,
    clusters: Group,
    lambda: f64,
    turns: Turns,
    partners: usize,
}

impl Iic {
    /// The groups that learn in step `step`.
    fn active(&self, step: u64) -> Vec<&Group> {
        match (&self.over, self.turns) {
            (Some(over), Turns::Epochs([over_steps, cluster_steps])) => {
                vec![if step % (over_steps + cluster_steps) < over_steps { over } else { &self.clusters }]
            }
            (Some(over), Turns::Both) => vec![over, &self.clusters],
            _ => vec![&self.clusters],
        }
    }
}

impl Method for Iic {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..1 + self.partners, "y", cx, |x, cx| self.encoder.forward(x, cx))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let y = parts::of_views(z, "y", 0..1 + self.partners)?;
        let groups = self.active(cx.steps_done()).into_iter();
        let found = groups.map(|group| group.loss(&y[0], &y[1..], self.lambda, cx)).collect::<Result<Vec<_>>>()?;
        let losses: Vec<Tensor> = found.iter().map(|(loss, _)| loss.clone()).collect();
        let step = Step::new(parts::sum_of(&losses)?).embeddings(&y[0]);
        match found.last() {
            Some((_, outputs)) => Ok(parts::log_usage(step, Usage::of(std::slice::from_ref(outputs), cx.ranks())?)),
            None => Ok(step),
        }
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.encoder.visit(visitor);
        self.over.iter().chain([&self.clusters]).for_each(|group| group.visit(visitor));
    }
}
