//! Batch normalisation (Ioffe and Szegedy 2015) over the last axis, for images and vectors alike.

use crate::{BatchNormMode, Ctx, Fill, Init, Module};
use selfsame_autograd::ops::{BatchMoments, BatchNorm as Options, BatchNormed, BatchStats};
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Error, ErrorKind, Result};

/// Options of [`BatchNorm`]. The default is PyTorch's: scale from 1, offset from 0, momentum 0.1, eps 1e-5.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormOpts {
    /// First values of the scale (gamma, `weight`); `None` for no scale.
    pub scale: Option<Fill>,
    /// Whether there is an offset (beta, `bias`), from 0.
    pub offset: bool,
    /// Weight of the newest batch in the running statistics.
    pub momentum: f64,
    /// Added to the variance.
    pub eps: f64,
    /// Images per statistics group, a multiple of 16: each block of so many consecutive images of the global batch is
    /// normalised by itself, however the batch is cut. `None` for the whole batch.
    pub group: Option<usize>,
}

impl Default for BatchNormOpts {
    fn default() -> BatchNormOpts {
        BatchNormOpts { scale: Some(Fill::Ones), offset: true, momentum: 0.1, eps: 1e-5, group: None }
    }
}

/// y = (x - mean) / sqrt(variance + eps) · weight + bias, per channel of `[images, …, channels]`.
///
/// In training, mean and variance are those of the whole batch on all ranks of the [`Ctx`], or of each statistics group
/// ([`BatchNormOpts::group`]), or as [`BatchNormMode`] says; `running_mean` and `running_var` (unbiased; with groups the
/// means over groups of both) are handed to [`Ctx::observe`]. In evaluation the running statistics are used.
pub struct BatchNorm {
    weight: Option<Param>,
    bias: Option<Param>,
    running_mean: Param,
    running_var: Param,
    momentum: f64,
    eps: f64,
    group: Option<usize>,
}

impl BatchNorm {
    /// A layer for activations of that many channels.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(init: &Init, channels: usize, o: BatchNormOpts) -> Result<BatchNorm> {
        let shape = [channels];
        let bias = || init.param("bias", Role::NormBias, &shape, Fill::Zeros);
        Ok(BatchNorm {
            weight: o.scale.map(|fill| init.param("weight", Role::NormScale, &shape, fill)).transpose()?,
            bias: o.offset.then(bias).transpose()?,
            running_mean: init.buffer("running_mean", &shape, 0.0)?,
            running_var: init.buffer("running_var", &shape, 1.0)?,
            momentum: o.momentum,
            eps: o.eps,
            group: o.group,
        })
    }

    /// relu(bn(x)) as one operation: the same bits, one pass over memory less.
    ///
    /// # Errors
    /// As for [`Module::forward`].
    pub fn forward_relu(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.normalised(x, cx, |gamma, beta, o| x.batch_norm_relu(gamma, beta, &o))
    }

    /// relu(bn(x) + residual) as one operation: the end of a residual block.
    ///
    /// # Errors
    /// As for [`Module::forward`], and when `residual` has another shape.
    pub fn forward_add_relu(&self, x: &Tensor, residual: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.normalised(x, cx, |gamma, beta, o| x.batch_norm_add_relu(gamma, beta, residual, &o))
    }

    /// Runs one of the forms of the operation and collects the running statistics.
    fn normalised(
        &self,
        x: &Tensor,
        cx: &Ctx,
        form: impl FnOnce(Option<&Tensor>, Option<&Tensor>, Options) -> Result<BatchNormed>,
    ) -> Result<Tensor> {
        let gamma = self.weight.as_ref().map(|p| cx.param(p));
        let beta = self.bias.as_ref().map(|p| cx.param(p));
        let options = Options { eps: self.eps, rows: cx.rows(x)?, stats: self.stats(cx)? };
        let BatchNormed { y, moments } = form(gamma.as_ref(), beta.as_ref(), options)?;
        if let Some(BatchMoments { groups, mean, unbiased_variance, .. }) = moments {
            cx.observe(&self.running_mean, self.momentum, &groups, &mean)?;
            cx.observe(&self.running_var, self.momentum, &groups, &unbiased_variance)?;
        }
        Ok(y)
    }

    /// What this forward normalises by.
    fn stats(&self, cx: &Ctx) -> Result<BatchStats> {
        let running = || BatchStats::Fixed { mean: self.running_mean.array(), variance: self.running_var.array() };
        if !cx.is_train() {
            return Ok(running());
        }
        match (cx.batch_norm_mode(), self.group) {
            (BatchNormMode::Frozen, _) => Ok(running()),
            (_, Some(images)) => Ok(BatchStats::Groups { images }),
            (BatchNormMode::Local, None) => Ok(BatchStats::Local),
            (BatchNormMode::Lockstep, None) if cx.is_apart() => {
                let got = format!("statistics of the whole batch, of which this forward has a part ({})", self.path());
                Err(Error::new(ErrorKind::Numerics, "batch norm under gradient caching", got)
                    .expected("micro-batches that advance together: lockstep keeps all activations, caching drops them")
                    .hint(
                        "grad_cache = false keeps the bits and saves workspace alone; batch_norm = \"local\" or \
                         \"frozen\", bn_group on every norm, or layer norm go with caching",
                    ))
            }
            (BatchNormMode::Lockstep, None) => {
                Ok(BatchStats::Batch((cx.ranks().size() > 1).then(|| cx.ranks().clone())))
            }
        }
    }

    /// The layer's path.
    fn path(&self) -> &str {
        self.running_mean.path().strip_suffix(".running_mean").unwrap_or("the layer")
    }
}

impl Module for BatchNorm {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.normalised(x, cx, |gamma, beta, o| x.batch_norm(gamma, beta, &o))
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        for p in self.weight.iter().chain(&self.bias).chain([&self.running_mean, &self.running_var]) {
            v.param(p.path(), p);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params;
    use selfsame_engine::{Array, Device};

    fn commit(cx: &Ctx) {
        cx.take_updates().commit().unwrap();
    }

    fn layer(device: &Device) -> BatchNorm {
        BatchNorm::new(&Init::new(device, 0).at("bn"), 1, BatchNormOpts::default()).unwrap()
    }

    #[test]
    fn running_statistics_follow_both_views_of_a_step_in_order() {
        let device = Device::cpu_with(1).unwrap();
        let bn = layer(&device);
        let cx = Ctx::train();
        let view = |values: [f32; 4]| Tensor::constant(Array::from_slice(&values, &[4, 1], &device).unwrap());
        // Means 2 and 10; unbiased variances (4 + 0 + 0 + 4) / 3 and 0.
        bn.forward(&view([0., 2., 2., 4.]), &cx).unwrap();
        assert_eq!(bn.running_mean.array().to_vec::<f32>().unwrap(), [0.0], "nothing is written before the commit");
        bn.forward(&view([10.; 4]), &cx).unwrap();
        commit(&cx);
        let mean = bn.running_mean.array().item::<f32>().unwrap();
        let var = bn.running_var.array().item::<f32>().unwrap();
        assert!((mean - (0.9 * 0.2 + 0.1 * 10.0)).abs() < 1e-6, "{mean}");
        assert!((var - 0.9 * (0.9 + 0.1 * 8.0 / 3.0)).abs() < 1e-6, "{var}");
    }

    #[test]
    fn evaluation_uses_running_statistics_and_updates_nothing() {
        let device = Device::cpu_with(1).unwrap();
        let bn = layer(&device);
        bn.running_mean.set(Array::full(3f32, &[1], &device).unwrap()).unwrap();
        bn.running_var.set(Array::full(4f32 - 1e-5, &[1], &device).unwrap()).unwrap();
        let cx = Ctx::eval();
        let x = Tensor::constant(Array::from_slice(&[3f32, 5., 7.], &[3, 1], &device).unwrap());
        let y = bn.forward(&x, &cx).unwrap().array().to_vec::<f32>().unwrap();
        for (y, expected) in y.iter().zip([0.0, 1.0, 2.0]) {
            assert!((y - expected).abs() < 1e-6, "{y}");
        }
        assert!(cx.take_updates().is_empty());
    }

    #[test]
    fn a_statistics_group_is_normalised_by_itself() {
        let device = Device::cpu_with(1).unwrap();
        let o = BatchNormOpts { group: Some(16), ..BatchNormOpts::default() };
        let bn = BatchNorm::new(&Init::new(&device, 0), 1, o).unwrap();
        let cx = Ctx::train();
        // Two constant groups: each is its own mean.
        let values: Vec<f32> = [[2.0; 16], [6.0; 16]].concat();
        let x = Tensor::constant(Array::from_slice(&values, &[32, 1], &device).unwrap());
        assert!(bn.forward(&x, &cx).unwrap().array().to_vec::<f32>().unwrap().iter().all(|y| *y == 0.0));
        commit(&cx);
        let mean = bn.running_mean.array().item::<f32>().unwrap();
        let var = bn.running_var.array().item::<f32>().unwrap();
        assert!((mean - 0.1 * 4.0).abs() < 1e-6, "{mean}");
        assert!((var - 0.9).abs() < 1e-6, "{var}");
    }

    #[test]
    fn frozen_statistics_are_those_of_evaluation_and_stay() {
        let device = Device::cpu_with(1).unwrap();
        let bn = layer(&device);
        bn.running_mean.set(Array::full(3f32, &[1], &device).unwrap()).unwrap();
        let x = Tensor::constant(Array::from_slice(&[3f32, 5., 7.], &[3, 1], &device).unwrap());
        let values = |cx: &Ctx| bn.forward(&x, cx).unwrap().array().to_vec::<f32>().unwrap();
        let cx = Ctx::train().batch_norm(BatchNormMode::Frozen).apart(true);
        assert_eq!(values(&cx), values(&Ctx::eval()));
        assert!(cx.take_updates().is_empty());
    }

    #[test]
    fn a_part_apart_has_no_statistics_of_the_batch() {
        let device = Device::cpu_with(1).unwrap();
        let bn = layer(&device);
        let x = Tensor::constant(Array::full(1f32, &[16, 1], &device).unwrap());
        let cx = Ctx::train().first_image(16).apart(true);
        let error = bn.forward(&x, &cx).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Numerics);
        assert!(error.sentence().contains("lockstep keeps all activations"), "{}", error.sentence());
        assert!(error.sentence().contains("(bn)"), "{}", error.sentence());
        assert!(bn.forward(&x, &cx.batch_norm(BatchNormMode::Local)).is_ok());
    }

    #[test]
    fn scale_and_offset_can_be_left_out() {
        let device = Device::cpu_with(1).unwrap();
        let names = |scale, offset| {
            let o = BatchNormOpts { scale, offset, ..BatchNormOpts::default() };
            let bn = BatchNorm::new(&Init::new(&device, 0), 2, o).unwrap();
            params(&bn).iter().map(|p| p.path().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(names(Some(Fill::Ones), true), ["weight", "bias", "running_mean", "running_var"]);
        assert_eq!(names(Some(Fill::Ones), false), ["weight", "running_mean", "running_var"]);
        assert_eq!(names(None, false), ["running_mean", "running_var"]);
    }
}
