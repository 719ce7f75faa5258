//! Order along an axis: `sort`, `argsort`, `topk` over the last axis, `argmax`, `argmin`, and `cumsum`.
//!
//! One total order everywhere: NaN is the largest value, -0 equals +0, and equal values keep their order of position.

use super::by_row::{split_last, write_rows, write_rows_reading};
use super::index::around_axis;
use super::{is_half, kernels_for, span, through_f32, unsupported, with_real};
use crate::gpu;
use crate::{Array, DType, Element, Error, ErrorKind, Result, bf16, f16};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::stamp;
use std::cmp::Ordering;

/// (values, positions) of the last axis in ascending or descending order; positions are i64. Stable in both
/// directions: equal values come in order of position. NaN is last ascending, first descending.
///
/// # Errors
/// For rank 0 or bool.
pub fn sort(x: &Array, descending: bool) -> Result<(Array, Array)> {
    let _span = span("sort", &[x], |n| (3 * n, 0, 0));
    let (_, len) = split_last("sort", x)?;
    if let Some(gpu) = kernels_for(x) {
        return gpu::sort::ranked(gpu, "sort", x, (len, len), descending, x.shape());
    }
    ranked("sort", x, len, if descending { Rank::Descending } else { Rank::Ascending })
}

/// The positions that [`sort`] returns.
///
/// # Errors
/// As for [`sort`].
pub fn argsort(x: &Array, descending: bool) -> Result<Array> {
    sort(x, descending).map(|(_, positions)| positions)
}

/// (values, positions) of the `k` largest of the last axis, largest first; of equals the lowest position first.
///
/// # Errors
/// For rank 0, bool, or a `k` beyond the axis.
pub fn topk(x: &Array, k: usize) -> Result<(Array, Array)> {
    let _span = span("topk", &[x], |_| (0, 0, 0));
    let (lead, len) = split_last("topk", x)?;
    if k > len {
        return Err(Error::new(ErrorKind::Shape, "topk", format!("k = {k} of shape {:?}", x.shape()))
            .expected(format!("k of at most {len}")));
    }
    if let Some(gpu) = kernels_for(x) {
        return gpu::sort::ranked(gpu, "topk", x, (len, k), true, &[lead, &[k]].concat());
    }
    ranked("topk", x, k, Rank::Largest)
}

/// The position (i64) of the largest element along `axis`, which goes; of equals the lowest.
///
/// # Errors
/// When the axis does not exist or is empty, or for bool.
pub fn argmax(x: &Array, axis: usize) -> Result<Array> {
    arg_extremum("argmax", x, axis, Ordering::Greater)
}

/// The position (i64) of the smallest element along `axis`, which goes; of equals the lowest. NaN counts as largest.
///
/// # Errors
/// As for [`argmax`].
pub fn argmin(x: &Array, axis: usize) -> Result<Array> {
    arg_extremum("argmin", x, axis, Ordering::Less)
}

/// Running sums along `axis`: one chain of additions from the first element.
///
/// # Errors
/// When the axis does not exist or the type is not a float.
pub fn cumsum(x: &Array, axis: usize) -> Result<Array> {
    if is_half(x.dtype()) {
        return through_f32(x, |x| cumsum(x, axis));
    }
    let _span = span("cumsum", &[x], |n| (n, n, 0));
    let lengths @ [_, len, inner] = around_axis("cumsum", x, axis)?;
    if let Some(gpu) = kernels_for(x) {
        return gpu::sort::cumsum(gpu, x, lengths);
    }
    let block = len * inner;
    let x = x.contiguous()?;
    with_real!("cumsum", x.dtype(), T, {
        let values = x.as_slice::<T>()?;
        Array::build::<T>(x.device(), x.shape(), "cumsum", |cpu, out| {
            write_rows(cpu, out, block, |_: &mut (), row, out| {
                out.copy_from_slice(&values[row * block..(row + 1) * block]);
                for i in inner..block {
                    out[i] += out[i - inner];
                }
            });
            Ok(())
        })
    })
}

/// Element types with the total order of this file.
pub(super) trait Ordered: Element {
    /// A number that is larger for a value that comes later, and equal for equals.
    fn key(self) -> u64;

    /// Whether `self` comes after `other`, or is NaN: what a vector can tell at once.
    fn may_exceed(self, other: Self) -> bool;
}

macro_rules! ordered {
    ($($type:ty: $key:expr, $may_exceed:expr);* $(;)?) => {$(
        impl Ordered for $type {
            #[inline(always)]
            fn key(self) -> u64 {
                let key = $key;
                key(self)
            }

            #[inline(always)]
            fn may_exceed(self, other: Self) -> bool {
                let may_exceed = $may_exceed;
                may_exceed(self, other)
            }
        }
    )*};
}
ordered! {
    f32: |a: f32| float_key(a.into()), |a: f32, b: f32| (a > b) | a.is_nan();
    f64: float_key, |a: f64, b: f64| (a > b) | a.is_nan();
    bf16: |a: bf16| float_key(a.into()), |a: bf16, b: bf16| (a > b) | a.is_nan();
    f16: |a: f16| float_key(a.into()), |a: f16, b: f16| (a > b) | a.is_nan();
    i32: |a: i32| integer_key(a.into()), |a: i32, b: i32| a > b;
    i64: integer_key, |a: i64, b: i64| a > b;
    u8: |a: u8| a.into(), |a: u8, b: u8| a > b;
}

#[inline(always)]
fn float_key(x: f64) -> u64 {
    if x.is_nan() {
        return u64::MAX;
    }
    // +0 for both zeros.
    let bits = (x + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

#[inline(always)]
fn integer_key(x: i64) -> u64 {
    x.cast_unsigned() ^ 1 << 63
}

/// Runs an expression with a type name bound to an ordered element type.
macro_rules! with_ordered {
    ($op:expr, $dtype:expr, $T:ident, $body:expr) => {
        match $dtype {
            DType::Bool => Err(unsupported($op, DType::Bool, "a number")),
            DType::F32 => with_ordered!(@ f32, $T, $body),
            DType::F64 => with_ordered!(@ f64, $T, $body),
            DType::BF16 => with_ordered!(@ bf16, $T, $body),
            DType::F16 => with_ordered!(@ f16, $T, $body),
            DType::I32 => with_ordered!(@ i32, $T, $body),
            DType::I64 => with_ordered!(@ i64, $T, $body),
            DType::U8 => with_ordered!(@ u8, $T, $body),
        }
    };
    (@ $type:ty, $T:ident, $body:expr) => {{
        type $T = $type;
        $body
    }};
}

/// Which elements of a row, in which order.
#[derive(Clone, Copy)]
enum Rank {
    Ascending,
    Descending,
    /// The largest, in descending order.
    Largest,
}

impl Rank {
    /// An element as a number that is smaller for one that comes earlier.
    #[inline(always)]
    fn place<T: Ordered>(self, position: usize, value: T) -> u128 {
        let key = match self {
            Rank::Ascending => value.key(),
            Rank::Descending | Rank::Largest => !value.key(),
        };
        u128::from(key) << 64 | position as u128
    }
}

/// The position of an element from its place.
fn position(place: u128) -> usize {
    place as u64 as usize
}

/// Leaves the places of the first `k` elements in `order`.
fn rank<T: Ordered>(isa: Isa, row: &[T], k: usize, rank: Rank, order: &mut Vec<u128>) {
    order.clear();
    match rank {
        Rank::Largest => largest(isa, row, k, order),
        Rank::Ascending | Rank::Descending => {
            order.extend(row.iter().enumerate().map(|(position, value)| rank.place(position, *value)));
        }
    }
    order.sort_unstable();
}

/// The places of the `k` largest elements, added to `order`. Those above the k-th largest so far are gathered; whenever
/// there are twice as many, they are thinned out. Most blocks have none, once the largest have been met.
fn largest<T: Ordered>(isa: Isa, row: &[T], k: usize, order: &mut Vec<u128>) {
    const BLOCK: usize = 16;
    let thin_out = |order: &mut Vec<u128>| {
        if 0 < k && k < order.len() {
            order.select_nth_unstable(k - 1);
        }
        order.truncate(k);
    };
    let (mut last, mut least) = (u128::MAX, None);
    for (values, first) in row.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
        if least.is_some_and(|least| !any_may_exceed(isa, values, least)) {
            continue;
        }
        let may_be_above = |value: &T| least.is_none_or(|least| value.may_exceed(least));
        let candidates = (first..).zip(values).filter(|(_, value)| may_be_above(value));
        // An equal element comes later, and is not among them.
        order.extend(candidates.map(|(at, value)| Rank::Largest.place(at, *value)).filter(|place| *place < last));
        if k > 0 && order.len() >= 2 * k + BLOCK {
            thin_out(order);
            last = order[k - 1];
            least = Some(row[position(last)]);
        }
    }
    thin_out(order);
}

stamp! {
    fn any_may_exceed<T: Ordered>(values: &[T], least: T) -> bool {
        values.iter().fold(false, |any, value| any | value.may_exceed(least))
    }
}

stamp! {
    /// The position of the first extreme element of a row that is not empty. The extremes of blocks are compared lane by
    /// lane, which a vector does at once; only the block that has the row's is searched for it.
    pub(super) fn extremum_at<T: Ordered>(row: &[T], largest: bool) -> usize {
        const BLOCK: usize = 256;
        const LANES: usize = 16;
        let pick = |best: T, value: T| {
            let goes_on = if largest { value.may_exceed(best) } else { best.may_exceed(value) };
            if goes_on { value } else { best }
        };
        let (mut best, mut start) = (row[0], 0);
        for (block, at) in row.chunks(BLOCK).zip((0..).step_by(BLOCK)) {
            let mut lanes = [best; LANES];
            let (groups, rest) = block.as_chunks::<LANES>();
            for group in groups {
                for (lane, value) in lanes.iter_mut().zip(group) {
                    *lane = pick(*lane, *value);
                }
            }
            let extremum = lanes.iter().chain(rest).fold(best, |best, value| pick(best, *value));
            if extremum.key() != best.key() {
                (best, start) = (extremum, at);
            }
        }
        let found = row[start..].iter().position(|value| value.key() == best.key());
        start + found.unwrap_or(0)
    }
}

/// Values and positions of the first `k` elements of each row.
fn ranked(op: &'static str, x: &Array, k: usize, which: Rank) -> Result<(Array, Array)> {
    let (lead, len) = split_last(op, x)?;
    let shape: Vec<usize> = lead.iter().copied().chain([k]).collect();
    let rows = x.contiguous()?;
    with_ordered!(op, x.dtype(), T, {
        let rows = rows.as_slice::<T>()?;
        let positions = Array::build::<i64>(x.device(), &shape, op, |cpu, out| {
            write_rows_reading(cpu, len, out, k, |order: &mut Vec<u128>, row, out| {
                rank(cpu.isa(), &rows[row * len..(row + 1) * len], k, which, order);
                out.iter_mut().zip(order).for_each(|(out, place)| *out = position(*place) as i64);
            });
            Ok(())
        })?;
        let at = positions.as_slice::<i64>()?;
        let values = Array::build::<T>(x.device(), &shape, op, |cpu, out| {
            write_rows(cpu, out, k, |_: &mut (), row, out| {
                for (out, &at) in out.iter_mut().zip(&at[row * k..]) {
                    *out = rows[row * len + at as usize];
                }
            });
            Ok(())
        })?;
        Ok((values, positions))
    })
}

fn arg_extremum(op: &'static str, x: &Array, axis: usize, wanted: Ordering) -> Result<Array> {
    let _span = span(op, &[x], |n| (0, n, 0));
    let lengths @ [_, len, _] = around_axis(op, x, axis)?;
    if len == 0 {
        return Err(Error::new(ErrorKind::Shape, op, format!("axis {axis} of shape {:?}", x.shape()))
            .expected("at least one element"));
    }
    let mut axes: Vec<usize> = (0..x.rank()).filter(|&a| a != axis).collect();
    let shape: Vec<usize> = axes.iter().map(|&a| x.shape()[a]).collect();
    if let Some(gpu) = kernels_for(x) {
        return gpu::sort::arg_extremum(gpu, (op, wanted == Ordering::Greater), x, lengths, &shape);
    }
    axes.push(axis);
    let rows = x.permute(&axes)?.contiguous()?;
    with_ordered!(op, x.dtype(), T, {
        let rows = rows.as_slice::<T>()?;
        Array::build::<i64>(x.device(), &shape, op, |cpu, out| {
            write_rows_reading(cpu, len, out, 1, |_: &mut (), row, out| {
                out[0] = extremum_at(cpu.isa(), &rows[row * len..(row + 1) * len], wanted == Ordering::Greater) as i64;
            });
            Ok(())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use crate::ops::gather;
    use crate::ops::testing::{devices, noise};
    use proptest::prelude::*;

    /// Rows of many blocks, with ties, NaN, infinities and zeros of both signs.
    #[test]
    fn the_extremes_of_long_rows_are_the_first_when_sorted() {
        let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0];
        for device in devices() {
            for (seed, len) in [(1, 1000), (2, 64), (3, 1027)] {
                for levels in [3.0, 50.0, 1e6] {
                    let mut values = noise(&[2, len], seed, &device).to_vec::<f32>().unwrap();
                    values.iter_mut().for_each(|value| *value = (*value * levels).round() / levels);
                    values.iter_mut().skip(7).step_by(97).zip(special.iter().cycle()).for_each(|(v, s)| *v = *s);
                    let x = Array::from_slice(&values, &[2, len], &device).unwrap();
                    let all = sort(&x, true).unwrap().1.to_vec::<i64>().unwrap();
                    for k in [0, 1, 5, 60, len - 1, len] {
                        let expected: Vec<i64> = all.chunks(len).flat_map(|row| row[..k].to_vec()).collect();
                        assert_eq!(topk(&x, k).unwrap().1.to_vec::<i64>().unwrap(), expected, "{k} of {len}");
                    }
                    let first = |order: &[i64]| [order[0], order[len]];
                    assert_eq!(argmax(&x, 1).unwrap().to_vec::<i64>().unwrap(), first(&all));
                    let ascending = argsort(&x, false).unwrap().to_vec::<i64>().unwrap();
                    assert_eq!(argmin(&x, 1).unwrap().to_vec::<i64>().unwrap(), first(&ascending));
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn sort_is_a_stable_permutation_in_order(
            rows in 0usize..4,
            len in 0usize..40,
            descending: bool,
            distinct in 1i32..9,
        ) {
            for device in devices() {
                // Few distinct values, so that ties are common.
                let noise = noise(&[rows, len], 9, &device).to_vec::<f32>().unwrap();
                let values: Vec<i32> = noise.iter().map(|v| (v * 99.0) as i32 % distinct).collect();
                let x = Array::from_slice(&values, &[rows, len], &device).unwrap();
                let (sorted, positions) = sort(&x, descending).unwrap();
                let picked = gather(&x, 1, &positions).unwrap();
                prop_assert_eq!(picked.to_vec::<i32>().unwrap(), sorted.to_vec::<i32>().unwrap());
                let (sorted, positions) = (sorted.to_vec::<i32>().unwrap(), positions.to_vec::<i64>().unwrap());
                for row in 0..rows {
                    let key = |value: i32| if descending { -value } else { value };
                    let pairs: Vec<(i32, i64)> =
                        (row * len..(row + 1) * len).map(|i| (key(sorted[i]), positions[i])).collect();
                    prop_assert!(pairs.windows(2).all(|w| w[0] < w[1]), "strictly ascending by (value, position)");
                }
                let k = len / 2;
                let (top, at) = topk(&x, k).unwrap();
                let (all, all_at) = sort(&x, true).unwrap();
                prop_assert_eq!(top.to_vec::<i32>().unwrap(), all.slice(1, 0, k).unwrap().to_vec::<i32>().unwrap());
                prop_assert_eq!(at.to_vec::<i64>().unwrap(), all_at.slice(1, 0, k).unwrap().to_vec::<i64>().unwrap());
            }
        }

        #[test]
        fn arg_extrema_are_the_ends_of_a_sort(dims in proptest::collection::vec(1usize..6, 1..4), axis in 0usize..3) {
            let axis = axis % dims.len();
            let device = Device::cpu_with(2).unwrap();
            let x = noise(&dims, 2, &device);
            let last = x.transpose(axis, dims.len() - 1).unwrap();
            let first = |descending| {
                let order = argsort(&last, descending).unwrap();
                let order = order.transpose(axis, dims.len() - 1).unwrap();
                order.slice(axis, 0, 1).unwrap().to_vec::<i64>().unwrap()
            };
            prop_assert_eq!(argmax(&x, axis).unwrap().to_vec::<i64>().unwrap(), first(true));
            prop_assert_eq!(argmin(&x, axis).unwrap().to_vec::<i64>().unwrap(), first(false));
        }
    }

    #[test]
    fn nan_is_largest_and_ties_go_to_the_lowest_position() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[1.0, f32::NAN, f32::INFINITY, -0.0, 0.0, f32::NAN], &[6], &device).unwrap();
        assert_eq!(argsort(&x, false).unwrap().to_vec::<i64>().unwrap(), [3, 4, 0, 2, 1, 5]);
        assert_eq!(argsort(&x, true).unwrap().to_vec::<i64>().unwrap(), [1, 5, 2, 0, 3, 4]);
        assert_eq!(topk(&x, 3).unwrap().1.to_vec::<i64>().unwrap(), [1, 5, 2]);
        assert_eq!(argmax(&x, 0).unwrap().item::<i64>().unwrap(), 1);
        assert_eq!(argmin(&x, 0).unwrap().item::<i64>().unwrap(), 3);
        assert!(topk(&x, 7).is_err());
        assert!(argmax(&x.slice(0, 0, 0).unwrap(), 0).is_err());
        assert_eq!(
            sort(&Array::zeros(&[2], DType::Bool, &device).unwrap(), false).unwrap_err().kind(),
            ErrorKind::DType
        );
    }

    #[test]
    fn cumsum_runs_along_any_axis() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[1f64, 2., 3., 4., 5., 6.], &[2, 3], &device).unwrap();
        assert_eq!(cumsum(&x, 1).unwrap().to_vec::<f64>().unwrap(), [1., 3., 6., 4., 9., 15.]);
        assert_eq!(cumsum(&x, 0).unwrap().to_vec::<f64>().unwrap(), [1., 2., 3., 5., 7., 9.]);
        assert_eq!(cumsum(&x.flip(1).unwrap(), 1).unwrap().to_vec::<f64>().unwrap(), [3., 5., 6., 6., 11., 15.]);
    }
}
