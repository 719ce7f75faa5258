//! Contrastive learning with hard negative samples (Robinson, Chuang, Sra, Jegelka 2021, arXiv:2010.04592, HCL).
//!
//! For unit vectors u, the partner j of view i and the n = 2N - 2 views m of other images, with s = u·u / t:
//!
//! ```text
//! R_i = n Σ_m exp(β s_im) exp(s_im) / Σ_m exp(β s_im)           negatives weighted towards the hard ones
//! G_i = max[ (R_i - τ n exp(s_ij)) / (1 - τ), n exp(-1/t) ]      less the share τ of false ones (debiased)
//! L   = mean of -ln [ exp(s_ij) / (exp(s_ij) + G_i) ]           over the 2N views
//! ```
//!
//! τ = `tau_plus` is the probability that a negative is of the class of the anchor. β = 0 and τ = 0 is NT-Xent. Both
//! sums over negatives are log-sum-exps, at scales (1 + β) / t and β / t, so the similarities are never held:
//! ln R_i = ln n + lse_{1+β} - lse_β.

use crate::batch::{Batch, TEMPERATURE_RANGE, is_temperature, per_image, row_dots, unit};
use crate::sample_totals;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port};
use crate::temperature::{SCALE, Temperature, scale_case, scale_of};
use selfsame_autograd::ops::{Excluded, Pairs};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`hard_negatives`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HardNegatives {
    /// t, which divides the cosines. The paper uses 0.5.
    pub temperature: f64,
    /// β: how much harder negatives weigh more; 0 weighs all alike. The paper uses 0.5 to 2 on images.
    pub beta: f64,
    /// τ: the probability that a negative is a positive in truth, about 1 / classes; 0 takes all as negatives.
    pub tau_plus: f64,
}

impl Default for HardNegatives {
    /// The authors' code on CIFAR-10.
    fn default() -> HardNegatives {
        HardNegatives { temperature: 0.5, beta: 1.0, tau_plus: 0.1 }
    }
}

/// The loss of `z` `[2N, D]`, whose rows i and i + N are the two views of image i. A scalar.
///
/// # Errors
/// `Shape` unless `z` has two axes and an even number of rows, at least 4: one image has no negatives; `Config` for a
/// temperature that is not positive, a negative beta or a `tau_plus` outside `[0, 1)`.
#[track_caller]
pub fn hard_negatives(z: &Tensor, o: &HardNegatives) -> Result<Tensor> {
    hard_negatives_of(z, None, o)
}

fn hard_negatives_of(z: &Tensor, scale: Option<&Tensor>, o: &HardNegatives) -> Result<Tensor> {
    let [rows, _] = z.dims()?;
    if rows % 2 != 0 {
        return Err(Error::new(ErrorKind::Shape, "hard_negatives", format!("z {:?}", z.shape()))
            .expected("[2N, D]: the first views of N images, then their second views"));
    }
    let (a, b) = (z.slice(0, 0, rows / 2)?, z.slice(0, rows / 2, rows)?);
    hard_negatives_scaled(&a, &b, scale, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's embeddings of its `n` images: `a` `[n, D]` of the first views, `b` of
/// the second. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`hard_negatives`]; `Numerics` when ranks differ in `n`, or when `n` is no multiple of 16 and there is more
/// than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn hard_negatives_ranks(a: &Tensor, b: &Tensor, o: &HardNegatives, comm: &Arc<Comm>) -> Result<Tensor> {
    hard_negatives_scaled(a, b, None, o, comm)
}

/// [`hard_negatives_ranks`] with a learned temperature: where there is a `scale` `[]` it stands in place of 1 / t. See
/// [`nt_xent_scaled`](crate::nt_xent_scaled).
///
/// # Errors
/// As for these.
#[track_caller]
pub fn hard_negatives_scaled(
    a: &Tensor,
    b: &Tensor,
    scale: Option<&Tensor>,
    o: &HardNegatives,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    let temperature = Temperature::new("hard_negatives", o.temperature, scale, a)?;
    check(o)?;
    let batch = Batch::of_pairs("hard_negatives", a, b, comm)?;
    if batch.global < 2 {
        return Err(Error::new(ErrorKind::Shape, "hard_negatives", "one image").expected("negatives: at least two"));
    }
    let (a, b) = (unit(a)?, unit(b)?);
    let u = Tensor::concat(&[&a, &b], 0)?;
    let positive = temperature.divide(&row_dots(&a, &b)?, &batch, comm)?; // [n, 1]: both views have the same
    let ratio = log_mean_negative(&u, temperature, o.beta, &batch, comm)?.sub(&positive)?; // [n, 2]
    let l = debiased(&ratio, &positive, temperature, o.tau_plus, &batch, comm)?;
    sample_totals(&l, batch.first, comm)?.sum_all()?.scale(1.0 / (2 * batch.global) as f64)
}

/// ln R, `[n, 2]`, of unit vectors, first views before second ones.
fn log_mean_negative(
    u: &Tensor,
    temperature: Temperature<'_>,
    beta: f64,
    batch: &Batch,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    let images = |places: &mut dyn Iterator<Item = usize>| {
        let images: Vec<i64> = places.map(|place| (place % batch.global) as i64).collect();
        Array::from_slice(&images, &[images.len()], u.device())
    };
    let (rows, columns) = (images(&mut batch.places())?, images(&mut (0..2 * batch.global))?);
    let excluded = Excluded::SameKey { rows, columns, kept: None };
    let pairs = Pairs { excluded, comm: Arc::clone(comm), parts: 2, ..Pairs::default() };
    let log_sum = |power: f64| {
        let scale = temperature.inverse(power, u)?;
        u.pair_log_sum_exp(&scale, Some(1.0), &pairs)?.value.reshape(&[2, batch.local])?.transpose(0, 1)
    };
    let hard = log_sum(1.0 + beta)?;
    // The sum of n times 1.
    if beta == 0.0 {
        return Ok(hard);
    }
    hard.sub(&log_sum(beta)?)?.add_scalar(Real::log((2 * batch.global - 2) as f64))
}

/// ln(1 + G / exp(s_ij)) from d = ln R - s_ij and s_ij.
///
/// With e^f = τ n + (1 - τ) n exp(-1/t - s_ij), the least value of e^d before the floor, and m = max(d, f), it is
/// ln[(e^m + c) / (1 - τ)] with c = 1 - τ - τ n. That is a softplus where c > 0; else e^m >= τ n >= 1 - τ is no small
/// number. Without debiasing d >= f always, as R is a mean of terms that are at least exp(-1/t).
fn debiased(
    ratio: &Tensor,
    positive: &Tensor,
    temperature: Temperature<'_>,
    tau: f64,
    batch: &Batch,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    if tau == 0.0 {
        return ratio.softplus();
    }
    let n = (2 * batch.global - 2) as f64;
    let exponent = match temperature {
        Temperature::Fixed(t) => positive.affine(-1.0, -1.0 / t)?,
        Temperature::Learned { scale, .. } => positive.add(&per_image(scale, batch, comm)?)?.neg()?,
    };
    let floor = exponent.exp()?.affine((1.0 - tau) * n, tau * n)?.log()?;
    let m = ratio.maximum(&floor)?;
    let c = 1.0 - tau - tau * n;
    let log_sum = if c > 0.0 {
        m.add_scalar(-Real::log(c))?.softplus()?.add_scalar(Real::log(c))?
    } else {
        m.add(&m.scale(-1.0)?.exp()?.scale(c)?.log1p()?)?
    };
    log_sum.add_scalar(-Real::log(1.0 - tau))
}

fn check(o: &HardNegatives) -> Result<()> {
    let refused = |name: &str, value: f64, range: &str| {
        Err(Error::new(ErrorKind::Config, "hard_negatives", format!("{name} {value}")).expected(range))
    };
    match o {
        _ if !is_beta(o.beta) => refused("beta", o.beta, BETA_RANGE),
        _ if !is_share(o.tau_plus) => refused("tau_plus", o.tau_plus, SHARE_RANGE),
        _ => Ok(()),
    }
}

fn is_beta(beta: f64) -> bool {
    beta.is_finite() && beta >= 0.0
}

const BETA_RANGE: &str = "a number that is not negative";

fn is_share(tau: f64) -> bool {
    (0.0..1.0).contains(&tau)
}

const SHARE_RANGE: &str = "at least 0 and below 1";

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "hard_negatives",
    doc: "NT-Xent with hard negatives weighing more, and corrected for false ones",
    paper: "Robinson et al. 2021, Contrastive Learning with Hard Negative Samples, arXiv:2010.04592",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[Port::new("z", "[2N, D]", "embeddings; rows i and i+N are two views of image i"), SCALE],
    outputs: &[Port::new("loss", "[]", "mean over the 2N views")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.5,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the cosines",
        },
        OptionSpec {
            name: "beta",
            default: 1.0,
            allowed: is_beta,
            range: BETA_RANGE,
            doc: "how much more harder negatives weigh; 0: all alike",
        },
        OptionSpec {
            name: "tau_plus",
            default: 0.1,
            allowed: is_share,
            range: SHARE_RANGE,
            doc: "probability that a negative is of the anchor's class, about 1 / classes; 0: no correction",
        },
    ],
    run: |inputs, options| {
        let o = HardNegatives {
            temperature: options.get("temperature")?,
            beta: options.get("beta")?,
            tau_plus: options.get("tau_plus")?,
        };
        Ok(BTreeMap::from([("loss".to_string(), hard_negatives_of(&inputs["z"], inputs.get(SCALE.name), &o)?)]))
    },
    cases,
    oracle,
    facts: &[Fact {
        what: "ln(2N-1): every pair equally similar (collapse, or no learning yet)",
        value: |images, _| Real::log(2.0 * images as f64 - 1.0),
    }],
};

/// Embeddings all over the place. With `tau_plus` 0.4 about half of the rows are on their floor.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (1 + g.dim(), 2 + g.dim());
    let z = g.array(&[2 * n, d], Domain::Signed(0.5, 1.5))?;
    let set = [
        ("temperature", g.pick(&["0.5", "1.0"])),
        ("beta", g.pick(&["0", "0.5", "2"])),
        ("tau_plus", g.pick(&["0", "0.01", "0.1", "0.4"])),
    ];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    let mut inputs = BTreeMap::from([("z".to_string(), z)]);
    scale_case(g, &mut inputs)?;
    Ok(LossCase { inputs, options })
}

/// The definition in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [rows, d] = case.inputs["z"].dims()?;
    let z = case.inputs["z"].to_vec::<f64>()?;
    let (s, beta) = (scale_of(case)?, case.options.get("beta")?);
    let tau = case.options.get("tau_plus")?;
    let dot = |i: usize, j: usize| (0..d).map(|k| z[i * d + k] * z[j * d + k]).sum::<f64>();
    let sim = |i: usize, j: usize| s * dot(i, j) / (dot(i, i).sqrt() * dot(j, j).sqrt());
    let half = rows / 2;
    let mut sum = 0.0;
    for i in 0..rows {
        let negatives: Vec<f64> = (0..rows).filter(|m| m % half != i % half).map(|m| sim(i, m)).collect();
        let n = negatives.len() as f64;
        let importance: f64 = negatives.iter().map(|s| Real::exp(beta * s)).sum::<f64>() / n;
        let reweighted = negatives.iter().map(|s| Real::exp(beta * s) * Real::exp(*s)).sum::<f64>() / importance;
        let positive = Real::exp(sim(i, (i + half) % rows));
        let estimate = (reweighted - tau * n * positive) / (1.0 - tau);
        sum -= Real::log(positive / (positive + estimate.max(n * Real::exp(-s))));
    }
    Ok(sum / rows as f64)
}
