//! CACR against a momentum encoder, its form for large data (Zheng et al. 2023, arXiv:2105.03746, in the layout of
//! MoCo v3).
//!
//! For the predictions q_v of V query views and the target k of another view, unit vectors, of images i of the batch:
//!
//! ```text
//! p_v,i = softmax_v( |q_v,i - k_i|² / T )                      without gradient: far queries weigh more
//! euclidean  L = Σ_v Σ_i p_v,i [ 1 - q_v,i·k_i - Σ_{j≠i} w_j (1 - q_v,i·k_j) ]
//!            w_j = softmax_{j≠i}( -(1 - q_v,i·k_j) / T )       without gradient: near targets weigh more
//! rbf        L = 2 T Σ_v mean_i p_v,i ( -ln softmax_j( q_v,i·k_j / T ) at j = i )
//! ```
//!
//! The euclidean form is a sum over the batch, the other a mean, as in the authors' code: their learning rates differ.
//! Queries alone are differentiated.

use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, constant, is_temperature, row_dots, unit};
use crate::sample_totals;
use crate::softmax_terms::{FLAG_RANGE, is_flag, log_sum_over, own_mask, own_places};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use selfsame_autograd::ops::Excluded;
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`cacr_momentum`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CacrMomentum {
    /// T, 1 in the authors' code.
    pub temperature: f64,
    /// The form with one contrast (the authors' default), or the euclidean one.
    pub rbf: bool,
}

impl Default for CacrMomentum {
    fn default() -> CacrMomentum {
        CacrMomentum { temperature: 1.0, rbf: true }
    }
}

/// The loss of `queries`, at least one view, each `[N, D]`, against the targets `k` `[N, D]` of the same images. A
/// scalar. All are normalised here; no gradient goes to the targets.
///
/// # Errors
/// `Shape` unless all have one shape, of at least two images for the euclidean form; `Config` for a temperature that is
/// not positive.
#[track_caller]
pub fn cacr_momentum(queries: &[&Tensor], k: &Tensor, o: &CacrMomentum) -> Result<Tensor> {
    cacr_momentum_ranks(queries, k, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's queries and targets. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`cacr_momentum`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is
/// more than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn cacr_momentum_ranks(queries: &[&Tensor], k: &Tensor, o: &CacrMomentum, comm: &Arc<Comm>) -> Result<Tensor> {
    check_temperature("cacr_momentum", o.temperature)?;
    if queries.is_empty() {
        return Err(Error::new(ErrorKind::Shape, "cacr_momentum", "no query").expected("at least one view"));
    }
    let batches = queries.iter().map(|q| Batch::of_pairs("cacr_momentum", q, k, comm)).collect::<Result<Vec<_>>>()?;
    let batch = &batches[0];
    if !o.rbf && batch.global < 2 {
        return Err(
            Error::new(ErrorKind::Shape, "cacr_momentum", "one image").expected("others to repel: at least two")
        );
    }
    let k = unit(&k.detach())?;
    let all = k.all_gather(comm)?;
    let queries = queries.iter().map(|q| unit(q)).collect::<Result<Vec<_>>>()?;
    let positives = queries.iter().map(|q| row_dots(q, &k)).collect::<Result<Vec<_>>>()?;
    let positives = Tensor::concat(&positives.iter().collect::<Vec<_>>(), 1)?; // [n, V]
    // |q - k|² = 2 - 2 q·k.
    let p = positives.detach().affine(-2.0 / o.temperature, 2.0 / o.temperature)?.softmax()?;
    let terms = match o.rbf {
        true => {
            let scaled = positives.scale(1.0 / o.temperature)?;
            let sum = |q: &Tensor| log_sum_over(q, &all, o.temperature, Excluded::Own(own_places(batch, q)?), comm);
            let others = queries.iter().map(sum).collect::<Result<Vec<_>>>()?;
            let entropies = Tensor::concat(&others.iter().collect::<Vec<_>>(), 1)?.sub(&scaled)?.softplus()?;
            entropies.scale(2.0 * o.temperature / batch.global as f64)?
        }
        false => {
            let repulsion = |q: &Tensor| repulsion(q, &all, o.temperature, batch);
            let repulsions = queries.iter().map(repulsion).collect::<Result<Vec<_>>>()?;
            let repulsions = Tensor::concat(&repulsions.iter().collect::<Vec<_>>(), 1)?;
            positives.affine(-1.0, 1.0)?.sub(&repulsions)?
        }
    };
    sample_totals(&p.mul(&terms)?, batch.first, comm)?.sum_all()
}

/// Σ_{j≠i} w_j (1 - q_i·k_j) of each row, `[n, 1]`.
fn repulsion(q: &Tensor, all: &Tensor, temperature: f64, batch: &Batch) -> Result<Tensor> {
    let distances = q.matmul(&all.transpose(0, 1)?)?.affine(-1.0, 1.0)?; // [n, N]
    let own = own_mask(batch, q)?;
    let logits = distances.detach().scale(-1.0 / temperature)?;
    let w = Tensor::select(&own, &constant(f64::NEG_INFINITY, q)?, &logits)?.softmax()?;
    w.mul(&distances)?.sum(&[1], true)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "cacr_momentum",
    doc: "CACR of predictions against the targets of a momentum encoder",
    paper: "Zheng et al. 2023, Contrastive Attraction and Contrastive Repulsion for Representation Learning, \
            arXiv:2105.03746",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("q", "[V, N, D]", "predictions of V query views of N images"),
        Port::new("k", "[N, D]", "targets: another view by the momentum encoder").role(Role::Constant),
    ],
    outputs: &[Port::new("loss", "[]", "weighted over views; a mean over images (rbf) or a sum")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 1.0,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides costs in the weights and cosines in the contrast",
        },
        OptionSpec {
            name: "rbf",
            default: 1.0,
            allowed: is_flag,
            range: FLAG_RANGE,
            doc: "1: a weighted InfoNCE, the authors' default; 0: costs",
        },
    ],
    run: |inputs, options| {
        let o = CacrMomentum { temperature: options.get("temperature")?, rbf: options.get("rbf")? == 1.0 };
        let q = &inputs["q"];
        let [views, n, d] = q.dims()?;
        let queries = (0..views).map(|v| q.slice(0, v, v + 1)?.reshape(&[n, d])).collect::<Result<Vec<_>>>()?;
        let loss = cacr_momentum(&queries.iter().collect::<Vec<_>>(), &inputs["k"], &o)?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

/// One query, whose weight is 1, so that weights without gradient do not move under differences; the euclidean form has
/// weights over images too, which are 1 for two of them.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let rbf = g.pick(&["0", "1"]);
    let (n, d) = (if rbf == "0" { 2 } else { g.dim() }, 2 + g.dim());
    let inputs = BTreeMap::from([
        ("q".to_string(), g.array(&[1, n, d], Domain::Signed(0.5, 1.5))?),
        ("k".to_string(), g.array(&[n, d], Domain::Signed(0.5, 1.5))?),
    ]);
    let set = [("temperature", g.pick(&["0.2", "1.0"])), ("rbf", rbf)];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs, options })
}

/// Step 7 of the sheet in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [views, n, d] = case.inputs["q"].dims()?;
    let (q, k) = (case.inputs["q"].to_vec::<f64>()?, case.inputs["k"].to_vec::<f64>()?);
    let (t, rbf) = (case.options.get("temperature")?, case.options.get("rbf")? == 1.0);
    let cosine = |v: usize, i: usize, j: usize| {
        let (a, b) = (&q[(v * n + i) * d..][..d], &k[j * d..(j + 1) * d]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt())
    };
    let mut sum = 0.0;
    for i in 0..n {
        let far = |v: usize| Real::exp((2.0 - 2.0 * cosine(v, i, i)) / t);
        let total: f64 = (0..views).map(far).sum();
        for v in 0..views {
            let others = || (0..n).filter(|j| *j != i);
            let near = |j: usize| Real::exp(-(1.0 - cosine(v, i, j)) / t);
            let term = if rbf {
                let logit = |j: usize| Real::exp(cosine(v, i, j) / t);
                -2.0 * t / n as f64 * Real::log(logit(i) / (0..n).map(logit).sum::<f64>())
            } else {
                let mass: f64 = others().map(near).sum();
                let repulsion: f64 = others().map(|j| near(j) / mass * (1.0 - cosine(v, i, j))).sum();
                1.0 - cosine(v, i, i) - repulsion
            };
            sum += far(v) / total * term;
        }
    }
    Ok(sum)
}
