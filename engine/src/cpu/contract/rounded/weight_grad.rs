//! The gradient of a convolution's weight: products of x, transposed, and dy over the pixels of a leaf, in the sample tree.
//!
//! A tile of the gradient is 32 of its rows, which are (tap, input channel): channels of one tap, or, where there are fewer
//! channels than that, all rows in their order, whatever their taps.
#![allow(unsafe_code)]

use super::super::super::bf16::{BLOCK, EDGE, Layout, Pairs, Run, Session, Unit, add_block, pair_lines};
use super::super::conv::ConvShape;
use super::super::weight_grad::{Step, Tap, even_slices, expect_lengths, steps, taps};
use super::super::{Context, Lease, SharedMut};
use super::{CHUNK_BLOCKS, Rounded, add_product};
use crate::order::{CHUNK, LEAF};
use selfsame_kernels::stamp;
use std::ops::Range;

/// Most blocks of columns of a task.
const MOST_COLUMNS: usize = 4;

/// Most blocks of sums of a task, a chunk's and one for each level of the tree: 256 KiB a level.
const MOST_BLOCKS: usize = 64;

/// The nodes of the gradient `[kh, kw, c / groups, c_out]` from x and dy.
pub(super) fn weight_grad(
    cx: &Context<'_>,
    shape: &ConvShape,
    first_leaf: usize,
    [x, dy]: [&Rounded<'_>; 2],
    nodes: &mut [&mut [f32]],
) {
    let leaves = expect_lengths(shape, first_leaf, [x.len, dy.len], nodes);
    if shape.weight_len() == 0 {
        return;
    }
    let unit = Unit::beside(cx.isa);
    let (steps, slots) = steps(first_leaf, leaves);
    let gradient = Gradient { shape, taps: taps(shape), unit, x, dy, steps, slots };
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
    x: &'a Rounded<'a>,
    dy: &'a Rounded<'a>,
    /// By leaf of this micro-batch.
    steps: Vec<Step>,
    /// Slots for nodes of the tree.
    slots: usize,
}

/// Where the positions of a chunk are, and which blocks have any.
#[derive(Clone)]
struct Positions {
    at: [usize; CHUNK],
    blocks: Taken,
}

/// What a task multiplies, for one chunk of rows.
struct Operands<'a> {
    session: Session,
    /// Blocks of x for one tile, and those of dy for each column block.
    left: Lease<'a, u16>,
    right: Lease<'a, u16>,
    /// What taps that share a tile have read.
    lines: Lease<'a, u16>,
    of_dy: Positions,
    of_taps: Vec<Positions>,
}

impl<'a> Operands<'a> {
    fn new(cx: &Context<'a>, gradient: &Gradient<'_>, across: usize) -> Operands<'a> {
        let none = Positions { at: [0; CHUNK], blocks: 0 };
        Operands {
            session: gradient.unit.open(),
            left: cx.scratch.lease(CHUNK_BLOCKS * BLOCK),
            right: cx.scratch.lease(across * CHUNK_BLOCKS * BLOCK),
            lines: cx.scratch.lease(CHUNK * LINE),
            of_dy: none.clone(),
            of_taps: vec![none; gradient.taps.len()],
        }
    }
}

/// Elements that are copied at once to a line that taps share, up to so many behind its end.
const MARGIN: usize = 4;

/// From a line that taps share to the next.
const LINE: usize = EDGE + MARGIN;

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

    /// The taps that some tiles have rows of.
    fn taps_of(&self, tiles: &Range<usize>) -> Range<usize> {
        if !self.shares_tiles() {
            return 0..self.taps.len();
        }
        let [first, last] = [self.rows(tiles.start), self.rows(tiles.end - 1)];
        let [channels, _] = self.channels();
        first.start / channels..last.end.div_ceil(channels)
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
        let rows_per_image: usize = self.shape.out_size().iter().product();
        let across = task.columns.len();
        // Of each tile and column block: the leaf's sum, then the nodes.
        let sums_len = (1 + self.slots) * BLOCK;
        let mut sums = cx.scratch.lease::<f32>(task.tiles.len() * across * sums_len);
        let mut operands = Operands::new(cx, self, across);
        let mut is_begun = vec![false; task.tiles.len()];
        for (leaf, step) in self.steps.iter().enumerate() {
            is_begun.fill(false);
            let rows = leaf * LEAF * rows_per_image..self.shape.n.min((leaf + 1) * LEAF) * rows_per_image;
            for first in rows.clone().step_by(CHUNK) {
                let chunk = first..rows.end.min(first + CHUNK);
                self.add_chunk(cx, task, chunk, &mut operands, &mut is_begun, &mut sums);
            }
            for (i, sums) in sums.chunks_exact_mut(sums_len).enumerate() {
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
        for (i, sums) in sums.chunks_exact(sums_len).enumerate() {
            let (tile, column) = (task.tiles.start + i / across, task.columns.start + i % across);
            for (node, sums) in nodes.iter().zip(sums[BLOCK..].as_chunks::<BLOCK>().0) {
                self.store(cx, task.group, tile, column, sums, *node);
            }
        }
    }

    /// Adds the products over one chunk of rows to the sums of their leaf, those of tiles not begun being taken for none.
    fn add_chunk(
        &self,
        cx: &Context<'_>,
        task: &Task,
        chunk: Range<usize>,
        operands: &mut Operands<'_>,
        is_begun: &mut [bool],
        sums: &mut [f32],
    ) {
        let Operands { session, left, right, lines, of_dy, of_taps } = operands;
        self.find_all(chunk.clone(), of_dy);
        for (column, right) in task.columns.clone().zip(right.chunks_exact_mut(CHUNK_BLOCKS * BLOCK)) {
            let from = &self.dy.bits[task.group * self.channels()[1] + column * EDGE..];
            self.pair(cx, from, of_dy, right);
        }
        for tap in self.taps_of(&task.tiles) {
            self.find(cx, chunk.clone(), &self.taps[tap], &mut of_taps[tap]);
        }
        let tiles = task.tiles.clone().zip(is_begun);
        let sums_of_tiles = sums.chunks_exact_mut(task.columns.len() * (1 + self.slots) * BLOCK);
        for ((tile, is_begun), sums) in tiles.zip(sums_of_tiles) {
            let taken = self.left(cx, task.group, tile, of_taps, lines, left);
            if taken == 0 {
                continue;
            }
            let mut products = Vec::with_capacity(CHUNK_BLOCKS);
            let rights = right.chunks_exact(CHUNK_BLOCKS * BLOCK);
            for (right, sums) in rights.zip(sums.chunks_exact_mut((1 + self.slots) * BLOCK)) {
                let run = |blocks: Range<usize>| {
                    let at = blocks.start * BLOCK..blocks.end * BLOCK;
                    Run { left: &left[at.clone()], right: &right[at] }
                };
                products.clear();
                products.extend(runs(taken).map(run));
                add_product(cx, !*is_begun, &mut sums[..BLOCK], |to| {
                    session.product(Layout::Pairs, &products, to, EDGE);
                });
            }
            *is_begun = true;
        }
    }

    /// Copies the sum of a tile and column block into its node's array.
    fn store(
        &self,
        cx: &Context<'_>,
        group: usize,
        tile: usize,
        column: usize,
        sums: &[f32; BLOCK],
        node: SharedMut<f32>,
    ) {
        let columns = self.channels()[1];
        let width = EDGE.min(columns - column * EDGE);
        for (row, sums) in self.rows(tile).zip(sums.as_chunks::<EDGE>().0) {
            let at = self.x.pairs.position(row) * self.shape.c_out + group * columns + column * EDGE;
            // SAFETY: each tile and column block is one task's, and names other elements than all others.
            let node = unsafe { node.slice(at, width) };
            match self.dy.pairs {
                Pairs::Neighbours => node.copy_from_slice(&sums[..width]),
                Pairs::Apart => set_together(cx.isa, sums, node),
            }
        }
    }

    /// The rows of dy.
    fn find_all(&self, chunk: Range<usize>, to: &mut Positions) {
        to.at.fill(self.shape.y_len());
        for (at, row) in to.at.iter_mut().zip(chunk.clone()) {
            *at = row * self.shape.c_out;
        }
        to.blocks = (1 << chunk.len().div_ceil(EDGE)) - 1;
    }

    /// The pixels of x that the tap of each row reads.
    fn find(&self, cx: &Context<'_>, chunk: Range<usize>, tap: &Tap, to: &mut Positions) {
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
            let image = image * shape.h * shape.w * shape.c;
            let start = image.wrapping_add_signed(shape.input_offset([y, xs.start], tap.kernel));
            let places = line * out_w + xs.start - first..line * out_w + xs.end - first;
            to.blocks |= (2 << ((places.end - 1) / EDGE)) - (1 << (places.start / EDGE));
            count_up(cx.isa, start, shape.stride[1] * shape.c, &mut to.at[places]);
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
        let from = &self.x.bits[group * channels..];
        if !self.shares_tiles() {
            let positions = &of_taps[rows.start / channels];
            self.pair(cx, &from[rows.start % channels..], positions, to);
            return positions.blocks;
        }
        let mut gathered = Positions { at: std::array::from_fn(|i| i * LINE), blocks: 0 };
        let mut row = rows.start;
        while row < rows.end {
            let (tap, channel) = (row / channels, row % channels);
            let len = (channels - channel).min(rows.end - row);
            gathered.blocks |= of_taps[tap].blocks;
            copy_fours(cx.isa, &from[channel..], &of_taps[tap].at, len, &mut lines[row - rows.start..]);
            row += len;
        }
        self.pair(cx, lines, &gathered, to);
        gathered.blocks
    }

    /// Blocks of 32 channels over the positions.
    fn pair(&self, cx: &Context<'_>, from: &[u16], positions: &Positions, to: &mut [u16]) {
        let pairs = self.unit.pairs();
        let at = positions.at.as_chunks::<EDGE>().0;
        for blocks in runs(positions.blocks) {
            let to = to[blocks.start * BLOCK..blocks.end * BLOCK].as_chunks_mut::<BLOCK>().0;
            for (block, to) in blocks.zip(to) {
                let next = &at[(block + 1).min(CHUNK_BLOCKS - 1)];
                pair_lines(cx.isa, from, &pairs.in_places(&at[block]), next, to);
            }
        }
    }
}

stamp! {
    /// Numbers from `start` on.
    fn count_up(start: usize, step: usize, to: &mut [usize]) {
        for (i, to) in to.iter_mut().enumerate() {
            *to = start + i * step;
        }
    }

    /// `len` elements at each place to lines that lie [`LINE`] apart, and up to three more.
    fn copy_fours(from: &[u16], at: &[usize; CHUNK], len: usize, to: &mut [u16]) {
        for done in (0..len).step_by(MARGIN) {
            for (at, to) in at.iter().zip(to[done..].chunks_mut(LINE)) {
                to[..MARGIN].copy_from_slice(&from[at + done..][..MARGIN]);
            }
        }
    }

    /// The columns of [`Pairs::Apart`] in their order.
    fn set_together(from: &[f32; EDGE], to: &mut [f32]) {
        for (to, from) in to.as_chunks_mut::<4>().0.iter_mut().zip(from.as_chunks::<4>().0) {
            for (place, from) in from.iter().enumerate() {
                to[Pairs::Apart.position(place)] = *from;
            }
        }
    }
}
