//! `sample_products`: C = Σ over images i of all ranks of a_i b_iᵀ, the matrix that correlations and joint
//! distributions are made of.
//!
//! Added by the sample tree, so the bits do not depend on the number of ranks. As a total, C is one matrix that all
//! ranks hold, counted once. Backward: da_i = dC b_i and db_i = dCᵀ a_i.

use selfsame_autograd::{Case, Cotangent, Domain, Gen, Gradient, Op, OpSpec, Saved, Tensor, apply1};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result, Rows, ops};
use std::sync::Arc;

/// The operation in lists and checks.
pub(crate) static SAMPLE_PRODUCTS: OpSpec = OpSpec {
    name: "sample_products",
    gradient: Gradient::Vjp,
    cases: |g: &mut Gen| {
        let (images, shape) = (g.dim() * g.dim(), [g.dim(), g.dim()]);
        let op = SampleProducts { first_image: 0, comm: Arc::new(Comm::single()) };
        let inputs = [g.array(&[images, shape[0]], Domain::Normal)?, g.array(&[images, shape[1]], Domain::Normal)?];
        Ok(Case::new(op, inputs.into()))
    },
};

/// Σ a_i b_iᵀ `[p, q]` over the images of all ranks, from this rank's `a` `[images, p]` and `b` `[images, q]`;
/// `first_image` is the global index of the first here.
///
/// # Errors
/// `Shape` unless both have as many rows; `Numerics` when `first_image` does not fall on a leaf of the sample tree (16
/// images) or images are missing or repeated among the ranks; or as for [`Comm::exchange`].
#[track_caller]
pub fn sample_products(a: &Tensor, b: &Tensor, first_image: usize, comm: &Arc<Comm>) -> Result<Tensor> {
    apply1(SampleProducts { first_image, comm: Arc::clone(comm) }, &[a, b])
}

struct SampleProducts {
    first_image: usize,
    comm: Arc<Comm>,
}

impl Op for SampleProducts {
    fn spec(&self) -> &'static OpSpec {
        &SAMPLE_PRODUCTS
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let ([images, p], [others, q]) = (x[0].dims()?, x[1].dims()?);
        if images != others {
            return Err(Error::new(
                ErrorKind::Shape,
                "sample_products",
                format!("[{images}, {p}] and [{others}, {q}]"),
            )
            .expected("as many rows in both"));
        }
        save.keep(x[0]);
        save.keep(x[1]);
        let local = ops::linear_weight_grad(x[0], x[1], Rows::of(x[0].shape(), self.first_image)?)?;
        Ok(vec![self.comm.all_sum(local)?.total()?.to_device(x[0].device())?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let Some(dc) = &dy[0] else { return Ok(vec![None, None]) };
        let (a, b) = (saved.array(0)?, saved.array(1)?);
        let da = if want[0] { Some(ops::matmul(b, &dc.transpose(0, 1)?)?.into()) } else { None };
        let db = if want[1] { Some(ops::matmul(a, dc)?.into()) } else { None };
        Ok(vec![da, db])
    }
}
