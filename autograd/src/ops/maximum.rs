//! y = the larger of a and b, broadcast; NaN if either is.  Backward: dy goes to the operand chosen, to `a` where both
//! are equal.

use super::extremum::{Extremum, case};
use super::prelude::*;

/// See [`Tensor::maximum`].
pub(super) static MAXIMUM: OpSpec = OpSpec { name: "maximum", gradient: Gradient::Vjp, cases: |g| case(g, op()) };

fn op() -> Extremum {
    Extremum { spec: &MAXIMUM, choose: Binary::Max, is_first: Compare::Ge }
}

impl Tensor {
    /// The larger of both, element by element, with broadcasting; the gradient of equals goes to `self`.
    ///
    /// # Errors
    /// `Shape` when the shapes do not broadcast; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn maximum(&self, other: &Tensor) -> Result<Tensor> {
        apply1(op(), &[self, other])
    }
}
