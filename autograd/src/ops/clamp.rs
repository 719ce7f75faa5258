//! y = x limited to [low, high]; NaN for NaN.  Backward: dx = dy where low <= x <= high, else 0.

use super::prelude::*;

struct Clamp {
    low: f64,
    high: f64,
}

/// See [`Tensor::clamp`].
pub(super) static CLAMP: OpSpec = OpSpec {
    name: "clamp",
    gradient: Gradient::Vjp,
    cases: |g| g.one_input(Clamp { low: -0.5, high: 0.8 }, Domain::Apart(&[-0.5, 0.8], 0.01)),
};

impl Op for Clamp {
    fn spec(&self) -> &'static OpSpec {
        &CLAMP
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::clamp(x[0], self.low, self.high)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let x = saved.array(0)?;
        let zero = Array::zeros(&[], x.dtype(), x.device())?;
        let above = ops::select(&ops::compare_scalar(Compare::Ge, x, self.low)?, only(dy)?, &zero)?;
        let dx = ops::select(&ops::compare_scalar(Compare::Le, x, self.high)?, &above, &zero)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// Limits every element to `low..=high`. The gradient at the limits themselves flows.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn clamp(&self, low: f64, high: f64) -> Result<Tensor> {
        apply1(Clamp { low, high }, &[self])
    }
}
