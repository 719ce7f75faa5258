//! Which outputs the rows of a weight gradient sum over, in which order.

use super::super::conv::ConvShape;
use crate::order::{CHUNK, LEAF};
use std::ops::Range;

/// Output rows of one chunk of one leaf, or of several whole leaves of less than a chunk.
pub(super) struct Unit {
    pub(super) leaves: Range<usize>,
    /// Which chunk of its leaf; the only one where the unit has several leaves.
    pub(super) chunk: usize,
    /// Rows of dy.
    pub(super) rows: Range<usize>,
}

/// A tap's real output coordinates.
pub(in crate::cpu::contract) struct Tap {
    pub(in crate::cpu::contract) kernel: [usize; 2],
    pub(in crate::cpu::contract) y: Range<usize>,
    pub(in crate::cpu::contract) x: Range<usize>,
}

/// The taps of a kernel, row by row.
pub(in crate::cpu::contract) fn taps(shape: &ConvShape) -> Vec<Tap> {
    let [kh, kw] = shape.kernel;
    let tap =
        |[ky, kx]: [usize; 2]| Tap { kernel: [ky, kx], y: shape.real_outputs(0, ky), x: shape.real_outputs(1, kx) };
    (0..kh * kw).map(|i| tap([i / kw, i % kw])).collect()
}

/// Rows of the gradient that are summed over the same walk through the outputs: the channels of one tap, or those of all
/// taps of one line of the kernel, which are side by side in x.
pub(super) struct Walk {
    /// The first tap's vertical and horizontal place, and its index.
    kernel: [usize; 2],
    pub(super) tap: usize,
    pub(super) rows: usize,
    /// Lines of y whose taps are real.
    y: Range<usize>,
    /// Columns of y, from left to right, by the rows whose taps are real there. None where no tap is ever real.
    pub(super) cuts: Vec<Cut>,
}

/// Columns of y where the same rows of the gradient have real taps.
#[derive(Clone)]
pub(super) struct Cut {
    x: Range<usize>,
    pub(super) rows: Range<usize>,
}

impl Walk {
    /// Of a single tap with so many channels.
    fn of_tap(index: usize, tap: &Tap, channels: usize) -> Walk {
        let is_real = !tap.y.is_empty() && !tap.x.is_empty();
        let cut = Cut { x: tap.x.clone(), rows: 0..channels };
        let cuts = if is_real { vec![cut] } else { Vec::new() };
        Walk { kernel: tap.kernel, tap: index, rows: channels, y: tap.y.clone(), cuts }
    }

    /// Of all taps of a line of the kernel, the first of which has this index.
    fn of_line(index: usize, line: &[Tap], channels: usize) -> Walk {
        let mut ends: Vec<usize> = line.iter().flat_map(|tap| [tap.x.start, tap.x.end]).collect();
        ends.sort_unstable();
        ends.dedup();
        let cut = |x: Range<usize>| {
            let is_real = |tap: &Tap| tap.x.contains(&x.start);
            let first = line.iter().position(is_real)?;
            let last = line.iter().rposition(is_real)?;
            Some(Cut { x, rows: first * channels..(last + 1) * channels })
        };
        let cuts = ends.windows(2).filter_map(|pair| cut(pair[0]..pair[1])).collect();
        let rows = line.len() * channels;
        Walk { kernel: line[0].kernel, tap: index, rows, y: line[0].y.clone(), cuts }
    }
}

/// The walks of a group, tap by tap, or line by line of the kernel where a tap has less than `few` channels.
pub(super) fn walks(shape: &ConvShape, few: usize) -> Vec<Walk> {
    let taps = taps(shape);
    let channels = shape.c / shape.groups;
    let is_narrow = channels < few && shape.groups == 1 && shape.dilation[1] == 1;
    if is_narrow && taps_of_lines_share_chunks(shape, &taps) {
        let width = shape.kernel[1];
        let lines = taps.chunks(width).enumerate();
        lines.map(|(ky, line)| Walk::of_line(ky * width, line, channels)).collect()
    } else {
        taps.iter().enumerate().map(|(index, tap)| Walk::of_tap(index, tap, channels)).collect()
    }
}

/// Whether all taps of a line of the kernel have a real output in the same chunks of every leaf: then their chunk sums
/// are added alike.
///
/// Sufficient for that is a whole line of real outputs in every chunk which has some.
fn taps_of_lines_share_chunks(shape: &ConvShape, taps: &[Tap]) -> bool {
    let [out_h, out_w] = shape.out_size();
    let least_lines = taps.iter().map(|tap| if tap.x.is_empty() { 0 } else { tap.y.len() }).min().unwrap_or(0);
    if least_lines == 0 {
        return false;
    }
    // Lines between the last real one of an image and the first of the next.
    let between = out_h - least_lines;
    let leaf_shares = |images: usize| {
        let rows = images * out_h * out_w;
        let rest = rows % CHUNK;
        rows <= CHUNK || (CHUNK >= (between + 2) * out_w && (rest == 0 || rest >= (between + 1) * out_w))
    };
    [LEAF.min(shape.n), shape.n % LEAF].into_iter().all(leaf_shares)
}

/// The outputs of a unit whose taps are real.
#[derive(Default)]
pub(super) struct Positions {
    /// (offset in x of the first tap's pixel from the unit's first image, row of the unit). Where the first tap is not
    /// real, the offset may be less than 0; it wraps around.
    pub(super) at: Vec<(usize, usize)>,
    /// Positions, counted from their leaf's first, where only some rows have real taps, with their cuts.
    pub(super) partial: Vec<(usize, usize)>,
    pub(super) leaves: Vec<LeafPositions>,
}

/// The positions of one leaf, at least one.
pub(super) struct LeafPositions {
    pub(super) index: usize,
    pub(super) at: Range<usize>,
    pub(super) partial: Range<usize>,
    /// Whether no earlier chunk of the leaf has a real output.
    pub(super) is_first_chunk: bool,
    /// Whether no later one has.
    pub(super) is_last_chunk: bool,
}

impl Positions {
    /// Finds those of `unit`, leaf by leaf.
    pub(super) fn find(&mut self, shape: &ConvShape, unit: &Unit, walk: &Walk) {
        self.at.clear();
        self.partial.clear();
        self.leaves.clear();
        let (Some(left), Some(right)) = (walk.cuts.first(), walk.cuts.last()) else {
            return;
        };
        let [out_h, out_w] = shape.out_size();
        let image_len = shape.h * shape.w * shape.c;
        for index in unit.leaves.clone() {
            let images = index * LEAF..shape.n.min((index + 1) * LEAF);
            let row = |image: usize, y: usize, x: usize| (image * out_h + y) * out_w + x;
            let leaf_start = row(images.start, 0, 0);
            let first = row(images.start, walk.y.start, left.x.start);
            let last = row(images.end - 1, walk.y.end - 1, right.x.end - 1);
            let rows = unit.rows.start.max(leaf_start)..unit.rows.end.min(row(images.end, 0, 0));
            let (start, first_partial) = (self.at.len(), self.partial.len());
            for line in rows.start / out_w..rows.end.div_ceil(out_w) {
                let (image, y) = (line / out_h, line % out_h);
                if !walk.y.contains(&y) {
                    continue;
                }
                for (cut, Cut { x, rows: real }) in walk.cuts.iter().enumerate() {
                    let from = x.start.max(rows.start.saturating_sub(line * out_w));
                    let to = x.end.min(rows.end - line * out_w);
                    if from >= to {
                        continue;
                    }
                    let in_x = ((image - unit.leaves.start * LEAF) * image_len)
                        .wrapping_add_signed(shape.input_offset([y, from], walk.kernel));
                    let step = shape.stride[1] * shape.c;
                    let in_dy = line * out_w + from - unit.rows.start;
                    if real.len() < walk.rows {
                        self.partial.extend((0..to - from).map(|i| (self.at.len() - start + i, cut)));
                    }
                    self.at.extend((0..to - from).map(|i| (in_x.wrapping_add(i * step), in_dy + i)));
                }
            }
            if self.at.len() > start {
                self.leaves.push(LeafPositions {
                    index,
                    at: start..self.at.len(),
                    partial: first_partial..self.partial.len(),
                    is_first_chunk: (first - leaf_start) / CHUNK == unit.chunk,
                    is_last_chunk: (last - leaf_start) / CHUNK == unit.chunk,
                });
            }
        }
    }
}

/// Cuts the rows of all leaves into units.
pub(super) fn units(images: usize, rows_per_image: usize) -> Vec<Unit> {
    let leaf_rows = LEAF * rows_per_image;
    let leaves = images.div_ceil(LEAF);
    let rows = images * rows_per_image;
    if leaf_rows == 0 {
        Vec::new()
    } else if leaf_rows <= CHUNK {
        let together = CHUNK / leaf_rows;
        (0..leaves)
            .step_by(together)
            .map(|leaf| (leaf, leaves.min(leaf + together)))
            .map(|(from, to)| Unit { leaves: from..to, chunk: 0, rows: from * leaf_rows..rows.min(to * leaf_rows) })
            .collect()
    } else {
        let unit = |leaf: usize, chunk: usize| {
            let start = leaf * leaf_rows + chunk * CHUNK;
            let end = rows.min((leaf + 1) * leaf_rows).min(start + CHUNK);
            Unit { leaves: leaf..leaf + 1, chunk, rows: start..end }
        };
        (0..leaves)
            .flat_map(|leaf| (0..leaf_rows.div_ceil(CHUNK)).map(move |chunk| (leaf, chunk)))
            .map(|(leaf, chunk)| unit(leaf, chunk))
            .filter(|unit| !unit.rows.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_channels_are_walked_by_lines_where_chunks_allow_it() {
        let stem = ConvShape {
            n: 16,
            h: 224,
            w: 224,
            c: 3,
            c_out: 64,
            kernel: [7, 7],
            stride: [2, 2],
            padding: [3, 3],
            dilation: [1, 1],
            groups: 1,
        };
        let count = |shape: ConvShape| walks(&shape, 14).len();
        assert_eq!(count(stem), 7);
        assert_eq!(count(ConvShape { c: 14, ..stem }), 49);
        assert_eq!(count(ConvShape { dilation: [1, 2], ..stem }), 49);
        // Chunks of less than four lines; a last chunk of one row.
        assert_eq!(count(ConvShape { w: 300, ..stem }), 49);
        assert_eq!(count(ConvShape { h: 54, w: 38, n: 1, ..stem }), 49);
    }
}
