//! Classification of cluster numbers, the loss of DeepCluster (Caron et al. 2018, arXiv:1807.05520; v2: 2020,
//! arXiv:2006.09882) and of self-labelling (Asano et al. 2020, arXiv:1911.05371).
//!
//! ```text
//! L = mean over views v and images i with a label y_i of - ln softmax(logits_vi / τ)[y_i]
//! ```
//!
//! Images without a cluster, such as those that the last pass over the data left out, have the label -100 and count
//! neither above nor below the fraction. With nothing left, loss and gradient are 0.

use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, constant, is_temperature};
use crate::sample_totals;
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::views::{batch_of, split_views};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Device, Error, ErrorKind, Result};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The label of an image without a cluster.
pub const IGNORED: i64 = -100;

/// The loss of the `logits` `[n, K]` of each view of this rank's images, whose clusters are `labels` `[n]` i64, at
/// `temperature` τ. A scalar over the images of all ranks, the same on each.
///
/// # Errors
/// `Shape` unless there is a view, all have one shape and rows, labels have one element for each row, and a label is a
/// cluster or [`IGNORED`]; `DType` unless labels are i64; `Config` for a temperature that is not positive; `Numerics`
/// when ranks differ in images, or when these are no multiple of 16 and there is more than one rank; or as for
/// [`Comm::exchange`].
#[track_caller]
pub fn cluster_cross_entropy_ranks(
    logits: &[Tensor],
    labels: &Array,
    temperature: f64,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    check_temperature("cluster_cross_entropy", temperature)?;
    let batch = batch_of("cluster_cross_entropy", logits, comm)?;
    let [_, k] = logits[0].dims()?;
    let labels = Labels::of(labels, k, &batch, comm)?;
    let entropies = logits.iter().map(|logits| labels.entropies(&logits.scale(1.0 / temperature)?.log_softmax()?));
    labels.mean(&entropies.collect::<Result<Vec<_>>>()?, &batch, comm)
}

/// The clusters of this rank's images.
pub(crate) struct Labels {
    /// The cluster of each image, 0 for those without, `[n, 1]`.
    clusters: Array,
    /// Whether there is one, `[n, 1]`.
    labelled: Array,
    /// Images with a cluster, of all ranks.
    count: usize,
}

impl Labels {
    /// From numbers `[n]` below `k`, or [`IGNORED`].
    pub(crate) fn of(labels: &Array, k: usize, batch: &Batch, comm: &Comm) -> Result<Labels> {
        let wrong = |got: String| Error::new(ErrorKind::Shape, "cluster_cross_entropy", got);
        if labels.shape() != [batch.local] {
            return Err(wrong(format!("labels {:?}", labels.shape())).expected(format!("[{}]", batch.local)));
        }
        let values = labels.to_vec::<i64>()?;
        if let Some(at) = values.iter().position(|y| *y != IGNORED && !(0..k as i64).contains(y)) {
            return Err(wrong(format!("label {} of image {at}", values[at]))
                .expected(format!("below {k}, or {IGNORED} for an image without a cluster")));
        }
        let count = comm.exchange(values.iter().filter(|y| **y != IGNORED).count())?.iter().sum();
        let clusters: Vec<i64> = values.iter().map(|y| *y.max(&0)).collect();
        let labelled: Vec<bool> = values.iter().map(|y| *y != IGNORED).collect();
        let (shape, device) = ([batch.local, 1], labels.device());
        Ok(Labels {
            clusters: Array::from_slice(&clusters, &shape, device)?,
            labelled: Array::from_slice(&labelled, &shape, device)?,
            count,
        })
    }

    /// -ln p of each image's cluster from `log_p` `[n, K]`; 0 without a cluster. `[n, 1]`.
    pub(crate) fn entropies(&self, log_p: &Tensor) -> Result<Tensor> {
        self.counted(&log_p.gather(1, &self.clusters)?.neg()?)
    }

    /// `l` `[n, 1]` where there is a cluster, else 0.
    pub(crate) fn counted(&self, l: &Tensor) -> Result<Tensor> {
        Tensor::select(&self.labelled, l, &constant(0.0, l)?)
    }

    /// The mean of the terms `l` `[n, 1]` of several views over these and the images with a cluster; what the others
    /// add is 0.
    pub(crate) fn mean(&self, l: &[Tensor], batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
        let columns = Tensor::concat(&l.iter().collect::<Vec<_>>(), 1)?;
        let terms = (self.count * l.len()).max(1);
        sample_totals(&columns, batch.first, comm)?.sum_all()?.scale(1.0 / terms as f64)
    }
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "cluster_cross_entropy",
    doc: "each view must be classified as the cluster of its image; images without a cluster do not count",
    paper: "Caron et al. 2018, Deep Clustering for Unsupervised Learning of Visual Features, arXiv:1807.05520",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("logits", "[V, N, K]", "the classifier's outputs for each view"),
        Port::new("labels", "[N]", "the cluster of each image; -100 for none").role(Role::Labels),
    ],
    outputs: &[Port::new("loss", "[]", "mean over views and images with a cluster")],
    options: &[OptionSpec {
        name: "temperature",
        default: 1.0,
        allowed: is_temperature,
        range: TEMPERATURE_RANGE,
        doc: "divides the logits; 0.1 for cosines with centroids (DeepCluster-v2)",
    }],
    run: |inputs, options| {
        let comm = Arc::new(Comm::single());
        let logits = split_views(&inputs["logits"])?;
        let labels = inputs["labels"].array();
        let loss = cluster_cross_entropy_ranks(&logits, labels, options.get("temperature")?, &comm)?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

/// Labels of which about one in four is missing.
pub(crate) fn some_labels(g: &mut Gen, n: usize, k: usize) -> Result<Array> {
    let labels: Vec<i64> = (0..n).map(|_| if g.one_in(4) { IGNORED } else { g.below(k) as i64 }).collect();
    let device: Device = g.device().clone();
    Array::from_slice(&labels, &[n], &device)
}

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (views, n, k) = (g.pick(&[1, 2, 4]), g.dim(), g.dim());
    let labels = some_labels(g, n, k)?;
    let logits = g.array(&[views, n, k], Domain::Normal)?;
    let options = Options::parse(&SPEC, &[("temperature".to_string(), g.pick(&["0.5", "1"]).to_string())])?;
    Ok(LossCase { inputs: BTreeMap::from([("logits".to_string(), logits), ("labels".to_string(), labels)]), options })
}

/// The definition in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let [views, n, k] = case.inputs["logits"].dims()?;
    let (logits, labels) = (case.inputs["logits"].to_vec::<f64>()?, case.inputs["labels"].to_vec::<i64>()?);
    let tau = case.options.get("temperature")?;
    let mut terms = Vec::new();
    for view in 0..views {
        for (i, label) in labels.iter().enumerate().filter(|(_, label)| **label >= 0) {
            let row = &logits[(view * n + i) * k..][..k];
            let weight = |x: f64| Real::exp(x / tau);
            terms.push(-Real::log(weight(row[*label as usize]) / row.iter().map(|x| weight(*x)).sum::<f64>()));
        }
    }
    Ok(terms.iter().sum::<f64>() / terms.len().max(1) as f64)
}
