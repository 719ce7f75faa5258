//! What layer norm and group norm share: statistics within an image, a scale and an offset per channel whose gradients
//! are sums over samples.

use super::linear::check_rows;
use super::prelude::*;

/// Normalisation within an image. Inputs: x, then those of gamma and beta that are given.
pub(super) struct RowNorm {
    spec: &'static OpSpec,
    /// Channel groups of group norm; `None` for layer norm, whose statistics are those of one row.
    groups: Option<usize>,
    eps: f64,
    rows: Rows,
    /// Which of gamma and beta are given.
    affine: [bool; 2],
}

/// A case on activations of `shape`.
pub(super) fn case(g: &mut Gen, spec: &'static OpSpec, groups: Option<usize>, shape: &[usize]) -> Result<Case> {
    // No broadcast layouts: a constant row has no variance, and derivatives of the order of eps^(-3/2).
    let mut inputs = vec![g.array(shape, Domain::Distinct)?];
    let affine = [g.one_in(2), g.one_in(2)];
    for _ in affine.iter().filter(|given| **given) {
        inputs.push(g.array(&shape[shape.len() - 1..], Domain::Normal)?);
    }
    Ok(Case::new(RowNorm { spec, groups, eps: 0.1, rows: Rows::of(shape, 0)?, affine }, inputs))
}

impl RowNorm {
    /// Without scale and offset, until [`RowNorm::apply`] is given them.
    pub(super) fn new(spec: &'static OpSpec, groups: Option<usize>, eps: f64, rows: Rows) -> RowNorm {
        RowNorm { spec, groups, eps, rows, affine: [false; 2] }
    }

    /// Applies it to `x` with the scale and the offset that are given.
    #[track_caller]
    pub(super) fn apply(self, x: &Tensor, gamma: Option<&Tensor>, beta: Option<&Tensor>) -> Result<Tensor> {
        let op = RowNorm { affine: [gamma.is_some(), beta.is_some()], ..self };
        let inputs: Vec<&Tensor> = [Some(x), gamma, beta].into_iter().flatten().collect();
        apply1(op, &inputs)
    }
}

impl Op for RowNorm {
    fn spec(&self) -> &'static OpSpec {
        self.spec
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        check_rows(self.spec.name, x[0].shape(), self.rows)?;
        let mut vectors = x[1..].iter().copied();
        let [gamma, beta] = self.affine.map(|given| if given { vectors.next() } else { None });
        let (y, mean, rstd) = match self.groups {
            None => ops::layer_norm(x[0], gamma, beta, self.eps)?,
            Some(groups) => ops::group_norm(x[0], groups, gamma, beta, self.eps)?,
        };
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
        if self.groups.is_none() && want[1..].contains(&true) {
            let (dx, dgamma, dbeta) = ops::layer_norm_grads(dy, x, mean, rstd, gamma, self.rows)?;
            let sums = [dgamma, dbeta].into_iter().zip(self.affine).filter(|(_, given)| *given);
            return Ok([Some(dx.into())].into_iter().chain(sums.map(|(sum, _)| Some(sum.into()))).collect());
        }
        let input_grad = if self.groups.is_some() { ops::group_norm_grad } else { ops::layer_norm_grad };
        let normalized = if self.groups.is_some() { ops::group_norm_normalized } else { ops::layer_norm_normalized };
        let mut d = vec![wanted(want, 0, || input_grad(dy, x, mean, rstd, gamma))?];
        if self.affine[0] {
            d.push(wanted(want, 1, || ops::rows_dot(dy, &normalized(x, mean, rstd)?, self.rows))?);
        }
        if self.affine[1] {
            d.push(wanted(want, d.len(), || ops::rows_sum(dy, self.rows))?);
        }
        Ok(d)
    }
}
