//! Networks without shortcuts, as DeepCluster and SeLa use them: convolutions with batch norm, max-pooling, and hidden
//! linear layers, of which the last is the feature.
//!
//! Names are those of PyTorch's `Sequential`s: every step counts, with and without parameters. `features.0` is the
//! first convolution, `features.1` its batch norm, `features.2` its ReLU; `classifier` holds the hidden layers.

use super::{Backbone, BackboneOpts, Stem};
use crate::layers::{AdaptiveAvgPool2d, BatchNorm, BatchNormOpts, Conv2d, Conv2dOpts, Dropout, Linear, Sobel};
use crate::{Ctx, Fan, Fill, Init, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Error, ErrorKind, Result, ops};

/// A step in front of the hidden layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Convolution with bias, batch norm, ReLU.
    Conv {
        /// Output channels.
        channels: usize,
        /// Side of the window.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Rows and columns of zeros on every side.
        padding: usize,
    },
    /// Max-pooling with a square window; left out where the map is smaller than the window.
    Pool {
        /// Side of the window.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Border on every side.
        padding: usize,
    },
}

/// The shape of a plain network.
#[derive(Clone, Debug, PartialEq)]
pub struct PlainConfig {
    /// Convolutions and pooling.
    pub steps: Vec<Step>,
    /// The last map is averaged to so many rows and columns.
    pub grid: usize,
    /// Width of the two hidden layers, and of the feature.
    pub hidden: usize,
    /// Whether dropout stands in front of the first hidden layer too, and not of the second alone.
    pub drops_map: bool,
    /// Probability of dropout.
    pub dropout: f64,
    /// Whether [`Sobel`] filters come first.
    pub sobel: bool,
    /// Channels of the images.
    pub channels: usize,
    /// Outputs of a final `top_layer`.
    pub classes: Option<usize>,
    /// Images per statistics group of batch norm; `None` for the whole batch.
    pub bn_group: Option<usize>,
}

impl PlainConfig {
    /// This shape with the options applied; the stem is the caller's.
    ///
    /// # Errors
    /// `Config` for an option of other families.
    pub(super) fn with(mut self, family: &str, o: &BackboneOpts) -> Result<PlainConfig> {
        o.only(family, &["sobel", "dropout"])?;
        if let Some(factor) = o.width {
            let scaled = |width: usize| ((width as f64 * factor).round() as usize).max(1);
            self.hidden = scaled(self.hidden);
            for step in &mut self.steps {
                if let Step::Conv { channels, .. } = step {
                    *channels = scaled(*channels);
                }
            }
        }
        self.channels = o.channels.unwrap_or(self.channels);
        self.sobel = o.sobel.unwrap_or(self.sobel);
        self.dropout = o.dropout.unwrap_or(self.dropout);
        self.classes = o.classes.or(self.classes);
        self.bn_group = o.bn_group.or(self.bn_group);
        Ok(self)
    }
}

/// The first convolution of a stem for small images, as kernel, stride and padding; `None` for images of 224 pixels.
pub(super) fn small_stem(o: &BackboneOpts) -> Option<[usize; 3]> {
    match o.stem {
        None | Some(Stem::ImageNet) => None,
        Some(Stem::Cifar) => Some([3, 1, 1]),
        Some(Stem::Small) => Some([3, 2, 1]),
    }
}

/// One step with its layers.
enum Stage {
    Conv(Conv2d, BatchNorm),
    Pool(ops::Pool2d),
}

/// A plain network: `[n, h, w, channels]` to `[n, feature_dim]`, rectified, or to `[n, classes]` with a classification
/// layer. Convolutions start from He's fan-out normal, linear layers from a normal of standard deviation 0.01, biases
/// from 0.
pub struct PlainNet {
    sobel: bool,
    stages: Vec<Stage>,
    pool: AdaptiveAvgPool2d,
    drops: [Option<Dropout>; 2],
    hidden: [Linear; 2],
    top: Option<Linear>,
    feature_dim: usize,
}

impl PlainNet {
    /// A network of that shape under the path of `init`.
    ///
    /// # Errors
    /// `Config` when there is no convolution, or for a probability that is none; `OutOfMemory`.
    pub fn new(init: &Init, config: &PlainConfig) -> Result<PlainNet> {
        let mut channels = if config.sobel { Sobel::CHANNELS } else { config.channels };
        let mut stages = Vec::new();
        let mut number = 0;
        for step in &config.steps {
            match *step {
                Step::Conv { channels: to, kernel, stride, padding } => {
                    let fill = Fill::KaimingNormal { fan: Fan::Out };
                    let opts = Conv2dOpts { stride, padding, bias: Some(Fill::Zeros), fill, ..Conv2dOpts::default() };
                    let at = |i: usize| init.at(&format!("features.{i}"));
                    let norm = BatchNormOpts { group: config.bn_group, ..BatchNormOpts::default() };
                    stages.push(Stage::Conv(
                        Conv2d::new(&at(number), channels, to, kernel, opts)?,
                        BatchNorm::new(&at(number + 1), to, norm)?,
                    ));
                    channels = to;
                    number += 3;
                }
                Step::Pool { kernel, stride, padding } => {
                    let window = ops::Pool2d { kernel: [kernel; 2], stride: [stride; 2], padding: [padding; 2] };
                    stages.push(Stage::Pool(window));
                    number += 1;
                }
            }
        }
        if !stages.iter().any(|stage| matches!(stage, Stage::Conv(..))) || config.grid == 0 {
            return Err(Error::new(ErrorKind::Config, "plain network", "no convolution, or no place for its map")
                .expected("at least one convolution and a grid of at least 1"));
        }
        let linear = |path: &str, from: usize, to: usize| {
            Linear::filled(&init.at(path), [from, to], Fill::Normal { std: 0.01 }, Some(Fill::Zeros))
        };
        // Dropout, linear, ReLU, dropout, linear, ReLU; without the first, linear comes first.
        let at = |i: usize| format!("classifier.{}", if config.drops_map { i } else { i - 1 });
        let drop = |i: usize| Dropout::new(&init.at(&at(i)), config.dropout);
        let map = channels * config.grid * config.grid;
        Ok(PlainNet {
            sobel: config.sobel,
            stages,
            pool: AdaptiveAvgPool2d([config.grid; 2]),
            drops: [config.drops_map.then(|| drop(0)).transpose()?, Some(drop(3)?)],
            hidden: [linear(&at(1), map, config.hidden)?, linear(&at(4), config.hidden, config.hidden)?],
            top: config.classes.map(|classes| linear("top_layer", config.hidden, classes)).transpose()?,
            feature_dim: config.hidden,
        })
    }
}

impl Module for PlainNet {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let features = self.before_relu(x, cx)?.relu()?;
        match &self.top {
            Some(top) => top.forward(&features, cx),
            None => Ok(features),
        }
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        for stage in &self.stages {
            if let Stage::Conv(conv, norm) = stage {
                conv.visit(v);
                norm.visit(v);
            }
        }
        self.hidden.iter().chain(&self.top).for_each(|linear| linear.visit(v));
    }
}

impl Backbone for PlainNet {
    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    /// The map of the last step.
    fn feature_map(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let x = if self.sobel { Sobel.forward(x, cx)? } else { x.clone() };
        self.stages.iter().try_fold(x, |x, stage| match stage {
            Stage::Conv(conv, norm) => norm.forward_relu(&conv.forward(&x, cx)?, cx),
            Stage::Pool(window) => {
                let fits = (0..2).all(|i| x.shape()[1 + i] + 2 * window.padding[i] >= window.kernel[i]);
                if fits { x.max_pool2d(*window) } else { Ok(x) }
            }
        })
    }

    /// The last hidden layer, without its ReLU.
    fn before_relu(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let map = self.pool.forward(&self.feature_map(x, cx)?, cx)?;
        // PyTorch flattens channels before pixels.
        let [n, h, w, c] = map.dims()?;
        let mut x = map.permute(&[0, 3, 1, 2])?.reshape(&[n, c * h * w])?;
        for (i, (drop, hidden)) in self.drops.iter().zip(&self.hidden).enumerate() {
            let rectified = if i == 0 { x } else { x.relu()? };
            let kept = drop.as_ref().map_or(Ok(rectified.clone()), |drop| drop.forward(&rectified, cx))?;
            x = hidden.forward(&kept, cx)?;
        }
        Ok(x)
    }
}
