//! `all_dots`: S_ij = a_i·b_j of the rows of this rank with the rows of all ranks.
//!
//! Backward: da_i = Σ_j dS_ij b_j, whole on its rank; db_j = Σ_i dS_ij a_i over the images i of all ranks, added by the
//! sample tree. So gradients have the same bits on any number of ranks, which those of gathered columns have not: there
//! each rank adds up its own rows first.

use selfsame_autograd::{Case, Cotangent, Domain, Gen, Gradient, Op, OpSpec, Saved, Tensor, apply1};
use selfsame_engine::{Array, Comm, Result, Rows, ops};
use std::sync::Arc;

/// The operation in lists and checks.
pub(crate) static ALL_DOTS: OpSpec = OpSpec {
    name: "all_dots",
    gradient: Gradient::Vjp,
    cases: |g: &mut Gen| {
        let (rows, columns, d) = (g.dim() * g.dim(), g.dim(), g.dim());
        let op = AllDots { first_row: 0, comm: Arc::new(Comm::single()) };
        Ok(Case::new(op, vec![g.array(&[rows, d], Domain::Normal)?, g.array(&[columns, d], Domain::Normal)?]))
    },
};

/// S `[n, N]` of this rank's rows `a` `[n, D]` with the rows `b` of all `N / n` ranks, in rank order; `first_row` is the
/// global number of this rank's first row.
///
/// # Errors
/// `Shape` unless rows have one length and ranks equally many; in backward `Numerics` when `first_row` does not fall on a
/// leaf of the sample tree (16 rows); or as for [`Comm::exchange`].
#[track_caller]
pub(crate) fn all_dots(a: &Tensor, b: &Tensor, first_row: usize, comm: &Arc<Comm>) -> Result<Tensor> {
    apply1(AllDots { first_row, comm: Arc::clone(comm) }, &[a, b])
}

struct AllDots {
    first_row: usize,
    comm: Arc<Comm>,
}

impl Op for AllDots {
    fn spec(&self) -> &'static OpSpec {
        &ALL_DOTS
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let columns = self.comm.all_gather(x[1])?;
        save.keep(x[0]);
        save.keep(&columns);
        save.keep_shape(x[1].shape());
        Ok(vec![ops::matmul(x[0], &columns.transpose(0, 1)?)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let Some(ds) = &dy[0] else { return Ok(vec![None, None]) };
        let (a, columns) = (saved.array(0)?, saved.array(1)?);
        let da = if want[0] { Some(ops::matmul(ds, columns)?.into()) } else { None };
        let db = if want[1] {
            let sum = ops::linear_weight_grad(ds, a, Rows::of(a.shape(), self.first_row)?)?;
            let total = self.comm.all_sum(sum)?.total()?.to_device(a.device())?;
            let own = saved.shape(0)?[0];
            Some(total.slice(0, self.comm.rank() * own, (self.comm.rank() + 1) * own)?.contiguous()?.into())
        } else {
            None
        };
        Ok(vec![da, db])
    }
}
