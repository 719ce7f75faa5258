//! SimCLR (Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv:2002.05709), Algorithm 1.
//!
//! ```text
//! for each of N images: draw two augmentations, x0 and x1
//!     h = f(x)                  the encoder's pooled features; downstream tasks use these
//!     z = g(h)                  the projection head
//! L = NT-Xent(z0, z1; tau)      mean over the 2N ordered positive pairs
//! ```
//! Gradient flows through both members of every pair; batch-norm statistics are taken per view over the whole batch.
//! Loss is the paper's: the authors' code returns twice that.
//!
//! The log has, beside effective ranks, how well views pick their partners: `contrast/top1`, the share of views whose
//! partner is the most similar of all candidates, and `contrast/entropy`, the mean entropy of softmax(similarities / tau)
//! in nats: ln(2N-1) where nothing is told apart.

use selfsame_autograd::ParamVisitor;
use selfsame_engine::Result;
use selfsame_kernels::math;
use selfsame_losses::{NtXent, nt_xent_ranks, nt_xent_watched};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Fact, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "simclr",
    paper: "arXiv:2002.05709",
    title: "A Simple Framework for Contrastive Learning of Visual Representations",
    family: Family::Contrastive,
    status: Status::Complete,
    views: parts::two_views,
    defaults: r#"
temperature = 0.5       # tau: lower makes hard negatives count more; 0.1 for ImageNet, 0.5 for CIFAR
hidden = 0              # width of the projector's hidden layer; 0: as wide as the features
head = "code"           # projector: "code" of the authors' release (batch norm, no biases) or "paper" (W2 relu(W1 h))
dim = 128               # length of the embeddings that the loss compares

epochs = 1000           # 100 for a first look
batch = 512
optimizer = "lars"
lr = 1.0                # 0.3 for ImageNet
weight_decay = 1e-6
warmup_epochs = 10.0
"#,
    build: |config, init, _| {
        let encoder = parts::backbone(config, &init.at("encoder"))?;
        let features = encoder.feature_dim();
        let hidden = match config.usize("hidden")? {
            0 => features,
            width => width,
        };
        let head = match config.choice("head", &["code", "paper"])? {
            "code" => MlpOpts::SIMCLR,
            _ => MlpOpts::PAPER,
        };
        let projector = Mlp::new(&init.at("projector"), &[features, hidden, config.at_least("dim", 1)?], head)?;
        let nt_xent = NtXent { temperature: config.positive("temperature")?, ..NtXent::default() };
        let log_every = config.at_least("log_every", 1)? as u64;
        Ok(Box::new(SimClr { encoder, projector, nt_xent, log_every }))
    },
    facts: &[Fact {
        formula: "ln(2N-1)",
        meaning: "every pair of views looks equally similar: nothing is learned yet, or the encoder has collapsed",
        advice: "a lower temperature, a longer warm-up or a lower learning rate; look at embed/std",
        value: |_, images| Ok(math::f64::log((2 * images - 1) as f64)),
    }],
};

struct SimClr {
    encoder: Box<dyn Backbone>,
    projector: Mlp,
    nt_xent: NtXent,
    log_every: u64,
}

impl Method for SimClr {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let z = |view: usize| {
            let cx = cx.clone().view(view);
            self.projector.forward(&self.encoder.forward(views.view(view)?, &cx)?, &cx)
        };
        Ok(Embeddings::default().with("z0", z(0)?).with("z1", z(1)?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (z0, z1) = (z.get("z0")?, z.get("z1")?);
        if !parts::is_watched(cx.steps_done() + 1, self.log_every) {
            return Ok(Step::new(nt_xent_ranks(z0, z1, &self.nt_xent, cx.ranks())?).embeddings(z0));
        }
        let (loss, contrast) = nt_xent_watched(z0, z1, None, None, &self.nt_xent, cx.ranks())?;
        Ok(Step::new(loss)
            .embeddings(z0)
            .scalar("contrast/top1", contrast.top1)
            .scalar("contrast/entropy", contrast.entropy))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.encoder.visit(visitor);
        self.projector.visit(visitor);
    }
}
