//! What losses that pick a positive out of negatives share: sums over a queue, sums of two parts, means over the batch.

use crate::batch::{Batch, constant};
use crate::sample_totals;
use selfsame_autograd::Tensor;
use selfsame_autograd::ops::{Excluded, Pairs};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result};
use std::sync::Arc;

/// ln Σ_j exp(q_i·n_j / T) over the rows of `columns` `[K, D]` that are not excluded: `[n, 1]`. Unit vectors; every rank
/// holds the same columns, and no gradient goes to them.
pub(crate) fn log_sum_over(
    q: &Tensor,
    columns: &Tensor,
    temperature: f64,
    excluded: Excluded,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    let pairs = Pairs { excluded, comm: Arc::clone(comm), ..Pairs::default() };
    let scale = constant(1.0 / temperature, q)?;
    q.pair_log_sum_exp_over(&columns.detach(), &scale, Some(1.0), &pairs)?.value.reshape(&[q.shape()[0], 1])
}

/// ln(e^a + e^b), where `a` is finite; `b` may be -infinity.
pub(crate) fn log_add_exp(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.add(&b.sub(a)?.softplus()?)
}

/// The mean of `l` `[n, c]` over the images of all ranks and over its columns; a scalar.
pub(crate) fn batch_mean(l: &Tensor, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    let [_, columns] = l.dims()?;
    sample_totals(l, batch.first, comm)?.sum_all()?.scale(1.0 / (batch.global * columns) as f64)
}

/// The global number of each of this rank's images, `[n]` i64.
pub(crate) fn own_places(batch: &Batch, like: &Tensor) -> Result<Array> {
    let own: Vec<i64> = (batch.first..batch.first + batch.local).map(|image| image as i64).collect();
    Array::from_slice(&own, &[batch.local], like.device())
}

/// `[n, N]`: true where a row of this rank meets its own image among those of all ranks.
pub(crate) fn own_mask(batch: &Batch, like: &Tensor) -> Result<Array> {
    let Batch { local, global, first } = *batch;
    Array::on_host::<bool>(like.device(), &[local, global], "mask", |_, mask| {
        mask.fill(false);
        (0..local).for_each(|row| mask[row * global + first + row] = true);
        Ok(())
    })
}

/// # Errors
/// `Shape` unless `columns` has rows of the length of those of `q`.
pub(crate) fn check_width(loss: &'static str, q: &Tensor, name: &str, columns: &Tensor) -> Result<()> {
    let ([_, d], [_, width]) = (q.dims()?, columns.dims()?);
    if d == width {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, loss, format!("{name} {:?}", columns.shape()))
        .expected(format!("[K, {d}], as the queries")))
}

/// # Errors
/// `Shape` unless `x` has that shape.
pub(crate) fn check_shape(loss: &'static str, name: &str, x: &Array, shape: &[usize]) -> Result<()> {
    if x.shape() == shape {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, loss, format!("{name} {:?}", x.shape())).expected(format!("{shape:?}")))
}

/// # Errors
/// `Config` unless `is_allowed`.
pub(crate) fn check_option(
    loss: &'static str,
    name: &str,
    value: f64,
    is_allowed: fn(f64) -> bool,
    range: &'static str,
) -> Result<()> {
    if is_allowed(value) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, loss, format!("{name} {value}")).expected(range))
}

/// Whether a term can be weighted with it.
pub(crate) fn is_weight(x: f64) -> bool {
    x.is_finite() && x >= 0.0
}

/// What [`is_weight`] allows.
pub(crate) const WEIGHT_RANGE: &str = "a number that is not negative";

/// Whether it says yes or no.
pub(crate) fn is_flag(x: f64) -> bool {
    x == 0.0 || x == 1.0
}

/// What [`is_flag`] allows.
pub(crate) const FLAG_RANGE: &str = "0 or 1";
