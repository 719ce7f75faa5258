//! y = x^p with a constant p.  Backward: dx = dy·p·x^(p-1), and 0 for p = 0 even where x^(p-1) is infinite.

use super::prelude::*;

struct PowScalar {
    exponent: f64,
}

/// See [`Tensor::pow_scalar`].
pub(super) static POW_SCALAR: OpSpec = OpSpec {
    name: "pow_scalar",
    gradient: Gradient::Vjp,
    cases: |g| {
        let op = PowScalar { exponent: g.pick(&[-1.5, 0.0, 0.5, 1.0, 3.0]) };
        g.one_input(op, Domain::Range(0.3, 3.0))
    },
};

impl Op for PowScalar {
    fn spec(&self) -> &'static OpSpec {
        &POW_SCALAR
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        Ok(vec![ops::binary_scalar(Binary::Pow, x[0], self.exponent)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let x = saved.array(0)?;
        let dx = if self.exponent == 0.0 {
            Array::zeros(x.shape(), x.dtype(), x.device())?
        } else {
            let power = ops::binary_scalar(Binary::Pow, x, self.exponent - 1.0)?;
            ops::scale(ops::mul(only(dy)?, &power)?, self.exponent)?
        };
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// `x^exponent`, element by element; NaN for a negative x and a fractional exponent.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn pow_scalar(&self, exponent: f64) -> Result<Tensor> {
        apply1(PowScalar { exponent }, &[self])
    }
}
