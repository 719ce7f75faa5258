//! Regression of a teacher's projections, the loss of BYOL (Grill et al. 2020, arXiv:2006.07733, equation 2).
//!
//! For predictions p of the online network and projections z of its averaged copy, both of two views:
//!
//! ```text
//! l(p, z) = || p/|p| - z/|z| ||² = 2 - 2 cos(p, z)
//! L = mean over images of [ l(p of view 1, z of view 2) + l(p of view 2, z of view 1) ]
//! ```
//!
//! The directions are added, not averaged: the loss lies in [0, 8] (other code halves it). No gradient goes to z.

use crate::batch::unit;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, Options, Port, Role};
use crate::views::{batch_of, mean};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Error, ErrorKind, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The loss of predictions `p` and target projections `z` of two views of the same images, `[n, D]` each. A scalar.
/// All are normalised here. No gradient goes to `z`, tracked or not.
///
/// ```
/// use selfsame_autograd::Tensor;
/// use selfsame_engine::{Array, Device};
/// use selfsame_losses::byol;
/// # fn main() -> selfsame_engine::Result<()> {
/// let device = Device::cpu_with(1)?;
/// let row = |x: [f32; 2]| Array::from_slice(&x, &[1, 2], &device);
/// let (p, z) = (Tensor::leaf(row([3.0, 0.0])?), Tensor::constant(row([0.0, 2.0])?));
/// let loss = byol([&p, &p], [&z, &z])?;
/// assert_eq!(loss.array().item::<f32>()?, 4.0); // orthogonal: 2 in each direction
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// `Shape` unless all four have one shape and rows.
#[track_caller]
pub fn byol(p: [&Tensor; 2], z: [&Tensor; 2]) -> Result<Tensor> {
    byol_ranks(p, z, &Arc::new(Comm::single()))
}

/// The loss of the images of all ranks, from this rank's; the same on every rank.
///
/// # Errors
/// As for [`byol`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn byol_ranks(p: [&Tensor; 2], z: [&Tensor; 2], comm: &Arc<Comm>) -> Result<Tensor> {
    let batch = batch_of("byol", p.into_iter().chain(z), comm)?;
    let directions = [distances(p[0], z[1])?, distances(p[1], z[0])?];
    mean(&Tensor::concat(&[&directions[0], &directions[1]], 1)?, &batch, comm)?.scale(2.0)
}

/// The mean over rows of || p/|p| - z/|z| ||², one direction of [`byol`]: in [0, 4]. No gradient goes to `z`.
///
/// # Errors
/// As for [`byol_ranks`].
#[track_caller]
pub fn cosine_regression(p: &Tensor, z: &Tensor, comm: &Arc<Comm>) -> Result<Tensor> {
    let batch = batch_of("cosine regression", [p, z], comm)?;
    mean(&distances(p, z)?, &batch, comm)
}

/// The squared distance of each row of `p` `[n, D]` from that row of `z`, at length 1: `[n, 1]`. Exactly 0 where both
/// are the same.
fn distances(p: &Tensor, z: &Tensor) -> Result<Tensor> {
    unit(p)?.sub(&unit(&z.detach())?)?.square()?.sum(&[1], true)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "byol",
    doc: "the prediction from one view must point where the teacher's projection of the other view does",
    paper: "Grill et al. 2020, Bootstrap Your Own Latent, arXiv:2006.07733",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("p", "[2N, D]", "predictions; rows i and i+N are two views of image i"),
        Port::new("z", "[2N, D]", "the teacher's projections, in the same order").role(Role::Constant),
    ],
    outputs: &[Port::new("loss", "[]", "mean over images of both directions' squared distances, in [0, 8]")],
    options: &[],
    run: |inputs, _| {
        let halves = |name: &str| -> Result<[Tensor; 2]> {
            let [rows, _] = inputs[name].dims()?;
            if rows % 2 != 0 {
                let got = format!("{name} {:?}", inputs[name].shape());
                return Err(Error::new(ErrorKind::Shape, "byol", got).expected("[2N, D]: two views of N images"));
            }
            Ok([inputs[name].slice(0, 0, rows / 2)?, inputs[name].slice(0, rows / 2, rows)?])
        };
        let ([p0, p1], [z0, z1]) = (halves("p")?, halves("z")?);
        Ok(BTreeMap::from([("loss".to_string(), byol([&p0, &p1], [&z0, &z1])?)]))
    },
    cases,
    oracle,
    facts: &[
        Fact { what: "4: predictions orthogonal to their targets, as at random", value: |_, _| 4.0 },
        Fact { what: "0: every prediction is its target; of a collapsed encoder too", value: |_, _| 0.0 },
    ],
};

/// Embeddings of lengths around 1 and above, so that differences stay far from the kink at length 0.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (g.dim(), 1 + g.dim());
    let mut inputs = BTreeMap::new();
    for name in ["p", "z"] {
        inputs.insert(name.to_string(), g.array(&[2 * n, d], Domain::Signed(0.5, 1.5))?);
    }
    Ok(LossCase { inputs, options: Options::parse(&SPEC, &[])? })
}

/// 2 - 2 cos over both directions, in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [rows, d] = case.inputs["p"].dims()?;
    let (p, z) = (case.inputs["p"].to_vec::<f64>()?, case.inputs["z"].to_vec::<f64>()?);
    let n = rows / 2;
    let dot = |a: &[f64], i: usize, b: &[f64], j: usize| (0..d).map(|k| a[i * d + k] * b[j * d + k]).sum::<f64>();
    let l = |i: usize, j: usize| 2.0 - 2.0 * dot(&p, i, &z, j) / (dot(&p, i, &p, i) * dot(&z, j, &z, j)).sqrt();
    Ok((0..n).map(|i| l(i, i + n) + l(i + n, i)).sum::<f64>() / n as f64)
}
