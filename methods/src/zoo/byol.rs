//! BYOL (Grill et al., NeurIPS 2020, arXiv:2006.07733), Algorithm 1.
//!
//! ```text
//! for each of N images: draw two augmentations, x0 and x1, from two different chains
//!     z = g(f(x)), p = q(z)     online: encoder, projector, predictor
//!     z' = g'(f'(x))            target: encoder and projector alone, in training mode
//! L = mean |unit(p0) - unit(z'1)|² + |unit(p1) - unit(z'0)|²
//! step on f, g, q; then (f', g') ← m (f', g') + (1 - m) (f, g), m by a cosine from m0 to 1
//! ```
//! No gradient goes to the target. Its batch norms see their own batches and keep their own running statistics.
//! Without a predictor, or with m = 0, it collapses.

use selfsame_autograd::ParamVisitor;
use selfsame_autograd::schedule::Schedule;
use selfsame_engine::Result;
use selfsame_losses::byol_ranks;
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Fact, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder, Teacher};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "byol",
    paper: "arXiv:2006.07733",
    title: "Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning",
    family: Family::Distillation,
    status: Status::Complete,
    views: parts::asymmetric_views,
    defaults: r#"
hidden = 4096           # width of the hidden layer of projector and predictor
dim = 256               # length of projections and predictions
predictor = true        # false: projections are compared themselves, which collapses
teacher_momentum = 0.996 # m at the start: 0.996 for 1000 epochs, 0.99 for 300, 0.97 for 40; 0 collapses
teacher_momentum_end = 1.0 # m at the end of its cosine

saturation = 0.4
hue = 0.2
blur = 1.0
blur2 = 0.1             # probability of blur in the second view
solarize2 = 0.2         # probability of inverting bright pixels in the second view

optimizer = "lars"
lars_variant = "barlow-twins"
lr = 0.2                # 0.2 for 1000 epochs, 0.3 for 300, 0.45 for 100 or fewer
weight_decay = 1.5e-6
warmup_epochs = 10.0
"#,
    build: |config, init, plan| {
        let (hidden, dim) = (config.at_least("hidden", 1)?, config.at_least("dim", 1)?);
        let embedder = |init: &_| {
            Embedder::new(config, init, |init, features| Mlp::new(init, &[features, hidden, dim], MlpOpts::BYOL))
        };
        let online = embedder(init)?;
        let predictor = || Mlp::new(&init.at("predictor"), &[dim, hidden, dim], MlpOpts::BYOL);
        Ok(Box::new(Byol {
            teacher: Teacher::of(&online, init, embedder)?,
            online,
            predictor: config.bool("predictor")?.then(predictor).transpose()?,
            momentum: parts::teacher_momentum(config, plan)?,
        }))
    },
    facts: &[
        Fact {
            formula: "4",
            meaning: "predictions are orthogonal to their targets: nothing is learned yet",
            advice: "a longer warm-up or another learning rate",
            value: |_, _| Ok(4.0),
        },
        Fact {
            formula: "0",
            meaning: "every prediction is its target: most likely all embeddings are equal",
            advice: "look at embed/std; keep the predictor, and its batch norm; a larger teacher_momentum",
            value: |_, _| Ok(0.0),
        },
    ],
};

struct Byol {
    online: Embedder,
    predictor: Option<Mlp>,
    teacher: Teacher<Embedder>,
    momentum: Schedule,
}

impl Method for Byol {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..2, "p", cx, |x, cx| {
            let z = self.online.forward(x, cx)?;
            self.predictor.as_ref().map_or(Ok(z.clone()), |predictor| predictor.forward(&z, cx))
        })
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..2, "z", cx, |x, cx| self.teacher.forward(x, cx))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let target = [z.get("z0")?, z.get("z1")?];
        let loss = byol_ranks([z.get("p0")?, z.get("p1")?], target, cx.ranks())?;
        // Not the predictions: at first these are all near the mean target, without a collapse.
        Ok(Step::new(loss).embeddings(target[0]))
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
