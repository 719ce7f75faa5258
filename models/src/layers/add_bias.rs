//! y = x + b per channel.  Backward: dx = dy; db = Σ dy, a sum over samples, which a broadcasting addition would not
//! keep as one.

use selfsame_autograd::{Case, Cotangent, Domain, Gen, Gradient, Op, OpSpec, Saved, Tensor, apply1};
use selfsame_engine::{Array, Error, ErrorKind, Result, Rows, ops};

struct AddBias {
    rows: Rows,
}

/// The operation in lists and checks.
pub(crate) static ADD_BIAS: OpSpec = OpSpec {
    name: "add_bias",
    gradient: Gradient::Vjp,
    cases: |g: &mut Gen| {
        let shape = [g.pick(&[1, 3, 17]), g.dim(), g.dim()];
        let op = AddBias { rows: Rows::of(&shape, 0)? };
        Ok(Case::new(op, vec![g.array(&shape, Domain::Normal)?, g.array(&shape[2..], Domain::Normal)?]))
    },
};

/// Adds `bias` `[channels]` to `x` `[images, …, channels]`.
///
/// # Errors
/// `Shape` when the channels differ.
pub(super) fn add_bias(x: &Tensor, bias: &Tensor, rows: Rows) -> Result<Tensor> {
    apply1(AddBias { rows }, &[x, bias])
}

impl Op for AddBias {
    fn spec(&self) -> &'static OpSpec {
        &ADD_BIAS
    }

    fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
        if x[0].shape().last() != x[1].shape().last() || x[1].rank() != 1 {
            return Err(Error::new(ErrorKind::Shape, "add_bias", format!("{:?} to {:?}", x[1].shape(), x[0].shape()))
                .expected("a bias of one value per channel"));
        }
        Ok(vec![ops::add(x[0], x[1])?])
    }

    fn vjp(&self, _: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let Some(dy) = &dy[0] else { return Ok(vec![None, None]) };
        let db = if want[1] { Some(ops::rows_sum(dy, self.rows)?.into()) } else { None };
        Ok(vec![Some(dy.clone().into()), db])
    }
}
