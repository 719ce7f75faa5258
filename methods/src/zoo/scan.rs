//! SCAN: learning to classify images without labels (Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool, ECCV
//! 2020, arXiv:2005.12320), its three steps in one training.
//!
//! ```text
//! 1 pretext      SimCLR: L = NT-Xent(z0, z1; T)
//!   mining       z of all images without augmentation: the K + 1 nearest of each, itself first
//! 2 clustering   the batch holds images, each followed by one of its nearest, drawn; p = softmax(head(f(x)))
//!                L = -mean ln <p, p'> - entropy_weight · entropy of the mean p, summed over heads
//! 3 self-labels  the head with the least loss; the class of the weak view where its probability is above the threshold
//!                L = cross-entropy of the strong view, classes weighing alike
//! ```
//!
//! The optimiser starts afresh with each step. What differs from the authors' code: all steps have one optimiser and one
//! cosine of learning rates (theirs: SGD, then Adam at 1e-4 twice); the strong augmentation is the trainer's chain
//! instead of four random operations and a cutout; NT-Xent takes both views as anchors; the head is chosen by a running
//! average of its training loss. An epoch of clustering sees half of the images as anchors.

use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Error, ErrorKind, Result, ops};
use selfsame_kernels::math;
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_losses::{NtXent, Scan as Clustering, SelfLabel, Usage, nt_xent_ranks, scan_ranks, self_label_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::layers::Linear;
use selfsame_models::{Ctx, Module, params};

use crate::method::{Embeddings, Fact, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts::{self, Embedder};
use crate::sweep::Sweep;
use crate::trainer::scalar;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "scan",
    paper: "arXiv:2005.12320",
    title: "SCAN: Learning to Classify Images without Labels",
    family: Family::Clustering,
    status: Status::Reconstructed,
    // Two strong views and a weak one.
    views: |config| Ok([parts::two_views(config)?, vec![parts::eval_transform(config)?]].concat()),
    defaults: r#"
pretext_epochs = 500    # step 1: SimCLR
cluster_epochs = 50     # step 2: clustering; the epochs that are left are step 3, self-labelling
temperature = 0.1       # of SimCLR
dim = 128               # length of its embeddings
neighbours = 20         # K: nearest images; 50 on ImageNet
clusters = 10           # classes to find
heads = 1               # clusterings at a time, of which the best one is kept; 10 on ImageNet
entropy_weight = 5.0    # how strongly all clusters must be used; with 0 everything falls into one
threshold = 0.99        # probability above which an image labels itself
balance = true          # classes weigh alike in step 3

epochs = 750
batch = 512             # large against the clusters; half as many pairs
optimizer = "adamw"
lr = 1e-3
lr_scaling = "none"
crop_min = 0.2
brightness = "multiplicative"
"#,
    build: |config, init, plan| {
        let batch = config.at_least("batch", 2)?;
        if !batch.is_multiple_of(2) {
            return Err(Error::new(ErrorKind::Config, "configuration key 'batch'", batch.to_string())
                .expected("an even number: pairs of an image and its neighbour"));
        }
        let dim = config.at_least("dim", 1)?;
        let (clusters, count) = (config.at_least("clusters", 1)?, config.at_least("heads", 1)?);
        let projector = |init: &_, features| Mlp::new(init, &[features, features, dim], MlpOpts::PAPER);
        let online = Embedder::new(config, init, projector)?;
        let features = online.encoder.feature_dim();
        let head = |i: usize| Linear::new(&init.at(&format!("heads.{i}")), features, clusters, true);
        let neighbours = (config.at_least("neighbours", 1)? + 1).min(plan.images);
        // Before the mining each image is its own neighbour.
        let own = ops::arange(plan.images, init.device())?.reshape(&[plan.images, 1])?;
        let own = own.broadcast_to(&[plan.images, neighbours])?.contiguous()?;
        let epochs = [config.usize("pretext_epochs")? as u64, config.usize("cluster_epochs")? as u64];
        Ok(Box::new(Scan {
            online,
            heads: (0..count).map(head).collect::<Result<_>>()?,
            neighbours: Param::new("neighbours", Role::Buffer, own),
            head_losses: init.buffer("head_losses", &[count], 0.0)?,
            nt_xent: NtXent { temperature: config.positive("temperature")?, ..NtXent::default() },
            clustering: Clustering { entropy_weight: config.f64("entropy_weight")? },
            self_label: SelfLabel { threshold: config.fraction("threshold")?, balance: config.bool("balance")? },
            starts: [epochs[0], epochs[0] + epochs[1]],
            steps_per_epoch: plan.steps_per_epoch,
            images: plan.images,
            seed: config.usize("seed")? as u64,
        }))
    },
    facts: &[Fact {
        formula: "ln(2N-1)",
        meaning: "in the pretext every pair of views looks equally similar",
        advice: "a lower temperature, a longer warm-up or a lower learning rate; look at embed/std",
        value: |_, images| Ok(math::f64::log((2 * images - 1) as f64)),
    }],
};

struct Scan {
    online: Embedder,
    heads: Vec<Linear>,
    /// The nearest images of each image, itself among them, `[N, K + 1]` i64.
    neighbours: Param,
    /// Running averages of the heads' losses.
    head_losses: Param,
    nt_xent: NtXent,
    clustering: Clustering,
    self_label: SelfLabel,
    /// The first epochs of the second and third step.
    starts: [u64; 2],
    steps_per_epoch: u64,
    images: usize,
    seed: u64,
}

/// The weight of the newest batch in the running average of a head's loss.
const NEWEST: f64 = 0.05;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Pretext,
    Clustering,
    SelfLabelling,
}

impl Scan {
    fn phase(&self, epoch: u64) -> Phase {
        match self.starts {
            [clustering, _] if epoch < clustering => Phase::Pretext,
            [_, labels] if epoch < labels => Phase::Clustering,
            _ => Phase::SelfLabelling,
        }
    }

    fn phase_of(&self, cx: &Ctx) -> Phase {
        self.phase(cx.steps_done() / self.steps_per_epoch)
    }

    /// The logits of all heads on `view`, `[n, heads · C]`.
    fn logits(&self, views: &Views, view: usize, cx: &Ctx) -> Result<Tensor> {
        let cx = cx.clone().view(view);
        let features = self.online.encoder.forward(views.view(view)?, &cx)?;
        let logits = self.heads.iter().map(|head| head.forward(&features, &cx)).collect::<Result<Vec<_>>>()?;
        Tensor::concat(&logits.iter().collect::<Vec<_>>(), 1)
    }

    /// Those of one head.
    fn of_head(&self, logits: &Tensor, head: usize) -> Result<Tensor> {
        let clusters = logits.shape()[1] / self.heads.len();
        logits.slice(1, head * clusters, (head + 1) * clusters)
    }

    fn cluster(&self, logits: &Tensor, cx: &Ctx) -> Result<Step> {
        let [n, width] = logits.dims()?;
        // An image and its neighbour, in turn.
        let pairs = logits.reshape(&[n / 2, 2, width])?;
        let side = |i: usize| pairs.slice(1, i, i + 1)?.reshape(&[n / 2, width]);
        let (anchors, neighbours) = (side(0)?, side(1)?);
        let (mut losses, mut entropies) = (Vec::new(), Vec::new());
        for head in 0..self.heads.len() {
            let (of_anchors, of_neighbours) = (self.of_head(&anchors, head)?, self.of_head(&neighbours, head)?);
            let terms = scan_ranks(&of_anchors, &of_neighbours, &self.clustering, cx.ranks())?;
            entropies.push(scalar(terms.entropy.array())?);
            losses.push(terms.loss);
        }
        let losses = Tensor::stack(&losses.iter().collect::<Vec<_>>(), 0)?;
        let kept = ops::scale(self.head_losses.array(), 1.0 - NEWEST)?;
        cx.update(&self.head_losses, ops::add_scaled(kept, NEWEST, losses.array())?);
        let entropy = entropies.iter().sum::<f64>() / entropies.len() as f64;
        let p = self.of_head(&logits.detach(), 0)?.softmax()?;
        let step = Step::new(losses.sum_all()?).scalar("clusters/entropy", entropy);
        Ok(parts::log_usage(step, Usage::of(&[p], cx.ranks())?))
    }
}

impl Method for Scan {
    fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<Vec<String>> {
        if !self.starts.contains(&epoch) {
            return Ok(Vec::new());
        }
        if self.phase(epoch) == Phase::Clustering {
            let z = sweep.features(|x, cx| parts::unit(&self.online.forward(x, cx)?))?;
            self.neighbours.set(nearest(&z, self.neighbours.array().shape()[1])?)?;
        }
        let heads = self.heads.iter().flat_map(|head| params(head));
        let all = params(&self.online).into_iter().chain(heads);
        Ok(all.filter(|param| param.role() != Role::Buffer).map(|param| param.path().to_string()).collect())
    }

    fn begin_epoch(&mut self, epoch: u64) -> Result<Option<Vec<usize>>> {
        if self.phase(epoch) != Phase::Clustering {
            return Ok(None);
        }
        let neighbours = self.neighbours.array();
        let [_, count] = neighbours.dims()?;
        let neighbours = neighbours.to_vec::<i64>()?;
        let key = Key::new(self.seed, Purpose::Shuffle);
        let mut order: Vec<usize> = (0..self.images).collect();
        // The loader's own order is that of sample 0.
        key.stream(epoch, 1, 0).shuffle(&mut order);
        let mut draws = key.stream(epoch, 2, 0);
        let pair = |image: &usize| {
            let drawn = draws.range(count as u64) as usize;
            [*image, neighbours[image * count + drawn] as usize]
        };
        let mut pairs: Vec<usize> = order.iter().take(self.images.div_ceil(2)).flat_map(pair).collect();
        pairs.truncate(self.images);
        Ok(Some(pairs))
    }

    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        let z = |view: usize| self.online.forward(views.view(view)?, &cx.clone().view(view));
        Ok(match self.phase_of(cx) {
            Phase::Pretext => Embeddings::default().with("z0", z(0)?).with("z1", z(1)?),
            _ => Embeddings::default().with("logits", self.logits(views, 0, cx)?),
        })
    }

    fn targets(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        Ok(match self.phase_of(cx) {
            Phase::SelfLabelling => Embeddings::default().with("weak", self.logits(views, 2, cx)?),
            _ => Embeddings::default(),
        })
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        match self.phase_of(cx) {
            Phase::Pretext => {
                let (z0, z1) = (z.get("z0")?, z.get("z1")?);
                Ok(Step::new(nt_xent_ranks(z0, z1, &self.nt_xent, cx.ranks())?).embeddings(z0))
            }
            Phase::Clustering => self.cluster(z.get("logits")?, cx),
            Phase::SelfLabelling => {
                let best = ops::argmin(&self.head_losses.array(), 0)?.item::<i64>()? as usize;
                let (weak, strong) = (self.of_head(z.get("weak")?, best)?, self.of_head(z.get("logits")?, best)?);
                let found = self_label_ranks(&weak, &strong, &self.self_label, cx.ranks())?;
                Ok(Step::new(found.loss).scalar("labels/confident", found.kept as f64))
            }
        }
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.online.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.online.visit(visitor);
        self.heads.iter().for_each(|head| head.visit(visitor));
        visitor.param(self.neighbours.path(), &self.neighbours);
        visitor.param(self.head_losses.path(), &self.head_losses);
    }
}

/// Rows whose products with all rows are held at a time.
const BLOCK: usize = 512;

/// The `count` rows of `z` `[N, D]` with the largest product with each row: `[N, count]` i64.
fn nearest(z: &Array, count: usize) -> Result<Array> {
    let (n, columns) = (z.shape()[0], z.transpose(0, 1)?);
    let block = |first: usize| {
        let rows = z.slice(0, first, (first + BLOCK).min(n))?;
        Ok(ops::topk(&ops::matmul(&rows, &columns)?, count)?.1)
    };
    let blocks = (0..n).step_by(BLOCK).map(block).collect::<Result<Vec<_>>>()?;
    ops::concat(&blocks.iter().collect::<Vec<_>>(), 0)
}
