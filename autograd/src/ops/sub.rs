//! y = a - b, broadcast.  Backward: da = dy, db = -dy, each summed over the axes that were broadcast.

use super::prelude::*;

struct Sub;

/// See [`Tensor::sub`].
pub(super) static SUB: OpSpec =
    OpSpec { name: "sub", gradient: Gradient::Vjp, cases: |g| g.two_inputs(Sub, Domain::Normal, Domain::Normal) };

impl Op for Sub {
    fn spec(&self) -> &'static OpSpec {
        &SUB
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        save.keep_shape(x[1].shape());
        Ok(vec![ops::sub(x[0], x[1])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        let da = wanted(want, 0, || ops::sum_to(dy, saved.shape(0)?))?;
        let db = wanted(want, 1, || ops::unary(Unary::Neg, &ops::sum_to(dy, saved.shape(1)?)?))?;
        Ok(vec![da, db])
    }
}

impl Tensor {
    /// The difference, with broadcasting.
    ///
    /// # Errors
    /// `Shape` when the shapes do not broadcast; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn sub(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Sub, &[self, other])
    }
}
