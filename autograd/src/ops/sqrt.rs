//! y = √x.  Backward: dx = dy / 2y; infinite or NaN at 0.

use super::prelude::*;

struct Sqrt;

/// See [`Tensor::sqrt`].
pub(super) static SQRT: OpSpec =
    OpSpec { name: "sqrt", gradient: Gradient::Vjp, cases: |g| g.one_input(Sqrt, Domain::Range(0.2, 3.0)) };

impl Op for Sqrt {
    fn spec(&self) -> &'static OpSpec {
        &SQRT
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::unary(Unary::Sqrt, x[0])?;
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (y, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::binary(Binary::SqrtGrad, y, dy)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// The square root, element by element. The gradient at 0 is infinite or NaN.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn sqrt(&self) -> Result<Tensor> {
        apply1(Sqrt, &[self])
    }
}
