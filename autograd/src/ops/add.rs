//! y = a + b, broadcast.  Backward: da = dy, db = dy, each summed over the axes that were broadcast.

use super::prelude::*;

struct Add;

/// See [`Tensor::add`].
pub(super) static ADD: OpSpec =
    OpSpec { name: "add", gradient: Gradient::Vjp, cases: |g| g.two_inputs(Add, Domain::Normal, Domain::Normal) };

impl Op for Add {
    fn spec(&self) -> &'static OpSpec {
        &ADD
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        save.keep_shape(x[1].shape());
        Ok(vec![ops::add(x[0], x[1])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        let d = |i: usize| wanted(want, i, || ops::sum_to(dy, saved.shape(i)?));
        Ok(vec![d(0)?, d(1)?])
    }
}

impl Tensor {
    /// The sum, with broadcasting.
    ///
    /// # Errors
    /// `Shape` when the shapes do not broadcast; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn add(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Add, &[self, other])
    }
}
