//! What MoCo and the methods that stand on it share: a query encoder, a momentum encoder of keys with shuffled batch
//! norm, and a queue of past keys.

use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Array, DType, Error, ErrorKind, Result, ops};
use selfsame_kernels::philox::{Key, Purpose, Stream};
use selfsame_losses::state::Queue;
use selfsame_models::backbones::Backbone;
use selfsame_models::heads::{Mlp, MlpOpts};
use selfsame_models::{BatchNormMode, Ctx, Init, Module, params};

use super::{Embedder, Teacher};
use crate::config::Config;
use crate::method::Views;

/// The keys that [`MomentumContrast::new`] reads but `queue`, whose default differs, and MoCo v2's changes to the trainer's defaults.
macro_rules! momentum_contrast_keys {
    () => {
        r#"
temperature = 0.2       # of the contrast: 0.2 in MoCo v2, 0.07 in v1, 0.1 for small images
head = "mlp"            # projector: "mlp" (v2: two layers) or "linear" (v1: one)
dim = 128               # length of the embeddings
key_momentum = 0.999    # of the encoder of keys; 0.99 for short runs on small data
shuffle = true          # keys are normalised with other images than their queries, so that batch norm tells nothing
bn_group = 32           # a batch of 256 on 8 devices

epochs = 200
lr = 0.03
warmup_epochs = 0.0
crop_min = 0.2
brightness = "multiplicative"
blur = 0.5
"#
    };
}
pub(crate) use momentum_contrast_keys;

/// Query encoder, momentum encoder and queue.
pub struct MomentumContrast {
    online: Embedder,
    teacher: Teacher<Embedder>,
    queue: Queue,
    momentum: f64,
    shuffle: bool,
    seed: u64,
}

impl MomentumContrast {
    /// The modules that the configuration describes. The queue keeps the images of its keys if `with_images`.
    ///
    /// # Errors
    /// `Config` for values out of range, or a queue that is no multiple of the batch.
    pub fn new(config: &Config, init: &Init, with_images: bool) -> Result<MomentumContrast> {
        let (length, batch) = (config.at_least("queue", 1)?, config.at_least("batch", 2)?);
        if !length.is_multiple_of(batch) {
            return Err(Error::new(ErrorKind::Config, "configuration key 'queue'", length.to_string())
                .expected(format!("a multiple of the batch of {batch}")));
        }
        let dim = config.at_least("dim", 1)?;
        let mlp = config.choice("head", &["mlp", "linear"])? == "mlp";
        let build = |init: &Init| {
            Embedder::new(config, init, |init, features| {
                let sizes = if mlp { vec![features, features, dim] } else { vec![features, dim] };
                Mlp::new(init, &sizes, MlpOpts::PAPER)
            })
        };
        let seed = config.usize("seed")? as u64;
        let online = build(init)?;
        let queue = Queue::new("queue", length, dim, dtype(&online), seed, init.device())?;
        Ok(MomentumContrast {
            teacher: Teacher::of(&online, init, build)?,
            online,
            queue: if with_images { queue.with_images()? } else { queue },
            momentum: config.fraction("key_momentum")?,
            shuffle: config.bool("shuffle")?,
            seed,
        })
    }

    /// q `[n, dim]` of the first view, with its gradient.
    ///
    /// # Errors
    /// Those of the network.
    pub fn queries(&self, views: &Views, cx: &Ctx) -> Result<Tensor> {
        self.online.forward(views.view(0)?, &cx.clone().view(0))
    }

    /// k `[n, dim]` of the second view at length 1, without gradient, under shuffled batch norm: the images of all ranks
    /// are encoded in an order drawn for the step, so that a statistics group holds keys of other images than the
    /// queries' one.
    ///
    /// # Errors
    /// Those of the network; `Numerics` under gradient caching, which does not have all images at once.
    pub fn keys(&self, views: &Views, cx: &Ctx) -> Result<Tensor> {
        let (x, cx) = (views.view(1)?, cx.clone().view(1));
        // Frozen statistics tell images nothing of each other.
        if !self.shuffle || !cx.is_train() || cx.batch_norm_mode() == BatchNormMode::Frozen {
            return unit(&self.teacher.forward(x, &cx)?);
        }
        if cx.is_apart() {
            return Err(Error::new(ErrorKind::Numerics, "shuffled batch norm", "a part of the batch by itself")
                .expected("all images of the batch")
                .hint("grad_cache = false for micro-batches that advance together, or shuffle = false"));
        }
        let stream = Key::new(self.seed, Purpose::Group).stream(cx.steps_done(), 0, 0);
        in_another_order(x, &stream, &cx, |x| unit(&self.teacher.forward(x, &cx)?))
    }

    /// The momentum encoder's embedding of any images at length 1, in evaluation too: `[n, dim]`.
    ///
    /// # Errors
    /// Those of the network.
    pub fn embed_by_teacher(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        unit(&self.teacher.forward(x, cx)?)
    }

    /// The past keys, without those of this step.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Hands the keys of the step to the queue, with their images if it keeps them.
    ///
    /// # Errors
    /// As for [`Queue::enqueue`].
    pub fn enqueue(&self, keys: &Tensor, images: Option<&Tensor>, cx: &Ctx) -> Result<()> {
        let values = self.queue.enqueue(keys.array(), images.map(Tensor::array), cx.ranks())?;
        values.into_iter().for_each(|(buffer, value)| cx.update(&buffer, value));
        Ok(())
    }

    /// Moves the momentum encoder after the optimiser's step: in time for the next keys.
    ///
    /// # Errors
    /// Those of the average.
    pub fn follow(&self) -> Result<()> {
        self.teacher.follow(self.momentum)
    }

    /// The query encoder, which downstream tasks use.
    pub fn encoder(&self) -> &dyn Backbone {
        &*self.online.encoder
    }

    /// Shows every parameter and buffer to `visitor`.
    pub fn visit(&self, visitor: &mut dyn ParamVisitor) {
        self.online.visit(visitor);
        self.teacher.visit(visitor);
        self.queue.visit(visitor);
    }
}

/// What `forward` makes of the images of all ranks, of which `x` are this rank's, when they are dealt out in an order
/// drawn from `stream`: this rank's rows of it, in their own order and without gradient.
fn in_another_order(
    x: &Tensor,
    stream: &Stream,
    cx: &Ctx,
    forward: impl FnOnce(&Tensor) -> Result<Tensor>,
) -> Result<Tensor> {
    let (ranks, images) = (cx.ranks(), x.shape()[0]);
    let all = ranks.all_gather(x.array())?;
    let order = ops::permutation(all.shape()[0], stream, x.device())?;
    let here = |order: &Array| order.slice(0, cx.first(), cx.first() + images);
    let dealt = Tensor::constant(ops::index_select(&all, 0, &here(&order)?)?);
    let outputs = ranks.all_gather(forward(&dealt)?.array())?;
    // The place of each image in the order.
    let back = here(&ops::argsort(&order, false)?)?;
    Ok(Tensor::constant(ops::index_select(&outputs, 0, &back)?))
}

/// Rows at length 1.
pub(crate) fn unit(x: &Tensor) -> Result<Tensor> {
    x.l2_normalize(1e-12)
}

/// The element type of a module's parameters.
pub(crate) fn dtype(module: &dyn Module) -> DType {
    params(module).first().map_or(DType::F32, |param| param.array().dtype())
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::{Comm, Device};
    use std::sync::Arc;

    /// Of a network that sees each image by itself.
    #[test]
    fn there_and_back_is_the_identity() {
        let device = Device::cpu_with(1).unwrap();
        let pixels: Vec<f32> = (0..64 * 3).map(|i| (i * 37 % 101) as f32).collect();
        let x = Array::from_slice(&pixels, &[64, 3], &device).unwrap();
        let stream = Key::new(1, Purpose::Group).stream(4, 0, 0);
        for ranks in [1, 2, 4] {
            let run = |comm: Comm| {
                let (first, share) = (comm.rank() * 64 / ranks, 64 / ranks);
                let own = Tensor::constant(x.slice(0, first, first + share).unwrap());
                let cx = Ctx::train().comm(Arc::new(comm)).first_image(first);
                let mut seen = Vec::new();
                let found = in_another_order(&own, &stream, &cx, |x| {
                    seen = x.array().to_vec::<f32>()?;
                    x.square()
                });
                let expected = own.square().unwrap().array().to_vec::<f32>().unwrap();
                assert_eq!(found.unwrap().array().to_vec::<f32>().unwrap(), expected);
                assert_ne!(seen, own.array().to_vec::<f32>().unwrap(), "others' images, or another order");
            };
            std::thread::scope(|scope| {
                for comm in Comm::emulated(ranks).unwrap() {
                    scope.spawn(|| run(comm));
                }
            });
        }
    }
}
