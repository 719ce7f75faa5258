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
