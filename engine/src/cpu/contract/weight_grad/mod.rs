//! Weight gradients of convolutions and linear layers: sums over samples, by the sample tree.
//!
//! A task owns a block of the gradient, small enough that its partial sums over the leaves stay in the second-level
//! cache, and walks through all leaves. A tile's sum over a leaf goes from registers straight into the nodes of the
//! tree, merging the siblings that it completes. Both operands are read where they lie.
//!
//! Tried, in ms, on two cores of an AMD EPYC, least times of nine and more in alternating rounds on a shared machine:
//! - Taps of less channels than a tile has rows side by side, where x has them so, not one by one: 7 x 7 stem 31.5 to 26.3.
//! - Asking for the next unit's memory while this one is worked on: 7 x 7 stem 26.4 to 22.0; 1 x 1 of 64 to 256 channels at
//!   56 x 56 19.0 to 8.9, of 128 to 512 at 28 x 28 11.0 to 8.4.
//! - dy where it lies, not packed panel by panel: 3 x 3 stem of small images 1.7 to 1.3, 3 x 3 of 64 channels 21.9 to 21.4, of
//!   128 10.6 to 10.4; 1 x 1 of 128 to 512 channels 8.1 to 7.6.
#![allow(unsafe_code)]

mod positions;

use super::conv::ConvShape;
use super::lanes::Real;
use super::micro::{Kernels, MAX_ROWS, Output, Path, Right};
use super::pack::{Panel, Panels, copy_row};
use super::{Context, SharedMut};
use crate::order::LEAF;
use crate::rows::dyadic_blocks;
use positions::{Positions, Unit, Walk, units, walks};
pub(super) use positions::{Tap, taps};
use std::ops::Range;

/// Elements of a block of the gradient: 256 KiB of f32, times a few nodes of the tree.
const BLOCK: usize = 1 << 16;

/// Bytes that memory hands out at once.
const LINE_BYTES: usize = 64;

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
    let leaves = expect_lengths(shape, first_leaf, [x.len(), dy.len()], nodes);
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
pub(super) fn expect_lengths<T>(
    shape: &ConvShape,
    first_leaf: usize,
    operands: [usize; 2],
    nodes: &[&mut [T]],
) -> usize {
    let leaves = shape.n.div_ceil(LEAF);
    let blocks = dyadic_blocks(first_leaf, leaves);
    assert_eq!((operands, nodes.len()), ([shape.x_len(), shape.y_len()], blocks.len()), "lengths");
    assert!(nodes.iter().all(|node| node.len() == shape.weight_len()), "node lengths");
    leaves
}

/// Rows `first .. first + rows` of a walk's part of a group of the gradient.
#[derive(Clone, Copy)]
struct Tile {
    group: usize,
    walk: usize,
    first: usize,
    rows: usize,
}

impl Tile {
    /// Those of some rows of its walk that are its own, counted from its first.
    fn clip(&self, rows: &Range<usize>) -> Range<usize> {
        rows.start.saturating_sub(self.first)..rows.end.saturating_sub(self.first)
    }
}

/// What happens to a leaf's sum in the tree: it is added to the nodes in `merge` slots, in order, and the result is
/// put in slot `to`.
pub(super) struct Step {
    pub(super) merge: Vec<usize>,
    pub(super) to: usize,
}

/// Slices, at least `least`, each of which is `times` tasks: few tasks are as many for each thread. More than that would
/// read their operands more often.
pub(super) fn even_slices(least: usize, times: usize, threads: usize) -> usize {
    let tasks = least * times;
    let tasks = if tasks < 4 * threads { tasks.next_multiple_of(threads) } else { tasks };
    tasks.div_ceil(times)
}

/// The shape of the work, the same for every task.
struct Plan<'a, T: Real> {
    shape: &'a ConvShape,
    kernels: &'static Kernels<T>,
    /// Panels of the output channels of a group.
    panels: Panels,
    walks: Vec<Walk>,
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
        let walks = walks(shape, kernels.max_rows());
        let rows_per_walk = walks[0].rows;
        let per_walk = rows_per_walk.div_ceil(kernels.max_rows());
        let start = |i: usize| i * rows_per_walk / per_walk;
        let tile = |group, walk, i| Tile { group, walk, first: start(i), rows: start(i + 1) - start(i) };
        let tiles: Vec<Tile> = (0..shape.groups)
            .flat_map(|group| (0..walks.len()).map(move |walk| (group, walk)))
            .flat_map(|(group, walk)| (0..per_walk).map(move |i| tile(group, walk, i)))
            .collect();

        let per_group = walks.len() * per_walk;
        // So few tiles cannot be shared evenly.
        let least_slices = if per_group < 2 * cx.threads() { cx.threads().min(panels.count()) } else { 1 };
        let column_slices = panels.padded().div_ceil(BLOCK_COLUMNS).max(least_slices);
        let small_enough = (walks.len() * rows_per_walk * panels.padded()).div_ceil(BLOCK * column_slices);
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
        Plan { shape, kernels, panels, walks, tiles, row_slices, column_slices, units, steps, slots }
    }

    fn tasks(&self) -> usize {
        self.row_slices.len() * self.column_slices
    }

    /// Computes one block of the gradient, of all nodes.
    fn run(&self, cx: &Context<'_>, task: usize, x: &[T], dy: &[T], nodes: &[SharedMut<T>]) {
        let shape = self.shape;
        let tiles = &self.tiles[self.row_slices[task / self.column_slices].clone()];
        let slice = task % self.column_slices;
        let cut = |i: usize| i * self.panels.count() / self.column_slices;
        let panels: Vec<Panel> = (cut(slice)..cut(slice + 1)).map(|i| self.panels.get(i)).collect();
        let (Some(Tile { group, .. }), Some(first), Some(last)) = (tiles.first(), panels.first(), panels.last()) else {
            return;
        };
        let first_column = group * (shape.c_out / shape.groups) + first.first;
        let columns = first_column..first_column + last.first + last.columns - first.first;
        // Panels that are no whole vectors are copied, lest the kernel read on.
        let padded = last.first + last.vectors * self.kernels.width - first.first;
        let unit_rows = self.units.iter().map(|unit| unit.rows.len()).max().unwrap_or(0);
        let mut copy = cx.scratch.lease::<T>(if padded == columns.len() { 0 } else { unit_rows * padded });
        let slot_len = MAX_ROWS * self.kernels.max_columns();
        let tile_len = (self.slots + 1) * slot_len;
        let mut sums = cx.scratch.lease::<T>(tiles.len() * panels.len() * tile_len);
        let mut positions = Positions::default();
        let mut partial = Vec::new();
        for (u, unit) in self.units.iter().enumerate() {
            let (b, pitch) = if padded == columns.len() {
                (&dy[unit.rows.start * shape.c_out + columns.start..], shape.c_out)
            } else {
                pad(dy, shape.c_out, unit.rows.clone(), &columns, padded, &mut copy);
                (&copy[..], padded)
            };
            let mut ahead = self.units.get(u + 1).into_iter().flat_map(|next| self.lines(next, &columns, x, dy));
            for (t, tile) in tiles.iter().enumerate() {
                let walk = &self.walks[tile.walk];
                if t == 0 || tiles[t - 1].walk != tile.walk {
                    positions.find(shape, unit, walk);
                }
                partial.clear();
                partial.extend(positions.partial.iter().map(|&(at, cut)| (at, tile.clip(&walk.cuts[cut].rows))));
                let first_pixel = unit.leaves.start * LEAF * shape.h * shape.w;
                let a = x.as_ptr().wrapping_add(first_pixel * shape.c + group * (shape.c / shape.groups) + tile.first);
                for (p, panel) in panels.iter().enumerate() {
                    let b = Right::new(&b[panel.first - first.first..], pitch);
                    let width = panel.vectors * self.kernels.width;
                    let kernel = self.kernels.columns[tile.rows - 1][panel.vectors - 1];
                    let offsets = std::array::from_fn(|m| m * width);
                    let sums = sums[(t * panels.len() + p) * tile_len..][..tile_len].as_mut_ptr();
                    let slot = |i: usize| sums.wrapping_add(i * slot_len);
                    let before = slot(self.slots);
                    let (line, step) = ahead.next().unwrap_or((b.start, 0));
                    for leaf in &positions.leaves {
                        let Step { merge, to } = &self.steps[leaf.index];
                        let mut add = [before.cast_const(); MAX_ADD];
                        let mut count = usize::from(!leaf.is_first_chunk);
                        if leaf.is_last_chunk {
                            for &node in merge {
                                add[count] = slot(node);
                                count += 1;
                            }
                        }
                        let to = if leaf.is_last_chunk { slot(*to) } else { before };
                        let out = Output { add: &add[..count], to, rows: &offsets };
                        let path = Path {
                            partial: &partial[leaf.partial.clone()],
                            ahead: (line.wrapping_add(leaf.at.start * step), step),
                            ..Path::new(&positions.at[leaf.at.clone()], b)
                        };
                        // Positions lie in B's rows, which have `width` columns from the panel's first, and in x with those
                        // of the tile's elements after them whose taps are real.
                        // SAFETY: by that, `cx.isa` being present, and slots that hold a whole tile each.
                        unsafe { kernel(a, b, &path, &out) };
                    }
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

    /// What is read of a unit, by columns of cache lines: the first line, and the distance to that of the next row.
    ///
    /// Of x only where its pixels are those of y.
    fn lines(&self, unit: &Unit, columns: &Range<usize>, x: &[T], dy: &[T]) -> impl Iterator<Item = (*const T, usize)> {
        let ConvShape { h, w, c, c_out, .. } = *self.shape;
        let line = LINE_BYTES / size_of::<T>();
        let channels = if self.shape.out_size() == [h, w] { c } else { 0 };
        let of = |from: &[T], columns: Range<usize>, pitch: usize| {
            let start = from.as_ptr().wrapping_add(unit.rows.start * pitch);
            columns.step_by(line).map(move |column| (start.wrapping_add(column), pitch))
        };
        of(dy, columns.clone(), c_out).chain(of(x, 0..channels, c))
    }

    /// Copies the sum of a tile into its node's array; +0 where the tap is never real.
    fn store(&self, tile: &Tile, panel: Panel, sum: &[T], node: SharedMut<T>) {
        let shape = self.shape;
        let (channels, columns) = (shape.c / shape.groups, shape.c_out / shape.groups);
        let width = panel.vectors * self.kernels.width;
        let walk = &self.walks[tile.walk];
        for m in 0..tile.rows {
            let row = (walk.tap * channels + tile.first + m) * shape.c_out;
            let at = row + tile.group * columns + panel.first;
            // SAFETY: each tile and panel belongs to one task alone, and names other elements than all others.
            let to = unsafe { node.slice(at, panel.columns) };
            if !walk.cuts.is_empty() {
                to.copy_from_slice(&sum[m * width..][..panel.columns]);
            } else {
                to.fill(T::ZERO);
            }
        }
    }
}

/// Most nodes that one leaf's sum can be added to: a chunk before it and a node per level of the tree.
const MAX_ADD: usize = 1 + usize::BITS as usize;

/// Copies columns of rows of dy, `c_out` elements each, to rows of `padded` elements, the last of which are zero.
fn pad<T: Real>(dy: &[T], c_out: usize, rows: Range<usize>, columns: &Range<usize>, padded: usize, to: &mut [T]) {
    for (row, to) in rows.zip(to.chunks_exact_mut(padded)) {
        copy_row(&dy[row * c_out..][columns.clone()], &mut to[..columns.len()]);
        to[columns.len()..].fill(T::ZERO);
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
