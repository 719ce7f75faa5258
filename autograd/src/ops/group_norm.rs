//! y = gamma·x̂ + beta with x̂ = (x - mean)·rstd over all positions and the channels of a group, image by image.
//! Backward as for layer norm, with means over the group.

use super::prelude::*;
use super::row_norm::{RowNorm, case};

/// See [`Tensor::group_norm`].
pub(super) static GROUP_NORM: OpSpec = OpSpec {
    name: "group_norm",
    gradient: Gradient::Vjp,
    cases: |g| {
        let groups = g.pick(&[1, 2, 3]);
        let mut shape = g.full_shape((1, 3));
        shape[0] = shape[0].min(4);
        shape.push(groups * (2 + g.below(3)));
        case(g, &GROUP_NORM, Some(groups), &shape)
    },
};

impl Tensor {
    /// Group normalisation with channels in `groups` blocks (Wu, He 2018).
    ///
    /// `self` is `[images, .., c]`, `gamma` and `beta` are `[c]`; `rows` says which images these are of the global
    /// batch, over which the gradients of gamma and beta are summed.
    ///
    /// # Errors
    /// `Shape` when shapes or rows do not fit; `DType` for a type that is not a float; `Config` when `eps` is not
    /// positive.
    #[track_caller]
    pub fn group_norm(
        &self,
        groups: usize,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        eps: f64,
        rows: Rows,
    ) -> Result<Tensor> {
        RowNorm::new(&GROUP_NORM, Some(groups), eps, rows).apply(self, gamma, beta)
    }
}
