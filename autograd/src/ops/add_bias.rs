//! y = x + b on the last axis.  Backward: dx = dy; db = Σ dy, a sum over samples, which a broadcasting addition would
//! not keep as one.

use super::linear::check_rows;
use super::prelude::*;

struct AddBias {
    rows: Rows,
}

/// See [`Tensor::add_bias`].
pub(super) static ADD_BIAS: OpSpec = OpSpec {
    name: "add_bias",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = [g.pick(&[1, 3, 17]), g.dim(), g.dim()];
        let op = AddBias { rows: Rows::of(&shape, 0)? };
        Ok(Case::new(op, vec![g.array(&shape, Domain::Normal)?, g.array(&shape[2..], Domain::Normal)?]))
    },
};

impl Op for AddBias {
    fn spec(&self) -> &'static OpSpec {
        &ADD_BIAS
    }

    fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
        let (x, bias) = (x[0], x[1]);
        check_rows("add_bias", x.shape(), self.rows)?;
        if x.shape()[x.rank() - 1..] != *bias.shape() {
            return Err(Error::new(ErrorKind::Shape, "add_bias", format!("{:?} to {:?}", bias.shape(), x.shape()))
                .expected("a bias of one value per channel"));
        }
        Ok(vec![ops::add(x, bias)?])
    }

    fn vjp(&self, _: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        Ok(vec![Some(dy.clone().into()), wanted(want, 1, || ops::rows_sum(dy, self.rows))?])
    }
}

impl Tensor {
    /// `self` `[images, .., c]` plus `bias` `[c]`.
    ///
    /// `rows` says which images these are of the global batch; the gradient of the bias is a sum over them.
    ///
    /// # Errors
    /// `Shape` when shapes or rows do not fit; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn add_bias(&self, bias: &Tensor, rows: Rows) -> Result<Tensor> {
        apply1(AddBias { rows }, &[self, bias])
    }
}
