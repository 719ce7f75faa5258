//! Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny, ICML 2021, arXiv:2103.03230), Algorithm 1.
//!
//! ```text
//! for each of N images: draw two augmentations, x0 and x1
//!     z = g(f(x))               encoder and a wide projector
//! standardise each dimension of z over the batch; C = z0ᵀ z1 / N, D x D
//! L = Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij²
//! ```
//! Gradient flows through both views; there are no negatives, no predictor and no teacher. With λ = 0 all dimensions
//! may become one.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::{BarlowTwins as Loss, barlow_twins_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "barlow-twins",
    paper: "arXiv:2103.03230",
    title: "Barlow Twins: Self-Supervised Learning via Redundancy Reduction",
    family: Family::Redundancy,
    status: Status::Complete,
    views: parts::asymmetric_views,
    defaults: r#"
lambda = 0.0051         # weight of what is off the diagonal; 0 leaves dimensions free to be equal
scale = 1.0             # multiplies the loss; 0.1 in recipes of small images with other optimisers than lars
hidden = 8192           # width of the projector's two hidden layers; wider is better
dim = 8192              # dimensions that are decorrelated; wider is better

saturation = 0.4
hue = 0.2
blur = 1.0
blur2 = 0.1             # probability of blur in the second view
solarize2 = 0.2         # probability of inverting bright pixels in the second view

zero_init = true
optimizer = "lars"
lars_variant = "barlow-twins"
lr = 0.2                # of weights
excluded_lr = 0.024     # biases and norms: 0.0048 where weights have 0.2
weight_decay = 1e-6
warmup_epochs = 10.0
lr_end = 0.001
"#,
    build: |config, init, _| {
        let (hidden, dim) = (config.at_least("hidden", 1)?, config.at_least("dim", 1)?);
        let loss = Loss { lambda: config.f64("lambda")?, scale: config.positive("scale")?, ..Loss::default() };
        let embedder = Embedder::new(config, init, |init, features| {
            Mlp::new(init, &[features, hidden, hidden, dim], MlpOpts::BARLOW_TWINS)
        })?;
        Ok(Box::new(BarlowTwins { embedder, loss }))
    },
    facts: &[],
};

struct BarlowTwins {
    embedder: Embedder,
    loss: Loss,
}

impl Method for BarlowTwins {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..2, "z", cx, |x, cx| self.embedder.forward(x, cx))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (z0, z1) = (z.get("z0")?, z.get("z1")?);
        Ok(Step::new(barlow_twins_ranks(z0, z1, &self.loss, cx.ranks())?).embeddings(z0))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.embedder.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.embedder.visit(visitor);
    }
}
