//! MoCHi (Kalantidis, Sariyildiz, Pion, Weinzaepfel, Larlus, NeurIPS 2020, arXiv:2010.01028).
//!
//! MoCo v2 whose queries are told from synthetic negatives too, after a warm-up:
//!
//! ```text
//! q, k, queue as in MoCo
//! n_1 … n_R = the R keys of the queue most similar to q
//! h  = unit(alpha n_a + (1 - alpha) n_b)      `between` of them, alpha in (0, 1), a and b drawn
//! h' = unit(beta q + (1 - beta) n_a)          `towards` of them, beta in (0, 1/2); constants, q too
//! L  = InfoNCE(q, k, queue and h and h'; T)
//! replace the oldest keys of the queue by k: synthetic ones are never stored
//! ```
//!
//! In the paper's notation MoCHi (hardest, between, towards). The mixing was cross-checked in re-implementations, as the
//! paper's text was not at hand. On few classes most of the hardest keys are false negatives: keep `hardest` small.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_losses::mochi::proxy_accuracy;
use selfsame_losses::{Mixture, Mochi, mochi_ranks};
use selfsame_models::Ctx;
use selfsame_models::backbones::Backbone;

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, MomentumContrast};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "mochi",
    paper: "arXiv:2010.01028",
    title: "Hard Negative Mixing for Contrastive Learning",
    family: Family::Contrastive,
    status: Status::Reconstructed,
    views: parts::two_views,
    defaults: concat!(
        parts::momentum_contrast_keys!(),
        r#"
queue = 65536           # past keys, a multiple of the batch; well below the number of images: 4096 for 50,000
hardest = 1024          # N: the most similar keys of the queue, of which negatives are mixed; 128 of a queue of 4096
between = 1024          # s: mixtures of two of them for each query
towards = 128           # s': mixtures of one of them and the query
plain_epochs = 15       # epochs of MoCo at the start
"#
    ),
    build: |config, init, plan| {
        Ok(Box::new(MoChi {
            contrast: MomentumContrast::new(config, init, false)?,
            mochi: Mochi { temperature: config.positive("temperature")?, hardest: config.at_least("hardest", 2)? },
            between: config.usize("between")?,
            towards: config.usize("towards")?,
            plain_steps: config.usize("plain_epochs")? as u64 * plan.steps_per_epoch,
            seed: config.usize("seed")? as u64,
        }))
    },
    facts: &[],
};

struct MoChi {
    contrast: MomentumContrast,
    mochi: Mochi,
    between: usize,
    towards: usize,
    plain_steps: u64,
    seed: u64,
}

impl Method for MoChi {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("q", self.contrast.queries(views, cx)?))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("k", self.contrast.keys(views, cx)?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (q, k, queue) = (z.get("q")?, z.get("k")?, self.contrast.queue().keys());
        let step = cx.steps_done();
        let [between, towards] = if step < self.plain_steps { [0, 0] } else { [self.between, self.towards] };
        let mixture = Mixture::draw(q, cx.first(), [self.mochi.hardest, between, towards], self.seed, step)?;
        let loss = mochi_ranks(q, k, &queue, &mixture, &self.mochi, cx.ranks())?;
        self.contrast.enqueue(k, None, cx)?;
        let accuracy = proxy_accuracy(q.array(), k.array(), queue.array())?;
        Ok(Step::new(loss).embeddings(q).scalar("contrast/proxy_accuracy", accuracy))
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
