//! Normalisation within an image: layer norm and group norm.

use crate::{Ctx, Fill, Init, Module};
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Error, ErrorKind, Result};

/// Scale (from 1) and offset (from 0), per channel.
struct Affine {
    weight: Param,
    bias: Param,
}

impl Affine {
    fn new(init: &Init, channels: usize) -> Result<Affine> {
        Ok(Affine {
            weight: init.param("weight", Role::NormScale, &[channels], Fill::Ones)?,
            bias: init.param("bias", Role::NormBias, &[channels], Fill::Zeros)?,
        })
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        v.param(self.weight.path(), &self.weight);
        v.param(self.bias.path(), &self.bias);
    }
}

/// Layer normalisation over the last axis of `[images, …, channels]` (Ba, Kiros and Hinton 2016).
pub struct LayerNorm {
    affine: Affine,
    eps: f64,
}

impl LayerNorm {
    /// A layer for activations of that many channels; `eps` is added to the variance (1e-6 in vision transformers).
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(init: &Init, channels: usize, eps: f64) -> Result<LayerNorm> {
        Ok(LayerNorm { affine: Affine::new(init, channels)?, eps })
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let (gamma, beta) = (cx.param(&self.affine.weight), cx.param(&self.affine.bias));
        x.layer_norm(Some(&gamma), Some(&beta), self.eps, cx.rows(x)?)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.affine.visit(v);
    }
}

/// Group normalisation of `[images, …, channels]` (Wu and He 2018): per image, over all positions and the channels of
/// a group.
pub struct GroupNorm {
    affine: Affine,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// A layer for activations of that many channels in `groups` groups.
    ///
    /// # Errors
    /// `Shape` when the groups do not divide the channels.
    pub fn new(init: &Init, groups: usize, channels: usize, eps: f64) -> Result<GroupNorm> {
        if groups == 0 || !channels.is_multiple_of(groups) {
            return Err(Error::new(ErrorKind::Shape, "group_norm", format!("{channels} channels in {groups} groups"))
                .expected("groups that divide the channels"));
        }
        Ok(GroupNorm { affine: Affine::new(init, channels)?, groups, eps })
    }
}

impl Module for GroupNorm {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let (gamma, beta) = (cx.param(&self.affine.weight), cx.param(&self.affine.bias));
        x.group_norm(self.groups, Some(&gamma), Some(&beta), self.eps, cx.rows(x)?)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        self.affine.visit(v);
    }
}
