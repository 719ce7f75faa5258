//! MACL: model-aware contrastive learning (Huang et al., ICML 2023, arXiv:2207.07874), on SimCLR or MoCo.
//!
//! ```text
//! for each of N images: draw two augmentations, x0 and x1; z = g(f(x)) at length 1, or q, k and queue as in MoCo
//! A   = mean cosine of positive pairs
//! tau = tau_0 (1 + alpha (A - A_0))           rises as the model aligns its positives; no gradient
//! P   = softmax over the candidates at tau;  V = 1 / (1 - P of the positive)    no gradient
//! L   = mean of -V ln P, each view in turn looking for its partner
//! ```
//!
//! Candidates are the other views of all images, as in the authors' release, or both views; on MoCo the key and the
//! queue. With V the gradient does not
//! shrink, so that a learning rate tuned for InfoNCE may be too large at a small batch. The loss is not comparable with
//! InfoNCE's, which the log has too.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::macl::{Adaptation, Candidates};
use selfsame_losses::{Macl as Objective, macl_queue_ranks, macl_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder, MomentumContrast};
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
adaptation = "linear"   # how tau follows A: "linear" tau_0 (1 + alpha (A - origin)) or "exponential"
alpha = 0.5             # linear: 0 keeps tau_0; 1 in the authors' release (0.5 unverified)
origin = 0.0            # linear: A_0
growth = 2.0            # exponential: tau_0 growth^A
reweight = true         # weigh terms by V: helps small batches most
candidates = "other"    # what a view is compared with: "other" views of all images, or "both" views
dim = 128               # length of the embeddings

base = "simclr"         # what it stands on: "simclr" or "moco", whose keys follow
queue = 65536           # moco: past keys, a multiple of the batch
head = "mlp"            # moco: projector, "mlp" or "linear"
key_momentum = 0.999    # moco: of the encoder of keys
shuffle = true          # moco: keys are normalised with other images than their queries; wants a bn_group

epochs = 200
"#,
    build: |config, init, _| {
        let adaptation = match config.choice("adaptation", &["linear", "exponential"])? {
            "linear" => Adaptation::Linear { alpha: config.f64("alpha")?, origin: config.f64("origin")? },
            _ => Adaptation::Exponential { base: config.positive("growth")? },
        };
        let candidates = match config.choice("candidates", &["other", "both"])? {
            "other" => Candidates::OtherView,
            _ => Candidates::BothViews,
        };
        let (temperature, reweight) = (config.positive("temperature")?, config.bool("reweight")?);
        let base = match config.choice("base", &["simclr", "moco"])? {
            "simclr" => {
                let dim = config.at_least("dim", 1)?;
                let projector = |init: &_, features| Mlp::new(init, &[features, features, dim], MlpOpts::SIMCLR);
                Base::SimClr(Embedder::new(config, init, projector)?)
            }
            _ => Base::Moco(MomentumContrast::new(config, init, false)?),
        };
        Ok(Box::new(Macl { base, objective: Objective { temperature, adaptation, reweight, candidates } }))
    },
    facts: &[],
};

struct Macl {
    base: Base,
    objective: Objective,
}

enum Base {
    SimClr(Embedder),
    Moco(MomentumContrast),
}

impl Method for Macl {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(match &self.base {
            Base::SimClr(online) => {
                let z = |view: usize| online.forward(views.view(view)?, &cx.clone().view(view));
                Embeddings::default().with("z0", z(0)?).with("z1", z(1)?)
            }
            Base::Moco(contrast) => Embeddings::default().with("z0", contrast.queries(views, cx)?),
        })
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(match &self.base {
            Base::SimClr(_) => Embeddings::default(),
            Base::Moco(contrast) => Embeddings::default().with("z1", contrast.keys(views, cx)?),
        })
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (z0, z1) = (z.get("z0")?, z.get("z1")?);
        let terms = match &self.base {
            Base::SimClr(_) => macl_ranks(z0, z1, &self.objective, cx.ranks())?,
            Base::Moco(contrast) => {
                let queue = contrast.queue().keys();
                contrast.enqueue(z1, None, cx)?;
                macl_queue_ranks(z0, z1, &queue, &self.objective, cx.ranks())?
            }
        };
        Ok(Step::new(terms.loss)
            .embeddings(z0)
            .scalar("loss/info_nce", scalar(terms.info_nce.array())?)
            .scalar("contrast/alignment", terms.alignment)
            .scalar("contrast/temperature", terms.temperature))
    }

    fn after_step(&mut self, _: u64) -> Result<()> {
        match &self.base {
            Base::SimClr(_) => Ok(()),
            Base::Moco(contrast) => contrast.follow(),
        }
    }

    fn encoder(&self) -> &dyn Backbone {
        match &self.base {
            Base::SimClr(online) => &*online.encoder,
            Base::Moco(contrast) => contrast.encoder(),
        }
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        match &self.base {
            Base::SimClr(online) => online.visit(visitor),
            Base::Moco(contrast) => contrast.visit(visitor),
        }
    }
}
