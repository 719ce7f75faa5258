//! Cluster numbers with self-distillation, the loss of domain-agnostic deep clustering (Adnan, Ioannou, Tsai, Taylor
//! 2021, arXiv:2111.12170).
//!
//! For cosines s_i of embeddings with the K centroids, cluster numbers a_i, and cosines m_i of the embeddings that the
//! clusters were made of, with the same centroids:
//!
//! ```text
//! q_i = softmax(m_i / τ_d)
//! L   = mean over images with a cluster of (1-α) CE(a_i, softmax(s_i / τ)) + α w CE(q_i, softmax(s_i / τ_d))
//! ```
//!
//! or, with mixed targets, CE((1-α) onehot(a_i) + α q_i, softmax(s_i / τ)). w is 1, or (τ_d/τ)² to give both terms
//! gradients of one size. No gradient goes to m. The distillation term is a reconstruction (unverified); α = 0 is
//! DeepCluster-v2.

use crate::batch::{TEMPERATURE_RANGE, check_temperature, is_temperature};
use crate::cluster_cross_entropy::{Labels, some_labels};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::views::{batch_of, cross_entropies};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`cluster_distillation_ranks`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClusterDistillation {
    /// τ, of the cluster numbers.
    pub temperature: f64,
    /// τ_d, of the soft targets and of what is compared with them.
    pub distillation_temperature: f64,
    /// α in [0, 1], the weight of the soft targets.
    pub alpha: f64,
    /// Whether targets are mixed, at τ, instead of losses.
    pub mix_targets: bool,
    /// Whether the soft term, if it is a term of its own, is multiplied by (τ_d/τ)².
    pub rescale: bool,
}

impl Default for ClusterDistillation {
    /// τ of DeepCluster-v2; the rest is unverified.
    fn default() -> ClusterDistillation {
        ClusterDistillation {
            temperature: 0.1,
            distillation_temperature: 0.1,
            alpha: 0.5,
            mix_targets: false,
            rescale: false,
        }
    }
}

/// The loss of `scores` `[n, K]` of this rank's images, against `labels` `[n]` i64 (a cluster, or
/// [`IGNORED`](crate::IGNORED)) and the soft targets of `memory` `[n, K]`. A scalar over the images of all ranks, the
/// same on each. No gradient goes to `memory`.
///
/// # Errors
/// `Shape` unless scores and memory have one shape and rows, labels have one element for each row, and a label is a
/// cluster or ignored; `DType` unless labels are i64; `Config` for options out of range; `Numerics` when ranks differ in
/// images, or when these are no multiple of 16 and there is more than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn cluster_distillation_ranks(
    scores: &Tensor,
    labels: &Array,
    memory: &Tensor,
    o: &ClusterDistillation,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    const LOSS: &str = "cluster_distillation";
    check_temperature(LOSS, o.temperature)?;
    check_temperature(LOSS, o.distillation_temperature)?;
    if !(0.0..=1.0).contains(&o.alpha) {
        return Err(Error::new(ErrorKind::Config, LOSS, format!("alpha {}", o.alpha)).expected("in [0, 1]"));
    }
    let batch = batch_of(LOSS, [scores, memory], comm)?;
    let [_, k] = scores.dims()?;
    let labels = Labels::of(labels, k, &batch, comm)?;
    let log_p = |temperature: f64| scores.scale(1.0 / temperature)?.log_softmax();
    let hard = labels.entropies(&log_p(o.temperature)?)?;
    if o.alpha == 0.0 {
        return labels.mean(&[hard], &batch, comm);
    }
    let q = memory.detach().scale(1.0 / o.distillation_temperature)?.softmax()?;
    let ratio = o.distillation_temperature / o.temperature;
    let weight = if o.rescale && !o.mix_targets { o.alpha * ratio * ratio } else { o.alpha };
    // Cross-entropy is linear in its target: mixing targets differs by the temperature of the prediction alone.
    let soft_temperature = if o.mix_targets { o.temperature } else { o.distillation_temperature };
    let soft = labels.counted(&cross_entropies(&q, &log_p(soft_temperature)?)?)?;
    labels.mean(&[hard.scale(1.0 - o.alpha)?.add(&soft.scale(weight)?)?], &batch, comm)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "cluster_distillation",
    doc: "each image must be classified as its cluster, and as softly as its stored embedding is",
    paper: "Adnan et al. 2021, Domain-Agnostic Clustering with Self-Distillation, arXiv:2111.12170",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("scores", "[N, K]", "cosines of embeddings with centroids"),
        Port::new("labels", "[N]", "the cluster of each image; -100 for none").role(Role::Labels),
        Port::new("memory", "[N, K]", "cosines of the embeddings that were clustered").role(Role::Constant),
    ],
    outputs: &[Port::new("loss", "[]", "mean over images with a cluster")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.1,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the scores for the cluster numbers",
        },
        OptionSpec {
            name: "distillation_temperature",
            default: 0.1,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides scores and memory for the soft term; a very small one gives the cluster numbers again",
        },
        OptionSpec {
            name: "alpha",
            default: 0.5,
            allowed: |x| (0.0..=1.0).contains(&x),
            range: "in [0, 1]",
            doc: "weight of the soft targets; 0: DeepCluster-v2",
        },
        OptionSpec {
            name: "mix_targets",
            default: 0.0,
            allowed: |x| x == 0.0 || x == 1.0,
            range: "0 or 1",
            doc: "1: one cross-entropy against mixed targets in place of two",
        },
        OptionSpec {
            name: "rescale",
            default: 0.0,
            allowed: |x| x == 0.0 || x == 1.0,
            range: "0 or 1",
            doc: "1: the soft term, if it is one of its own, times (distillation_temperature / temperature)²",
        },
    ],
    run: |inputs, options| {
        let get = |name: &str| options.get(name);
        let o = ClusterDistillation {
            temperature: get("temperature")?,
            distillation_temperature: get("distillation_temperature")?,
            alpha: get("alpha")?,
            mix_targets: get("mix_targets")? == 1.0,
            rescale: get("rescale")? == 1.0,
        };
        let (scores, labels, memory) = (&inputs["scores"], inputs["labels"].array(), &inputs["memory"]);
        let loss = cluster_distillation_ranks(scores, labels, memory, &o, &Arc::new(Comm::single()))?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, k) = (g.dim(), g.dim());
    let inputs = [
        ("scores", g.array(&[n, k], Domain::Range(-1.0, 1.0))?),
        ("labels", some_labels(g, n, k)?),
        ("memory", g.array(&[n, k], Domain::Range(-1.0, 1.0))?),
    ];
    let set = [
        ("temperature", g.pick(&["0.1", "1"])),
        ("distillation_temperature", g.pick(&["0.1", "0.5"])),
        ("alpha", g.pick(&["0", "0.3", "1"])),
        ("mix_targets", g.pick(&["0", "1"])),
        ("rescale", g.pick(&["0", "1"])),
    ];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs: inputs.map(|(name, array)| (name.to_string(), array)).into(), options })
}

/// The definition in scalar loops: with mixed targets, one cross-entropy.
fn oracle(case: &LossCase) -> Result<f64> {
    let [_, k] = case.inputs["scores"].dims()?;
    let (scores, memory) = (case.inputs["scores"].to_vec::<f64>()?, case.inputs["memory"].to_vec::<f64>()?);
    let labels = case.inputs["labels"].to_vec::<i64>()?;
    let get = |name: &str| case.options.get(name);
    let (tau, tau_d, alpha) = (get("temperature")?, get("distillation_temperature")?, get("alpha")?);
    let weight = if get("rescale")? == 1.0 { alpha * (tau_d / tau) * (tau_d / tau) } else { alpha };
    let softmax = |row: &[f64], tau: f64| -> Vec<f64> {
        let weights: Vec<f64> = row.iter().map(|x| Real::exp(x / tau)).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    };
    let entropy = |target: &[f64], p: &[f64]| -target.iter().zip(p).map(|(t, p)| t * Real::log(*p)).sum::<f64>();
    let mut terms = Vec::new();
    for (i, label) in labels.iter().enumerate().filter(|(_, label)| **label >= 0) {
        let (scores, memory) = (&scores[i * k..(i + 1) * k], &memory[i * k..(i + 1) * k]);
        let hard: Vec<f64> = (0..k).map(|j| if j as i64 == *label { 1.0 } else { 0.0 }).collect();
        let soft = softmax(memory, tau_d);
        terms.push(if get("mix_targets")? == 1.0 {
            let mixed: Vec<f64> = hard.iter().zip(&soft).map(|(h, s)| (1.0 - alpha) * h + alpha * s).collect();
            entropy(&mixed, &softmax(scores, tau))
        } else {
            (1.0 - alpha) * entropy(&hard, &softmax(scores, tau)) + weight * entropy(&soft, &softmax(scores, tau_d))
        });
    }
    Ok(terms.iter().sum::<f64>() / terms.len().max(1) as f64)
}
