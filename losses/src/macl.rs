//! MACL: model-aware contrastive learning (Huang, Chen, et al. 2023, arXiv:2207.07874).
//!
//! InfoNCE whose temperature follows the alignment of the batch, and whose terms are weighted so that easy positives and
//! few negatives do not take the gradient away:
//!
//! ```text
//! A   = mean cosine of the positive pairs
//! τ   = τ_0 (1 + α (A - A_0))     or     τ_0 γ^A                at least 1e-3
//! P_i = the softmax of row i over its positive and its negatives, at τ;  V_i = 1 / (1 - P_i), at most 1e4
//! L   = mean of -V_i ln P_i
//! ```
//!
//! A, τ and V have no gradient. Three choices of rows: each view against the other view of all images ([`macl`], as the
//! authors' release), those and the own view of other images ([`Candidates::BothViews`]), and queries against a queue
//! ([`macl_queue`]).

use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, constant, is_temperature, row_dots, unit};
use crate::sample_totals;
use crate::softmax_terms::{FLAG_RANGE, batch_mean, check_width, is_flag, log_sum_over, own_places};
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, NamedTensors, OptionSpec, Options, Port, Role};
use selfsame_autograd::ops::{Excluded, Pairs};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, DType, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::{self, Real};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How the temperature follows the alignment A.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Adaptation {
    /// τ_0 (1 + α (A - A_0)).
    Linear {
        /// α; 0 keeps τ_0. The paper uses 0.5, the authors' code 1.
        alpha: f64,
        /// A_0.
        origin: f64,
    },
    /// τ_0 γ^A.
    Exponential {
        /// γ, the authors' 2.
        base: f64,
    },
}

/// What a view is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Candidates {
    /// The other view of all images: N.
    #[default]
    OtherView,
    /// Both views of all images but itself: 2N - 1.
    BothViews,
}

/// Options of [`macl`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Macl {
    /// τ_0.
    pub temperature: f64,
    /// How τ follows A.
    pub adaptation: Adaptation,
    /// Whether terms are weighted by V.
    pub reweight: bool,
    /// What a view is compared with; of no meaning for a queue.
    pub candidates: Candidates,
}

impl Default for Macl {
    /// The paper's for SimCLR on ImageNet.
    fn default() -> Macl {
        Macl {
            temperature: 0.1,
            adaptation: Adaptation::Linear { alpha: 0.5, origin: 0.0 },
            reweight: true,
            candidates: Candidates::OtherView,
        }
    }
}

/// The least temperature.
const LEAST_TEMPERATURE: f64 = 1e-3;

/// The largest weight V.
const LARGEST_WEIGHT: f64 = 1e4;

impl Macl {
    /// τ at alignment `a`.
    pub fn temperature_at(&self, a: f64) -> f64 {
        let factor = match self.adaptation {
            Adaptation::Linear { alpha, origin } => 1.0 + alpha * (a - origin),
            Adaptation::Exponential { base } => math::f64::pow(base, a),
        };
        (self.temperature * factor).max(LEAST_TEMPERATURE)
    }

    fn check(&self) -> Result<()> {
        check_temperature("macl", self.temperature)?;
        let numbers = match self.adaptation {
            Adaptation::Linear { alpha, origin } => alpha.is_finite() && origin.is_finite(),
            Adaptation::Exponential { base } => base.is_finite() && base > 0.0,
        };
        if numbers {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Config, "macl", format!("{:?}", self.adaptation))
            .expected("finite numbers, and a positive base"))
    }
}

/// The loss of [`macl`] and what a log wants beside it; all are of the batch of all ranks.
#[derive(Clone)]
pub struct MaclTerms {
    /// The scalar to minimise.
    pub loss: Tensor,
    /// The same without weights: InfoNCE at the same temperature.
    pub info_nce: Tensor,
    /// A.
    pub alignment: f64,
    /// τ.
    pub temperature: f64,
}

/// The loss of two views `a`, `b` `[N, D]` of N images, each in turn the one that looks for its partner.
///
/// # Errors
/// `Shape` unless both have one shape and at least two rows: one image has no negatives; `Config` for a temperature that
/// is not positive.
#[track_caller]
pub fn macl(a: &Tensor, b: &Tensor, o: &Macl) -> Result<MaclTerms> {
    macl_ranks(a, b, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's views. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`macl`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn macl_ranks(a: &Tensor, b: &Tensor, o: &Macl, comm: &Arc<Comm>) -> Result<MaclTerms> {
    o.check()?;
    let batch = Batch::of_pairs("macl", a, b, comm)?;
    if batch.global < 2 {
        return Err(Error::new(ErrorKind::Shape, "macl", "one image").expected("negatives: at least two images"));
    }
    let (a, b) = (unit(a)?, unit(b)?);
    let positive = row_dots(&a, &b)?;
    let (alignment, tau) = adapted(&positive, o, &batch, comm)?;
    let negatives = match o.candidates {
        Candidates::OtherView => other_views(&a, &b, tau, &batch, comm)?,
        Candidates::BothViews => both_views(&Tensor::concat(&[&a, &b], 0)?, tau, &batch, comm)?,
    };
    terms(&negatives, &positive, alignment, tau, o, &batch, comm)
}

/// The loss of queries `q` `[N, D]` whose keys are the rows of `k` `[N, D]`, against the negatives `queue` `[K, D]`. No
/// gradient goes to keys and queue.
///
/// # Errors
/// `Shape` unless shapes fit; `Config` for a temperature that is not positive.
#[track_caller]
pub fn macl_queue(q: &Tensor, k: &Tensor, queue: &Tensor, o: &Macl) -> Result<MaclTerms> {
    macl_queue_ranks(q, k, queue, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's queries and keys; every rank holds the same `queue`. See
/// [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`macl_queue`]; `Numerics` when ranks differ in queries, or when these are no multiple of 16 and there is more
/// than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn macl_queue_ranks(q: &Tensor, k: &Tensor, queue: &Tensor, o: &Macl, comm: &Arc<Comm>) -> Result<MaclTerms> {
    o.check()?;
    check_width("macl", q, "queue", queue)?;
    let batch = Batch::of_pairs("macl", q, k, comm)?;
    let (q, k, queue) = (unit(q)?, unit(&k.detach())?, unit(&queue.detach())?);
    let positive = row_dots(&q, &k)?;
    let (alignment, tau) = adapted(&positive, o, &batch, comm)?;
    let negatives = log_sum_over(&q, &queue, tau, Excluded::None, comm)?;
    terms(&negatives, &positive, alignment, tau, o, &batch, comm)
}

/// A and τ from this rank's positive cosines `[n, 1]`.
fn adapted(positive: &Tensor, o: &Macl, batch: &Batch, comm: &Arc<Comm>) -> Result<(f64, f64)> {
    let total = sample_totals(&positive.detach(), batch.first, comm)?;
    let alignment = ops::cast(total.array(), DType::F64)?.reshape(&[])?.item::<f64>()? / batch.global as f64;
    Ok((alignment, o.temperature_at(alignment)))
}

/// ln Σ exp(cosine / τ) over the other view of other images, `[n, 2]`: of the first views, of the second.
fn other_views(a: &Tensor, b: &Tensor, tau: f64, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    let excluded = Excluded::Own(own_places(batch, a)?);
    let pairs = Pairs { excluded, comm: Arc::clone(comm), ..Pairs::default() };
    let [first, second] = a.pair_log_sum_exp_both(b, &constant(1.0 / tau, a)?, Some(1.0), &pairs)?;
    Tensor::stack(&[&first.value, &second.value], 1)
}

/// The same over both views of other images, `[n, 2]`, from both views' rows.
fn both_views(u: &Tensor, tau: f64, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    let images = |places: &mut dyn Iterator<Item = usize>| {
        let images: Vec<i64> = places.map(|place| (place % batch.global) as i64).collect();
        Array::from_slice(&images, &[images.len()], u.device())
    };
    let (rows, columns) = (images(&mut batch.places())?, images(&mut (0..2 * batch.global))?);
    let excluded = Excluded::SameKey { rows, columns, kept: None };
    let pairs = Pairs { excluded, comm: Arc::clone(comm), parts: 2, ..Pairs::default() };
    let sums = u.pair_log_sum_exp(&constant(1.0 / tau, u)?, Some(1.0), &pairs)?;
    sums.value.reshape(&[2, batch.local])?.transpose(0, 1)
}

/// The loss from ln Σ exp over negatives `[n, c]` and the positives' cosines `[n, 1]`.
fn terms(
    negatives: &Tensor,
    positive: &Tensor,
    alignment: f64,
    temperature: f64,
    o: &Macl,
    batch: &Batch,
    comm: &Arc<Comm>,
) -> Result<MaclTerms> {
    let margin = negatives.sub(&positive.scale(1.0 / temperature)?)?;
    let l = margin.softplus()?; // -ln P
    let info_nce = batch_mean(&l, batch, comm)?;
    let loss = match o.reweight {
        false => info_nce.clone(),
        true => {
            // 1 / (1 - P) = 1 + exp(positive) / Σ exp(negatives), without the difference.
            let v = margin.detach().neg()?.exp()?.add_scalar(1.0)?.clamp(1.0, LARGEST_WEIGHT)?;
            batch_mean(&l.mul(&v)?, batch, comm)?
        }
    };
    Ok(MaclTerms { loss, info_nce, alignment, temperature })
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "macl",
    doc: "contrast with a temperature that rises with alignment and weights against vanishing gradients",
    paper: "Huang et al. 2023, Model-Aware Contrastive Learning: Towards Escaping the Dilemmas, arXiv:2207.07874",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("a", "[N, D]", "embeddings of the first views, or of the queries"),
        Port::new("b", "[N, D]", "of the second views, or the keys, in the same order"),
        Port::new("queue", "[K, D]", "where given, a are queries, b keys (constants) and these the negatives")
            .role(Role::Constant)
            .optional(),
    ],
    outputs: &[
        Port::new("loss", "[]", "mean over images and directions of -V ln P"),
        Port::new("info_nce", "[]", "the same without the weights V"),
        Port::new("alignment", "[]", "A, the mean cosine of positive pairs"),
        Port::new("temperature", "[]", "the temperature that follows from it"),
    ],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.1,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "the temperature where the alignment is 0; at least 1e-3 is used",
        },
        OptionSpec {
            name: "alpha",
            default: 0.5,
            allowed: f64::is_finite,
            range: "a finite number",
            doc: "how strongly the temperature follows the alignment; 0: not at all",
        },
        OptionSpec {
            name: "origin",
            default: 0.0,
            allowed: f64::is_finite,
            range: "a finite number",
            doc: "the alignment at which it is the temperature given",
        },
        OptionSpec {
            name: "base",
            default: 0.0,
            allowed: |x| x.is_finite() && x >= 0.0,
            range: "a number that is not negative",
            doc: "above 0: the exponential form, base^A, instead of alpha and origin; 2 in the authors' code",
        },
        OptionSpec {
            name: "reweight",
            default: 1.0,
            allowed: is_flag,
            range: FLAG_RANGE,
            doc: "1: weigh by 1 / (1 - P)",
        },
        OptionSpec {
            name: "both_views",
            default: 0.0,
            allowed: is_flag,
            range: FLAG_RANGE,
            doc: "1: the own view of other images are negatives too; without a queue",
        },
    ],
    run,
    cases,
    oracle,
    facts: &[Fact {
        what: "N/(N-1) ln N, weighted, or ln N: every pair equally similar (collapse)",
        value: |images, options| {
            let n = candidates(images, options);
            Real::log(n) * if is_on(options, "reweight") { n / (n - 1.0) } else { 1.0 }
        },
    }],
};

/// How many each row chooses from.
fn candidates(images: usize, options: &Options) -> f64 {
    if is_on(options, "both_views") { (2 * images - 1) as f64 } else { images as f64 }
}

fn is_on(options: &Options, flag: &str) -> bool {
    options.get(flag).is_ok_and(|value| value == 1.0)
}

fn run(inputs: &NamedTensors, options: &Options) -> Result<NamedTensors> {
    let adaptation = match options.get("base")? {
        0.0 => Adaptation::Linear { alpha: options.get("alpha")?, origin: options.get("origin")? },
        base => Adaptation::Exponential { base },
    };
    let o = Macl {
        temperature: options.get("temperature")?,
        adaptation,
        reweight: is_on(options, "reweight"),
        candidates: if is_on(options, "both_views") { Candidates::BothViews } else { Candidates::OtherView },
    };
    let (a, b) = (&inputs["a"], &inputs["b"]);
    let terms = match inputs.get("queue") {
        Some(queue) => macl_queue(a, b, queue, &o)?,
        None => macl(a, b, &o)?,
    };
    Ok(BTreeMap::from([
        ("loss".to_string(), terms.loss),
        ("info_nce".to_string(), terms.info_nce),
        ("alignment".to_string(), constant(terms.alignment, a)?),
        ("temperature".to_string(), constant(terms.temperature, a)?),
    ]))
}

/// What has no gradient moves with the inputs, so differences see the plain loss alone; `tests/objectives/weighted.rs` has
/// the weighted gradients.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (1 + g.dim(), 1 + g.dim());
    let mut inputs = BTreeMap::new();
    for name in ["a", "b"] {
        inputs.insert(name.to_string(), g.array(&[n, d], Domain::Signed(0.5, 1.5))?);
    }
    let set = [
        ("temperature", g.pick(&["0.2", "1.0"])),
        ("alpha", "0"),
        ("reweight", "0"),
        ("both_views", g.pick(&["0", "1"])),
    ];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs, options })
}

/// Steps 1 to 7 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [n, d] = case.inputs["a"].dims()?;
    let z = [case.inputs["a"].to_vec::<f64>()?, case.inputs["b"].to_vec::<f64>()?].concat();
    let option = |name: &str| case.options.get(name);
    let dot = |i: usize, j: usize| (0..d).map(|k| z[i * d + k] * z[j * d + k]).sum::<f64>();
    let cosine = |i: usize, j: usize| dot(i, j) / (dot(i, i).sqrt() * dot(j, j).sqrt());
    let alignment = (0..n).map(|i| cosine(i, i + n)).sum::<f64>() / n as f64;
    let factor = match option("base")? {
        0.0 => 1.0 + option("alpha")? * (alignment - option("origin")?),
        base => Real::exp(alignment * Real::log(base)),
    };
    let tau = (option("temperature")? * factor).max(1e-3);
    let mut sum = 0.0;
    for i in 0..2 * n {
        let is_candidate = |j: &usize| *j != i && (is_on(&case.options, "both_views") || *j / n != i / n);
        let total: f64 = (0..2 * n).filter(is_candidate).map(|j| Real::exp(cosine(i, j) / tau)).sum();
        let p = Real::exp(cosine(i, (i + n) % (2 * n)) / tau) / total;
        let weight = if is_on(&case.options, "reweight") { (1.0 / (1.0 - p)).min(1e4) } else { 1.0 };
        sum -= weight * Real::log(p);
    }
    Ok(sum / (2 * n) as f64)
}
