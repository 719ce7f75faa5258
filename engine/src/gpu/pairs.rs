//! Sums over all pairs of rows, and their gradients, as kernels, without the matrix of pairs. Operands are f32.
//!
//! Each row of thread blocks owns rows. Where there are too few rows for a large GPU, the blocks of 512 columns are
//! spread over thread blocks as well, and joined in order: the same bits. Columns are rows of the transposed problem.

mod rules;

use super::contract::{ENOUGH_TILES, Matrices, matmul};
use super::convert::cast;
use super::join::filled;
use super::{GpuDevice, extent, update};
use crate::cpu::pairs::Mask;
use crate::ops::{PairRows, PairStatistics, PairTerm};
use crate::{Array, DType, Result};
use rules::Rules;
use selfsame_kernels::device::pairs as k;
use selfsame_kernels::device::pairs::gradient as g;
use selfsame_kernels::order::CHUNK;

const OWNER: &str = "pairs";

/// Rows of a thread block of sums or of gradients; of sums with [`PairTerm::Exp`] it has half as many.
const BLOCK_ROWS: usize = 64;

/// Most elements of a matrix that is held for a moment: of G, or of parts of a gradient. 256 MiB.
const MOST_ELEMENTS: usize = 1 << 26;

/// Longest rows whose gradient is one kernel.
const FUSED: usize = 256;

/// Weights and values of the rows, or of the columns.
pub(crate) type Side<'a> = [&'a Array; 2];

/// Rows `[m, d]` against columns `[n, d]`.
pub(crate) struct Pairs<'a> {
    gpu: &'a GpuDevice,
    /// Their rows have at least one element.
    rows: Array,
    columns: Array,
    /// m, n, d, which may be 0.
    dims: [usize; 3],
    term: PairTerm<f32>,
    rules: Rules,
}

/// What is known of each row by part of its columns: `[4, parts, m]`, and the columns of the tops `[parts, m]`.
struct Parts {
    sums: Array,
    tops: Array,
    count: usize,
}

impl<'a> Pairs<'a> {
    /// The problem whose rows and columns are contiguous.
    pub(crate) fn new(
        gpu: &'a GpuDevice,
        [rows, columns]: [&Array; 2],
        term: PairTerm<f32>,
        mask: &Mask,
    ) -> Result<Pairs<'a>> {
        let ([m, d], [n, _]) = (rows.dims()?, columns.dims()?);
        // Without an element dot products are +0; so they are with one that is +0.
        let lines = |x: &Array, count: usize| {
            if d > 0 { Ok(x.clone()) } else { filled(gpu, 0, &[count, 1], DType::F32, OWNER) }
        };
        let rules = Rules::new(gpu, mask, [m, n])?;
        Ok(Pairs { gpu, rows: lines(rows, m)?, columns: lines(columns, n)?, dims: [m, n, d], term, rules })
    }

    /// The sums of all rows. `symmetric`: the columns are the rows, and pairs are left out both ways.
    pub(crate) fn sums(&self, symmetric: bool, statistics: PairStatistics) -> Result<PairRows> {
        let [m, n, _] = self.dims;
        if symmetric && self.has_symmetric_kernel() && triangle(n) >= ENOUGH_TILES {
            return self.joined(&self.symmetric_parts()?, statistics);
        }
        let each = if m.div_ceil(BLOCK_ROWS) >= ENOUGH_TILES { n.div_ceil(CHUNK).max(1) } else { 1 };
        self.joined(&self.parts(each)?, statistics)
    }

    /// Multiplier and addend of the dot products, as kernels take them.
    fn scale_and_bias(&self) -> [f32; 2] {
        match self.term {
            PairTerm::ExpShifted { scale, shift } => [scale, -shift],
            // The addend that changes no product.
            PairTerm::Exp { scale } => [scale, -0.0],
            PairTerm::Softplus { scale, bias } => [scale, bias],
        }
    }

    fn empty_parts(&self, count: usize) -> Result<Parts> {
        let m = self.dims[0];
        let sums = self.gpu.empty(&[4, count, m], DType::F32, OWNER)?;
        Ok(Parts { sums, tops: self.gpu.empty(&[count, m], DType::I32, OWNER)?, count })
    }

    /// The sums with `each` blocks of columns to a part: 1, or all.
    fn parts(&self, each: usize) -> Result<Parts> {
        let Pairs { gpu, rows, columns, dims: [m, n, _], rules, .. } = self;
        let mut parts = self.empty_parts(n.div_ceil(CHUNK).div_ceil(each))?;
        let [scale, bias] = self.scale_and_bias();
        macro_rules! launch {
            ($kernel:ident) => {{
                let args = k::$kernel::Args {
                    q: rows.cells()?,
                    k: columns.cells()?,
                    own: rules.own.cells()?,
                    row_key: rules.row_key.cells()?,
                    column_key: rules.column_key.cells()?,
                    keep: rules.keep.cells()?,
                    starts: rules.starts.cells()?,
                    list: rules.list.cells()?,
                    sums: parts.sums.cells_mut()?,
                    tops: parts.tops.cells_mut()?,
                    m: extent(*m)?,
                    n: extent(*n)?,
                    d: extent(rows.shape()[1])?,
                    rules: rules.rules,
                    listed: extent(rules.list.numel())?,
                    each: extent(each)?,
                    scale,
                    bias,
                };
                gpu.submit(|launcher| args.launch(launcher))?;
            }};
        }
        match self.term {
            PairTerm::ExpShifted { .. } => launch!(pair_rows_fixed),
            PairTerm::Exp { .. } => launch!(pair_rows_online),
            PairTerm::Softplus { .. } => launch!(pair_rows_softplus),
        }
        Ok(parts)
    }

    /// Whether the kernel that computes each dot product once takes this problem, if it is symmetric. With chunks of
    /// elements it needs more shared memory than GPUs before compute capability 9.0 have.
    fn has_symmetric_kernel(&self) -> bool {
        let is_fixed = matches!(self.term, PairTerm::ExpShifted { .. });
        is_fixed && self.rules.rules & k::LIST == 0 && self.dims[2] <= CHUNK
    }

    /// [`Pairs::parts`] with one block to a part, from half the dot products.
    fn symmetric_parts(&self) -> Result<Parts> {
        let Pairs { gpu, rows, dims: [_, n, _], rules, .. } = self;
        let mut parts = self.empty_parts(n.div_ceil(CHUNK))?;
        let [scale, bias] = self.scale_and_bias();
        let args = k::pair_rows_symmetric::Args {
            q: rows.cells()?,
            own: rules.own.cells()?,
            key: rules.row_key.cells()?,
            keep: rules.keep.cells()?,
            sums: parts.sums.cells_mut()?,
            tops: parts.tops.cells_mut()?,
            n: extent(*n)?,
            d: extent(rows.shape()[1])?,
            rules: rules.rules,
            scale,
            bias,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        Ok(parts)
    }

    /// The results of parts in order.
    fn joined(&self, parts: &Parts, statistics: PairStatistics) -> Result<PairRows> {
        let Pairs { gpu, dims: [m, ..], .. } = *self;
        let floats = || gpu.empty(&[m], DType::F32, OWNER);
        let (mut value, mut sum, mut weighted_dot) = (floats()?, floats()?, floats()?);
        let mut top = gpu.empty(&[m], DType::I32, OWNER)?;
        let (form, shift) = match self.term {
            PairTerm::ExpShifted { shift, .. } => (k::FIXED, shift),
            PairTerm::Exp { .. } => (k::ONLINE, 0.0),
            PairTerm::Softplus { .. } => (k::SOFTPLUS, 0.0),
        };
        let args = k::pair_rows_join::Args {
            sums: parts.sums.cells()?,
            tops: parts.tops.cells()?,
            value: value.cells_mut()?,
            sum: sum.cells_mut()?,
            weighted_dot: weighted_dot.cells_mut()?,
            top: top.cells_mut()?,
            rows: extent(m)?,
            parts: extent(parts.count)?,
            form,
            shift,
        };
        gpu.submit(|launcher| args.launch(launcher))?;
        // The kernel's number of no column has the bits of -1.
        let top = if statistics.top { Some(cast(gpu, &top, DType::I64)?) } else { None };
        Ok(PairRows { value, sum, weighted_dot: statistics.weighted_dot.then_some(weighted_dot), top })
    }

    /// The gradient `[m, d]` of the rows.
    pub(crate) fn grad(&self, row: Side<'_>, column: Side<'_>) -> Result<Array> {
        let [m, n, d] = self.dims;
        if d == 0 {
            return self.gpu.empty(&[m, 0], DType::F32, OWNER);
        }
        if d > FUSED {
            // Whole thread blocks of rows.
            let at_once = MOST_ELEMENTS / n.max(1) / BLOCK_ROWS * BLOCK_ROWS;
            return self.grad_by_products(row, column, at_once.max(BLOCK_ROWS));
        }
        let blocks = n.div_ceil(CHUNK);
        let has_enough_rows = m.div_ceil(BLOCK_ROWS) >= ENOUGH_TILES || blocks * m * d > MOST_ELEMENTS;
        self.fused_grad(row, column, if has_enough_rows { blocks.max(1) } else { 1 })
    }

    /// The gradient from one kernel for rows of up to [`FUSED`] elements, with `each` blocks of columns to a part: 1,
    /// or all.
    fn fused_grad(&self, row: Side<'_>, column: Side<'_>, each: usize) -> Result<Array> {
        let Pairs { gpu, rows, columns, dims: [m, n, d], rules, .. } = self;
        let parts = n.div_ceil(CHUNK).div_ceil(each);
        let [scale, bias] = self.scale_and_bias();
        let mut of_parts = gpu.empty(&[parts, *m, *d], DType::F32, OWNER)?;
        let [row, column] = self.read(row, column)?;
        macro_rules! launch {
            ($kernel:ident) => {{
                let args = g::$kernel::Args {
                    q: rows.cells()?,
                    k: columns.cells()?,
                    own: rules.own.cells()?,
                    row_key: rules.row_key.cells()?,
                    column_key: rules.column_key.cells()?,
                    keep: rules.keep.cells()?,
                    starts: rules.starts.cells()?,
                    list: rules.list.cells()?,
                    row_weight: row[0].cells()?,
                    row_value: row[1].cells()?,
                    column_weight: column[0].cells()?,
                    column_value: column[1].cells()?,
                    dq: of_parts.cells_mut()?,
                    m: extent(*m)?,
                    n: extent(*n)?,
                    d: extent(*d)?,
                    rules: rules.rules,
                    listed: extent(rules.list.numel())?,
                    each: extent(each)?,
                    scale,
                    bias,
                    factor: if parts == 1 { scale } else { 1.0 },
                };
                gpu.submit(|launcher| args.launch(launcher))?;
            }};
        }
        match (self.term, *d <= FUSED / 2) {
            (PairTerm::ExpShifted { .. }, true) => launch!(pair_grad_fixed),
            (PairTerm::ExpShifted { .. }, false) => launch!(pair_grad_fixed_wide),
            (PairTerm::Exp { .. }, true) => launch!(pair_grad_online),
            (PairTerm::Exp { .. }, false) => launch!(pair_grad_online_wide),
            (PairTerm::Softplus { .. }, true) => launch!(pair_grad_softplus),
            (PairTerm::Softplus { .. }, false) => launch!(pair_grad_softplus_wide),
        }
        if parts == 1 {
            return of_parts.reshape(&[*m, *d]);
        }
        let mut sum = gpu.empty(&[*m, *d], DType::F32, OWNER)?;
        let (len, parts) = (extent(m * d)?, extent(parts)?);
        let args = g::pair_grad_join::Args { dq: of_parts.cells()?, sum: sum.cells_mut()?, len, parts, factor: scale };
        gpu.submit(|launcher| args.launch(launcher))?;
        Ok(sum)
    }

    /// The gradient as products of G, `at_once` rows of it at a time, with the columns.
    fn grad_by_products(&self, row: Side<'_>, column: Side<'_>, at_once: usize) -> Result<Array> {
        let Pairs { gpu, dims: [m, n, d], .. } = *self;
        let mut gradient = gpu.empty(&[m, d], DType::F32, OWNER)?;
        for start in (0..m).step_by(at_once) {
            let end = m.min(start + at_once);
            let weights = self.weights([start, end], row, column)?;
            let matrix = |array: Array, row_stride| Matrices { array, row_stride, col_stride: 1, batch_stride: 0 };
            let operands = (&matrix(weights, n), &matrix(self.columns.clone(), d));
            let product = matmul(gpu, operands, [1, end - start, d, n], &[end - start, d])?;
            gradient.write_part(gpu, start * d, &update::scale(gpu, product, self.term.scale())?)?;
        }
        Ok(gradient)
    }

    /// G of rows `start..end`.
    fn weights(&self, [start, end]: [usize; 2], row: Side<'_>, column: Side<'_>) -> Result<Array> {
        let Pairs { gpu, columns, dims: [_, n, d], .. } = self;
        let rows = self.rows.slice(0, start, end)?;
        let rules = self.rules.of_rows(start, end)?;
        let [scale, bias] = self.scale_and_bias();
        let mut weights = gpu.empty(&[end - start, *n], DType::F32, OWNER)?;
        let row = [row[0].slice(0, start, end)?, row[1].slice(0, start, end)?];
        let [row, column] = self.read([&row[0], &row[1]], column)?;
        macro_rules! launch {
            ($kernel:ident) => {{
                let args = g::$kernel::Args {
                    q: rows.cells()?,
                    k: columns.cells()?,
                    own: rules.own.cells()?,
                    row_key: rules.row_key.cells()?,
                    column_key: rules.column_key.cells()?,
                    keep: rules.keep.cells()?,
                    starts: rules.starts.cells()?,
                    list: rules.list.cells()?,
                    row_weight: row[0].cells()?,
                    row_value: row[1].cells()?,
                    column_weight: column[0].cells()?,
                    column_value: column[1].cells()?,
                    g: weights.cells_mut()?,
                    m: extent(end - start)?,
                    n: extent(*n)?,
                    d: extent(*d)?,
                    rules: rules.rules,
                    listed: extent(rules.list.numel())?,
                    scale,
                    bias,
                };
                gpu.submit(|launcher| args.launch(launcher))?;
            }};
        }
        match self.term {
            PairTerm::ExpShifted { .. } => launch!(pair_weights_fixed),
            PairTerm::Exp { .. } => launch!(pair_weights_online),
            PairTerm::Softplus { .. } => launch!(pair_weights_softplus),
        }
        Ok(weights)
    }

    /// Both sides as kernels read them: values for [`PairTerm::Exp`] alone.
    fn read(&self, row: Side<'_>, column: Side<'_>) -> Result<[[Array; 2]; 2]> {
        let is_online = matches!(self.term, PairTerm::Exp { .. });
        let read = |[weight, value]: Side<'_>| -> Result<[Array; 2]> {
            Ok([weight.clone(), value.slice(0, 0, if is_online { value.numel() } else { 0 })?])
        };
        Ok([read(row)?, read(column)?])
    }
}

/// Pairs of blocks of 512 rows that [`Pairs::symmetric_parts`] has a thread block for.
fn triangle(n: usize) -> usize {
    let blocks = n.div_ceil(CHUNK);
    blocks * (blocks + 1) / 2
}

#[cfg(test)]
mod tests;
