//! y = tanh x.  Backward: dx = dy·(1 - y²).

use super::prelude::*;

struct Tanh;

/// See [`Tensor::tanh`].
pub(super) static TANH: OpSpec =
    OpSpec { name: "tanh", gradient: Gradient::Vjp, cases: |g| g.one_input(Tanh, Domain::Normal) };

impl Op for Tanh {
    fn spec(&self) -> &'static OpSpec {
        &TANH
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::unary(Unary::Tanh, x[0])?;
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (y, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::binary(Binary::TanhGrad, y, dy)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// The hyperbolic tangent, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn tanh(&self) -> Result<Tensor> {
        apply1(Tanh, &[self])
    }
}
