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

use crate::batch::{Batch, TEMPERATURE_RANGE, all_ids, constant, is_temperature, unit};
use crate::sample_totals;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::temperature::{SCALE, Temperature, scale_case, scale_of};
use selfsame_autograd::ops::{Excluded, Inputs, PairSums, Pairs};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, DType, Device, Error, ErrorKind, Result, Rows, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

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
    /// Tile by tile, from unit vectors in f32 that are rounded to bf16; what is computed from their products is in f32.
    /// The gradient is that of the rounded vectors.
    Bf16,
    /// From the matrix of all similarities, a few matrices of 2N x 2N elements in all. Gradients over ranks agree to
    /// rounding, not to the bit: what a row receives as a negative of others is summed within ranks first.
    Materialised,
}

impl Default for NtXent {
    fn default() -> NtXent {
        NtXent { temperature: 0.1, form: Form::Streaming }
    }
}

impl NtXent {
    fn inputs(&self) -> Inputs {
        if self.form == Form::Bf16 { Inputs::Bf16 } else { Inputs::AsGiven }
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
/// positive; `DType` for [`Form::Bf16`] unless `z` is f32.
#[track_caller]
pub fn nt_xent(z: &Tensor, o: &NtXent) -> Result<Tensor> {
    nt_xent_of(z, None, None, o)
}

fn nt_xent_of(z: &Tensor, ids: Option<&Array>, scale: Option<&Tensor>, o: &NtXent) -> Result<Tensor> {
    let [rows, _] = z.dims()?;
    if rows == 0 || rows % 2 != 0 {
        return Err(Error::new(ErrorKind::Shape, "nt_xent", format!("z {:?}", z.shape()))
            .expected("[2N, D]: the first views of N images, then their second views"));
    }
    let temperature = Temperature::new("nt_xent", o.temperature, scale, z)?;
    Ok(contrast(&unit(z)?, ids, temperature, o, false, &Arc::new(Comm::single()))?.0)
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
    nt_xent_scaled(a, b, None, None, o, comm)
}

/// [`nt_xent_ranks`] without known false negatives: `ids` `[n]` i64 says which images are the same, on one rank or on
/// different ones (duplicates, repeated sampling, frames of one scene). Views of another image with an equal id are
/// left out of the denominators; the partner stays.
///
/// # Errors
/// As for [`nt_xent_ranks`]; `Shape` or `DType` unless `ids` is `[n]` i64.
#[track_caller]
pub fn nt_xent_masked(a: &Tensor, b: &Tensor, ids: &Array, o: &NtXent, comm: &Arc<Comm>) -> Result<Tensor> {
    nt_xent_scaled(a, b, Some(ids), None, o, comm)
}

/// [`nt_xent_ranks`], or [`nt_xent_masked`] where there are `ids`, with a learned temperature: where there is a `scale`
/// `[]` it stands in place of 1 / τ, gets its gradient from the same pass, and [`NtXent::temperature`] is not looked at.
/// Every rank holds the same scale; of its gradients on the ranks the first rank's is the whole and the others' are 0.
///
/// A scale stays positive as `exp` of a parameter. CLIP starts that at ln(1 / 0.07) and keeps the scale below 100.
///
/// # Errors
/// As for these; `Shape` unless the scale is `[]`, `DType` unless it has the type of the embeddings, `Config` unless it
/// is positive.
#[track_caller]
pub fn nt_xent_scaled(
    a: &Tensor,
    b: &Tensor,
    ids: Option<&Array>,
    scale: Option<&Tensor>,
    o: &NtXent,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    Ok(contrast_of_ranks(a, b, ids, scale, o, false, comm)?.0)
}

/// [`nt_xent_scaled`] with numbers for the log.
///
/// # Errors
/// As for that; `Config` for [`Form::Materialised`], which has no such numbers.
#[track_caller]
pub fn nt_xent_watched(
    a: &Tensor,
    b: &Tensor,
    ids: Option<&Array>,
    scale: Option<&Tensor>,
    o: &NtXent,
    comm: &Arc<Comm>,
) -> Result<(Tensor, Contrast)> {
    let (loss, watched) = contrast_of_ranks(a, b, ids, scale, o, true, comm)?;
    let contrast = watched.ok_or_else(|| {
        Error::new(ErrorKind::Config, "nt_xent", "numbers for the log from the materialised form")
            .expected("the streaming form")
    })?;
    Ok((loss, contrast))
}

/// How well views pick their partners; of the batch of all ranks, the same on each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Contrast {
    /// The share of the 2N views whose partner is the most similar of all candidates (of equals, the first one).
    pub top1: f64,
    /// Mean entropy in nats of a view's choice among its candidates, softmax(similarities / τ): ln(2N-1) where nothing
    /// is told apart, 0 where every choice is certain.
    pub entropy: f64,
}

/// [`contrast`] from this rank's views, when all ranks have equally many.
fn contrast_of_ranks(
    a: &Tensor,
    b: &Tensor,
    ids: Option<&Array>,
    scale: Option<&Tensor>,
    o: &NtXent,
    statistics: bool,
    comm: &Arc<Comm>,
) -> Result<(Tensor, Option<Contrast>)> {
    let temperature = Temperature::new("nt_xent", o.temperature, scale, a)?;
    Batch::of_pairs("nt_xent", a, b, comm)?;
    let u = Tensor::concat(&[&unit(a)?, &unit(b)?], 0)?;
    contrast(&u, ids, temperature, o, statistics, comm)
}

/// The loss from this rank's unit vectors `u` `[2n, D]`, first views before second ones, and its statistics if they are
/// wanted and the form has them.
fn contrast(
    u: &Tensor,
    ids: Option<&Array>,
    temperature: Temperature<'_>,
    o: &NtXent,
    statistics: bool,
    comm: &Arc<Comm>,
) -> Result<(Tensor, Option<Contrast>)> {
    let local = u.shape()[0] / 2;
    let batch = Batch::new(local, comm);
    let candidates = Candidates::new(ids, &batch, comm)?;
    let (log_denominator, watched) = match o.form {
        Form::Streaming | Form::Bf16 => streaming(u, temperature, o.inputs(), &candidates, statistics, comm)?,
        Form::Materialised => (materialised(u, temperature, &candidates, comm)?, None),
    };
    // [n, 1]: both views have the same
    let positive = temperature.divide(&u.partner_dots(o.inputs())?, &batch, comm)?;
    let l = log_denominator.reshape(&[2, local])?.transpose(0, 1)?.sub(&positive)?; // [n, 2]
    let loss = sample_totals(&l, batch.first, comm)?.sum_all()?.scale(1.0 / (2 * batch.global) as f64)?;
    Ok((loss, watched))
}

/// Which of all 2N views each view here is compared with: all but itself, and but those of other images with its id.
struct Candidates<'a> {
    batch: &'a Batch,
    /// The ids of the images of all ranks.
    ids: Option<Vec<i64>>,
}

impl Candidates<'_> {
    fn new<'a>(ids: Option<&Array>, batch: &'a Batch, comm: &Comm) -> Result<Candidates<'a>> {
        let ids = ids.map(|ids| all_ids("nt_xent", ids, batch, comm)).transpose()?;
        Ok(Candidates { batch, ids })
    }

    /// The place of the other view of the image at `place`.
    fn partner(&self, place: usize) -> usize {
        (place + self.batch.global) % (2 * self.batch.global)
    }

    /// As what the sums over pairs leave out.
    fn excluded(&self, device: &Device) -> Result<Excluded> {
        let array = |values: Vec<i64>| Array::from_slice(&values, &[values.len()], device);
        let places = || self.batch.places();
        let Some(ids) = &self.ids else { return Ok(Excluded::Own(array(places().map(|p| p as i64).collect())?)) };
        Ok(Excluded::SameKey {
            rows: array(places().map(|place| ids[place % ids.len()]).collect())?,
            columns: array(ids.repeat(2))?,
            kept: Some(array(places().map(|place| self.partner(place) as i64).collect())?),
        })
    }

    /// The same as a mask `[2n, 2N]`, true where left out.
    fn mask(&self, device: &Device) -> Result<Array> {
        let views = 2 * self.batch.global;
        Array::on_host::<bool>(device, &[2 * self.batch.local, views], "nt_xent", |_, mask| {
            for (mask, place) in mask.chunks_mut(views).zip(self.batch.places()) {
                let same = |other: usize| match &self.ids {
                    Some(ids) => ids[other % ids.len()] == ids[place % ids.len()] && other != self.partner(place),
                    None => other == place,
                };
                mask.iter_mut().enumerate().for_each(|(other, left_out)| *left_out = same(other));
            }
            Ok(())
        })
    }
}

/// ln Σ exp(u_i·u_m / τ) over the candidates, `[2n]`, tile by tile.
fn streaming(
    u: &Tensor,
    temperature: Temperature<'_>,
    inputs: Inputs,
    candidates: &Candidates<'_>,
    statistics: bool,
    comm: &Arc<Comm>,
) -> Result<(Tensor, Option<Contrast>)> {
    let excluded = candidates.excluded(u.device())?;
    let pairs = Pairs { excluded, comm: Arc::clone(comm), parts: 2, statistics, inputs };
    let sums = u.pair_log_sum_exp(&temperature.inverse(1.0, u)?, Some(1.0), &pairs)?;
    let watched = watched(&sums, temperature.value(), candidates, comm)?;
    Ok((sums.value, watched))
}

fn watched(sums: &PairSums, temperature: f64, candidates: &Candidates<'_>, comm: &Comm) -> Result<Option<Contrast>> {
    let (Some(top), Some(mean_dot)) = (&sums.top, &sums.mean_dot) else { return Ok(None) };
    let batch = candidates.batch;
    let wide = |x: &Array| ops::cast(x, DType::F64)?.to_vec::<f64>();
    let places = batch.places().map(|place| candidates.partner(place) as i64);
    let hits: Vec<f64> = top.to_vec::<i64>()?.iter().zip(places).map(|(top, p)| f64::from(*top == p)).collect();
    let entropies: Vec<f64> =
        wide(sums.value.array())?.iter().zip(wide(mean_dot)?).map(|(r, dot)| r - dot / temperature).collect();
    let columns = [&hits[..batch.local], &hits[batch.local..], &entropies[..batch.local], &entropies[batch.local..]];
    let per_image: Vec<f64> = (0..batch.local).flat_map(|i| columns.map(|column| column[i])).collect();
    let per_image = Array::from_slice(&per_image, &[batch.local, 4], &Device::cpu_with(1)?)?;
    let sum = ops::rows_sum(&per_image, Rows::of(per_image.shape(), batch.first)?)?;
    let totals = comm.all_sum(sum)?.total()?.to_vec::<f64>()?;
    let views = (2 * batch.global) as f64;
    Ok(Some(Contrast { top1: (totals[0] + totals[1]) / views, entropy: (totals[2] + totals[3]) / views }))
}

/// The same sums from the matrix of all similarities.
fn materialised(
    u: &Tensor,
    temperature: Temperature<'_>,
    candidates: &Candidates<'_>,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    let batch = candidates.batch;
    let local = batch.local;
    let view = |v: usize| u.slice(0, v * local, (v + 1) * local)?.all_gather(comm);
    let views = Tensor::concat(&[&view(0)?, &view(1)?], 0)?;
    // Divided by τ after the product, so that the matrix is symmetric to the bit.
    let logits = temperature.divide(&u.matmul(&views.transpose(0, 1)?)?, batch, comm)?; // [2n, 2N]
    Tensor::select(&candidates.mask(u.device())?, &constant(f64::NEG_INFINITY, u)?, &logits)?.log_sum_exp()
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "ntxent",
    doc: "each view must pick its partner out of all other views of the batch",
    paper: "Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations, arXiv:2002.05709",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("z", "[2N, D]", "embeddings; rows i and i+N are two views of image i"),
        Port::new("ids", "[N]", "images; views of another image with an equal id are no negatives")
            .role(Role::Labels)
            .optional(),
        SCALE,
    ],
    outputs: &[Port::new("loss", "[]", "mean over the 2N ordered pairs")],
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
        OptionSpec {
            name: "bf16",
            default: 0.0,
            allowed: |x| x == 0.0 || x == 1.0,
            range: "0 or 1",
            doc: "1: multiply unit vectors that are rounded to bf16; not for the materialised form",
        },
    ],
    run: |inputs, options| {
        let form = match (options.get("materialised")? == 1.0, options.get("bf16")? == 1.0) {
            (false, false) => Form::Streaming,
            (false, true) => Form::Bf16,
            (true, false) => Form::Materialised,
            (true, true) => {
                return Err(
                    Error::new(ErrorKind::Config, "ntxent", "materialised = 1 and bf16 = 1").expected("one of them")
                );
            }
        };
        let o = NtXent { temperature: options.get("temperature")?, form };
        let loss = nt_xent_of(&inputs["z"], inputs.get("ids").map(Tensor::array), inputs.get(SCALE.name), &o)?;
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
    let temperature = g.pick(&["0.2", "0.5", "1.0"]).to_string();
    let mut inputs = BTreeMap::from([("z".to_string(), g.array(&[2 * n, d], Domain::Signed(0.5, 1.5))?)]);
    if g.one_in(2) {
        inputs.insert("ids".to_string(), g.indices(&[n], 4)?);
    }
    let materialised = g.pick(&["0", "1"]).to_string();
    let set =
        [("temperature", temperature), ("materialised", materialised)].map(|(key, value)| (key.to_string(), value));
    let options = Options::parse(&SPEC, &set)?;
    scale_case(g, &mut inputs)?;
    Ok(LossCase { inputs, options })
}

/// Equation 1 in scalar loops, over the candidates that are no false negatives.
fn oracle(case: &LossCase) -> Result<f64> {
    let z = &case.inputs["z"];
    let [rows, d] = z.dims()?;
    let (z, s) = (z.to_vec::<f64>()?, scale_of(case)?);
    let dot = |i: usize, j: usize| (0..d).map(|k| z[i * d + k] * z[j * d + k]).sum::<f64>();
    let sim = |i: usize, j: usize| dot(i, j) / (dot(i, i).sqrt() * dot(j, j).sqrt());
    let n = rows / 2;
    let ids = match case.inputs.get("ids") {
        Some(ids) => ids.to_vec::<i64>()?,
        None => (0..n as i64).collect(),
    };
    let pair = |i: usize, j: usize| {
        let is_candidate = |m: &usize| *m == j || ids[*m % n] != ids[i % n];
        let denominator: f64 = (0..rows).filter(is_candidate).map(|m| Real::exp(s * sim(i, m))).sum();
        -Real::log(Real::exp(s * sim(i, j)) / denominator)
    };
    Ok((0..n).map(|k| pair(k, k + n) + pair(k + n, k)).sum::<f64>() / rows as f64)
}
