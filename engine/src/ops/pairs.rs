//! Sums over all pairs of rows and columns, and their gradients, without the matrix of pairs.
//!
//! Rows q_i `[m, d]` meet columns k_j `[n, d]`: dot_ij = q_i · k_j, in the order of [`matmul`](super::matmul). A row's
//! sum runs over blocks of 512 columns in order, so its bits depend neither on tiles nor on which rows are at hand:
//! some rows of a problem, with all its columns, have the results that they have in the whole.
//!
//! Rows and columns in bf16 are multiplied as [`contract_bf16`](selfsame_kernels::reference::contract_bf16) says; all that
//! is computed from their dot products, and the gradients, are in f32, as the results are.
//!
//! Of each function there are three forms: rows alone; rows and columns of one matrix (each column is then a row of the
//! transposed problem) from one pass; and rows that are the columns, where each pair is computed once. The bits are
//! those of the first form.

use super::operand::{same_device, same_kind};
use super::{Float, cast, kernels_for, unsupported};
use crate::cpu::pairs::{Mask, Problem, Side, Sides, Statistics, Stored, Sums, pair_gradients, pair_sums};
use crate::gpu::pairs::Pairs;
use crate::profile::Work;
use crate::{Array, DType, Device, Element, Error, ErrorKind, Result, bf16};

pub use selfsame_kernels::reference::PairTerm;

/// Pairs that take no part, on indices of all rows and columns.
#[derive(Clone, Debug, Default)]
pub enum Excluded {
    /// Every pair takes part.
    #[default]
    None,
    /// The row's own column, `[m]` i64: where rows are also columns. A negative number leaves nothing out.
    Own(Array),
    /// Pairs whose keys are equal: duplicates, false negatives.
    SameKey {
        /// Keys of the rows, `[m]` i64.
        rows: Array,
        /// Keys of the columns, `[n]` i64.
        columns: Array,
        /// By row, a column that takes part all the same (its partner), `[m]` i64; none where negative.
        kept: Option<Array>,
    },
    /// Row r leaves out columns `columns[starts[r]..starts[r + 1]]`, increasing. Both are i64, `starts` is `[m + 1]`.
    Listed {
        /// Where each row's list starts; the last element is the length of all.
        starts: Array,
        /// The lists, one after another.
        columns: Array,
    },
}

impl Excluded {
    /// Whether (i, j) is left out exactly where (j, i) is, in a problem whose `n` rows are its columns: what the
    /// symmetric forms ask for.
    ///
    /// # Errors
    /// When lengths do not fit.
    pub fn is_symmetric(&self, n: usize) -> Result<bool> {
        Ok(self.mask("pair_rows", [n, n])?.is_symmetric(n))
    }

    /// Checked for m rows and n columns.
    fn mask(&self, op: &'static str, [m, n]: [usize; 2]) -> Result<Mask> {
        let integers = |name: &str, x: &Array, len: usize| {
            if x.shape() != [len] {
                return Err(Error::new(ErrorKind::Shape, op, format!("{name} {:?}", x.shape()))
                    .expected(format!("[{len}] for {m} rows and {n} columns")));
            }
            x.to_vec::<i64>()
        };
        match self {
            Excluded::None => Ok(Mask::None),
            Excluded::Own(own) => Ok(Mask::Own(integers("own columns", own, m)?)),
            Excluded::SameKey { rows, columns, kept } => {
                let kept = kept.as_ref().map(|kept| integers("kept columns", kept, m)).transpose()?;
                Ok(Mask::same_key(&integers("keys of rows", rows, m)?, &integers("keys of columns", columns, n)?, kept))
            }
            Excluded::Listed { starts, columns } => {
                let starts = integers("starts of lists", starts, m + 1)?;
                let columns = integers("listed columns", columns, columns.numel())?;
                let bounds: Vec<usize> = starts.iter().filter_map(|&at| usize::try_from(at).ok()).collect();
                let is_ordered = bounds.len() == starts.len()
                    && bounds.windows(2).all(|w| w[0] <= w[1])
                    && bounds.last() == Some(&columns.len());
                let increases = |w: &[usize]| columns[w[0]..w[1]].windows(2).all(|c| c[0] < c[1]);
                if !is_ordered || !bounds.windows(2).all(increases) {
                    return Err(Error::new(ErrorKind::Config, op, "lists out of order")
                        .expected("starts that do not decrease and end at the number of columns listed")
                        .hint("columns increase within a row, each named once"));
                }
                Ok(Mask::Listed { starts: bounds, columns })
            }
        }
    }
}

/// What [`pair_rows`] computes beside value and sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairStatistics {
    /// See [`PairRows::weighted_dot`].
    pub weighted_dot: bool,
    /// See [`PairRows::top`].
    pub top: bool,
}

/// The results of rows over all columns that take part; each `[m]`.
#[derive(Clone, Debug)]
pub struct PairRows {
    /// log sum e^x, -infinity over no columns; [`PairTerm::Softplus`]: sum of softplus(x).
    pub value: Array,
    /// Sum of e: e^(x - shift), [`PairTerm::Exp`] e^(x - largest x of the row), [`PairTerm::Softplus`] sigmoid(x).
    pub sum: Array,
    /// Sum of e dot. Over `sum` it is the derivative of `value` with respect to the scale ([`PairTerm::Softplus`]: it
    /// is that itself).
    pub weighted_dot: Option<Array>,
    /// The column of the largest dot product, i64, of equals the first; -1 where no dot product is above -infinity.
    pub top: Option<Array>,
}

/// One side of a gradient: what is known of its rows (or columns), each `[m]` (or `[n]`).
#[derive(Clone, Copy, Debug)]
pub struct PairSide<'a> {
    /// The gradient of the value; for [`PairTerm::ExpShifted`] that over the sum.
    pub weight: &'a Array,
    /// [`PairRows::value`], which [`PairTerm::Exp`] alone reads.
    pub value: &'a Array,
}

/// The sums of `rows` `[m, d]` over `columns` `[n, d]`.
///
/// # Errors
/// `Shape` when shapes do not fit; `DType` unless both are f32, both f64 or both bf16; `Config` for lists out of order.
pub fn pair_rows(
    rows: &Array,
    columns: &Array,
    term: PairTerm,
    excluded: &Excluded,
    statistics: PairStatistics,
) -> Result<PairRows> {
    let [rows, _] = forward("pair_rows", Sides::Rows, [rows, columns], term, excluded, statistics)?;
    Ok(rows)
}

/// [`pair_rows`] of the rows over the columns, and of the columns over the rows with the same pairs excluded.
///
/// # Errors
/// As for [`pair_rows`].
pub fn pair_rows_and_columns(
    rows: &Array,
    columns: &Array,
    term: PairTerm,
    excluded: &Excluded,
    statistics: PairStatistics,
) -> Result<[PairRows; 2]> {
    forward("pair_rows_and_columns", Sides::Both, [rows, columns], term, excluded, statistics)
}

/// [`pair_rows`] of `z` `[n, d]` over itself.
///
/// # Errors
/// As for [`pair_rows`]; `Config` unless exclusions are symmetric.
pub fn pair_rows_symmetric(
    z: &Array,
    term: PairTerm,
    excluded: &Excluded,
    statistics: PairStatistics,
) -> Result<PairRows> {
    let [rows, _] = forward("pair_rows_symmetric", Sides::Symmetric, [z, z], term, excluded, statistics)?;
    Ok(rows)
}

/// The gradient `[m, d]` of the rows: scale sum_j G_ij k_j, with G from the gradients of the rows' values and, where
/// `column` is given, of the columns' values (whose rows of the transposed problem hold the row, too).
///
/// G_ij = e_ij (row weight + column weight), or for [`PairTerm::Exp`] row weight exp(x - row value) + column weight
/// exp(x - column value); +0 for excluded pairs.
///
/// # Errors
/// As for [`pair_rows`].
pub fn pair_rows_grad(
    rows: &Array,
    columns: &Array,
    term: PairTerm,
    excluded: &Excluded,
    row: Option<PairSide<'_>>,
    column: Option<PairSide<'_>>,
) -> Result<Array> {
    let [rows, _] = backward("pair_rows_grad", Sides::Rows, [rows, columns], term, excluded, [row, column])?;
    Ok(rows)
}

/// The gradients of the rows, as [`pair_rows_grad`], and of the columns, that of the transposed problem.
///
/// # Errors
/// As for [`pair_rows`].
pub fn pair_rows_and_columns_grad(
    rows: &Array,
    columns: &Array,
    term: PairTerm,
    excluded: &Excluded,
    row: Option<PairSide<'_>>,
    column: Option<PairSide<'_>>,
) -> Result<[Array; 2]> {
    backward("pair_rows_and_columns_grad", Sides::Both, [rows, columns], term, excluded, [row, column])
}

/// The gradient of `z` for [`pair_rows_symmetric`], in both of its places.
///
/// # Errors
/// As for [`pair_rows_symmetric`].
pub fn pair_rows_symmetric_grad(z: &Array, term: PairTerm, excluded: &Excluded, side: PairSide<'_>) -> Result<Array> {
    let sides = [Some(side), Some(side)];
    let [dz, _] = backward("pair_rows_symmetric_grad", Sides::Symmetric, [z, z], term, excluded, sides)?;
    Ok(dz)
}

/// Checked operands.
struct Operands {
    rows: Array,
    columns: Array,
    /// m, n, d.
    dims: [usize; 3],
    mask: Mask,
}

impl Operands {
    fn new(op: &'static str, sides: Sides, [rows, columns]: [&Array; 2], excluded: &Excluded) -> Result<Operands> {
        same_kind(op, rows, columns)?;
        let (&[m, d], &[n, columns_d]) = (rows.shape(), columns.shape()) else {
            return Err(shapes(op, rows, columns));
        };
        if d != columns_d || n > u32::MAX as usize || m > u32::MAX as usize {
            return Err(shapes(op, rows, columns));
        }
        let mask = excluded.mask(op, [m, n])?;
        if sides == Sides::Symmetric && !mask.is_symmetric(n) {
            return Err(Error::new(ErrorKind::Config, op, "exclusions that differ between (i, j) and (j, i)")
                .expected("symmetric ones")
                .hint("the form with rows and columns apart takes any"));
        }
        Ok(Operands { rows: rows.contiguous()?, columns: columns.contiguous()?, dims: [m, n, d], mask })
    }

    /// What `products` matrix products over all pairs cost, one of them the dot products. Where rows are the columns,
    /// half of these are computed; each gives its share of the gradient to both of its rows.
    fn work(&self, sides: Sides, products: usize) -> Work {
        let [m, n, d] = self.dims;
        let pairs = m * n;
        let dots = if sides == Sides::Symmetric { pairs / 2 } else { pairs };
        let bytes = products * (m + n) * d * self.rows.dtype().size();
        Work::moving(bytes).flop(2 * d * (dots + (products - 1) * pairs)).special(dots)
    }

    fn problem<S: Stored + Element>(&self, term: PairTerm, sides: Sides) -> Result<Problem<'_, S>> {
        let (rows, columns) = (self.rows.as_slice()?, self.columns.as_slice()?);
        Ok(Problem { rows, columns, dims: self.dims, term: term.cast(), mask: &self.mask, sides })
    }
}

/// Runs an expression with type names bound to that of the rows and to that of the numbers computed from them.
macro_rules! with_rows {
    ($op:expr, $dtype:expr, [$S:ident, $T:ident], $body:expr) => {
        match $dtype {
            DType::F32 => with_rows!(@ f32, f32, [$S, $T], $body),
            DType::F64 => with_rows!(@ f64, f64, [$S, $T], $body),
            DType::BF16 => with_rows!(@ bf16, f32, [$S, $T], $body),
            other => Err(unsupported($op, other, "f32, f64 or bf16")),
        }
    };
    (@ $s:ty, $t:ty, [$S:ident, $T:ident], $body:expr) => {{
        type $S = $s;
        type $T = $t;
        $body
    }};
}

/// The type of what is computed from rows.
fn computed_in(rows: DType) -> DType {
    if rows == DType::BF16 { DType::F32 } else { rows }
}

fn shapes(op: &'static str, rows: &Array, columns: &Array) -> Error {
    Error::new(ErrorKind::Shape, op, format!("rows {:?}, columns {:?}", rows.shape(), columns.shape()))
        .expected("[m, d] and [n, d], fewer than 2^32 of each")
}

/// The results of the rows, and for [`Sides::Both`] those of the columns; the second are not for use otherwise.
fn forward(
    op: &'static str,
    sides: Sides,
    arrays: [&Array; 2],
    term: PairTerm,
    excluded: &Excluded,
    statistics: PairStatistics,
) -> Result<[PairRows; 2]> {
    let operands = Operands::new(op, sides, arrays, excluded)?;
    let device = arrays[0].device();
    let _span = device.span(op, || operands.work(sides, 1));
    if let Some(gpu) = kernels_for(&operands.rows) {
        let Operands { rows, columns, dims: [m, n, _], mask } = &operands;
        let of_rows =
            Pairs::new(gpu, [rows, columns], term.cast(), mask)?.sums(sides == Sides::Symmetric, statistics)?;
        let of_columns = if sides == Sides::Both {
            Pairs::new(gpu, [columns, rows], term.cast(), &mask.transposed([*m, *n]))?.sums(false, statistics)?
        } else {
            of_rows.clone()
        };
        return Ok([of_rows, of_columns]);
    }
    with_rows!(op, arrays[0].dtype(), [S, T], {
        let problem = operands.problem::<S>(term, sides)?;
        let PairStatistics { weighted_dot, top } = statistics;
        let cx = device.host().contraction();
        let [rows, columns] = pair_sums(&cx, &problem, Statistics { weighted_dot, top });
        Ok([
            results::<T>(device, op, &rows.0, &rows.1, statistics)?,
            results::<T>(device, op, &columns.0, &columns.1, statistics)?,
        ])
    })
}

fn results<T: Float>(
    device: &Device,
    op: &'static str,
    values: &[T],
    sums: &[Sums<T>],
    statistics: PairStatistics,
) -> Result<PairRows> {
    let array = |of: &dyn Fn(usize) -> T| {
        Array::build::<T>(device, &[sums.len()], op, |_, to| {
            to.iter_mut().enumerate().for_each(|(row, to)| *to = of(row));
            Ok(())
        })
    };
    let top = || {
        Array::build::<i64>(device, &[sums.len()], op, |_, to| {
            to.iter_mut().zip(sums).for_each(|(to, sums)| *to = sums.top_column().map_or(-1, i64::from));
            Ok(())
        })
    };
    Ok(PairRows {
        value: array(&|row| values[row])?,
        sum: array(&|row| sums[row].sum)?,
        weighted_dot: if statistics.weighted_dot { Some(array(&|row| sums[row].weighted_dot)?) } else { None },
        top: if statistics.top { Some(top()?) } else { None },
    })
}

/// The gradients of the rows and of the columns, as [`forward`].
fn backward(
    op: &'static str,
    sides: Sides,
    arrays: [&Array; 2],
    term: PairTerm,
    excluded: &Excluded,
    [row, column]: [Option<PairSide<'_>>; 2],
) -> Result<[Array; 2]> {
    let operands = Operands::new(op, sides, arrays, excluded)?;
    let [m, n, d] = operands.dims;
    let (row, column) = (side(op, "row", row, m, arrays[0])?, side(op, "column", column, n, arrays[0])?);
    let device = arrays[0].device();
    let _span = device.span(op, || operands.work(sides, if sides == Sides::Both { 3 } else { 2 }));
    if let Some(gpu) = kernels_for(&operands.rows) {
        let Operands { rows, columns, mask, .. } = &operands;
        let (row, column) = (row.each_ref(), column.each_ref());
        let of_rows = Pairs::new(gpu, [rows, columns], term.cast(), mask)?.grad(row, column)?;
        let of_columns = if sides == Sides::Both {
            Pairs::new(gpu, [columns, rows], term.cast(), &mask.transposed([m, n]))?.grad(column, row)?
        } else {
            of_rows.clone()
        };
        return Ok([of_rows, of_columns]);
    }
    with_rows!(op, arrays[0].dtype(), [S, T], {
        let problem = operands.problem::<S>(term, sides)?;
        let sides_of: [Side<'_, T>; 2] = [
            Side { weight: row[0].as_slice()?, value: row[1].as_slice()? },
            Side { weight: column[0].as_slice()?, value: column[1].as_slice()? },
        ];
        let to_columns = if sides == Sides::Both { n } else { 0 };
        let mut of_columns = Array::zeros(&[to_columns, d], computed_in(arrays[0].dtype()), device)?;
        let of_rows = Array::build::<T>(device, &[m, d], op, |cpu, to_rows| {
            pair_gradients(&cpu.contraction(), &problem, sides_of, to_rows, of_columns.make_mut::<T>()?);
            Ok(())
        })?;
        Ok([of_rows, of_columns])
    })
}

/// Weight and value of a side, zeros where there is none.
fn side(op: &'static str, name: &str, side: Option<PairSide<'_>>, len: usize, rows: &Array) -> Result<[Array; 2]> {
    let (dtype, device) = (computed_in(rows.dtype()), rows.device());
    let Some(PairSide { weight, value }) = side else {
        let weight = Array::zeros(&[len], dtype, device)?;
        // So that weight exp(x - value) is 0 for every x: exp(x) alone can overflow.
        let value = cast(&Array::full(f32::INFINITY, &[len], device)?, dtype)?;
        return Ok([weight, value]);
    };
    for x in [weight, value] {
        same_device(op, rows, x)?;
        if x.dtype() != dtype {
            return Err(Error::new(ErrorKind::DType, op, format!("{name} weights or values in {}", x.dtype()))
                .expected(format!("{dtype}, for rows in {}", rows.dtype())));
        }
        if x.shape() != [len] {
            return Err(Error::new(ErrorKind::Shape, op, format!("{name} weights or values {:?}", x.shape()))
                .expected(format!("[{len}]")));
        }
    }
    Ok([weight.contiguous()?, value.contiguous()?])
}

#[cfg(test)]
mod tests;
