//! Convolution over NHWC images.

use crate::{Ctx, Fan, Fill, Init, Module};
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Error, ErrorKind, Result, ops};

/// Options of [`Conv2d`]. The default: stride 1, no padding, no dilation, one group, no bias, He's fan-out filling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Conv2dOpts {
    /// Step between outputs, in both directions.
    pub stride: usize,
    /// Rows and columns of zeros on every side.
    pub padding: usize,
    /// Distance between kernel taps.
    pub dilation: usize,
    /// Channel groups that do not mix.
    pub groups: usize,
    /// First values of the bias; `None` for no bias.
    pub bias: Option<Fill>,
    /// First values of the weight.
    pub fill: Fill,
}

impl Default for Conv2dOpts {
    fn default() -> Conv2dOpts {
        let fill = Fill::KaimingNormal { fan: Fan::Out };
        Conv2dOpts { stride: 1, padding: 0, dilation: 1, groups: 1, bias: None, fill }
    }
}

/// A convolution `[n, h, w, c_in]` to `[n, h', w', c_out]` with a square kernel. `weight` is HWIO.
pub struct Conv2d {
    weight: Param,
    bias: Option<Param>,
    geometry: ops::Conv2d,
}

impl Conv2d {
    /// A convolution of `inputs` to `outputs` channels with a `kernel` x `kernel` window.
    ///
    /// # Errors
    /// `Shape` when the groups do not divide the channels.
    pub fn new(init: &Init, inputs: usize, outputs: usize, kernel: usize, o: Conv2dOpts) -> Result<Conv2d> {
        if o.groups == 0 || !inputs.is_multiple_of(o.groups) || !outputs.is_multiple_of(o.groups) {
            let got = format!("{inputs} input and {outputs} output channels in {} groups", o.groups);
            return Err(Error::new(ErrorKind::Shape, "conv2d", got).expected("groups that divide both"));
        }
        let shape = [kernel, kernel, inputs / o.groups, outputs];
        Ok(Conv2d {
            weight: init.param("weight", Role::Weight, &shape, o.fill)?,
            bias: o.bias.map(|fill| init.param("bias", Role::Bias, &[outputs], fill)).transpose()?,
            geometry: ops::Conv2d {
                stride: [o.stride; 2],
                padding: [o.padding; 2],
                dilation: [o.dilation; 2],
                groups: o.groups,
            },
        })
    }
}

impl Module for Conv2d {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let y = x.conv2d(&cx.param(&self.weight), self.geometry, cx.rows(x)?)?;
        match &self.bias {
            Some(bias) => y.add_bias(&cx.param(bias), cx.rows(&y)?),
            None => Ok(y),
        }
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        v.param(self.weight.path(), &self.weight);
        if let Some(bias) = &self.bias {
            v.param(bias.path(), bias);
        }
    }
}
