//! Which pairs are left out, as the kernels of pairs read it.

use super::super::join::filled;
use super::super::{GpuDevice, extent};
use super::OWNER;
use crate::cpu::pairs::Mask;
use crate::{Array, DType, Device, Result};
use selfsame_kernels::device::pairs::{KEYS, LIST, NONE};

/// The arguments of that name: indices and keys, as the bits of i32. What a rule that does not hold needs is empty.
pub(super) struct Rules {
    pub(super) own: Array,
    pub(super) row_key: Array,
    pub(super) column_key: Array,
    pub(super) keep: Array,
    pub(super) starts: Array,
    pub(super) list: Array,
    pub(super) rules: u32,
}

impl Rules {
    /// Those of `mask` for m rows and n columns.
    pub(super) fn new(gpu: &GpuDevice, mask: &Mask, [m, n]: [usize; 2]) -> Result<Rules> {
        let device = Device::Gpu(gpu.clone());
        let upload = |values: &[u32]| {
            let bits: Vec<i32> = values.iter().map(|x| x.cast_signed()).collect();
            Array::from_slice(&bits, &[bits.len()], &device)
        };
        let column = |at: i64| u32::try_from(at).ok().filter(|at| (*at as usize) < n);
        let upload_columns =
            |of_rows: &[i64]| upload(&of_rows.iter().map(|at| column(*at).unwrap_or(NONE)).collect::<Vec<u32>>());
        let nowhere = || filled(gpu, u64::from(NONE), &[m], DType::I32, OWNER);
        let empty = upload(&[])?;
        let none = |own: Array| Rules {
            own,
            row_key: empty.clone(),
            column_key: empty.clone(),
            keep: empty.clone(),
            starts: empty.clone(),
            list: empty.clone(),
            rules: 0,
        };
        Ok(match mask {
            Mask::None => none(nowhere()?),
            Mask::Own(own) => none(upload_columns(own)?),
            Mask::SameKey { rows, columns, kept } => Rules {
                row_key: upload(rows)?,
                column_key: upload(columns)?,
                keep: kept.as_deref().map_or_else(nowhere, upload_columns)?,
                rules: KEYS,
                ..none(nowhere()?)
            },
            Mask::Listed { starts, columns } => {
                let mut list = Vec::new();
                let mut bounds = vec![0];
                for row in starts.windows(2) {
                    list.extend(columns[row[0]..row[1]].iter().filter_map(|at| column(*at)));
                    bounds.push(extent(list.len())?);
                }
                Rules { starts: upload(&bounds)?, list: upload(&list)?, rules: LIST, ..none(nowhere()?) }
            }
        })
    }

    /// Those of rows `start..end` alone.
    pub(super) fn of_rows(&self, start: usize, end: usize) -> Result<Rules> {
        let cut = |of_rows: &Array, end: usize| {
            if of_rows.numel() == 0 { Ok(of_rows.clone()) } else { of_rows.slice(0, start, end) }
        };
        Ok(Rules {
            own: cut(&self.own, end)?,
            row_key: cut(&self.row_key, end)?,
            column_key: self.column_key.clone(),
            keep: cut(&self.keep, end)?,
            starts: cut(&self.starts, end + 1)?,
            list: self.list.clone(),
            rules: self.rules,
        })
    }
}
