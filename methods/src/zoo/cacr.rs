//! CACR: contrastive attraction and contrastive repulsion (Zheng, Chen, Yao, …, Zhou, TMLR 2023, arXiv:2105.03746), the
//! form for small images.
//!
//! ```text
//! for each of B images: draw M augmentations; z = g(f(x)) at length 1; cost c(u, v) = |u - v|²
//! attraction: each view is pulled to the other views of its image, the farthest most
//! repulsion:  for each two views x < y, an image's x is pushed from the other images' y, the nearest most
//! L = attraction + repulsion
//! ```
//!
//! The projector is one linear layer, as the last one of the authors' small AlexNet. Their form for large data, with a
//! momentum encoder and a predictor, is not here.

use std::sync::Arc;

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::{Cacr as Objective, cacr_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Fact, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder};
use crate::trainer::scalar;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "cacr",
    paper: "arXiv:2105.03746",
    title: "Contrastive Attraction and Contrastive Repulsion for Representation Learning",
    family: Family::Contrastive,
    status: Status::Complete,
    views: |config| {
        let alike = parts::two_views(config)?.swap_remove(0);
        Ok((0..config.at_least("views", 2)?).map(|_| Arc::clone(&alike)).collect())
    },
    defaults: r#"
views = 5               # M: one query and four positives; 2 for the cheapest form
t_plus = 1.0            # how much more far positives weigh; 0: all alike
t_minus = 1.0           # how much more near negatives weigh; 0: all alike; up to 2 in the paper (unverified)
alpha = 1.0             # weight of the attraction
beta = 1.0              # weight of the repulsion
rbf = 0.0               # above 0: the repulsion as the logarithm of a mean of exp(-rbf cost)
tau_plus = 0.0          # share of false negatives to correct for; 0.1 in the authors' code, with its sign
fixed_weights = false   # true: no gradient through the weights
dim = 128               # length of the embeddings

epochs = 200
batch = 128
warmup_epochs = 0.0
crop_min = 0.2
jitter = 1.0
hue = 0.8
brightness = "multiplicative"
"#,
    build: |config, init, _| {
        let dim = config.at_least("dim", 1)?;
        let objective = Objective {
            t_plus: config.f64("t_plus")?,
            t_minus: config.f64("t_minus")?,
            alpha: config.f64("alpha")?,
            beta: config.f64("beta")?,
            rbf: config.f64("rbf")?,
            tau_plus: config.f64("tau_plus")?,
            fixed_weights: config.bool("fixed_weights")?,
        };
        let projector = |init: &_, features| Mlp::new(init, &[features, dim], MlpOpts::PAPER);
        Ok(Box::new(Cacr { online: Embedder::new(config, init, projector)?, objective }))
    },
    facts: &[Fact {
        formula: "0",
        meaning: "all embeddings are equal: the encoder has collapsed",
        advice: "a lower learning rate or a longer warm-up; look at embed/std",
        value: |_| 0.0,
    }],
};

struct Cacr {
    online: Embedder,
    objective: Objective,
}

impl Method for Cacr {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let mut z = Embeddings::default();
        for (view, x) in views.iter().enumerate() {
            z = z.with(format!("z{view}"), self.online.forward(x, &cx.clone().view(view))?);
        }
        Ok(z)
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let views: Vec<_> = z.iter().map(|(_, z)| z).collect();
        let terms = cacr_ranks(&views, &self.objective, cx.ranks())?;
        Ok(Step::new(terms.loss)
            .embeddings(z.get("z0")?)
            .scalar("loss/attraction", scalar(terms.attraction.array())?)
            .scalar("loss/repulsion", scalar(terms.repulsion.array())?))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.online.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.online.visit(visitor);
    }
}
