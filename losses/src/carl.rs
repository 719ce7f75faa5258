//! Consistent assignment of views to prototypes, the loss of CARL (Silva, Ramírez Rivera 2021, arXiv:2112.15421).
//!
//! For the softmax outputs p^a, p^b over K prototypes of two views of N images:
//!
//! ```text
//! consistency  L_c = - mean_i ln clamp( Σ_k p^a_ik p^b_ik, ε, 1-ε )      ε that of f32
//! usage        L_u = KL(m || uniform) = ln K + Σ_k m_k ln m_k            m the mean of p over images and both views
//! L = L_c + λ L_u
//! ```
//!
//! The logarithm is outside the sum: only equal one-hot outputs have L_c = 0. Both views get a gradient, m with it, over
//! all ranks. The weight λ = 1 is unverified.

use crate::batch::{TEMPERATURE_RANGE, check_temperature, is_temperature};
use crate::sample_totals;
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::views::{batch_of, mean};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::sync::Arc;

/// ε: the inner product of two distributions is kept from 0 and 1 by as much.
const CLAMP: f64 = f32::EPSILON as f64;

/// Options of [`carl`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Carl {
    /// λ, the weight of the usage term. Too small, and all images go to one prototype; too large, and every output is
    /// uniform.
    pub lambda: f64,
    /// Divides the logits.
    pub temperature: f64,
}

impl Default for Carl {
    /// λ = 1 (unverified), logits as they are.
    fn default() -> Carl {
        Carl { lambda: 1.0, temperature: 1.0 }
    }
}

/// What [`carl_ranks`] returns; each a scalar, the same on every rank.
pub struct CarlLoss {
    /// What is minimised.
    pub loss: Tensor,
    /// L_c: ln K where all outputs are uniform, 0 where both views of each image take one prototype.
    pub consistency: Tensor,
    /// L_u: 0 where prototypes are used equally, ln K where one takes everything.
    pub usage: Tensor,
}

/// The loss of the logits `a`, `b` `[N, K]` of two views of the same images.
///
/// # Errors
/// `Shape` unless both have one shape and rows; `Config` for options out of range.
#[track_caller]
pub fn carl(a: &Tensor, b: &Tensor, o: &Carl) -> Result<CarlLoss> {
    carl_ranks(a, b, o, &Arc::new(Comm::single()))
}

/// The loss of the images of all ranks, from this rank's.
///
/// # Errors
/// As for [`carl`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn carl_ranks(a: &Tensor, b: &Tensor, o: &Carl, comm: &Arc<Comm>) -> Result<CarlLoss> {
    check_temperature("carl", o.temperature)?;
    if !(o.lambda.is_finite() && o.lambda >= 0.0) {
        return Err(
            Error::new(ErrorKind::Config, "carl", format!("lambda {}", o.lambda)).expected("a number of at least 0")
        );
    }
    let batch = batch_of("carl", [a, b], comm)?;
    let [_, k] = a.dims()?;
    let log_p = |logits: &Tensor| logits.scale(1.0 / o.temperature)?.log_softmax();
    let (log_a, log_b) = (log_p(a)?, log_p(b)?);
    // ln Σ_k p^a_k p^b_k without its underflow.
    let log_same = log_a.add(&log_b)?.log_sum_exp()?.reshape(&[batch.local, 1])?;
    let log_same = log_same.clamp(Real::log(CLAMP), Real::log1p(-CLAMP))?;
    let consistency = mean(&log_same.neg()?, &batch, comm)?;

    let both = log_a.exp()?.add(&log_b.exp()?)?;
    let m = sample_totals(&both, batch.first, comm)?.scale(1.0 / (2 * batch.global) as f64)?; // [K]
    // A prototype that nothing uses adds 0 ln 0 = 0.
    let negative_entropy = m.mul(&m.clamp(f64::from(f32::MIN_POSITIVE), 1.0)?.log()?)?.sum_all()?;
    let usage = negative_entropy.add_scalar(Real::log(k as f64))?;
    let loss = consistency.add(&usage.scale(o.lambda)?)?;
    Ok(CarlLoss { loss, consistency: consistency.detach(), usage: usage.detach() })
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "carl",
    doc: "two views must take the same prototype, surely, and all prototypes must be in use",
    paper: "Silva and Ramírez Rivera 2021, Representation Learning via Consistent Assignment of Views to Clusters, \
            arXiv:2112.15421",
    cross_rank: CrossRank::ReduceStats,
    inputs: &[
        Port::new("a", "[N, K]", "logits of the first views over prototypes"),
        Port::new("b", "[N, K]", "logits of the second views, in the same order"),
    ],
    outputs: &[
        Port::new("loss", "[]", "consistency + lambda * usage"),
        Port::new("consistency", "[]", "ln K for uniform outputs, 0 for equal one-hot ones").role(Role::Constant),
        Port::new("usage", "[]", "0 for prototypes in equal use, ln K for a single one").role(Role::Constant),
    ],
    options: &[
        OptionSpec {
            name: "lambda",
            default: 1.0,
            allowed: |x| x.is_finite() && x >= 0.0,
            range: "a number of at least 0",
            doc: "weight of usage: too small collapses to one prototype, too large to uniform outputs",
        },
        OptionSpec {
            name: "temperature",
            default: 1.0,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the logits; 0.1 for cosines",
        },
    ],
    run: |inputs, options| {
        let o = Carl { lambda: options.get("lambda")?, temperature: options.get("temperature")? };
        let l = carl(&inputs["a"], &inputs["b"], &o)?;
        let named = [("loss", l.loss), ("consistency", l.consistency), ("usage", l.usage)];
        Ok(named.map(|(name, tensor)| (name.to_string(), tensor)).into())
    },
    cases,
    oracle,
    facts: &[],
};

/// At least two prototypes: with one the inner product is 1, on the kink of the clamp.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, k) = (g.dim(), 1 + g.dim());
    let inputs = [("a", g.array(&[n, k], Domain::Normal)?), ("b", g.array(&[n, k], Domain::Normal)?)];
    let set = [("lambda", g.pick(&["0", "1", "3"])), ("temperature", g.pick(&["0.5", "1"]))];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs: inputs.map(|(name, array)| (name.to_string(), array)).into(), options })
}

/// The definition in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [n, k] = case.inputs["a"].dims()?;
    let (lambda, temperature) = (case.options.get("lambda")?, case.options.get("temperature")?);
    let softmax = |name: &str| -> Result<Vec<f64>> {
        let logits = case.inputs[name].to_vec::<f64>()?;
        let rows = logits.chunks(k).flat_map(|row| {
            let weights: Vec<f64> = row.iter().map(|x| Real::exp(x / temperature)).collect();
            let total: f64 = weights.iter().sum();
            weights.into_iter().map(move |w| w / total)
        });
        Ok(rows.collect())
    };
    let (a, b) = (softmax("a")?, softmax("b")?);
    let same = |i: usize| (0..k).map(|j| a[i * k + j] * b[i * k + j]).sum::<f64>().clamp(CLAMP, 1.0 - CLAMP);
    let consistency = -(0..n).map(|i| Real::log(same(i))).sum::<f64>() / n as f64;
    let m = |j: usize| (0..n).map(|i| a[i * k + j] + b[i * k + j]).sum::<f64>() / (2 * n) as f64;
    let usage: f64 = (0..k).map(|j| m(j) * Real::log(m(j) * k as f64)).sum();
    Ok(consistency + lambda * usage)
}
