//! Local aggregation (Zhuang, Zhai, Yamins, ICCV 2019, arXiv:1903.12355).
//!
//! ```text
//! bank = a random unit vector m_i for each image
//! at the start of each epoch after the first ones: H runs of k-means on the bank
//! for each batch: one augmentation of each image i
//!     v_i = f(x) at length 1
//!     the first epochs:  L = -ln softmax of m_i·v_i / T over the bank
//!     then:              B_i = the k nearest rows of the bank; C_i = images in a cluster of i in any of the runs
//!                        L = -ln of the share of C_i and B_i in the mass of B_i
//!     m_i = unit(m m_i + (1 - m) v_i)
//! ```
//!
//! Clusterings are Euclidean on all rows, each with draws of its own that stay the same from epoch to epoch.

use selfsame_autograd::{Param, ParamVisitor, Role};
use selfsame_engine::{Result, ops};
use selfsame_losses::state::{KMeans, MemoryBank, k_means};
use selfsame_losses::{
    InstanceRecognition, LocalAggregation as Objective, instance_recognition_ranks, local_aggregation_ranks,
};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder};
use crate::sweep::Sweep;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "local-aggregation",
    paper: "arXiv:1903.12355",
    title: "Local Aggregation for Unsupervised Learning of Visual Embeddings",
    family: Family::Clustering,
    status: Status::Complete,
    views: |config| Ok(parts::two_views(config)?.into_iter().take(1).collect()),
    defaults: r#"
temperature = 0.07      # T
dim = 128               # length of the embeddings
background = 4096       # k: nearest rows that are compared, at most the images; 512 for a few thousand
clusters = 30000        # clusters of each run; a tenth of a small data set
runs = 10               # H: runs of k-means; more of them find more neighbours
bank_momentum = 0.5     # of the rows of the bank
plain_epochs = 10       # epochs of instance recognition at the start

epochs = 200
batch = 128
lr = 0.03
lr_scaling = "none"
lr_drops = "0.8,0.95"   # epochs 160 and 190 of 200
warmup_epochs = 0.0
crop_min = 0.2
jitter = 1.0
hue = 0.8
brightness = "multiplicative"
"#,
    build: |config, init, plan| {
        let dim = config.at_least("dim", 1)?;
        let online = Embedder::new(config, init, |init, features| Mlp::new(init, &[features, dim], MlpOpts::PAPER))?;
        let (seed, temperature) = (config.usize("seed")? as u64, config.positive("temperature")?);
        let bank = MemoryBank::new("bank", plan.images, dim, parts::dtype(&online), seed, init.device())?;
        // Before the first clustering each image is its own cluster.
        let own = ops::arange(plan.images, init.device())?.reshape(&[1, plan.images])?;
        let own = own.broadcast_to(&[config.at_least("runs", 1)?, plan.images])?.contiguous()?;
        Ok(Box::new(LocalAggregation {
            online,
            bank,
            clusterings: Param::new("clusterings", Role::Buffer, own),
            clusters: config.at_least("clusters", 1)?,
            instances: InstanceRecognition { temperature },
            objective: Objective {
                temperature,
                background: config.at_least("background", 1)?.min(plan.images),
                ..Objective::default()
            },
            bank_momentum: config.fraction("bank_momentum")?,
            plain_epochs: config.usize("plain_epochs")? as u64,
            plain_steps: config.usize("plain_epochs")? as u64 * plan.steps_per_epoch,
            seed,
        }))
    },
    facts: &[],
};

struct LocalAggregation {
    online: Embedder,
    bank: MemoryBank,
    /// `[H, N]` i64.
    clusterings: Param,
    clusters: usize,
    instances: InstanceRecognition,
    objective: Objective,
    bank_momentum: f64,
    plain_epochs: u64,
    plain_steps: u64,
    seed: u64,
}

impl Method for LocalAggregation {
    fn before_epoch(&mut self, epoch: u64, _: &Sweep) -> Result<Vec<String>> {
        if epoch < self.plain_epochs {
            return Ok(Vec::new());
        }
        let (rows, runs) = (self.bank.rows(), self.clusterings.array().shape()[0]);
        let run = |h| Ok(k_means(rows.array(), &KMeans::new(self.clusters), self.seed, h as u64)?.assignments);
        let found = (0..runs).map(run).collect::<Result<Vec<_>>>()?;
        self.clusterings.set(ops::stack(&found.iter().collect::<Vec<_>>(), 0)?)?;
        Ok(Vec::new())
    }

    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let v = self.online.forward(views.view(0)?, &cx.clone().view(0))?;
        Ok(Embeddings::default().with("v", parts::unit(&v)?))
    }

    fn targets(&self, views: &Views, _: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("images", views.index_tensor(views.view(0)?.device())?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (v, images, bank) = (z.get("v")?, z.get("images")?.array(), self.bank.rows());
        for (buffer, value) in self.bank.update(images, v.array(), self.bank_momentum, cx.ranks())? {
            cx.update(&buffer, value);
        }
        if cx.steps_done() < self.plain_steps {
            let loss = instance_recognition_ranks(v, &bank, images, &self.instances, cx.ranks())?;
            return Ok(Step::new(loss).embeddings(v));
        }
        let clusterings = self.clusterings.array();
        let found = local_aggregation_ranks(v, &bank, images, &clusterings, &self.objective, cx.ranks())?;
        Ok(Step::new(found.loss)
            .embeddings(v)
            .scalar("neighbours/close", found.close)
            .scalar("neighbours/stranded", found.stranded as f64))
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.online.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.online.visit(visitor);
        self.bank.visit(visitor);
        visitor.param(self.clusterings.path(), &self.clusterings);
    }
}
