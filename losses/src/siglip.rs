//! The sigmoid loss of SigLIP (Zhai, Mustafa, Kolesnikov, Beyer 2023, arXiv:2303.15343, equation of section 3.2).
//!
//! For unit vectors u_i, v_j of the two sides, x_ij = t u_i·v_j + b and y_ij = 1 where i = j, else -1:
//!
//! ```text
//! L = -1/N Σ_ij ln sigmoid(y_ij x_ij) = 1/N Σ_i [ Σ_j softplus(x_ij) - x_ii ]
//! ```
//!
//! The second form needs no labels, since softplus(-x) = softplus(x) - x. Every pair is a decision of its own: nothing
//! is normalised over a row. The paper learns b and ln t, from b = -10 and t = 10: pass `exp` of the parameter. The
//! matrix of all x is never held, and value and gradients have the same bits for any number of ranks.

use crate::batch::{Batch, Coefficient, TEMPERATURE_RANGE, is_temperature, per_image, row_dots, unit};
use crate::sample_totals;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port};
use selfsame_autograd::ops::Pairs;
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`siglip`].
#[derive(Clone)]
pub struct SigLip {
    /// t, what multiplies the cosines.
    pub scale: Coefficient,
    /// b, what is added: it starts very negative, as all pairs but N of N² are negatives.
    pub bias: Coefficient,
}

impl Default for SigLip {
    /// The paper's start of training: t = 10, b = -10.
    fn default() -> SigLip {
        SigLip { scale: Coefficient::Fixed(10.0), bias: Coefficient::Fixed(-10.0) }
    }
}

/// The loss of `a` and `b` `[N, D]`, whose rows i are two sides of one thing (an image and its caption). A scalar.
///
/// # Errors
/// `Shape` unless both have one shape and rows; `Config` for a scale that is not positive; as for the learned
/// [`Coefficient`].
#[track_caller]
pub fn siglip(a: &Tensor, b: &Tensor, o: &SigLip) -> Result<Tensor> {
    siglip_ranks(a, b, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's rows of both sides. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`siglip`]; `Numerics` when ranks differ in rows, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn siglip_ranks(a: &Tensor, b: &Tensor, o: &SigLip, comm: &Arc<Comm>) -> Result<Tensor> {
    let batch = Batch::of_pairs("siglip", a, b, comm)?;
    let (scale, bias) = (o.scale.tensor("siglip", a)?, o.bias.tensor("siglip", a)?);
    let (u, v) = (unit(a)?, unit(b)?);
    let pairs = Pairs { comm: Arc::clone(comm), ..Pairs::default() };
    let sums = u.pair_softplus_sum(&v, &scale, &bias, &pairs)?.value.reshape(&[batch.local, 1])?;
    let each = |number| per_image(number, &batch, comm);
    let positive = row_dots(&u, &v)?.mul(&each(&scale)?)?.add(&each(&bias)?)?; // [n, 1]
    sample_totals(&sums.sub(&positive)?, batch.first, comm)?.sum_all()?.scale(1.0 / batch.global as f64)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "siglip",
    doc: "each pair of rows of two sides must be told to be partners or not, one by one",
    paper: "Zhai et al. 2023, Sigmoid Loss for Language Image Pre-Training, arXiv:2303.15343",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("a", "[N, D]", "embeddings of one side"),
        Port::new("b", "[N, D]", "embeddings of the other side; rows i belong together"),
        Port::new("scale", "[]", "in place of the option, with a gradient").optional(),
        Port::new("bias", "[]", "in place of the option, with a gradient").optional(),
    ],
    outputs: &[Port::new("loss", "[]", "sum over all pairs, over N")],
    options: &[
        OptionSpec {
            name: "scale",
            default: 10.0,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "multiplies the cosines: 1 / temperature. 10 at the start of training",
        },
        OptionSpec {
            name: "bias",
            default: -10.0,
            allowed: f64::is_finite,
            range: "a number",
            doc: "added to the logits; -10 at the start of training makes all pairs negatives",
        },
    ],
    run: |inputs, options| {
        let number = |name| options.get(name).map(|value| Coefficient::given(inputs.get(name), value));
        let o = SigLip { scale: number("scale")?, bias: number("bias")? };
        Ok(BTreeMap::from([("loss".to_string(), siglip(&inputs["a"], &inputs["b"], &o)?)]))
    },
    cases,
    oracle,
    facts: &[
        Fact {
            what: "N softplus(t + b) - (t + b): all embeddings equal (collapse)",
            value: |images, options| match (options.get("scale"), options.get("bias")) {
                (Ok(t), Ok(b)) => images as f64 * softplus(t + b) - (t + b),
                _ => f64::NAN,
            },
        },
        Fact {
            what: "softplus(-t - b) + (N-1) softplus(b): partners equal, all others orthogonal",
            value: |images, options| match (options.get("scale"), options.get("bias")) {
                (Ok(t), Ok(b)) => softplus(-t - b) + (images as f64 - 1.0) * softplus(b),
                _ => f64::NAN,
            },
        },
    ],
};

fn softplus(x: f64) -> f64 {
    x.max(0.0) + Real::log(1.0 + Real::exp(-x.abs()))
}

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (g.dim(), 1 + g.dim());
    let mut inputs = BTreeMap::new();
    for side in ["a", "b"] {
        inputs.insert(side.to_string(), g.array(&[n, d], Domain::Signed(0.5, 1.5))?);
    }
    for (number, range) in [("scale", Domain::Range(0.5, 5.0)), ("bias", Domain::Range(-10.0, 3.0))] {
        if g.one_in(2) {
            inputs.insert(number.to_string(), g.array(&[], range)?);
        }
    }
    let set = [("scale", g.pick(&["1", "4"])), ("bias", g.pick(&["-10", "0"]))];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs, options })
}

/// Algorithm 1 in scalar loops, with its labels.
fn oracle(case: &LossCase) -> Result<f64> {
    let [n, d] = case.inputs["a"].dims()?;
    let (a, b) = (case.inputs["a"].to_vec::<f64>()?, case.inputs["b"].to_vec::<f64>()?);
    let number = |name: &str| match case.inputs.get(name) {
        Some(number) => number.item::<f64>(),
        None => case.options.get(name),
    };
    let (t, bias) = (number("scale")?, number("bias")?);
    let norm = |x: &[f64], i: usize| (0..d).map(|k| x[i * d + k] * x[i * d + k]).sum::<f64>().sqrt();
    let mut sum = 0.0;
    for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
        let cosine = (0..d).map(|k| a[i * d + k] * b[j * d + k]).sum::<f64>() / (norm(&a, i) * norm(&b, j));
        let label = if i == j { 1.0 } else { -1.0 };
        sum -= Real::log(1.0 / (1.0 + Real::exp(-label * (t * cosine + bias))));
    }
    Ok(sum / n as f64)
}
