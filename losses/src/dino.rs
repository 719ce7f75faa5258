//! Self-distillation with centring and sharpening, the loss of DINO (Caron et al. 2021, arXiv:2104.14294, Algorithm 1).
//!
//! For the student's outputs s_v of every crop and the teacher's t_q of the large crops, K wide, and a centre c:
//!
//! ```text
//! p_t = softmax((t - c) / τ_t)     p_s = softmax(s / τ_s)
//! L   = mean over pairs (q, v), v ≠ q, and images of  - Σ_k p_t^q[k] ln p_s^v[k]
//! ```
//!
//! No gradient goes to teacher and centre. The loss is the mean entropy of p_t plus a divergence: entropy at ln K is one
//! collapse (all outputs uniform), at 0 with the same argmax for all images the other.

use crate::batch::{TEMPERATURE_RANGE, check_temperature, constant, is_temperature};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::views::{mean_entropy, split_views, swapped_cross_entropy};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The teacher's distributions softmax((t - c) / τ_t) of its outputs `teacher` `[n, K]` and the centre `[K]`. Untracked.
///
/// # Errors
/// `Shape` unless the centre has K elements; `Config` for a temperature that is not positive.
pub fn centred_targets(teacher: &Array, centre: &Array, temperature: f64) -> Result<Array> {
    check_temperature("dino", temperature)?;
    let [_, k] = teacher.dims()?;
    if centre.shape() != [k] {
        let got = format!("centre {:?}, teacher {:?}", centre.shape(), teacher.shape());
        return Err(Error::new(ErrorKind::Shape, "dino", got).expected(format!("[{k}], one for each output")));
    }
    ops::softmax(&ops::binary_scalar(ops::Binary::Mul, &ops::sub(teacher, centre)?, 1.0 / temperature)?)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "dino",
    doc: "each crop must give the centred and sharpened outputs that an averaged network gives for the other crops",
    paper: "Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers, arXiv:2104.14294",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("student", "[V, N, K]", "the student's outputs for every crop, large ones first"),
        Port::new("teacher", "[A, N, K]", "the teacher's for the large crops").role(Role::Constant),
        Port::new("centre", "[K]", "taken off the teacher's outputs; 0 when missing").role(Role::Constant).optional(),
    ],
    outputs: &[
        Port::new("loss", "[]", "mean over images and pairs of a large crop and another one"),
        Port::new("entropy", "[]", "mean entropy of the teacher's distributions: ln K or 0 say collapse")
            .role(Role::Constant),
    ],
    options: &[
        OptionSpec {
            name: "student_temperature",
            default: 0.1,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the student's outputs",
        },
        OptionSpec {
            name: "teacher_temperature",
            default: 0.04,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the teacher's outputs, below the student's to sharpen; 0.04, to 0.07 after a warm-up",
        },
    ],
    run: |inputs, options| {
        let comm = Arc::new(Comm::single());
        let teacher = &inputs["teacher"];
        let [_, _, k] = teacher.dims()?;
        let centre = match inputs.get("centre") {
            Some(centre) => centre.array().clone(),
            None => Array::zeros(&[k], teacher.dtype(), teacher.device())?,
        };
        let temperature = options.get("teacher_temperature")?;
        let targets = split_views(teacher)?
            .into_iter()
            .map(|teacher| centred_targets(teacher.array(), &centre, temperature).map(Tensor::constant));
        let targets = targets.collect::<Result<Vec<_>>>()?;
        let student = split_views(&inputs["student"])?;
        let loss = swapped_cross_entropy(&student, &targets, options.get("student_temperature")?, &comm)?;
        let entropy = constant(mean_entropy(&targets, &comm)?, &loss)?;
        Ok(BTreeMap::from([("loss".to_string(), loss), ("entropy".to_string(), entropy)]))
    },
    cases,
    oracle,
    facts: &[],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, k) = (g.dim(), g.dim());
    let (large, crops) = (g.pick(&[1, 2]), g.pick(&[2, 3, 4]));
    let mut inputs = BTreeMap::from([
        ("student".to_string(), g.array(&[crops, n, k], Domain::Range(-1.0, 1.0))?),
        ("teacher".to_string(), g.array(&[large, n, k], Domain::Range(-1.0, 1.0))?),
    ]);
    if g.one_in(2) {
        inputs.insert("centre".to_string(), g.array(&[k], Domain::Range(-0.5, 0.5))?);
    }
    let set = [("student_temperature", g.pick(&["0.1", "1"])), ("teacher_temperature", g.pick(&["0.04", "0.5"]))];
    let set = set.map(|(key, value)| (key.to_string(), value.to_string()));
    Ok(LossCase { inputs, options: Options::parse(&SPEC, &set)? })
}

/// Algorithm 1 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let ([crops, n, k], [large, _, _]) = (case.inputs["student"].dims()?, case.inputs["teacher"].dims()?);
    let (student, teacher) = (case.inputs["student"].to_vec::<f64>()?, case.inputs["teacher"].to_vec::<f64>()?);
    let (tau_s, tau_t) = (case.options.get("student_temperature")?, case.options.get("teacher_temperature")?);
    let centre = case.inputs.get("centre").map_or(Ok(vec![0.0; k]), |centre| centre.to_vec::<f64>())?;
    let log_softmax = |logits: Vec<f64>| {
        let normaliser = Real::log(logits.iter().map(|x| Real::exp(*x)).sum::<f64>());
        logits.into_iter().map(move |x| x - normaliser)
    };
    let (mut sum, mut pairs) = (0.0, 0);
    for q in 0..large {
        for v in (0..crops).filter(|v| *v != q) {
            pairs += 1;
            for i in 0..n {
                let row = |x: &[f64], view: usize| x[(view * n + i) * k..][..k].to_vec();
                let target = row(&teacher, q).into_iter().zip(&centre).map(|(t, c)| (t - c) / tau_t).collect();
                let prediction = row(&student, v).into_iter().map(|s| s / tau_s).collect();
                let terms = log_softmax(target).zip(log_softmax(prediction));
                sum -= terms.map(|(t, s)| Real::exp(t) * s).sum::<f64>();
            }
        }
    }
    Ok(sum / (pairs * n) as f64)
}
