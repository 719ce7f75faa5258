//! Sums over samples per channel: bias gradients, gamma gradients, loss sums.

use super::{Float, expect_same_shape, kernels_for, span, with_real};
use crate::cpu::samples::{leaf_dot, leaf_sum};
use crate::gpu;
use crate::rows::dyadic_blocks;
use crate::{Array, Error, ErrorKind, Result, Rows, SampleSum};
use selfsame_kernels::elementwise::add_assign;
use selfsame_kernels::isa::Isa;

/// The sum over rows: `x` is `[images, …, c]`, the total is `[c]`. In a leaf rows form chains of additions.
///
/// # Errors
/// `Shape` when `rows` does not describe `x`; `DType` unless f32 or f64.
pub fn rows_sum(x: &Array, rows: Rows) -> Result<SampleSum> {
    let _span = span("rows_sum", &[x], |n| (0, n, 0));
    if let Some(gpu) = kernels_for(x) {
        return gpu::samples::rows_sum(gpu, x, None, rows, channels("rows_sum", x, rows)?);
    }
    with_real!(
        "rows_sum",
        x.dtype(),
        T,
        per_leaf("rows_sum", &[x], rows, |isa, x, c, out| leaf_sum::<T>(isa, x[0], c, out))
    )
}

/// The sum over rows of `a · b` per channel: both `[images, …, c]`, the total is `[c]`. Chains of fused multiply-adds.
///
/// # Errors
/// As for [`rows_sum`], and when the shapes differ.
pub fn rows_dot(a: &Array, b: &Array, rows: Rows) -> Result<SampleSum> {
    let _span = span("rows_dot", &[a, b], |n| (0, 2 * n, 0));
    expect_same_shape("rows_dot", a, b)?;
    if let Some(gpu) = kernels_for(a) {
        return gpu::samples::rows_sum(gpu, a, Some(b), rows, channels("rows_dot", a, rows)?);
    }
    with_real!("rows_dot", a.dtype(), T, {
        per_leaf("rows_dot", &[a, b], rows, |isa, x, c, out| leaf_dot::<T>(isa, x[0], x[1], c, out))
    })
}

/// Checks that `rows` describes `x` and returns the number of channels.
pub(crate) fn channels(op: &'static str, x: &Array, rows: Rows) -> Result<usize> {
    let described = Rows::of(x.shape(), rows.first_image)?;
    if described != rows {
        return Err(Error::new(ErrorKind::Shape, op, format!("shape {:?}", x.shape()))
            .expected(format!("{} images of {} rows", rows.images, rows.rows_per_image)));
    }
    Ok(*x.shape().last().expect("rank of at least 2"))
}

/// Runs `leaf` for each leaf of the operands and collects the tree.
fn per_leaf<T: Float>(
    op: &'static str,
    operands: &[&Array],
    rows: Rows,
    leaf: impl Fn(Isa, &[&[T]], usize, &mut [T]) + Sync,
) -> Result<SampleSum> {
    let c = channels(op, operands[0], rows)?;
    let operands = operands.iter().map(|x| x.contiguous()).collect::<Result<Vec<_>>>()?;
    let slices = operands.iter().map(|x| x.as_slice::<T>()).collect::<Result<Vec<_>>>()?;
    let device = operands[0].device();
    let sums = Array::build::<T>(device, &[rows.leaves(), c], op, |cpu, out| {
        if c > 0 {
            cpu.workers().run_chunks(out, c, |i, out| {
                let range = rows.leaf(i);
                let parts: Vec<&[T]> = slices.iter().map(|x| &x[range.start * c..range.end * c]).collect();
                leaf(cpu.isa(), &parts, c, out);
            });
            fold_leaves(cpu.isa(), out, c, rows);
        }
        Ok(())
    })?;
    folded_tree(&sums, rows)
}

/// Sums leaves `[leaves, c]` into the nodes of the tree that they make up: each node ends at the place of its first leaf.
pub(crate) fn fold_leaves<T: Float>(isa: Isa, sums: &mut [T], c: usize, rows: Rows) {
    for (first, level) in dyadic_blocks(rows.first_leaf(), rows.leaves()) {
        let block = &mut sums[(first - rows.first_leaf()) * c..][..c << level];
        for height in 0..level {
            for pair in block.chunks_mut((2 * c) << height) {
                let (left, right) = pair.split_at_mut(c << height);
                add_assign(isa, &right[..c], &mut left[..c]);
            }
        }
    }
}

/// The tree of leaves `[leaves, c]` after [`fold_leaves`].
pub(crate) fn folded_tree(sums: &Array, rows: Rows) -> Result<SampleSum> {
    let mut tree = SampleSum::default();
    for (first, level) in dyadic_blocks(rows.first_leaf(), rows.leaves()) {
        let leaf = first - rows.first_leaf();
        // A copy of its own: siblings are added in place.
        let node = sums.slice(0, leaf, leaf + 1)?.reshape(&sums.shape()[1..])?.copy()?;
        tree.add(first, level, node)?;
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Device;
    use proptest::prelude::*;
    use selfsame_kernels::reference::{self, Samples};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn rows_sum_is_the_definition_on_any_device(
            images in 1usize..70, pixels in prop_oneof![Just(1usize), Just(3), Just(50)], c in 1usize..70,
            seed in any::<u32>(),
        ) {
            let values: Vec<f32> = (0..images * pixels * c)
                .map(|i| ((i as u32).wrapping_mul(2_654_435_761).wrapping_add(seed) >> 8) as f32 * 1e-5 - 80.)
                .collect();
            let samples = Samples { images, rows_per_image: pixels };
            let sums = reference::rows_sum(samples, c, &values);
            let squares = reference::rows_dot(samples, c, &values, &values);
            for threads in [1, 3] {
                for isa in Isa::available() {
                    let device = Device::Cpu(crate::cpu::CpuDevice::with_isa(threads, isa).unwrap());
                    let x = Array::from_slice(&values, &[images, pixels, c], &device).unwrap();
                    let rows = Rows::of(x.shape(), 0).unwrap();
                    let total = |tree: Result<SampleSum>| tree.unwrap().total().unwrap().to_vec::<f32>().unwrap();
                    prop_assert_eq!(&total(rows_sum(&x, rows)), &sums);
                    prop_assert_eq!(&total(rows_dot(&x, &x, rows)), &squares);
                }
            }
        }
    }

    #[test]
    fn rows_that_do_not_fit_are_refused() {
        let device = Device::cpu_with(1).unwrap();
        let x = Array::full(1f32, &[4, 3], &device).unwrap();
        let rows = Rows { first_image: 0, images: 5, rows_per_image: 1 };
        assert_eq!(rows_sum(&x, rows).unwrap_err().kind(), ErrorKind::Shape);
    }
}
