//! y = max(x, 0).  Backward: dx = dy where y > 0, else 0 (also at x = 0).

use super::prelude::*;

struct Relu;

/// See [`Tensor::relu`].
pub(super) static RELU: OpSpec =
    OpSpec { name: "relu", gradient: Gradient::Vjp, cases: |g| g.one_input(Relu, Domain::Apart(&[0.0], 0.01)) };

impl Op for Relu {
    fn spec(&self) -> &'static OpSpec {
        &RELU
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::unary(Unary::Relu, x[0])?;
        save.keep(&y);
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (y, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::binary(Binary::ReluGrad, y, dy)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// max(x, 0), element by element. The gradient at 0 is 0.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn relu(&self) -> Result<Tensor> {
        apply1(Relu, &[self])
    }
}
