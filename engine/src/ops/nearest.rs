//! The best of some columns for each row of a matrix, without the matrix of their products.

use super::by_row::expect_shape;
use super::operand::same_kind;
use super::sort::{Ordered, argmax, extremum_at};
use super::{Float, is_half, kernels_for, matmul, span, sub, with_real};
use crate::cpu::contract::Context;
use crate::cpu::pairs::{DotProducts, DotStrips, Dots, Num, block_of, strips, tile_len};
use crate::order::CHUNK;
use crate::{Array, Error, ErrorKind, Result};
use selfsame_kernels::stamp;
use std::ops::Range;

/// For each row of x `[n, d]` the row of `of` `[k, d]` with the largest x · of - offset, `[n]` i64; of equals the lowest.
/// Offsets are `[k]`, 0 if there are none.
///
/// That is [`argmax`] of [`matmul`] less the offsets, to the bit. With half the squared length as offset it is the row
/// at the least distance.
///
/// # Errors
/// When shapes, element types or devices do not fit, k is 0, or the type is not a float.
pub fn nearest(x: &Array, of: &Array, offsets: Option<&Array>) -> Result<Array> {
    const OP: &str = "nearest";
    let ([n, d], [k, depth]) = (x.dims()?, of.dims()?);
    same_kind(OP, x, of)?;
    if d != depth || k == 0 {
        return Err(Error::new(ErrorKind::Shape, OP, format!("{:?} for rows {:?}", of.shape(), x.shape()))
            .expected("at least one row, of the same length"));
    }
    if let Some(offsets) = offsets {
        same_kind(OP, x, offsets)?;
        expect_shape(OP, "offsets", offsets, &[k])?;
    }
    if kernels_for(x).is_some() || is_half(x.dtype()) || d == 0 {
        let dots = matmul(x, &of.transpose(0, 1)?)?;
        return argmax(&offsets.map_or(Ok(dots.clone()), |offsets| sub(&dots, offsets))?, 1);
    }
    let _span = span(OP, &[x, of], |_| (0, 2 * n * k * d, 0));
    let (x, of, offsets) = (x.contiguous()?, of.contiguous()?, offsets.map(Array::contiguous).transpose()?);
    with_real!(OP, x.dtype(), T, {
        let rows = [x.as_slice::<T>()?, of.as_slice::<T>()?];
        let offsets = offsets.as_ref().map(Array::as_slice::<T>).transpose()?;
        Array::build::<i64>(x.device(), &[n], OP, |cpu, out| {
            let cx = cpu.contraction();
            let search = Search { dots: Dots::ahead(&cx, rows, [n, k, d]), offsets, k };
            cpu.workers().run_chunks(out, ROWS, |task, out| {
                let first = task * ROWS;
                search.run(&cx, first..first + out.len(), out);
            });
            Ok(())
        })
    })
}

/// Rows of a task.
const ROWS: usize = 112;

struct Search<'a, T: Num> {
    dots: Dots<'a, T>,
    offsets: Option<&'a [T]>,
    k: usize,
}

impl<T: Num + Float + Ordered> Search<'_, T> {
    fn run(&self, cx: &Context<'_>, rows: Range<usize>, out: &mut [i64]) {
        let Search { dots, offsets, k } = self;
        let mut scratch = cx.scratch.lease::<T>(dots.scratch_len());
        let mut tile = cx.scratch.lease::<T>(tile_len(dots.max_rows()));
        let mut scores = cx.scratch.lease::<T>(dots.max_rows() * k);
        for strip in strips(rows.clone(), dots.max_rows(), 1) {
            for block in 0..k.div_ceil(CHUNK) {
                let columns = block_of(block, *k);
                dots.block(block, &mut scratch).strip(strip.clone(), &mut tile);
                for (dots, scores) in tile.chunks(tile_len(1)).zip(scores.chunks_mut(*k)).take(strip.len()) {
                    let (dots, scores) = (&dots[..columns.len()], &mut scores[columns.clone()]);
                    match offsets {
                        Some(offsets) => subtract(cx.isa, dots, &offsets[columns.clone()], scores),
                        None => scores.copy_from_slice(dots),
                    }
                }
            }
            for (row, scores) in strip.zip(scores.chunks(*k)) {
                out[row - rows.start] = extremum_at(cx.isa, scores, true) as i64;
            }
        }
    }
}

stamp! {
    fn subtract<T: Float>(from: &[T], what: &[T], to: &mut [T]) {
        for ((to, from), what) in to.iter_mut().zip(from).zip(what) {
            *to = *from - *what;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::cast;
    use crate::ops::testing::{devices, noise};
    use crate::{DType, Device};

    /// Ragged strips, tasks and blocks of columns; ties, NaN and infinities.
    #[test]
    fn the_nearest_are_the_largest_of_all_products() {
        for device in devices() {
            for [n, k, d] in [[230, 700, 9], [15, 513, 600], [1, 1, 1], [0, 3, 4], [3, 2, 0]] {
                let rows = |len: usize, seed| -> Array {
                    let mut values = noise(&[len, d], seed, &device).to_vec::<f32>().unwrap();
                    values.iter_mut().for_each(|value| *value = (*value * 4.0).round());
                    if let Some(value) = values.get_mut(40) {
                        *value = f32::NAN;
                    }
                    Array::from_slice(&values, &[len, d], &device).unwrap()
                };
                let (x, of, offsets) = (rows(n, 1), rows(k, 2), noise(&[k], 3, &device));
                let dots = matmul(&x, &of.transpose(0, 1).unwrap()).unwrap();
                let bits = |array: &Array| array.to_vec::<i64>().unwrap();
                let expected = argmax(&dots, 1).unwrap();
                assert_eq!(bits(&nearest(&x, &of, None).unwrap()), bits(&expected), "{n}, {k}, {d}");
                let expected = argmax(&sub(&dots, &offsets).unwrap(), 1).unwrap();
                assert_eq!(bits(&nearest(&x, &of, Some(&offsets)).unwrap()), bits(&expected), "{n}, {k}, {d}");
            }
        }
    }

    #[test]
    fn wrong_operands_are_refused() {
        let device = Device::cpu_with(1).unwrap();
        let (x, of) = (noise(&[3, 4], 1, &device), noise(&[2, 4], 2, &device));
        assert_eq!(nearest(&x, &noise(&[2, 5], 2, &device), None).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(nearest(&x, &of, Some(&noise(&[3], 2, &device))).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(nearest(&x, &noise(&[0, 4], 2, &device), None).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(nearest(&x, &cast(&of, DType::F64).unwrap(), None).unwrap_err().kind(), ErrorKind::DType);
    }
}
