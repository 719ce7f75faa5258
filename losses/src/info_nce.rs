//! InfoNCE against a queue, the loss of MoCo (He, Fan, Wu, Xie, Girshick 2020, arXiv:1911.05722, equation 1).
//!
//! For a query q, its key k and K past keys n_j, all unit vectors:
//!
//! ```text
//! l = -ln [ exp(q·k / T) / ( exp(q·k / T) + Σ_j exp(q·n_j / T) ) ]     L = mean over queries
//! ```
//!
//! Computed as softplus(ln Σ_j exp(q·n_j / T) - q·k / T), which neither overflows nor loses small losses. The queries
//! alone are differentiated: keys come from an averaged encoder. The logits are never held. An empty queue leaves
//! nothing to tell apart: loss and gradient are 0. Keys of the queue that are known to be of the query's own image or
//! class are left out by [`false_negatives`](crate::false_negatives()).

use crate::batch::{Batch, TEMPERATURE_RANGE, is_temperature, row_dots, unit};
use crate::sample_totals;
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::temperature::{SCALE, Temperature, scale_case, scale_of};
use selfsame_autograd::ops::Pairs;
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`info_nce`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfoNce {
    /// T. MoCo v1 uses 0.07, v2 0.2.
    pub temperature: f64,
}

impl Default for InfoNce {
    /// MoCo v1.
    fn default() -> InfoNce {
        InfoNce { temperature: 0.07 }
    }
}

/// The loss of queries `q` `[N, D]` whose keys are the rows of `k` `[N, D]`, against the negatives `queue` `[K, D]`. A
/// scalar. All are normalised here. No gradient goes to keys and queue, tracked or not.
///
/// # Errors
/// `Shape` unless `q` and `k` have one shape and rows, and `queue` rows of that length; `Config` for a temperature that
/// is not positive.
#[track_caller]
pub fn info_nce(q: &Tensor, k: &Tensor, queue: &Tensor, o: &InfoNce) -> Result<Tensor> {
    info_nce_ranks(q, k, queue, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's queries and keys; every rank holds the same `queue`. See
/// [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`info_nce`]; `Numerics` when ranks differ in queries, or when these are no multiple of 16 and there is more
/// than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn info_nce_ranks(q: &Tensor, k: &Tensor, queue: &Tensor, o: &InfoNce, comm: &Arc<Comm>) -> Result<Tensor> {
    info_nce_scaled(q, k, queue, None, o, comm)
}

/// [`info_nce_ranks`] with a learned temperature: where there is a `scale` `[]` it stands in place of 1 / T. See
/// [`nt_xent_scaled`](crate::nt_xent_scaled).
///
/// # Errors
/// As for these.
#[track_caller]
pub fn info_nce_scaled(
    q: &Tensor,
    k: &Tensor,
    queue: &Tensor,
    scale: Option<&Tensor>,
    o: &InfoNce,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    let ([_, d], [_, queue_d]) = (q.dims()?, queue.dims()?);
    if d != queue_d {
        return Err(Error::new(ErrorKind::Shape, "info_nce", format!("queue {:?}", queue.shape()))
            .expected(format!("[K, {d}], as the queries")));
    }
    let temperature = Temperature::new("info_nce", o.temperature, scale, q)?;
    let batch = Batch::of_pairs("info_nce", q, k, comm)?;
    let (q, k, queue) = (unit(q)?, unit(&k.detach())?, unit(&queue.detach())?);
    let scale = temperature.inverse(1.0, &q)?;
    let pairs = Pairs { comm: Arc::clone(comm), ..Pairs::default() };
    let negatives = q.pair_log_sum_exp_over(&queue, &scale, Some(1.0), &pairs)?.value.reshape(&[batch.local, 1])?;
    let positive = temperature.divide(&row_dots(&q, &k)?, &batch, comm)?;
    let l = negatives.sub(&positive)?.softplus()?; // [n, 1]
    sample_totals(&l, batch.first, comm)?.sum_all()?.scale(1.0 / batch.global as f64)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "info_nce",
    doc: "each query must pick its key out of that key and a queue of past ones",
    paper: "He et al. 2020, Momentum Contrast for Unsupervised Visual Representation Learning, arXiv:1911.05722",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("q", "[N, D]", "embeddings of the queries"),
        Port::new("k", "[N, D]", "their keys, in the same order").role(Role::Constant),
        Port::new("queue", "[K, D]", "keys of other images; may have no rows").role(Role::Constant),
        SCALE,
    ],
    outputs: &[Port::new("loss", "[]", "mean over queries; ln(1 + K) where all pairs are equally similar")],
    options: &[OptionSpec {
        name: "temperature",
        default: 0.07,
        allowed: is_temperature,
        range: TEMPERATURE_RANGE,
        doc: "divides the cosines; lower weighs hard negatives more. 0.07 in MoCo v1, 0.2 in v2",
    }],
    run: |inputs, options| {
        let o = InfoNce { temperature: options.get("temperature")? };
        let scale = inputs.get(SCALE.name);
        let comm = Arc::new(Comm::single());
        let loss = info_nce_scaled(&inputs["q"], &inputs["k"], &inputs["queue"], scale, &o, &comm)?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (g.dim(), 1 + g.dim());
    let length = g.pick(&[0, 1, 5, 33]);
    let mut inputs = BTreeMap::new();
    for (name, rows) in [("q", n), ("k", n), ("queue", length)] {
        inputs.insert(name.to_string(), g.array(&[rows, d], Domain::Signed(0.5, 1.5))?);
    }
    let temperature = g.pick(&["0.2", "0.5", "1.0"]).to_string();
    let options = Options::parse(&SPEC, &[("temperature".to_string(), temperature)])?;
    scale_case(g, &mut inputs)?;
    Ok(LossCase { inputs, options })
}

/// Equation 1 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let vectors = |name: &str| case.inputs[name].to_vec::<f64>();
    let (q, k, queue, s) = (vectors("q")?, vectors("k")?, vectors("queue")?, scale_of(case)?);
    let [n, d] = case.inputs["q"].dims()?;
    let weight = |a: &[f64], b: &[f64]| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        Real::exp(s * dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()))
    };
    let entropy = |(q, k): (&[f64], &[f64])| {
        let negatives: f64 = queue.chunks(d).map(|negative| weight(q, negative)).sum();
        -Real::log(weight(q, k) / (weight(q, k) + negatives))
    };
    Ok(q.chunks(d).zip(k.chunks(d)).map(entropy).sum::<f64>() / n as f64)
}
