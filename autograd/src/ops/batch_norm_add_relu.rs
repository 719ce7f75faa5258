//! y = relu(batch_norm(x) + residual): the end of a residual block in one pass, with the bits of the three steps.
//! Backward: dy masked where y is not above 0 is the gradient of the residual; from there as for batch norm.

use super::batch_norm::{BatchNorm, BatchNormed, Form, case, normalize};
use super::prelude::*;

/// See [`Tensor::batch_norm_add_relu`].
pub(super) static BATCH_NORM_ADD_RELU: OpSpec =
    OpSpec { name: "batch_norm_add_relu", gradient: Gradient::Vjp, cases: |g| case(g, &BATCH_NORM_ADD_RELU, FORM) };

const FORM: Form = Form { relu: true, residual: true };

impl Tensor {
    /// [`Tensor::batch_norm`], plus `residual` (the shape of `self`), then [`Tensor::relu`]: fused, with their bits.
    ///
    /// # Errors
    /// As for [`Tensor::batch_norm`].
    #[track_caller]
    pub fn batch_norm_add_relu(
        &self,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        residual: &Tensor,
        options: &BatchNorm,
    ) -> Result<BatchNormed> {
        normalize(&BATCH_NORM_ADD_RELU, FORM, self, [gamma, beta, Some(residual)], options)
    }
}
