//! y = the smaller of a and b, broadcast; NaN if either is.  Backward: dy goes to the operand chosen, to `a` where both
//! are equal.

use super::prelude::*;

struct Minimum;

/// See [`Tensor::minimum`].
pub(super) static MINIMUM: OpSpec = OpSpec {
    name: "minimum",
    gradient: Gradient::Vjp,
    // Two grids that never meet: no ties.
    cases: |g| g.two_inputs(Minimum, Domain::Grid(0.0), Domain::Grid(0.05)),
};

impl Op for Minimum {
    fn spec(&self) -> &'static OpSpec {
        &MINIMUM
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        save.keep(x[1]);
        Ok(vec![ops::binary(Binary::Min, x[0], x[1])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (a, b, dy) = (saved.array(0)?, saved.array(1)?, only(dy)?);
        let first = ops::compare(Compare::Le, a, b)?;
        let zero = Array::zeros(&[], dy.dtype(), dy.device())?;
        let da = wanted(want, 0, || ops::sum_to(&ops::select(&first, dy, &zero)?, a.shape()))?;
        let db = wanted(want, 1, || ops::sum_to(&ops::select(&first, &zero, dy)?, b.shape()))?;
        Ok(vec![da, db])
    }
}

impl Tensor {
    /// The smaller of both, element by element, with broadcasting; the gradient of equals goes to `self`.
    ///
    /// # Errors
    /// `Shape` when the shapes do not broadcast; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn minimum(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Minimum, &[self, other])
    }
}
