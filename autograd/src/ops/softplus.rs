//! y = ln(1 + eˣ).  Backward: dx = dy·sigmoid(x).

use super::prelude::*;

struct Softplus;

/// See [`Tensor::softplus`].
pub(super) static SOFTPLUS: OpSpec =
    OpSpec { name: "softplus", gradient: Gradient::Vjp, cases: |g| g.one_input(Softplus, Domain::Normal) };

impl Op for Softplus {
    fn spec(&self) -> &'static OpSpec {
        &SOFTPLUS
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Softplus, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::binary(Binary::SoftplusGrad, x, dy)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// ln(1 + eˣ), element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn softplus(&self) -> Result<Tensor> {
        apply1(Softplus, &[self])
    }
}
