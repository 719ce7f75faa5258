//! y = a·b element by element, broadcast.  Backward: da = dy·b, db = dy·a, each summed over the axes that were
//! broadcast.

use super::prelude::*;

struct Mul;

/// See [`Tensor::mul`].
pub(super) static MUL: OpSpec =
    OpSpec { name: "mul", gradient: Gradient::Vjp, cases: |g| g.two_inputs(Mul, Domain::Normal, Domain::Normal) };

impl Op for Mul {
    fn spec(&self) -> &'static OpSpec {
        &MUL
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        save.keep(x[1]);
        Ok(vec![ops::mul(x[0], x[1])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (a, b, dy) = (saved.array(0)?, saved.array(1)?, only(dy)?);
        let da = wanted(want, 0, || ops::sum_to(&ops::mul(dy, b)?, a.shape()))?;
        let db = wanted(want, 1, || ops::sum_to(&ops::mul(dy, a)?, b.shape()))?;
        Ok(vec![da, db])
    }
}

impl Tensor {
    /// The product element by element, with broadcasting.
    ///
    /// # Errors
    /// `Shape` when the shapes do not broadcast; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn mul(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Mul, &[self, other])
    }
}
