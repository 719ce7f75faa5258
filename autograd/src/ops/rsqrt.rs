//! y = 1/√x.  Backward: dx = -dy·y³ / 2.

use super::prelude::*;

struct Rsqrt;

/// See [`Tensor::rsqrt`].
pub(super) static RSQRT: OpSpec =
    OpSpec { name: "rsqrt", gradient: Gradient::Vjp, cases: |g| g.one_input(Rsqrt, Domain::Range(0.3, 3.0)) };

impl Op for Rsqrt {
    fn spec(&self) -> &'static OpSpec {
        &RSQRT
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::unary(Unary::Rsqrt, x[0])?;
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (y, dy) = (saved.array(0)?, only(dy)?);
        let cubed = ops::mul(&ops::unary(Unary::Square, y)?, y)?;
        let dx = ops::scale(ops::mul(dy, &cubed)?, -0.5)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// 1/√x, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn rsqrt(&self) -> Result<Tensor> {
        apply1(Rsqrt, &[self])
    }
}
