//! y = cos x.  Backward: dx = -dy·sin x.

use super::prelude::*;

struct Cos;

/// See [`Tensor::cos`].
pub(super) static COS: OpSpec =
    OpSpec { name: "cos", gradient: Gradient::Vjp, cases: |g| g.one_input(Cos, Domain::Normal) };

impl Op for Cos {
    fn spec(&self) -> &'static OpSpec {
        &COS
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Cos, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::scale(ops::mul(dy, &ops::unary(Unary::Sin, x)?)?, -1.0)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// The cosine, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn cos(&self) -> Result<Tensor> {
        apply1(Cos, &[self])
    }
}
