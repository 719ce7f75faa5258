//! Multi-layer perceptrons: projectors and predictors.

use crate::layers::{BatchNorm, BatchNormOpts, Linear};
use crate::{Ctx, Init, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Error, ErrorKind, Result};

/// Which layers of an [`Mlp`] carry a bias and a batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MlpOpts {
    /// Batch norm between a hidden linear layer and its ReLU.
    pub hidden_norm: bool,
    /// Whether a hidden linear layer with batch norm has a bias, which the norm's mean takes away again; without batch
    /// norm it always has one.
    pub hidden_bias: bool,
    /// Batch norm after the last linear layer.
    pub output_norm: OutputNorm,
}

/// The end of an [`Mlp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputNorm {
    /// Linear with bias.
    None,
    /// Linear without bias.
    NoBias,
    /// Linear without bias, batch norm with a scale but no offset.
    Scale,
    /// Linear without bias, batch norm with neither scale nor offset.
    Plain,
}

impl MlpOpts {
    /// SimCLR's first released code: Linear - BN - ReLU - Linear - BN without offset, no biases.
    pub const SIMCLR: MlpOpts = MlpOpts { hidden_norm: true, hidden_bias: false, output_norm: OutputNorm::Scale };

    /// SimCLR's paper: W2 relu(W1 h), here with biases.
    pub const PAPER: MlpOpts = MlpOpts { hidden_norm: false, hidden_bias: true, output_norm: OutputNorm::None };

    /// BYOL's projector and predictor (Grill et al. 2020): Linear with bias - BN - ReLU - Linear without bias.
    pub const BYOL: MlpOpts = MlpOpts { hidden_norm: true, hidden_bias: true, output_norm: OutputNorm::NoBias };

    /// Barlow Twins' projector of three layers (Zbontar et al. 2021): BN and ReLU between linear layers without biases.
    pub const BARLOW_TWINS: MlpOpts =
        MlpOpts { hidden_norm: true, hidden_bias: false, output_norm: OutputNorm::NoBias };

    /// The projector of SwAV and DeepCluster-v2: Linear - BN - ReLU - Linear, both with bias.
    pub const SWAV: MlpOpts = MlpOpts { hidden_norm: true, hidden_bias: true, output_norm: OutputNorm::None };

    /// SimSiam's projector (Chen and He 2021): no biases, BN after every layer, the last with neither scale nor offset.
    pub const SIMSIAM: MlpOpts = MlpOpts { hidden_norm: true, hidden_bias: false, output_norm: OutputNorm::Plain };
}

/// Linear layers with ReLU between them: `[n, sizes[0]]` to `[n, sizes[last]]`.
///
/// Paths: linear layer i at `i.linear`, its batch norm at `i.bn`.
pub struct Mlp {
    layers: Vec<(Linear, Option<BatchNorm>)>,
}

impl Mlp {
    /// A perceptron whose layer i maps `sizes[i]` to `sizes[i + 1]` features.
    ///
    /// # Errors
    /// `Config` for fewer than two sizes.
    pub fn new(init: &Init, sizes: &[usize], o: MlpOpts) -> Result<Mlp> {
        if sizes.len() < 2 {
            return Err(Error::new(ErrorKind::Config, "mlp", format!("sizes {sizes:?}")).expected("at least two sizes"));
        }
        let last = sizes.len() - 2;
        let layer = |(i, pair): (usize, &[usize])| {
            let norm = match o.output_norm {
                _ if i < last => o.hidden_norm.then(BatchNormOpts::default),
                OutputNorm::None | OutputNorm::NoBias => None,
                OutputNorm::Scale => Some(BatchNormOpts { offset: false, ..BatchNormOpts::default() }),
                OutputNorm::Plain => Some(BatchNormOpts { scale: None, offset: false, ..BatchNormOpts::default() }),
            };
            let init = init.at(&i.to_string());
            let bias = match norm {
                Some(_) => i < last && o.hidden_bias,
                None => i < last || o.output_norm != OutputNorm::NoBias,
            };
            let linear = Linear::new(&init.at("linear"), pair[0], pair[1], bias)?;
            let norm = norm.map(|opts| BatchNorm::new(&init.at("bn"), pair[1], opts)).transpose()?;
            Ok((linear, norm))
        };
        Ok(Mlp { layers: sizes.windows(2).enumerate().map(layer).collect::<Result<_>>()? })
    }
}

impl Module for Mlp {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, (linear, norm)) in self.layers.iter().enumerate() {
            x = linear.forward(&x, cx)?;
            let is_last = i + 1 == self.layers.len();
            x = match (norm, is_last) {
                (Some(norm), false) => norm.forward_relu(&x, cx)?,
                (Some(norm), true) => norm.forward(&x, cx)?,
                (None, false) => x.relu()?,
                (None, true) => x,
            };
        }
        Ok(x)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        for (linear, norm) in &self.layers {
            linear.visit(v);
            if let Some(norm) = norm {
                norm.visit(v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params;
    use selfsame_engine::{Array, Device};

    fn names(o: MlpOpts) -> Vec<String> {
        let mlp = Mlp::new(&Init::new(&Device::cpu_with(1).unwrap(), 0), &[6, 5, 4], o).unwrap();
        let all = params(&mlp);
        all.iter().map(|p| p.path().to_string()).filter(|n| !n.contains("running")).collect()
    }

    #[test]
    fn simclr_has_no_bias_and_no_last_offset() {
        assert_eq!(
            names(MlpOpts::SIMCLR),
            ["0.linear.weight", "0.bn.weight", "0.bn.bias", "1.linear.weight", "1.bn.weight"]
        );
        assert_eq!(names(MlpOpts::PAPER), ["0.linear.weight", "0.linear.bias", "1.linear.weight", "1.linear.bias"]);
        let hidden = ["0.linear.weight", "0.bn.weight", "0.bn.bias", "1.linear.weight"];
        assert_eq!(names(MlpOpts::SIMSIAM), hidden);
        assert_eq!(names(MlpOpts::BARLOW_TWINS), hidden);
    }

    #[test]
    fn byol_has_the_hidden_bias_alone() {
        let hidden = ["0.linear.weight", "0.linear.bias", "0.bn.weight", "0.bn.bias", "1.linear.weight"];
        assert_eq!(names(MlpOpts::BYOL), hidden);
        assert_eq!(names(MlpOpts::SWAV), [&hidden[..], &["1.linear.bias"]].concat());
    }

    #[test]
    fn the_hidden_layer_is_rectified_and_the_last_is_not() {
        let device = Device::cpu_with(1).unwrap();
        let mlp = Mlp::new(&Init::new(&device, 3), &[6, 50, 40], MlpOpts::SIMCLR).unwrap();
        let values: Vec<f32> = (0..8 * 6).map(|i| (i * 37 % 19) as f32 - 9.0).collect();
        let x = Tensor::constant(Array::from_slice(&values, &[8, 6], &device).unwrap());
        let y = mlp.forward(&x, &Ctx::train()).unwrap();
        assert_eq!(y.shape(), [8, 40]);
        // A batch norm without offset: every output channel has mean 0 and so both signs.
        let y = y.array().to_vec::<f32>().unwrap();
        for channel in 0..40 {
            let column: Vec<f32> = y.iter().skip(channel).step_by(40).copied().collect();
            assert!(column.iter().sum::<f32>().abs() < 1e-4 && column.iter().any(|v| *v < 0.0));
        }
        assert!(Mlp::new(&Init::new(&device, 3), &[6], MlpOpts::SIMCLR).is_err());
    }
}
