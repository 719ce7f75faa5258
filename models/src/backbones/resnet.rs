//! ResNet (He et al. 2016, arXiv:1512.03385), with torchvision's names: `conv1`, `bn1`, `layer1.0.conv1`, …,
//! `layer2.0.downsample.0`, `fc`. Bottlenecks stride in their 3x3 convolution ("v1.5").

use super::{Backbone, BackboneOpts, BackboneSpec, run_block};
use crate::layers::{BatchNorm, BatchNormOpts, Conv2d, Conv2dOpts, Linear, Sobel};
use crate::{Ctx, Fill, Init, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Error, ErrorKind, Result, nearest, ops};
use std::sync::Arc;

/// The layers before the first stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stem {
    /// 7x7 stride 2, then 3x3 max-pool stride 2: for images of 224 pixels.
    ImageNet,
    /// 3x3 stride 1: for images of 32 pixels.
    Cifar,
    /// 3x3 stride 2: for images of 32 to 64 pixels on a small machine.
    Small,
}

impl Stem {
    /// The stem called `name`.
    ///
    /// # Errors
    /// `Config` with the nearest name.
    pub fn parse(name: &str) -> Result<Stem> {
        match name {
            "imagenet" => Ok(Stem::ImageNet),
            "cifar" => Ok(Stem::Cifar),
            "small" => Ok(Stem::Small),
            _ => {
                let known = ["imagenet", "cifar", "small"];
                let error = Error::new(ErrorKind::Config, "backbone.stem", format!("'{name}'"));
                Err(match nearest(name, known) {
                    Some(near) => error.expected(known.join(", ")).hint(format!("is '{near}' meant?")),
                    None => error.expected(known.join(", ")),
                })
            }
        }
    }
}

/// The residual branch of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// 3x3, 3x3.
    Basic,
    /// 1x1, 3x3, 1x1 to four times the width.
    Bottleneck,
}

impl Block {
    /// Output channels per unit of width.
    fn expansion(self) -> usize {
        match self {
            Block::Basic => 1,
            Block::Bottleneck => 4,
        }
    }
}

/// The shape of a ResNet.
#[derive(Clone, Debug, PartialEq)]
pub struct ResNetConfig {
    /// Kind of block.
    pub block: Block,
    /// Blocks per stage. Every stage but the first halves height and width.
    pub depths: Vec<usize>,
    /// Width per stage.
    pub widths: Vec<usize>,
    /// First layers.
    pub stem: Stem,
    /// Channels of the images.
    pub channels: usize,
    /// Whether [`Sobel`] filters come first.
    pub sobel: bool,
    /// Whether residual branches start at zero.
    pub zero_init: bool,
    /// Outputs of a final `fc` layer.
    pub classes: Option<usize>,
    /// Images per statistics group of batch norm; `None` for the whole batch.
    pub bn_group: Option<usize>,
}

impl ResNetConfig {
    /// Four stages of widths 64 to 512 with the ImageNet stem: torchvision's.
    pub fn standard(block: Block, depths: [usize; 4]) -> ResNetConfig {
        ResNetConfig {
            block,
            depths: depths.to_vec(),
            widths: vec![64, 128, 256, 512],
            stem: Stem::ImageNet,
            channels: 3,
            sobel: false,
            zero_init: false,
            classes: None,
            bn_group: None,
        }
    }

    /// One basic block a stage at half the usual resolution: sized for training on two cores at 32x32.
    pub fn small() -> ResNetConfig {
        ResNetConfig {
            depths: vec![1; 3],
            widths: vec![32, 64, 128],
            stem: Stem::Small,
            ..ResNetConfig::standard(Block::Basic, [1; 4])
        }
    }

    /// This shape with the options applied.
    ///
    /// # Errors
    /// `Config` when the widths are not one per stage, or for an option of other families.
    pub fn with(mut self, o: &BackboneOpts) -> Result<ResNetConfig> {
        o.only("resnet", &["widths", "sobel"])?;
        if let Some(widths) = &o.widths {
            // The small network takes any number of stages; the published ones have four.
            if widths.len() != self.depths.len() && self.depths.iter().any(|d| *d != 1) {
                return Err(Error::new(ErrorKind::Config, "backbone.widths", format!("{} widths", widths.len()))
                    .expected(format!("{}, one per stage", self.depths.len())));
            }
            self.depths.resize(widths.len(), 1);
            self.widths.clone_from(widths);
        }
        if let Some(factor) = o.width {
            self.widths.iter_mut().for_each(|w| *w = ((*w as f64 * factor).round() as usize).max(1));
        }
        self.stem = o.stem.unwrap_or(self.stem);
        self.channels = o.channels.unwrap_or(self.channels);
        self.sobel = o.sobel.unwrap_or(self.sobel);
        self.zero_init |= o.zero_init;
        self.classes = o.classes.or(self.classes);
        self.bn_group = o.bn_group.or(self.bn_group);
        Ok(self)
    }

    /// A batch norm of this network, its scale filled so.
    fn norm(&self, init: &Init, channels: usize, scale: Fill) -> Result<BatchNorm> {
        let opts = BatchNormOpts { scale: Some(scale), group: self.bn_group, ..BatchNormOpts::default() };
        BatchNorm::new(init, channels, opts)
    }
}

/// A residual network: `[n, h, w, channels]` to `[n, feature_dim]`, or to `[n, classes]` with a classification layer.
pub struct ResNet {
    sobel: bool,
    stem: Stem,
    conv1: Conv2d,
    bn1: BatchNorm,
    /// Shared, since a recomputing backward runs them again.
    blocks: Vec<Arc<Residual>>,
    fc: Option<Linear>,
    feature_dim: usize,
}

impl ResNet {
    /// A network of that shape under the path of `init`.
    ///
    /// # Errors
    /// `Config` when there is no stage; `OutOfMemory`.
    pub fn new(init: &Init, config: &ResNetConfig) -> Result<ResNet> {
        let (Some(&first), Some(&last)) = (config.widths.first(), config.widths.last()) else {
            return Err(Error::new(ErrorKind::Config, "resnet", "no stages").expected("at least one width"));
        };
        let (kernel, stride) = match config.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
            Stem::Small => (3, 2),
        };
        let channels = if config.sobel { Sobel::CHANNELS } else { config.channels };
        let conv1 = convolution(&init.at("conv1"), channels, first, kernel, stride)?;
        let bn1 = config.norm(&init.at("bn1"), first, Fill::Ones)?;
        let mut blocks = Vec::new();
        let mut inputs = first;
        for (stage, (&depth, &width)) in config.depths.iter().zip(&config.widths).enumerate() {
            for i in 0..depth {
                let init = init.at(&format!("layer{}.{i}", stage + 1));
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                blocks.push(Arc::new(Residual::new(&init, config, inputs, width, stride)?));
                inputs = width * config.block.expansion();
            }
        }
        let feature_dim = last * config.block.expansion();
        let fc = config.classes.map(|classes| Linear::new(&init.at("fc"), feature_dim, classes, true)).transpose()?;
        Ok(ResNet { sobel: config.sobel, stem: config.stem, conv1, bn1, blocks, fc, feature_dim })
    }
}

impl Module for ResNet {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let features = self.feature_map(x, cx)?.global_avg_pool()?;
        match &self.fc {
            Some(fc) => fc.forward(&features, cx),
            None => Ok(features),
        }
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.conv1.visit(v);
        self.bn1.visit(v);
        self.blocks.iter().for_each(|block| block.visit(v));
        if let Some(fc) = &self.fc {
            fc.visit(v);
        }
    }
}

impl Backbone for ResNet {
    fn feature_dim(&self) -> usize {
        self.feature_dim
    }

    fn feature_map(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let x = if self.sobel { Sobel.forward(x, cx)? } else { x.clone() };
        let mut x = self.bn1.forward_relu(&self.conv1.forward(&x, cx)?, cx)?;
        if self.stem == Stem::ImageNet {
            x = x.max_pool2d(ops::Pool2d { kernel: [3; 2], stride: [2; 2], padding: [1; 2] })?;
        }
        self.blocks.iter().try_fold(x, |x, block| run_block(block, &x, cx))
    }
}

/// One residual block: relu(branch(x) + shortcut(x)).
struct Residual {
    /// Convolution and norm of each step of the branch; relu between steps, after the addition for the last.
    branch: Vec<(Conv2d, BatchNorm)>,
    /// 1x1 convolution and norm where the shapes of input and output differ.
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Residual {
    fn new(init: &Init, config: &ResNetConfig, inputs: usize, width: usize, stride: usize) -> Result<Residual> {
        let outputs = width * config.block.expansion();
        // (kernel, channels out, stride) of each step.
        let steps = match config.block {
            Block::Basic => vec![(3, width, stride), (3, width, 1)],
            Block::Bottleneck => vec![(1, width, 1), (3, width, stride), (1, outputs, 1)],
        };
        let mut from = inputs;
        let mut branch = Vec::new();
        for (i, &(kernel, to, stride)) in steps.iter().enumerate() {
            let is_last = i + 1 == steps.len();
            let scale = if config.zero_init && is_last { Fill::Zeros } else { Fill::Ones };
            let conv = convolution(&init.at(&format!("conv{}", i + 1)), from, to, kernel, stride)?;
            branch.push((conv, config.norm(&init.at(&format!("bn{}", i + 1)), to, scale)?));
            from = to;
        }
        let downsample = if stride != 1 || inputs != outputs {
            let conv = convolution(&init.at("downsample.0"), inputs, outputs, 1, stride)?;
            Some((conv, config.norm(&init.at("downsample.1"), outputs, Fill::Ones)?))
        } else {
            None
        };
        Ok(Residual { branch, downsample })
    }
}

impl Module for Residual {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let shortcut = match &self.downsample {
            Some((conv, bn)) => bn.forward(&conv.forward(x, cx)?, cx)?,
            None => x.clone(),
        };
        let (last, before) = self.branch.split_last().expect("a branch has at least two steps");
        let mut y = x.clone();
        for (conv, bn) in before {
            y = bn.forward_relu(&conv.forward(&y, cx)?, cx)?;
        }
        last.1.forward_add_relu(&last.0.forward(&y, cx)?, &shortcut, cx)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        for (conv, bn) in self.branch.iter().chain(&self.downsample) {
            conv.visit(v);
            bn.visit(v);
        }
    }
}

/// A convolution without bias that keeps height and width at stride 1.
fn convolution(init: &Init, inputs: usize, outputs: usize, kernel: usize, stride: usize) -> Result<Conv2d> {
    Conv2d::new(init, inputs, outputs, kernel, Conv2dOpts { stride, padding: kernel / 2, ..Conv2dOpts::default() })
}

fn build(init: &Init, config: ResNetConfig, o: &BackboneOpts) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(ResNet::new(init, &config.with(o)?)?))
}

/// Sized for two cores.
pub(super) static RESNET_SMALL: BackboneSpec = BackboneSpec {
    name: "resnet-small",
    doc: "three basic blocks of 32, 64, 128 channels: 32x32 images on two cores",
    build: |init, o| build(init, ResNetConfig::small(), o),
};

/// 18 layers.
pub(super) static RESNET18: BackboneSpec = BackboneSpec {
    name: "resnet18",
    doc: "18 layers of basic blocks, 512 features",
    build: |init, o| build(init, ResNetConfig::standard(Block::Basic, [2, 2, 2, 2]), o),
};

/// 34 layers.
pub(super) static RESNET34: BackboneSpec = BackboneSpec {
    name: "resnet34",
    doc: "34 layers of basic blocks, 512 features",
    build: |init, o| build(init, ResNetConfig::standard(Block::Basic, [3, 4, 6, 3]), o),
};

/// 50 layers.
pub(super) static RESNET50: BackboneSpec = BackboneSpec {
    name: "resnet50",
    doc: "50 layers of bottlenecks with the stride in the 3x3, 2048 features",
    build: |init, o| build(init, ResNetConfig::standard(Block::Bottleneck, [3, 4, 6, 3]), o),
};
