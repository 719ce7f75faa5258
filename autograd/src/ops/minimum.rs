//! y = the smaller of a and b, broadcast; NaN if either is.  Backward: dy goes to the operand chosen, to `a` where both
//! are equal.

use super::extremum::{Extremum, case};
use super::prelude::*;

/// See [`Tensor::minimum`].
pub(super) static MINIMUM: OpSpec = OpSpec { name: "minimum", gradient: Gradient::Vjp, cases: |g| case(g, op()) };

fn op() -> Extremum {
    Extremum { spec: &MINIMUM, choose: Binary::Min, is_first: Compare::Le }
}

impl Tensor {
    /// The smaller of both, element by element, with broadcasting; the gradient of equals goes to `self`.
    ///
    /// # Errors
    /// `Shape` when the shapes do not broadcast; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor> {
        apply1(op(), &[self, other])
    }
}
