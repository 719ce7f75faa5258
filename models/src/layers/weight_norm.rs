//! Weight normalisation (Salimans and Kingma 2016) of a linear layer.

use crate::{Ctx, Fill, Init, Module};
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor, derive};
use selfsame_engine::Result;

/// Keeps the length of a weight of zeros from dividing by zero.
const EPS: f64 = 1e-12;

/// The lengths of the weights of a [`WeightNormLinear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gain {
    /// All 1: of a vector of length 1, outputs are cosines.
    Fixed,
    /// Learned, from 1.
    Learned,
}

/// A linear map without bias, `[images, …, in]` to `[images, …, out]`, whose weight for output k is g_k v_k / ‖v_k‖.
///
/// The directions v are the columns of `weight_v` `[in, out]`, filled as PyTorch fills a linear layer; `weight_g`
/// `[1, out]` holds learned lengths and decays like any weight. The gradient of v_k is at right angles to it.
pub struct WeightNormLinear {
    directions: Param,
    gains: Option<Param>,
}

impl WeightNormLinear {
    /// A layer from `inputs` to `outputs` features.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(init: &Init, inputs: usize, outputs: usize, gain: Gain) -> Result<WeightNormLinear> {
        let gains = || init.param("weight_g", Role::Weight, &[1, outputs], Fill::Ones);
        Ok(WeightNormLinear {
            directions: init.param("weight_v", Role::Weight, &[inputs, outputs], Fill::KaimingUniform)?,
            gains: (gain == Gain::Learned).then(gains).transpose()?,
        })
    }
}

impl Module for WeightNormLinear {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let inputs: Vec<Tensor> = [&self.directions].into_iter().chain(&self.gains).map(|p| cx.param(p)).collect();
        let weight = derive(&inputs.iter().collect::<Vec<_>>(), |x| {
            let unit = x[0].transpose(0, 1)?.l2_normalize(EPS)?.transpose(0, 1)?;
            x.get(1).map_or(Ok(unit.clone()), |gains| unit.mul(gains))
        })?;
        x.linear(&weight, None, cx.rows(x)?)
    }

    fn visit(&self, v: &mut dyn ParamVisitor) {
        [&self.directions].into_iter().chain(&self.gains).for_each(|p| v.param(p.path(), p));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::{Array, DType, Device};

    fn layer(gain: Gain) -> (WeightNormLinear, Device) {
        let device = Device::cpu_with(1).unwrap();
        let init = Init::new(&device, 1).with_dtype(DType::F64).at("last");
        let layer = WeightNormLinear::new(&init, 2, 2, gain).unwrap();
        layer.directions.set(Array::from_slice(&[3.0, 0.0, 4.0, -0.5], &[2, 2], &device).unwrap()).unwrap();
        (layer, device)
    }

    /// Columns (3, 4) and (0, -1/2) have the directions (0.6, 0.8) and (0, -1).
    #[test]
    fn outputs_are_cosines_times_gains() {
        let (layer, device) = layer(Gain::Learned);
        let x = Tensor::constant(Array::from_slice(&[0.8, 0.6], &[1, 2], &device).unwrap());
        let y = |layer: &WeightNormLinear| layer.forward(&x, &Ctx::train()).unwrap().array().to_vec::<f64>().unwrap();
        let near = |found: Vec<f64>, expected: [f64; 2]| {
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14), "{found:?} {expected:?}");
        };
        near(y(&layer), [0.96, -0.6]);
        let gains = layer.gains.as_ref().unwrap();
        gains.set(Array::from_slice(&[10.0, 0.5], &[1, 2], &device).unwrap()).unwrap();
        near(y(&layer), [9.6, -0.3]);
    }

    /// d/dv = g / ‖v‖ (I - v vᵀ / ‖v‖²) dW. With x = (1, 0) and dy = (1, 1), dW has the rows (1, 1) and (0, 0): of the
    /// first column (0.64, -0.48) / 5, of the second (1, 0) / 0.5.
    #[test]
    fn gradients_by_hand() {
        for gain in [Gain::Fixed, Gain::Learned] {
            let (layer, device) = layer(gain);
            let x = Tensor::constant(Array::from_slice(&[1.0, 0.0], &[1, 2], &device).unwrap());
            let grads = layer.forward(&x, &Ctx::train()).unwrap().sum_all().unwrap().backward().unwrap();
            let of = |p: &Param| grads.param(p).unwrap().unwrap().to_vec::<f64>().unwrap();
            let expected = [0.128, 2.0, -0.096, 0.0];
            assert!(of(&layer.directions).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-14));
            if let Some(gains) = &layer.gains {
                assert!(of(gains).iter().zip([0.6, 0.0]).all(|(a, b)| (a - b).abs() < 1e-14));
            }
        }
    }
}
