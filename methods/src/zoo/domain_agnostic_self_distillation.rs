//! Domain-agnostic clustering with self-distillation (Adnan, Ioannou, Tsai, Taylor, SSL workshop at NeurIPS 2021,
//! arXiv:2111.12170): DeepCluster-v2 without augmentation.
//!
//! ```text
//! before an epoch, for each head h: spherical k-means of the stored embeddings m
//!     C_h: its centroids; labels_h: the cluster of each image
//! for each of N images, as it is: z = unit(g(f(x)))
//!     q_h = softmax(m C_h / τ_d)       of the stored embedding, with the new centroids
//! L = mean over heads of (1 - α) CE(labels_h, softmax(z C_h / τ)) + α CE(q_h, softmax(z C_h / τ_d))
//! step on f, g; store z
//! ```
//! The paper's distillation term is reconstructed (unverified): `soft = "memory"` takes q from stored embeddings,
//! `soft = "snapshot"` from the network as it was before the epoch; `mix_targets` mixes targets in place of losses; α may
//! rise over the training. With α = 0 it is DeepCluster-v2 with one crop.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::{ClusterDistillation, Usage, cluster_distillation_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, ClusterHeads, Embedder, Teacher, UNIT_EPS};
use crate::sweep::Sweep;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "domain-agnostic-self-distillation",
    paper: "arXiv:2111.12170",
    title: "Domain-Agnostic Clustering with Self-Distillation",
    family: Family::Clustering,
    status: Status::Reconstructed,
    views: |config| Ok(vec![parts::eval_transform(config)?]),
    defaults: r#"
temperature = 0.1       # tau: divides the cosines for the cluster numbers
distillation_temperature = 0.1 # tau_d: divides them for the soft targets; up to five times tau
alpha = 0.5             # weight of the soft targets: 0.3 to 0.9; 0: DeepCluster-v2
ramp = false            # true: the weight rises over the epochs from 0 to alpha
soft = "memory"         # source of the soft targets: memory (stored embeddings) or snapshot (the last epoch's network)
mix_targets = false     # true: one cross-entropy against mixed targets
rescale = false         # true: the soft term times (tau_d / tau)²
prototypes = 100        # K of each head
heads = 3               # clusterings
iterations = 10         # of k-means
hidden = 512            # width of the projector's hidden layer
dim = 128               # length of the embeddings

lr = 0.05
weight_decay = 5e-4
"#,
    build: |config, init, plan| {
        let (hidden, dim) = (config.at_least("hidden", 1)?, config.at_least("dim", 1)?);
        let embedder = |init: &_| {
            Embedder::new(config, init, |init, features| Mlp::new(init, &[features, hidden, dim], MlpOpts::SWAV))
        };
        let network = embedder(init)?;
        let snapshot = || Teacher::of(&network, init, embedder);
        Ok(Box::new(DomainAgnostic {
            snapshot: (config.choice("soft", &["memory", "snapshot"])? == "snapshot").then(snapshot).transpose()?,
            network,
            clusters: ClusterHeads::new(config, init, plan, 1, dim)?,
            loss: ClusterDistillation {
                temperature: config.positive("temperature")?,
                distillation_temperature: config.positive("distillation_temperature")?,
                alpha: config.fraction("alpha")?,
                mix_targets: config.bool("mix_targets")?,
                rescale: config.bool("rescale")?,
            },
            ramp: config.bool("ramp")?.then_some(plan.epochs),
            steps_per_epoch: plan.steps_per_epoch,
        }))
    },
    facts: &[parts::uniform_outputs(|config, _| parts::ln_of(config, "prototypes"))],
};

struct DomainAgnostic {
    network: Embedder,
    /// The network before the epoch.
    snapshot: Option<Teacher<Embedder>>,
    clusters: ClusterHeads,
    loss: ClusterDistillation,
    /// Epochs over which the weight of the soft targets rises.
    ramp: Option<u64>,
    steps_per_epoch: u64,
}

impl Method for DomainAgnostic {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..1, "z", cx, |x, cx| self.network.forward(x, cx)?.l2_normalize(UNIT_EPS))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let images = Embeddings::default().with("images", views.index_tensor(views.view(0)?.device())?);
        match &self.snapshot {
            Some(old) => {
                images.and(parts::each_view(views, 0..1, "m", cx, |x, cx| old.forward(x, cx)?.l2_normalize(UNIT_EPS))?)
            }
            None => Ok(images),
        }
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (images, now) = (z.get("images")?.array(), z.get("z0")?);
        let share = self.ramp.map_or(1.0, |epochs| (cx.steps_done() / self.steps_per_epoch) as f64 / epochs as f64);
        let o = ClusterDistillation { alpha: self.loss.alpha * share.min(1.0), ..self.loss };
        let (mut losses, mut outputs) = (Vec::new(), Vec::new());
        for h in 0..self.clusters.heads() {
            let stored =
                if self.snapshot.is_some() { z.get("m0")?.clone() } else { self.clusters.memory(h, images)? };
            let memory = self.clusters.scores(h, &stored, &cx.clone().no_grad())?;
            let scores = self.clusters.scores(h, now, cx)?;
            let labels = self.clusters.labels(h, images)?;
            losses.push(cluster_distillation_ranks(&scores, &labels, &memory, &o, cx.ranks())?);
            outputs.push(scores.detach().scale(1.0 / o.temperature)?.softmax()?);
        }
        self.clusters.keep(images, std::slice::from_ref(now), cx)?;
        let usage = Usage::of(&outputs[..1], cx.ranks())?;
        Ok(parts::log_usage(Step::new(parts::mean_of(&losses)?).embeddings(now), usage))
    }

    fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<Vec<String>> {
        if epoch == 0 {
            self.clusters.fill(&[sweep.view_features(0, |x, cx| self.network.forward(x, cx))?])?;
        }
        self.clusters.cluster(epoch)?;
        self.snapshot.as_ref().map_or(Ok(()), |snapshot| snapshot.follow(0.0))?;
        Ok(Vec::new())
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.network.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.network.visit(visitor);
        if let Some(snapshot) = &self.snapshot {
            snapshot.visit(visitor);
        }
        self.clusters.visit(visitor);
    }
}
