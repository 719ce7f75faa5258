//! Reductions over axes: `sum`, `mean`, `max`, `min`, `prod`, `sum_to`.
//!
//! The order of every one of them is that of row reductions: for each element of the result, element `j` of the
//! reduced ones (row-major over the reduced axes) goes to lane `j % 16`, and lanes fold 8, 4, 2, 1. Where the reduced
//! axes lie innermost a row is one register of lanes; where they lie outside, lanes are rows of accumulators and the
//! loop runs over the kept elements. Both give the same bits.

use super::{Float, cast, elements, is_half, kernels_for, span, unsupported};
use crate::gpu::{self, rows::Reduction};
use crate::{Array, DType, Element, Error, ErrorKind, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::order::LANES;
use selfsame_kernels::{lanes, stamp};

/// Input elements per parallel task.
const TASK: usize = 1 << 15;

/// Kept elements whose accumulators are live at once: 16 lanes of them stay in the first-level cache.
const COLUMNS: usize = 128;

/// The sum over `axes`, which stay with length 1 if `keep`. Integers wrap.
///
/// # Errors
/// When an axis does not exist or is named twice, or for u8 and bool (cast first: the sum would not fit).
pub fn sum(x: &Array, axes: &[usize], keep: bool) -> Result<Array> {
    match x.dtype() {
        DType::F32 => reduce::<f32, Sum>("sum", x, axes, keep),
        DType::F64 => reduce::<f64, Sum>("sum", x, axes, keep),
        DType::I64 => reduce::<i64, Sum>("sum", x, axes, keep),
        DType::I32 => through(DType::I64, x, |x| sum(x, axes, keep)),
        dtype if is_half(dtype) => through(DType::F32, x, |x| sum(x, axes, keep)),
        dtype => Err(unsupported("sum", dtype, "a float, i32 or i64")),
    }
}

/// The mean over `axes`: their [`sum`] divided by the number of elements; NaN for none.
///
/// # Errors
/// As for [`sum`], or when the type is not a float.
pub fn mean(x: &Array, axes: &[usize], keep: bool) -> Result<Array> {
    let _span = span("mean", &[x], |_| (0, 0, 0));
    if is_half(x.dtype()) {
        return through(DType::F32, x, |x| mean(x, axes, keep));
    }
    if !x.dtype().is_float() {
        return Err(unsupported("mean", x.dtype(), "a float"));
    }
    let total = sum(x, axes, keep)?;
    let count: usize = axes.iter().map(|&axis| x.shape()[axis]).product();
    super::binary_scalar(super::Binary::Div, &total, count as f64)
}

/// The product over `axes`. Integers wrap.
///
/// # Errors
/// As for [`sum`].
pub fn prod(x: &Array, axes: &[usize], keep: bool) -> Result<Array> {
    match x.dtype() {
        DType::F32 => reduce::<f32, Product>("prod", x, axes, keep),
        DType::F64 => reduce::<f64, Product>("prod", x, axes, keep),
        DType::I64 => reduce::<i64, Product>("prod", x, axes, keep),
        DType::I32 => through(DType::I64, x, |x| prod(x, axes, keep)),
        dtype if is_half(dtype) => through(DType::F32, x, |x| prod(x, axes, keep)),
        dtype => Err(unsupported("prod", dtype, "a float, i32 or i64")),
    }
}

/// The largest element over `axes`; NaN if there is one.
///
/// # Errors
/// As for [`sum`], or when there is nothing to take the largest of.
pub fn max(x: &Array, axes: &[usize], keep: bool) -> Result<Array> {
    extremum::<Largest>("max", x, axes, keep)
}

/// The smallest element over `axes`; NaN if there is one.
///
/// # Errors
/// As for [`max`].
pub fn min(x: &Array, axes: &[usize], keep: bool) -> Result<Array> {
    extremum::<Smallest>("min", x, axes, keep)
}

fn extremum<F>(op: &'static str, x: &Array, axes: &[usize], keep: bool) -> Result<Array>
where
    F: Fold<f32> + Fold<f64> + Fold<i64>,
{
    if let Some(axis) = axes.iter().find(|&&axis| x.shape().get(axis) == Some(&0)) {
        return Err(Error::new(ErrorKind::Shape, op, format!("axis {axis} of shape {:?}", x.shape()))
            .expected("at least one element to reduce"));
    }
    match x.dtype() {
        DType::F32 => reduce::<f32, F>(op, x, axes, keep),
        DType::F64 => reduce::<f64, F>(op, x, axes, keep),
        DType::I64 => reduce::<i64, F>(op, x, axes, keep),
        DType::I32 | DType::U8 => through(DType::I64, x, |x| extremum::<F>(op, x, axes, keep)),
        dtype if is_half(dtype) => through(DType::F32, x, |x| extremum::<F>(op, x, axes, keep)),
        dtype => Err(unsupported(op, dtype, "a number")),
    }
}

/// The sum of `x` over the axes along which an array of `shape` is repeated to the shape of `x`: the adjoint of
/// `broadcast_to`.
///
/// # Errors
/// When `shape` does not broadcast to the shape of `x`.
pub fn sum_to(x: &Array, shape: &[usize]) -> Result<Array> {
    let _span = span("sum_to", &[x], |_| (0, 0, 0));
    let lead = x.rank().checked_sub(shape.len());
    let fits = lead.is_some_and(|lead| x.shape()[lead..].iter().zip(shape).all(|(&d, &to)| d == to || to == 1));
    let Some(lead) = lead.filter(|_| fits) else {
        return Err(Error::new(ErrorKind::Shape, "sum_to", format!("{:?} to {shape:?}", x.shape()))
            .expected("a shape that broadcasts to the first"));
    };
    let axes: Vec<usize> =
        (0..x.rank()).filter(|&axis| axis < lead || (shape[axis - lead] == 1 && x.shape()[axis] != 1)).collect();
    if axes.iter().all(|&axis| x.shape()[axis] == 1) {
        return x.contiguous()?.reshape(shape);
    }
    sum(x, &axes, true)?.reshape(shape)
}

/// What a reduction does with two elements.
trait Fold<T>: 'static {
    /// The kernel's name for it.
    const REDUCTION: Reduction;
    /// The start value of every lane.
    const START: T;
    fn fold(a: T, b: T) -> T;
    /// The reduction of a row, where the kernels have it.
    const ROW: Option<fn(Isa, &[T]) -> T>;
}

struct Sum;
struct Product;
struct Largest;
struct Smallest;

macro_rules! float_folds {
    ($($name:ident: $start:ident, $row:expr, $fold:expr;)*) => {$(
        impl<T: Float> Fold<T> for $name {
            const REDUCTION: Reduction = Reduction::$name;
            const START: T = T::$start;
            const ROW: Option<fn(Isa, &[T]) -> T> = $row;
            #[inline(always)]
            fn fold(a: T, b: T) -> T {
                $fold(a, b)
            }
        }
    )*};
}
float_folds! {
    Sum: ZERO, Some(lanes::sum), |a, b| a + b;
    Product: ONE, None, |a, b| a * b;
    Largest: NEG_INFINITY, Some(lanes::max), Real::max;
    Smallest: INFINITY, Some(lanes::min), Real::min;
}

macro_rules! integer_folds {
    ($($name:ident: $start:expr, $fold:expr;)*) => {$(
        impl Fold<i64> for $name {
            const REDUCTION: Reduction = Reduction::$name;
            const START: i64 = $start;
            const ROW: Option<fn(Isa, &[i64]) -> i64> = None;
            #[inline(always)]
            fn fold(a: i64, b: i64) -> i64 {
                $fold(a, b)
            }
        }
    )*};
}
integer_folds! {
    Sum: 0, i64::wrapping_add;
    Product: 1, i64::wrapping_mul;
    Largest: i64::MIN, Ord::max;
    Smallest: i64::MAX, Ord::min;
}

/// Reduces `x` in another element type, from which the result goes back: f32 for 16-bit floats, i64 for narrower
/// integers (whose wrapped sums and products are the low bits of the wide ones).
fn through(dtype: DType, x: &Array, f: impl FnOnce(&Array) -> Result<Array>) -> Result<Array> {
    cast(&f(&cast(x, dtype)?)?, x.dtype())
}

stamp! {
    /// Reduces axis 1 of [outer, reduced, inner] for the results `first ..` in row-major order of [outer, inner].
    fn reduce_columns<T: Element, F: Fold<T>>(x: &[T], reduced: usize, inner: usize, first: usize, out: &mut [T]) {
        let mut accumulators = [[F::START; COLUMNS]; LANES];
        let mut done = 0;
        while done < out.len() {
            let (outer, column) = ((first + done) / inner, (first + done) % inner);
            let width = COLUMNS.min(inner - column).min(out.len() - done);
            for lane in &mut accumulators {
                lane[..width].fill(F::START);
            }
            let x = &x[outer * reduced * inner..(outer + 1) * reduced * inner];
            for (j, row) in x.chunks_exact(inner).enumerate() {
                let lane = &mut accumulators[j % LANES][..width];
                for (lane, &x) in lane.iter_mut().zip(&row[column..column + width]) {
                    *lane = F::fold(*lane, x);
                }
            }
            fold_lanes::<T, F>(&mut accumulators, &mut out[done..done + width]);
            done += width;
        }
    }
}

/// Folds lanes 8, 4, 2, 1. Apart from the stamped loop and never inlined, since it is short work and much code.
#[inline(never)]
fn fold_lanes<T: Element, F: Fold<T>>(accumulators: &mut [[T; COLUMNS]; LANES], out: &mut [T]) {
    for half in [8, 4, 2, 1] {
        let (low, high) = accumulators.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            for (a, &b) in low[..out.len()].iter_mut().zip(&high[..out.len()]) {
                *a = F::fold(*a, b);
            }
        }
    }
    out.copy_from_slice(&accumulators[0][..out.len()]);
}

fn reduce<T: Element, F: Fold<T>>(op: &'static str, x: &Array, axes: &[usize], keep: bool) -> Result<Array> {
    let mut is_reduced = vec![false; x.rank()];
    for &axis in axes {
        if axis >= x.rank() || std::mem::replace(&mut is_reduced[axis], true) {
            return Err(Error::new(ErrorKind::Shape, op, format!("axes {axes:?} of shape {:?}", x.shape()))
                .expected(format!("different axes below {}", x.rank())));
        }
    }
    let axes = is_reduced.iter().zip(x.shape());
    let reduced: usize = axes.clone().filter(|(is_reduced, _)| **is_reduced).map(|(_, len)| len).product();
    let shape: Vec<usize> = axes
        .filter(|(is_reduced, _)| keep || !**is_reduced)
        .map(|(is_reduced, &len)| if *is_reduced { 1 } else { len })
        .collect();
    let (x, inner) = arrange(x, &is_reduced)?;
    let _span = span(op, &[&x], |n| (elements(&shape), n, 0));
    if let Some(gpu) = kernels_for(&x) {
        let outer = shape.iter().product::<usize>() / inner.max(1);
        return gpu::rows::reduce(gpu, F::REDUCTION, &x, [outer, reduced, inner], &shape, op);
    }
    let values = x.as_slice::<T>()?;
    Array::build(x.device(), &shape, op, |cpu, out: &mut [T]| {
        let workers = cpu.workers();
        match F::ROW {
            Some(row) if inner == 1 => {
                let chunk = (TASK / reduced.max(1)).max(1);
                workers.run_chunks(out, chunk, |task, out| {
                    for (i, out) in out.iter_mut().enumerate() {
                        let at = (task * chunk + i) * reduced;
                        *out = row(cpu.isa(), &values[at..at + reduced]);
                    }
                });
            }
            _ => {
                let chunk = (TASK / reduced.max(1)).max(COLUMNS);
                workers.run_chunks(out, chunk, |task, out| {
                    reduce_columns::<T, F>(cpu.isa(), values, reduced, inner, task * chunk, out);
                });
            }
        }
        Ok(())
    })
}

/// `x` as a contiguous array whose elements are [outer, reduced, inner] in memory, and the number of inner elements.
/// Copies only when no order of the two groups of axes lies in memory already.
fn arrange(x: &Array, is_reduced: &[bool]) -> Result<(Array, usize)> {
    let long: Vec<usize> = (0..x.rank()).filter(|&axis| x.shape()[axis] != 1).collect();
    let changes = long.windows(2).filter(|pair| is_reduced[pair[0]] != is_reduced[pair[1]]).count();
    let starts_kept = long.first().is_none_or(|&axis| !is_reduced[axis]);
    // [kept], [reduced], [kept, reduced], [reduced, kept] or [kept, reduced, kept].
    if x.is_contiguous() && (changes < 2 || (changes == 2 && starts_kept)) {
        let trailing = long.iter().rev().take_while(|&&axis| !is_reduced[axis]);
        let inner = trailing.map(|&axis| x.shape()[axis]).product();
        return Ok((x.clone(), inner));
    }
    let kept = (0..x.rank()).filter(|&axis| !is_reduced[axis]);
    let reduced = (0..x.rank()).filter(|&axis| is_reduced[axis]);
    let reduced_first = x.permute(&reduced.clone().chain(kept.clone()).collect::<Vec<_>>())?;
    if reduced_first.is_contiguous() {
        return Ok((reduced_first, kept.map(|axis| x.shape()[axis]).product()));
    }
    Ok((x.permute(&kept.chain(reduced).collect::<Vec<_>>())?.contiguous()?, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{devices, noise};
    use crate::{Device, Layout};
    use proptest::prelude::*;

    /// The definition: the reduced elements of each result in row-major order, by lanes.
    fn reference(x: &Array, axes: &[usize], start: f32, f: impl Fn(f32, f32) -> f32) -> Vec<f32> {
        let kept: Vec<usize> = (0..x.rank()).filter(|axis| !axes.contains(axis)).collect();
        let mut sorted = axes.to_vec();
        sorted.sort_unstable();
        let rows = x.permute(&[kept.clone(), sorted].concat()).unwrap().to_vec::<f32>().unwrap();
        let outputs: usize = kept.iter().map(|&axis| x.shape()[axis]).product();
        let reduced: usize = axes.iter().map(|&axis| x.shape()[axis]).product();
        (0..outputs)
            .map(|i| {
                let mut lanes = [start; LANES];
                for (j, &v) in rows[i * reduced..(i + 1) * reduced].iter().enumerate() {
                    lanes[j % LANES] = f(lanes[j % LANES], v);
                }
                for half in [8, 4, 2, 1] {
                    for i in 0..half {
                        lanes[i] = f(lanes[i], lanes[i + half]);
                    }
                }
                lanes[0]
            })
            .collect()
    }

    fn bits(x: &[f32]) -> Vec<u32> {
        x.iter().map(|x| x.to_bits()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn reductions_have_the_defined_bits_everywhere(
            dims in prop_oneof![
                proptest::collection::vec(prop_oneof![0usize..4, Just(17), Just(33)], 0..4),
                Just(vec![3, 40, 150]), Just(vec![700, 5, 1]), Just(vec![2, 3, 2, 50]),
            ],
            chosen in any::<u8>(),
            order in 0usize..3,
        ) {
            let axes: Vec<usize> = (0..dims.len()).filter(|axis| chosen >> axis & 1 == 1).collect();
            for device in devices() {
                let x = noise(&dims, 7, &device);
                let x = match order {
                    0 => x,
                    1 => x.permute(&(0..dims.len()).rev().collect::<Vec<_>>()).unwrap(),
                    _ => if dims.is_empty() { x } else { x.flip(dims.len() - 1).unwrap() },
                };
                let total = sum(&x, &axes, false).unwrap();
                prop_assert_eq!(bits(&total.to_vec::<f32>().unwrap()), bits(&reference(&x, &axes, 0.0, |a, b| a + b)));
                let product = prod(&x, &axes, true).unwrap();
                prop_assert_eq!(product.rank(), x.rank());
                let expected = reference(&x, &axes, 1.0, |a, b| a * b);
                prop_assert_eq!(bits(&product.to_vec::<f32>().unwrap()), bits(&expected));
                if axes.iter().all(|&axis| x.shape()[axis] > 0) {
                    let largest = max(&x, &axes, false).unwrap().to_vec::<f32>().unwrap();
                    prop_assert_eq!(largest, reference(&x, &axes, f32::NEG_INFINITY, f32::max));
                    let smallest = min(&x, &axes, false).unwrap().to_vec::<f32>().unwrap();
                    prop_assert_eq!(smallest, reference(&x, &axes, f32::INFINITY, f32::min));
                }
            }
        }

        #[test]
        fn sum_to_is_the_adjoint_of_broadcast(dims in proptest::collection::vec(1usize..5, 0..4), ones in any::<u8>()) {
            let device = Device::cpu_with(1).unwrap();
            let small: Vec<usize> =
                dims.iter().enumerate().map(|(i, &d)| if ones >> i & 1 == 1 { 1 } else { d }).collect();
            let small = &small[small.len() / 2..];
            // Small integers: every sum is exact.
            let integers = |shape: &[usize], seed| {
                let values = noise(shape, seed, &device).to_vec::<f32>().unwrap();
                let rounded: Vec<f32> = values.iter().map(|v| (v * 8.0).round()).collect();
                Array::from_slice(&rounded, shape, &device).unwrap()
            };
            let (x, y) = (integers(small, 1), integers(&dims, 2));
            let inner = |a: &Array, b: &Array| -> f32 {
                a.to_vec::<f32>().unwrap().iter().zip(b.to_vec::<f32>().unwrap()).map(|(a, b)| a * b).sum()
            };
            prop_assert_eq!(inner(&x.broadcast_to(&dims).unwrap(), &y), inner(&x, &sum_to(&y, small).unwrap()));
        }
    }

    #[test]
    fn nan_wins_and_nothing_has_no_extremum() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::from_slice(&[1.0, f32::NAN, 3.0, -5.0, 2.0, 0.5], &[2, 3], &device).unwrap();
        for axes in [&[1][..], &[0]] {
            let nans = |y: Array| y.to_vec::<f32>().unwrap().iter().filter(|v| v.is_nan()).count();
            assert_eq!(nans(max(&x, axes, false).unwrap()), 1);
            assert_eq!(nans(min(&x, axes, false).unwrap()), 1);
        }
        let empty = x.slice(1, 0, 0).unwrap();
        assert_eq!(max(&empty, &[1], false).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(sum(&empty, &[1], false).unwrap().to_vec::<f32>().unwrap(), [0.0, 0.0]);
        assert!(mean(&empty, &[1], false).unwrap().to_vec::<f32>().unwrap().iter().all(|m| m.is_nan()));
        assert!(max(&empty, &[0], false).unwrap().to_vec::<f32>().unwrap().is_empty());
    }

    #[test]
    fn integers_and_halves_reduce_too() {
        let device = Device::cpu_with(2).unwrap();
        let x = Array::from_slice(&[3i64, -4, 5, 6], &[2, 2], &device).unwrap();
        assert_eq!(sum(&x, &[0], false).unwrap().to_vec::<i64>().unwrap(), [8, 2]);
        assert_eq!(min(&x, &[0, 1], false).unwrap().item::<i64>().unwrap(), -4);
        // A running sum in bf16 would stop at 256.
        let ones = Array::full(crate::bf16::ONE, &[300], &device).unwrap();
        assert_eq!(sum(&ones, &[0], false).unwrap().item::<crate::bf16>().unwrap().to_f32(), 300.0);
        assert_eq!(sum(&x, &[2], false).unwrap_err().kind(), ErrorKind::Shape);
        assert_eq!(sum(&x, &[0, 0], false).unwrap_err().kind(), ErrorKind::Shape);
    }

    #[test]
    fn arrange_copies_only_when_it_must() {
        let device = Device::cpu_with(1).unwrap();
        let x = noise(&[4, 5, 6], 1, &device);
        for is_reduced in [[true, true, false], [false, true, true], [false, true, false], [true, true, true]] {
            assert!(arrange(&x, &is_reduced).unwrap().0.shares_storage(&x), "{is_reduced:?}");
        }
        assert!(!arrange(&x, &[true, false, true]).unwrap().0.shares_storage(&x));
        let channels_first = x.permute(&[2, 0, 1]).unwrap();
        assert_ne!(channels_first.layout(), &Layout::contiguous(&[6, 4, 5]));
        assert!(arrange(&channels_first, &[false, true, true]).unwrap().0.shares_storage(&x));
    }
}
