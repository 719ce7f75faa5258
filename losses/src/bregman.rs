//! Contrast of a learned Bregman divergence (Rezaei, Soleymani, Bischl, Azizi 2021, arXiv:2109.07455).
//!
//! f_i holds the values of K sub-networks on view i of 2N. Their maximum is a convex functional, and the divergence that
//! it induces compares views:
//!
//! ```text
//! m*(j) = argmax_m f_jm        D_ij = max_m f_im - f_i,m*(j)        S_ij = exp(-D_ij / (2 σ²))
//! L     = mean of -ln [ exp(S_ij / T) / Σ_{m≠i} exp(S_im / T) ]     over the 2N views i with partner j
//! margin form: mean of ( D_ij + max(0, margin - D_in)² ) / 2        with one negative n for each view
//! ```
//!
//! D is not symmetric, and gradient flows through row i's two values alone: winners are constants. The margin form is
//! the authors' alternative; its details are reconstructed. The matrix of all divergences is held.

use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, constant, is_temperature};
use crate::softmax_terms::{batch_mean, check_option, check_shape};
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`bregman`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bregman {
    /// T, which divides the similarities: 0.5 on CIFAR, 0.1 on ImageNet.
    pub temperature: f64,
    /// σ of the similarity, 0.9.
    pub sigma: f64,
}

impl Default for Bregman {
    fn default() -> Bregman {
        Bregman { temperature: 0.5, sigma: 0.9 }
    }
}

/// The loss of `f` `[2N, K]`, whose rows i and i + N are of the two views of image i. A scalar.
///
/// # Errors
/// `Shape` unless `f` has an even, positive number of rows and K is positive; `Config` for a temperature or σ that is
/// not positive.
#[track_caller]
pub fn bregman(f: &Tensor, o: &Bregman) -> Result<Tensor> {
    let (a, b) = views(f)?;
    bregman_ranks(&a, &b, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's values: `a` `[n, K]` of the first views of its images, `b` of the second.
/// See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`bregman`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more
/// than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn bregman_ranks(a: &Tensor, b: &Tensor, o: &Bregman, comm: &Arc<Comm>) -> Result<Tensor> {
    check_temperature("bregman", o.temperature)?;
    check_option("bregman", "sigma", o.sigma, is_temperature, TEMPERATURE_RANGE)?;
    let batch = Batch::of_pairs("bregman", a, b, comm)?;
    let f = Tensor::concat(&[a, b], 0)?;
    let similarity = |divergence: &Tensor| divergence.scale(-0.5 / (o.sigma * o.sigma))?.exp();
    let own = batch.places().collect::<Vec<_>>();
    let partners: Vec<usize> = own.iter().map(|place| (place + batch.global) % (2 * batch.global)).collect();
    let below = below_winner(&f)?;
    let winners = all_winners(&f, &batch, comm)?; // [2N]
    let logits = similarity(&below.index_select(1, &winners)?)?.scale(1.0 / o.temperature)?; // [2n, 2N]
    let places = |places: &[usize]| {
        let places: Vec<i64> = places.iter().map(|place| *place as i64).collect();
        Array::from_slice(&places, &[places.len(), 1], f.device())
    };
    let positive = logits.gather(1, &places(&partners)?)?;
    let is_own = ops::compare(
        ops::Compare::Eq,
        &ops::arange(2 * batch.global, f.device())?.reshape(&[1, 2 * batch.global])?,
        &places(&own)?,
    )?;
    let others = Tensor::select(&is_own, &constant(f64::NEG_INFINITY, &f)?, &logits)?;
    let l = others.log_sum_exp()?.reshape(&[2 * batch.local, 1])?.sub(&positive)?;
    batch_mean(&by_image(&l, &batch)?, &batch, comm)
}

/// Options of [`bregman_margin`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BregmanMargin {
    /// Divergences of negatives above it cost nothing.
    pub margin: f64,
}

impl Default for BregmanMargin {
    fn default() -> BregmanMargin {
        BregmanMargin { margin: 1.0 }
    }
}

/// The margin form of `f` `[2N, K]`, rows as for [`bregman`], with one negative for each row: `negatives` `[2N]` i64. A
/// scalar. Reconstructed.
///
/// # Errors
/// `Shape` unless `f` has an even, positive number of rows, K is positive, and negatives are rows.
#[track_caller]
pub fn bregman_margin(f: &Tensor, negatives: &Array, o: &BregmanMargin) -> Result<Tensor> {
    let (a, b) = views(f)?;
    let rows = f.shape()[0];
    check_shape("bregman", "negatives", negatives, &[rows])?;
    let comm = Arc::new(Comm::single());
    let batch = Batch::of_pairs("bregman", &a, &b, &comm)?;
    let (below, winners) = (below_winner(f)?, all_winners(f, &batch, &comm)?);
    let partners: Vec<i64> = (0..rows as i64).map(|row| (row + rows as i64 / 2) % rows as i64).collect();
    let divergence = |other: &Array| below.gather(1, &ops::index_select(&winners, 0, other)?.reshape(&[rows, 1])?);
    let positive = divergence(&Array::from_slice(&partners, &[rows], f.device())?)?;
    let short = divergence(negatives)?.affine(-1.0, o.margin)?.relu()?.square()?;
    batch_mean(&by_image(&positive.add(&short)?.scale(0.5)?, &batch)?, &batch, &comm)
}

/// How many sub-networks are the largest for at least `least` rows of `f` `[n, K]`: few, where most views look alike.
///
/// # Errors
/// `Shape` unless `f` has two axes and K is positive.
pub fn active_subnetworks(f: &Array, least: usize) -> Result<usize> {
    let [_, k] = f.dims()?;
    let mut wins = vec![0; k];
    ops::argmax(f, 1)?.to_vec::<i64>()?.into_iter().for_each(|winner| wins[winner as usize] += 1);
    Ok(wins.into_iter().filter(|wins| *wins >= least.max(1)).count())
}

fn views(f: &Tensor) -> Result<(Tensor, Tensor)> {
    let [rows, _] = f.dims()?;
    if rows % 2 != 0 {
        return Err(Error::new(ErrorKind::Shape, "bregman", format!("f {:?}", f.shape()))
            .expected("[2N, K]: the first views of N images, then their second views"));
    }
    Ok((f.slice(0, 0, rows / 2)?, f.slice(0, rows / 2, rows)?))
}

/// max_m f_im - f_ik for every k, `[n, K]`: exactly 0 at the winner, with a gradient of exactly 0.
fn below_winner(f: &Tensor) -> Result<Tensor> {
    let [n, _] = f.dims()?;
    let winners = ops::argmax(f.array(), 1)?.reshape(&[n, 1])?;
    f.gather(1, &winners)?.sub(f)
}

/// m* of the views of all ranks `[2N]`, first views before second ones.
fn all_winners(f: &Tensor, batch: &Batch, comm: &Comm) -> Result<Array> {
    let winners = ops::argmax(f.array(), 1)?;
    let of_view = |v: usize| comm.all_gather(&winners.slice(0, v * batch.local, (v + 1) * batch.local)?);
    ops::concat(&[&of_view(0)?, &of_view(1)?], 0)
}

/// `[2n, 1]`, first views before second ones, as `[n, 2]`.
fn by_image(l: &Tensor, batch: &Batch) -> Result<Tensor> {
    l.reshape(&[2, batch.local])?.transpose(0, 1)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "bregman",
    doc: "each view must pick its partner by a learned divergence, the maximum of many sub-networks",
    paper: "Rezaei et al. 2021, Deep Bregman Divergence for Contrastive Learning of Visual Representations, \
            arXiv:2109.07455",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("f", "[2N, K]", "values of the sub-networks; rows i and i+N are two views of image i"),
        Port::new("negatives", "[2N]", "where given, the margin form, with this row as each row's negative")
            .role(Role::Labels)
            .optional(),
    ],
    outputs: &[Port::new("loss", "[]", "mean over the 2N views")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.5,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the similarities exp(-D / (2 sigma^2)); 0.5 on CIFAR, 0.1 on ImageNet",
        },
        OptionSpec {
            name: "sigma",
            default: 0.9,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "width of the similarity",
        },
        OptionSpec {
            name: "margin",
            default: 1.0,
            allowed: f64::is_finite,
            range: "a finite number",
            doc: "of the margin form: divergences of negatives above it cost nothing",
        },
    ],
    run: |inputs, options| {
        let f = &inputs["f"];
        let loss = match inputs.get("negatives") {
            Some(negatives) => bregman_margin(f, negatives.array(), &BregmanMargin { margin: options.get("margin")? })?,
            None => bregman(f, &Bregman { temperature: options.get("temperature")?, sigma: options.get("sigma")? })?,
        };
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[
        Fact {
            what: "ln(2N-1): one sub-network wins for all views, or all similarities are equal (dead)",
            value: |images, _| Real::log(2.0 * images as f64 - 1.0),
        },
        Fact {
            what: "ln(1 + (2N-2) exp(-1/T)): the least value there is",
            value: |images, options| match options.get("temperature") {
                Ok(t) => Real::log(1.0 + (2.0 * images as f64 - 2.0) * Real::exp(-1.0 / t)),
                Err(_) => f64::NAN,
            },
        },
    ],
};

/// Away from ties, where winners change; divergences of the margin form away from its kink.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, k) = (g.dim(), g.dim());
    let mut inputs = BTreeMap::from([("f".to_string(), g.array(&[2 * n, k], Domain::Distinct)?)]);
    if g.one_in(3) {
        inputs.insert("negatives".to_string(), g.indices(&[2 * n], 2 * n)?);
    }
    let set = [("temperature", g.pick(&["0.2", "1.0"])), ("sigma", g.pick(&["0.5", "0.9"])), ("margin", "5")];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs, options })
}

/// The definitions in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [rows, k] = case.inputs["f"].dims()?;
    let f = case.inputs["f"].to_vec::<f64>()?;
    let option = |name: &str| case.options.get(name);
    let winner = |i: usize| (0..k).fold(0, |best, m| if f[i * k + m] > f[i * k + best] { m } else { best });
    let divergence = |i: usize, j: usize| f[i * k + winner(i)] - f[i * k + winner(j)];
    let partner = |i: usize| (i + rows / 2) % rows;
    if let Some(negatives) = case.inputs.get("negatives") {
        let negatives = negatives.to_vec::<i64>()?;
        let margin = option("margin")?;
        let term = |i: usize| {
            let short = (margin - divergence(i, negatives[i] as usize)).max(0.0);
            0.5 * (divergence(i, partner(i)) + short * short)
        };
        return Ok((0..rows).map(term).sum::<f64>() / rows as f64);
    }
    let (t, sigma) = (option("temperature")?, option("sigma")?);
    let weight = |i: usize, j: usize| Real::exp(Real::exp(-divergence(i, j) / (2.0 * sigma * sigma)) / t);
    let entropy = |i: usize| {
        let total: f64 = (0..rows).filter(|m| *m != i).map(|m| weight(i, m)).sum();
        -Real::log(weight(i, partner(i)) / total)
    };
    Ok((0..rows).map(entropy).sum::<f64>() / rows as f64)
}
