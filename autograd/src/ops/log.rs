//! y = ln x.  Backward: dx = dy / x.

use super::prelude::*;

struct Log;

/// See [`Tensor::log`].
pub(super) static LOG: OpSpec =
    OpSpec { name: "log", gradient: Gradient::Vjp, cases: |g| g.one_input(Log, Domain::Range(0.2, 3.0)) };

impl Op for Log {
    fn spec(&self) -> &'static OpSpec {
        &LOG
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Log, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::div(dy, x)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// The natural logarithm, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn log(&self) -> Result<Tensor> {
        apply1(Log, &[self])
    }
}
