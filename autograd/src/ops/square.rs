//! y = x².  Backward: dx = 2·x·dy.

use super::prelude::*;

struct Square;

/// See [`Tensor::square`].
pub(super) static SQUARE: OpSpec =
    OpSpec { name: "square", gradient: Gradient::Vjp, cases: |g| g.one_input(Square, Domain::Normal) };

impl Op for Square {
    fn spec(&self) -> &'static OpSpec {
        &SQUARE
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Square, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::scale(ops::mul(dy, x)?, 2.0)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// x², element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn square(&self) -> Result<Tensor> {
        apply1(Square, &[self])
    }
}
