//! y = a / b element by element, broadcast.  Backward: da = dy / b, db = -(dy / b)·y, each summed over the axes that
//! were broadcast.

use super::prelude::*;

struct Div;

/// See [`Tensor::div`].
pub(super) static DIV: OpSpec = OpSpec {
    name: "div",
    gradient: Gradient::Vjp,
    cases: |g| g.two_inputs(Div, Domain::Normal, Domain::Range(0.5, 3.0)),
};

impl Op for Div {
    fn spec(&self) -> &'static OpSpec {
        &DIV
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::div(x[0], x[1])?;
        save.keep_shape(x[0].shape());
        save.keep(x[1]);
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (b, y) = (saved.array(0)?, saved.array(1)?);
        let quotient = ops::div(only(dy)?, b)?;
        let da = wanted(want, 0, || ops::sum_to(&quotient, saved.shape(0)?))?;
        let db = wanted(want, 1, || ops::unary(Unary::Neg, &ops::sum_to(&ops::mul(&quotient, y)?, b.shape())?))?;
        Ok(vec![da, db])
    }
}

impl Tensor {
    /// The quotient element by element, with broadcasting.
    ///
    /// # Errors
    /// `Shape` when the shapes do not broadcast; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn div(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Div, &[self, other])
    }
}
