//! InfoNCE against a queue with false negatives known by pseudo-labels (Chen, Hung, Tseng, Chien, Yang 2022,
//! arXiv:2106.03719, IFND).
//!
//! For a query q, its key k, the keys n of the queue and S+ = those of q's label, S- = the rest:
//!
//! ```text
//! elimination  l = -ln [ exp(q·k / T) / ( exp(q·k / T) + Σ_{S-} exp(q·n / T) ) ]
//! attraction   l = -1/(1 + |S+|) Σ_{p in {k} and S+} ln [ exp(q·p / T) / ( exp(q·k / T) + Σ_queue exp(q·n / T) ) ]
//! ```
//!
//! A negative label is no label: it equals none. Without equal labels both are InfoNCE, to the bit. Which labels to trust
//! is the caller's matter; [`accepted`] takes those of the most confident samples.

use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, is_temperature, row_dots, unit};
use crate::softmax_terms::{FLAG_RANGE, batch_mean, check_shape, check_width, is_flag, log_sum_over};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::state::Clustering;
use selfsame_autograd::ops::Excluded;
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, DType, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What becomes of false negatives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FalseNegative {
    /// They leave the denominator.
    #[default]
    Eliminated,
    /// They are positives.
    Attracted,
}

/// Options of [`false_negatives`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FalseNegatives {
    /// T, 0.2.
    pub temperature: f64,
    /// What becomes of them.
    pub form: FalseNegative,
}

impl Default for FalseNegatives {
    fn default() -> FalseNegatives {
        FalseNegatives { temperature: 0.2, form: FalseNegative::Eliminated }
    }
}

/// The loss of queries `q` `[N, D]` of `labels` `[N]` i64, whose keys are the rows of `k` `[N, D]`, against `queue`
/// `[K, D]` of `queue_labels` `[K]` i64. A scalar. All are normalised here. No gradient goes to keys and queue.
///
/// # Errors
/// `Shape` unless shapes fit; `DType` unless labels are i64; `Config` for a temperature that is not positive.
#[track_caller]
pub fn false_negatives(
    q: &Tensor,
    k: &Tensor,
    queue: &Tensor,
    labels: &Array,
    queue_labels: &Array,
    o: &FalseNegatives,
) -> Result<Tensor> {
    false_negatives_ranks(q, k, queue, labels, queue_labels, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's queries, keys and labels; every rank holds the same queue. See
/// [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`false_negatives`]; `Numerics` when ranks differ in queries, or when these are no multiple of 16 and there is
/// more than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn false_negatives_ranks(
    q: &Tensor,
    k: &Tensor,
    queue: &Tensor,
    labels: &Array,
    queue_labels: &Array,
    o: &FalseNegatives,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    check_temperature("false_negatives", o.temperature)?;
    check_width("false_negatives", q, "queue", queue)?;
    let batch = Batch::of_pairs("false_negatives", q, k, comm)?;
    check_shape("false_negatives", "labels", labels, &[batch.local])?;
    check_shape("false_negatives", "queue_labels", queue_labels, &[queue.shape()[0]])?;
    let (q, k, queue) = (unit(q)?, unit(&k.detach())?, unit(&queue.detach())?);
    let positive = row_dots(&q, &k)?.scale(1.0 / o.temperature)?; // [n, 1]
    let l = match o.form {
        FalseNegative::Eliminated => {
            let excluded = Excluded::SameKey {
                rows: unequal_to_others(labels, NO_ROW)?,
                columns: unequal_to_others(queue_labels, NO_COLUMN)?,
                kept: None,
            };
            log_sum_over(&q, &queue, o.temperature, excluded, comm)?.sub(&positive)?.softplus()?
        }
        FalseNegative::Attracted => {
            let negatives = log_sum_over(&q, &queue, o.temperature, Excluded::None, comm)?;
            let (sums, counts) = same_label_sums(queue.array(), queue_labels, labels)?;
            let others = row_dots(&q, &Tensor::constant(sums))?.scale(1.0 / o.temperature)?;
            let mean = positive.add(&others)?.div(&Tensor::constant(counts))?;
            // What the mean of the positives differs from the key's: nothing without others.
            negatives.sub(&positive)?.softplus()?.add(&positive.sub(&mean)?)?
        }
    };
    batch_mean(&l, &batch, comm)
}

/// Stand in for "no label" of rows and of columns: equal to nothing.
const NO_ROW: i64 = -1;
const NO_COLUMN: i64 = -2;

fn unequal_to_others(labels: &Array, none: i64) -> Result<Array> {
    let unequal: Vec<i64> = labels.to_vec::<i64>()?.into_iter().map(|l| if l < 0 { none } else { l }).collect();
    Array::from_slice(&unequal, &[unequal.len()], labels.device())
}

/// For each of `labels`, the sum of the rows of `queue` with that label `[n, D]`, and 1 + their number `[n, 1]`.
fn same_label_sums(queue: &Array, queue_labels: &Array, labels: &Array) -> Result<(Array, Array)> {
    let [_, d] = queue.dims()?;
    let labels = labels.to_vec::<i64>()?;
    // One row for each label of the batch, and a last one for all others.
    let mut numbers: BTreeMap<i64, usize> = labels.iter().filter(|label| **label >= 0).map(|l| (*l, 0)).collect();
    numbers.values_mut().enumerate().for_each(|(i, number)| *number = i);
    let rest = numbers.len();
    let number = |label: &i64| numbers.get(label).copied().unwrap_or(rest) as i64;
    let of_queue: Vec<i64> = queue_labels.to_vec::<i64>()?.iter().map(number).collect();
    let mut counts = vec![0usize; rest + 1];
    of_queue.iter().for_each(|number| counts[*number as usize] += 1);
    let index = |x: &[i64]| Array::from_slice(x, &[x.len()], queue.device());
    let zeros = Array::zeros(&[rest + 1, d], queue.dtype(), queue.device())?;
    let sums = ops::index_add(zeros, 0, &index(&of_queue)?, queue)?;
    // What no label of the batch has adds up to nothing.
    let sums = ops::pad(&sums.slice(0, 0, rest)?, &[(0, 1), (0, 0)], 0.0)?;
    counts[rest] = 0;
    let of_batch: Vec<i64> = labels.iter().map(number).collect();
    let counts: Vec<f64> = of_batch.iter().map(|number| 1.0 + counts[*number as usize] as f64).collect();
    let counts = ops::cast(&Array::from_slice(&counts, &[counts.len(), 1], queue.device())?, queue.dtype())?;
    Ok((ops::index_select(&sums, 0, &index(&of_batch)?)?, counts))
}

/// The clusters of the `rate` of samples whose confidence is highest, -1 for the others: `[M]` i64.
///
/// The confidence of `v_i` `[M, D]`, unit vectors, is its softmax over the unit centroids at `temperature`, at its own
/// cluster. Of equals the first samples come first.
///
/// # Errors
/// `Config` for a rate outside `[0, 1]` or a temperature that is not positive; `Shape` unless the clustering is of `v`.
pub fn accepted(v: &Array, clustering: &Clustering, temperature: f64, rate: f64) -> Result<Array> {
    check_temperature("accepted", temperature)?;
    if !(0.0..=1.0).contains(&rate) {
        return Err(Error::new(ErrorKind::Config, "accepted", format!("rate {rate}")).expected("0 to 1"));
    }
    let confidence = confidences(v, clustering, temperature)?;
    let count = (rate * confidence.len() as f64).round() as usize;
    let mut order: Vec<usize> = (0..confidence.len()).collect();
    order.sort_by(|a, b| confidence[*b].total_cmp(&confidence[*a]));
    let clusters = clustering.assignments.to_vec::<i64>()?;
    let mut labels = vec![-1; clusters.len()];
    order[..count].iter().for_each(|i| labels[*i] = clusters[*i]);
    Array::from_slice(&labels, &[labels.len()], v.device())
}

/// κ of each sample.
///
/// # Errors
/// `Shape` unless the clustering is of `v`.
pub fn confidences(v: &Array, clustering: &Clustering, temperature: f64) -> Result<Vec<f64>> {
    let [m, _] = v.dims()?;
    check_shape("confidences", "assignments", &clustering.assignments, &[m])?;
    let logits = ops::scale(ops::matmul(v, &clustering.centroids.transpose(0, 1)?)?, 1.0 / temperature)?;
    let own = ops::gather(&ops::softmax(&logits)?, 1, &clustering.assignments.reshape(&[m, 1])?)?;
    ops::cast(&own, DType::F64)?.to_vec::<f64>()
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "false_negatives",
    doc: "InfoNCE whose queue has known false negatives: left out, or taken as positives",
    paper: "Chen et al. 2022, Incremental False Negative Detection for Contrastive Learning, arXiv:2106.03719",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("q", "[N, D]", "embeddings of the queries"),
        Port::new("k", "[N, D]", "their keys, in the same order").role(Role::Constant),
        Port::new("queue", "[K, D]", "keys of other images; may have no rows").role(Role::Constant),
        Port::new("labels", "[N]", "pseudo-labels of the queries; negative: none").role(Role::Labels),
        Port::new("queue_labels", "[K]", "pseudo-labels of the queue; negative: none").role(Role::Labels),
    ],
    outputs: &[Port::new("loss", "[]", "mean over queries")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.2,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the cosines; lower weighs hard negatives more",
        },
        OptionSpec {
            name: "attract",
            default: 0.0,
            allowed: is_flag,
            range: FLAG_RANGE,
            doc: "0: false negatives leave the denominator; 1: they are positives, which needs labels that are right",
        },
    ],
    run: |inputs, options| {
        let form = if options.get("attract")? == 1.0 { FalseNegative::Attracted } else { FalseNegative::Eliminated };
        let o = FalseNegatives { temperature: options.get("temperature")?, form };
        let array = |name: &str| inputs[name].array();
        let loss =
            false_negatives(&inputs["q"], &inputs["k"], &inputs["queue"], array("labels"), array("queue_labels"), &o)?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d, length) = (g.dim(), 1 + g.dim(), g.pick(&[0, 1, 5, 33]));
    let mut inputs = BTreeMap::new();
    for (name, rows) in [("q", n), ("k", n), ("queue", length)] {
        inputs.insert(name.to_string(), g.array(&[rows, d], Domain::Signed(0.5, 1.5))?);
    }
    for (name, rows) in [("labels", n), ("queue_labels", length)] {
        let labels: Vec<i64> = (0..rows).map(|_| g.below(7) as i64 - 2).collect();
        inputs.insert(name.to_string(), Array::from_slice(&labels, &[rows], g.device())?);
    }
    let set = [("temperature", g.pick(&["0.2", "1.0"])), ("attract", g.pick(&["0", "1"]))];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs, options })
}

/// Both formulas in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let vectors = |name: &str| case.inputs[name].to_vec::<f64>();
    let (q, k, queue, t) = (vectors("q")?, vectors("k")?, vectors("queue")?, case.options.get("temperature")?);
    let (labels, of_queue) = (case.inputs["labels"].to_vec::<i64>()?, case.inputs["queue_labels"].to_vec::<i64>()?);
    let [n, d] = case.inputs["q"].dims()?;
    let weight = |a: &[f64], b: &[f64]| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        Real::exp(dot(a, b) / (dot(a, a).sqrt() * dot(b, b).sqrt()) / t)
    };
    let mut sum = 0.0;
    for i in 0..n {
        let (q, positive) = (&q[i * d..(i + 1) * d], weight(&q[i * d..(i + 1) * d], &k[i * d..(i + 1) * d]));
        let is_false = |j: usize| labels[i] >= 0 && labels[i] == of_queue[j];
        let negatives: Vec<(bool, f64)> =
            queue.chunks(d).enumerate().map(|(j, n)| (is_false(j), weight(q, n))).collect();
        sum += if case.options.get("attract")? == 1.0 {
            let denominator = positive + negatives.iter().map(|(_, w)| w).sum::<f64>();
            let mut positives = vec![positive];
            positives.extend(negatives.iter().filter(|(is_false, _)| *is_false).map(|(_, w)| w));
            -positives.iter().map(|p| Real::log(p / denominator)).sum::<f64>() / positives.len() as f64
        } else {
            let kept: f64 = negatives.iter().filter(|(is_false, _)| !is_false).map(|(_, w)| w).sum();
            -Real::log(positive / (positive + kept))
        };
    }
    Ok(sum / n as f64)
}
