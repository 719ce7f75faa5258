//! Shapes and strides: how a flat buffer is seen as an n-dimensional array.

use crate::{Error, ErrorKind, Result};

/// Shape, strides (in elements) and offset of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: Vec<usize>,
    strides: Vec<isize>,
    offset: usize,
}

/// Row-major strides of `shape`.
fn row_major(shape: &[usize]) -> Vec<isize> {
    let mut strides = vec![1isize; shape.len()];
    for i in (0..shape.len().saturating_sub(1)).rev() {
        strides[i] = strides[i + 1] * shape[i + 1].max(1) as isize;
    }
    strides
}

/// Number of elements of `shape`.
///
/// # Errors
/// When the product does not fit in memory's address range.
pub fn element_count(shape: &[usize]) -> Result<usize> {
    shape
        .iter()
        .try_fold(1usize, |n, &d| n.checked_mul(d))
        .filter(|&n| n <= isize::MAX as usize / 8)
        .ok_or_else(|| Error::new(ErrorKind::Shape, "shape", format!("{shape:?} has too many elements")))
}

impl Layout {
    /// A row-major layout starting at element 0.
    pub fn contiguous(shape: &[usize]) -> Layout {
        Layout { shape: shape.to_vec(), strides: row_major(shape), offset: 0 }
    }

    /// Length of each axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Distance in elements between neighbours along each axis; 0 for a broadcast axis, negative for a flipped one.
    pub fn strides(&self) -> &[isize] {
        &self.strides
    }

    /// Index in the buffer of the element with all coordinates 0.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the elements lie in row-major order without gaps. Axes of length 1 may have any stride.
    pub fn is_contiguous(&self) -> bool {
        let mut expected = 1isize;
        for (&d, &s) in self.shape.iter().zip(&self.strides).rev() {
            if d == 0 {
                return true;
            }
            if d != 1 {
                if s != expected {
                    return false;
                }
                expected *= d as isize;
            }
        }
        true
    }

    /// One more than the largest buffer index of any element; 0 when there is none.
    pub fn reach(&self) -> usize {
        if self.numel() == 0 {
            return 0;
        }
        let ahead: usize =
            self.shape.iter().zip(&self.strides).map(|(&d, &s)| (d - 1) * usize::try_from(s).unwrap_or(0)).sum();
        self.offset + ahead + 1
    }

    /// The same elements with axes in the order `axes`.
    pub fn permute(&self, axes: &[usize]) -> Result<Layout> {
        let mut seen = vec![false; self.shape.len()];
        let fits = axes.len() == self.shape.len()
            && axes.iter().all(|&a| a < seen.len() && !std::mem::replace(&mut seen[a], true));
        if !fits {
            return Err(Error::new(ErrorKind::Shape, "permute", format!("axes {axes:?} of shape {:?}", self.shape))
                .expected(format!("each of the axes 0..{} once", self.shape.len())));
        }
        Ok(Layout {
            shape: axes.iter().map(|&a| self.shape[a]).collect(),
            strides: axes.iter().map(|&a| self.strides[a]).collect(),
            offset: self.offset,
        })
    }

    /// Every `step`-th element of `start..end` along `axis`.
    pub fn slice(&self, axis: usize, start: usize, end: usize, step: usize) -> Result<Layout> {
        let len = *self
            .shape
            .get(axis)
            .ok_or_else(|| Error::new(ErrorKind::Shape, "slice", format!("axis {axis} of shape {:?}", self.shape)))?;
        if start > end || end > len || step == 0 {
            return Err(Error::new(
                ErrorKind::Shape,
                "slice",
                format!("{start}..{end} step {step} of axis {axis} of shape {:?}", self.shape),
            )
            .expected(format!("a range inside 0..{len} and a step of at least 1")));
        }
        let mut out = self.clone();
        out.shape[axis] = (end - start).div_ceil(step);
        if out.shape[axis] > 0 {
            out.offset = (out.offset as isize + start as isize * self.strides[axis]) as usize;
        }
        out.strides[axis] *= step as isize;
        Ok(out)
    }

    /// The same elements with `axis` reversed.
    pub fn flip(&self, axis: usize) -> Result<Layout> {
        let len = *self
            .shape
            .get(axis)
            .ok_or_else(|| Error::new(ErrorKind::Shape, "flip", format!("axis {axis} of shape {:?}", self.shape)))?;
        let mut out = self.clone();
        if len > 0 {
            out.offset = (out.offset as isize + (len - 1) as isize * self.strides[axis]) as usize;
            out.strides[axis] = -self.strides[axis];
        }
        Ok(out)
    }

    /// The view repeated along new leading axes and along axes of length 1 to fill `shape`.
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Layout> {
        let lead = shape.len().checked_sub(self.shape.len());
        let fits = lead.is_some_and(|lead| shape[lead..].iter().zip(&self.shape).all(|(&to, &d)| d == to || d == 1));
        let Some(lead) = lead.filter(|_| fits) else {
            return Err(Error::new(ErrorKind::Shape, "broadcast", format!("{:?} to {shape:?}", self.shape))
                .expected("trailing axes equal or 1"));
        };
        let mut strides = vec![0; lead];
        strides.extend(
            self.shape.iter().zip(&self.strides).zip(&shape[lead..]).map(|((&d, &s), &to)| if d == to { s } else { 0 }),
        );
        Ok(Layout { shape: shape.to_vec(), strides, offset: self.offset })
    }

    /// The view under another shape with as many elements, or `None` when that needs a copy.
    pub fn reshape(&self, shape: &[usize]) -> Option<Layout> {
        if self.is_contiguous() {
            return Some(Layout { offset: self.offset, ..Layout::contiguous(shape) });
        }
        // Axes of length 1 carry no elements; the rest must agree one to one.
        let dense = |shape: &[usize]| shape.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
        if dense(&self.shape) != dense(shape) {
            return None;
        }
        let mut kept = self.shape.iter().zip(&self.strides).filter(|(d, _)| **d != 1).map(|(_, s)| *s);
        let strides = shape.iter().map(|&d| if d == 1 { 0 } else { kept.next().expect("as many long axes") }).collect();
        Some(Layout { shape: shape.to_vec(), strides, offset: self.offset })
    }
}

/// The shape two operands broadcast to (NumPy's rule).
///
/// # Errors
/// Names both shapes when a pair of trailing axes differs and neither is 1.
pub fn broadcast_shape(op: &str, a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let axis = |shape: &[usize], i: usize| (i + shape.len()).checked_sub(rank).map_or(1, |j| shape[j]);
    (0..rank)
        .map(|i| match (axis(a, i), axis(b, i)) {
            (x, y) if x == y => Ok(x),
            (1, y) => Ok(y),
            (x, 1) => Ok(x),
            _ => Err(Error::new(ErrorKind::Shape, op, format!("{a:?} and {b:?}"))
                .expected("shapes that broadcast: trailing axes equal or 1")),
        })
        .collect()
}

/// Calls `visit(offset, stride, len)` for each innermost run of `layout`, in row-major order.
///
/// Neighbouring axes that continue each other are merged first, so a contiguous view is a single run.
pub fn for_each_run(layout: &Layout, mut visit: impl FnMut(isize, isize, usize)) {
    if layout.numel() == 0 {
        return;
    }
    let mut dims: Vec<(usize, isize)> = Vec::with_capacity(layout.shape.len());
    for (&d, &s) in layout.shape.iter().zip(&layout.strides) {
        if d == 1 {
            continue;
        }
        match dims.last_mut() {
            Some((outer, stride)) if *stride == s * d as isize => {
                *outer *= d;
                *stride = s;
            }
            _ => dims.push((d, s)),
        }
    }
    let (len, stride) = dims.pop().unwrap_or((1, 1));
    let mut at = vec![0usize; dims.len()];
    let mut base = layout.offset as isize;
    loop {
        visit(base, stride, len);
        let mut axis = dims.len();
        loop {
            if axis == 0 {
                return;
            }
            axis -= 1;
            let (d, s) = dims[axis];
            at[axis] += 1;
            base += s;
            if at[axis] < d {
                break;
            }
            base -= s * d as isize;
            at[axis] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(layout: &Layout) -> Vec<isize> {
        let mut out = Vec::new();
        for_each_run(layout, |base, stride, len| out.extend((0..len as isize).map(|i| base + i * stride)));
        out
    }

    #[test]
    fn contiguous_is_one_run() {
        let mut runs = 0;
        for_each_run(&Layout::contiguous(&[2, 3, 4]), |_, _, len| {
            runs += 1;
            assert_eq!(len, 24);
        });
        assert_eq!(runs, 1);
    }

    #[test]
    fn views_visit_the_right_elements() {
        let base = Layout::contiguous(&[2, 3]);
        assert_eq!(elements(&base.permute(&[1, 0]).unwrap()), [0, 3, 1, 4, 2, 5]);
        assert_eq!(elements(&base.slice(1, 1, 3, 1).unwrap()), [1, 2, 4, 5]);
        assert_eq!(elements(&base.flip(1).unwrap()), [2, 1, 0, 5, 4, 3]);
        let row = Layout::contiguous(&[3]).broadcast_to(&[2, 3]).unwrap();
        assert_eq!(elements(&row), [0, 1, 2, 0, 1, 2]);
        assert_eq!(elements(&Layout::contiguous(&[])), [0]);
        assert!(elements(&Layout::contiguous(&[2, 0])).is_empty());
    }

    #[test]
    fn reach_covers_every_visited_element() {
        let base = Layout::contiguous(&[4, 6]);
        for view in [
            base.slice(0, 1, 3, 1).unwrap().flip(1).unwrap(),
            base.slice(1, 0, 5, 2).unwrap().permute(&[1, 0]).unwrap(),
            base.slice(0, 2, 3, 1).unwrap().broadcast_to(&[3, 1, 6]).unwrap(),
            base.slice(0, 2, 2, 1).unwrap(),
        ] {
            let last = elements(&view).into_iter().max().map_or(0, |i| i as usize + 1);
            assert_eq!(view.reach(), last, "{view:?}");
        }
    }

    #[test]
    fn reshape_of_a_transpose_needs_a_copy() {
        let t = Layout::contiguous(&[2, 3]).permute(&[1, 0]).unwrap();
        assert!(t.reshape(&[6]).is_none());
        assert!(t.reshape(&[3, 1, 2]).is_some());
    }

    #[test]
    fn broadcast_shape_follows_numpy() {
        assert_eq!(broadcast_shape("add", &[2, 1, 3], &[4, 1]).unwrap(), [2, 4, 3]);
        let error = broadcast_shape("add", &[2, 3], &[4]).unwrap_err();
        assert!(error.to_string().contains("[2, 3] and [4]"));
    }
}
