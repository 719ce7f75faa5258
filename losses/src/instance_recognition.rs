//! Instance recognition by the non-parametric softmax (Wu, Xiong, Yu, Lin 2018, arXiv:1805.01978, equation 2).
//!
//! For the embedding v_i of image i and a memory bank with a row m_j for each of the N images, all unit vectors:
//!
//! ```text
//! l_i = -ln [ exp(m_i·v_i / T) / Σ_j exp(m_j·v_i / T) ]     L = mean over the batch
//! ```
//!
//! The sum is over the whole bank, without the noise-contrastive approximation of the paper; the logits are never held.
//! The embeddings alone are differentiated.

use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, is_temperature, row_dots, unit};
use crate::softmax_terms::{batch_mean, check_shape, check_width, log_sum_over};
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use selfsame_autograd::ops::Excluded;
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`instance_recognition`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InstanceRecognition {
    /// T, 0.07.
    pub temperature: f64,
}

impl Default for InstanceRecognition {
    fn default() -> InstanceRecognition {
        InstanceRecognition { temperature: 0.07 }
    }
}

/// The loss of embeddings `v` `[n, D]` of the images `images` `[n]` i64 against `bank` `[N, D]`. A scalar. All are
/// normalised here. No gradient goes to the bank.
///
/// # Errors
/// `Shape` unless shapes fit and images are below N; `DType` unless they are i64; `Config` for a temperature that is not
/// positive.
#[track_caller]
pub fn instance_recognition(v: &Tensor, bank: &Tensor, images: &Array, o: &InstanceRecognition) -> Result<Tensor> {
    instance_recognition_ranks(v, bank, images, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's embeddings and images; every rank holds the same bank. See
/// [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`instance_recognition`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and
/// there is more than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn instance_recognition_ranks(
    v: &Tensor,
    bank: &Tensor,
    images: &Array,
    o: &InstanceRecognition,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    check_temperature("instance_recognition", o.temperature)?;
    check_width("instance_recognition", v, "bank", bank)?;
    let batch = Batch::of_pairs("instance_recognition", v, v, comm)?;
    check_shape("instance_recognition", "images", images, &[batch.local])?;
    let (v, bank) = (unit(v)?, unit(&bank.detach())?);
    let own = Tensor::constant(ops::index_select(bank.array(), 0, images)?);
    let others = log_sum_over(&v, &bank, o.temperature, Excluded::Own(images.clone()), comm)?;
    let positive = row_dots(&v, &own)?.scale(1.0 / o.temperature)?;
    batch_mean(&others.sub(&positive)?.softplus()?, &batch, comm)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "instance_recognition",
    doc: "each image must pick its own row out of a memory bank of all images",
    paper: "Wu et al. 2018, Unsupervised Feature Learning via Non-Parametric Instance Discrimination, arXiv:1805.01978",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("v", "[n, D]", "embeddings"),
        Port::new("bank", "[N, D]", "a row for each image of the data set").role(Role::Constant),
        Port::new("images", "[n]", "the image of each embedding: its row of the bank").role(Role::Labels),
    ],
    outputs: &[Port::new("loss", "[]", "mean over embeddings; ln N where all rows are equally similar")],
    options: &[OptionSpec {
        name: "temperature",
        default: 0.07,
        allowed: is_temperature,
        range: TEMPERATURE_RANGE,
        doc: "divides the cosines; lower weighs hard negatives more",
    }],
    run: |inputs, options| {
        let o = InstanceRecognition { temperature: options.get("temperature")? };
        let loss = instance_recognition(&inputs["v"], &inputs["bank"], inputs["images"].array(), &o)?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[Fact {
        what: "ln N: every row of a bank of as many images as the batch equally similar",
        value: |images, _| Real::log(images as f64),
    }],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d, rows) = (g.dim(), 1 + g.dim(), g.pick(&[1, 5, 33]));
    let inputs = BTreeMap::from([
        ("v".to_string(), g.array(&[n, d], Domain::Signed(0.5, 1.5))?),
        ("bank".to_string(), g.array(&[rows, d], Domain::Signed(0.5, 1.5))?),
        ("images".to_string(), g.indices(&[n], rows)?),
    ]);
    let temperature = g.pick(&["0.2", "0.5", "1.0"]).to_string();
    let options = Options::parse(&SPEC, &[("temperature".to_string(), temperature)])?;
    Ok(LossCase { inputs, options })
}

/// Equation 2 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let (v, bank) = (case.inputs["v"].to_vec::<f64>()?, case.inputs["bank"].to_vec::<f64>()?);
    let (images, t) = (case.inputs["images"].to_vec::<i64>()?, case.options.get("temperature")?);
    let [n, d] = case.inputs["v"].dims()?;
    let mut sum = 0.0;
    for (v, image) in v.chunks(d).zip(images) {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let weight = |m: &[f64]| Real::exp(dot(m, v) / (dot(m, m).sqrt() * dot(v, v).sqrt()) / t);
        let weights: Vec<f64> = bank.chunks(d).map(weight).collect();
        sum -= Real::log(weights[image as usize] / weights.iter().sum::<f64>());
    }
    Ok(sum / n as f64)
}
