//! False-negative cancellation by attraction (Huynh, Kornblith, Walter, Maire, Khademi 2022, arXiv:2011.11765, FNC).
//!
//! For V views of each of N images, unit vectors, the candidates of an image are all views of the batch:
//!
//! ```text
//! score_a(c) = max over the views of a of z_a·c              for views c of other images
//! F_a        = the `most` candidates with the largest scores, where they are above the threshold
//! l_u        = ln Σ_{c ≠ u} exp(z_u·c / τ) - mean of z_u·c / τ over u's other views and F_a       for a view u of a
//! L          = 2 · mean of l_u over the views of the batch
//! ```
//!
//! F has no gradient. Two views and no false negative is twice NT-Xent: the authors sum over two views. The similarities
//! of the views of this rank to those of all are held.

use crate::all_dots::all_dots;
use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, constant, is_temperature, unit};
use crate::softmax_terms::batch_mean;
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, DType, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`false_negative_cancellation`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cancellation {
    /// τ, 0.1.
    pub temperature: f64,
    /// How many false negatives an image has at most: 10.
    pub most: usize,
    /// Candidates at or below it are none: 0.7.
    pub threshold: f64,
}

impl Default for Cancellation {
    /// The authors' code.
    fn default() -> Cancellation {
        Cancellation { temperature: 0.1, most: 10, threshold: 0.7 }
    }
}

/// The loss, and how many false negatives were found.
#[derive(Clone)]
pub struct Cancelled {
    /// The scalar loss.
    pub loss: Tensor,
    /// Mean number of false negatives of this rank's images.
    pub found: f64,
}

/// The loss of `views`, at least two, each `[N, D]` of the same images. They are normalised here.
///
/// # Errors
/// `Shape` unless views have one shape; `Config` for a temperature that is not positive.
#[track_caller]
pub fn false_negative_cancellation(views: &[&Tensor], o: &Cancellation) -> Result<Cancelled> {
    false_negative_cancellation_ranks(views, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's views. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`false_negative_cancellation`]; `Numerics` when ranks differ in images, or when these are no multiple of 16
/// and there is more than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn false_negative_cancellation_ranks(views: &[&Tensor], o: &Cancellation, comm: &Arc<Comm>) -> Result<Cancelled> {
    check_temperature("false_negative_cancellation", o.temperature)?;
    let [first, .., _] = views else {
        let got = format!("{} views", views.len());
        return Err(Error::new(ErrorKind::Shape, "false_negative_cancellation", got).expected("at least 2"));
    };
    let mut batch = Batch::of_pairs("false_negative_cancellation", first, first, comm)?;
    for view in &views[1..] {
        batch = Batch::of_pairs("false_negative_cancellation", first, view, comm)?;
    }
    let views = views.iter().map(|view| unit(view)).collect::<Result<Vec<_>>>()?;
    let of = |rows: &Tensor| {
        let dots =
            views.iter().map(|columns| all_dots(rows, columns, batch.first, comm)).collect::<Result<Vec<_>>>()?;
        Tensor::concat(&dots.iter().collect::<Vec<_>>(), 1)
    };
    let dots = views.iter().map(of).collect::<Result<Vec<_>>>()?; // [n, V N] each
    let found = find(&dots, o, &batch)?;
    let number = found.iter().map(Vec::len).sum::<usize>() as f64 / batch.local as f64;
    let losses = (0..views.len()).map(|u| of_view(&dots[u], u, views.len(), &found, o, &batch));
    let losses = losses.collect::<Result<Vec<_>>>()?;
    let mean = batch_mean(&Tensor::concat(&losses.iter().collect::<Vec<_>>(), 1)?, &batch, comm)?;
    Ok(Cancelled { loss: mean.scale(2.0)?, found: number })
}

/// F of each image here, as columns.
fn find(dots: &[Tensor], o: &Cancellation, batch: &Batch) -> Result<Vec<Vec<usize>>> {
    let [_, candidates] = dots[0].dims()?;
    let mut score = dots[0].array().clone();
    for view in &dots[1..] {
        score = ops::binary(ops::Binary::Max, &score, view.array())?;
    }
    // An image's own views are no candidates, and one that is left over is below every threshold.
    let (best, at) = ops::topk(&score, (o.most + dots.len()).min(candidates))?;
    let (best, at) = (ops::cast(&best, DType::F64)?.to_vec::<f64>()?, at.to_vec::<i64>()?);
    let width = best.len() / batch.local;
    let of_image = |row: usize| {
        let ranked = (row * width..(row + 1) * width).map(|i| (at[i] as usize, best[i]));
        let others = ranked.filter(|(column, _)| column % batch.global != batch.first + row);
        others.take(o.most).filter(|(_, score)| *score > o.threshold).map(|(column, _)| column).collect()
    };
    Ok((0..batch.local).map(of_image).collect())
}

/// l of view `u` of each image, `[n, 1]`.
fn of_view(
    dots: &Tensor,
    u: usize,
    views: usize,
    found: &[Vec<usize>],
    o: &Cancellation,
    batch: &Batch,
) -> Result<Tensor> {
    let [n, candidates] = dots.dims()?;
    let logits = dots.scale(1.0 / o.temperature)?;
    let column = |view: usize, row: usize| view * batch.global + batch.first + row;
    let (mut itself, mut share) = (vec![false; n * candidates], vec![0.0; n * candidates]);
    for (row, found) in found.iter().enumerate() {
        itself[row * candidates + column(u, row)] = true;
        let own = (0..views).filter(|view| *view != u).map(|view| column(view, row));
        let weight = 1.0 / (views - 1 + found.len()) as f64;
        own.chain(found.iter().copied()).for_each(|positive| share[row * candidates + positive] = weight);
    }
    let itself = Array::from_slice(&itself, dots.shape(), dots.device())?;
    let share = ops::cast(&Array::from_slice(&share, dots.shape(), dots.device())?, dots.dtype())?;
    let positive = logits.mul(&Tensor::constant(share))?.sum(&[1], true)?;
    let others = Tensor::select(&itself, &constant(f64::NEG_INFINITY, dots)?, &logits)?;
    others.log_sum_exp()?.reshape(&[n, 1])?.sub(&positive)
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "false_negative_cancellation",
    doc: "views of an image attract each other, and those of other images that look most like any of them",
    paper: "Huynh et al. 2022, Boosting Contrastive Self-Supervised Learning with False Negative Cancellation, \
            arXiv:2011.11765",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[Port::new("z", "[V, N, D]", "embeddings of V views of N images, V at least 2")],
    outputs: &[Port::new("loss", "[]", "twice the mean over the views of the batch")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.1,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the cosines",
        },
        OptionSpec {
            name: "most",
            default: 10.0,
            allowed: |x| x >= 0.0 && x.fract() == 0.0,
            range: "a whole number, not negative",
            doc: "how many false negatives an image has at most",
        },
        OptionSpec {
            name: "threshold",
            default: 0.7,
            allowed: f64::is_finite,
            range: "a finite number",
            doc: "the similarity above which a view of another image is a false negative",
        },
    ],
    run: |inputs, options| {
        let o = Cancellation {
            temperature: options.get("temperature")?,
            most: options.get("most")? as usize,
            threshold: options.get("threshold")?,
        };
        let z = &inputs["z"];
        let [m, n, d] = z.dims()?;
        let views = (0..m).map(|i| z.slice(0, i, i + 1)?.reshape(&[n, d])).collect::<Result<Vec<_>>>()?;
        let found = false_negative_cancellation(&views.iter().collect::<Vec<_>>(), &o)?;
        Ok(BTreeMap::from([("loss".to_string(), found.loss)]))
    },
    cases,
    oracle,
    facts: &[Fact {
        what: "2 ln(2N-1): every pair of two views equally similar (collapse, or no learning yet)",
        value: |images, _| 2.0 * Real::log(2.0 * images as f64 - 1.0),
    }],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (m, n, d) = (g.pick(&[2, 3]), g.dim(), 3 + g.pick(&[0, 4]));
    let z = g.array(&[m, n, d], Domain::Distinct)?;
    let set = [
        ("temperature", g.pick(&["0.2", "1.0"])),
        ("most", g.pick(&["0", "3", "10"])),
        ("threshold", g.pick(&["0.3", "0.7"])),
    ];
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value.to_string())))?;
    Ok(LossCase { inputs: BTreeMap::from([("z".to_string(), z)]), options })
}

/// The definition in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [views, n, d] = case.inputs["z"].dims()?;
    let z = case.inputs["z"].to_vec::<f64>()?;
    let option = |name: &str| case.options.get(name);
    let (t, most, threshold) = (option("temperature")?, option("most")? as usize, option("threshold")?);
    let row = |c: usize| &z[c * d..(c + 1) * d];
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let cosine = |a: usize, b: usize| dot(row(a), row(b)) / (dot(row(a), row(a)).sqrt() * dot(row(b), row(b)).sqrt());
    let mut sum = 0.0;
    for a in 0..n {
        let score = |c: usize| (0..views).map(|v| cosine(v * n + a, c)).fold(f64::NEG_INFINITY, f64::max);
        let mut candidates: Vec<usize> = (0..views * n).filter(|c| c % n != a).collect();
        candidates.sort_by(|x, y| score(*y).total_cmp(&score(*x)));
        candidates.truncate(most);
        candidates.retain(|c| score(*c) > threshold);
        for u in (0..views).map(|v| v * n + a) {
            let total: f64 = (0..views * n).filter(|c| *c != u).map(|c| Real::exp(cosine(u, c) / t)).sum();
            let mut positives: Vec<usize> = (0..views).map(|v| v * n + a).filter(|c| *c != u).collect();
            positives.extend(&candidates);
            let mean = positives.iter().map(|c| cosine(u, *c) / t).sum::<f64>() / positives.len() as f64;
            sum += Real::log(total) - mean;
        }
    }
    Ok(2.0 * sum / (views * n) as f64)
}
