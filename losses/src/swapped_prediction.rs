//! Swapped prediction, the loss of SwAV (Caron et al. 2020, arXiv:2006.09882, equation 2).
//!
//! For scores s_v = z_v Cᵀ of each crop's embedding with K prototypes, V crops, the first two of them large:
//!
//! ```text
//! q_a = Sinkhorn(s_a / ε) for a in {0, 1}: rows are probabilities over prototypes, which get equal shares of the batch
//! L   = 1/2 Σ_a 1/(V-1) Σ_{v≠a} mean_b [ - Σ_k q_abk ln softmax(s_vb / τ)_k ]
//! ```
//!
//! The second line is [`swapped_cross_entropy`]; no gradient goes through codes. With a queue the codes are those of the batch's rows among the queue's.

use crate::batch::{TEMPERATURE_RANGE, check_temperature, is_temperature};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::views::{split_views, swapped_cross_entropy};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::ops::{self, Sinkhorn};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`balanced_codes`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Codes {
    /// ε: small ones give nearly one-hot codes, large ones uniform codes.
    pub epsilon: f64,
    /// Sinkhorn's iterations. With 0, codes are softmax(s / ε) without balance: the ablation, which collapses.
    pub iterations: usize,
}

impl Default for Codes {
    /// The paper's.
    fn default() -> Codes {
        Codes { epsilon: 0.05, iterations: 3 }
    }
}

/// The codes `[n, K]` of `scores` `[n, K]` (this rank's images by prototypes), balanced over the images of all ranks
/// and the rows of `queue` `[L, K]`: scores of earlier embeddings with the present prototypes, the same on every rank.
/// Untracked.
///
/// The paper puts the queue before the batch. Here the batch comes first, which changes rounding alone.
///
/// # Errors
/// `Shape` unless both are of K columns; as for [`ops::sinkhorn`].
pub fn balanced_codes(scores: &Array, queue: Option<&Array>, o: &Codes, comm: &Comm) -> Result<Array> {
    if o.iterations == 0 {
        check_temperature("swapped_prediction", o.epsilon)?;
        return ops::softmax(&ops::binary_scalar(ops::Binary::Mul, scores, 1.0 / o.epsilon)?);
    }
    let [n, k] = scores.dims()?;
    let sinkhorn = Sinkhorn::swav(o.epsilon, o.iterations);
    let Some(queue) = queue else { return Ok(ops::sinkhorn(scores, &sinkhorn, comm)?.codes) };
    let [_, columns] = queue.dims()?;
    if columns != k {
        return Err(Error::new(ErrorKind::Shape, "swapped_prediction", format!("queue {:?}", queue.shape()))
            .expected(format!("[L, {k}], as the scores")));
    }
    // The last rank takes the queue: ranks hold consecutive rows.
    let is_last = comm.rank() + 1 == comm.size();
    let rows = if is_last { ops::concat(&[scores, queue], 0)? } else { scores.clone() };
    ops::sinkhorn(&rows, &sinkhorn, comm)?.codes.slice(0, 0, n)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "swapped_prediction",
    doc: "each crop must predict the balanced cluster codes of the other large crops",
    paper: "Caron et al. 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, \
            arXiv:2006.09882",
    cross_rank: CrossRank::ReduceStats,
    inputs: &[
        Port::new("scores", "[V, N, K]", "cosines of each crop's embeddings with the prototypes"),
        Port::new(
            "assigned",
            "[A, N, K]",
            "scores that codes are made of; in their place those of the first two crops",
        )
        .role(Role::Constant)
        .optional(),
        Port::new("queue", "[A, L, K]", "scores of earlier embeddings, balanced with them")
            .role(Role::Constant)
            .optional(),
    ],
    outputs: &[
        Port::new("loss", "[]", "mean over images and pairs of a coded crop and another one"),
        Port::new("codes", "[A, N, K]", "what is predicted").role(Role::Constant),
    ],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.1,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the scores that predict",
        },
        OptionSpec {
            name: "epsilon",
            default: 0.05,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the scores that codes are made of; lower is nearer to one-hot codes",
        },
        OptionSpec {
            name: "iterations",
            default: 3.0,
            allowed: |x| (0.0..=1e6).contains(&x) && x.fract() == 0.0,
            range: "a whole number",
            doc: "of Sinkhorn; 0 leaves balance out: softmax codes, which collapse",
        },
    ],
    run: |inputs, options| {
        let scores = split_views(&inputs["scores"])?;
        let assigned = match inputs.get("assigned") {
            Some(assigned) => split_views(assigned)?,
            None => scores.iter().take(2).map(Tensor::detach).collect(),
        };
        let queues = inputs.get("queue").map(split_views).transpose()?;
        if queues.as_ref().is_some_and(|queues| queues.len() != assigned.len()) {
            return Err(Error::new(
                ErrorKind::Shape,
                "swapped_prediction",
                format!("queue {:?}", inputs["queue"].shape()),
            )
            .expected(format!("one for each of {} coded crops", assigned.len())));
        }
        let o = Codes { epsilon: options.get("epsilon")?, iterations: options.get("iterations")? as usize };
        let comm = Arc::new(Comm::single());
        let codes = assigned.iter().enumerate().map(|(a, scores)| {
            let queue = queues.as_ref().map(|queues| queues[a].array());
            balanced_codes(scores.array(), queue, &o, &comm).map(Tensor::constant)
        });
        let codes = codes.collect::<Result<Vec<_>>>()?;
        let loss = swapped_cross_entropy(&scores, &codes, options.get("temperature")?, &comm)?;
        let codes = Tensor::stack(&codes.iter().collect::<Vec<_>>(), 0)?;
        Ok(BTreeMap::from([("loss".to_string(), loss), ("codes".to_string(), codes)]))
    },
    cases,
    oracle,
    facts: &[],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, k) = (g.dim(), g.dim());
    let (coded, views) = (g.pick(&[1, 2]), g.pick(&[2, 3, 4]));
    let mut inputs = BTreeMap::from([
        ("scores".to_string(), g.array(&[views, n, k], Domain::Range(-1.0, 1.0))?),
        ("assigned".to_string(), g.array(&[coded, n, k], Domain::Range(-1.0, 1.0))?),
    ]);
    if g.one_in(2) {
        inputs.insert("queue".to_string(), g.array(&[coded, 5, k], Domain::Range(-1.0, 1.0))?);
    }
    let set = [("temperature", g.pick(&["0.1", "1"])), ("epsilon", "0.25"), ("iterations", g.pick(&["0", "1", "3"]))];
    let set = set.map(|(key, value)| (key.to_string(), value.to_string()));
    Ok(LossCase { inputs, options: Options::parse(&SPEC, &set)? })
}

/// The algorithm of the paper's appendix in scalar loops, the queue before the batch.
fn oracle(case: &LossCase) -> Result<f64> {
    let ([views, n, k], [coded, _, _]) = (case.inputs["scores"].dims()?, case.inputs["assigned"].dims()?);
    let get = |name: &str| case.options.get(name);
    let (tau, epsilon, iterations) = (get("temperature")?, get("epsilon")?, get("iterations")?);
    let scores = case.inputs["scores"].to_vec::<f64>()?;
    let assigned = case.inputs["assigned"].to_vec::<f64>()?;
    let queue = case.inputs.get("queue").map(|queue| queue.to_vec::<f64>()).transpose()?.unwrap_or_default();
    let mut loss = 0.0;
    for a in 0..coded {
        let queued = queue.len() / coded;
        let rows = [&queue[a * queued..(a + 1) * queued], &assigned[a * n * k..(a + 1) * n * k]].concat();
        let mut q: Vec<f64> = rows.iter().map(|s| Real::exp(s / epsilon)).collect();
        let b = q.len() / k;
        for _ in 0..iterations as usize {
            for j in 0..k {
                let mass: f64 = (0..b).map(|i| q[i * k + j]).sum();
                (0..b).for_each(|i| q[i * k + j] /= mass * k as f64);
            }
            for row in q.chunks_mut(k) {
                let mass: f64 = row.iter().sum();
                row.iter_mut().for_each(|q| *q /= mass * b as f64);
            }
        }
        for view in (0..views).filter(|view| *view != a) {
            for (i, code) in q[(b - n) * k..].chunks(k).enumerate() {
                let mass: f64 = code.iter().sum();
                let row = &scores[(view * n + i) * k..][..k];
                let normaliser: f64 = row.iter().map(|s| Real::exp(s / tau)).sum();
                let log_p = |s: f64| s / tau - Real::log(normaliser);
                let pairs = (coded * (views - 1) * n) as f64;
                loss -= code.iter().zip(row).map(|(q, s)| q / mass * log_p(*s)).sum::<f64>() / pairs;
            }
        }
    }
    Ok(loss)
}
