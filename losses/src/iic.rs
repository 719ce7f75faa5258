//! Mutual information of paired assignments, the loss of invariant information clustering (Ji, Henriques, Vedaldi 2019,
//! arXiv:1807.06653, equation 3).
//!
//! For the probabilities x, y of N images and their transformed partners over C clusters:
//!
//! ```text
//! P = Σ_i x_i y_iᵀ,  P ← (P + Pᵀ) / 2,  P ← P / ΣP          P_c = Σ_d P_cd
//! L = - Σ_cd P_cd ( ln P_cd - λ ln P_c - λ ln P_d )
//! ```
//!
//! With λ = 1 it is minus the mutual information; a larger λ weighs the entropy of the marginals, equal use, higher.
//! P is that of the images of all ranks. What the logarithms see is at least 2.2e-16, entries of P itself included;
//! entries that are raised to it get no gradient.

use crate::sample_products;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port};
use crate::views::batch_of;
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The smallest probability that the logarithms see.
const LEAST: f64 = f64::EPSILON;

/// The loss of the probabilities `x` and `y` `[N, C]` of images and of their partners, with the weight `lambda` of the
/// marginals. A scalar; in [-ln C, 0] for `lambda` 1. The arguments are probabilities, not logits.
///
/// # Errors
/// `Shape` unless both have one shape and rows; `Config` for a `lambda` that is not positive.
#[track_caller]
pub fn iic(x: &Tensor, y: &Tensor, lambda: f64) -> Result<Tensor> {
    iic_ranks(x, std::slice::from_ref(y), lambda, &Arc::new(Comm::single()))
}

/// The loss of the pairs of all ranks, from this rank's: each image of `x` with its partner in each of `partners`, `[n, C]`
/// all. The same on every rank, and not the mean of the ranks' losses.
///
/// # Errors
/// As for [`iic`], and without partners; `Numerics` when ranks differ in pairs, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn iic_ranks(x: &Tensor, partners: &[Tensor], lambda: f64, comm: &Arc<Comm>) -> Result<Tensor> {
    if !is_weight(lambda) {
        return Err(Error::new(ErrorKind::Config, "iic", format!("lambda {lambda}")).expected(WEIGHTS));
    }
    let Some((first, others)) = partners.split_first() else {
        return Err(Error::new(ErrorKind::Shape, "iic", "no partners").expected("at least one for each image"));
    };
    let batch = batch_of("iic", partners.iter().chain([x]), comm)?;
    let joint = |y: &Tensor| sample_products(x, y, batch.first, comm);
    let p = others.iter().try_fold(joint(first)?, |p, y| p.add(&joint(y)?))?;
    let p = p.add(&p.transpose(0, 1)?)?;
    let p = p.div(&p.sum_all()?)?;
    let log_marginal = p.sum(&[1], true)?.clamp(LEAST, f64::MAX)?.log()?; // [C, 1]; symmetric: that of rows and of columns
    let marginals = log_marginal.add(&log_marginal.transpose(0, 1)?)?.scale(lambda)?;
    let p = p.clamp(LEAST, f64::MAX)?;
    p.mul(&marginals.sub(&p.log()?)?)?.sum_all()
}

fn is_weight(lambda: f64) -> bool {
    lambda.is_finite() && lambda > 0.0
}

const WEIGHTS: &str = "a positive number";

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "iic",
    doc: "clusters of images must tell as much as they can of the clusters of the images' transformed partners",
    paper: "Ji et al. 2019, Invariant Information Clustering for Unsupervised Image Classification and Segmentation, \
            arXiv:1807.06653",
    cross_rank: CrossRank::ReduceStats,
    inputs: &[
        Port::new("x", "[N, C]", "probabilities of each image over clusters, not logits"),
        Port::new("y", "[N, C]", "probabilities of its transformed partner"),
    ],
    outputs: &[Port::new("loss", "[]", "minus the mutual information for lambda 1: in [-ln C, 0]")],
    options: &[OptionSpec {
        name: "lambda",
        default: 1.0,
        allowed: is_weight,
        range: WEIGHTS,
        doc: "weight of the entropy of the marginals; above 1 presses for clusters of equal size",
    }],
    run: |inputs, options| {
        let loss = iic(&inputs["x"], &inputs["y"], options.get("lambda")?)?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[Fact { what: "0: one cluster for everything, or uniform outputs", value: |_, _| 0.0 }],
};

/// Positive outputs: the loss takes out their sum.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, c) = (g.dim(), g.dim());
    let inputs = [("x", g.array(&[n, c], Domain::Range(0.1, 1.0))?), ("y", g.array(&[n, c], Domain::Range(0.1, 1.0))?)];
    let options = Options::parse(&SPEC, &[("lambda".to_string(), g.pick(&["1", "1.5"]).to_string())])?;
    Ok(LossCase { inputs: inputs.map(|(name, array)| (name.to_string(), array)).into(), options })
}

/// The definition in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [n, c] = case.inputs["x"].dims()?;
    let (x, y) = (case.inputs["x"].to_vec::<f64>()?, case.inputs["y"].to_vec::<f64>()?);
    let lambda = case.options.get("lambda")?;
    let joint = |a: usize, b: usize| (0..n).map(|i| x[i * c + a] * y[i * c + b]).sum::<f64>() / n as f64;
    let symmetric = |a: usize, b: usize| (joint(a, b) + joint(b, a)) / 2.0;
    let total: f64 = (0..c).map(|a| (0..c).map(|b| symmetric(a, b)).sum::<f64>()).sum();
    let p = |a: usize, b: usize| symmetric(a, b) / total;
    let marginal = |a: usize| (0..c).map(|b| p(a, b)).sum::<f64>();
    let term = |a, b| p(a, b) * (Real::log(p(a, b)) - lambda * (Real::log(marginal(a)) + Real::log(marginal(b))));
    Ok(-(0..c).map(|a| (0..c).map(|b| term(a, b)).sum::<f64>()).sum::<f64>())
}
