//! XMoCo (Seyfi, Banitalebi-Dehkordi, Zhang, IEEE TCSVT 2022, arXiv:2206.04676).
//!
//! MoCo v2 with two regularisers on different images of the batch:
//!
//! ```text
//! q, k, queue as in MoCo; S_ij = q_i·k_j
//! L = InfoNCE(q, k, queue; T)
//!   + consistency_weight · consistency        similarities do not change with the augmentations: S_ij = S_ji
//!   + uniformity_weight · uniformity          softmax_j(S_ij / T) over j ≠ i is spread evenly
//! ```
//!
//! The paper's text was not at hand: both regularisers are reconstructed from its abstract, with several readings as
//! switches, and their weights are to be tuned. Both weights 0 is MoCo.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::xmoco::Consistency;
use selfsame_losses::{XMoco as Objective, xmoco_ranks};
use selfsame_models::Ctx;
use selfsame_models::backbones::Backbone;

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, MomentumContrast};
use crate::trainer::scalar;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "xmoco",
    paper: "arXiv:2206.04676",
    title: "Extending Momentum Contrast With Cross Similarity Consistency Regularization",
    family: Family::Contrastive,
    status: Status::Reconstructed,
    views: parts::two_views,
    defaults: concat!(
        parts::momentum_contrast_keys!(),
        r#"
queue = 65536           # past keys, a multiple of the batch; well below the number of images: 4096 for 50,000
consistency = "swapped" # what must agree: "swapped" views, "in-view", "distributions" over images, over the "queue"
consistency_weight = 1.0 # of the consistency; 0: none
uniformity = "forward"  # divergence between the uniform distribution U and p: "forward" KL(U || p) or "entropy"
uniformity_weight = 0.1 # of the uniformity; 0: none; too large, and classes may no longer be similar
"#
    ),
    build: |config, init, _| {
        let consistency = match config.choice("consistency", &["swapped", "in-view", "distributions", "queue"])? {
            "swapped" => Consistency::Swapped,
            "in-view" => Consistency::InView,
            "distributions" => Consistency::Distributions,
            _ => Consistency::Queue,
        };
        let objective = Objective {
            temperature: config.positive("temperature")?,
            consistency_weight: config.f64("consistency_weight")?,
            consistency,
            uniformity_weight: config.f64("uniformity_weight")?,
            by_entropy: config.choice("uniformity", &["forward", "entropy"])? == "entropy",
        };
        Ok(Box::new(XMoco { contrast: MomentumContrast::new(config, init, false)?, objective }))
    },
    facts: &[],
};

struct XMoco {
    contrast: MomentumContrast,
    objective: Objective,
}

impl Method for XMoco {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("q", self.contrast.queries(views, cx)?))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("k", self.contrast.keys(views, cx)?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (q, k) = (z.get("q")?, z.get("k")?);
        let terms = xmoco_ranks(q, k, &self.contrast.queue().keys(), &self.objective, cx.ranks())?;
        self.contrast.enqueue(k, None, cx)?;
        let mut step = Step::new(terms.loss).embeddings(q).scalar("loss/info_nce", scalar(terms.info_nce.array())?);
        for (key, term) in [("loss/consistency", terms.consistency), ("loss/uniformity", terms.uniformity)] {
            if let Some(term) = term {
                step = step.scalar(key, scalar(term.array())?);
            }
        }
        Ok(step)
    }

    fn after_step(&mut self, _: u64) -> Result<()> {
        self.contrast.follow()
    }

    fn encoder(&self) -> &dyn Backbone {
        self.contrast.encoder()
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.contrast.visit(visitor);
    }
}
