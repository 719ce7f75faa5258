//! `sample_totals`: sums over the samples of the whole batch, on every rank, in the canonical order.
//!
//! y[c] = Σ over images i of all ranks of x[i, c], added by the sample tree, so the bits do not depend on the number
//! of ranks. The total is one number that all ranks hold, counted once: backward hands dy to every row as it is, and
//! the ranks' parameter gradients then add up to that of the one total.

use selfsame_autograd::{Case, Cotangent, Domain, Gen, Gradient, Op, OpSpec, Saved, Tensor, apply1};
use selfsame_engine::{Array, Comm, Result, Rows, ops};
use std::sync::Arc;

/// The operation in lists and checks.
pub(crate) static SAMPLE_TOTALS: OpSpec = OpSpec {
    name: "sample_totals",
    gradient: Gradient::Vjp,
    cases: |g: &mut Gen| {
        let shape = [g.dim() * g.dim(), g.dim()];
        let op = SampleTotals { first_image: 0, comm: Arc::new(Comm::single()) };
        Ok(Case::new(op, vec![g.array(&shape, Domain::Normal)?]))
    },
};

/// Sums `x` `[images, c]` over the images of all ranks to `[c]`; `first_image` is the global index of the first here.
///
/// # Errors
/// `Numerics` when `first_image` does not fall on a leaf of the sample tree (16 images) or images are missing or
/// repeated among the ranks; or as for [`Comm::exchange`].
#[track_caller]
pub fn sample_totals(x: &Tensor, first_image: usize, comm: &Arc<Comm>) -> Result<Tensor> {
    apply1(SampleTotals { first_image, comm: Arc::clone(comm) }, &[x])
}

struct SampleTotals {
    first_image: usize,
    comm: Arc<Comm>,
}

impl Op for SampleTotals {
    fn spec(&self) -> &'static OpSpec {
        &SAMPLE_TOTALS
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let [_images, _c] = x[0].dims()?;
        save.keep_shape(x[0].shape());
        let local = ops::rows_sum(x[0], Rows::of(x[0].shape(), self.first_image)?)?;
        Ok(vec![self.comm.all_sum(local)?.total()?.to_device(x[0].device())?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let shape = saved.shape(0)?;
        Ok(vec![dy[0].as_ref().map(|dy| dy.broadcast_to(shape)).transpose()?.map(Cotangent::from)])
    }
}
