//! y = a·b, matrices on the last two axes, the others broadcast.  Backward: da = dy·bᵀ, db = aᵀ·dy, each summed over
//! the axes that were broadcast.

use super::prelude::*;

struct Matmul;

/// See [`Tensor::matmul`].
pub(super) static MATMUL: OpSpec = OpSpec {
    name: "matmul",
    gradient: Gradient::Vjp,
    cases: |g| {
        let (m, k, n) = (g.dim(), g.dim(), g.dim());
        if g.one_in(5) {
            let x = g.array(&[m, m], Domain::Normal)?;
            return Ok(Case::new(Matmul, vec![x.clone(), x]).shared());
        }
        let k = if g.one_in(10) { 0 } else { k };
        let batch: Vec<usize> = (0..g.below(3)).map(|_| g.pick(&[1, 2, 3])).collect();
        let mut operand = |rows: usize, columns: usize| {
            let kept = g.below(batch.len() + 1);
            let mut shape: Vec<usize> = batch[kept..].iter().map(|&d| if g.one_in(3) { 1 } else { d }).collect();
            shape.extend([rows, columns]);
            g.array(&shape, Domain::Normal)
        };
        let inputs = vec![operand(m, k)?, operand(k, n)?];
        Ok(Case::new(Matmul, inputs))
    },
};

impl Op for Matmul {
    fn spec(&self) -> &'static OpSpec {
        &MATMUL
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        save.keep(x[1]);
        Ok(vec![ops::matmul(x[0], x[1])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (a, b, dy) = (saved.array(0)?, saved.array(1)?, only(dy)?);
        let da = wanted(want, 0, || ops::sum_to(&ops::matmul(dy, &transposed(b)?)?, a.shape()))?;
        let db = wanted(want, 1, || ops::sum_to(&ops::matmul(&transposed(a)?, dy)?, b.shape()))?;
        Ok(vec![da, db])
    }
}

fn transposed(x: &Array) -> Result<Array> {
    x.transpose(x.rank() - 2, x.rank() - 1)
}

impl Tensor {
    /// The matrix product `[.., m, k] · [.., k, n] = [.., m, n]`; the leading axes broadcast.
    ///
    /// Gradients are sums in the order of contractions, not of samples: for a layer's weight use
    /// [`Tensor::linear`].
    ///
    /// # Errors
    /// `Shape` when a rank is below 2 or the shapes do not fit.
    #[track_caller]
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        apply1(Matmul, &[self, other])
    }
}
