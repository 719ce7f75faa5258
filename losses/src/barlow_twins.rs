//! Redundancy reduction, the loss of Barlow Twins (Zbontar, Jing, Misra, LeCun, Deny 2021, arXiv:2103.03230,
//! equation 1).
//!
//! Each of the D dimensions of the two views' embeddings is standardised over the B images of all ranks (biased
//! variance, eps added to it, no scale, no offset). Of their cross-correlations, D x D, the diagonal is pulled to 1 and
//! the rest to 0:
//!
//! ```text
//! C = 1/B Σ_b zhat1_b zhat2_bᵀ
//! L = scale · [ Σ_i (1 - C_ii)² + λ Σ_{i≠j} C_ij² ]
//! ```
//!
//! Sums over entries, not means: the loss begins near D. Both views get a gradient. This is the gradient of the loss
//! over the whole batch: the authors' code divides it by the number of devices.

use crate::sample_products;
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::views::batch_of;
use selfsame_autograd::ops::{BatchNorm, BatchStats};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::ops::{self, Binary};
use selfsame_engine::{Comm, Error, ErrorKind, Result, Rows};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`barlow_twins`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BarlowTwins {
    /// λ, the weight of what is off the diagonal. The paper's 0.0051 is for D = 8192.
    pub lambda: f64,
    /// Multiplies the loss. Recipes of small images use 0.1.
    pub scale: f64,
    /// Added to the variance.
    pub eps: f64,
}

impl Default for BarlowTwins {
    /// The paper's.
    fn default() -> BarlowTwins {
        BarlowTwins { lambda: 0.0051, scale: 1.0, eps: 1e-5 }
    }
}

impl BarlowTwins {
    fn check(&self) -> Result<()> {
        let BarlowTwins { lambda, scale, eps } = *self;
        if lambda >= 0.0 && scale > 0.0 && eps > 0.0 && (lambda + scale + eps).is_finite() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Config, "barlow_twins", format!("lambda {lambda}, scale {scale}, eps {eps}"))
            .expected("lambda at least 0, scale and eps positive"))
    }
}

/// The loss of the embeddings `a`, `b` `[B, D]` of two views of the same images. A scalar.
///
/// # Errors
/// `Shape` unless both have one shape and rows; `Config` for options out of range.
#[track_caller]
pub fn barlow_twins(a: &Tensor, b: &Tensor, o: &BarlowTwins) -> Result<Tensor> {
    barlow_twins_ranks(a, b, o, &Arc::new(Comm::single()))
}

/// The loss of the images of all ranks, from this rank's; the same on every rank.
///
/// # Errors
/// As for [`barlow_twins`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is
/// more than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn barlow_twins_ranks(a: &Tensor, b: &Tensor, o: &BarlowTwins, comm: &Arc<Comm>) -> Result<Tensor> {
    o.check()?;
    let c = cross_correlation(a, b, o.eps, comm)?;
    let [d, _] = c.dims()?;
    let identity = ops::eye(d, c.dtype(), c.device())?;
    // λ + (1 - λ) I.
    let weights = ops::binary_scalar(Binary::Mul, &identity, 1.0 - o.lambda)?;
    let weights = Tensor::constant(ops::binary_scalar(Binary::Add, &weights, o.lambda)?);
    c.sub(&Tensor::constant(identity))?.square()?.mul(&weights)?.sum_all()?.scale(o.scale)
}

/// The correlations `[D, D]` between the dimensions of `a` and those of `b` over the images of all ranks.
///
/// # Errors
/// As for [`barlow_twins_ranks`].
#[track_caller]
pub fn cross_correlation(a: &Tensor, b: &Tensor, eps: f64, comm: &Arc<Comm>) -> Result<Tensor> {
    let batch = batch_of("barlow_twins", [a, b], comm)?;
    let standardised = |z: &Tensor| {
        let rows = Rows::of(z.shape(), batch.first)?;
        let stats = BatchStats::Batch(Some(Arc::clone(comm)));
        Ok(z.batch_norm(None, None, &BatchNorm { eps, rows, stats })?.y)
    };
    sample_products(&standardised(a)?, &standardised(b)?, batch.first, comm)?.scale(1.0 / batch.global as f64)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "barlow_twins",
    doc: "the dimensions of one view must correlate with themselves in the other view and with no other dimension",
    paper: "Zbontar et al. 2021, Barlow Twins: Self-Supervised Learning via Redundancy Reduction, arXiv:2103.03230",
    cross_rank: CrossRank::ReduceStats,
    inputs: &[
        Port::new("a", "[N, D]", "embeddings of the first views"),
        Port::new("b", "[N, D]", "embeddings of the second views, in the same order"),
    ],
    outputs: &[
        Port::new("loss", "[]", "sum over the entries of the correlation matrix; D for constant embeddings"),
        Port::new("correlation", "[D, D]", "the correlations of dimensions of a (rows) with those of b")
            .role(Role::Constant),
    ],
    options: &[
        OptionSpec {
            name: "lambda",
            default: 0.0051,
            allowed: |x| x.is_finite() && x >= 0.0,
            range: "a number of at least 0",
            doc: "weight of what is off the diagonal; 0.0051 for D = 8192",
        },
        OptionSpec {
            name: "scale",
            default: 1.0,
            allowed: |x| x.is_finite() && x > 0.0,
            range: "a positive number",
            doc: "multiplies the loss; 0.1 in recipes of small images",
        },
        OptionSpec {
            name: "eps",
            default: 1e-5,
            allowed: |x| x.is_finite() && x > 0.0,
            range: "a positive number",
            doc: "added to the variance of each dimension",
        },
    ],
    run: |inputs, options| {
        let (a, b) = (&inputs["a"], &inputs["b"]);
        let o = BarlowTwins { lambda: options.get("lambda")?, scale: options.get("scale")?, eps: options.get("eps")? };
        let loss = barlow_twins(a, b, &o)?;
        let c = cross_correlation(&a.detach(), &b.detach(), o.eps, &Arc::new(Comm::single()))?;
        Ok(BTreeMap::from([("loss".to_string(), loss), ("correlation".to_string(), c)]))
    },
    cases,
    oracle,
    facts: &[],
};

/// Embeddings without ties: a dimension without variance has derivatives of the order of eps^(-3/2).
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (g.pick(&[2, 3, 17, 33]), g.dim());
    let inputs = [("a", g.array(&[n, d], Domain::Distinct)?), ("b", g.array(&[n, d], Domain::Distinct)?)];
    let [lambda, scale] = [g.pick(&["0", "0.0051", "0.5"]), g.pick(&["0.1", "1"])];
    let set = [("lambda", lambda), ("scale", scale), ("eps", "0.1")].map(|(k, v)| (k.to_string(), v.to_string()));
    let inputs = inputs.map(|(name, array)| (name.to_string(), array));
    Ok(LossCase { inputs: BTreeMap::from(inputs), options: Options::parse(&SPEC, &set)? })
}

/// The definition in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [n, d] = case.inputs["a"].dims()?;
    let get = |name: &str| case.options.get(name);
    let (lambda, scale, eps) = (get("lambda")?, get("scale")?, get("eps")?);
    let standardised = |name: &str| -> Result<Vec<f64>> {
        let mut z = case.inputs[name].to_vec::<f64>()?;
        for k in 0..d {
            let column = |z: &[f64]| -> Vec<f64> { (0..n).map(|i| z[i * d + k]).collect() };
            let mean = column(&z).iter().sum::<f64>() / n as f64;
            let variance = column(&z).iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n as f64;
            (0..n).for_each(|i| z[i * d + k] = (z[i * d + k] - mean) / (variance + eps).sqrt());
        }
        Ok(z)
    };
    let (a, b) = (standardised("a")?, standardised("b")?);
    let mut loss = 0.0;
    for i in 0..d {
        for j in 0..d {
            let c = (0..n).map(|image| a[image * d + i] * b[image * d + j]).sum::<f64>() / n as f64;
            loss += if i == j { (1.0 - c) * (1.0 - c) } else { lambda * c * c };
        }
    }
    Ok(scale * loss)
}
