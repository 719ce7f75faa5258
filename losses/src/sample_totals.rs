//! `sample_totals` and its adjoint `sample_copies`: between the samples of the whole batch and numbers that all ranks hold.
//!
//! **Totals** add over the samples, in the canonical order. y[c] = Σ over images i of all ranks of x[i, c], added by the sample tree, so the bits do not depend on the number
//! of ranks. The total is one number that all ranks hold, counted once: backward hands dy to every row as it is, and
//! the ranks' parameter gradients then add up to that of the one total.
//!
//! **Copies** hand a number to every sample: y[i, c] = x[c]. Backward is the total of dy, on the first rank alone, as
//! the ranks' gradients add up.

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

/// The operation in lists and checks.
pub(crate) static SAMPLE_COPIES: OpSpec = OpSpec {
    name: "sample_copies",
    gradient: Gradient::Vjp,
    cases: |g: &mut Gen| {
        let op = SampleCopies { images: g.dim() * g.dim(), first_image: 0, comm: Arc::new(Comm::single()) };
        let c = g.dim();
        Ok(Case::new(op, vec![g.array(&[c], Domain::Normal)?]))
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

/// `x` `[c]`, the same on all ranks, once for each of this rank's images: `[images, c]`; `first_image` is the global
/// index of the first here. The gradient is that of the whole batch on the first rank, and 0 on the others.
///
/// # Errors
/// In backward as for [`sample_totals`].
#[track_caller]
pub fn sample_copies(x: &Tensor, images: usize, first_image: usize, comm: &Arc<Comm>) -> Result<Tensor> {
    apply1(SampleCopies { images, first_image, comm: Arc::clone(comm) }, &[x])
}

/// The sum of the rows of all ranks, on every rank.
fn total(x: &Array, first_image: usize, comm: &Comm) -> Result<Array> {
    let local = ops::rows_sum(x, Rows::of(x.shape(), first_image)?)?;
    comm.all_sum(local)?.total()?.to_device(x.device())
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
        Ok(vec![total(x[0], self.first_image, &self.comm)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let shape = saved.shape(0)?;
        Ok(vec![dy[0].as_ref().map(|dy| dy.broadcast_to(shape)).transpose()?.map(Cotangent::from)])
    }
}

struct SampleCopies {
    images: usize,
    first_image: usize,
    comm: Arc<Comm>,
}

impl Op for SampleCopies {
    fn spec(&self) -> &'static OpSpec {
        &SAMPLE_COPIES
    }

    fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
        let [c] = x[0].dims()?;
        Ok(vec![x[0].broadcast_to(&[self.images, c])?])
    }

    fn vjp(&self, _: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let Some(dy) = &dy[0] else { return Ok(vec![None]) };
        let total = total(dy, self.first_image, &self.comm)?;
        let own =
            if self.comm.rank() == 0 { total } else { Array::zeros(total.shape(), total.dtype(), total.device())? };
        Ok(vec![Some(own.into())])
    }
}
