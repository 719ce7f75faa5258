//! Matrix product in canonical order: k increasing in chunks, each one chain of fused multiply-adds.

use super::operand::same_device;
use super::{Float, add, elements, expect_same_dtype, kernels_for, span, with_real};
use crate::cpu::contract::{self, Matrix};
use crate::gpu::contract::Matrices;
use crate::gpu::{self, GpuDevice};
use crate::{Array, Element, Error, ErrorKind, Result, broadcast_shape};
use selfsame_kernels::elementwise;
use std::ops::Range;

/// `a` `[…, m, k]` times `b` `[…, k, n]` is `[…, m, n]`; leading axes broadcast. Transposed views are read in place.
///
/// # Errors
/// `Shape` when the operands do not fit; `DType` unless both are f32 or both f64.
pub fn matmul(a: &Array, b: &Array) -> Result<Array> {
    let batch = batch_of("matmul", a, b)?;
    let _span = span("matmul", &[a, b], |_| work(a, b, &batch));
    product(a, b, None, &batch)
}

/// The batch axes of the product of two operands that fit.
pub(super) fn batch_of(op: &'static str, a: &Array, b: &Array) -> Result<Vec<usize>> {
    let fits = a.rank() >= 2 && b.rank() >= 2 && a.shape()[a.rank() - 1] == b.shape()[b.rank() - 2];
    if !fits {
        return Err(Error::new(ErrorKind::Shape, op, format!("{:?} times {:?}", a.shape(), b.shape()))
            .expected("[…, m, k] times […, k, n]"));
    }
    expect_same_dtype(op, a, b)?;
    broadcast_shape(op, &a.shape()[..a.rank() - 2], &b.shape()[..b.rank() - 2])
}

/// Elements of a product, floating-point operations and exponentials.
pub(super) fn work(a: &Array, b: &Array, batch: &[usize]) -> (usize, usize, usize) {
    let [m, k, n] = [a.shape()[a.rank() - 2], a.shape()[a.rank() - 1], b.shape()[b.rank() - 1]];
    (elements(batch) * m * n, 2 * elements(batch) * m * k * n, 0)
}

/// The product of operands with these [batch axes](batch_of), plus a bias `[n]` of their type and device for each row.
pub(super) fn product(a: &Array, b: &Array, bias: Option<&Array>, batch: &[usize]) -> Result<Array> {
    if let Some(gpu) = kernels_for(a) {
        same_device("matmul", a, b)?;
        let c = on_gpu(gpu, a, b, batch)?;
        return match bias {
            None => Ok(c),
            Some(bias) => add(&c, bias),
        };
    }
    with_real!("matmul", a.dtype(), T, on_cpu::<T>(a, b, bias, batch))
}

fn on_gpu(gpu: &GpuDevice, a: &Array, b: &Array, batch: &[usize]) -> Result<Array> {
    let (m, n, k) = (a.shape()[a.rank() - 2], b.shape()[b.rank() - 1], a.shape()[a.rank() - 1]);
    let shape = [batch, &[m, n]].concat();
    let matrices = |x: &Array| {
        let Batched { array, batch_stride } = Batched::new(x, batch)?;
        let [.., row, col] = array.layout().strides() else { unreachable!("an operand has at least two axes") };
        let (row_stride, col_stride) = (*row as usize, *col as usize);
        Ok::<_, Error>(Matrices { array, row_stride, col_stride, batch_stride })
    };
    gpu::contract::matmul(gpu, (&matrices(a)?, &matrices(b)?), [batch.iter().product(), m, n, k], &shape)
}

fn on_cpu<T: Float + contract::Real>(a: &Array, b: &Array, bias: Option<&Array>, batch: &[usize]) -> Result<Array> {
    let (m, n) = (a.shape()[a.rank() - 2], b.shape()[b.rank() - 1]);
    let count = batch.iter().product();
    let (a, b) = (Batched::new(a, batch)?, Batched::new(b, batch)?);
    let shape = [batch, &[m, n]].concat();
    let bias = bias.map(Array::contiguous).transpose()?;
    let bias = bias.as_ref().map(Array::as_slice::<T>).transpose()?;
    Array::build::<T>(a.array.device(), &shape, "matmul", |cpu, c| {
        let add =
            bias.map(|bias| |columns: Range<usize>, c: &mut [T]| elementwise::add_assign(cpu.isa(), &bias[columns], c));
        let finish = add.as_ref().map(|add| add as &(dyn Fn(Range<usize>, &mut [T]) + Sync));
        if a.array.numel() == 0 || b.array.numel() == 0 {
            c.fill(T::default());
            finish.inspect(|finish| c.chunks_mut(n.max(1)).for_each(|c| finish(0..n, c)));
            return Ok(());
        }
        contract::matmul(&cpu.contraction(), count, &a.matrix()?, &b.matrix()?, finish, c);
        Ok(())
    })
}

/// An operand whose batch axes are one axis of constant, non-negative stride.
struct Batched {
    array: Array,
    batch_stride: usize,
}

impl Batched {
    fn new(x: &Array, batch: &[usize]) -> Result<Batched> {
        let matrix = &x.shape()[x.rank() - 2..];
        let view = x.broadcast_to(&[batch, matrix].concat())?;
        let forward = view.layout().strides().iter().all(|s| *s >= 0);
        // Batch axes of length 1 do not matter; of the others, each must continue the next.
        let axes: Vec<(usize, isize)> =
            batch.iter().copied().zip(view.layout().strides().iter().copied()).filter(|(d, _)| *d != 1).collect();
        let merges = axes.windows(2).all(|w| w[0].1 == w[1].1 * w[1].0 as isize);
        if forward && merges {
            let batch_stride = axes.last().map_or(0, |(_, s)| *s as usize);
            return Ok(Batched { array: view, batch_stride });
        }
        let array = view.copy()?;
        Ok(Batched { array, batch_stride: matrix.iter().product() })
    }

    fn matrix<T: Element>(&self) -> Result<Matrix<'_, T>> {
        let (layout, rank) = (self.array.layout(), self.array.rank());
        let data = self.array.storage_slice::<T>()?;
        Ok(Matrix {
            data: data.get(layout.offset()..).unwrap_or(&[]),
            rows: layout.shape()[rank - 2],
            cols: layout.shape()[rank - 1],
            row_stride: layout.strides()[rank - 2] as usize,
            col_stride: layout.strides()[rank - 1] as usize,
            batch_stride: self.batch_stride,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use proptest::prelude::*;
    use selfsame_kernels::order::CHUNK;

    fn array(shape: &[usize], seed: u32, device: &Device) -> Array {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n)
            .map(|i| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 * 1e-7 - 0.8)
            .collect();
        Array::from_slice(&values, shape, device).unwrap()
    }

    fn reference(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f32> {
        let chain = |i: usize, j: usize, chunk: std::ops::Range<usize>| {
            chunk.fold(0f32, |acc, p| a[i * k + p].mul_add(b[p * n + j], acc))
        };
        let element = |i, j| {
            let chunks = (0..k).step_by(CHUNK).map(|at| chain(i, j, at..k.min(at + CHUNK)));
            chunks.reduce(|x, y| x + y).unwrap_or(0.)
        };
        (0..m * n).map(|ij| element(ij / n, ij % n)).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn views_and_broadcasts_give_the_canonical_bits(
            m in 1usize..20, k in prop_oneof![Just(0usize), 1usize..20, Just(CHUNK + 3)], n in 1usize..40,
            ta in any::<bool>(), tb in any::<bool>(), shared in any::<bool>(), seed in any::<u32>(),
        ) {
            let device = Device::cpu_with(2).unwrap();
            let make = |rows: usize, cols: usize, transposed: bool, batch: usize, seed| {
                let shape = if transposed { [batch, cols, rows] } else { [batch, rows, cols] };
                let x = array(&shape, seed, &device);
                if transposed { x.transpose(1, 2).unwrap() } else { x }
            };
            let a = make(m, k, ta, 3, seed);
            let b = make(k, n, tb, if shared { 1 } else { 3 }, seed ^ 77);
            let c = matmul(&a, &b).unwrap();
            prop_assert_eq!(c.shape(), &[3, m, n]);
            let (a, b, c) = (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap(), c.to_vec::<f32>().unwrap());
            for i in 0..3 {
                let of_b = if shared { &b[..] } else { &b[i * k * n..(i + 1) * k * n] };
                let expected = reference(&a[i * m * k..(i + 1) * m * k], of_b, [m, k, n]);
                prop_assert_eq!(&c[i * m * n..(i + 1) * m * n], expected.as_slice());
            }
        }
    }

    #[test]
    fn misfits_name_both_shapes() {
        let device = Device::cpu_with(1).unwrap();
        let error = matmul(&array(&[2, 3], 0, &device), &array(&[4, 2], 0, &device)).unwrap_err();
        assert!(error.to_string().contains("[2, 3] times [4, 2]"), "{error}");
    }

    #[test]
    fn flipped_operands_are_copied_not_misread() {
        let device = Device::cpu_with(1).unwrap();
        let (a, b) = (array(&[3, 4], 1, &device), array(&[4, 5], 2, &device));
        let flipped = matmul(&a.flip(1).unwrap(), &b.flip(0).unwrap()).unwrap();
        let copied = matmul(&a.flip(1).unwrap().copy().unwrap(), &b.flip(0).unwrap().copy().unwrap()).unwrap();
        assert_eq!(flipped.to_vec::<f32>().unwrap(), copied.to_vec::<f32>().unwrap());
    }
}
