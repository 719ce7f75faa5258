//! NT-Xent, the loss of SimCLR (Chen, Kornblith, Norouzi, Hinton 2020, arXiv:2002.05709, equation 1).
//!
//! For unit vectors u and a positive pair (i, j):
//!
//! ```text
//! l(i, j) = -ln [ exp(u_i·u_j / τ) / Σ_{m ≠ i} exp(u_i·u_m / τ) ]
//! L = 1/(2N) Σ l(i, j) over the 2N ordered positive pairs
//! ```
//!
//! The sum holds the positive and leaves out i alone. The mean is over 2N pairs: the authors' code returns twice that.
//!
//! The similarities of all pairs are never held: memory grows with 2N·D, not with its square, and value and gradient have
//! the same bits whatever the threads, tiles and ranks ([`Tensor::pair_log_sum_exp`]). [`Form::Materialised`] holds the
//! 2N x 2N matrix, as most code does: to compare with.

use crate::sample_totals;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port};
use selfsame_autograd::ops::{Excluded, Pairs};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Lengths below this count as this when embeddings are normalised, so that a zero vector has similarity 0 to all.
const LEAST_NORM: f64 = 1e-12;

/// Options of [`nt_xent`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NtXent {
    /// τ. Gradients grow with 1/τ; the paper uses 0.1 on ImageNet and 0.5 on CIFAR-10.
    pub temperature: f64,
    /// How it is computed.
    pub form: Form,
}

/// How the sums over all pairs are computed. The results agree up to rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// Tile by tile: memory O(2N·D).
    #[default]
    Streaming,
    /// From the matrix of all similarities, a few matrices of 2N x 2N elements in all. Gradients over ranks agree to
    /// rounding, not to the bit: what a row receives as a negative of others is summed within ranks first.
    Materialised,
}

impl Default for NtXent {
    fn default() -> NtXent {
        NtXent { temperature: 0.1, form: Form::Streaming }
    }
}

/// The loss of `z` `[2N, D]`, whose rows i and i + N are the two views of image i. A scalar.
///
/// ```
/// use selfsame_autograd::Tensor;
/// use selfsame_engine::{Array, Device};
/// use selfsame_losses::{NtXent, nt_xent};
/// # fn main() -> selfsame_engine::Result<()> {
/// let device = Device::cpu_with(1)?;
/// let z = Tensor::leaf(Array::from_slice(&[1.0, 0.0, 0.0, 1.0, 0.9, 0.1, 0.1, 0.9], &[4, 2], &device)?);
/// let loss = nt_xent(&z, &NtXent { temperature: 0.5, ..NtXent::default() })?;
/// let dz = loss.backward()?.get(&z)?;
/// assert!(loss.array().item::<f64>()? > 0.0 && dz.is_some());
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Shape` unless `z` has two axes and an even, positive number of rows; `Config` for a temperature that is not
/// positive.
#[track_caller]
pub fn nt_xent(z: &Tensor, o: &NtXent) -> Result<Tensor> {
    let [rows, _] = z.dims()?;
    if rows == 0 || rows % 2 != 0 {
        return Err(Error::new(ErrorKind::Shape, "nt_xent", format!("z {:?}", z.shape()))
            .expected("[2N, D]: the first views of N images, then their second views"));
    }
    check(o)?;
    mean_over_pairs(&z.l2_normalize(LEAST_NORM)?, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's embeddings of its `n` images: `a` `[n, D]` of the first views, `b` of
/// the second. Negatives come from all ranks. With [`Comm::single`] it is the two-view form of [`nt_xent`].
///
/// Rank r holds images r·n to (r+1)·n. Every rank gets the same loss and calls backward on it; the parameter
/// gradients of the ranks then add up to those of the whole batch. Loss and gradients have the same bits for any number
/// of ranks.
///
/// # Errors
/// As for [`nt_xent`]; `Numerics` when ranks differ in `n`, or when `n` is no multiple of 16 and there is more than one
/// rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn nt_xent_ranks(a: &Tensor, b: &Tensor, o: &NtXent, comm: &Arc<Comm>) -> Result<Tensor> {
    let [n, _] = a.dims()?;
    if n == 0 || a.shape() != b.shape() {
        return Err(Error::new(ErrorKind::Shape, "nt_xent", format!("views {:?} and {:?}", a.shape(), b.shape()))
            .expected("[n, D] twice, n at least 1"));
    }
    check(o)?;
    let shares = comm.exchange(n)?;
    if shares.iter().any(|share| *share != n) {
        return Err(Error::new(ErrorKind::Numerics, "nt_xent", format!("ranks of {shares:?} images"))
            .expected("equally many on every rank")
            .hint("choose ranks that divide the batch into equal multiples of 16 images"));
    }
    let anchors = Tensor::concat(&[&a.l2_normalize(LEAST_NORM)?, &b.l2_normalize(LEAST_NORM)?], 0)?;
    mean_over_pairs(&anchors, o, comm)
}

/// L from this rank's unit vectors `u` `[2n, D]`, first views before second ones.
fn mean_over_pairs(u: &Tensor, o: &NtXent, comm: &Arc<Comm>) -> Result<Tensor> {
    let local = u.shape()[0] / 2;
    let batch = Batch { local, global: local * comm.size(), first: local * comm.rank() };
    let log_denominator = match o.form {
        Form::Streaming => streaming(u, o.temperature, &batch, comm)?,
        Form::Materialised => materialised(u, o.temperature, &batch, comm)?,
    };
    let (a, b) = (u.slice(0, 0, local)?, u.slice(0, local, 2 * local)?);
    let positive = a.mul(&b)?.sum(&[1], true)?.scale(1.0 / o.temperature)?; // [n, 1]: both views have the same
    let l = log_denominator.reshape(&[2, local])?.transpose(0, 1)?.sub(&positive)?; // [n, 2]
    sample_totals(&l, batch.first, comm)?.sum_all()?.scale(1.0 / (2 * batch.global) as f64)
}

/// Where a rank's images are in the batch of all ranks.
struct Batch {
    /// Images here.
    local: usize,
    /// Images of all ranks.
    global: usize,
    /// Global number of the first image here.
    first: usize,
}

impl Batch {
    /// The global number of each row here.
    fn places(&self) -> impl Iterator<Item = usize> {
        let Batch { local, global, first } = *self;
        (0..2 * local).map(move |row| row / local * global + first + row % local)
    }
}

/// ln Σ_{m ≠ i} exp(u_i·u_m / τ), `[2n]`, tile by tile.
fn streaming(u: &Tensor, temperature: f64, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    let own: Vec<i64> = batch.places().map(|place| place as i64).collect();
    let excluded = Excluded::Own(Array::from_slice(&own, &[own.len()], u.device())?);
    let pairs = Pairs { excluded, comm: Arc::clone(comm), parts: 2, ..Pairs::default() };
    let scale = Tensor::constant(ops::cast(&Array::scalar(1.0 / temperature, u.device())?, u.dtype())?);
    Ok(u.pair_log_sum_exp(&scale, Some(1.0), &pairs)?.value)
}

/// The same from the matrix of all similarities.
fn materialised(u: &Tensor, temperature: f64, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    let view = |v: usize| u.slice(0, v * batch.local, (v + 1) * batch.local)?.all_gather(comm);
    let candidates = Tensor::concat(&[&view(0)?, &view(1)?], 0)?;
    // Divided by τ after the product, so that the matrix is symmetric to the bit.
    let logits = u.matmul(&candidates.transpose(0, 1)?)?.scale(1.0 / temperature)?; // [2n, 2N]
    let minus_infinity = ops::cast(&Array::scalar(f32::NEG_INFINITY, u.device())?, u.dtype())?;
    let others = Tensor::select(&itself(u, batch)?, &Tensor::constant(minus_infinity), &logits)?;
    others.log_sum_exp()
}

/// The mask `[2n, 2N]` that is true where a candidate is the anchor itself.
fn itself(anchors: &Tensor, batch: &Batch) -> Result<Array> {
    let candidates = 2 * batch.global;
    Array::on_host::<bool>(anchors.device(), &[2 * batch.local, candidates], "nt_xent", |_, mask| {
        mask.fill(false);
        mask.chunks_mut(candidates).zip(batch.places()).for_each(|(mask, place)| mask[place] = true);
        Ok(())
    })
}

fn check(o: &NtXent) -> Result<()> {
    if is_temperature(o.temperature) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, "nt_xent", format!("temperature {}", o.temperature)).expected(TEMPERATURE_RANGE))
}

fn is_temperature(t: f64) -> bool {
    t.is_finite() && t > 0.0
}

const TEMPERATURE_RANGE: &str = "a positive number";

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "ntxent",
    doc: "each view must pick its partner out of all other views of the batch",
    paper: "Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations, arXiv:2002.05709",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[Port { name: "z", shape: "[2N, D]", doc: "embeddings; rows i and i+N are two views of image i" }],
    outputs: &[Port { name: "loss", shape: "[]", doc: "mean over the 2N ordered pairs" }],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.1,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the cosines; lower weighs hard negatives more. 0.1 on ImageNet, 0.5 on CIFAR-10",
        },
        OptionSpec {
            name: "materialised",
            default: 0.0,
            allowed: |x| x == 0.0 || x == 1.0,
            range: "0 or 1",
            doc: "1: hold the matrix of all similarities instead of going over it tile by tile",
        },
    ],
    run: |inputs, options| {
        let form = if options.get("materialised")? == 1.0 { Form::Materialised } else { Form::Streaming };
        let loss = nt_xent(&inputs["z"], &NtXent { temperature: options.get("temperature")?, form })?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[
        Fact {
            what: "ln(2N-1): every pair equally similar (collapse, or no learning yet)",
            value: |images, _| Real::log(2.0 * images as f64 - 1.0),
        },
        Fact {
            what: "ln(1 + (2N-2) exp(-1/τ)): partners equal, different images orthogonal",
            value: |images, options| match options.get("temperature") {
                Ok(t) => Real::log(1.0 + (2.0 * images as f64 - 2.0) * Real::exp(-1.0 / t)),
                Err(_) => f64::NAN,
            },
        },
    ],
};

/// Embeddings of lengths around 1 and above, so that differences stay far from the kink at length 0.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (g.dim(), 2 + g.dim());
    let temperature = g.pick(&["0.1", "0.5", "1.0"]).to_string();
    let z = g.array(&[2 * n, d], Domain::Range(0.2, 1.5))?;
    let signs = g.array(&[2 * n, d], Domain::Range(-1.0, 1.0))?;
    let signed: Vec<f64> =
        z.to_vec::<f64>()?.iter().zip(signs.to_vec::<f64>()?).map(|(z, s)| if s < 0.0 { -z } else { *z }).collect();
    let z = Array::from_slice(&signed, &[2 * n, d], g.device())?;
    let materialised = g.pick(&["0", "1"]).to_string();
    let set =
        [("temperature", temperature), ("materialised", materialised)].map(|(key, value)| (key.to_string(), value));
    let options = Options::parse(&SPEC, &set)?;
    Ok(LossCase { inputs: BTreeMap::from([("z".to_string(), z)]), options })
}

/// Equation 1 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let z = &case.inputs["z"];
    let [rows, d] = z.dims()?;
    let (z, tau) = (z.to_vec::<f64>()?, case.options.get("temperature")?);
    let dot = |i: usize, j: usize| (0..d).map(|k| z[i * d + k] * z[j * d + k]).sum::<f64>();
    let sim = |i: usize, j: usize| dot(i, j) / (dot(i, i).sqrt() * dot(j, j).sqrt());
    let pair = |i: usize, j: usize| {
        let denominator: f64 = (0..rows).filter(|m| *m != i).map(|m| Real::exp(sim(i, m) / tau)).sum();
        -Real::log(Real::exp(sim(i, j) / tau) / denominator)
    };
    let n = rows / 2;
    Ok((0..n).map(|k| pair(k, k + n) + pair(k + n, k)).sum::<f64>() / rows as f64)
}
