//! Self-labelling on confident samples, the third step of SCAN (Van Gansbeke et al. 2020, arXiv:2005.12320).
//!
//! For images whose weak view is predicted with a probability above a threshold, the strong view must be given that class:
//!
//! ```text
//! t_i = argmax_c p_ic of the weak view, kept where max_c p_ic > threshold
//! w_c = kept / kept of class c                     or 1 without balancing
//! L   = Σ_i w_t(i) (-ln p'_i,t(i)) / Σ_i w_t(i)    over the kept images, p' of the strong view
//! ```
//!
//! Where none is kept, loss and gradient are 0. No gradient goes to the weak views.

use crate::batch::{Batch, constant};
use crate::sample_totals;
use crate::softmax_terms::{FLAG_RANGE, is_flag};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, DType, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`self_label`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SelfLabel {
    /// Images above it are kept: 0.99.
    pub threshold: f64,
    /// Whether classes weigh alike, whatever their number of kept images.
    pub balance: bool,
}

impl Default for SelfLabel {
    fn default() -> SelfLabel {
        SelfLabel { threshold: 0.99, balance: true }
    }
}

/// What [`self_label`] finds.
#[derive(Clone)]
pub struct SelfLabelled {
    /// The scalar loss.
    pub loss: Tensor,
    /// Images of all ranks that were kept.
    pub kept: usize,
}

/// The loss of the logits `strong` `[B, C]` of strong views, labelled by the logits `weak` `[B, C]` of weak views of the
/// same images.
///
/// # Errors
/// `Shape` unless both have one shape, rows and classes; `Config` for a threshold that is no probability.
#[track_caller]
pub fn self_label(weak: &Tensor, strong: &Tensor, o: &SelfLabel) -> Result<SelfLabelled> {
    self_label_ranks(weak, strong, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's logits. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`self_label`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more
/// than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn self_label_ranks(weak: &Tensor, strong: &Tensor, o: &SelfLabel, comm: &Arc<Comm>) -> Result<SelfLabelled> {
    if !is_probability(o.threshold) {
        return Err(Error::new(ErrorKind::Config, "self_label", format!("threshold {}", o.threshold))
            .expected(PROBABILITY_RANGE));
    }
    let batch = Batch::of_pairs("self_label", weak, strong, comm)?;
    let [n, classes] = strong.dims()?;
    let p = ops::softmax(weak.array())?;
    let labels = ops::argmax(&p, 1)?;
    let largest = ops::cast(&ops::max(&p, &[1], false)?, DType::F64)?.to_vec::<f64>()?;
    let is_kept: Vec<bool> = largest.into_iter().map(|p| p > o.threshold).collect();
    // Of all ranks.
    let mut kept_of_class = vec![0usize; classes];
    let here: Vec<(i64, bool)> = labels.to_vec::<i64>()?.into_iter().zip(is_kept.iter().copied()).collect();
    let everywhere = comm.exchange(here.clone())?.concat();
    everywhere.iter().filter(|(_, kept)| *kept).for_each(|(label, _)| kept_of_class[*label as usize] += 1);
    let kept: usize = kept_of_class.iter().sum();
    if kept == 0 {
        return Ok(SelfLabelled { loss: strong.scale(0.0)?.sum_all()?, kept });
    }
    let weight = |label: i64| match o.balance {
        true => kept as f64 / kept_of_class[label as usize] as f64,
        false => 1.0,
    };
    let total: f64 = everywhere.iter().filter(|(_, kept)| *kept).map(|(label, _)| weight(*label)).sum();
    let weights = here.iter().map(|(label, kept)| if *kept { weight(*label) / total } else { 0.0 });
    let weights = Array::from_slice(&weights.collect::<Vec<f64>>(), &[n, 1], strong.device())?;
    let weights = Tensor::constant(ops::cast(&weights, strong.dtype())?);
    let entropies = strong.log_softmax()?.gather(1, &labels.reshape(&[n, 1])?)?.neg()?;
    let is_kept = Array::from_slice(&is_kept, &[n, 1], strong.device())?;
    // Selected, so that an image that is left out adds nothing even where it is infinite.
    let l = Tensor::select(&is_kept, &entropies.mul(&weights)?, &constant(0.0, strong)?)?;
    Ok(SelfLabelled { loss: sample_totals(&l, batch.first, comm)?.sum_all()?, kept })
}

fn is_probability(x: f64) -> bool {
    (0.0..=1.0).contains(&x)
}

const PROBABILITY_RANGE: &str = "0 to 1";

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "self_label",
    doc: "strong views must be given the class that their weak view was given with confidence",
    paper: "Van Gansbeke et al. 2020, SCAN: Learning to Classify Images without Labels, arXiv:2005.12320",
    cross_rank: CrossRank::ReduceStats,
    inputs: &[
        Port::new("weak", "[B, C]", "logits of weak views").role(Role::Constant),
        Port::new("strong", "[B, C]", "logits of strong views of the same images"),
    ],
    outputs: &[Port::new("loss", "[]", "weighted mean over the images that are kept; 0 where none is")],
    options: &[
        OptionSpec {
            name: "threshold",
            default: 0.99,
            allowed: is_probability,
            range: PROBABILITY_RANGE,
            doc: "images predicted with a probability above it are kept; 1 keeps none",
        },
        OptionSpec {
            name: "balance",
            default: 1.0,
            allowed: is_flag,
            range: FLAG_RANGE,
            doc: "1: classes weigh alike; without it a few big clusters take over",
        },
    ],
    run: |inputs, options| {
        let o = SelfLabel { threshold: options.get("threshold")?, balance: options.get("balance")? == 1.0 };
        Ok(BTreeMap::from([("loss".to_string(), self_label(&inputs["weak"], &inputs["strong"], &o)?.loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (b, c) = (g.dim(), g.dim());
    let logits = |g: &mut Gen| g.array(&[b, c], Domain::Normal);
    let inputs = BTreeMap::from([("weak".to_string(), logits(g)?), ("strong".to_string(), logits(g)?)]);
    let set = [("threshold", g.pick(&["0", "0.3", "0.6", "1"])), ("balance", g.pick(&["0", "1"]))];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs, options })
}

/// Step 5 of the sheet in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [_, c] = case.inputs["weak"].dims()?;
    let (weak, strong) = (case.inputs["weak"].to_vec::<f64>()?, case.inputs["strong"].to_vec::<f64>()?);
    let p = |row: &[f64], class: usize| Real::exp(row[class]) / row.iter().map(|x| Real::exp(*x)).sum::<f64>();
    let best = |row: &[f64]| (0..c).fold(0, |best, class| if row[class] > row[best] { class } else { best });
    let threshold = case.options.get("threshold")?;
    let kept: Vec<(usize, &[f64])> = weak
        .chunks(c)
        .zip(strong.chunks(c))
        .filter(|(weak, _)| p(weak, best(weak)) > threshold)
        .map(|(weak, strong)| (best(weak), strong))
        .collect();
    let balance = case.options.get("balance")? == 1.0;
    let (mut sum, mut weights) = (0.0, 0.0);
    for (class, strong) in &kept {
        let of_class = kept.iter().filter(|(other, _)| other == class).count();
        let weight = if balance { kept.len() as f64 / of_class as f64 } else { 1.0 };
        sum -= weight * Real::log(p(strong, *class));
        weights += weight;
    }
    Ok(if kept.is_empty() { 0.0 } else { sum / weights })
}
