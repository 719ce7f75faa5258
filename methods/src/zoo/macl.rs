//! MACL: model-aware contrastive learning (Huang et al., ICML 2023, arXiv:2207.07874), on SimCLR.
//!
//! ```text
//! for each of N images: draw two augmentations, x0 and x1; z = g(f(x)) at length 1
//! A   = mean cosine of positive pairs
//! tau = tau_0 (1 + alpha (A - A_0))           rises as the model aligns its positives; no gradient
//! P   = softmax over the candidates at tau;  V = 1 / (1 - P of the positive)    no gradient
//! L   = mean of -V ln P, each view in turn looking for its partner
//! ```
//!
//! Candidates are the other views of all images, as in the authors' release, or both views. With V the gradient does not
//! shrink, so that a learning rate tuned for InfoNCE may be too large at a small batch. The loss is not comparable with
//! InfoNCE's, which the log has too.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::macl::{Adaptation, Candidates};
use selfsame_losses::{Macl as Objective, macl_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder};
use crate::trainer::scalar;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "macl",
    paper: "arXiv:2207.07874",
    title: "Model-Aware Contrastive Learning: Towards Escaping the Dilemmas",
    family: Family::Contrastive,
    status: Status::Complete,
    views: parts::two_views,
    defaults: r#"
temperature = 0.1       # tau_0, where positives are orthogonal: 0.07 to 0.2
adaptation = "linear"   # how tau follows A: "linear" tau_0 (1 + alpha (A - origin)) or "exponential" tau_0 base^A
alpha = 0.5             # linear: 0 keeps tau_0; 1 in the authors' release (0.5 unverified)
origin = 0.0            # linear: A_0
base = 2.0              # exponential
reweight = true         # weigh terms by V: helps small batches most
candidates = "other"    # what a view is compared with: "other" views of all images, or "both" views
dim = 128               # length of the embeddings

epochs = 200
"#,
    build: |config, init, _| {
        let dim = config.at_least("dim", 1)?;
        let projector = |init: &_, features| Mlp::new(init, &[features, features, dim], MlpOpts::SIMCLR);
        let adaptation = match config.choice("adaptation", &["linear", "exponential"])? {
            "linear" => Adaptation::Linear { alpha: config.f64("alpha")?, origin: config.f64("origin")? },
            _ => Adaptation::Exponential { base: config.positive("base")? },
        };
        let candidates = match config.choice("candidates", &["other", "both"])? {
            "other" => Candidates::OtherView,
            _ => Candidates::BothViews,
        };
        let (temperature, reweight) = (config.positive("temperature")?, config.bool("reweight")?);
        Ok(Box::new(Macl {
            online: Embedder::new(config, init, projector)?,
            objective: Objective { temperature, adaptation, reweight, candidates },
        }))
    },
    facts: &[],
};

struct Macl {
    online: Embedder,
    objective: Objective,
}

impl Method for Macl {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let z = |view: usize| self.online.forward(views.view(view)?, &cx.clone().view(view));
        Ok(Embeddings::default().with("z0", z(0)?).with("z1", z(1)?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (z0, z1) = (z.get("z0")?, z.get("z1")?);
        let terms = macl_ranks(z0, z1, &self.objective, cx.ranks())?;
        Ok(Step::new(terms.loss)
            .embeddings(z0)
            .scalar("loss/info_nce", scalar(terms.info_nce.array())?)
            .scalar("contrast/alignment", terms.alignment)
            .scalar("contrast/temperature", terms.temperature))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.online.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.online.visit(visitor);
    }
}
