//! y = erf x.  Backward: dx = dy·(2/√π)·e^(-x²).

use super::prelude::*;

struct Erf;

/// See [`Tensor::erf`].
pub(super) static ERF: OpSpec =
    OpSpec { name: "erf", gradient: Gradient::Vjp, cases: |g| g.one_input(Erf, Domain::Normal) };

impl Op for Erf {
    fn spec(&self) -> &'static OpSpec {
        &ERF
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Erf, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let density = ops::unary(Unary::Exp, &ops::unary(Unary::Neg, &ops::unary(Unary::Square, x)?)?)?;
        let dx = ops::scale(ops::mul(dy, &density)?, std::f64::consts::FRAC_2_SQRT_PI)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// The error function, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn erf(&self) -> Result<Tensor> {
        apply1(Erf, &[self])
    }
}
