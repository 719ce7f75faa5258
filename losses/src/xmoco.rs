//! XMoCo: MoCo with cross-similarity consistency (Seyfi, Banitalebi-Dehkordi, Zhang 2022, arXiv:2206.04676).
//!
//! The paper's text was not at hand: the regularisers are reconstructed from its abstract, and several readings are
//! offered. For unit queries q_i, keys k_i (constants) and S_ij = q_i·k_j, i ≠ j of the batch:
//!
//! ```text
//! L    = InfoNCE + λ_c L_cc + λ_u L_u
//! L_cc = mean_{i≠j} (S_ij - S_ji)²                           swapped: the same for either assignment of the two views
//!        mean_{i≠j} (q_i·q_j - k_i·k_j)²                     in_view
//!        mean_i KL( softmax_j S_ji/τ_c || softmax_j S_ij/τ_c )   distributions; the first without gradient
//!        mean_{i,j} (q_i·n_j - k_i·n_j)²                     queue: over its keys n_j
//! L_u  = mean_i KL( U || p_i )   or   mean_i KL( p_i || U )  p_i = softmax_j S_ij/τ_u, U uniform over j ≠ i
//! ```
//!
//! A term of weight 0 is left out: with both it is InfoNCE, to the bit. The matrix of similarities is held.

use crate::all_dots::all_dots;
use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, constant, is_temperature, unit};
use crate::info_nce::{InfoNce, info_nce_ranks};
use crate::softmax_terms::{
    FLAG_RANGE, WEIGHT_RANGE, batch_mean, check_option, check_width, is_flag, is_weight, own_mask,
};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::{self, Real};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which similarities must agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Consistency {
    /// Those of two images with their views exchanged.
    #[default]
    Swapped,
    /// Those of two images within either view; the keys' are the target.
    InView,
    /// The distributions over other images of an image's query and of its key; the key's is the target.
    Distributions,
    /// Those of query and key to each key of the queue; the key's are the target.
    Queue,
}

impl Consistency {
    /// In the order of their numbers on the command line.
    pub const ALL: [Consistency; 4] =
        [Consistency::Swapped, Consistency::InView, Consistency::Distributions, Consistency::Queue];
}

/// Options of [`xmoco`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct XMoco {
    /// T of InfoNCE, and τ_c and τ_u of the regularisers.
    pub temperature: f64,
    /// λ_c.
    pub consistency_weight: f64,
    /// What L_cc compares.
    pub consistency: Consistency,
    /// λ_u.
    pub uniformity_weight: f64,
    /// Whether L_u is KL(p || U) instead of KL(U || p).
    pub by_entropy: bool,
}

impl Default for XMoco {
    /// MoCo v2's temperature and weights to start from (reconstructed).
    fn default() -> XMoco {
        XMoco {
            temperature: 0.2,
            consistency_weight: 1.0,
            consistency: Consistency::Swapped,
            uniformity_weight: 0.1,
            by_entropy: false,
        }
    }
}

/// The terms of [`xmoco`]; those of weight 0 are not computed.
#[derive(Clone)]
pub struct XMocoTerms {
    /// The scalar to minimise.
    pub loss: Tensor,
    /// InfoNCE.
    pub info_nce: Tensor,
    /// L_cc.
    pub consistency: Option<Tensor>,
    /// L_u.
    pub uniformity: Option<Tensor>,
}

/// The loss of queries `q` `[N, D]` whose keys are the rows of `k` `[N, D]`, against the negatives `queue` `[K, D]`. All
/// are normalised here. No gradient goes to keys and queue.
///
/// # Errors
/// `Shape` unless shapes fit and there are two images, and a queue where it is compared with; `Config` for a temperature
/// that is not positive or a negative weight.
#[track_caller]
pub fn xmoco(q: &Tensor, k: &Tensor, queue: &Tensor, o: &XMoco) -> Result<XMocoTerms> {
    xmoco_ranks(q, k, queue, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's queries and keys; every rank holds the same `queue`. See
/// [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`xmoco`]; `Numerics` when ranks differ in queries, or when these are no multiple of 16 and there is more than
/// one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn xmoco_ranks(q: &Tensor, k: &Tensor, queue: &Tensor, o: &XMoco, comm: &Arc<Comm>) -> Result<XMocoTerms> {
    check_temperature("xmoco", o.temperature)?;
    check_option("xmoco", "consistency_weight", o.consistency_weight, is_weight, WEIGHT_RANGE)?;
    check_option("xmoco", "uniformity_weight", o.uniformity_weight, is_weight, WEIGHT_RANGE)?;
    check_width("xmoco", q, "queue", queue)?;
    let info_nce = info_nce_ranks(q, k, queue, &InfoNce { temperature: o.temperature }, comm)?;
    let batch = Batch::of_pairs("xmoco", q, k, comm)?;
    let regularised = o.consistency_weight > 0.0 || o.uniformity_weight > 0.0;
    if regularised && batch.global < 2 {
        return Err(Error::new(ErrorKind::Shape, "xmoco", "one image").expected("pairs of images: at least two"));
    }
    let across = Across { q: unit(q)?, k: unit(&k.detach())?, batch, comm };
    let mut loss = info_nce.clone();
    let (mut consistency, mut uniformity) = (None, None);
    if o.consistency_weight > 0.0 {
        let term = across.consistency(queue, o)?;
        loss = loss.add(&term.scale(o.consistency_weight)?)?;
        consistency = Some(term);
    }
    if o.uniformity_weight > 0.0 {
        let term = across.uniformity(o)?;
        loss = loss.add(&term.scale(o.uniformity_weight)?)?;
        uniformity = Some(term);
    }
    Ok(XMocoTerms { loss, info_nce, consistency, uniformity })
}

/// Unit queries and keys `[n, D]` of this rank.
struct Across<'a> {
    q: Tensor,
    k: Tensor,
    batch: Batch,
    comm: &'a Arc<Comm>,
}

impl Across<'_> {
    /// The products of this rank's rows with those of all ranks, `[n, N]`.
    fn dots(&self, rows: &Tensor, columns: &Tensor) -> Result<Tensor> {
        all_dots(rows, columns, self.batch.first, self.comm)
    }

    /// S_ij `[n, N]`.
    fn of_queries(&self) -> Result<Tensor> {
        self.dots(&self.q, &self.k)
    }

    /// S_ji `[n, N]`.
    fn of_keys(&self) -> Result<Tensor> {
        self.dots(&self.k, &self.q)
    }

    /// `x` `[n, N]` with `value` where an image meets itself.
    fn without_own(&self, x: &Tensor, value: f64) -> Result<Tensor> {
        Tensor::select(&own_mask(&self.batch, x)?, &constant(value, x)?, x)
    }

    /// The mean over i ≠ j of `x` `[n, N]`.
    fn mean_over_pairs(&self, x: &Tensor) -> Result<Tensor> {
        let others = self.without_own(x, 0.0)?.sum(&[1], true)?.scale(1.0 / (self.batch.global - 1) as f64)?;
        batch_mean(&others, &self.batch, self.comm)
    }

    /// ln softmax over j ≠ i of `x` / temperature; -infinity where j = i.
    fn log_softmax(&self, x: &Tensor, temperature: f64) -> Result<Tensor> {
        self.without_own(&x.scale(1.0 / temperature)?, f64::NEG_INFINITY)?.log_softmax()
    }

    fn consistency(&self, queue: &Tensor, o: &XMoco) -> Result<Tensor> {
        match o.consistency {
            Consistency::Swapped => self.mean_over_pairs(&self.of_queries()?.sub(&self.of_keys()?)?.square()?),
            Consistency::InView => {
                let difference = self.dots(&self.q, &self.q)?.sub(&self.dots(&self.k, &self.k)?)?;
                self.mean_over_pairs(&difference.square()?)
            }
            Consistency::Distributions => {
                let target = self.log_softmax(&self.of_keys()?.detach(), o.temperature)?;
                let log_p = self.log_softmax(&self.of_queries()?, o.temperature)?;
                // Both are -infinity at j = i.
                let difference = self.without_own(&target, 0.0)?.sub(&self.without_own(&log_p, 0.0)?)?;
                self.mean_of_rows(&target.exp()?.mul(&difference)?)
            }
            Consistency::Queue => {
                let [length, _] = queue.dims()?;
                if length == 0 {
                    return Err(
                        Error::new(ErrorKind::Shape, "xmoco", "an empty queue").expected("keys to compare with")
                    );
                }
                // (q - k)·n, which is exactly 0 for equal ones.
                let columns = unit(&queue.detach())?.transpose(0, 1)?;
                let squares = self.q.sub(&self.k)?.matmul(&columns)?.square()?;
                batch_mean(&squares.mean(&[1], true)?, &self.batch, self.comm)
            }
        }
    }

    fn uniformity(&self, o: &XMoco) -> Result<Tensor> {
        let log_p = self.log_softmax(&self.of_queries()?, o.temperature)?;
        let log_others = math::f64::log((self.batch.global - 1) as f64);
        if o.by_entropy {
            let minus_entropy = self.mean_of_rows(&log_p.exp()?.mul(&self.without_own(&log_p, 0.0)?)?)?;
            return minus_entropy.add_scalar(log_others);
        }
        self.mean_over_pairs(&log_p)?.neg()?.add_scalar(-log_others)
    }

    /// The mean over images of the sums of rows of `x` `[n, N]`.
    fn mean_of_rows(&self, x: &Tensor) -> Result<Tensor> {
        batch_mean(&x.sum(&[1], true)?, &self.batch, self.comm)
    }
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "xmoco",
    doc: "InfoNCE, with similarities of different images that agree between views and are spread evenly (reconstructed)",
    paper: "Seyfi et al. 2022, Extending Momentum Contrast With Cross Similarity Consistency Regularization, \
            arXiv:2206.04676",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("q", "[N, D]", "embeddings of the queries, N at least 2"),
        Port::new("k", "[N, D]", "their keys, in the same order").role(Role::Constant),
        Port::new("queue", "[K, D]", "keys of other images").role(Role::Constant),
    ],
    outputs: &[Port::new("loss", "[]", "InfoNCE plus the weighted regularisers")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.2,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the cosines, in InfoNCE and in the regularisers' softmaxes",
        },
        OptionSpec {
            name: "consistency_weight",
            default: 1.0,
            allowed: is_weight,
            range: WEIGHT_RANGE,
            doc: "weight of the consistency term; alone it is least for a collapsed encoder",
        },
        OptionSpec {
            name: "consistency",
            default: 0.0,
            allowed: |x| [0.0, 1.0, 2.0, 3.0].contains(&x),
            range: "0, 1, 2 or 3",
            doc: "what must agree: 0 swapped views, 1 within views, 2 distributions over images, 3 over the queue",
        },
        OptionSpec {
            name: "uniformity_weight",
            default: 0.1,
            allowed: is_weight,
            range: WEIGHT_RANGE,
            doc: "weight of the uniformity term; too large, and classes may no longer be similar",
        },
        OptionSpec {
            name: "by_entropy",
            default: 0.0,
            allowed: is_flag,
            range: FLAG_RANGE,
            doc: "uniformity as 0: KL(U || p), 1: KL(p || U), the missing entropy",
        },
    ],
    run: |inputs, options| {
        let o = XMoco {
            temperature: options.get("temperature")?,
            consistency_weight: options.get("consistency_weight")?,
            consistency: Consistency::ALL[options.get("consistency")? as usize],
            uniformity_weight: options.get("uniformity_weight")?,
            by_entropy: options.get("by_entropy")? == 1.0,
        };
        let terms = xmoco(&inputs["q"], &inputs["k"], &inputs["queue"], &o)?;
        Ok(BTreeMap::from([("loss".to_string(), terms.loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

/// The distributional form is left to tests: its target is without gradient, and moves with the queries.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (1 + g.dim(), 1 + g.dim());
    let length = g.pick(&[1, 5, 33]);
    let mut inputs = BTreeMap::new();
    for (name, rows) in [("q", n), ("k", n), ("queue", length)] {
        inputs.insert(name.to_string(), g.array(&[rows, d], Domain::Signed(0.5, 1.5))?);
    }
    let set = [
        ("temperature", g.pick(&["0.2", "1.0"])),
        ("consistency", g.pick(&["0", "1", "3"])),
        ("consistency_weight", g.pick(&["0", "1"])),
        ("uniformity_weight", g.pick(&["0", "0.3"])),
        ("by_entropy", g.pick(&["0", "1"])),
    ];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs, options })
}

/// The definitions in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [n, d] = case.inputs["q"].dims()?;
    let units = |name: &str| -> Result<Vec<Vec<f64>>> {
        let unit = |row: &[f64]| {
            let length = row.iter().map(|x| x * x).sum::<f64>().sqrt();
            row.iter().map(|x| x / length).collect()
        };
        Ok(case.inputs[name].to_vec::<f64>()?.chunks(d).map(unit).collect())
    };
    let (q, k, queue) = (units("q")?, units("k")?, units("queue")?);
    let option = |name: &str| case.options.get(name);
    let t = option("temperature")?;
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let pairs: Vec<(usize, usize)> = (0..n).flat_map(|i| (0..n).map(move |j| (i, j))).filter(|(i, j)| i != j).collect();
    let (mut contrast, mut uniformity) = (0.0, 0.0);
    for i in 0..n {
        let positive = Real::exp(dot(&q[i], &k[i]) / t);
        let negatives: f64 = queue.iter().map(|negative| Real::exp(dot(&q[i], negative) / t)).sum();
        contrast -= Real::log(positive / (positive + negatives));
        let weights: Vec<f64> = (0..n).filter(|j| *j != i).map(|j| Real::exp(dot(&q[i], &k[j]) / t)).collect();
        let (sum, u) = (weights.iter().sum::<f64>(), 1.0 / weights.len() as f64);
        let divergence = |w: f64| match option("by_entropy") {
            Ok(1.0) => w / sum * Real::log(w / sum / u),
            _ => u * Real::log(u / (w / sum)),
        };
        uniformity += weights.into_iter().map(divergence).sum::<f64>();
    }
    let consistency = match option("consistency")? as usize {
        0 => pairs.iter().map(|(i, j)| (dot(&q[*i], &k[*j]) - dot(&q[*j], &k[*i])).powi(2)).sum::<f64>(),
        1 => pairs.iter().map(|(i, j)| (dot(&q[*i], &q[*j]) - dot(&k[*i], &k[*j])).powi(2)).sum::<f64>(),
        _ => {
            let to_queue = |i: usize| queue.iter().map(move |m| (i, m));
            let squares = (0..n).flat_map(to_queue).map(|(i, m)| (dot(&q[i], m) - dot(&k[i], m)).powi(2));
            squares.sum::<f64>() / (n * queue.len()) as f64 * pairs.len() as f64
        }
    };
    Ok(contrast / n as f64
        + option("consistency_weight")? * consistency / pairs.len() as f64
        + option("uniformity_weight")? * uniformity / n as f64)
}
