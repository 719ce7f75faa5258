//! The queue of MoCo (He et al. 2020, arXiv:1911.05722, section 3.2): keys of past batches, first in, first out.

use super::NewValues;
use crate::batch::LEAST_NORM;
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Comm, DType, Device, Error, ErrorKind, Result, ops};
use selfsame_kernels::philox::{self, Key, Purpose};

/// K keys `[K, D]` in a ring, and optionally the image that each is of.
///
/// The keys of a batch replace the oldest ones. Rows of no image yet are Gaussian vectors at length 1, keyed by the
/// queue's path.
pub struct Queue {
    path: String,
    keys: Param,
    images: Option<Param>,
    pointer: Param,
}

impl Queue {
    /// The id of a row that is still its first, random value.
    pub const NO_IMAGE: i64 = -1;

    /// A queue of `length` keys of `dim` elements at `path`.
    ///
    /// # Errors
    /// `DType` unless floats; `OutOfMemory`.
    pub fn new(path: &str, length: usize, dim: usize, dtype: DType, seed: u64, device: &Device) -> Result<Queue> {
        let path_of_keys = format!("{path}.keys");
        let stream = Key::new(seed, Purpose::Init).stream(0, philox::key_of_path(&path_of_keys), 0);
        let (rows, _) = ops::l2_normalize(&ops::normal(&[length, dim], dtype, 0.0, 1.0, &stream, device)?, LEAST_NORM)?;
        Ok(Queue {
            path: path.to_string(),
            keys: Param::new(path_of_keys, Role::Buffer, rows),
            images: None,
            pointer: Param::new(format!("{path}.pointer"), Role::Buffer, Array::scalar(0i64, device)?),
        })
    }

    /// The same that also keeps which image each key is of.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn with_images(mut self) -> Result<Queue> {
        let keys = self.keys.array();
        let path = format!("{}.images", self.path);
        let none = Array::full(Queue::NO_IMAGE, &keys.shape()[..1], keys.device())?;
        self.images = Some(Param::new(path, Role::Buffer, none));
        Ok(self)
    }

    /// The keys `[K, D]` as they are before this step's, a constant.
    pub fn keys(&self) -> Tensor {
        self.keys.constant()
    }

    /// The image of each key, `[K]` i64, [`Queue::NO_IMAGE`] for those of none; nothing for a queue without images.
    pub fn images(&self) -> Option<Array> {
        self.images.as_ref().map(Param::array)
    }

    /// The row that the next key replaces: the newest keys are just before it.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn pointer(&self) -> Result<usize> {
        // Written by `enqueue` alone, which keeps it inside the ring.
        Ok(self.pointer.array().item::<i64>()? as usize)
    }

    /// Replaces the oldest keys by those of the step: `keys` `[n, D]` and `images` `[n]` of this rank, which meet those
    /// of the others in rank order.
    ///
    /// # Errors
    /// `Shape` unless keys have that shape and there are images exactly where the queue keeps them, one for each key;
    /// `Config` unless the length of the queue is a multiple of the keys of all ranks; as for [`Comm::exchange`].
    pub fn enqueue(&self, keys: &Array, images: Option<&Array>, comm: &Comm) -> Result<NewValues> {
        let old = self.keys.array();
        let [length, dim] = old.dims()?;
        let [local, width] = keys.dims()?;
        let what = format!("queue '{}'", self.path);
        let images_fit = match (&self.images, images) {
            (None, None) => true,
            (Some(_), Some(images)) => images.shape() == [local],
            _ => false,
        };
        if width != dim || !images_fit {
            let got = format!("keys {:?}, images {:?}", keys.shape(), images.map(Array::shape));
            let images = if self.images.is_some() { "their images [n]" } else { "no images" };
            return Err(Error::new(ErrorKind::Shape, what, got).expected(format!("keys [n, {dim}] and {images}")));
        }
        let keys = comm.all_gather(keys)?;
        let new = keys.shape()[0];
        if new == 0 || !length.is_multiple_of(new) {
            return Err(Error::new(ErrorKind::Config, what, format!("{length} keys for a batch of {new}"))
                .expected("a multiple of the batch")
                .hint("choose the length of the queue as a multiple of the batch of all ranks"));
        }
        if length == 0 {
            return Ok(NewValues::new());
        }
        let at = self.pointer()?;
        let pointer = Array::scalar(((at + new) % length) as i64, old.device())?;
        let mut values = vec![(self.keys.clone(), overwrite(&old, &keys, at)?), (self.pointer.clone(), pointer)];
        if let (Some(kept), Some(images)) = (&self.images, images) {
            values.push((kept.clone(), overwrite(&kept.array(), &comm.all_gather(images)?, at)?));
        }
        Ok(values)
    }

    /// Shows the buffers to `v`.
    pub fn visit(&self, v: &mut dyn ParamVisitor) {
        for buffer in [Some(&self.keys), self.images.as_ref(), Some(&self.pointer)].into_iter().flatten() {
            v.param(buffer.path(), buffer);
        }
    }
}

/// `ring` with the rows from `at` on replaced by `new`, at most as many, going on at the start behind the end.
fn overwrite(ring: &Array, new: &Array, at: usize) -> Result<Array> {
    let (length, count) = (ring.shape()[0], new.shape()[0]);
    let before_end = count.min(length - at);
    let around = count - before_end;
    let behind = (at + count).min(length);
    let parts = [
        new.slice(0, before_end, count)?,
        ring.slice(0, around, at)?,
        new.slice(0, 0, before_end)?,
        ring.slice(0, behind, length)?,
    ];
    ops::concat(&parts.iter().collect::<Vec<_>>(), 0)
}
