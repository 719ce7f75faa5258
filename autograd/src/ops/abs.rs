//! y = |x|.  Backward: dx = dy·sign(x), 0 at x = 0.

use super::prelude::*;

struct Abs;

/// See [`Tensor::abs`].
pub(super) static ABS: OpSpec =
    OpSpec { name: "abs", gradient: Gradient::Vjp, cases: |g| g.one_input(Abs, Domain::Apart(&[0.0], 0.01)) };

impl Op for Abs {
    fn spec(&self) -> &'static OpSpec {
        &ABS
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Abs, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::binary(Binary::AbsGrad, x, dy)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// |x|, element by element. The gradient at 0 is 0.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn abs(&self) -> Result<Tensor> {
        apply1(Abs, &[self])
    }
}
