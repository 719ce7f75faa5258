//! y = gamma·x̂ + beta with x̂ = (x - mean)·rstd over all positions and the channels of a group, image by image.
//! Backward as for layer norm, with means over the group.

use super::linear::check_rows;
use super::prelude::*;

struct GroupNorm {
    groups: usize,
    eps: f64,
    rows: Rows,
    /// Which of gamma and beta are given; they follow x among the inputs.
    affine: [bool; 2],
}

/// See [`Tensor::group_norm`].
pub(super) static GROUP_NORM: OpSpec = OpSpec {
    name: "group_norm",
    gradient: Gradient::Vjp,
    cases: |g| {
        let groups = g.pick(&[1, 2, 3]);
        let c = groups * (2 + g.below(3));
        let mut shape = g.full_shape((1, 3));
        shape[0] = shape[0].min(4);
        shape.push(c);
        // No broadcast layouts: a constant row has no variance, and derivatives of the order of eps^(-3/2).
        let mut inputs = vec![g.array(&shape, Domain::Distinct)?];
        let affine = [g.one_in(2), g.one_in(2)];
        for _ in affine.iter().filter(|given| **given) {
            inputs.push(g.array(&[c], Domain::Normal)?);
        }
        Ok(Case::new(GroupNorm { groups, eps: 0.1, rows: Rows::of(&shape, 0)?, affine }, inputs))
    },
};

impl Op for GroupNorm {
    fn spec(&self) -> &'static OpSpec {
        &GROUP_NORM
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        check_rows("group_norm", x[0].shape(), self.rows)?;
        let mut vectors = x[1..].iter().copied();
        let [gamma, beta] = self.affine.map(|given| if given { vectors.next() } else { None });
        let (y, mean, rstd) = ops::group_norm(x[0], self.groups, gamma, beta, self.eps)?;
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
        let mut d = vec![wanted(want, 0, || ops::group_norm_grad(dy, x, mean, rstd, gamma))?];
        if self.affine[0] {
            d.push(wanted(want, 1, || ops::rows_dot(dy, &ops::group_norm_normalized(x, mean, rstd)?, self.rows))?);
        }
        if self.affine[1] {
            d.push(wanted(want, d.len(), || ops::rows_sum(dy, self.rows))?);
        }
        Ok(d)
    }
}

impl Tensor {
    /// Group normalisation with channels in `groups` blocks (Wu, He 2018).
    ///
    /// `self` is `[images, .., c]`, `gamma` and `beta` are `[c]`; `rows` says which images these are of the global
    /// batch, over which the gradients of gamma and beta are summed.
    ///
    /// # Errors
    /// `Shape` when shapes or rows do not fit; `DType` for a type that is not a float; `Config` when `eps` is not
    /// positive.
    #[track_caller]
    pub fn group_norm(
        &self,
        groups: usize,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        eps: f64,
        rows: Rows,
    ) -> Result<Tensor> {
        let op = GroupNorm { groups, eps, rows, affine: [gamma.is_some(), beta.is_some()] };
        let inputs: Vec<&Tensor> = [Some(self), gamma, beta].into_iter().flatten().collect();
        apply1(op, &inputs)
    }
}
