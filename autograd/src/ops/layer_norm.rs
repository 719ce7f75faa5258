//! y = gamma·x̂ + beta with x̂ = (x - mean)·rstd over the last axis.  Backward: dx = rstd·(g - mean(g) - x̂·mean(g·x̂))
//! with g = gamma·dy; dgamma = Σ dy·x̂ and dbeta = Σ dy are sums over samples.

use super::linear::check_rows;
use super::prelude::*;

struct LayerNorm {
    eps: f64,
    rows: Rows,
    /// Which of gamma and beta are given; they follow x among the inputs.
    affine: [bool; 2],
}

/// See [`Tensor::layer_norm`].
pub(super) static LAYER_NORM: OpSpec = OpSpec {
    name: "layer_norm",
    gradient: Gradient::Vjp,
    cases: |g| {
        let mut shape = g.full_shape((1, 3));
        let c = 2 + g.below(9);
        shape.push(c);
        // No broadcast layouts: a constant row has no variance, and derivatives of the order of eps^(-3/2).
        let mut inputs = vec![g.array(&shape, Domain::Distinct)?];
        let affine = [g.one_in(2), g.one_in(2)];
        for _ in affine.iter().filter(|given| **given) {
            inputs.push(g.array(&[c], Domain::Normal)?);
        }
        Ok(Case::new(LayerNorm { eps: 0.1, rows: Rows::of(&shape, 0)?, affine }, inputs))
    },
};

impl Op for LayerNorm {
    fn spec(&self) -> &'static OpSpec {
        &LAYER_NORM
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        check_rows("layer_norm", x[0].shape(), self.rows)?;
        let mut vectors = x[1..].iter().copied();
        let [gamma, beta] = self.affine.map(|given| if given { vectors.next() } else { None });
        let (y, mean, rstd) = ops::layer_norm(x[0], gamma, beta, self.eps)?;
        save.keep(x[0]);
        save.keep(&mean);
        save.keep(&rstd);
        if let Some(gamma) = gamma {
            save.keep(gamma);
        }
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, mean, rstd, dy) = (saved.array(0)?, saved.array(1)?, saved.array(2)?, only(dy)?);
        let gamma = if self.affine[0] { Some(saved.array(3)?) } else { None };
        let mut d = vec![wanted(want, 0, || ops::layer_norm_grad(dy, x, mean, rstd, gamma))?];
        if self.affine[0] {
            d.push(wanted(want, 1, || ops::rows_dot(dy, &ops::layer_norm_normalized(x, mean, rstd)?, self.rows))?);
        }
        if self.affine[1] {
            d.push(wanted(want, d.len(), || ops::rows_sum(dy, self.rows))?);
        }
        Ok(d)
    }
}

impl Tensor {
    /// Layer normalisation over the last axis (Ba, Kiros, Hinton 2016).
    ///
    /// `self` is `[images, .., c]`, `gamma` and `beta` are `[c]`; `rows` says which images these are of the global
    /// batch, over which the gradients of gamma and beta are summed.
    ///
    /// # Errors
    /// `Shape` when shapes or rows do not fit; `DType` for a type that is not a float; `Config` when `eps` is not
    /// positive.
    #[track_caller]
    pub fn layer_norm(&self, gamma: Option<&Tensor>, beta: Option<&Tensor>, eps: f64, rows: Rows) -> Result<Tensor> {
        let op = LayerNorm { eps, rows, affine: [gamma.is_some(), beta.is_some()] };
        let inputs: Vec<&Tensor> = [Some(self), gamma, beta].into_iter().flatten().collect();
        apply1(op, &inputs)
    }
}
