//! y_i = ⟨x_i, x_{i+n}⟩ of x `[2n, d]`, whose rows i and i + n are partners.  Backward: dx_i = dy_i x_{i+n},
//! dx_{i+n} = dy_i x_i. Slices of x would give the same from two gradients of its size.

use super::pairs::Inputs;
use super::prelude::*;

struct PartnerDots {
    inputs: Inputs,
}

/// See [`Tensor::partner_dots`].
pub(super) static PARTNER_DOTS: OpSpec = OpSpec {
    name: "partner_dots",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = [2 * g.dim(), g.dim()];
        Ok(Case::new(PartnerDots { inputs: Inputs::AsGiven }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

/// The first half of the rows, and the second.
fn halves(x: &Array) -> Result<[Array; 2]> {
    let [rows, _] = x.dims()?;
    Ok([x.slice(0, 0, rows / 2)?, x.slice(0, rows / 2, rows)?])
}

impl Op for PartnerDots {
    fn spec(&self) -> &'static OpSpec {
        &PARTNER_DOTS
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let [rows, _] = x[0].dims()?;
        if rows % 2 != 0 {
            return Err(Error::new(ErrorKind::Shape, "partner_dots", format!("{:?}", x[0].shape()))
                .expected("[2n, d]: rows i and i + n are partners"));
        }
        let x = self.inputs.rounded("partner_dots", x[0])?;
        save.keep(&x);
        let [a, b] = halves(&self.inputs.widened(&x)?)?;
        Ok(vec![ops::sum(&ops::mul(&a, &b)?, &[1], true)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let ([a, b], dy) = (halves(&self.inputs.widened(saved.array(0)?)?)?, only(dy)?);
        Ok(vec![Some(ops::concat(&[&ops::mul(dy, &b)?, &ops::mul(dy, &a)?], 0)?.into())])
    }
}

impl Tensor {
    /// The dot product `[n, 1]` of each row i of `self` `[2n, d]` with its partner, row i + n.
    ///
    /// # Errors
    /// `Shape` unless there are two axes and evenly many rows; `DType` for a type that is not a float, and for
    /// [`Inputs::Bf16`] unless f32.
    #[track_caller]
    pub fn partner_dots(&self, inputs: Inputs) -> Result<Tensor> {
        apply1(PartnerDots { inputs }, &[self])
    }
}
