//! CACR: contrastive attraction and contrastive repulsion (Zheng, Chen, Yao, …, Zhou 2023, arXiv:2105.03746).
//!
//! Views z^m_i, m = 1..M, of images i = 1..B, unit vectors, with the cost c(u, v) = |u - v|² = 2 - 2 u·v:
//!
//! ```text
//! attraction  mean_x mean_i Σ_{m≠x} π+_m α c(z^x_i, z^m_i)        π+ = softmax_m( t+ c): far positives weigh more
//! repulsion   mean_{x<y} mean_i Σ_{j≠i} π-_j (-β c(z^x_i, z^y_j))  π- = softmax_j(-t- c): near negatives weigh more
//! rbf         mean_{x<y} β ln mean_i Σ_{j≠i} π-_j exp(-t c)       in place of the repulsion
//! debiased    (s_i - τ c_i) / (1 - τ) in place of each inner sum s_i of the repulsion, c_i the positive's cost
//! ```
//!
//! Gradients flow through the weights as well as through the costs, as in the authors' small-scale code, unless
//! [`Cacr::fixed_weights`]. The debiased form has the authors' sign: s_i holds -β already, so that textbook debiasing
//! would add τ β c_i. The similarities of two views at a time are held.

use crate::all_dots::all_dots;
use crate::batch::{Batch, constant, row_dots, unit};
use crate::softmax_terms::{FLAG_RANGE, WEIGHT_RANGE, batch_mean, check_option, is_flag, is_weight, own_mask};
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`cacr`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cacr {
    /// t+: how much more far positives weigh; 0 weighs all alike.
    pub t_plus: f64,
    /// t-: how much more near negatives weigh; 0 weighs all alike.
    pub t_minus: f64,
    /// α, the weight of the attraction.
    pub alpha: f64,
    /// β, the weight of the repulsion.
    pub beta: f64,
    /// t of the RBF form of the repulsion; 0 for the form of costs.
    pub rbf: f64,
    /// τ of the debiased repulsion, the share of false negatives; 0 for none. 0.1 in the authors' code. Of no effect in
    /// the RBF form.
    pub tau_plus: f64,
    /// Takes the weights π as constants.
    pub fixed_weights: bool,
}

impl Default for Cacr {
    /// The authors' code on small images.
    fn default() -> Cacr {
        Cacr { t_plus: 1.0, t_minus: 1.0, alpha: 1.0, beta: 1.0, rbf: 0.0, tau_plus: 0.0, fixed_weights: false }
    }
}

/// The terms of [`cacr`].
#[derive(Clone)]
pub struct CacrTerms {
    /// Their sum.
    pub loss: Tensor,
    /// The attraction.
    pub attraction: Tensor,
    /// The repulsion.
    pub repulsion: Tensor,
}

/// The loss of `views`, at least two, each `[B, D]` of the same at least two images. They are normalised here.
///
/// # Errors
/// `Shape` unless views have one shape; `Config` for negative options, or a share of false negatives of 1 and above.
#[track_caller]
pub fn cacr(views: &[&Tensor], o: &Cacr) -> Result<CacrTerms> {
    cacr_ranks(views, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's views. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`cacr`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn cacr_ranks(views: &[&Tensor], o: &Cacr, comm: &Arc<Comm>) -> Result<CacrTerms> {
    check(o)?;
    let [first, .., _] = views else {
        return Err(Error::new(ErrorKind::Shape, "cacr", format!("{} views", views.len())).expected("at least 2"));
    };
    let mut batch = Batch::of_pairs("cacr", first, first, comm)?;
    for view in &views[1..] {
        batch = Batch::of_pairs("cacr", first, view, comm)?;
    }
    if batch.global < 2 {
        return Err(Error::new(ErrorKind::Shape, "cacr", "one image").expected("negatives: at least two images"));
    }
    let views = views.iter().map(|view| unit(view)).collect::<Result<Vec<_>>>()?;
    let attraction = attraction(&views, o, &batch, comm)?;
    let repulsion = repulsion(&views, o, &batch, comm)?;
    Ok(CacrTerms { loss: attraction.add(&repulsion)?, attraction, repulsion })
}

fn check(o: &Cacr) -> Result<()> {
    let numbers = [("t_plus", o.t_plus), ("t_minus", o.t_minus), ("alpha", o.alpha), ("beta", o.beta), ("rbf", o.rbf)];
    for (name, value) in numbers {
        check_option("cacr", name, value, is_weight, WEIGHT_RANGE)?;
    }
    check_option("cacr", "tau_plus", o.tau_plus, is_share, SHARE_RANGE)
}

fn is_share(tau: f64) -> bool {
    (0.0..1.0).contains(&tau)
}

const SHARE_RANGE: &str = "at least 0 and below 1";

/// 2 - 2 u·v from u·v.
fn cost(dots: &Tensor) -> Result<Tensor> {
    dots.affine(-2.0, 2.0)
}

/// The softmax of each row.
fn weights(logits: &Tensor, o: &Cacr) -> Result<Tensor> {
    let weights = logits.softmax()?;
    Ok(if o.fixed_weights { weights.detach() } else { weights })
}

fn attraction(views: &[Tensor], o: &Cacr, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    let mut queries = Vec::new();
    for (x, query) in views.iter().enumerate() {
        let others = views.iter().enumerate().filter(|(m, _)| *m != x);
        let costs = others.map(|(_, view)| cost(&row_dots(query, view)?)).collect::<Result<Vec<_>>>()?;
        let costs = Tensor::concat(&costs.iter().collect::<Vec<_>>(), 1)?; // [n, M - 1]
        queries.push(costs.mul(&weights(&costs.scale(o.t_plus)?, o)?)?.sum(&[1], true)?);
    }
    let queries = Tensor::concat(&queries.iter().collect::<Vec<_>>(), 1)?; // [n, M]
    batch_mean(&queries, batch, comm)?.scale(o.alpha)
}

fn repulsion(views: &[Tensor], o: &Cacr, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    let mut pairs = Vec::new();
    for (y, negatives) in views.iter().enumerate().skip(1) {
        for query in &views[..y] {
            let costs = cost(&all_dots(query, negatives, batch.first, comm)?)?; // [n, B]
            let own = own_mask(batch, query)?;
            let without_own = |x: &Tensor, value: f64| Tensor::select(&own, &constant(value, x)?, x);
            let logits = without_own(&costs.scale(-o.t_minus)?, f64::NEG_INFINITY)?;
            let weights = weights(&logits, o)?;
            pairs.push(if o.rbf > 0.0 {
                let near = weights.mul(&without_own(&costs, 0.0)?.scale(-o.rbf)?.exp()?)?.sum(&[1], true)?;
                batch_mean(&near, batch, comm)?.log()?.scale(o.beta)?
            } else {
                let sum = weights.mul(&without_own(&costs, 0.0)?)?.sum(&[1], true)?.scale(-o.beta)?;
                batch_mean(&debiased(&sum, query, negatives, o)?, batch, comm)?
            });
        }
    }
    Tensor::stack(&pairs.iter().collect::<Vec<_>>(), 0)?.mean_all()
}

/// The inner sums `[n, 1]` of the repulsion of the rows of `query` by other images, less the share of false negatives.
fn debiased(sum: &Tensor, query: &Tensor, other_view: &Tensor, o: &Cacr) -> Result<Tensor> {
    if o.tau_plus == 0.0 {
        return Ok(sum.clone());
    }
    let positive = cost(&row_dots(query, other_view)?)?;
    sum.sub(&positive.scale(o.tau_plus)?)?.scale(1.0 / (1.0 - o.tau_plus))
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "cacr",
    doc: "positives attract, the farthest most; negatives repel, the nearest most; two averages instead of one softmax",
    paper: "Zheng et al. 2023, Contrastive Attraction and Contrastive Repulsion for Representation Learning, \
            arXiv:2105.03746",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[Port::new("z", "[M, B, D]", "embeddings of M views of B images, both at least 2")],
    outputs: &[
        Port::new("loss", "[]", "their sum; 0 where all embeddings are equal"),
        Port::new("attraction", "[]", "weighted mean cost of positives"),
        Port::new("repulsion", "[]", "minus the weighted mean cost of negatives"),
    ],
    options: &[
        OptionSpec {
            name: "t_plus",
            default: 1.0,
            allowed: is_weight,
            range: WEIGHT_RANGE,
            doc: "how much more far positives weigh; 0: all alike",
        },
        OptionSpec {
            name: "t_minus",
            default: 1.0,
            allowed: is_weight,
            range: WEIGHT_RANGE,
            doc: "how much more near negatives weigh; 0: all alike. The paper uses up to 2 on small data",
        },
        OptionSpec {
            name: "alpha",
            default: 1.0,
            allowed: is_weight,
            range: WEIGHT_RANGE,
            doc: "weight of the attraction",
        },
        OptionSpec {
            name: "beta",
            default: 1.0,
            allowed: is_weight,
            range: WEIGHT_RANGE,
            doc: "weight of the repulsion",
        },
        OptionSpec {
            name: "rbf",
            default: 0.0,
            allowed: is_weight,
            range: WEIGHT_RANGE,
            doc: "above 0: the repulsion as the logarithm of a mean of exp(-rbf cost)",
        },
        OptionSpec {
            name: "tau_plus",
            default: 0.0,
            allowed: is_share,
            range: SHARE_RANGE,
            doc: "share of negatives that are positives in truth, for the debiased repulsion; 0.1 in the authors' code",
        },
        OptionSpec {
            name: "fixed_weights",
            default: 0.0,
            allowed: is_flag,
            range: FLAG_RANGE,
            doc: "1: no gradient through the weights",
        },
    ],
    run: |inputs, options| {
        let o = Cacr {
            t_plus: options.get("t_plus")?,
            t_minus: options.get("t_minus")?,
            alpha: options.get("alpha")?,
            beta: options.get("beta")?,
            rbf: options.get("rbf")?,
            tau_plus: options.get("tau_plus")?,
            fixed_weights: options.get("fixed_weights")? == 1.0,
        };
        let z = &inputs["z"];
        let [m, b, d] = z.dims()?;
        let views = (0..m).map(|i| z.slice(0, i, i + 1)?.reshape(&[b, d])).collect::<Result<Vec<_>>>()?;
        let terms = cacr(&views.iter().collect::<Vec<_>>(), &o)?;
        let outputs = [("loss", terms.loss), ("attraction", terms.attraction), ("repulsion", terms.repulsion)];
        Ok(outputs.into_iter().map(|(name, x)| (name.to_string(), x)).collect())
    },
    cases,
    oracle,
    facts: &[Fact { what: "0: all embeddings equal (collapse)", value: |_, _| 0.0 }],
};

/// Weights without gradient are left to tests: they move with the inputs.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (m, b, d) = (g.pick(&[2, 3, 4]), g.pick(&[2, 3, 17]), 1 + g.pick(&[1, 2, 7]));
    let z = g.array(&[m, b, d], Domain::Signed(0.5, 1.5))?;
    let set = [
        ("t_plus", g.pick(&["0", "1", "3"])),
        ("t_minus", g.pick(&["0", "1", "2"])),
        ("alpha", g.pick(&["1", "0.5"])),
        ("beta", g.pick(&["1", "2"])),
        ("rbf", g.pick(&["0", "0", "1.5"])),
        ("tau_plus", g.pick(&["0", "0.1"])),
    ];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs: BTreeMap::from([("z".to_string(), z)]), options })
}

/// Steps 1 to 6 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [views, images, d] = case.inputs["z"].dims()?;
    let z = case.inputs["z"].to_vec::<f64>()?;
    let option = |name: &str| case.options.get(name);
    let (t_plus, t_minus) = (option("t_plus")?, option("t_minus")?);
    let (alpha, beta, rbf, tau) = (option("alpha")?, option("beta")?, option("rbf")?, option("tau_plus")?);
    let unit = |view: usize, image: usize| {
        let row = &z[(view * images + image) * d..][..d];
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter().map(|x| x / length).collect::<Vec<f64>>()
    };
    let cost = |x: usize, i: usize, y: usize, j: usize| {
        unit(x, i).iter().zip(unit(y, j)).map(|(a, b)| (a - b) * (a - b)).sum::<f64>()
    };
    let average = |costs: &[f64], t: f64, f: &dyn Fn(f64) -> f64| {
        let total: f64 = costs.iter().map(|c| Real::exp(t * c)).sum();
        costs.iter().map(|c| Real::exp(t * c) / total * f(*c)).sum::<f64>()
    };
    let mut attraction = 0.0;
    for x in 0..views {
        for i in 0..images {
            let costs: Vec<f64> = (0..views).filter(|m| *m != x).map(|m| cost(x, i, m, i)).collect();
            attraction += average(&costs, t_plus, &|c| alpha * c) / (views * images) as f64;
        }
    }
    let mut repulsion = 0.0;
    let pairs = (views * (views - 1) / 2) as f64;
    for y in 1..views {
        for x in 0..y {
            let costs = |i: usize| (0..images).filter(|j| *j != i).map(|j| cost(x, i, y, j)).collect::<Vec<f64>>();
            repulsion += if rbf > 0.0 {
                let near = |i| average(&costs(i), -t_minus, &|c| Real::exp(-rbf * c));
                beta * Real::log((0..images).map(near).sum::<f64>() / images as f64) / pairs
            } else {
                let sum = |i| (average(&costs(i), -t_minus, &|c| -beta * c) - tau * cost(x, i, y, i)) / (1.0 - tau);
                (0..images).map(sum).sum::<f64>() / images as f64 / pairs
            };
        }
    }
    Ok(attraction + repulsion)
}
