//! y = gamma·x̂ + beta with x̂ = (x - mean)·rstd per channel (Ioffe, Szegedy 2015). With statistics of the batch:
//! dx = gamma·rstd·(dy - mean(dy) - x̂·mean(dy·x̂)); with constant statistics dx = gamma·rstd·dy. dgamma = Σ dy·x̂ and
//! dbeta = Σ dy are sums over samples, and so are the statistics: neither depends on how the batch is cut into ranks.
//!
//! The fused forms in `batch_norm_relu` and `batch_norm_add_relu` are this operation with other options.

use super::linear::check_rows;
use super::prelude::*;
use selfsame_engine::ops::{ChannelStats, StatsTree};
use selfsame_engine::{Comm, SampleSum};
use std::sync::Arc;

/// Options of [`Tensor::batch_norm`] and its fused forms.
#[derive(Clone)]
pub struct BatchNorm {
    /// Added to the variance.
    pub eps: f64,
    /// Which images the activation holds.
    pub rows: Rows,
    /// What is normalised with.
    pub stats: BatchStats,
}

/// The statistics that batch norm normalises with.
#[derive(Clone)]
pub enum BatchStats {
    /// Mean and variance of the whole batch, over all ranks of the group if there is one (synchronised batch norm).
    Batch(Option<Arc<Comm>>),
    /// Mean and variance of the images here alone: one group per micro-batch and rank.
    Local,
    /// Constants, as in evaluation and frozen layers.
    Fixed {
        /// `[c]`.
        mean: Array,
        /// `[c]`.
        variance: Array,
    },
}

/// What batch norm returns.
pub struct BatchNormed {
    /// The normalised activation.
    pub y: Tensor,
    /// What it was normalised with, for running statistics; `None` when that was constant.
    pub moments: Option<BatchMoments>,
}

/// Mean and variance of a batch, per channel. Untracked.
pub struct BatchMoments {
    /// `[c]`.
    pub mean: Array,
    /// The sum of squared deviations divided by the number of rows, `[c]`.
    pub variance: Array,
    /// The sum of squared deviations divided by one less than the number of rows, `[c]`: what running statistics keep.
    pub unbiased_variance: Array,
}

/// See [`Tensor::batch_norm`].
pub(super) static BATCH_NORM: OpSpec = OpSpec {
    name: "batch_norm",
    gradient: Gradient::Vjp,
    cases: |g| case(g, &BATCH_NORM, Form { relu: false, residual: false }),
};

/// What is fused behind the normalisation.
#[derive(Clone, Copy)]
pub(super) struct Form {
    pub(super) relu: bool,
    pub(super) residual: bool,
}

/// The operation in all its forms. Inputs: x, then those of gamma, beta and residual that are given.
struct Normalize {
    spec: &'static OpSpec,
    options: BatchNorm,
    form: Form,
    affine: [bool; 2],
}

impl Normalize {
    /// Gamma, beta and residual among the inputs.
    fn split<'a>(&self, x: &[&'a Array]) -> [Option<&'a Array>; 3] {
        let mut rest = x[1..].iter().copied();
        [self.affine[0], self.affine[1], self.form.residual].map(|given| if given { rest.next() } else { None })
    }

    /// The rows that are normalised together, counted from the group's first image, and the ranks that hold them.
    fn group(&self) -> (Rows, Option<&Comm>) {
        match &self.options.stats {
            BatchStats::Batch(comm) => (self.options.rows, comm.as_deref()),
            BatchStats::Local | BatchStats::Fixed { .. } => (Rows { first_image: 0, ..self.options.rows }, None),
        }
    }
}

/// Mean and squared deviations of the group's rows, over all its ranks.
fn group_stats(x: &Array, rows: Rows, comm: Option<&Comm>) -> Result<ChannelStats> {
    let local = ops::channel_stats(x, rows)?;
    let Some(comm) = comm else { return local.total() };
    let mut all = StatsTree::default();
    for part in comm.exchange(local)? {
        for (first, level, stats) in part.into_blocks() {
            let (mean, m2) = (stats.mean.to_device(x.device()), stats.m2.to_device(x.device()));
            all.insert(first, level, ChannelStats { mean, m2, ..stats }, &mut ChannelStats::merge)?;
        }
    }
    all.total()
}

/// Σ dy, Σ dy·x̂ and the number of rows of the group, over all its ranks.
fn group_sums(
    (sum_dy, sum_dy_xhat): (SampleSum, SampleSum),
    rows: Rows,
    comm: Option<&Comm>,
) -> Result<(Array, Array, u64)> {
    let count = rows.len() as u64;
    let Some(comm) = comm else { return Ok((sum_dy.total()?, sum_dy_xhat.total()?, count)) };
    let count = comm.exchange(count)?.iter().sum();
    Ok((comm.all_sum(sum_dy)?.total()?, comm.all_sum(sum_dy_xhat)?.total()?, count))
}

impl Op for Normalize {
    fn spec(&self) -> &'static OpSpec {
        self.spec
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let [gamma, beta, residual] = self.split(x);
        let x = x[0];
        check_rows(self.spec.name, x.shape(), self.options.rows)?;
        let (mean, variance, unbiased) = match &self.options.stats {
            BatchStats::Fixed { mean, variance } => (mean.clone(), variance.clone(), None),
            BatchStats::Batch(_) | BatchStats::Local => {
                let (rows, comm) = self.group();
                let stats = group_stats(x, rows, comm)?;
                let (variance, unbiased) = (stats.variance()?, stats.unbiased_variance()?);
                (stats.mean, variance, Some(unbiased))
            }
        };
        let rstd = ops::reciprocal_std(&variance, self.options.eps)?;
        let y = ops::batch_norm_apply(x, &mean, &rstd, gamma, beta, residual, self.form.relu)?;
        save.keep(x);
        save.keep(&mean);
        save.keep(&rstd);
        if self.form.relu {
            save.keep(&y);
        }
        if let Some(gamma) = gamma {
            save.keep(gamma);
        }
        (1..4).for_each(|output| save.untracked_output(output));
        Ok(match unbiased {
            None => vec![y],
            Some(unbiased) => vec![y, mean, variance, unbiased],
        })
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, mean, rstd, dy) = (saved.array(0)?, saved.array(1)?, saved.array(2)?, only(dy)?);
        let y = if self.form.relu { Some(saved.array(3)?) } else { None };
        let gamma = if self.affine[0] { Some(saved.array(3 + usize::from(self.form.relu))?) } else { None };
        let rows = self.options.rows;
        let constant = matches!(self.options.stats, BatchStats::Fixed { .. });
        let (dbeta, dgamma) = ops::batch_norm_grad_sums(dy, x, y, mean, rstd, rows)?;
        let dx = wanted(want, 0, || {
            if constant {
                return ops::batch_norm_input_grad(dy, x, y, mean, rstd, gamma, None);
            }
            let (group, comm) = self.group();
            // The parameters' sums, unless the group counts its leaves from its own first image.
            let local = if group == rows {
                (dbeta.clone(), dgamma.clone())
            } else {
                ops::batch_norm_grad_sums(dy, x, y, mean, rstd, group)?
            };
            let (sum_dy, sum_dy_xhat, count) = group_sums(local, group, comm)?;
            ops::batch_norm_input_grad(dy, x, y, mean, rstd, gamma, Some((&sum_dy, &sum_dy_xhat, count)))
        })?;
        let mut d = vec![dx];
        if self.affine[0] {
            d.push(Some(dgamma.into()));
        }
        if self.affine[1] {
            d.push(Some(dbeta.into()));
        }
        if self.form.residual {
            d.push(wanted(want, d.len(), || match y {
                Some(y) => ops::binary(Binary::ReluGrad, y, dy),
                None => Ok(dy.clone()),
            })?);
        }
        Ok(d)
    }
}

/// Applies the form of batch norm that `spec` names.
#[track_caller]
pub(super) fn normalize(
    spec: &'static OpSpec,
    form: Form,
    x: &Tensor,
    [gamma, beta, residual]: [Option<&Tensor>; 3],
    options: &BatchNorm,
) -> Result<BatchNormed> {
    let op = Normalize { spec, options: options.clone(), form, affine: [gamma.is_some(), beta.is_some()] };
    let inputs: Vec<&Tensor> = [Some(x), gamma, beta, residual].into_iter().flatten().collect();
    let outputs = apply(op, &inputs)?;
    let moments = match &outputs[1..] {
        [mean, variance, unbiased_variance] => Some(BatchMoments {
            mean: mean.array().clone(),
            variance: variance.array().clone(),
            unbiased_variance: unbiased_variance.array().clone(),
        }),
        _ => None,
    };
    Ok(BatchNormed { y: outputs[0].clone(), moments })
}

/// A gradient-check case. Where there is a ReLU, the inputs keep its argument away from 0: |gamma·x̂| stays below 1.5
/// (x̂ is below √rows, at most 7.2), beta is ±2, and a residual, which changes sign inside a channel, ±4.
pub(super) fn case(g: &mut Gen, spec: &'static OpSpec, form: Form) -> Result<Case> {
    let images = g.pick(&[2, 3, 17]);
    let c = g.dim();
    let shape: Vec<usize> = match g.below(2) {
        0 => vec![images, c],
        _ => vec![images, 3, c],
    };
    // No broadcast layouts: a channel without variance has derivatives of the order of eps^(-3/2).
    let mut inputs = vec![g.array(&shape, Domain::Distinct)?];
    let affine = if form.relu { [true, true] } else { [g.one_in(2), g.one_in(2)] };
    if affine[0] {
        inputs.push(g.array(&[c], Domain::Signed(0.1, 0.2))?);
    }
    if affine[1] {
        inputs.push(g.array(&[c], Domain::Signed(2.0, 2.1))?);
    }
    if form.residual {
        inputs.push(g.array(&shape, Domain::Signed(4.0, 5.0))?);
    }
    let stats = match g.below(3) {
        0 => BatchStats::Batch(None),
        1 => BatchStats::Local,
        _ => BatchStats::Fixed {
            mean: g.array(&[c], Domain::Range(-0.1, 0.1))?,
            variance: g.array(&[c], Domain::Range(0.9, 2.0))?,
        },
    };
    let options = BatchNorm { eps: 0.1, rows: Rows::of(&shape, 0)?, stats };
    Ok(Case::new(Normalize { spec, options, form, affine }, inputs))
}

impl Tensor {
    /// Batch normalisation over all axes but the last: `self` is `[images, .., c]`, `gamma` and `beta` are `[c]`.
    ///
    /// # Errors
    /// `Shape` when shapes or rows do not fit; `DType` unless f32 or f64; `Numerics` when ranks do not hold the whole
    /// batch between them.
    #[track_caller]
    pub fn batch_norm(
        &self,
        gamma: Option<&Tensor>,
        beta: Option<&Tensor>,
        options: &BatchNorm,
    ) -> Result<BatchNormed> {
        normalize(&BATCH_NORM, Form { relu: false, residual: false }, self, [gamma, beta, None], options)
    }
}
