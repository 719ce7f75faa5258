//! DINO's head (Caron et al. 2021, arXiv:2104.14294), with the names of its code.

use crate::layers::{BatchNorm, BatchNormOpts, Gain, Linear, WeightNormLinear};
use crate::{Ctx, Fill, Init, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Error, ErrorKind, Result};

/// Keeps a bottleneck of zeros from dividing by zero, as PyTorch does.
const EPS: f64 = 1e-12;

/// Options of [`DinoHead`]. The default is that of the paper for transformers: three layers, 2048 hidden features, a
/// bottleneck of 256, no batch norm, fixed lengths of the last layer's weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DinoHeadOpts {
    /// Linear layers up to the bottleneck, at least one.
    pub layers: usize,
    /// Features of the hidden layers.
    pub hidden: usize,
    /// Features that are normalised to length 1.
    pub bottleneck: usize,
    /// Whether batch norm stands in front of each GELU, for convolutional backbones.
    pub batch_norm: bool,
    /// Lengths of the last layer's weights: [`Gain::Fixed`] makes the outputs cosines.
    pub gain: Gain,
}

impl Default for DinoHeadOpts {
    fn default() -> DinoHeadOpts {
        DinoHeadOpts { layers: 3, hidden: 2048, bottleneck: 256, batch_norm: false, gain: Gain::Fixed }
    }
}

/// Linear layers with GELU between them, rows of length 1, then a weight-normalised layer: `[n, inputs]` to
/// `[n, outputs]`. The linear layers start from a normal of standard deviation 0.02, truncated at two of them, and
/// biases from 0.
pub struct DinoHead {
    layers: Vec<(Linear, Option<BatchNorm>)>,
    last: WeightNormLinear,
}

impl DinoHead {
    /// A head for features of length `inputs`.
    ///
    /// # Errors
    /// `Config` without a layer; `OutOfMemory`.
    pub fn new(init: &Init, inputs: usize, outputs: usize, o: DinoHeadOpts) -> Result<DinoHead> {
        if o.layers == 0 {
            return Err(Error::new(ErrorKind::Config, "dino head", "0 layers").expected("at least one"));
        }
        let mut layers = Vec::new();
        let (mut from, mut number) = (inputs, 0);
        for i in 0..o.layers {
            let is_last = i + 1 == o.layers;
            let to = if is_last { o.bottleneck } else { o.hidden };
            let at = |i: usize| init.at(&format!("mlp.{i}"));
            let linear = Linear::filled(&at(number), [from, to], Fill::TruncNormal { std: 0.02 }, Some(Fill::Zeros))?;
            let norm = || BatchNorm::new(&at(number + 1), to, BatchNormOpts::default());
            let norm = (o.batch_norm && !is_last).then(norm).transpose()?;
            // A GELU has a number too.
            number += 2 + usize::from(norm.is_some());
            layers.push((linear, norm));
            from = to;
        }
        let last = WeightNormLinear::new(&init.at("last_layer"), o.bottleneck, outputs, o.gain)?;
        Ok(DinoHead { layers, last })
    }

    /// The last layer, whose gradients DINO drops in the first epoch.
    pub fn last_layer(&self) -> &WeightNormLinear {
        &self.last
    }

    /// What the last layer sees: rows of length 1, `[n, bottleneck]`.
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn bottleneck(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let mut x = x.clone();
        for (i, (linear, norm)) in self.layers.iter().enumerate() {
            x = linear.forward(&x, cx)?;
            if let Some(norm) = norm {
                x = norm.forward(&x, cx)?;
            }
            if i + 1 < self.layers.len() {
                x = x.gelu()?;
            }
        }
        x.l2_normalize(EPS)
    }
}

impl Module for DinoHead {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        self.last.forward(&self.bottleneck(x, cx)?, cx)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        for (linear, norm) in &self.layers {
            linear.visit(v);
            if let Some(norm) = norm {
                norm.visit(v);
            }
        }
        self.last.visit(v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params;
    use selfsame_autograd::{Domain, Gen, gradcheck};
    use selfsame_engine::{Array, DType, Device};

    fn head(device: &Device, o: DinoHeadOpts) -> DinoHead {
        let init = Init::new(device, 2).with_dtype(DType::F64).at("head");
        DinoHead::new(&init, 6, 7, o).unwrap()
    }

    const SMALL: DinoHeadOpts =
        DinoHeadOpts { layers: 3, hidden: 5, bottleneck: 4, batch_norm: false, gain: Gain::Fixed };

    #[test]
    fn names_are_those_of_the_published_code() {
        let device = Device::cpu_with(1).unwrap();
        let names = |o: DinoHeadOpts| {
            let all = params(&head(&device, o));
            let names = all.iter().filter_map(|p| p.path().strip_prefix("head.").map(str::to_string));
            names.filter(|n| n.contains("weight")).collect::<Vec<_>>()
        };
        assert_eq!(names(SMALL), ["mlp.0.weight", "mlp.2.weight", "mlp.4.weight", "last_layer.weight_v"]);
        let all = ["mlp.0.weight", "mlp.1.weight", "mlp.3.weight", "mlp.4.weight", "mlp.6.weight"];
        let found = names(DinoHeadOpts { batch_norm: true, gain: Gain::Learned, ..SMALL });
        assert_eq!(found, [&all[..], &["last_layer.weight_v", "last_layer.weight_g"]].concat());
        assert!(DinoHead::new(&Init::new(&device, 0), 6, 7, DinoHeadOpts { layers: 0, ..SMALL }).is_err());
    }

    #[test]
    fn outputs_are_cosines_and_lengths_of_inputs_matter_to_the_mlp_alone() {
        let device = Device::cpu_with(1).unwrap();
        let head = head(&device, SMALL);
        let values: Vec<f64> = (0..18).map(|i| f64::from(i * 7 % 11) - 5.0).collect();
        let x = Tensor::constant(Array::from_slice(&values, &[3, 6], &device).unwrap());
        let z = head.bottleneck(&x, &Ctx::train()).unwrap().array().to_vec::<f64>().unwrap();
        assert!(z.chunks(4).all(|row| (row.iter().map(|v| v * v).sum::<f64>() - 1.0).abs() < 1e-12));
        let y = head.forward(&x, &Ctx::train()).unwrap();
        assert_eq!(y.shape(), [3, 7]);
        assert!(y.array().to_vec::<f64>().unwrap().iter().all(|c| c.abs() <= 1.0));
    }

    #[test]
    fn gradients_agree_with_differences() {
        let device = Device::cpu_with(1).unwrap();
        for (number, gain) in [(0, Gain::Fixed), (1, Gain::Learned), (2, Gain::Fixed)] {
            let head = head(&device, DinoHeadOpts { gain, ..SMALL });
            let mut g = Gen::new(&device, "dino head", 3, number);
            let x = g.array(&[4, 6], Domain::Normal).unwrap();
            let f = |x: &[Tensor]| Ok(vec![head.forward(&x[0], &Ctx::train())?]);
            assert!(gradcheck::check_function(f, &[x], &mut g).unwrap() <= 1.0);
        }
    }
}
