//! `unit_linear`: y = x wᵀ with rows w_k = v_k / |v_k|, the weight-normalised last layer of DINO and MIRA.
//!
//! Where x has length 1, y are cosines. Backward: dx = dy w; dw = Σ over images of all ranks of dyᵀ x, added by the
//! sample tree; dv_k = (I - w_k w_kᵀ) dw_k / |v_k|, on the first rank alone, as the ranks' gradients add up. The
//! projection comes after the sum over all images, so the bits do not depend on the number of ranks.

use crate::batch::LEAST_NORM;
use selfsame_autograd::{Case, Cotangent, Domain, Gen, Gradient, Op, OpSpec, Saved, Tensor, apply1};
use selfsame_engine::{Array, Comm, Result, Rows, ops};
use std::sync::Arc;

/// The operation in lists and checks.
pub(crate) static UNIT_LINEAR: OpSpec = OpSpec {
    name: "unit_linear",
    gradient: Gradient::Vjp,
    cases: |g: &mut Gen| {
        let (images, d, k) = (g.dim(), g.dim(), g.dim());
        let op = UnitLinear { first_image: 0, comm: Arc::new(Comm::single()) };
        Ok(Case::new(op, vec![g.array(&[images, d], Domain::Normal)?, g.array(&[k, d], Domain::Signed(0.3, 2.0))?]))
    },
};

/// The products `[n, K]` of this rank's rows `x` `[n, D]` with the rows of `v` `[K, D]`, the same on every rank, at
/// length 1; `first_image` is the global index of the first image here.
///
/// # Errors
/// `Shape` unless the rows are of one length; in backward `Numerics` when `first_image` does not fall on a leaf of the
/// sample tree (16 images) or images are missing or repeated among the ranks; or as for [`Comm::exchange`].
#[track_caller]
pub fn unit_linear(x: &Tensor, v: &Tensor, first_image: usize, comm: &Arc<Comm>) -> Result<Tensor> {
    apply1(UnitLinear { first_image, comm: Arc::clone(comm) }, &[x, v])
}

struct UnitLinear {
    first_image: usize,
    comm: Arc<Comm>,
}

impl Op for UnitLinear {
    fn spec(&self) -> &'static OpSpec {
        &UNIT_LINEAR
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let (w, norm) = ops::l2_normalize(x[1], LEAST_NORM)?;
        save.keep(x[0]);
        save.keep(&w);
        save.keep(&norm);
        Ok(vec![ops::matmul(x[0], &w.transpose(0, 1)?)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let Some(dy) = &dy[0] else { return Ok(vec![None, None]) };
        let (x, w, norm) = (saved.array(0)?, saved.array(1)?, saved.array(2)?);
        let dx = if want[0] { Some(ops::matmul(dy, w)?.into()) } else { None };
        if !want[1] {
            return Ok(vec![dx, None]);
        }
        let local = ops::linear_weight_grad(dy, x, Rows::of(x.shape(), self.first_image)?)?;
        let dw = self.comm.all_sum(local)?.total()?.to_device(w.device())?;
        let dv = if self.comm.rank() == 0 {
            ops::l2_normalize_grad(&dw, w, norm, LEAST_NORM)?
        } else {
            Array::zeros(w.shape(), w.dtype(), w.device())?
        };
        Ok(vec![dx, Some(dv.into())])
    }
}
