//! The memory bank of Wu, Xiong, Yu, Lin 2018 (arXiv:1805.01978): a unit vector for each image of the data set, a
//! running average of the image's embeddings.

use super::NewValues;
use crate::batch::LEAST_NORM;
use selfsame_autograd::{Param, ParamVisitor, Role, Tensor};
use selfsame_engine::{Array, Comm, DType, Device, Error, ErrorKind, Result, ops};
use selfsame_kernels::philox::{self, Key, Purpose};
use std::collections::BTreeMap;

/// Rows `[N, D]` by the position of the image in the data set.
///
/// Before its image was seen a row is uniform in a cube around 0, brought to length 1, keyed by the bank's path.
pub struct MemoryBank {
    rows: Param,
}

impl MemoryBank {
    /// A bank of `images` rows of `dim` elements at `path`.
    ///
    /// # Errors
    /// `DType` unless floats; `OutOfMemory`.
    pub fn new(path: &str, images: usize, dim: usize, dtype: DType, seed: u64, device: &Device) -> Result<MemoryBank> {
        let path = format!("{path}.rows");
        let stream = Key::new(seed, Purpose::Init).stream(0, philox::key_of_path(&path), 0);
        let cube = ops::uniform(&[images, dim], dtype, -1.0, 1.0, &stream, device)?;
        let (rows, _) = ops::l2_normalize(&cube, LEAST_NORM)?;
        Ok(MemoryBank { rows: Param::new(path, Role::Buffer, rows) })
    }

    /// All rows `[N, D]` as they are before this step's change, a constant.
    pub fn rows(&self) -> Tensor {
        self.rows.constant()
    }

    /// m_i = unit(momentum·m_i + (1 - momentum)·v_i) for the images of the batch: `images` `[n]` i64 and their unit
    /// vectors `v` `[n, D]` of this rank, which meet those of the others in rank order. An image that is there twice
    /// takes its last vector. Other rows stay as they are, to the bit.
    ///
    /// # Errors
    /// `Shape` unless shapes fit and images are below N; `DType` unless images are i64; `Config` for a momentum outside
    /// `[0, 1]`; as for [`Comm::exchange`].
    pub fn update(&self, images: &Array, v: &Array, momentum: f64, comm: &Comm) -> Result<NewValues> {
        let bank = self.rows.array();
        let [count, dim] = bank.dims()?;
        let [n, width] = v.dims()?;
        let what = || format!("memory bank '{}'", self.rows.path());
        if width != dim || images.shape() != [n] {
            return Err(Error::new(
                ErrorKind::Shape,
                what(),
                format!("v {:?}, images {:?}", v.shape(), images.shape()),
            )
            .expected(format!("[n, {dim}] and [n]")));
        }
        if !(0.0..=1.0).contains(&momentum) {
            return Err(Error::new(ErrorKind::Config, what(), format!("momentum {momentum}")).expected("0 to 1"));
        }
        let v = comm.all_gather(v)?;
        let images = comm.exchange(images.to_vec::<i64>()?)?.concat();
        // By image, the place of its last vector.
        let last: BTreeMap<i64, i64> = images.into_iter().zip(0..).collect();
        let numbers = |x: Vec<i64>| Array::from_slice(&x, &[x.len()], bank.device());
        let (changed, places) = (numbers(last.keys().copied().collect())?, numbers(last.values().copied().collect())?);
        let kept = ops::scale(ops::index_select(&bank, 0, &changed)?, momentum)?;
        let mixed = ops::add_scaled(kept, 1.0 - momentum, &ops::index_select(&v, 0, &places)?)?;
        let (mixed, _) = ops::l2_normalize(&mixed, LEAST_NORM)?;
        // Row i of the new bank is row i of the old one, or that of the mixed ones behind it.
        let mut from: Vec<i64> = (0..count as i64).collect();
        last.keys().zip(count as i64..).for_each(|(image, at)| from[*image as usize] = at);
        let rows = ops::index_select(&ops::concat(&[&bank, &mixed], 0)?, 0, &numbers(from)?)?;
        Ok(vec![(self.rows.clone(), rows)])
    }

    /// Shows the buffer to `v`.
    pub fn visit(&self, v: &mut dyn ParamVisitor) {
        v.param(self.rows.path(), &self.rows);
    }
}
