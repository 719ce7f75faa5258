//! Mutual-information regularised assignment, the labels and loss of MIRA (Lee, Choi, Kim, Chung 2022,
//! arXiv:2211.02284, equations 5 and 9).
//!
//! For a teacher's logits k_i over K prototypes and β in [0, 1), pseudo-labels W minimise
//!
//! ```text
//! mean_i KL(W_i || p_i) - β I(W)        p_i = softmax(k_i / τ_t),  I(W) = H(mean_i W_i) - mean_i H(W_i)
//! ```
//!
//! so they stay close to the teacher and tell as much of the image as they can. The optimum comes from a fixed-point
//! iteration over one number per prototype, with s_i = softmax(k_i / (τ_t (1-β))), γ = β / (1-β):
//!
//! ```text
//! v_j ← ( mean_i s_ij )^(1-β), then 30 times   v_j ← ( mean_i s_ij / Σ_l v_l^-γ s_il )^(1-β)
//! W_ij = v_j^-γ s_ij / Σ_l v_l^-γ s_il
//! ```
//!
//! Means are over the images of all ranks. Computed with ln v and ln s: v^-γ is v^-3 at β = 0.75. The error shrinks by β
//! each iteration. The loss is the swapped cross-entropy of the student against W, which gets no gradient.

use crate::batch::{TEMPERATURE_RANGE, check_temperature, is_temperature};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::views::{batch_of, split_views, swapped_cross_entropy, total};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::ops::{self, Binary, Unary};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`informative_labels`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mira {
    /// τ_t, the teacher's temperature.
    pub temperature: f64,
    /// β, the weight of mutual information; 0 leaves the teacher's probabilities as they are.
    pub beta: f64,
    /// Fixed-point iterations after the first value.
    pub iterations: usize,
}

impl Default for Mira {
    /// The paper's end of training; β begins at 0.75.
    fn default() -> Mira {
        Mira { temperature: 0.225, beta: 2.0 / 3.0, iterations: 30 }
    }
}

/// The labels W `[n, K]` of the teacher's logits `[n, K]` of this rank's images, over those of all ranks. Untracked.
///
/// # Errors
/// `Shape` unless the logits are `[n, K]` with rows; `Config` for a temperature that is not positive or a β outside
/// [0, 1); `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more than one rank;
/// or as for [`Comm::exchange`].
pub fn informative_labels(teacher: &Array, o: &Mira, comm: &Comm) -> Result<Array> {
    check_temperature("mira", o.temperature)?;
    if !(0.0..1.0).contains(&o.beta) {
        return Err(Error::new(ErrorKind::Config, "mira", format!("beta {}", o.beta)).expected("in [0, 1)"));
    }
    let batch = batch_of("mira", [&Tensor::constant(teacher.clone())], comm)?;
    let [n, _] = teacher.dims()?;
    let keep = 1.0 - o.beta;
    let times = |x: &Array, factor: f64| ops::binary_scalar(Binary::Mul, x, factor);
    let log_s = ops::log_softmax(&times(teacher, 1.0 / (o.temperature * keep))?)?;
    // ln v from ln of what is averaged over images, [n, K]. A prototype without any mass keeps v at the least number.
    let log_v = |log_share: &Array| {
        let sum = total(&ops::unary(Unary::Exp, log_share)?, &batch, comm)?;
        let mean = ops::clamp(&times(&sum, 1.0 / batch.global as f64)?, f64::from(f32::MIN_POSITIVE), 1e30)?;
        times(&ops::unary(Unary::Log, &mean)?, keep)
    };
    // ln of v_j^-γ s_ij, and of its sum over j.
    let weighted = |log_v: &Array| {
        let log_w = ops::sub(&log_s, &times(log_v, o.beta / keep)?)?;
        let normaliser = ops::log_sum_exp(&log_w)?.reshape(&[n, 1])?;
        Ok::<_, Error>((log_w, normaliser))
    };
    let mut v = log_v(&log_s)?;
    for _ in 0..o.iterations {
        let (_, normaliser) = weighted(&v)?;
        v = log_v(&ops::sub(&log_s, &normaliser)?)?;
    }
    ops::softmax(&weighted(&v)?.0)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "mira",
    doc: "each crop must predict a teacher's assignments of the other large crops, made as informative as they can be",
    paper: "Lee et al. 2022, Unsupervised Visual Representation Learning via Mutual Information Regularized Assignment, \
            arXiv:2211.02284",
    cross_rank: CrossRank::ReduceStats,
    inputs: &[
        Port::new("student", "[V, N, K]", "the student's cosines with prototypes for every crop, large ones first"),
        Port::new("teacher", "[A, N, K]", "the teacher's for the large crops").role(Role::Constant),
    ],
    outputs: &[
        Port::new("loss", "[]", "mean over images and pairs of a large crop and another one"),
        Port::new("labels", "[A, N, K]", "what is predicted").role(Role::Constant),
    ],
    options: &[
        OptionSpec {
            name: "student_temperature",
            default: 0.1,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the student's logits",
        },
        OptionSpec {
            name: "teacher_temperature",
            default: 0.225,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the teacher's logits",
        },
        OptionSpec {
            name: "beta",
            default: 2.0 / 3.0,
            allowed: |x| (0.0..1.0).contains(&x),
            range: "in [0, 1)",
            doc: "weight of mutual information; 0.75 falling to 2/3 in training, 0: the teacher's probabilities",
        },
        OptionSpec {
            name: "iterations",
            default: 30.0,
            allowed: |x| (0.0..=1e6).contains(&x) && x.fract() == 0.0,
            range: "a whole number",
            doc: "of the fixed-point solver, each of which shrinks the error by beta",
        },
    ],
    run: |inputs, options| {
        let o = Mira {
            temperature: options.get("teacher_temperature")?,
            beta: options.get("beta")?,
            iterations: options.get("iterations")? as usize,
        };
        let comm = Arc::new(Comm::single());
        let labels = split_views(&inputs["teacher"])?;
        let labels = labels.iter().map(|t| informative_labels(t.array(), &o, &comm).map(Tensor::constant));
        let labels = labels.collect::<Result<Vec<_>>>()?;
        let student = split_views(&inputs["student"])?;
        let loss = swapped_cross_entropy(&student, &labels, options.get("student_temperature")?, &comm)?;
        let labels = Tensor::stack(&labels.iter().collect::<Vec<_>>(), 0)?;
        Ok(BTreeMap::from([("loss".to_string(), loss), ("labels".to_string(), labels)]))
    },
    cases,
    oracle,
    facts: &[],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, k) = (g.dim(), g.dim());
    let (large, crops) = (g.pick(&[1, 2]), g.pick(&[2, 3, 4]));
    let inputs = [("student", crops), ("teacher", large)];
    let mut arrays = BTreeMap::new();
    for (name, views) in inputs {
        arrays.insert(name.to_string(), g.array(&[views, n, k], Domain::Range(-1.0, 1.0))?);
    }
    let set = [
        ("student_temperature", g.pick(&["0.1", "1"])),
        ("teacher_temperature", g.pick(&["0.225", "1"])),
        ("beta", g.pick(&["0", "0.5", "0.75"])),
        ("iterations", g.pick(&["0", "1", "30"])),
    ];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs: arrays, options })
}

/// The solver and the loss in scalar loops, with v itself.
fn oracle(case: &LossCase) -> Result<f64> {
    let ([crops, n, k], [large, _, _]) = (case.inputs["student"].dims()?, case.inputs["teacher"].dims()?);
    let (student, teacher) = (case.inputs["student"].to_vec::<f64>()?, case.inputs["teacher"].to_vec::<f64>()?);
    let get = |name: &str| case.options.get(name);
    let (tau_s, tau_t, beta) = (get("student_temperature")?, get("teacher_temperature")?, get("beta")?);
    let gamma = beta / (1.0 - beta);
    let softmax = |row: &[f64], tau: f64| -> Vec<f64> {
        let weights: Vec<f64> = row.iter().map(|x| Real::exp(x / tau)).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    };
    let (mut sum, mut pairs) = (0.0, 0);
    for a in 0..large {
        let s: Vec<Vec<f64>> =
            teacher[a * n * k..(a + 1) * n * k].chunks(k).map(|row| softmax(row, tau_t * (1.0 - beta))).collect();
        let power = |x: f64, e: f64| Real::exp(e * Real::log(x));
        let mut v: Vec<f64> =
            (0..k).map(|j| power(s.iter().map(|s| s[j]).sum::<f64>() / n as f64, 1.0 - beta)).collect();
        let normaliser = |v: &[f64], s: &[f64]| (0..k).map(|l| power(v[l], -gamma) * s[l]).sum::<f64>();
        for _ in 0..get("iterations")? as usize {
            let share = |j: usize| s.iter().map(|s| s[j] / normaliser(&v, s)).sum::<f64>() / n as f64;
            v = (0..k).map(|j| power(share(j), 1.0 - beta)).collect();
        }
        for view in (0..crops).filter(|view| *view != a) {
            pairs += 1;
            for (i, s) in s.iter().enumerate() {
                let p = softmax(&student[(view * n + i) * k..][..k], tau_s);
                let w = |j: usize| power(v[j], -gamma) * s[j] / normaliser(&v, s);
                sum -= (0..k).map(|j| w(j) * Real::log(p[j])).sum::<f64>();
            }
        }
    }
    Ok(sum / (pairs * n) as f64)
}
