//! y = 1 / (1 + e⁻ˣ).  Backward: dx = dy·y·(1 - y).

use super::prelude::*;

struct Sigmoid;

/// See [`Tensor::sigmoid`].
pub(super) static SIGMOID: OpSpec =
    OpSpec { name: "sigmoid", gradient: Gradient::Vjp, cases: |g| g.one_input(Sigmoid, Domain::Normal) };

impl Op for Sigmoid {
    fn spec(&self) -> &'static OpSpec {
        &SIGMOID
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::unary(Unary::Sigmoid, x[0])?;
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (y, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::binary(Binary::SigmoidGrad, y, dy)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// 1 / (1 + e⁻ˣ), element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn sigmoid(&self) -> Result<Tensor> {
        apply1(Sigmoid, &[self])
    }
}
