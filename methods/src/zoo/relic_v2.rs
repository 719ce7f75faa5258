//! ReLIC (Mitrovic et al., ICLR 2021, arXiv:2010.07922) and ReLICv2 (Tomasev et al. 2022, arXiv:2201.05119).
//!
//! ```text
//! for each of N images: draw L large crops and S small crops
//!     u = q(g(f(x)))            online: encoder, projector, predictor; every crop
//!     w = g'(f'(x))             target: large crops
//!     p^ab = softmax over the image and its negatives of unit(u^a)·unit(w^b) / τ
//! L = mean over images and pairs of a large crop b and another crop a of
//!     - ln p^ab(image) + β KL(p^ab || sg p^ba)
//! step on f, g, q;  (f', g') ← m (f', g') + (1 - m) (f, g), m by a cosine to 1
//! ```
//! ReLICv2 compares with few negatives, drawn anew for each image and step; ReLIC, `large_crops = 2`, `small_crops = 0`,
//! `negatives = 0`, `mean_over_pairs = false`, with all other images. Numbers of the second paper are unverified. A large
//! crop's image loses its background with probability `background`: what differs from the colours of its border counts
//! as the object, in place of the paper's saliency network (a reconstruction, off by default).

use std::sync::Arc;

use selfsame_autograd::ParamVisitor;
use selfsame_autograd::schedule::Schedule;
use selfsame_engine::{Array, Result};
use selfsame_kernels::math;
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_losses::{Divergence, Relic as Loss, RelicViews, relic_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Fact, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder, Foreground, Teacher, WithoutBackground};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "relic-v2",
    paper: "arXiv:2201.05119",
    title: "Pushing the Limits of Self-Supervised ResNets (ReLICv2); Invariant Causal Mechanisms (ReLIC)",
    family: Family::Contrastive,
    status: Status::Reconstructed,
    views: |config| {
        let (large, p) = (config.at_least("large_crops", 1)?, config.fraction("background")? as f32);
        let mut views = parts::asymmetric_multi_crop(config)?;
        for view in views.iter_mut().take(if p > 0.0 { large } else { 0 }) {
            let then = Arc::clone(view);
            *view = Arc::new(WithoutBackground { p, foreground: Foreground::UnlikeBorder, then });
        }
        Ok(views)
    },
    defaults: r#"
temperature = 0.3       # tau of both distributions
beta = 1.0              # weight of the divergence between views
negatives = 10          # other images that each is compared with, drawn for each step; 0: all
divergence = "anchor"   # KL(anchor || reference) of the paper, or "reference": KL(reference || anchor)
mean_over_pairs = true  # false: pairs of views are added, as in ReLIC's equation
hidden = 4096           # width of the hidden layer of projector and predictor
dim = 256               # length of projections and predictions
predictor = true        # false: projections are compared themselves
background = 0.0        # probability that a large crop's image loses its background; 0.1 in the paper
teacher_momentum = 0.996
teacher_momentum_end = 1.0

large_crops = 4         # crops that are anchors and targets; 2 in ReLIC
small_crops = 2         # crops that are anchors alone; 0 in ReLIC
small_size = 16         # side of small crops in pixels: 96 beside large ones of 224
small_crop_min = 0.05   # small crops: smallest share of the area
small_crop_max = 0.14   # the largest
saturation = 0.4
hue = 0.2
blur = 1.0
blur2 = 0.1             # probability of blur in every other large crop
small_blur = 0.5        # and in small ones
solarize2 = 0.2         # probability of inverting bright pixels in every other large crop

optimizer = "lars"
lars_variant = "barlow-twins"
lr = 0.3
weight_decay = 1e-6
warmup_epochs = 10.0
"#,
    build: |config, init, plan| {
        let (hidden, dim) = (config.at_least("hidden", 1)?, config.at_least("dim", 1)?);
        let embedder = |init: &_| {
            Embedder::new(config, init, |init, features| Mlp::new(init, &[features, hidden, dim], MlpOpts::BYOL))
        };
        let online = embedder(init)?;
        let predictor = || Mlp::new(&init.at("predictor"), &[dim, hidden, dim], MlpOpts::BYOL);
        let large = config.at_least("large_crops", 1)?;
        Ok(Box::new(Relic {
            teacher: Teacher::of(&online, init, embedder)?,
            online,
            predictor: config.bool("predictor")?.then(predictor).transpose()?,
            momentum: parts::teacher_momentum(config, plan)?,
            loss: Loss {
                temperature: config.positive("temperature")?,
                beta: config.f64("beta")?,
                divergence: match config.choice("divergence", &["anchor", "reference"])? {
                    "anchor" => Divergence::FromAnchor,
                    _ => Divergence::FromReference,
                },
                mean_over_pairs: config.bool("mean_over_pairs")?,
            },
            negatives: config.usize("negatives")?,
            seed: config.usize("seed")? as u64,
            large,
            crops: large + config.usize("small_crops")?,
        }))
    },
    facts: &[Fact {
        formula: "ln(1+negatives)",
        meaning: "every image looks equally similar: nothing is learned yet, or the encoder has collapsed",
        advice: "a lower temperature, a longer warm-up or a lower learning rate; look at embed/std",
        value: |config, images| match config.usize("negatives")? {
            0 => Ok(math::f64::log(images as f64)),
            drawn => Ok(math::f64::log(1.0 + drawn as f64)),
        },
    }],
};

struct Relic {
    online: Embedder,
    predictor: Option<Mlp>,
    teacher: Teacher<Embedder>,
    momentum: Schedule,
    loss: Loss,
    /// Other images that each is compared with; 0 for all.
    negatives: usize,
    seed: u64,
    large: usize,
    crops: usize,
}

impl Relic {
    /// Negatives `[n, M]` of the images from `first` on out of `images`: distinct others, drawn for the step.
    fn draw(&self, step: u64, first: usize, n: usize, images: usize) -> Vec<i64> {
        let count = self.negatives.min(images - 1);
        let mut all = Vec::with_capacity(n * count);
        for own in first..first + n {
            let mut stream = Key::new(self.seed, Purpose::Noise).stream(step, own as u64, 0);
            // The front of a shuffle of the others: places that were taken hold what was exchanged for them.
            let mut others: Vec<usize> = (0..images).filter(|image| *image != own).collect();
            for at in 0..count {
                let from = at + stream.range((others.len() - at) as u64) as usize;
                others.swap(at, from);
                all.push(others[at] as i64);
            }
        }
        all
    }
}

impl Method for Relic {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..self.crops, "u", cx, |x, cx| {
            let z = self.online.forward(x, cx)?;
            self.predictor.as_ref().map_or(Ok(z.clone()), |predictor| predictor.forward(&z, cx))
        })
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..self.large, "w", cx, |x, cx| self.teacher.forward(x, cx))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (u, w) = (parts::of_views(z, "u", 0..self.crops)?, parts::of_views(z, "w", 0..self.large)?);
        let [n, _] = u[0].dims()?;
        let negatives = match self.negatives {
            0 => None,
            _ => {
                let drawn = self.draw(cx.steps_done(), n * cx.ranks().rank(), n, n * cx.ranks().size());
                Some(Array::from_slice(&drawn, &[n, drawn.len() / n], u[0].device())?)
            }
        };
        let views = RelicViews { large: &u[..self.large], small: &u[self.large..], targets: &w, references: None };
        let l = relic_ranks(views, negatives.as_ref(), &self.loss, cx.ranks())?;
        let step = Step::new(l.loss).embeddings(&w[0]).scalar("loss/contrast", parts::number(&l.contrast)?);
        Ok(step.scalar("loss/invariance", parts::number(&l.invariance)?))
    }

    fn after_step(&mut self, step: u64) -> Result<()> {
        self.teacher.follow(self.momentum.at(step))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.online.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.online.visit(visitor);
        if let Some(predictor) = &self.predictor {
            predictor.visit(visitor);
        }
        self.teacher.visit(visitor);
    }
}
