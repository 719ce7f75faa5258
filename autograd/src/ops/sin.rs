//! y = sin x.  Backward: dx = dy·cos x.

use super::prelude::*;

struct Sin;

/// See [`Tensor::sin`].
pub(super) static SIN: OpSpec =
    OpSpec { name: "sin", gradient: Gradient::Vjp, cases: |g| g.one_input(Sin, Domain::Normal) };

impl Op for Sin {
    fn spec(&self) -> &'static OpSpec {
        &SIN
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Sin, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::mul(dy, &ops::unary(Unary::Cos, x)?)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// The sine, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn sin(&self) -> Result<Tensor> {
        apply1(Sin, &[self])
    }
}
