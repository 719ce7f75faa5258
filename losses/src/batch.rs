//! What losses over all pairs of a batch share: where a rank's images are, unit vectors, and numbers that may be learned.

use crate::sample_totals::sample_copies;
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result, ops};
use std::sync::Arc;

/// Lengths below this count as this when embeddings are normalised, so that a zero vector has similarity 0 to all.
pub(crate) const LEAST_NORM: f64 = 1e-12;

/// The rows of `x` `[n, d]` at length 1.
pub(crate) fn unit(x: &Tensor) -> Result<Tensor> {
    x.l2_normalize(LEAST_NORM)
}

/// The dot product of each row of `a` `[n, d]` with that row of `b`: `[n, 1]`.
pub(crate) fn row_dots(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    a.mul(b)?.sum(&[1], true)
}

/// Where a rank's images are in the batch of all ranks.
pub(crate) struct Batch {
    /// Images here.
    pub(crate) local: usize,
    /// Images of all ranks.
    pub(crate) global: usize,
    /// Global number of the first image here.
    pub(crate) first: usize,
}

impl Batch {
    /// Rank r of ranks with `local` images each holds images r·local to (r+1)·local.
    pub(crate) fn new(local: usize, comm: &Comm) -> Batch {
        Batch { local, global: local * comm.size(), first: local * comm.rank() }
    }

    /// The batch of pairs `a`, `b` `[n, D]`.
    ///
    /// # Errors
    /// `Shape` unless both have that shape and n is positive, `Numerics` when ranks differ in n.
    pub(crate) fn of_pairs(loss: &'static str, a: &Tensor, b: &Tensor, comm: &Comm) -> Result<Batch> {
        let [n, _] = a.dims()?;
        if n == 0 || a.shape() != b.shape() {
            return Err(Error::new(ErrorKind::Shape, loss, format!("{:?} and {:?}", a.shape(), b.shape()))
                .expected("[n, D] twice, n at least 1"));
        }
        Batch::agreed(loss, n, comm)
    }

    /// The batch of ranks that hold `n` images each.
    ///
    /// # Errors
    /// `Numerics` when ranks differ in n.
    pub(crate) fn agreed(loss: &'static str, n: usize, comm: &Comm) -> Result<Batch> {
        let shares = comm.exchange(n)?;
        if shares.iter().any(|share| *share != n) {
            return Err(Error::new(ErrorKind::Numerics, loss, format!("ranks of {shares:?} images"))
                .expected("equally many on every rank")
                .hint("choose ranks that divide the batch into equal multiples of 16 images"));
        }
        Ok(Batch::new(n, comm))
    }

    /// The global number of each row here, where rows are the first views of all images, then the second ones.
    pub(crate) fn places(&self) -> impl Iterator<Item = usize> {
        let Batch { local, global, first } = *self;
        (0..2 * local).map(move |row| row / local * global + first + row % local)
    }
}

/// The ids of the images of all ranks, from those of this rank's, `[n]` i64.
///
/// # Errors
/// `Shape` or `DType` unless there is an integer for each image; or as for [`Comm::exchange`].
pub(crate) fn all_ids(loss: &'static str, ids: &Array, batch: &Batch, comm: &Comm) -> Result<Vec<i64>> {
    if ids.shape() != [batch.local] {
        return Err(Error::new(ErrorKind::Shape, loss, format!("ids {:?}", ids.shape()))
            .expected(format!("[{}], one for each image", batch.local)));
    }
    Ok(comm.exchange(ids.to_vec::<i64>()?)?.concat())
}

/// A number of a loss.
#[derive(Clone)]
pub enum Coefficient {
    /// A constant.
    Fixed(f64),
    /// A scalar tensor, such as a parameter; every rank holds the same. Of its gradients on the ranks the first rank's
    /// is the whole and the others' are 0.
    Learned(Tensor),
}

impl Coefficient {
    /// The input of a loss where it is given, else a constant.
    pub(crate) fn given(input: Option<&Tensor>, otherwise: f64) -> Coefficient {
        input.map_or(Coefficient::Fixed(otherwise), |tensor| Coefficient::Learned(tensor.clone()))
    }

    /// As a tensor `[]` of the type of `like`.
    ///
    /// # Errors
    /// As for [`check_scalar`].
    pub(crate) fn tensor(&self, loss: &'static str, like: &Tensor) -> Result<Tensor> {
        match self {
            Coefficient::Fixed(value) => constant(*value, like),
            Coefficient::Learned(tensor) => check_scalar(loss, tensor, like).map(|()| tensor.clone()),
        }
    }
}

/// # Errors
/// `Shape` unless the learned `number` is a scalar; `DType` when it has another type than the embeddings `like`.
pub(crate) fn check_scalar(loss: &'static str, number: &Tensor, like: &Tensor) -> Result<()> {
    if number.dtype() != like.dtype() {
        return Err(Error::new(ErrorKind::DType, loss, format!("a coefficient in {}", number.dtype().name()))
            .expected(format!("{}, as the embeddings", like.dtype().name())));
    }
    if !number.shape().is_empty() {
        return Err(Error::new(ErrorKind::Shape, loss, format!("a coefficient {:?}", number.shape())).expected("[]"));
    }
    Ok(())
}

/// A constant scalar of the type of `like`.
pub(crate) fn constant(value: f64, like: &Tensor) -> Result<Tensor> {
    Ok(Tensor::constant(ops::cast(&Array::scalar(value, like.device())?, like.dtype())?))
}

/// A scalar once per image here: `[n, 1]`. Its gradient is summed over the images of all ranks.
pub(crate) fn per_image(number: &Tensor, batch: &Batch, comm: &Arc<Comm>) -> Result<Tensor> {
    sample_copies(&number.reshape(&[1])?, batch.local, batch.first, comm)
}

/// Whether a loss can divide similarities by it.
pub(crate) fn is_temperature(t: f64) -> bool {
    t.is_finite() && t > 0.0
}

/// What [`is_temperature`] allows.
pub(crate) const TEMPERATURE_RANGE: &str = "a positive number";

/// # Errors
/// `Config` unless it is a temperature.
pub(crate) fn check_temperature(loss: &'static str, t: f64) -> Result<()> {
    if is_temperature(t) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Config, loss, format!("temperature {t}")).expected(TEMPERATURE_RANGE))
}
