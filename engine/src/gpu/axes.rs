//! The axes of a kernel that reads operands by strides.

use crate::layout::Layout;
use crate::{Error, ErrorKind, Result};
use selfsame_kernels::launch::MAX_ELEMENTS;

/// Most axes that a strided kernel takes.
const MOST: usize = 4;

/// The shared shape of `N` operands, as few axes as can be, and each operand's strides in elements.
pub(super) struct Axes<const N: usize> {
    pub(super) lengths: [u32; MOST],
    pub(super) strides: [[u32; MOST]; N],
}

impl<const N: usize> Axes<N> {
    /// The axes of layouts of one shape, those joined that continue each other in every operand; `None` when more than
    /// four are left or a stride is negative.
    pub(super) fn merged(shape: &[usize], layouts: [&Layout; N]) -> Option<Axes<N>> {
        let mut axes: Vec<(usize, [isize; N])> = Vec::new();
        for (axis, &length) in shape.iter().enumerate().filter(|(_, length)| **length != 1) {
            let strides = layouts.map(|layout| layout.strides()[axis]);
            match axes.last_mut() {
                Some((outer, last)) if (0..N).all(|i| last[i] == strides[i] * length as isize) => {
                    *outer *= length;
                    *last = strides;
                }
                _ => axes.push((length, strides)),
            }
        }
        let unused = MOST.checked_sub(axes.len())?;
        let mut merged = Axes { lengths: [1; MOST], strides: [[0; MOST]; N] };
        for (at, (length, strides)) in axes.into_iter().enumerate() {
            merged.lengths[unused + at] = u32::try_from(length).ok()?;
            for (operand, stride) in strides.into_iter().enumerate() {
                merged.strides[operand][unused + at] = u32::try_from(stride).ok()?;
            }
        }
        Some(merged)
    }
}

/// A length or count as kernels take it.
///
/// # Errors
/// `Shape` above 2^31.
#[track_caller]
pub(super) fn extent(n: usize) -> Result<u32> {
    u32::try_from(n).ok().filter(|n| u64::from(*n) <= MAX_ELEMENTS).ok_or_else(|| {
        Error::new(ErrorKind::Shape, "device array", format!("{n} elements"))
            .expected(format!("at most {MAX_ELEMENTS}, since kernels index with 32 bits"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_that_continue_each_other_are_one() {
        let (a, b) = (Layout::contiguous(&[2, 1, 3, 4]), Layout::contiguous(&[4]).broadcast_to(&[2, 1, 3, 4]).unwrap());
        let axes = Axes::merged(&[2, 1, 3, 4], [&a, &b]).unwrap();
        assert_eq!((axes.lengths, axes.strides), ([1, 1, 6, 4], [[0, 0, 4, 1], [0, 0, 0, 1]]));
        let flipped = a.flip(3).unwrap();
        assert!(Axes::merged(&[2, 1, 3, 4], [&flipped, &b]).is_none());
        let many = Layout::contiguous(&[2, 3, 2, 3, 2]);
        let mixed = many.permute(&[4, 3, 2, 1, 0]).unwrap();
        assert!(Axes::merged(mixed.shape(), [&mixed]).is_none());
    }
}
