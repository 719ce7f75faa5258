//! Deep Bregman divergence for contrastive learning (Rezaei, Soleymani, Bischl, Azizi 2021, arXiv:2109.07455, BeCLR).
//!
//! SimCLR with a second contrast, by a learned divergence:
//!
//! ```text
//! for each of N images: draw two augmentations; z = g(f(x)) at length 1
//! f_i = (g_1(z_i), …, g_K(z_i))               K small networks with one output each
//! D_ij = max_m f_im - f_i,m*(j)               m*(j) the network that is largest for j
//! S_ij = exp(-D_ij / (2 sigma²))
//! L = InfoNCE of S / T  +  NT-Xent(z; T)      both over all other views of the batch
//! ```
//!
//! The paper weighs the two terms by a factor whose value could not be verified: `divergence_weight`. Where few networks
//! win for any view (`divergence/active`), most negatives look like positives.

use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::Result;
use selfsame_kernels::math;
use selfsame_losses::bregman::active_subnetworks;
use selfsame_losses::{Bregman as Objective, NtXent, bregman_ranks, nt_xent_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::layers::{Dropout, Linear};
use selfsame_models::{Ctx, Init, Module};

use crate::method::{Embeddings, Fact, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder};
use crate::trainer::scalar;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "bregman",
    paper: "arXiv:2109.07455",
    title: "Deep Bregman Divergence for Contrastive Learning of Visual Representations",
    family: Family::Contrastive,
    status: Status::Reconstructed,
    views: parts::two_views,
    defaults: r#"
temperature = 0.5       # T of both terms: 0.5 for CIFAR, 0.1 for ImageNet
sigma = 0.9             # width of the similarity
divergence_weight = 1.0 # of the learned divergence beside NT-Xent; 0: SimCLR
subnetworks = 100       # K
subnetwork_hidden = 512 # width of their hidden layer
dropout = 0.2           # behind it
dim = 128               # length of the embeddings

epochs = 500
batch = 512
optimizer = "adamw"     # the authors' is Adam, whose decay goes through the gradient
lr = 1e-3               # 5e-3 in the authors' script for small data
lr_scaling = "none"
weight_decay = 1e-6
warmup_epochs = 0.0
"#,
    build: |config, init, _| {
        let dim = config.at_least("dim", 1)?;
        // Linear without bias, batch norm, ReLU, linear with bias.
        let head = MlpOpts { hidden_bias: false, ..MlpOpts::SWAV };
        let projector = |init: &_, features| Mlp::new(init, &[features, features, dim], head);
        let (hidden, dropout) = (config.at_least("subnetwork_hidden", 1)?, config.fraction("dropout")?);
        let subnetwork = |m: usize| SubNetwork::new(&init.at(&format!("subnetworks.{m}")), [dim, hidden], dropout);
        let temperature = config.positive("temperature")?;
        Ok(Box::new(Bregman {
            online: Embedder::new(config, init, projector)?,
            subnetworks: (0..config.at_least("subnetworks", 1)?).map(subnetwork).collect::<Result<_>>()?,
            objective: Objective { temperature, sigma: config.positive("sigma")? },
            nt_xent: NtXent { temperature, ..NtXent::default() },
            weight: config.f64("divergence_weight")?,
        }))
    },
    facts: &[Fact {
        formula: "2 ln(2N-1)",
        meaning: "every pair of views looks equally similar to both terms, at equal weights",
        advice: "look at divergence/active and embed/std; a lower learning rate or temperature",
        value: |_, images| Ok(2.0 * math::f64::log((2 * images - 1) as f64)),
    }],
};

struct Bregman {
    online: Embedder,
    subnetworks: Vec<SubNetwork>,
    objective: Objective,
    nt_xent: NtXent,
    weight: f64,
}

/// g_m: linear, ReLU, dropout, linear to one number.
struct SubNetwork {
    hidden: Linear,
    dropout: Dropout,
    output: Linear,
}

impl SubNetwork {
    fn new(init: &Init, [dim, hidden]: [usize; 2], dropout: f64) -> Result<SubNetwork> {
        Ok(SubNetwork {
            hidden: Linear::new(&init.at("hidden"), dim, hidden, true)?,
            dropout: Dropout::new(&init.at("dropout"), dropout)?,
            output: Linear::new(&init.at("output"), hidden, 1, true)?,
        })
    }
}

impl Module for SubNetwork {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.output.forward(&self.dropout.forward(&self.hidden.forward(x, cx)?.relu()?, cx)?, cx)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.hidden.visit(v);
        self.output.visit(v);
    }
}

impl Bregman {
    /// f `[n, K]` of embeddings `[n, dim]` at length 1.
    fn values(&self, z: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let values = self.subnetworks.iter().map(|network| network.forward(z, cx)).collect::<Result<Vec<_>>>()?;
        Tensor::concat(&values.iter().collect::<Vec<_>>(), 1)
    }
}

impl Method for Bregman {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let mut all = Embeddings::default();
        for view in 0..2 {
            let cx = cx.clone().view(view);
            let z = parts::unit(&self.online.forward(views.view(view)?, &cx)?)?;
            let f = self.values(&z, &cx)?;
            all = all.with(format!("z{view}"), z).with(format!("f{view}"), f);
        }
        Ok(all)
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (z0, z1, f0, f1) = (z.get("z0")?, z.get("z1")?, z.get("f0")?, z.get("f1")?);
        let cosine = nt_xent_ranks(z0, z1, &self.nt_xent, cx.ranks())?;
        let divergence = bregman_ranks(f0, f1, &self.objective, cx.ranks())?;
        let (of_cosine, of_divergence) = (scalar(cosine.array())?, scalar(divergence.array())?);
        Ok(Step::new(divergence.scale(self.weight)?.add(&cosine)?)
            .embeddings(z0)
            .scalar("loss/ntxent", of_cosine)
            .scalar("loss/divergence", of_divergence)
            .scalar("divergence/active", active_subnetworks(f0.array(), 1)? as f64))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.online.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.online.visit(visitor);
        self.subnetworks.iter().for_each(|network| network.visit(visitor));
    }
}
