//! y = gamma·x̂ + beta with x̂ = (x - mean)·rstd per channel (Ioffe, Szegedy 2015). With statistics of the batch:
//! dx = gamma·rstd·(dy - mean(dy) - x̂·mean(dy·x̂)); with constant statistics dx = gamma·rstd·dy. dgamma = Σ dy·x̂ and
//! dbeta = Σ dy are sums over samples, and so are the statistics: neither depends on how the batch is cut into ranks.
//! Statistics groups are batches of their own in all but dgamma and dbeta, which are sums over the whole batch.
//!
//! The fused forms in `batch_norm_relu` and `batch_norm_add_relu` are this operation with other options.

use super::linear::check_rows;
use super::prelude::*;
use selfsame_engine::ops::{ChannelStats, StatsTree};
use selfsame_engine::{Comm, SampleSum};
use selfsame_kernels::order::LEAF;
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
    /// Mean and variance of each block of consecutive images of the global batch. The blocks are part of the
    /// configuration, so the batch may be cut between them into micro-batches or ranks without changing a bit.
    Groups {
        /// Images per block, a multiple of [`LEAF`]. Every block must lie whole in one micro-batch and on one rank.
        images: usize,
    },
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

/// Mean and variance per channel of each statistics group here: of one, but for [`BatchStats::Groups`]. Untracked.
pub struct BatchMoments {
    /// Index in the global batch of each group's first image.
    pub groups: Vec<usize>,
    /// `[groups, c]`.
    pub mean: Array,
    /// The sum of squared deviations divided by the number of rows, `[groups, c]`.
    pub variance: Array,
    /// The sum of squared deviations divided by one less than the number of rows, `[groups, c]`: what running
    /// statistics keep.
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

    /// The images here by what they are normalised with, in order.
    fn groups(&self) -> Result<Vec<Group>> {
        let rows = self.options.rows;
        let own = match self.options.stats {
            BatchStats::Groups { images } => {
                check_groups(self.spec.name, images, rows)?;
                let group = |first| Group {
                    first,
                    own: Rows { first_image: 0, images, ..rows },
                    batch: Rows { first_image: rows.first_image + first, images, ..rows },
                };
                return Ok((0..rows.images).step_by(images).map(group).collect());
            }
            BatchStats::Batch(_) | BatchStats::Fixed { .. } => rows,
            BatchStats::Local => Rows { first_image: 0, ..rows },
        };
        Ok(vec![Group { first: 0, own, batch: rows }])
    }

    /// The group's part of y, normalised by a mean and a reciprocal standard deviation.
    fn normalized(
        &self,
        group: &Group,
        x: &Array,
        [mean, rstd]: [&Array; 2],
        [gamma, beta, residual]: [Option<&Array>; 3],
    ) -> Result<Array> {
        let residual = residual.map(|residual| group.of(residual)).transpose()?;
        ops::batch_norm_apply(&group.of(x)?, mean, rstd, gamma, beta, residual.as_ref(), self.form.relu)
    }

    /// What is kept for the backward: x, gamma and beta if they are given, y if it cannot be had again, then mean and
    /// reciprocal standard deviation of each group.
    fn kept<'a>(&self, saved: &'a Saved) -> Result<KeptArrays<'a>> {
        let mut at = 0;
        let mut next = || {
            at += 1;
            saved.array(at - 1)
        };
        let x = next()?;
        let gamma = self.affine[0].then(&mut next).transpose()?;
        let beta = self.affine[1].then(&mut next).transpose()?;
        let y = (self.form.relu && self.form.residual).then(&mut next).transpose()?;
        let normalizers = self.groups()?.iter().map(|_| Ok([next()?, next()?])).collect::<Result<_>>()?;
        Ok(KeptArrays { x, gamma, beta, y, normalizers })
    }

    /// The ranks that a group extends over.
    fn synchronised(&self) -> Option<&Comm> {
        match &self.options.stats {
            BatchStats::Batch(comm) => comm.as_deref(),
            _ => None,
        }
    }
}

/// See [`Normalize::kept`].
struct KeptArrays<'a> {
    x: &'a Array,
    gamma: Option<&'a Array>,
    beta: Option<&'a Array>,
    y: Option<&'a Array>,
    /// Of each group.
    normalizers: Vec<[&'a Array; 2]>,
}

/// Mean, variance and unbiased variance, `[c]` each.
type Moments = [Array; 3];

/// Images that are normalised together.
struct Group {
    /// Which of the images here is its first.
    first: usize,
    /// Its rows as its statistics count them.
    own: Rows,
    /// Its rows in the global batch.
    batch: Rows,
}

impl Group {
    /// The group's part of an activation `[images, .., c]`.
    fn of(&self, x: &Array) -> Result<Array> {
        x.slice(0, self.first, self.first + self.own.images)
    }
}

/// Refuses groups that are no whole number of leaves or that are not whole here.
fn check_groups(op: &str, images: usize, rows: Rows) -> Result<()> {
    if images == 0 || !images.is_multiple_of(LEAF) {
        return Err(Error::new(ErrorKind::Config, op, format!("statistics groups of {images} images"))
            .expected(format!("a positive multiple of {LEAF} images")));
    }
    if rows.images == 0 || !rows.first_image.is_multiple_of(images) || !rows.images.is_multiple_of(images) {
        let here = rows.first_image..rows.first_image + rows.images;
        return Err(Error::new(ErrorKind::Numerics, op, format!("images {here:?} in statistics groups of {images}"))
            .expected(format!("whole groups: micro-batches and ranks cut at multiples of {images} images"))
            .hint("a group that straddles a micro-batch or rank boundary has its statistics on neither side"));
    }
    Ok(())
}

/// The groups' moments, `[groups, c]` each.
fn stacked(groups: &[Moments]) -> Result<Moments> {
    let stack = |i: usize| {
        let rows = groups.iter().map(|moments| moments[i].reshape(&[1, moments[i].numel()]));
        joined(rows.collect::<Result<_>>()?)
    };
    Ok([stack(0)?, stack(1)?, stack(2)?])
}

/// `sum` with its leaves counted `leaves` further on; `None` when its nodes are no nodes of the tree there.
fn moved(sum: &SampleSum, leaves: usize) -> Result<Option<SampleSum>> {
    let mut moved = SampleSum::default();
    for (first, level, node) in sum.clone().into_blocks() {
        if !leaves.is_multiple_of(1 << level) {
            return Ok(None);
        }
        moved.add(first + leaves, level, node)?;
    }
    Ok(Some(moved))
}

/// Arrays of groups, in order, as one.
fn joined(mut parts: Vec<Array>) -> Result<Array> {
    match parts.pop() {
        Some(only) if parts.is_empty() => Ok(only),
        last => ops::concat(&parts.iter().chain(&last).collect::<Vec<_>>(), 0),
    }
}

/// Mean and squared deviations of the group's rows, over all its ranks.
fn group_stats(x: &Array, rows: Rows, comm: Option<&Comm>) -> Result<ChannelStats> {
    let local = ops::channel_stats(x, rows)?;
    let Some(comm) = comm else { return local.total() };
    let mut all = StatsTree::default();
    for part in comm.exchange(local)? {
        for (first, level, stats) in part.into_blocks() {
            let (mean, m2) = (stats.mean.to_device(x.device())?, stats.m2.to_device(x.device())?);
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
        if let Some(residual) = residual.filter(|residual| residual.shape() != x.shape()) {
            return Err(Error::new(ErrorKind::Shape, self.spec.name, format!("a residual {:?}", residual.shape()))
                .expected(format!("the activation's shape {:?}", x.shape())));
        }
        let (mut ys, mut moments, mut normalizers) = (Vec::new(), Vec::new(), Vec::new());
        for group in self.groups()? {
            let (mean, variance) = match &self.options.stats {
                BatchStats::Fixed { mean, variance } => (mean.clone(), variance.clone()),
                _ => {
                    let stats = group_stats(&group.of(x)?, group.own, self.synchronised())?;
                    let (variance, unbiased) = (stats.variance()?, stats.unbiased_variance()?);
                    moments.push([stats.mean.clone(), variance.clone(), unbiased]);
                    (stats.mean, variance)
                }
            };
            let rstd = ops::reciprocal_std(&variance, self.options.eps)?;
            ys.push(self.normalized(&group, x, [&mean, &rstd], [gamma, beta, residual])?);
            normalizers.extend([mean, rstd]);
        }
        let y = joined(ys)?;
        save.keep(x);
        gamma.into_iter().chain(beta).for_each(|vector| save.keep(vector));
        // A residual would have to be kept for as long as y.
        if !self.form.residual {
            save.rematerializes();
        } else if self.form.relu {
            save.keep(&y);
        }
        normalizers.iter().for_each(|vector| save.keep(vector));
        (1..4).for_each(|output| save.untracked_output(output));
        let moments = if moments.is_empty() { None } else { Some(stacked(&moments)?) };
        Ok(std::iter::once(y).chain(moments.into_iter().flatten()).collect())
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (KeptArrays { x, gamma, y, normalizers, .. }, dy) = (self.kept(saved)?, only(dy)?);
        let again = match saved.output() {
            None if self.form.relu && y.is_none() => Some(self.rematerialize(saved)?),
            output => output.cloned(),
        };
        let y = if self.form.relu { y.or(again.as_ref()) } else { None };
        let constant = matches!(self.options.stats, BatchStats::Fixed { .. });
        let (mut dbeta, mut dgamma, mut dx) = (SampleSum::default(), SampleSum::default(), Vec::new());
        for (group, [mean, rstd]) in self.groups()?.into_iter().zip(normalizers) {
            let (x, dy, y) = (&group.of(x)?, &group.of(dy)?, y.map(|y| group.of(y)).transpose()?);
            let sums = |rows| ops::batch_norm_grad_sums(dy, x, y.as_ref(), mean, rstd, rows);
            let own = sums(group.own)?;
            let leaves = group.batch.first_leaf() - group.own.first_leaf();
            let (sum_dy, sum_dy_xhat) = match (moved(&own.0, leaves)?, moved(&own.1, leaves)?) {
                (Some(sum_dy), Some(sum_dy_xhat)) => (sum_dy, sum_dy_xhat),
                _ => sums(group.batch)?,
            };
            if want[0] {
                let totals = if constant { None } else { Some(group_sums(own, group.own, self.synchronised())?) };
                let totals = totals.as_ref().map(|(dy, dy_xhat, count)| (dy, dy_xhat, *count));
                dx.push(ops::batch_norm_input_grad(dy, x, y.as_ref(), mean, rstd, gamma, totals)?);
            }
            dbeta.merge(sum_dy)?;
            dgamma.merge(sum_dy_xhat)?;
        }
        let dx = wanted(want, 0, || joined(dx))?;
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

    fn rematerialize(&self, saved: &Saved) -> Result<Array> {
        let KeptArrays { x, gamma, beta, normalizers, .. } = self.kept(saved)?;
        let parts = self.groups()?.into_iter().zip(normalizers);
        joined(parts.map(|(group, by)| self.normalized(&group, x, by, [gamma, beta, None])).collect::<Result<_>>()?)
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
    let groups = match &options.stats {
        BatchStats::Batch(_) => vec![0],
        _ => op.groups()?.iter().map(|group| group.batch.first_image).collect(),
    };
    let inputs: Vec<&Tensor> = [Some(x), gamma, beta, residual].into_iter().flatten().collect();
    let outputs = apply(op, &inputs)?;
    let moments = match &outputs[1..] {
        [mean, variance, unbiased_variance] => Some(BatchMoments {
            groups,
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
    let kind = g.below(4);
    let images = if kind == 2 { LEAF * (1 + g.below(3)) } else { g.pick(&[2, 3, 17]) };
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
    let stats = match kind {
        0 => BatchStats::Batch(None),
        1 => BatchStats::Local,
        2 => BatchStats::Groups { images: LEAF },
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
    /// batch between them or a statistics group is not whole here; `Config` when its size is no multiple of [`LEAF`].
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
