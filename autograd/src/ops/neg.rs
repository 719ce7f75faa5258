//! y = -x.  Backward: dx = -dy.

use super::prelude::*;

struct Neg;

/// See [`Tensor::neg`].
pub(super) static NEG: OpSpec =
    OpSpec { name: "neg", gradient: Gradient::Vjp, cases: |g| g.one_input(Neg, Domain::Normal) };

impl Op for Neg {
    fn spec(&self) -> &'static OpSpec {
        &NEG
    }

    fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
        Ok(vec![ops::unary(Unary::Neg, x[0])?])
    }

    fn vjp(&self, _: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dx = ops::unary(Unary::Neg, only(dy)?)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// -x, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn neg(&self) -> Result<Tensor> {
        apply1(Neg, &[self])
    }
}
