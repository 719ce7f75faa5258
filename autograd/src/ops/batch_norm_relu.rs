//! y = relu(batch_norm(x)): one pass over the activation instead of two, the same bits. Backward: dy is masked where y
//! is not above 0, then as for batch norm.

use super::batch_norm::{BatchNorm, BatchNormed, Form, case, normalize};
use super::prelude::*;

/// See [`Tensor::batch_norm_relu`].
pub(super) static BATCH_NORM_RELU: OpSpec =
    OpSpec { name: "batch_norm_relu", gradient: Gradient::Vjp, cases: |g| case(g, &BATCH_NORM_RELU, FORM) };

const FORM: Form = Form { relu: true, residual: false };

impl Tensor {
    /// Batch normalisation followed by ReLU: [`Tensor::batch_norm`] then [`Tensor::relu`], fused, with their bits.
    ///
    /// # Errors
    /// As for [`Tensor::batch_norm`].
    #[track_caller]
    pub fn batch_norm_relu(
        &self,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        options: &BatchNorm,
    ) -> Result<BatchNormed> {
        normalize(&BATCH_NORM_RELU, FORM, self, [gamma, beta, None], options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::BatchStats;
    use selfsame_engine::Device;

    #[test]
    fn fusing_does_not_change_a_bit() -> Result<()> {
        let device = Device::cpu_with(2)?;
        let mut g = Gen::new(&device, "batch_norm_relu", 3, 0);
        let mut values = |shape: &[usize]| ops::cast(&g.array(shape, Domain::Normal)?, selfsame_engine::DType::F32);
        let [x, residual, dy] = [values(&[20, 9, 19])?, values(&[20, 9, 19])?, values(&[20, 9, 19])?];
        let [gamma, beta] = [values(&[19])?, values(&[19])?];
        let options = BatchNorm { eps: 1e-5, rows: Rows::of(x.shape(), 0)?, stats: BatchStats::Batch(None) };
        let run = |fused: bool| -> Result<Vec<Vec<u32>>> {
            let inputs = [&x, &gamma, &beta, &residual].map(|a| Tensor::leaf(a.clone()));
            let [x, gamma, beta, _] = &inputs;
            let y = if fused {
                x.batch_norm_relu(Some(gamma), Some(beta), &options)?.y
            } else {
                let plain = x.batch_norm(Some(gamma), Some(beta), &options)?.y;
                plain.relu()?
            };
            let grads = y.backward_from(dy.clone())?;
            let mut found = vec![y.array().to_vec::<f32>()?];
            for input in [x, gamma, beta] {
                found.push(grads.get(input)?.expect("a gradient").to_vec::<f32>()?);
            }
            Ok(found.into_iter().map(|v| v.into_iter().map(f32::to_bits).collect()).collect())
        };
        assert_eq!(run(true)?, run(false)?);
        Ok(())
    }
}
