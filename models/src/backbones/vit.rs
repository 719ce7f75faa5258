//! Vision transformers (Dosovitskiy et al. 2021, arXiv:2010.11929; tiny and small: Touvron et al. 2021,
//! arXiv:2012.12877), with timm's names: `cls_token`, `pos_embed`, `patch_embed.proj`, `blocks.0.norm1`,
//! `blocks.0.attn.qkv`, …, `norm`, `head`.
//!
//! ```text
//! patches ── linear ──┐
//! class token ────────┴─ + positions ─ blocks ─ norm ─ class token, or mean of the patches
//! block:  x + drop_path(proj(attention(qkv(norm1 x)))),  then  x + drop_path(fc2(gelu(fc1(norm2 x))))
//! ```
//! Nothing couples images, so every cut of a batch has the bits of the whole.

use super::{Backbone, BackboneOpts, BackboneSpec, run_block};
use crate::layers::{Conv2d, Conv2dOpts, DropPath, LayerNorm, Linear};
use crate::{Ctx, Fill, Init, Module};
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor, derive};
use selfsame_engine::ops::Interpolation;
use selfsame_engine::{Array, Error, ErrorKind, Result, nearest};
use std::sync::Arc;

/// Channels of a head.
const HEAD: usize = 64;

/// Added to the variance in layer norms.
const EPS: f64 = 1e-6;

/// First values of linear layers, tokens and positions.
const NORMAL: Fill = Fill::TruncNormal { std: 0.02 };

/// What the feature of an image is, after the last norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPool {
    /// The class token.
    Class,
    /// The mean of the patch tokens.
    Mean,
}

impl TokenPool {
    /// The pooling called `name`.
    ///
    /// # Errors
    /// `Config` with the nearest name.
    pub fn parse(name: &str) -> Result<TokenPool> {
        match name {
            "class" => Ok(TokenPool::Class),
            "mean" => Ok(TokenPool::Mean),
            _ => {
                let error = Error::new(ErrorKind::Config, "backbone.pool", format!("'{name}'")).expected("class, mean");
                Err(match nearest(name, ["class", "mean"]) {
                    Some(near) => error.hint(format!("is '{near}' meant?")),
                    None => error,
                })
            }
        }
    }
}

/// The shape of a vision transformer. Tokens have 64 channels per head.
#[derive(Clone, Debug, PartialEq)]
pub struct VitConfig {
    /// Attention heads.
    pub heads: usize,
    /// Blocks.
    pub depth: usize,
    /// Side of a patch in pixels.
    pub patch: usize,
    /// Side of the images that positions are learned for.
    pub image: usize,
    /// Channels of the images.
    pub channels: usize,
    /// What the feature is.
    pub pool: TokenPool,
    /// Probability of dropping a branch of the last block in training.
    pub drop_path: f64,
    /// Outputs of a final `head` layer.
    pub classes: Option<usize>,
}

impl VitConfig {
    /// Twelve blocks over patches of 16 pixels of images of 224, with that many heads.
    pub fn standard(heads: usize) -> VitConfig {
        VitConfig {
            heads,
            depth: 12,
            patch: 16,
            image: 224,
            channels: 3,
            pool: TokenPool::Class,
            drop_path: 0.0,
            classes: None,
        }
    }

    /// This shape with the options applied.
    ///
    /// # Errors
    /// `Config` for an option of other families.
    pub fn with(mut self, o: &BackboneOpts) -> Result<VitConfig> {
        o.only("vit", &["patch", "image", "depth", "pool", "drop_path"])?;
        if let Some(factor) = o.width {
            self.heads = ((self.heads as f64 * factor).round() as usize).max(1);
        }
        self.depth = o.depth.unwrap_or(self.depth);
        self.patch = o.patch.unwrap_or(self.patch);
        self.image = o.image.unwrap_or(self.image);
        self.channels = o.channels.unwrap_or(self.channels);
        self.pool = o.pool.unwrap_or(self.pool);
        self.drop_path = o.drop_path.unwrap_or(self.drop_path);
        self.classes = o.classes.or(self.classes);
        Ok(self)
    }

    /// Channels of a token.
    pub fn dim(&self) -> usize {
        HEAD * self.heads
    }
}

/// A vision transformer: `[n, h, w, channels]` to `[n, feature_dim]`, or to `[n, classes]` with a classification layer.
/// Height and width are any multiples of the patch.
///
/// Linear layers, tokens and positions start from a normal of standard deviation 0.02, truncated at two of them, biases
/// from 0; the patches' layer starts as a convolution does, uniform on ±1/sqrt(inputs). So does DINO's.
pub struct Vit {
    class_token: Param,
    positions: Param,
    patches: Conv2d,
    /// Shared, since a recomputing backward runs them again.
    blocks: Vec<Arc<TransformerBlock>>,
    norm: LayerNorm,
    head: Option<Linear>,
    pool: TokenPool,
    patch: usize,
    /// Patches along a side of the images that positions are learned for.
    grid: usize,
    dim: usize,
}

impl Vit {
    /// A network of that shape under the path of `init`.
    ///
    /// # Errors
    /// `Config` when patches do not divide images, or for a probability that is none; `OutOfMemory`.
    pub fn new(init: &Init, config: &VitConfig) -> Result<Vit> {
        let VitConfig { heads, depth, patch, image, .. } = *config;
        if patch == 0 || image == 0 || !image.is_multiple_of(patch) || heads == 0 {
            let got = format!("{heads} heads, patches of {patch} pixels in images of {image}");
            return Err(Error::new(ErrorKind::Config, "vit", got)
                .expected("at least one head, and images of a multiple of the patch")
                .hint("set patch and image"));
        }
        let (dim, grid) = (config.dim(), image / patch);
        let bound = 1.0 / ((patch * patch * config.channels).max(1) as f64).sqrt();
        let opts = Conv2dOpts {
            stride: patch,
            bias: Some(Fill::Uniform { bound }),
            fill: Fill::KaimingUniform,
            ..Conv2dOpts::default()
        };
        let block = |i: usize| {
            let drop = config.drop_path * i as f64 / depth.saturating_sub(1).max(1) as f64;
            Ok(Arc::new(TransformerBlock::new(&init.at(&format!("blocks.{i}")), heads, drop)?))
        };
        let head = |classes| Linear::filled(&init.at("head"), [dim, classes], NORMAL, Some(Fill::Zeros));
        Ok(Vit {
            class_token: init.param("cls_token", Role::Embedding, &[1, 1, dim], NORMAL)?,
            positions: init.param("pos_embed", Role::Embedding, &[1, 1 + grid * grid, dim], NORMAL)?,
            patches: Conv2d::new(&init.at("patch_embed.proj"), config.channels, dim, patch, opts)?,
            blocks: (0..depth).map(block).collect::<Result<_>>()?,
            norm: LayerNorm::new(&init.at("norm"), dim, EPS)?,
            head: config.classes.map(head).transpose()?,
            pool: config.pool,
            patch,
            grid,
            dim,
        })
    }

    /// All tokens `[n, 1 + h w / patch², feature_dim]` behind each of the last `blocks` blocks, the class token first,
    /// each after the final norm; the last block's comes last. DINO's linear probe reads the class tokens of four.
    ///
    /// # Errors
    /// `Shape` when the patches do not divide the images; `Config` when there are not so many blocks.
    pub fn last_tokens(&self, x: &Tensor, blocks: usize, cx: &Ctx) -> Result<Vec<Tensor>> {
        let Some(before) = self.blocks.len().checked_sub(blocks) else {
            return Err(Error::new(ErrorKind::Config, "vit", format!("the last {blocks} blocks"))
                .expected(format!("at most {}", self.blocks.len())));
        };
        let mut x = self.embed(x, cx)?;
        let mut last = Vec::with_capacity(blocks);
        for (i, block) in self.blocks.iter().enumerate() {
            x = run_block(block, &x, cx)?;
            if i >= before {
                last.push(self.norm.forward(&x, cx)?);
            }
        }
        Ok(last)
    }

    /// The tokens behind the last block and norm.
    fn tokens(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let x = self.embed(x, cx)?;
        let x = self.blocks.iter().try_fold(x, |x, block| run_block(block, &x, cx))?;
        self.norm.forward(&x, cx)
    }

    /// The tokens in front of the first block: class token and patches, with their positions.
    fn embed(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let to = self.grid_of(x)?;
        let (n, dim, tokens) = (x.shape()[0], self.dim, 1 + to[0] * to[1]);
        let patches = self.patches.forward(x, cx)?.reshape(&[n, tokens - 1, dim])?;
        // As a bias of nothing, the class token has a gradient that is a sum over samples; so have positions as a bias
        // of an image's tokens in a row.
        let zeros = Tensor::constant(Array::zeros(&[n, dim], patches.dtype(), patches.device())?);
        let class = derive(&[&cx.param(&self.class_token)], move |x| x[0].reshape(&[dim]))?;
        let class = zeros.add_bias(&class, cx.rows(&zeros)?)?.reshape(&[n, 1, dim])?;
        let row = Tensor::concat(&[&class, &patches], 1)?.reshape(&[n, tokens * dim])?;
        let from = self.grid;
        let positions = derive(&[&cx.param(&self.positions)], move |x| interpolated(&x[0], from, to))?;
        row.add_bias(&positions, cx.rows(&row)?)?.reshape(&[n, tokens, dim])
    }

    /// Patches along height and width of these images.
    fn grid_of(&self, x: &Tensor) -> Result<[usize; 2]> {
        let [_, h, w, _] = x.dims()?;
        if h == 0 || w == 0 || !h.is_multiple_of(self.patch) || !w.is_multiple_of(self.patch) {
            return Err(Error::new(ErrorKind::Shape, "vit", format!("images of {h} x {w} pixels"))
                .expected(format!("multiples of the patch of {} pixels", self.patch)));
        }
        Ok([h / self.patch, w / self.patch])
    }
}

/// The positions of a class token and of `to` patches in one row, from a table `[1, 1 + from², dim]`: bicubic between
/// the patches of the table, the class token's as it is.
fn interpolated(table: &Tensor, from: usize, to: [usize; 2]) -> Result<Tensor> {
    let [_, tokens, dim] = table.dims()?;
    if to == [from; 2] {
        return table.reshape(&[tokens * dim]);
    }
    let patches = table.slice(1, 1, tokens)?.reshape(&[1, from, from, dim])?;
    let patches = patches.interpolate(to, Interpolation::Bicubic, false)?.reshape(&[to[0] * to[1] * dim])?;
    let class = table.slice(1, 0, 1)?.reshape(&[dim])?;
    Tensor::concat(&[&class, &patches], 0)
}

impl Module for Vit {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let features = match self.pool {
            TokenPool::Class => self.tokens(x, cx)?.slice(1, 0, 1)?.reshape(&[x.shape()[0], self.dim])?,
            TokenPool::Mean => self.feature_map(x, cx)?.global_avg_pool()?,
        };
        match &self.head {
            Some(head) => head.forward(&features, cx),
            None => Ok(features),
        }
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        v.param(self.class_token.path(), &self.class_token);
        v.param(self.positions.path(), &self.positions);
        self.patches.visit(v);
        self.blocks.iter().for_each(|block| block.visit(v));
        self.norm.visit(v);
        if let Some(head) = &self.head {
            head.visit(v);
        }
    }
}

impl Backbone for Vit {
    fn feature_dim(&self) -> usize {
        self.dim
    }

    /// The patch tokens after the last norm, in their places.
    fn feature_map(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let [h, w] = self.grid_of(x)?;
        let tokens = self.tokens(x, cx)?;
        tokens.slice(1, 1, 1 + h * w)?.reshape(&[x.shape()[0], h, w, self.dim])
    }
}

/// Attention, then a perceptron of four times the width, each behind a norm and beside a shortcut.
struct TransformerBlock {
    norm1: LayerNorm,
    qkv: Linear,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    drops: [DropPath; 2],
    heads: usize,
}

impl TransformerBlock {
    fn new(init: &Init, heads: usize, drop: f64) -> Result<TransformerBlock> {
        let dim = HEAD * heads;
        let linear =
            |name: &str, inputs, outputs| Linear::filled(&init.at(name), [inputs, outputs], NORMAL, Some(Fill::Zeros));
        Ok(TransformerBlock {
            norm1: LayerNorm::new(&init.at("norm1"), dim, EPS)?,
            qkv: linear("attn.qkv", dim, 3 * dim)?,
            proj: linear("attn.proj", dim, dim)?,
            norm2: LayerNorm::new(&init.at("norm2"), dim, EPS)?,
            fc1: linear("mlp.fc1", dim, 4 * dim)?,
            fc2: linear("mlp.fc2", 4 * dim, dim)?,
            drops: [DropPath::new(&init.at("drop_path1"), drop)?, DropPath::new(&init.at("drop_path2"), drop)?],
            heads,
        })
    }
}

impl Module for TransformerBlock {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let mixed = self.qkv.forward(&self.norm1.forward(x, cx)?, cx)?.self_attention(self.heads)?;
        let x = x.add(&self.drops[0].forward(&self.proj.forward(&mixed, cx)?, cx)?)?;
        let hidden = self.fc1.forward(&self.norm2.forward(&x, cx)?, cx)?.gelu()?;
        x.add(&self.drops[1].forward(&self.fc2.forward(&hidden, cx)?, cx)?)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.norm1.visit(v);
        self.qkv.visit(v);
        self.proj.visit(v);
        self.norm2.visit(v);
        self.fc1.visit(v);
        self.fc2.visit(v);
    }
}

fn build(init: &Init, heads: usize, o: &BackboneOpts) -> Result<Box<dyn Backbone>> {
    Ok(Box::new(Vit::new(init, &VitConfig::standard(heads).with(o)?)?))
}

/// 3 heads.
pub(super) static VIT_TINY: BackboneSpec = BackboneSpec {
    name: "vit-tiny",
    doc: "12 transformer blocks of 3 heads, 192 features; patch and image to be set for small images",
    build: |init, o| build(init, 3, o),
};

/// 6 heads.
pub(super) static VIT_SMALL: BackboneSpec = BackboneSpec {
    name: "vit-small",
    doc: "12 transformer blocks of 6 heads, 384 features",
    build: |init, o| build(init, 6, o),
};

/// 12 heads.
pub(super) static VIT_BASE: BackboneSpec = BackboneSpec {
    name: "vit-base",
    doc: "12 transformer blocks of 12 heads, 768 features",
    build: |init, o| build(init, 12, o),
};
