//! Cross-entropy over two sides, the loss of CLIP (Radford et al. 2021, arXiv:2103.00020, figure 3).
//!
//! For unit vectors u_i, v_j of the two sides and x_ij = s u_i·v_j, s = 1 / temperature:
//!
//! ```text
//! r_i = ln Σ_j exp(x_ij)        c_j = ln Σ_i exp(x_ij)
//! L = 1/2 [ mean_i (r_i - x_ii) + mean_i (c_i - x_ii) ]
//! ```
//!
//! CLIP learns ln s, from ln(1 / 0.07), and clips s at 100: pass `exp` of the parameter. The matrix of all x is never
//! held, and value and gradients have the same bits for any number of ranks.

use crate::batch::{Batch, Coefficient, TEMPERATURE_RANGE, all_ids, is_temperature, per_image, row_dots, unit};
use crate::sample_totals;
use crate::softmax_terms::own_places;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::temperature::{SCALE, scale_case, scale_of};
use selfsame_autograd::ops::{Excluded, Pairs};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`clip`].
#[derive(Clone)]
pub struct Clip {
    /// s, what multiplies the cosines: 1 / temperature.
    pub scale: Coefficient,
}

impl Default for Clip {
    /// The paper's start of training: temperature 0.07.
    fn default() -> Clip {
        Clip { scale: Coefficient::Fixed(1.0 / 0.07) }
    }
}

/// The loss of `a` and `b` `[N, D]`, whose rows i are two sides of one thing (an image and its caption). A scalar.
///
/// # Errors
/// `Shape` unless both have one shape and rows; `Config` for a scale that is not positive; as for the learned
/// [`Coefficient`].
#[track_caller]
pub fn clip(a: &Tensor, b: &Tensor, o: &Clip) -> Result<Tensor> {
    clip_ranks(a, b, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's rows of both sides. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`clip`]; `Numerics` when ranks differ in rows, or when these are no multiple of 16 and there is more than one
/// rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn clip_ranks(a: &Tensor, b: &Tensor, o: &Clip, comm: &Arc<Comm>) -> Result<Tensor> {
    contrast(a, b, None, o, comm)
}

/// [`clip_ranks`] without known false negatives: `ids` `[n]` i64 says which pairs are of the same thing, on one rank or
/// on different ones (an image with several captions, a caption of several images, duplicates). Rows of another pair
/// with an equal id are left out of both denominators; the partner stays.
///
/// # Errors
/// As for [`clip_ranks`]; `Shape` or `DType` unless `ids` is `[n]` i64.
#[track_caller]
pub fn clip_masked(a: &Tensor, b: &Tensor, ids: &Array, o: &Clip, comm: &Arc<Comm>) -> Result<Tensor> {
    contrast(a, b, Some(ids), o, comm)
}

fn contrast(a: &Tensor, b: &Tensor, ids: Option<&Array>, o: &Clip, comm: &Arc<Comm>) -> Result<Tensor> {
    let batch = Batch::of_pairs("clip", a, b, comm)?;
    let scale = o.scale.tensor("clip", a)?;
    let (u, v) = (unit(a)?, unit(b)?);
    let excluded = ids.map_or(Ok(Excluded::None), |ids| duplicates(ids, &u, &batch, comm))?;
    let pairs = Pairs { excluded, comm: Arc::clone(comm), ..Pairs::default() };
    let [rows, columns] = u.pair_log_sum_exp_both(&v, &scale, Some(1.0), &pairs)?;
    let positive = row_dots(&u, &v)?.mul(&per_image(&scale, &batch, comm)?)?; // [n, 1]
    let l = Tensor::stack(&[&rows.value, &columns.value], 1)?.sub(&positive)?; // [n, 2]
    sample_totals(&l, batch.first, comm)?.sum_all()?.scale(1.0 / (2 * batch.global) as f64)
}

/// Pairs of rows with equal ids, but for partners.
fn duplicates(ids: &Array, like: &Tensor, batch: &Batch, comm: &Comm) -> Result<Excluded> {
    let all = all_ids("clip", ids, batch, comm)?;
    Ok(Excluded::SameKey {
        rows: ids.clone(),
        columns: Array::from_slice(&all, &[all.len()], like.device())?,
        kept: Some(own_places(batch, like)?),
    })
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "clip",
    doc: "each row of one side must pick its partner out of all rows of the other side, both ways",
    paper: "Radford et al. 2021, Learning Transferable Visual Models From Natural Language Supervision, arXiv:2103.00020",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("a", "[N, D]", "embeddings of one side"),
        Port::new("b", "[N, D]", "embeddings of the other side; rows i belong together"),
        SCALE,
        Port::new("ids", "[N]", "things; rows of another pair with an equal id are no negatives")
            .role(Role::Labels)
            .optional(),
    ],
    outputs: &[Port::new("loss", "[]", "mean over both directions")],
    options: &[OptionSpec {
        name: "temperature",
        default: 0.07,
        allowed: is_temperature,
        range: TEMPERATURE_RANGE,
        doc: "divides the cosines where no 'scale' is given. 0.07 at the start of training, at least 0.01",
    }],
    run: |inputs, options| {
        let o = Clip { scale: Coefficient::given(inputs.get(SCALE.name), 1.0 / options.get("temperature")?) };
        let ids = inputs.get("ids").map(Tensor::array);
        let loss = contrast(&inputs["a"], &inputs["b"], ids, &o, &Arc::new(Comm::single()))?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[
        Fact {
            what: "ln N: every pair equally similar (collapse, or no learning yet)",
            value: |images, _| Real::log(images as f64),
        },
        Fact {
            what: "ln(1 + (N-1) exp(-1/τ)): partners equal, all others orthogonal",
            value: |images, options| match options.get("temperature") {
                Ok(t) => Real::log(1.0 + (images as f64 - 1.0) * Real::exp(-1.0 / t)),
                Err(_) => f64::NAN,
            },
        },
    ],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (g.dim(), 1 + g.dim());
    let mut inputs = BTreeMap::new();
    for side in ["a", "b"] {
        inputs.insert(side.to_string(), g.array(&[n, d], Domain::Signed(0.5, 1.5))?);
    }
    scale_case(g, &mut inputs)?;
    let temperature = g.pick(&["0.2", "0.5", "1.0"]).to_string();
    let options = Options::parse(&SPEC, &[("temperature".to_string(), temperature)])?;
    if g.one_in(2) {
        inputs.insert("ids".to_string(), g.indices(&[n], 4)?);
    }
    Ok(LossCase { inputs, options })
}

/// Figure 3 in scalar loops, over the candidates that are no false negatives.
fn oracle(case: &LossCase) -> Result<f64> {
    let [n, d] = case.inputs["a"].dims()?;
    let (a, b) = (case.inputs["a"].to_vec::<f64>()?, case.inputs["b"].to_vec::<f64>()?);
    let s = scale_of(case)?;
    let ids = match case.inputs.get("ids") {
        Some(ids) => ids.to_vec::<i64>()?,
        None => (0..n as i64).collect(),
    };
    let norm = |x: &[f64], i: usize| (0..d).map(|k| x[i * d + k] * x[i * d + k]).sum::<f64>().sqrt();
    let logit =
        |i: usize, j: usize| s * (0..d).map(|k| a[i * d + k] * b[j * d + k]).sum::<f64>() / (norm(&a, i) * norm(&b, j));
    let entropy = |i: usize| {
        let candidates = || (0..n).filter(|j| *j == i || ids[*j] != ids[i]);
        let rows: f64 = candidates().map(|j| Real::exp(logit(i, j))).sum();
        let columns: f64 = candidates().map(|j| Real::exp(logit(j, i))).sum();
        -Real::log(Real::exp(logit(i, i)) / rows) - Real::log(Real::exp(logit(i, i)) / columns)
    };
    Ok((0..n).map(entropy).sum::<f64>() / (2.0 * n as f64))
}
