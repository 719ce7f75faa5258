//! Linear layer: y = x W + b.

use crate::{Ctx, Fill, Init, Module};
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::Result;

/// A linear map of the last axis: `[images, …, in]` to `[images, …, out]`.
///
/// `weight` is `[in, out]`; weight and bias are filled as PyTorch fills its `Linear`, uniform on ±1/sqrt(in).
pub struct Linear {
    weight: Param,
    bias: Option<Param>,
}

impl Linear {
    /// A layer with PyTorch's filling.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(init: &Init, inputs: usize, outputs: usize, bias: bool) -> Result<Linear> {
        let bound = 1.0 / (inputs.max(1) as f64).sqrt();
        Linear::filled(init, [inputs, outputs], Fill::KaimingUniform, bias.then_some(Fill::Uniform { bound }))
    }

    /// A layer `[in, out]` with other first values; without bias when `bias` is `None`.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn filled(init: &Init, shape: [usize; 2], weight: Fill, bias: Option<Fill>) -> Result<Linear> {
        Ok(Linear {
            weight: init.param("weight", Role::Weight, &shape, weight)?,
            bias: bias.map(|fill| init.param("bias", Role::Bias, &shape[1..], fill)).transpose()?,
        })
    }
}

impl Module for Linear {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| cx.param(bias));
        x.linear(&cx.param(&self.weight), bias.as_ref(), cx.rows(x)?)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        v.param(self.weight.path(), &self.weight);
        if let Some(bias) = &self.bias {
            v.param(bias.path(), bias);
        }
    }
}
