//! The gradient of a convolution's weight: products of x, transposed, and dy over the pixels of a leaf, in the sample tree.
//!
//! A tile of the gradient is 32 of its rows, which are (tap, input channel): channels of one tap, or, where there are fewer
//! channels than that, all rows in their order, whatever their taps.
#![allow(unsafe_code)]

use super::super::super::bf16::{BLOCK, EDGE, Layout, Pairs, Run, Unit, add_block, pair_lines};
use super::super::conv::ConvShape;
use super::super::weight_grad::{Step, Tap, even_slices, steps, taps};
use super::super::{Context, SharedMut};
use super::correlation::add_product;
use super::rounded;
use crate::order::{CHUNK, LEAF};
use crate::rows::dyadic_blocks;
use std::ops::Range;

/// Most blocks of columns of a task.
const MOST_COLUMNS: usize = 4;

/// Most blocks of sums of a task, a chunk's and one for each level of the tree: 256 KiB a level.
const MOST_BLOCKS: usize = 64;

/// Blocks of positions in a chunk.
const CHUNK_BLOCKS: usize = CHUNK / EDGE;

/// The gradient `[kh, kw, c / groups, c_out]`, as [`conv2d_weight_grad`](super::super::conv2d_weight_grad) has it.
///
/// # Panics
/// When lengths do not fit the shape, or the channels the groups: the caller checks its operands.
pub(crate) fn conv2d_weight_grad(
    cx: &Context<'_>,
    shape: &ConvShape,
    first_leaf: usize,
    x: &[f32],
    dy: &[f32],
    nodes: &mut [&mut [f32]],
) {
    let leaves = shape.n.div_ceil(LEAF);
    let blocks = dyadic_blocks(first_leaf, leaves);
    assert_eq!([x.len(), dy.len(), nodes.len()], [shape.x_len(), shape.y_len(), blocks.len()], "lengths");
    assert!(nodes.iter().all(|node| node.len() == shape.weight_len()), "node lengths");
    if shape.weight_len() == 0 {
        return;
    }
    let unit = Unit::beside(cx.isa);
    // What lies behind the last channel of the last pixel, and what pixels outside the image are read from.
    let x_rounded = rounded(cx, x, Pairs::Neighbours, shape.c + EDGE);
    let dy_rounded = rounded(cx, dy, Pairs::Neighbours, shape.c_out + EDGE);
    let (steps, slots) = steps(first_leaf, leaves);
    let gradient = Gradient { shape, taps: taps(shape), unit, x: &x_rounded, dy: &dy_rounded, steps, slots };
    let tasks = gradient.tasks(cx.threads());
    let nodes: Vec<SharedMut<f32>> = nodes.iter_mut().map(|node| SharedMut::new(node)).collect();
    cx.run(tasks.len(), |task| gradient.run(cx, &tasks[task], &nodes));
}

/// A block of the gradient: tiles, by number, and blocks of 32 output channels. Tiles of the same channels come one after
/// another, since they read the same pixels.
struct Task {
    group: usize,
    tiles: Range<usize>,
    columns: Range<usize>,
}

struct Gradient<'a> {
    shape: &'a ConvShape,
    taps: Vec<Tap>,
    unit: Unit,
    x: &'a [u16],
    dy: &'a [u16],
    /// By leaf of this micro-batch.
    steps: Vec<Step>,
    /// Slots for nodes of the tree.
    slots: usize,
}

/// Where the positions of a chunk are, in the order of their blocks, and which blocks have any.
#[derive(Clone)]
struct Positions {
    at: [usize; CHUNK],
    blocks: Taken,
}

/// Some of the blocks of a chunk, a bit for each.
type Taken = u32;
const _: () = assert!(CHUNK_BLOCKS < Taken::BITS as usize);

/// Those of `taken`, neighbours joined.
fn runs(taken: Taken) -> impl Iterator<Item = Range<usize>> {
    let start = move |i: usize| taken >> i & 1 == 1 && (i == 0 || taken >> (i - 1) & 1 == 0);
    (0..CHUNK_BLOCKS).filter(move |i| start(*i)).map(move |i| i..i + (!(taken >> i)).trailing_zeros() as usize)
}

impl Gradient<'_> {
    /// Channels of a group on both sides.
    fn channels(&self) -> [usize; 2] {
        [self.shape.c, self.shape.c_out].map(|channels| channels / self.shape.groups)
    }

    /// Blocks of channels of a group on both sides.
    fn blocks(&self) -> [usize; 2] {
        self.channels().map(|channels| channels.div_ceil(EDGE))
    }

    /// Whether taps share tiles.
    fn shares_tiles(&self) -> bool {
        self.channels()[0] < EDGE
    }

    /// The rows of a tile in a group's gradient `[taps * channels, output channels]`.
    fn rows(&self, tile: usize) -> Range<usize> {
        let ([channels, _], taps) = (self.channels(), self.taps.len());
        if self.shares_tiles() {
            return tile * EDGE..(taps * channels).min((tile + 1) * EDGE);
        }
        let (first, tap) = (tile / taps * EDGE, tile % taps);
        tap * channels + first..tap * channels + channels.min(first + EDGE)
    }

    fn tasks(&self, threads: usize) -> Vec<Task> {
        let [down, across] = self.blocks();
        let taps = self.taps.len();
        let tiles = if self.shares_tiles() { (taps * self.channels()[0]).div_ceil(EDGE) } else { taps * down };
        let column_slices = across.div_ceil(MOST_COLUMNS);
        let most_tiles = MOST_BLOCKS / MOST_COLUMNS.min(across);
        let others = self.shape.groups * column_slices;
        let tile_slices = even_slices(tiles.div_ceil(most_tiles), others, threads).min(tiles);
        let cut = |n: usize, i: usize, slices: usize| i * n / slices..(i + 1) * n / slices;
        (0..others * tile_slices)
            .map(|i| Task {
                group: i / (column_slices * tile_slices),
                tiles: cut(tiles, i / column_slices % tile_slices, tile_slices),
                columns: cut(across, i % column_slices, column_slices),
            })
            .collect()
    }

    /// One block of the gradient, of all nodes.
    fn run(&self, cx: &Context<'_>, task: &Task, nodes: &[SharedMut<f32>]) {
        let ConvShape { n, c_out, .. } = *self.shape;
        let [_, columns] = self.channels();
        let rows_per_image: usize = self.shape.out_size().iter().product();
        let across = task.columns.len();
        let mut session = self.unit.open();
        // Of each tile and column block: the leaf's sum, then the nodes.
        let mut sums = cx.scratch.lease::<f32>(task.tiles.len() * across * (1 + self.slots) * BLOCK);
        let mut left = cx.scratch.lease::<u16>(CHUNK_BLOCKS * BLOCK);
        let mut right = cx.scratch.lease::<u16>(across * CHUNK_BLOCKS * BLOCK);
        let mut lines = cx.scratch.lease::<u16>(CHUNK * EDGE);
        let none = || Positions { at: [0; CHUNK], blocks: 0 };
        let (mut of_dy, mut of_taps) = (none(), vec![none(); self.taps.len()]);
        let mut is_begun = vec![false; task.tiles.len()];
        for (leaf, step) in self.steps.iter().enumerate() {
            is_begun.fill(false);
            let rows = leaf * LEAF * rows_per_image..n.min((leaf + 1) * LEAF) * rows_per_image;
            for first in rows.clone().step_by(CHUNK) {
                let chunk = first..rows.end.min(first + CHUNK);
                self.find_all(chunk.clone(), &mut of_dy);
                for (column, right) in task.columns.clone().zip(right.chunks_exact_mut(CHUNK_BLOCKS * BLOCK)) {
                    let from = &self.dy[task.group * columns + column * EDGE..];
                    self.pair(cx, from, &of_dy, right);
                }
                for (tap, positions) in self.taps.iter().zip(&mut of_taps) {
                    self.find(chunk.clone(), tap, positions);
                }
                for (t, tile) in task.tiles.clone().enumerate() {
                    let taken = self.left(cx, task.group, tile, &of_taps, &mut lines, &mut left);
                    if taken == 0 {
                        continue;
                    }
                    let mut products = Vec::with_capacity(CHUNK_BLOCKS);
                    for (i, right) in right.chunks_exact(CHUNK_BLOCKS * BLOCK).enumerate() {
                        let run = |blocks: Range<usize>| {
                            let at = blocks.start * BLOCK..blocks.end * BLOCK;
                            Run { left: &left[at.clone()], right: &right[at] }
                        };
                        products.clear();
                        products.extend(runs(taken).map(run));
                        let sums = &mut sums[(t * across + i) * (1 + self.slots) * BLOCK..][..BLOCK];
                        add_product(cx, &mut session, Layout::Pairs, &products, !is_begun[t], sums);
                    }
                    is_begun[t] = true;
                }
            }
            for (i, sums) in sums.chunks_exact_mut((1 + self.slots) * BLOCK).enumerate() {
                let (sum, slots) = sums.split_at_mut(BLOCK);
                if !is_begun[i / across] {
                    sum.fill(0.0);
                }
                for &node in &step.merge {
                    add_block(cx.isa, &slots[node * BLOCK..][..BLOCK], false, EDGE, EDGE, sum);
                }
                slots[step.to * BLOCK..][..BLOCK].copy_from_slice(sum);
            }
        }
        let mut sums = sums.chunks_exact((1 + self.slots) * BLOCK);
        for tile in task.tiles.clone() {
            for column in task.columns.clone() {
                let Some(sums) = sums.next() else { return };
                let (rows, width) = (self.rows(tile), EDGE.min(columns - column * EDGE));
                for (node, sums) in nodes.iter().zip(sums[BLOCK..].as_chunks::<BLOCK>().0) {
                    for (row, sums) in rows.clone().zip(sums.as_chunks::<EDGE>().0) {
                        // SAFETY: each tile and column block is one task's, and names other elements than all others.
                        let to = unsafe { node.slice(row * c_out + task.group * columns + column * EDGE, width) };
                        to.copy_from_slice(&sums[..width]);
                    }
                }
            }
        }
    }

    /// The place of position `i` of a chunk among its blocks' elements.
    fn place(&self, i: usize) -> usize {
        i / EDGE * EDGE + self.unit.pairs().place(i % EDGE)
    }

    /// The rows of dy.
    fn find_all(&self, chunk: Range<usize>, to: &mut Positions) {
        to.at.fill(self.shape.y_len());
        for (i, row) in chunk.clone().enumerate() {
            to.at[self.place(i)] = row * self.shape.c_out;
        }
        to.blocks = (1 << chunk.len().div_ceil(EDGE)) - 1;
    }

    /// The pixels of x that the tap of each row reads.
    fn find(&self, chunk: Range<usize>, tap: &Tap, to: &mut Positions) {
        let shape = self.shape;
        let [out_h, out_w] = shape.out_size();
        to.at.fill(shape.x_len());
        to.blocks = 0;
        let first = chunk.start;
        for line in first / out_w..chunk.end.div_ceil(out_w) {
            let (image, y) = (line / out_h, line % out_h);
            let xs = tap.x.start.max(first.saturating_sub(line * out_w))..tap.x.end.min(chunk.end - line * out_w);
            if !tap.y.contains(&y) || xs.is_empty() {
                continue;
            }
            let start = image * shape.h * shape.w * shape.c + shape.input_offset([y, xs.start], tap.kernel);
            for (x, at) in xs.clone().zip((start..).step_by(shape.stride[1] * shape.c)) {
                to.at[self.place(line * out_w + x - first)] = at;
            }
            let block = |x: usize| (line * out_w + x - first) / EDGE;
            to.blocks |= (2 << block(xs.end - 1)) - (1 << block(xs.start));
        }
    }

    /// The blocks of x for a tile, and which of them have a position that is real for any of its taps.
    fn left(
        &self,
        cx: &Context<'_>,
        group: usize,
        tile: usize,
        of_taps: &[Positions],
        lines: &mut [u16],
        to: &mut [u16],
    ) -> Taken {
        let [channels, _] = self.channels();
        let rows = self.rows(tile);
        let from = &self.x[group * channels..];
        if !self.shares_tiles() {
            let positions = &of_taps[rows.start / channels];
            self.pair(cx, &from[rows.start % channels..], positions, to);
            return positions.blocks;
        }
        let mut gathered = Positions { at: std::array::from_fn(|i| i * EDGE), blocks: 0 };
        let mut row = rows.start;
        while row < rows.end {
            let (tap, channel) = (row / channels, row % channels);
            let len = (channels - channel).min(rows.end - row);
            gathered.blocks |= of_taps[tap].blocks;
            for (at, line) in of_taps[tap].at.iter().zip(lines.chunks_exact_mut(EDGE)) {
                line[row - rows.start..][..len].copy_from_slice(&from[at + channel..][..len]);
            }
            row += len;
        }
        self.pair(cx, lines, &gathered, to);
        gathered.blocks
    }

    /// Blocks of 32 channels over the positions.
    fn pair(&self, cx: &Context<'_>, from: &[u16], positions: &Positions, to: &mut [u16]) {
        for blocks in runs(positions.blocks) {
            let to = to[blocks.start * BLOCK..blocks.end * BLOCK].as_chunks_mut::<BLOCK>().0;
            let at = positions.at.as_chunks::<EDGE>().0[blocks.clone()].iter();
            to.iter_mut().zip(at).for_each(|(to, at)| pair_lines(cx.isa, from, at, to));
        }
    }
}
