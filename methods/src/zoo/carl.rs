//! CARL (Silva and Ramírez Rivera, EBM workshop at ICLR 2021; arXiv:2112.15421).
//!
//! ```text
//! for each of N images: draw two augmentations, x0 and x1
//!     p = softmax(unit(g(f(x))) C / τ)     encoder, projector, K prototypes of length 1
//! L = - mean ln <p0, p1> + λ KL(mean of p over images and views || uniform)
//! ```
//! Everything is trained by gradient descent, prototypes included: no clustering, no balance, no teacher. With λ = 0 all
//! images go to one prototype. λ, τ, the lengths and the head are a suggestion (unverified): with `cosine = false`
//! logits are a linear layer of the projector's output. With `teacher = true`, the form of some versions (unverified), an
//! averaged network gives the other view of each pair.

use selfsame_autograd::schedule::Schedule;
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::Result;
use selfsame_losses::{Carl as Loss, CarlLoss, Usage, carl_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts, Prototypes};
use selfsame_models::{Ctx, Init, Module};

use crate::config::Config;
use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder, Teacher, UNIT_EPS};

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "carl",
    paper: "arXiv:2112.15421",
    title: "Representation Learning via Consistent Assignment of Views to Clusters",
    family: Family::Clustering,
    status: Status::Reconstructed,
    views: parts::two_views,
    defaults: r#"
lambda = 1.0            # weight of equal use: 0 collapses to one prototype, too much to uniform outputs
temperature = 0.1       # tau: divides the logits
cosine = true           # false: logits without normalisation of embeddings and prototypes
prototypes = 300        # K, well below the batch: equal use of more prototypes than images means nothing
hidden = 512            # width of the projector's hidden layer
dim = 128               # length of the embeddings
teacher = false         # true: an averaged network gives one view of each pair
teacher_momentum = 0.99 # of that network
teacher_momentum_end = 1.0

lr = 0.03               # 0.06 for a batch of 512
weight_decay = 5e-4
"#,
    build: |config, init, plan| {
        let network = Network::new(config, init)?;
        let teacher = || Teacher::of(&network, init, |init| Network::new(config, init));
        Ok(Box::new(Carl {
            teacher: config.bool("teacher")?.then(teacher).transpose()?,
            loss: Loss { lambda: config.f64("lambda")?, temperature: config.positive("temperature")? },
            momentum: parts::teacher_momentum(config, plan)?,
            network,
        }))
    },
    facts: &[parts::uniform_outputs(|config, _| parts::ln_of(config, "prototypes"))],
};

/// Encoder, projector and prototypes; its output are logits. The embeddings of all images are wide only here.
struct Network {
    embedder: Embedder,
    prototypes: Prototypes,
    cosine: bool,
}

impl Network {
    fn new(config: &Config, init: &Init) -> Result<Network> {
        let (hidden, dim) = (config.at_least("hidden", 1)?, config.at_least("dim", 1)?);
        let embedder =
            Embedder::new(config, init, |init, features| Mlp::new(init, &[features, hidden, dim], MlpOpts::SWAV))?;
        let prototypes = Prototypes::new(&init.at("prototypes"), dim, config.at_least("prototypes", 1)?)?;
        let network = Network { embedder, prototypes, cosine: config.bool("cosine")? };
        network.normalize()?;
        Ok(network)
    }

    fn normalize(&self) -> Result<()> {
        if self.cosine { self.prototypes.normalize() } else { Ok(()) }
    }
}

impl Module for Network {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let z = self.embedder.forward(x, cx)?;
        if self.cosine { z.l2_normalize(UNIT_EPS) } else { Ok(z) }
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.embedder.visit(visitor);
        self.prototypes.visit(visitor);
    }
}

struct Carl {
    network: Network,
    teacher: Option<Teacher<Network>>,
    loss: Loss,
    momentum: Schedule,
}

impl Method for Carl {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..2, "z", cx, |x, cx| self.network.forward(x, cx))
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        match &self.teacher {
            Some(teacher) => parts::each_view(views, 0..2, "t", cx, |x, cx| teacher.forward(x, cx)),
            None => Ok(Embeddings::default()),
        }
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let logits = |network: &Network, name: &str, cx: &Ctx| -> Result<[Tensor; 2]> {
            let score = |view: &str| network.prototypes.forward(z.get(&format!("{name}{view}"))?, cx);
            Ok([score("0")?, score("1")?])
        };
        let [a, b] = logits(&self.network, "z", cx)?;
        let CarlLoss { loss, consistency, usage } = match &self.teacher {
            None => carl_ranks(&a, &b, &self.loss, cx.ranks())?,
            Some(teacher) => {
                let [ta, tb] = logits(teacher.network(), "t", &cx.clone().no_grad())?;
                // Each view of the student with the other one of the teacher; each pair's use is that of both its sides.
                let one = carl_ranks(&a, &tb, &self.loss, cx.ranks())?;
                let other = carl_ranks(&b, &ta, &self.loss, cx.ranks())?;
                let mean = |x: &Tensor, y: &Tensor| x.add(y)?.scale(0.5);
                CarlLoss {
                    loss: mean(&one.loss, &other.loss)?,
                    consistency: mean(&one.consistency, &other.consistency)?,
                    usage: mean(&one.usage, &other.usage)?,
                }
            }
        };
        let p = a.detach().scale(1.0 / self.loss.temperature)?.softmax()?;
        let used = Usage::of(&[p], cx.ranks())?;
        let step = Step::new(loss).embeddings(z.get("z0")?);
        let step =
            step.scalar("loss/consistency", parts::number(&consistency)?).scalar("loss/usage", parts::number(&usage)?);
        Ok(parts::log_usage(step, used))
    }

    fn after_step(&mut self, step: u64) -> Result<()> {
        self.network.normalize()?;
        self.teacher.as_ref().map_or(Ok(()), |teacher| teacher.follow(self.momentum.at(step)))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.network.embedder.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.network.visit(visitor);
        if let Some(teacher) = &self.teacher {
            teacher.visit(visitor);
        }
    }
}
