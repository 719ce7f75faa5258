//! The clustering loss of SCAN (Van Gansbeke, Vandenhende, Georgoulis, Proesmans, Van Gool 2020, arXiv:2005.12320,
//! equation 2).
//!
//! For an image and one of its mined neighbours, with the softmax predictions p_i and p'_i over C clusters:
//!
//! ```text
//! L = -1/B Σ_i ln <p_i, p'_i>  +  λ Σ_c m_c ln m_c        m = 1/B Σ_i p_i over the images alone
//! ```
//!
//! The first term wants both to be the same and certain, the second all clusters to be used. The agreement is computed
//! from logarithms, so that it needs no floor; m_c in the logarithm is at least 1e-8. Gradient flows to both.

use crate::batch::Batch;
use crate::sample_totals;
use crate::softmax_terms::{WEIGHT_RANGE, batch_mean, check_option, is_weight};
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`scan`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scan {
    /// λ, 5 in the paper.
    pub entropy_weight: f64,
}

impl Default for Scan {
    fn default() -> Scan {
        Scan { entropy_weight: 5.0 }
    }
}

/// The terms of [`scan`].
#[derive(Clone)]
pub struct ScanTerms {
    /// The scalar to minimise.
    pub loss: Tensor,
    /// -mean ln <p, p'>.
    pub consistency: Tensor,
    /// -Σ m ln m, at most ln C.
    pub entropy: Tensor,
}

/// The least share of a cluster in the logarithm.
const LEAST_SHARE: f64 = 1e-8;

/// The loss of the logits `anchors` `[B, C]` of images and `neighbours` `[B, C]` of one neighbour of each.
///
/// # Errors
/// `Shape` unless both have one shape and rows; `Config` for a negative weight.
#[track_caller]
pub fn scan(anchors: &Tensor, neighbours: &Tensor, o: &Scan) -> Result<ScanTerms> {
    scan_ranks(anchors, neighbours, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's logits. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`scan`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn scan_ranks(anchors: &Tensor, neighbours: &Tensor, o: &Scan, comm: &Arc<Comm>) -> Result<ScanTerms> {
    check_option("scan", "entropy_weight", o.entropy_weight, is_weight, WEIGHT_RANGE)?;
    let batch = Batch::of_pairs("scan", anchors, neighbours, comm)?;
    let (log_p, log_neighbour) = (anchors.log_softmax()?, neighbours.log_softmax()?);
    let agreement = log_p.add(&log_neighbour)?.log_sum_exp()?.reshape(&[batch.local, 1])?;
    let consistency = batch_mean(&agreement, &batch, comm)?.neg()?;
    let share = sample_totals(&log_p.exp()?, batch.first, comm)?.scale(1.0 / batch.global as f64)?; // [C]
    let entropy = share.mul(&share.clamp(LEAST_SHARE, 1.0)?.log()?)?.sum_all()?.neg()?;
    let loss = consistency.sub(&entropy.scale(o.entropy_weight)?)?;
    Ok(ScanTerms { loss, consistency, entropy })
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "scan",
    doc: "an image and its neighbour get the same certain cluster, and all clusters are used",
    paper: "Van Gansbeke et al. 2020, SCAN: Learning to Classify Images without Labels, arXiv:2005.12320",
    cross_rank: CrossRank::ReduceStats,
    inputs: &[
        Port::new("anchors", "[B, C]", "logits of images"),
        Port::new("neighbours", "[B, C]", "logits of one neighbour of each"),
    ],
    outputs: &[
        Port::new(
            "loss",
            "[]",
            "consistency - entropy_weight * entropy; least, -entropy_weight ln C, at certain and balanced",
        ),
        Port::new("consistency", "[]", "mean of -ln <p, p'>"),
        Port::new("entropy", "[]", "of the mean prediction; ln C where all clusters are used alike"),
    ],
    options: &[OptionSpec {
        name: "entropy_weight",
        default: 5.0,
        allowed: is_weight,
        range: WEIGHT_RANGE,
        doc: "how strongly all clusters must be used; with 0 everything falls into one",
    }],
    run: |inputs, options| {
        let o = Scan { entropy_weight: options.get("entropy_weight")? };
        let terms = scan(&inputs["anchors"], &inputs["neighbours"], &o)?;
        let outputs = [("loss", terms.loss), ("consistency", terms.consistency), ("entropy", terms.entropy)];
        Ok(outputs.into_iter().map(|(name, x)| (name.to_string(), x)).collect())
    },
    cases,
    oracle,
    facts: &[Fact { what: "0: all images in one cluster (collapse)", value: |_, _| 0.0 }],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (b, c) = (g.dim(), g.dim());
    let logits = |g: &mut Gen| g.array(&[b, c], Domain::Normal);
    let inputs = BTreeMap::from([("anchors".to_string(), logits(g)?), ("neighbours".to_string(), logits(g)?)]);
    let weight = g.pick(&["0", "1", "5"]).to_string();
    let options = Options::parse(&SPEC, &[("entropy_weight".to_string(), weight)])?;
    Ok(LossCase { inputs, options })
}

/// Equation 2 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [b, c] = case.inputs["anchors"].dims()?;
    let softmax = |name: &str| -> Result<Vec<f64>> {
        let probabilities = |row: &[f64]| {
            let total: f64 = row.iter().map(|x| Real::exp(*x)).sum();
            row.iter().map(|x| Real::exp(*x) / total).collect::<Vec<f64>>()
        };
        Ok(case.inputs[name].to_vec::<f64>()?.chunks(c).flat_map(probabilities).collect())
    };
    let (p, neighbour) = (softmax("anchors")?, softmax("neighbours")?);
    let agreement = |i: usize| (i * c..(i + 1) * c).map(|at| p[at] * neighbour[at]).sum::<f64>();
    let consistency = -(0..b).map(|i| Real::log(agreement(i))).sum::<f64>() / b as f64;
    let share = |cluster: usize| (0..b).map(|i| p[i * c + cluster]).sum::<f64>() / b as f64;
    let minus_entropy: f64 = (0..c).map(|cluster| share(cluster) * Real::log(share(cluster).max(1e-8))).sum();
    Ok(consistency + case.options.get("entropy_weight")? * minus_entropy)
}
