//! MoCHi: mixing of hard negatives (Kalantidis, Sariyildiz, Pion, Weinzaepfel, Larlus 2020, arXiv:2010.01028).
//!
//! InfoNCE with synthetic negatives beside those of the queue. With n_1 … n_R the queue's R most similar keys to a query q:
//!
//! ```text
//! h  = unit(α n_a + (1 - α) n_b)    a ≠ b of 1..R, α ~ U(0, 1)         s of them
//! h' = unit(β q + (1 - β) n_a)      a of 1..R, β ~ U(0, 1/2)           s' of them
//! l  = -ln [ exp(q·k / T) / ( exp(q·k / T) + Σ_queue exp(q·n / T) + Σ exp(q·h / T) + Σ exp(q·h' / T) ) ]
//! ```
//!
//! Synthetic negatives are constants, q inside h' too. What is mixed is drawn beforehand ([`Mixture`]), for each query
//! and step anew. Without any it is InfoNCE, to the bit.

use crate::batch::{Batch, LEAST_NORM, TEMPERATURE_RANGE, check_temperature, is_temperature, row_dots, unit};
use crate::softmax_terms::{batch_mean, check_shape, check_width, log_add_exp, log_sum_over};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use selfsame_autograd::ops::Excluded;
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use selfsame_kernels::philox::{Key, Purpose};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`mochi`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mochi {
    /// T. The paper uses 0.2.
    pub temperature: f64,
    /// R: how many of the most similar keys are mixed.
    pub hardest: usize,
}

impl Default for Mochi {
    /// The paper's on ImageNet.
    fn default() -> Mochi {
        Mochi { temperature: 0.2, hardest: 1024 }
    }
}

/// What each query mixes, by rank among its hardest keys.
#[derive(Clone, Debug)]
pub struct Mixture {
    /// a and b of each synthetic negative between keys, `[n, s, 2]` i64.
    pub pairs: Array,
    /// α, `[n, s]`.
    pub alpha: Array,
    /// a of each synthetic negative towards the query, `[n, s']` i64.
    pub points: Array,
    /// β, `[n, s']`.
    pub beta: Array,
}

impl Mixture {
    /// The draws of the queries from `first` on in step `step`: `between` of `hardest` keys, `towards` the query, for
    /// each of the rows of `like` and in its type.
    ///
    /// # Errors
    /// `Config` when there are not two keys to mix, or none to draw from.
    pub fn draw(
        like: &Tensor,
        first: usize,
        [hardest, between, towards]: [usize; 3],
        seed: u64,
        step: u64,
    ) -> Result<Mixture> {
        if (between > 0 && hardest < 2) || (towards > 0 && hardest == 0) {
            return Err(Error::new(ErrorKind::Config, "mochi", format!("{hardest} keys to mix")).expected("at least 2"));
        }
        let (n, device) = (like.shape()[0], like.device());
        let (mut pairs, mut alpha, mut points, mut beta) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for query in first..first + n {
            let mut stream = Key::new(seed, Purpose::Noise).stream(step, query as u64, 0);
            for _ in 0..between {
                let a = stream.range(hardest as u64) as i64;
                let b = stream.range(hardest as u64 - 1) as i64;
                // b of the others, all alike.
                pairs.extend([a, if b < a { b } else { b + 1 }]);
                alpha.push(stream.uniform_f64());
            }
            for _ in 0..towards {
                points.push(stream.range(hardest as u64) as i64);
                beta.push(0.5 * stream.uniform_f64());
            }
        }
        let floats = |x: &[f64], s| ops::cast(&Array::from_slice(x, &[n, s], device)?, like.dtype());
        Ok(Mixture {
            pairs: Array::from_slice(&pairs, &[n, between, 2], device)?,
            alpha: floats(&alpha, between)?,
            points: Array::from_slice(&points, &[n, towards], device)?,
            beta: floats(&beta, towards)?,
        })
    }

    fn check(&self, n: usize) -> Result<()> {
        let ([_, s], [_, t]) = (self.alpha.dims()?, self.beta.dims()?);
        check_shape("mochi", "pairs", &self.pairs, &[n, s, 2])?;
        check_shape("mochi", "alpha", &self.alpha, &[n, s])?;
        check_shape("mochi", "points", &self.points, &[n, t])?;
        check_shape("mochi", "beta", &self.beta, &[n, t])
    }
}

/// The loss of queries `q` `[N, D]` whose keys are the rows of `k` `[N, D]`, against the negatives `queue` `[K, D]` and
/// the synthetic ones of `mixture`. A scalar. All are normalised here. No gradient goes to keys, queue and mixtures.
///
/// # Errors
/// `Shape` unless shapes fit and the queue has [`Mochi::hardest`] keys where some are mixed; `Config` for a temperature
/// that is not positive.
#[track_caller]
pub fn mochi(q: &Tensor, k: &Tensor, queue: &Tensor, mixture: &Mixture, o: &Mochi) -> Result<Tensor> {
    mochi_ranks(q, k, queue, mixture, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's queries, keys and mixtures; every rank holds the same `queue`. See
/// [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`mochi`]; `Numerics` when ranks differ in queries, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn mochi_ranks(
    q: &Tensor,
    k: &Tensor,
    queue: &Tensor,
    mixture: &Mixture,
    o: &Mochi,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    check_temperature("mochi", o.temperature)?;
    check_width("mochi", q, "queue", queue)?;
    let batch = Batch::of_pairs("mochi", q, k, comm)?;
    mixture.check(batch.local)?;
    let (q, k, queue) = (unit(q)?, unit(&k.detach())?, unit(&queue.detach())?);
    let mut negatives = log_sum_over(&q, &queue, o.temperature, Excluded::None, comm)?;
    if let Some(synthetic) = synthetic_negatives(q.array(), queue.array(), mixture, o.hardest)? {
        let [n, _, d] = synthetic.dims()?;
        let dots = q.reshape(&[n, 1, d])?.mul(&Tensor::constant(synthetic))?.sum(&[2], false)?;
        let synthetic = dots.scale(1.0 / o.temperature)?.log_sum_exp()?.reshape(&[n, 1])?;
        negatives = log_add_exp(&negatives, &synthetic)?;
    }
    let positive = row_dots(&q, &k)?.scale(1.0 / o.temperature)?;
    batch_mean(&negatives.sub(&positive)?.softplus()?, &batch, comm)
}

/// The synthetic negatives of each query `[n, s + s', D]`, from unit vectors; nothing where none are asked for.
///
/// # Errors
/// `Shape` when the queue has fewer than `hardest` keys or a rank is not below that.
pub fn synthetic_negatives(q: &Array, queue: &Array, mixture: &Mixture, hardest: usize) -> Result<Option<Array>> {
    let ([n, d], s, t) = (q.dims()?, mixture.alpha.shape()[1], mixture.beta.shape()[1]);
    if s + t == 0 {
        return Ok(None);
    }
    let (_, hard) = ops::topk(&ops::matmul(q, &queue.transpose(0, 1)?)?, hardest)?; // [n, R]
    // Gathered along the query's own list.
    let keys = |ranks: &Array, count: usize| {
        let columns = ops::gather(&hard, 1, &ranks.reshape(&[n, count])?)?;
        ops::index_select(queue, 0, &columns.reshape(&[n * count])?)?.reshape(&[n, count, d])
    };
    let first_and_second = keys(&mixture.pairs.contiguous()?, 2 * s)?.reshape(&[n, s, 2, d])?;
    let of_pair = |i: usize| first_and_second.slice(2, i, i + 1)?.reshape(&[n, s, d]);
    let between = mix(&of_pair(0)?, &of_pair(1)?, &mixture.alpha)?;
    let query = q.reshape(&[n, 1, d])?.broadcast_to(&[n, t, d])?;
    let towards = mix(&query, &keys(&mixture.points.contiguous()?, t)?, &mixture.beta)?;
    ops::concat(&[&between, &towards], 1).map(Some)
}

/// unit(w a + (1 - w) b), each `[n, s, D]`, w `[n, s]`.
fn mix(a: &Array, b: &Array, w: &Array) -> Result<Array> {
    let [n, s] = w.dims()?;
    let w = w.reshape(&[n, s, 1])?;
    let rest = ops::scalar_binary(ops::Binary::Sub, 1.0, &w)?;
    let mixed = ops::add(&ops::mul(a, &w)?, &ops::mul(b, &rest)?)?;
    Ok(ops::l2_normalize(&mixed, LEAST_NORM)?.0)
}

/// The share of queries `q` `[n, D]` whose key, that row of `k` `[n, D]`, is more similar than every one of `negatives`
/// `[K, D]`: how far from solved the task is. All are normalised here.
///
/// # Errors
/// `Shape` when shapes do not fit.
pub fn proxy_accuracy(q: &Array, k: &Array, negatives: &Array) -> Result<f64> {
    let unit = |x: &Array| Ok(ops::l2_normalize(x, LEAST_NORM)?.0);
    let (q, k, negatives) = (unit(q)?, unit(k)?, unit(negatives)?);
    let [n, _] = q.dims()?;
    let positive = ops::sum(&ops::mul(&q, &k)?, &[1], false)?;
    if negatives.shape()[0] == 0 || n == 0 {
        return Ok(1.0);
    }
    let hardest = ops::max(&ops::matmul(&q, &negatives.transpose(0, 1)?)?, &[1], false)?;
    let solved = ops::compare(ops::Compare::Gt, &positive, &hardest)?.to_vec::<bool>()?;
    Ok(solved.iter().filter(|solved| **solved).count() as f64 / n as f64)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "mochi",
    doc: "InfoNCE with synthetic negatives, mixed of the hardest keys and the query",
    paper: "Kalantidis et al. 2020, Hard Negative Mixing for Contrastive Learning, arXiv:2010.01028",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("q", "[N, D]", "embeddings of the queries"),
        Port::new("k", "[N, D]", "their keys, in the same order").role(Role::Constant),
        Port::new("queue", "[K, D]", "keys of other images").role(Role::Constant),
        Port::new("pairs", "[N, S, 2]", "which of a query's hardest keys are mixed (0: the hardest)")
            .role(Role::Labels),
        Port::new("alpha", "[N, S]", "the share of the first of the two").role(Role::Constant),
        Port::new("points", "[N, T]", "which of a query's hardest keys are mixed with the query").role(Role::Labels),
        Port::new("beta", "[N, T]", "the share of the query").role(Role::Constant),
    ],
    outputs: &[Port::new("loss", "[]", "mean over queries")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.2,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the cosines; lower weighs hard negatives more",
        },
        OptionSpec {
            name: "hardest",
            default: 1024.0,
            allowed: |x| x >= 1.0 && x.fract() == 0.0,
            range: "a positive integer",
            doc: "how many of the most similar keys are mixed; a few percent of the queue",
        },
    ],
    run: |inputs, options| {
        let o = Mochi { temperature: options.get("temperature")?, hardest: options.get("hardest")? as usize };
        let array = |name: &str| inputs[name].array().clone();
        let mixture =
            Mixture { pairs: array("pairs"), alpha: array("alpha"), points: array("points"), beta: array("beta") };
        let loss = mochi(&inputs["q"], &inputs["k"], &inputs["queue"], &mixture, &o)?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

/// The mixtures are constants, so that the query they hold must not move: they are none towards the query, but for
/// queries of one element, whose unit vectors do not move.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let towards = g.pick(&[0, 3]);
    let (n, d) = (g.dim(), if towards > 0 { 1 } else { 1 + g.dim() });
    let (length, hardest, between) = (g.pick(&[5, 33]), g.pick(&[2, 5]), g.pick(&[0, 4]));
    let mut inputs = BTreeMap::new();
    for (name, rows) in [("q", n), ("k", n), ("queue", length)] {
        inputs.insert(name.to_string(), g.array(&[rows, d], Domain::Signed(0.5, 1.5))?);
    }
    inputs.insert("pairs".to_string(), g.indices(&[n, between, 2], hardest)?);
    inputs.insert("alpha".to_string(), g.array(&[n, between], Domain::Range(0.1, 0.9))?);
    inputs.insert("points".to_string(), g.indices(&[n, towards], hardest)?);
    inputs.insert("beta".to_string(), g.array(&[n, towards], Domain::Range(0.0, 0.45))?);
    let set = [("temperature", g.pick(&["0.2", "1.0"]).to_string()), ("hardest", hardest.to_string())];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value)))?;
    Ok(LossCase { inputs, options })
}

/// Steps 1 to 6 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [n, d] = case.inputs["q"].dims()?;
    let t = case.options.get("temperature")?;
    let unit_rows = |name: &str| -> Result<Vec<Vec<f64>>> { Ok(units(&case.inputs[name].to_vec::<f64>()?, d)) };
    let (q, k, queue) = (unit_rows("q")?, unit_rows("k")?, unit_rows("queue")?);
    let (alpha, beta) = (case.inputs["alpha"].to_vec::<f64>()?, case.inputs["beta"].to_vec::<f64>()?);
    let (pairs, points) = (case.inputs["pairs"].to_vec::<i64>()?, case.inputs["points"].to_vec::<i64>()?);
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let mut sum = 0.0;
    for i in 0..n {
        let mut order: Vec<&Vec<f64>> = queue.iter().collect();
        order.sort_by(|a, b| dot(&q[i], b).total_cmp(&dot(&q[i], a)));
        let mut negatives = queue.clone();
        let mut mixed = |a: &[f64], b: &[f64], w: f64| {
            let sum: Vec<f64> = a.iter().zip(b).map(|(a, b)| w * a + (1.0 - w) * b).collect();
            negatives.extend(units(&sum, d));
        };
        let (s, s_query) = (alpha.len() / n, beta.len() / n);
        for j in i * s..(i + 1) * s {
            mixed(order[pairs[2 * j] as usize], order[pairs[2 * j + 1] as usize], alpha[j]);
        }
        for j in i * s_query..(i + 1) * s_query {
            mixed(&q[i], order[points[j] as usize], beta[j]);
        }
        let positive = Real::exp(dot(&q[i], &k[i]) / t);
        let others: f64 = negatives.iter().map(|negative| Real::exp(dot(&q[i], negative) / t)).sum();
        sum -= Real::log(positive / (positive + others));
    }
    Ok(sum / n as f64)
}

/// Rows of `d` elements at length 1.
fn units(x: &[f64], d: usize) -> Vec<Vec<f64>> {
    let unit = |row: &[f64]| {
        let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
        row.iter().map(|x| x / length).collect()
    };
    x.chunks(d).map(unit).collect()
}
