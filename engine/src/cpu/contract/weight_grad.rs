//! Weight gradients of convolutions and linear layers: sums over samples, by the sample tree.
//!
//! A task owns a block of the gradient, small enough that its partial sums over the leaves stay in the second-level
//! cache, and walks through all leaves. A tile's sum over a leaf goes from registers straight into the nodes of the
//! tree, merging the siblings that it completes.
#![allow(unsafe_code)]

use super::conv::ConvShape;
use super::lanes::Real;
use super::micro::{Kernels, MAX_ROWS, Output};
use super::pack::{Panel, Panels, copy_row};
use super::{Context, SharedMut};
use crate::order::{CHUNK, LEAF};
use crate::rows::dyadic_blocks;
use std::ops::Range;

/// Elements of a block of the gradient: 256 KiB of f32, times a few nodes of the tree.
const BLOCK: usize = 1 << 16;

/// Most columns of a block.
const BLOCK_COLUMNS: usize = 128;

/// The gradient `[kh, kw, c / groups, c_out]` of a convolution's weight, summed over the images of this micro-batch,
/// the first of which is the first of leaf `first_leaf`.
///
/// `nodes[i]` receives the sum over block i of [`dyadic_blocks`] of the leaves here.
///
/// # Panics
/// When lengths do not fit the shape, or the channels the groups: the caller checks its operands.
pub(crate) fn conv2d_weight_grad<T: Real>(
    cx: &Context<'_>,
    shape: &ConvShape,
    first_leaf: usize,
    x: &[T],
    dy: &[T],
    nodes: &mut [&mut [T]],
) {
    let leaves = expect_lengths(shape, first_leaf, [x, dy], nodes);
    if shape.weight_len() == 0 {
        return;
    }
    let plan = Plan::new(cx, shape, first_leaf, leaves);
    let nodes: Vec<SharedMut<T>> = nodes.iter_mut().map(|node| SharedMut::new(node)).collect();
    cx.run(plan.tasks(), |task| plan.run(cx, task, x, dy, &nodes));
}

/// The leaves of a micro-batch.
///
/// # Panics
/// When the lengths of operands and nodes do not fit the shape.
pub(super) fn expect_lengths<T>(shape: &ConvShape, first_leaf: usize, [x, dy]: [&[T]; 2], nodes: &[&mut [T]]) -> usize {
    let leaves = shape.n.div_ceil(LEAF);
    let blocks = dyadic_blocks(first_leaf, leaves);
    assert_eq!([x.len(), dy.len(), nodes.len()], [shape.x_len(), shape.y_len(), blocks.len()], "lengths");
    assert!(nodes.iter().all(|node| node.len() == shape.weight_len()), "node lengths");
    leaves
}

/// Rows `first .. first + rows` of the (channels of one tap and group) x (output channels) part of the gradient.
#[derive(Clone, Copy)]
struct Tile {
    group: usize,
    tap: usize,
    first: usize,
    rows: usize,
}

/// Output rows of one chunk of one leaf, or of several whole leaves of less than a chunk.
struct Unit {
    leaves: Range<usize>,
    /// Which chunk of its leaf; the only one where the unit has several leaves.
    chunk: usize,
    /// Rows of dy.
    rows: Range<usize>,
}

/// What happens to a leaf's sum in the tree: it is added to the nodes in `merge` slots, in order, and the result is
/// put in slot `to`.
pub(super) struct Step {
    pub(super) merge: Vec<usize>,
    pub(super) to: usize,
}

/// A tap's real output coordinates.
pub(super) struct Tap {
    pub(super) kernel: [usize; 2],
    pub(super) y: Range<usize>,
    pub(super) x: Range<usize>,
}

/// Slices, at least `least`, each of which is `times` tasks: few tasks are as many for each thread. More than that would
/// read their operands more often.
pub(super) fn even_slices(least: usize, times: usize, threads: usize) -> usize {
    let tasks = least * times;
    let tasks = if tasks < 4 * threads { tasks.next_multiple_of(threads) } else { tasks };
    tasks.div_ceil(times)
}

/// The taps of a kernel, row by row.
pub(super) fn taps(shape: &ConvShape) -> Vec<Tap> {
    let [kh, kw] = shape.kernel;
    let tap =
        |[ky, kx]: [usize; 2]| Tap { kernel: [ky, kx], y: shape.real_outputs(0, ky), x: shape.real_outputs(1, kx) };
    (0..kh * kw).map(|i| tap([i / kw, i % kw])).collect()
}

/// The shape of the work, the same for every task.
struct Plan<'a, T: Real> {
    shape: &'a ConvShape,
    kernels: &'static Kernels<T>,
    /// Panels of the output channels of a group.
    panels: Panels,
    taps: Vec<Tap>,
    tiles: Vec<Tile>,
    /// Tiles of each block of the gradient; no block crosses groups.
    row_slices: Vec<Range<usize>>,
    column_slices: usize,
    units: Vec<Unit>,
    /// By leaf of this micro-batch.
    steps: Vec<Step>,
    /// Slots for nodes of the tree.
    slots: usize,
}

impl<'a, T: Real> Plan<'a, T> {
    fn new(cx: &Context<'_>, shape: &'a ConvShape, first_leaf: usize, leaves: usize) -> Plan<'a, T> {
        let kernels = T::kernels(cx.isa);
        let panels = Panels::new(shape.c_out / shape.groups, kernels);
        let taps = taps(shape);
        let channels = shape.c / shape.groups;
        let per_tap = channels.div_ceil(kernels.max_rows());
        let start = |i: usize| i * channels / per_tap;
        let tile = |group, tap, i| Tile { group, tap, first: start(i), rows: start(i + 1) - start(i) };
        let tiles: Vec<Tile> = (0..shape.groups)
            .flat_map(|group| (0..taps.len()).map(move |tap| (group, tap)))
            .flat_map(|(group, tap)| (0..per_tap).map(move |i| tile(group, tap, i)))
            .collect();

        let column_slices = panels.padded().div_ceil(BLOCK_COLUMNS);
        let per_group = taps.len() * per_tap;
        let small_enough = (taps.len() * channels * panels.padded()).div_ceil(BLOCK * column_slices);
        let slices = even_slices(small_enough, shape.groups * column_slices, cx.threads()).min(per_group);
        let row_slices = (0..shape.groups)
            .flat_map(|group| (0..slices).map(move |i| (group, i)))
            .map(|(group, i)| {
                group * per_group + i * per_group / slices..group * per_group + (i + 1) * per_group / slices
            })
            .collect();

        let [out_h, out_w] = shape.out_size();
        let units = units(shape.n, out_h * out_w);
        let (steps, slots) = steps(first_leaf, leaves);
        Plan { shape, kernels, panels, taps, tiles, row_slices, column_slices, units, steps, slots }
    }

    fn tasks(&self) -> usize {
        self.row_slices.len() * self.column_slices
    }

    /// Computes one block of the gradient, of all nodes.
    fn run(&self, cx: &Context<'_>, task: usize, x: &[T], dy: &[T], nodes: &[SharedMut<T>]) {
        let tiles = &self.tiles[self.row_slices[task / self.column_slices].clone()];
        let slice = task % self.column_slices;
        let cut = |i: usize| i * self.panels.count() / self.column_slices;
        let panels: Vec<Panel> = (cut(slice)..cut(slice + 1)).map(|i| self.panels.get(i)).collect();
        let columns: usize = panels.iter().map(|panel| panel.vectors * self.kernels.width).sum();
        let unit_rows = self.units.iter().map(|unit| unit.rows.len()).max().unwrap_or(0);
        let mut packed = cx.scratch.lease::<T>(unit_rows * columns);
        let slot_len = MAX_ROWS * self.kernels.max_columns();
        let tile_len = (self.slots + 1) * slot_len;
        let mut sums = cx.scratch.lease::<T>(tiles.len() * panels.len() * tile_len);
        let mut positions = Positions::default();
        for unit in &self.units {
            let group = tiles[0].group;
            pack(dy, self.shape, group, unit.rows.clone(), &panels, self.kernels.width, &mut packed);
            for (t, tile) in tiles.iter().enumerate() {
                if t == 0 || tiles[t - 1].tap != tile.tap {
                    self.find_positions(unit, &self.taps[tile.tap], &mut positions);
                }
                let first_image = unit.leaves.start * LEAF;
                let x = &x[first_image * self.shape.h * self.shape.w * self.shape.c
                    + group * (self.shape.c / self.shape.groups)
                    + tile.first..];
                let mut b = &packed[..];
                for (p, panel) in panels.iter().enumerate() {
                    let width = panel.vectors * self.kernels.width;
                    let kernel = self.kernels.columns[tile.rows - 1][panel.vectors - 1];
                    let rows = std::array::from_fn(|m| m * width);
                    let sums = sums[(t * panels.len() + p) * tile_len..][..tile_len].as_mut_ptr();
                    let slot = |i: usize| sums.wrapping_add(i * slot_len);
                    let partial = slot(self.slots);
                    for leaf in &positions.leaves {
                        let step = &self.steps[leaf.index];
                        let mut add = [partial.cast_const(); MAX_ADD];
                        let mut count = usize::from(!leaf.is_first_chunk);
                        if leaf.is_last_chunk {
                            for &node in &step.merge {
                                add[count] = slot(node);
                                count += 1;
                            }
                        }
                        let to = if leaf.is_last_chunk { slot(step.to) } else { partial };
                        let out = Output { add: &add[..count], to, rows: &rows };
                        // SAFETY: `cx.isa` is present. Positions lie in x and in the panel's rows; `tile.rows` channels
                        // follow each position in x, `width` columns each row. Slots hold a whole tile each.
                        unsafe { kernel(x.as_ptr(), b.as_ptr(), &positions.at[leaf.at.clone()], &out) };
                    }
                    b = &b[unit.rows.len() * width..];
                }
            }
        }
        for (t, tile) in tiles.iter().enumerate() {
            for (p, panel) in panels.iter().enumerate() {
                let sums = &sums[(t * panels.len() + p) * tile_len..][..tile_len];
                for (node, sum) in nodes.iter().zip(sums.chunks_exact(slot_len)) {
                    self.store(tile, *panel, sum, *node);
                }
            }
        }
    }

    /// Finds the rows of `unit` whose tap is real, leaf by leaf.
    fn find_positions(&self, unit: &Unit, tap: &Tap, found: &mut Positions) {
        found.at.clear();
        found.leaves.clear();
        let shape = self.shape;
        let [out_h, out_w] = shape.out_size();
        if tap.y.is_empty() || tap.x.is_empty() {
            return;
        }
        let image_len = shape.h * shape.w * shape.c;
        for index in unit.leaves.clone() {
            let images = index * LEAF..shape.n.min((index + 1) * LEAF);
            let row = |image: usize, y: usize, x: usize| (image * out_h + y) * out_w + x;
            let leaf_start = row(images.start, 0, 0);
            let first = row(images.start, tap.y.start, tap.x.start);
            let last = row(images.end - 1, tap.y.end - 1, tap.x.end - 1);
            let rows = unit.rows.start.max(leaf_start)..unit.rows.end.min(row(images.end, 0, 0));
            let start = found.at.len();
            for line in rows.start / out_w..rows.end.div_ceil(out_w) {
                let (image, y) = (line / out_h, line % out_h);
                if !tap.y.contains(&y) {
                    continue;
                }
                let from = tap.x.start.max(rows.start.saturating_sub(line * out_w));
                let to = tap.x.end.min(rows.end - line * out_w);
                if from >= to {
                    continue;
                }
                let in_x = (image - unit.leaves.start * LEAF) * image_len + shape.input_offset([y, from], tap.kernel);
                let step = shape.stride[1] * shape.c;
                let in_dy = line * out_w + from - unit.rows.start;
                found.at.extend((0..to - from).map(|i| (in_x + i * step, in_dy + i)));
            }
            if found.at.len() > start {
                found.leaves.push(LeafPositions {
                    index,
                    at: start..found.at.len(),
                    is_first_chunk: (first - leaf_start) / CHUNK == unit.chunk,
                    is_last_chunk: (last - leaf_start) / CHUNK == unit.chunk,
                });
            }
        }
    }

    /// Copies the sum of a tile into its node's array; +0 where the tap is never real.
    fn store(&self, tile: &Tile, panel: Panel, sum: &[T], node: SharedMut<T>) {
        let shape = self.shape;
        let (channels, columns) = (shape.c / shape.groups, shape.c_out / shape.groups);
        let width = panel.vectors * self.kernels.width;
        let tap = &self.taps[tile.tap];
        let is_real = !tap.y.is_empty() && !tap.x.is_empty();
        for m in 0..tile.rows {
            let row = (tile.tap * channels + tile.first + m) * shape.c_out;
            let at = row + tile.group * columns + panel.first;
            // SAFETY: each tile and panel belongs to one task alone, and names other elements than all others.
            let to = unsafe { node.slice(at, panel.columns) };
            if is_real {
                to.copy_from_slice(&sum[m * width..][..panel.columns]);
            } else {
                to.fill(T::ZERO);
            }
        }
    }
}

/// Most nodes that one leaf's sum can be added to: a chunk before it and a node per level of the tree.
const MAX_ADD: usize = 1 + usize::BITS as usize;

/// The rows of a unit whose tap is real.
#[derive(Default)]
struct Positions {
    /// (offset in x of the tap's pixel from the unit's first image, row of the unit).
    at: Vec<(usize, usize)>,
    leaves: Vec<LeafPositions>,
}

/// The positions of one leaf, at least one.
struct LeafPositions {
    index: usize,
    at: Range<usize>,
    /// Whether no earlier chunk of the leaf has a real row.
    is_first_chunk: bool,
    /// Whether no later one has.
    is_last_chunk: bool,
}

/// Packs rows of dy, panel by panel, `[rows][columns of the panel]`, padding columns zero.
fn pack<T: Real>(
    dy: &[T],
    shape: &ConvShape,
    group: usize,
    rows: Range<usize>,
    panels: &[Panel],
    width: usize,
    to: &mut [T],
) {
    let first_column = group * (shape.c_out / shape.groups);
    let mut to = to;
    for panel in panels {
        let width = panel.vectors * width;
        let (part, rest) = to.split_at_mut(rows.len() * width);
        for (row, to) in rows.clone().zip(part.chunks_exact_mut(width)) {
            let from = &dy[row * shape.c_out + first_column + panel.first..][..panel.columns];
            copy_row(from, &mut to[..panel.columns]);
            to[panel.columns..].fill(T::ZERO);
        }
        to = rest;
    }
}

/// Cuts the rows of all leaves into units.
fn units(images: usize, rows_per_image: usize) -> Vec<Unit> {
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

/// Plays the tree through: each leaf merges with the siblings that it completes. In the end slot i holds block i of
/// [`dyadic_blocks`]. Returns also how many slots are needed.
pub(super) fn steps(first_leaf: usize, leaves: usize) -> (Vec<Step>, usize) {
    let mut stack: Vec<(usize, u32)> = Vec::new();
    let mut slots = 0;
    let steps = (first_leaf..first_leaf + leaves)
        .map(|leaf| {
            let (mut first, mut level) = (leaf, 0);
            let mut merge = Vec::new();
            while let Some(&(left, l)) = stack.last()
                && l == level
                && (first >> level) & 1 == 1
                && left + (1 << level) == first
            {
                stack.pop();
                merge.push(stack.len());
                (first, level) = (left, level + 1);
            }
            let to = stack.len();
            stack.push((first, level));
            slots = slots.max(stack.len());
            Step { merge, to }
        })
        .collect();
    (steps, slots)
}
