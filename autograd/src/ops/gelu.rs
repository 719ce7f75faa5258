//! GELU, y = x·Φ(x).  Backward: dx = dy·(Φ(x) + x·φ(x)).

use super::prelude::*;

struct Gelu;

/// See [`Tensor::gelu`].
pub(super) static GELU: OpSpec =
    OpSpec { name: "gelu", gradient: Gradient::Vjp, cases: |g| g.one_input(Gelu, Domain::Normal) };

impl Op for Gelu {
    fn spec(&self) -> &'static OpSpec {
        &GELU
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::unary(Unary::Gelu, x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, dy) = (saved.array(0)?, only(dy)?);
        let dx = ops::binary(Binary::GeluGrad, x, dy)?;
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// x·Φ(x) with the normal distribution function Φ (the exact form, not the tanh approximation), element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn gelu(&self) -> Result<Tensor> {
        apply1(Gelu, &[self])
    }
}
