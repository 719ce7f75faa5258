//! y = eˣ.  Backward: dx = dy·y.

use super::prelude::*;

struct Exp;

/// See [`Tensor::exp`].
pub(super) static EXP: OpSpec =
    OpSpec { name: "exp", gradient: Gradient::Vjp, cases: |g| g.one_input(Exp, Domain::Normal) };

impl Op for Exp {
    fn spec(&self) -> &'static OpSpec {
        &EXP
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::unary(Unary::Exp, x[0])?;
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (y, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::mul(dy, y)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// eˣ, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn exp(&self) -> Result<Tensor> {
        apply1(Exp, &[self])
    }
}
