//! SwAV (Caron, Misra, Mairal, Goyal, Bojanowski, Joulin, NeurIPS 2020, arXiv:2006.09882), Algorithm 1.
//!
//! ```text
//! for each of N images: draw large crops and small crops
//!     z = unit(g(f(x)))         encoder and projector
//!     s = z C                   C: K prototypes of length 1
//! for each large crop a: q_a = Sinkhorn(s_a / ε)   with a queue, over the queue's scores too; no gradient
//! L = mean over pairs of a large crop a and another crop v of CE(q_a, softmax(s_v / τ))
//! step on f, g, C; bring the prototypes back to length 1; put the large crops' z into the queues
//! ```
//! Prototypes get no gradient for the first epochs. Batch norm sees one crop at a time; the authors' code runs crops of
//! one size together. With no iteration of Sinkhorn codes are not balanced, and it collapses.

use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{DType, Result};
use selfsame_losses::state::Queue;
use selfsame_losses::{Codes, Usage, balanced_codes, swapped_cross_entropy};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts, Prototypes};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder, UNIT_EPS};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "swav",
    paper: "arXiv:2006.09882",
    title: "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments",
    family: Family::Clustering,
    status: Status::Complete,
    views: parts::multi_crop,
    defaults: r#"
temperature = 0.1       # tau: divides the scores that predict
epsilon = 0.05          # divides the scores that codes are made of; lower is nearer to one-hot codes
iterations = 3          # of Sinkhorn; 0: softmax codes without balance, which collapse
prototypes = 3000       # K; far fewer for small data sets, or equal shares of a batch mean nothing
hidden = 2048           # width of the projector's hidden layer
dim = 128               # length of the embeddings
freeze_epochs = 1.0     # epochs in which prototypes keep their first values
queue = 0               # earlier embeddings of each large crop that codes are balanced over; a multiple of the batch
queue_from = 15         # the epoch from which on the queue fills; it is used once full

large_crops = 2         # crops that give codes, and predict
small_crops = 6         # crops that predict alone
small_size = 16         # side of small crops in pixels: 96 beside large ones of 224
small_crop_min = 0.05   # small crops: smallest share of the area
small_crop_max = 0.14   # the largest
crop_min = 0.14
strength = 1.0
saturation = 0.8
blur = 0.5

optimizer = "lars"
lars_variant = "apex-larc"
trust = 0.001
lr = 0.3                # 4.8 for a batch of 4096; 0.6 for one of 256 with a queue
lr_end = 0.001
weight_decay = 1e-6
warmup_epochs = 10.0
warmup_from = 0.0625    # 0.3 of 4.8
"#,
    build: |config, init, plan| {
        let (hidden, dim) = (config.at_least("hidden", 1)?, config.at_least("dim", 1)?);
        let embedder =
            Embedder::new(config, init, |init, features| Mlp::new(init, &[features, hidden, dim], MlpOpts::SWAV))?;
        let prototypes = Prototypes::new(&init.at("prototypes"), dim, config.at_least("prototypes", 1)?)?;
        prototypes.normalize()?;
        let (large, length) = (config.at_least("large_crops", 1)?, config.usize("queue")?);
        let seed = config.usize("seed")? as u64;
        let queue = |crop| Queue::new(&format!("queue{crop}"), length, dim, DType::F32, seed, init.device());
        Ok(Box::new(Swav {
            embedder,
            prototypes,
            codes: Codes { epsilon: config.positive("epsilon")?, iterations: config.usize("iterations")? },
            temperature: config.positive("temperature")?,
            large,
            crops: large + config.usize("small_crops")?,
            queues: (0..if length == 0 { 0 } else { large }).map(queue).collect::<Result<_>>()?,
            queue_length: length,
            queue_from: config.usize("queue_from")? as u64 * plan.steps_per_epoch,
            frozen_until: parts::epochs_in_steps(config, "freeze_epochs", plan)?,
        }))
    },
    facts: &[parts::uniform_outputs(|config, _| parts::ln_of(config, "prototypes"))],
};

struct Swav {
    embedder: Embedder,
    prototypes: Prototypes,
    codes: Codes,
    temperature: f64,
    large: usize,
    crops: usize,
    /// One for each large crop; none without a queue.
    queues: Vec<Queue>,
    queue_length: usize,
    /// The step from which on queues fill.
    queue_from: u64,
    frozen_until: u64,
}

impl Swav {
    /// The codes of the scores `s` of large crop `crop`.
    fn codes(&self, crop: usize, s: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let batch = s.shape()[0] * cx.ranks().size();
        let filled = cx.steps_done().saturating_sub(self.queue_from) as usize * batch;
        let queued = match self.queues.get(crop) {
            Some(queue) if filled >= self.queue_length => {
                Some(self.prototypes.forward(&queue.keys(), &cx.clone().no_grad())?)
            }
            _ => None,
        };
        let queued = queued.as_ref().map(Tensor::array);
        balanced_codes(s.array(), queued, &self.codes, cx.ranks()).map(Tensor::constant)
    }
}

impl Method for Swav {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..self.crops, "z", cx, |x, cx| self.embedder.forward(x, cx)?.l2_normalize(UNIT_EPS))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let z = parts::of_views(z, "z", 0..self.crops)?;
        let of_prototypes = if cx.steps_done() < self.frozen_until { cx.clone().no_grad() } else { cx.clone() };
        let scores = z.iter().map(|z| self.prototypes.forward(z, &of_prototypes)).collect::<Result<Vec<_>>>()?;
        let codes = (0..self.large).map(|crop| self.codes(crop, &scores[crop], cx)).collect::<Result<Vec<_>>>()?;
        if cx.steps_done() >= self.queue_from {
            for (queue, z) in self.queues.iter().zip(&z) {
                queue
                    .enqueue(z.array(), None, cx.ranks())?
                    .into_iter()
                    .for_each(|(buffer, new)| cx.update(&buffer, new));
            }
        }
        let usage = Usage::of(&codes, cx.ranks())?;
        let loss = swapped_cross_entropy(&scores, &codes, self.temperature, cx.ranks())?;
        Ok(parts::log_usage(Step::new(loss).embeddings(&z[0]), usage))
    }

    fn after_step(&mut self, _: u64) -> Result<()> {
        self.prototypes.normalize()
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.embedder.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.embedder.visit(visitor);
        self.prototypes.visit(visitor);
        self.queues.iter().for_each(|queue| queue.visit(visitor));
    }
}
