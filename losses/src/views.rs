//! What losses over several views of each image share: the batch behind the views, means over its images, and the
//! cross-entropy of some views' targets against the predictions of all other views.

use crate::batch::{Batch, check_temperature};
use crate::sample_totals;
use selfsame_autograd::Tensor;
use selfsame_engine::ops::{self, Binary};
use selfsame_engine::{Array, Comm, DType, Error, ErrorKind, Result, Rows};
use std::sync::Arc;

/// The batch of images whose views are `views`, `[n, K]` each.
///
/// # Errors
/// `Shape` unless there is a view, all have one shape and n is positive; `Numerics` when ranks differ in n.
pub(crate) fn batch_of<'a>(
    loss: &'static str,
    views: impl IntoIterator<Item = &'a Tensor>,
    comm: &Comm,
) -> Result<Batch> {
    let shapes: Vec<&[usize]> = views.into_iter().map(Tensor::shape).collect();
    match shapes.first() {
        Some([n, _]) if *n > 0 && shapes.iter().all(|shape| shape == &shapes[0]) => Batch::agreed(loss, *n, comm),
        _ => Err(Error::new(ErrorKind::Shape, loss, format!("views {shapes:?}"))
            .expected("[n, K] for each view, at least one view and one image")),
    }
}

/// The mean of `l` `[n, c]` over its columns and the images of all ranks.
pub(crate) fn mean(l: &Tensor, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    let [_, columns] = l.dims()?;
    sample_totals(l, batch.first, comm)?.sum_all()?.scale(1.0 / (batch.global * columns) as f64)
}

/// The sum over the images of all ranks of the rows of constants `x` `[n, c]`: `[c]`, the same on every rank.
pub(crate) fn total(x: &Array, batch: &Batch, comm: &Comm) -> Result<Array> {
    let local = ops::rows_sum(x, Rows::of(x.shape(), batch.first)?)?;
    comm.all_sum(local)?.total()?.to_device(x.device())
}

/// -Σ_k t_ik ln p_ik for each row of targets t `[n, K]` and log-probabilities `log_p` `[n, K]`: `[n, 1]`. No gradient
/// goes to the targets.
pub(crate) fn cross_entropies(targets: &Tensor, log_p: &Tensor) -> Result<Tensor> {
    targets.detach().mul(log_p)?.sum(&[1], true)?.neg()
}

/// Swapped prediction: the mean over images and over pairs (a, v), a ≠ v, of the cross-entropy of the `targets` `[n, K]`
/// of view a against softmax(`logits` / `temperature`) of view v, `[n, K]` for each view; targets belong to the first
/// views. A scalar, the same on every rank. No gradient goes to the targets. SwAV, DINO and MIRA minimise it.
///
/// # Errors
/// `Shape` unless all have one shape, and there are two views and one target at least, no more targets than views;
/// `Config` for a temperature that is not positive; `Numerics` when ranks differ in images, or when these are no
/// multiple of 16 and there is more than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn swapped_cross_entropy(
    logits: &[Tensor],
    targets: &[Tensor],
    temperature: f64,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    const LOSS: &str = "swapped prediction";
    check_temperature(LOSS, temperature)?;
    let (given, views) = (targets.len(), logits.len());
    if given == 0 || views < 2 || given > views {
        return Err(Error::new(ErrorKind::Shape, LOSS, format!("targets of {given} views, predictions of {views}"))
            .expected("targets of one view or more, and predictions of these and of others, two at least"));
    }
    let batch = batch_of(LOSS, targets.iter().chain(logits), comm)?;
    let mut entropies = Vec::new();
    for (view, logits) in logits.iter().enumerate() {
        // A view meets the targets of all views but its own: one product with their sum.
        let mut others = targets.iter().enumerate().filter(|(a, _)| *a != view).map(|(_, target)| target.detach());
        let Some(first) = others.next() else { continue };
        let sum = others.try_fold(first, |sum, target| sum.add(&target))?;
        entropies.push(cross_entropies(&sum, &logits.scale(1.0 / temperature)?.log_softmax()?)?);
    }
    let l = Tensor::concat(&entropies.iter().collect::<Vec<_>>(), 1)?; // [n, views with others]
    let pairs = given * (views - 1);
    sample_totals(&l, batch.first, comm)?.sum_all()?.scale(1.0 / (batch.global * pairs) as f64)
}

/// The mean entropy in nats of distributions, `[n, K]` for each view: ln K where all are uniform, 0 where all are
/// certain. Of the images of all ranks, the same on each: for the log.
///
/// # Errors
/// `Shape` unless all views have one shape and rows; or as for [`Comm::exchange`].
pub fn mean_entropy(distributions: &[Tensor], comm: &Comm) -> Result<f64> {
    let batch = batch_of("mean_entropy", distributions, comm)?;
    let mut sum = 0.0;
    for p in distributions {
        let p = ops::cast(p.array(), DType::F64)?;
        // 0 ln 0 is 0.
        let log_p = ops::unary(ops::Unary::Log, &ops::binary_scalar(Binary::Max, &p, f64::MIN_POSITIVE)?)?;
        sum -= total(&ops::sum(&ops::mul(&p, &log_p)?, &[1], true)?, &batch, comm)?.to_vec::<f64>()?[0];
    }
    Ok(sum / (batch.global * distributions.len()) as f64)
}

/// The views that a tensor `[V, n, K]` holds.
///
/// # Errors
/// `Shape` for another number of axes.
pub(crate) fn split_views(x: &Tensor) -> Result<Vec<Tensor>> {
    let [views, n, k] = x.dims()?;
    (0..views).map(|view| x.slice(0, view, view + 1)?.reshape(&[n, k])).collect()
}
