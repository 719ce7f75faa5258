//! Contrast with an explicit invariance term, the loss of ReLIC (Mitrovic et al. 2020, arXiv:2010.07922) and ReLICv2
//! (Tomasev et al. 2022, arXiv:2201.05119).
//!
//! For unit vectors u_i^a of the online network (views a: large ones first, then small ones) and w_i^b of its averaged
//! copy (large views b), over candidates j = the image i itself and its negatives:
//!
//! ```text
//! p_i^ab(j) = softmax_j( u_i^a·w_j^b / τ )
//! l_i(a, b) = - ln p_i^ab(i) + β KL( p_i^ab || sg p_i^bc )
//! L         = mean over images of the sum (or mean) over large b and views a ≠ b of l_i(a, b)
//! ```
//!
//! The reference of the divergence is the same image seen as large view b, against targets of view c: c = a for a large
//! view a, the large view after b for a small one (unverified). Both distributions list candidates in the same order.
//! With two large views and no small one this is ReLIC's C¹² + C²¹ + β (I¹² + I²¹). No gradient goes to targets and
//! references.

use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, is_temperature, unit};
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::views::{batch_of, cross_entropies, mean, split_views};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`relic_ranks`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Relic {
    /// τ, of both distributions.
    pub temperature: f64,
    /// β, the weight of the invariance term.
    pub beta: f64,
    /// The divergence.
    pub divergence: Divergence,
    /// Whether pairs of views are averaged, so that the learning rate does not depend on their number, or added.
    pub mean_over_pairs: bool,
}

/// Which way the divergence between an anchor's distribution p and its reference q goes. The gradients differ.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Divergence {
    /// KL(p || sg q) = Σ p (ln p - ln q), the paper's.
    #[default]
    FromAnchor,
    /// KL(sg q || p) = Σ q (ln q - ln p), what implementations by cross-entropy compute.
    FromReference,
}

impl Default for Relic {
    /// ReLICv2's; temperature and β are unverified.
    fn default() -> Relic {
        Relic { temperature: 0.3, beta: 1.0, divergence: Divergence::FromAnchor, mean_over_pairs: true }
    }
}

impl Relic {
    fn check(&self) -> Result<()> {
        check_temperature("relic", self.temperature)?;
        if self.beta.is_finite() && self.beta >= 0.0 {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Config, "relic", format!("beta {}", self.beta)).expected("a number of at least 0"))
    }
}

/// What [`relic_ranks`] returns; each a scalar, the same on every rank.
pub struct RelicLoss {
    /// What is minimised.
    pub loss: Tensor,
    /// The contrastive terms of it: ln(1 + negatives) per pair of views where nothing is told apart.
    pub contrast: Tensor,
    /// The invariance terms of it, before β; 0 where all views of an image see the same distribution.
    pub invariance: Tensor,
}

/// This rank's embeddings, `[n, D]` for each view.
#[derive(Clone, Copy)]
pub struct RelicViews<'a> {
    /// The online network's of the large views.
    pub large: &'a [Tensor],
    /// The online network's of the small views.
    pub small: &'a [Tensor],
    /// The averaged network's of the large views.
    pub targets: &'a [Tensor],
    /// What reference distributions are made of in place of `large`: to hold them fixed while `large` moves.
    pub references: Option<&'a [Tensor]>,
}

/// The loss of embeddings, which are normalised here.
///
/// `negatives` `[n, M]` i64 lists for each image here the negatives among the images of all ranks, none of them itself;
/// without it they are all other images.
///
/// # Errors
/// `Shape` unless all views have one shape, large views, targets and references are equally many, and there are two
/// large views or a small one; `Shape` or `DType` for negatives that are not `[n, M]` images; `Config` for options out
/// of range; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there is more than one
/// rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn relic_ranks(views: RelicViews<'_>, negatives: Option<&Array>, o: &Relic, comm: &Arc<Comm>) -> Result<RelicLoss> {
    o.check()?;
    let RelicViews { large, small, targets, references } = views;
    let references = references.unwrap_or(large);
    let batch = batch_of("relic", large.iter().chain(small).chain(targets).chain(references), comm)?;
    let counts = [large.len(), targets.len(), references.len()];
    if counts != [counts[0]; 3] || large.is_empty() || large.len() + small.len() < 2 {
        let got = format!("{counts:?} large views, targets and references, {} small views", small.len());
        return Err(Error::new(ErrorKind::Shape, "relic", got)
            .expected("two large views, or one and a small one, and a target for each large view"));
    }
    let candidates = negatives.map(|negatives| candidates(negatives, &batch)).transpose()?;
    let anchors = large.iter().chain(small).map(unit).collect::<Result<Vec<_>>>()?;
    let references = references.iter().map(|u| unit(&u.detach())).collect::<Result<Vec<_>>>()?;
    let targets = targets
        .iter()
        .map(|w| Ok(Tensor::constant(comm.all_gather(unit(&w.detach())?.array())?.transpose(0, 1)?)))
        .collect::<Result<Vec<_>>>()?;
    // The logarithms of p^ab, of anchors u^a against targets w^b.
    let log_p = |u: &Tensor, w: &Tensor| {
        let logits = u.matmul(w)?.scale(1.0 / o.temperature)?; // [n, N]
        match &candidates {
            Some(candidates) => logits.gather(1, candidates)?.log_softmax(), // [n, 1 + M]
            None => logits.log_softmax(),
        }
    };
    let own = match candidates {
        Some(_) => vec![0; batch.local],
        None => (batch.first..batch.first + batch.local).map(|image| image as i64).collect(),
    };
    let own = Array::from_slice(&own, &[batch.local, 1], anchors[0].device())?;

    let (mut contrasts, mut divergences) = (Vec::new(), Vec::new());
    for b in 0..large.len() {
        for a in (0..anchors.len()).filter(|a| *a != b) {
            let p = log_p(&anchors[a], &targets[b])?;
            contrasts.push(p.gather(1, &own)?.neg()?);
            let c = if a < large.len() { a } else { (b + 1) % large.len() };
            let reference = log_p(&references[b], &targets[c])?;
            divergences.push(match o.divergence {
                Divergence::FromAnchor => p.exp()?.mul(&p.sub(&reference)?)?.sum(&[1], true)?,
                Divergence::FromReference => {
                    let q = reference.exp()?;
                    cross_entropies(&q, &p)?.sub(&cross_entropies(&q, &reference)?)?
                }
            });
        }
    }
    let pairs = if o.mean_over_pairs { 1.0 } else { contrasts.len() as f64 };
    let over_pairs =
        |l: &[Tensor]| mean(&Tensor::concat(&l.iter().collect::<Vec<_>>(), 1)?, &batch, comm)?.scale(pairs);
    let (contrast, invariance) = (over_pairs(&contrasts)?, over_pairs(&divergences)?);
    let loss = contrast.add(&invariance.scale(o.beta)?)?;
    Ok(RelicLoss { loss, contrast: contrast.detach(), invariance: invariance.detach() })
}

/// Each image's own number, then those of its negatives: `[n, 1 + M]`.
fn candidates(negatives: &Array, batch: &Batch) -> Result<Array> {
    let wrong = |got: String| Err(Error::new(ErrorKind::Shape, "relic", got));
    let [n, m] = negatives.dims()?;
    let values = negatives.to_vec::<i64>()?;
    if n != batch.local {
        return wrong(format!("negatives {:?}", negatives.shape()))
            .map_err(|e| e.expected(format!("[{}, M], a row for each image", batch.local)));
    }
    let mut all = Vec::with_capacity(n * (m + 1));
    for row in 0..n {
        let own = (batch.first + row) as i64;
        let negatives = &values[row * m..(row + 1) * m];
        if let Some(bad) = negatives.iter().find(|j| **j == own || !(0..batch.global as i64).contains(*j)) {
            return wrong(format!("image {bad} as a negative of image {own}"))
                .map_err(|e| e.expected(format!("another one of {}", batch.global)));
        }
        all.push(own);
        all.extend(negatives);
    }
    Array::from_slice(&all, &[n, m + 1], negatives.device())
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "relic",
    doc: "each view must pick its image among a teacher's embeddings, with the same distribution whatever the view",
    paper: "Mitrovic et al. 2020, Representation Learning via Invariant Causal Mechanisms, arXiv:2010.07922; Tomasev et \
            al. 2022, arXiv:2201.05119",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("large", "[L, N, D]", "embeddings of the large views"),
        Port::new("small", "[S, N, D]", "embeddings of the small views").optional(),
        Port::new("targets", "[L, N, D]", "the teacher's embeddings of the large views").role(Role::Constant),
        Port::new("negatives", "[N, M]", "numbers of each image's negatives; all other images when missing")
            .role(Role::Labels)
            .optional(),
        Port::new(
            "references",
            "[L, N, D]",
            "embeddings of the large views that references are made of; `large` when missing",
        )
        .role(Role::Constant)
        .optional(),
    ],
    outputs: &[
        Port::new("loss", "[]", "contrast + beta * invariance"),
        Port::new("contrast", "[]", "the contrastive terms").role(Role::Constant),
        Port::new("invariance", "[]", "the divergences").role(Role::Constant),
    ],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.3,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the cosines of both distributions",
        },
        OptionSpec {
            name: "beta",
            default: 1.0,
            allowed: |x| x.is_finite() && x >= 0.0,
            range: "a number of at least 0",
            doc: "weight of the divergences",
        },
        OptionSpec {
            name: "from_reference",
            default: 0.0,
            allowed: |x| x == 0.0 || x == 1.0,
            range: "0 or 1",
            doc: "1: KL(reference || anchor) in place of the paper's KL(anchor || reference)",
        },
        OptionSpec {
            name: "mean_over_pairs",
            default: 1.0,
            allowed: |x| x == 0.0 || x == 1.0,
            range: "0 or 1",
            doc: "0: add the pairs of views up, as ReLIC's equation does",
        },
    ],
    run: |inputs, options| {
        let views = |name: &str| inputs.get(name).map_or(Ok(Vec::new()), split_views);
        let o = Relic {
            temperature: options.get("temperature")?,
            beta: options.get("beta")?,
            divergence: match options.get("from_reference")? {
                1.0 => Divergence::FromReference,
                _ => Divergence::FromAnchor,
            },
            mean_over_pairs: options.get("mean_over_pairs")? == 1.0,
        };
        let negatives = inputs.get("negatives").map(Tensor::array);
        let comm = Arc::new(Comm::single());
        let (large, small, targets) = (views("large")?, views("small")?, views("targets")?);
        let references = inputs.get("references").map(split_views).transpose()?;
        let references = references.as_deref();
        let views = RelicViews { large: &large, small: &small, targets: &targets, references };
        let l = relic_ranks(views, negatives, &o, &comm)?;
        let named = [("loss", l.loss), ("contrast", l.contrast), ("invariance", l.invariance)];
        Ok(named.map(|(name, tensor)| (name.to_string(), tensor)).into())
    },
    cases,
    oracle,
    facts: &[Fact {
        what: "ln N (mean over pairs, all negatives): nothing is told apart; of a collapsed encoder too",
        value: |images, _| Real::log(images as f64),
    }],
};

/// With references given: held fixed, so that differences see the gradient that there is.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d) = (1 + g.dim(), 1 + g.dim());
    let (large, small) = g.pick(&[(1, 1), (2, 0), (2, 1), (3, 2)]);
    let mut inputs = BTreeMap::new();
    for (name, views) in [("large", large), ("small", small), ("targets", large), ("references", large)] {
        if views > 0 {
            inputs.insert(name.to_string(), g.array(&[views, n, d], Domain::Signed(0.5, 1.5))?);
        }
    }
    if g.one_in(2) {
        let m = g.pick(&[0, 1, 5]);
        // Some other image: the own number plus 1 to n - 1.
        let negatives: Vec<i64> = (0..n * m).map(|at| ((at / m + 1 + g.below(n - 1)) % n) as i64).collect();
        inputs.insert("negatives".to_string(), Array::from_slice(&negatives, &[n, m], g.device())?);
    }
    let set = [
        ("temperature", g.pick(&["0.3", "1"])),
        ("beta", g.pick(&["0", "1", "4"])),
        ("from_reference", g.pick(&["0", "1"])),
        ("mean_over_pairs", g.pick(&["0", "1"])),
    ];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs, options })
}

/// The definition in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [large, n, d] = case.inputs["large"].dims()?;
    let values = |name: &str| case.inputs.get(name).map_or(Ok(Vec::new()), |x| x.to_vec::<f64>());
    let (online, small) = (values("large")?, values("small")?);
    let (targets, references) = (values("targets")?, values("references")?);
    let anchors = [online, small].concat();
    let get = |name: &str| case.options.get(name);
    let (tau, beta) = (get("temperature")?, get("beta")?);
    let negatives = match case.inputs.get("negatives") {
        Some(negatives) => negatives.to_vec::<i64>()?,
        None => (0..n).flat_map(|i| (0..n).filter(move |j| *j != i).map(|j| j as i64)).collect(),
    };
    let m = negatives.len() / n;
    let row = |x: &[f64], view: usize, i: usize| x[(view * n + i) * d..][..d].to_vec();
    let cosine = |a: &[f64], b: &[f64]| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    // The image itself first, then its negatives.
    let distribution = |u: Vec<f64>, view: usize, i: usize| -> Vec<f64> {
        let others = negatives[i * m..(i + 1) * m].iter().map(|j| *j as usize);
        let weights: Vec<f64> =
            std::iter::once(i).chain(others).map(|j| Real::exp(cosine(&u, &row(&targets, view, j)) / tau)).collect();
        let total: f64 = weights.iter().sum();
        weights.into_iter().map(|w| w / total).collect()
    };
    let (mut sum, mut pairs) = (0.0, 0);
    for b in 0..large {
        for a in (0..anchors.len() / (n * d)).filter(|a| *a != b) {
            pairs += 1;
            let c = if a < large { a } else { (b + 1) % large };
            for i in 0..n {
                let p = distribution(row(&anchors, a, i), b, i);
                let q = distribution(row(&references, b, i), c, i);
                let (from, to) = if get("from_reference")? == 1.0 { (&q, &p) } else { (&p, &q) };
                let divergence: f64 = from.iter().zip(to).map(|(x, y)| x * Real::log(x / y)).sum();
                sum += beta * divergence - Real::log(p[0]);
            }
        }
    }
    Ok(sum / (n * if get("mean_over_pairs")? == 1.0 { pairs } else { 1 }) as f64)
}
