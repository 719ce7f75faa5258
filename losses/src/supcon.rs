//! Supervised contrastive learning (Khosla et al. 2020, arXiv:2004.11362, equation 2, L_out).
//!
//! For unit vectors z_i and P(i) = the other rows of the label of row i:
//!
//! ```text
//! l_i = -1/|P(i)| Σ_{p in P(i)} ln [ exp(z_i·z_p / τ) / Σ_{a ≠ i} exp(z_i·z_a / τ) ]
//!     = r_i - z_i·(S_i - z_i) / (τ |P(i)|)        r_i the logarithm of the denominator, S_i the sum of its class
//! L   = 1/M Σ l_i over the M rows
//! ```
//!
//! The sum is over rows with positives; a row without any adds 0 to it and still counts in M. The paper writes the sum
//! and its code takes the mean, times τ over a base temperature; this is the mean without that factor. With the two
//! views of an image as its only positives it is NT-Xent. Positives cost O(M·D) by the sums of classes, and the
//! similarities are never held.

use crate::batch::{Batch, TEMPERATURE_RANGE, constant, is_temperature, row_dots, unit};
use crate::sample_totals;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::temperature::{SCALE, Temperature, scale_case, scale_of};
use selfsame_autograd::ops::{Excluded, Pairs};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`supcon`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SupCon {
    /// τ. The paper uses 0.1 on ImageNet.
    pub temperature: f64,
}

impl Default for SupCon {
    /// The paper's.
    fn default() -> SupCon {
        SupCon { temperature: 0.1 }
    }
}

/// The loss of `z` `[M, D]`, any number of views of any images, and the class of each row, `labels` `[M]` i64. A scalar.
///
/// # Errors
/// `Shape` unless `z` has rows and `labels` one element for each; `DType` unless labels are i64; `Config` for a
/// temperature that is not positive.
#[track_caller]
pub fn supcon(z: &Tensor, labels: &Array, o: &SupCon) -> Result<Tensor> {
    supcon_ranks(z, labels, o, &Arc::new(Comm::single()))
}

/// The loss of the rows of all ranks from each rank's `z` `[m, D]` and `labels` `[m]`. See
/// [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`supcon`]; `Numerics` when ranks differ in rows, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn supcon_ranks(z: &Tensor, labels: &Array, o: &SupCon, comm: &Arc<Comm>) -> Result<Tensor> {
    supcon_scaled(z, labels, None, o, comm)
}

/// [`supcon_ranks`] with a learned temperature: where there is a `scale` `[]` it stands in place of 1 / τ. See
/// [`nt_xent_scaled`](crate::nt_xent_scaled).
///
/// # Errors
/// As for these.
#[track_caller]
pub fn supcon_scaled(
    z: &Tensor,
    labels: &Array,
    scale: Option<&Tensor>,
    o: &SupCon,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    let [m, _] = z.dims()?;
    if m == 0 || labels.shape() != [m] {
        let got = format!("z {:?}, labels {:?}", z.shape(), labels.shape());
        return Err(Error::new(ErrorKind::Shape, "supcon", got).expected("[M, D] and [M], M at least 1"));
    }
    let temperature = Temperature::new("supcon", o.temperature, scale, z)?;
    let batch = Batch::agreed("supcon", m, comm)?;
    let u = unit(z)?;
    let own: Vec<i64> = (batch.first..batch.first + m).map(|row| row as i64).collect();
    let own = Array::from_slice(&own, &[m], u.device())?;
    let pairs = Pairs { excluded: Excluded::Own(own), comm: Arc::clone(comm), ..Pairs::default() };
    let denominators = u.pair_log_sum_exp(&temperature.inverse(1.0, &u)?, Some(1.0), &pairs)?.value;
    let Positives { others, weights, has_any } = Positives::of(u.array(), &labels.to_vec::<i64>()?, &batch, comm)?;
    // The sum over all ordered positive pairs has every pair from both sides with one weight, as |P| is that of the
    // class. So its gradient is twice that of Σ z_i·others_i with the others held constant, at the same value.
    let both = row_dots(&u, &others)?.scale(2.0)?.sub(&row_dots(&u.detach(), &others)?)?;
    let positive = temperature.divide(&both.mul(&weights)?, &batch, comm)?; // [m, 1]
    let l = denominators.reshape(&[m, 1])?.sub(&positive)?;
    // Selected, not multiplied: the only row of a batch has the denominator -infinity.
    let l = Tensor::select(&has_any, &l, &constant(0.0, &u)?)?;
    sample_totals(&l, batch.first, comm)?.sum_all()?.scale(1.0 / batch.global as f64)
}

/// The positives of this rank's rows; all constants.
struct Positives {
    /// S_i - z_i, `[m, D]`: the sum of each row's positives.
    others: Tensor,
    /// 1 / |P(i)|, or 0 without positives: `[m, 1]`.
    weights: Tensor,
    /// Whether there are any, `[m, 1]`.
    has_any: Array,
}

impl Positives {
    /// From this rank's unit vectors and labels. Classes are summed in the order of all rows, whatever the ranks.
    fn of(u: &Array, labels: &[i64], batch: &Batch, comm: &Comm) -> Result<Positives> {
        let [m, d] = u.dims()?;
        let labels = comm.exchange(labels.to_vec())?.concat();
        let all = comm.all_gather(u)?;
        let mut counts = BTreeMap::new();
        labels.iter().for_each(|label| *counts.entry(*label).or_insert(0usize) += 1);
        let numbers: BTreeMap<i64, i64> = counts.keys().copied().zip(0..).collect();
        let classes: Vec<i64> = labels.iter().map(|label| numbers[label]).collect();
        let here = batch.first..batch.first + m;

        let index = Array::from_slice(&classes, &[classes.len(), 1], u.device())?.broadcast_to(&[classes.len(), d])?;
        let sums = ops::scatter_add(Array::zeros(&[counts.len(), d], u.dtype(), u.device())?, 0, &index, &all)?;
        let own = ops::index_select(&sums, 0, &Array::from_slice(&classes[here.clone()], &[m], u.device())?)?;
        let positives: Vec<usize> = labels[here].iter().map(|label| counts[label] - 1).collect();
        let weights: Vec<f64> = positives.iter().map(|p| if *p == 0 { 0.0 } else { 1.0 / *p as f64 }).collect();
        let has_any: Vec<bool> = positives.iter().map(|p| *p > 0).collect();
        Ok(Positives {
            others: Tensor::constant(ops::sub(&own, u)?),
            weights: Tensor::constant(ops::cast(&Array::from_slice(&weights, &[m, 1], u.device())?, u.dtype())?),
            has_any: Array::from_slice(&has_any, &[m, 1], u.device())?,
        })
    }
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "supcon",
    doc: "each row must pick the rows of its class out of all other rows",
    paper: "Khosla et al. 2020, Supervised Contrastive Learning, arXiv:2004.11362",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("z", "[M, D]", "embeddings"),
        Port::new("labels", "[M]", "the class of each row").role(Role::Labels),
        SCALE,
    ],
    outputs: &[Port::new("loss", "[]", "mean over the M rows; rows without positives add 0")],
    options: &[OptionSpec {
        name: "temperature",
        default: 0.1,
        allowed: is_temperature,
        range: TEMPERATURE_RANGE,
        doc: "divides the cosines; lower weighs hard negatives more. 0.1 on ImageNet",
    }],
    run: |inputs, options| {
        let o = SupCon { temperature: options.get("temperature")? };
        let (labels, scale) = (inputs["labels"].array(), inputs.get(SCALE.name));
        let loss = supcon_scaled(&inputs["z"], labels, scale, &o, &Arc::new(Comm::single()))?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[Fact {
        what: "ln(M-1): every pair of M rows equally similar (collapse, or no learning yet); all have positives",
        value: |rows, _| Real::log(rows as f64 - 1.0),
    }],
};

/// Of few rows some have no positives.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (m, d) = (1 + g.dim(), 1 + g.dim());
    let classes = g.pick(&[1, 3, 8]);
    let labels = g.indices(&[m], classes)?;
    let z = g.array(&[m, d], Domain::Signed(0.5, 1.5))?;
    let temperature = g.pick(&["0.2", "0.5", "1.0"]).to_string();
    let options = Options::parse(&SPEC, &[("temperature".to_string(), temperature)])?;
    let mut inputs = BTreeMap::from([("z".to_string(), z), ("labels".to_string(), labels)]);
    scale_case(g, &mut inputs)?;
    Ok(LossCase { inputs, options })
}

/// Equation 2 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [m, d] = case.inputs["z"].dims()?;
    let (z, labels) = (case.inputs["z"].to_vec::<f64>()?, case.inputs["labels"].to_vec::<i64>()?);
    let s = scale_of(case)?;
    let dot = |i: usize, j: usize| (0..d).map(|k| z[i * d + k] * z[j * d + k]).sum::<f64>();
    let weight = |i: usize, j: usize| Real::exp(s * dot(i, j) / (dot(i, i).sqrt() * dot(j, j).sqrt()));
    let mut sum = 0.0;
    for i in 0..m {
        let denominator: f64 = (0..m).filter(|a| *a != i).map(|a| weight(i, a)).sum();
        let positives: Vec<usize> = (0..m).filter(|p| *p != i && labels[*p] == labels[i]).collect();
        let terms = positives.iter().map(|p| -Real::log(weight(i, *p) / denominator));
        sum += terms.sum::<f64>() / positives.len().max(1) as f64;
    }
    Ok(sum / m as f64)
}
