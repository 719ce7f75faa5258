//! Self-labelling, SeLa (Asano, Rupprecht, Vedaldi, ICLR 2020, arXiv:1911.05371), Algorithm 1.
//!
//! ```text
//! now and then, before an epoch: for every image i of the data set and every head h
//!     p_i = softmax(W_h f(x_i) + b_h)      of an augmented view
//!     labels_h = argmax of p^λ scaled so that classes get equal shares      (Sinkhorn over the whole data set)
//! for each batch: L = mean over heads of CE(W_h f(x) + b_h, labels_h)
//! ```
//! Labels begin as equal shares in random order. Relabellings come often at first and rarely later: at (E + 1.01) (j /
//! (J-1))² epochs of E, j < J, at most one for each epoch, as they happen between epochs here. The network is in
//! evaluation mode then; the authors' code leaves it in training mode. Without balance (`balance = false`, the argmax
//! alone) it collapses to one class.

use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Comm, DType, Device, Result, ops};
use selfsame_kernels::philox::{Key, Purpose, key_of_path};
use selfsame_losses::{Usage, cluster_cross_entropy_ranks};
use selfsame_models::backbones::Backbone;
use selfsame_models::layers::Linear;
use selfsame_models::{Ctx, Module};

use crate::method::{Embeddings, Family, Method, MethodSpec, Status, Step, Views};
use crate::parts;
use crate::sweep::Sweep;

/// The registry's entry.
pub static SPEC: MethodSpec = MethodSpec {
    name: "sela",
    paper: "arXiv:1911.05371",
    title: "Self-labelling via Simultaneous Clustering and Representation Learning",
    family: Family::Clustering,
    status: Status::Complete,
    views: parts::one_view,
    defaults: r#"
classes = 128           # K; 3000 for ImageNet
heads = 10              # classifiers of the same features with labels of their own; 1 is the plain form
lambda = 10.0           # sharpness of the assignment: 25 for ImageNet, 10 for CIFAR
tolerance = 0.01        # of Sinkhorn, a sum over images: 0.1 for ImageNet, 0.01 for CIFAR
balance = true          # false: labels are the classifier's own, which collapses
relabellings = 400      # J over the whole training
relabel = "quadratic"   # spacing of the relabellings: quadratic (ImageNet) or linear (CIFAR)
relabel_heads = "all"   # heads that get new labels each time: all (ImageNet), or one in turn (CIFAR)

crop_min = 0.2
strength = 0.5          # jitter 0.4 of brightness, contrast and saturation
saturation = 0.8
hue = 0.8

lr = 0.05
lr_scaling = "none"
weight_decay = 5e-4
warmup_epochs = 0.0
"#,
    build: |config, init, plan| {
        let encoder = parts::backbone(config, &init.at("encoder"))?;
        let (classes, seed) = (config.at_least("classes", 1)?, config.usize("seed")? as u64);
        let head = |h: usize| {
            let linear = Linear::new(&init.at(&format!("head{h}")), encoder.feature_dim(), classes, true)?;
            let labels = balanced(&format!("labels{h}"), plan.images, classes, seed, init.device())?;
            Ok(Head { linear, labels })
        };
        let heads = (0..config.at_least("heads", 1)?).map(head).collect::<Result<_>>()?;
        let times = Relabellings {
            count: config.at_least("relabellings", 1)?,
            epochs: plan.epochs as f64 + 1.01,
            quadratic: config.choice("relabel", &["quadratic", "linear"])? == "quadratic",
        };
        Ok(Box::new(Sela {
            encoder,
            classes,
            heads,
            times,
            one_head: config.choice("relabel_heads", &["all", "one"])? == "one",
            lambda: config.positive("lambda")?,
            tolerance: config.positive("tolerance")?,
            balance: config.bool("balance")?,
        }))
    },
    facts: &[parts::uniform_outputs(|config, _| parts::ln_of(config, "classes"))],
};

/// Iterations after which Sinkhorn stops whatever its error.
const AT_MOST: usize = 2000;

/// Labels in equal shares, in an order keyed by `path`: `[images]` i64.
fn balanced(path: &str, images: usize, classes: usize, seed: u64, device: &Device) -> Result<Param> {
    let mut labels: Vec<i64> = (0..images).map(|i| (i % classes) as i64).collect();
    Key::new(seed, Purpose::Init).stream(0, key_of_path(path), 0).shuffle(&mut labels);
    Ok(Param::new(path, Role::Buffer, Array::from_slice(&labels, &[images], device)?))
}

/// When labels are made anew.
struct Relabellings {
    count: usize,
    /// The epochs over which they are spread.
    epochs: f64,
    quadratic: bool,
}

impl Relabellings {
    /// How many of them fall into epoch `epoch`, at whose start one is done for all.
    fn within(&self, epoch: u64) -> usize {
        let time = |j: usize| {
            let share = j as f64 / (self.count.max(2) - 1) as f64;
            self.epochs * if self.quadratic { share * share } else { share }
        };
        (0..self.count).filter(|j| (epoch as f64..(epoch + 1) as f64).contains(&time(*j))).count()
    }
}

/// A classifier and its labels of the whole training set.
struct Head {
    linear: Linear,
    labels: Param,
}

struct Sela {
    encoder: Box<dyn Backbone>,
    classes: usize,
    heads: Vec<Head>,
    times: Relabellings,
    one_head: bool,
    lambda: f64,
    tolerance: f64,
    balance: bool,
}

impl Sela {
    /// The labels of `log_p` `[N, K]` f64: its argmax once classes have equal shares of p^λ.
    fn labels(&self, log_p: &Array) -> Result<Array> {
        if !self.balance {
            return ops::argmax(log_p, 1);
        }
        // The tolerance bounds a sum over N images of relative errors: N times the error of the masses.
        let images = log_p.shape()[0] as f64;
        let sinkhorn = ops::Sinkhorn::sela(self.lambda, self.tolerance / images, AT_MOST);
        ops::argmax(&ops::sinkhorn(log_p, &sinkhorn, &Comm::single())?.codes, 1)
    }
}

impl Method for Sela {
    fn embed(&self, views: &Views, cx: &Ctx) -> Result<Embeddings> {
        parts::each_view(views, 0..1, "y", cx, |x, cx| self.encoder.forward(x, cx))
    }

    fn targets(&self, views: &Views, _: &Ctx) -> Result<Embeddings> {
        Ok(Embeddings::default().with("images", views.index_tensor(views.view(0)?.device())?))
    }

    fn objective(&self, z: &Embeddings, cx: &Ctx) -> Result<Step> {
        let (y, images) = (z.get("y0")?, z.get("images")?);
        let labels = |head: &Head| ops::index_select(&head.labels.array(), 0, images.array());
        let loss =
            |head: &Head| cluster_cross_entropy_ranks(&[head.linear.forward(y, cx)?], &labels(head)?, 1.0, cx.ranks());
        let losses = self.heads.iter().map(loss).collect::<Result<Vec<_>>>()?;
        let codes = ops::one_hot(&labels(&self.heads[0])?, self.classes, DType::F32)?;
        let usage = Usage::of(&[Tensor::constant(codes)], cx.ranks())?;
        Ok(parts::log_usage(Step::new(parts::mean_of(&losses)?).embeddings(y), usage))
    }

    fn before_epoch(&mut self, epoch: u64, sweep: &Sweep) -> Result<Vec<String>> {
        if self.times.within(epoch) == 0 {
            return Ok(Vec::new());
        }
        let y = Tensor::constant(sweep.view_features(0, |x, cx| self.encoder.forward(x, cx))?);
        let chosen = epoch as usize % self.heads.len();
        for (_, head) in self.heads.iter().enumerate().filter(|(h, _)| !self.one_head || *h == chosen) {
            let logits = head.linear.forward(&y, &Ctx::eval().no_grad())?;
            let log_p = ops::log_softmax(&ops::cast(logits.array(), DType::F64)?)?;
            head.labels.set(self.labels(&log_p)?)?;
        }
        Ok(Vec::new())
    }

    fn encoder(&self) -> &dyn Backbone {
        &*self.encoder
    }

    fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.encoder.visit(visitor);
        for head in &self.heads {
            head.linear.visit(visitor);
            visitor.param(head.labels.path(), &head.labels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relabellings_are_often_at_first_and_one_is_at_the_start() {
        let times = Relabellings { count: 100, epochs: 201.01, quadratic: true };
        let by_epoch: Vec<usize> = (0..202).map(|epoch| times.within(epoch)).collect();
        assert_eq!(by_epoch.iter().sum::<usize>(), 100);
        assert!(by_epoch[0] > 5 && by_epoch[1..].iter().all(|count| *count < by_epoch[0]));
        assert!(by_epoch[150..].iter().sum::<usize>() < 15);
        let even = Relabellings { count: 11, epochs: 20.0, quadratic: false };
        assert_eq!((0..4).map(|epoch| even.within(epoch)).collect::<Vec<_>>(), [1, 0, 1, 0]);
        assert_eq!(Relabellings { count: 1, ..even }.within(0), 1);
    }

    #[test]
    fn first_labels_are_equal_shares_in_an_order_of_each_head_s_own() {
        let device = Device::cpu_with(1).unwrap();
        let labels = |path: &str| balanced(path, 40, 8, 3, &device).unwrap().array().to_vec::<i64>().unwrap();
        let (one, other) = (labels("labels0"), labels("labels1"));
        assert!((0..8).all(|class| one.iter().filter(|label| **label == class).count() == 5));
        assert_ne!(one, other);
    }
}
