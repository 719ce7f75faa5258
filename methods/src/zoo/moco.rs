//! MoCo (He, Fan, Wu, Xie, Girshick, CVPR 2020, arXiv:1911.05722) and MoCo v2 (Chen, Fan, Girshick, He 2020,
//! arXiv:2003.04297), Algorithm 1.
//!
//! ```text
//! f_k = f_q; queue = random unit vectors
//! for each batch: draw two augmentations of each image, x_q and x_k
//!     q = f_q(x_q)                        with gradient
//!     k = f_k(x_k)                        without; batch norm over other images than the queries'
//!     L = InfoNCE(q, k, queue; T)         q must pick k out of k and the queue
//!     replace the oldest keys of the queue by k
//! f_k = m f_k + (1 - m) f_q
//! ```
//! Embeddings have length 1. Only the first view is a query: the loss is not symmetric.
//!
//! The defaults are v2's but for the step of the learning rate, which is a cosine per step. v1 is `head=linear
//! temperature=0.07 jitter=1 hue=0.8 blur=0 lr_drops=0.6,0.8`: epochs 120 and 160 of 200.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::{InfoNce, info_nce_ranks};
use selfsame_models::Ctx;
use selfsame_models::backbones::Backbone;

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, MomentumContrast};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "moco",
    paper: "arXiv:1911.05722",
    title: "Momentum Contrast for Unsupervised Visual Representation Learning",
    family: Family::Contrastive,
    status: Status::Complete,
    views: parts::two_views,
    defaults: concat!(
        parts::momentum_contrast_keys!(),
        r#"
queue = 65536           # past keys, a multiple of the batch; well below the number of images: 4096 for 50,000
"#
    ),
    build: |config, init, _| {
        Ok(Box::new(Moco {
            contrast: MomentumContrast::new(config, init, false)?,
            info_nce: InfoNce { temperature: config.positive("temperature")? },
        }))
    },
    facts: &[parts::UNIFORM_QUEUE],
};

struct Moco {
    contrast: MomentumContrast,
    info_nce: InfoNce,
}

impl Method for Moco {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("q", self.contrast.queries(views, cx)?))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("k", self.contrast.keys(views, cx)?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (q, k) = (z.get("q")?, z.get("k")?);
        let loss = info_nce_ranks(q, k, &self.contrast.queue().keys(), &self.info_nce, cx.ranks())?;
        self.contrast.enqueue(k, None, cx)?;
        Ok(Step::new(loss).embeddings(q))
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
