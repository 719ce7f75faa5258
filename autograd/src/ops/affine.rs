//! y = scale·x + shift with two constants.  Backward: dx = scale·dy.

use super::prelude::*;

struct Affine {
    scale: f64,
    shift: f64,
}

/// See [`Tensor::affine`].
pub(super) static AFFINE: OpSpec = OpSpec {
    name: "affine",
    gradient: Gradient::Vjp,
    cases: |g| {
        let op = Affine { scale: g.pick(&[-1.5, 0.0, 1.0, 3.0]), shift: g.pick(&[0.0, 0.7]) };
        g.one_input(op, Domain::Normal)
    },
};

impl Op for Affine {
    fn spec(&self) -> &'static OpSpec {
        &AFFINE
    }

    fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
        let scaled = if self.scale == 1.0 { x[0].clone() } else { ops::binary_scalar(Binary::Mul, x[0], self.scale)? };
        Ok(vec![if self.shift == 0.0 { scaled } else { ops::binary_scalar(Binary::Add, &scaled, self.shift)? }])
    }

    fn vjp(&self, _: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        let dx = if self.scale == 1.0 { dy.clone() } else { ops::binary_scalar(Binary::Mul, dy, self.scale)? };
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// `scale·x + shift`, element by element, two roundings.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn affine(&self, scale: f64, shift: f64) -> Result<Tensor> {
        apply1(Affine { scale, shift }, &[self])
    }

    /// `factor·x`, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn scale(&self, factor: f64) -> Result<Tensor> {
        self.affine(factor, 0.0)
    }

    /// `x + term`, element by element.
    ///
    /// # Errors
    /// `DType` for a type that is not a float.
    #[track_caller]
    pub fn add_scalar(&self, term: f64) -> Result<Tensor> {
        self.affine(1.0, term)
    }
}
