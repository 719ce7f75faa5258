//! y = gamma·x̂ + beta with x̂ = (x - mean)·rstd over the last axis.  Backward: dx = rstd·(g - mean(g) - x̂·mean(g·x̂))
//! with g = gamma·dy; dgamma = Σ dy·x̂ and dbeta = Σ dy are sums over samples.

use super::prelude::*;
use super::row_norm::{RowNorm, case};

/// See [`Tensor::layer_norm`].
pub(super) static LAYER_NORM: OpSpec = OpSpec {
    name: "layer_norm",
    gradient: Gradient::Vjp,
    cases: |g| {
        let mut shape = g.full_shape((1, 3));
        shape.push(2 + g.below(9));
        case(g, &LAYER_NORM, None, &shape)
    },
};

impl Tensor {
    /// Layer normalisation over the last axis (Ba, Kiros, Hinton 2016).
    ///
    /// `self` is `[images, .., c]`, `gamma` and `beta` are `[c]`; `rows` says which images these are of the global
    /// batch, over which the gradients of gamma and beta are summed.
    ///
    /// # Errors
    /// `Shape` when shapes or rows do not fit; `DType` for a type that is not a float; `Config` when `eps` is not
    /// positive.
    #[track_caller]
    pub fn layer_norm(&self, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64, rows: Rows) -> Result<Tensor> {
        RowNorm::new(&LAYER_NORM, None, eps, rows).apply(self, gamma, beta)
    }
}
