//! Transposed copies, in squares of vectors: those of a panel of a transposed right operand, of a tile of a transposed
//! left one.
//!
//! A square is loaded, and every second lane of one half of its vectors goes beside those of the other half, as often as
//! halving them leaves one.
#![allow(unsafe_code)]
// Index loops of constant length are what is unrolled into registers here.
#![allow(clippy::needless_range_loop)]

use super::lanes::{Lanes, Real};
use super::micro::{Kernels, MAX_WIDTH};
use super::pack::copy_row;

/// `to[i * to_pitch + j] = from[j * from_pitch + i]` for `i < rows` and `j < columns`, of a square as wide as a vector.
///
/// # Safety
/// The instruction set of the kernel must be there; `columns` vectors must be valid in `from`, and `rows` in `to`, all of
/// which are written.
pub(in crate::cpu) type SquareKernel<T> =
    unsafe fn(from: *const T, from_pitch: usize, to: *mut T, to_pitch: usize, rows: usize, columns: usize);

/// See [`SquareKernel`]; `W` is the width of the lanes.
#[inline(always)]
pub(super) unsafe fn square<L: Lanes, const W: usize>(
    from: *const L::Elem,
    from_pitch: usize,
    to: *mut L::Elem,
    to_pitch: usize,
    rows: usize,
    columns: usize,
) {
    // SAFETY: the caller vouches for the instruction set, for the vectors that are read and for those that are written.
    unsafe {
        let mut vectors = [L::zero(); W];
        for j in 0..W {
            if j < columns {
                vectors[j] = L::load(from.add(j * from_pitch));
            }
        }
        let mut width = W;
        while width > 1 {
            let halves = vectors;
            for i in 0..W / 2 {
                (vectors[2 * i], vectors[2 * i + 1]) = halves[i].interleave(halves[i + W / 2]);
            }
            width /= 2;
        }
        for i in 0..W {
            if i < rows {
                vectors[i].store(to.add(i * to_pitch));
            }
        }
    }
}

/// `to[i * to_stride + j] = from[i * i_stride + j * j_stride]` for `i < rows`, `j < columns`.
///
/// # Panics
/// When an element lies behind the end of its slice.
pub(super) fn transpose<T: Real>(
    kernels: &Kernels<T>,
    from: &[T],
    [i_stride, j_stride]: [usize; 2],
    [rows, columns]: [usize; 2],
    to: &mut [T],
    to_stride: usize,
) {
    let edge = kernels.width;
    let mut ragged = [T::ZERO; MAX_WIDTH * MAX_WIDTH];
    for i in (0..rows).step_by(edge) {
        for j in (0..columns).step_by(edge) {
            let [rows, columns] = [edge.min(rows - i), edge.min(columns - j)];
            let (from, to) = (&from[i * i_stride + j * j_stride..], &mut to[i * to_stride + j..]);
            if i_stride == 1 && (columns - 1) * j_stride + edge <= from.len() {
                let is_whole = columns == edge;
                let (square, pitch) = if is_whole { (&mut *to, to_stride) } else { (&mut ragged[..], edge) };
                assert!((rows - 1) * pitch + edge <= square.len(), "a square larger than its memory");
                // SAFETY: both slices have the vectors, and kernels exist only for machines that have their instructions.
                unsafe { (kernels.square)(from.as_ptr(), j_stride, square.as_mut_ptr(), pitch, rows, columns) };
                if !is_whole {
                    for (i, row) in ragged.chunks_exact(edge).enumerate().take(rows) {
                        copy_row(&row[..columns], &mut to[i * to_stride..][..columns]);
                    }
                }
            } else {
                for i in 0..rows {
                    for j in 0..columns {
                        to[i * to_stride + j] = from[i * i_stride + j * j_stride];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use selfsame_kernels::isa::Isa;

    proptest! {
        #[test]
        fn every_element_is_where_it_belongs_and_no_other_is_written(
            rows in 1usize..40, columns in 1usize..40, gaps in [0usize..3, 0usize..3], is_flat in any::<bool>(),
        ) {
            let strides = if is_flat { [columns + gaps[0], 1] } else { [1, rows + gaps[0]] };
            let len = (rows - 1) * strides[0] + (columns - 1) * strides[1] + 1;
            let from: Vec<f64> = (0..len).map(|i| i as f64).collect();
            let pitch = columns + gaps[1];
            let expected: Vec<f64> = (0..rows * pitch)
                .map(|at| [at / pitch, at % pitch])
                .map(|[i, j]| if j < columns { from[i * strides[0] + j * strides[1]] } else { -1.0 })
                .collect();
            for isa in Isa::available() {
                let mut to = vec![-1.0; rows * pitch];
                transpose(f64::kernels(isa), &from, strides, [rows, columns], &mut to, pitch);
                prop_assert_eq!(&to, &expected, "{}", isa);
                let (from, mut to) = (from.iter().map(|x| *x as f32).collect::<Vec<_>>(), vec![-1f32; rows * pitch]);
                transpose(f32::kernels(isa), &from, strides, [rows, columns], &mut to, pitch);
                prop_assert!(to.iter().zip(&expected).all(|(a, b)| f64::from(*a) == *b), "{}", isa);
            }
        }
    }
}
