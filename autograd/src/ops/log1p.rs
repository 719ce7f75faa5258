//! y = ln(1 + x), accurate near 0.  Backward: dx = dy / (1 + x).

use super::prelude::*;

struct Log1p;

/// See [`Tensor::log1p`].
pub(super) static LOG1P: OpSpec =
    OpSpec { name: "log1p", gradient: Gradient::Vjp, cases: |g| g.one_input(Log1p, Domain::Range(-0.7, 3.0)) };

impl Op for Log1p {
    fn spec(&self) -> &'static OpSpec {
        &LOG1P
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Log1p, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::div(dy, &ops::binary_scalar(Binary::Add, x, 1.0)?)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// ln(1 + x), element by element, accurate near 0.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn log1p(&self) -> Result<Tensor> {
        apply1(Log1p, &[self])
    }
}
