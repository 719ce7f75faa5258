//! The gradient of the taps: a sum over samples, by the sample tree.
//!
//! Leaves are taken some at a time, or in parts, whose patches and tiles are transformed first, into memory that all tasks
//! read. A task then owns a block of the gradient, small enough that its components stay in the second-level cache, and
//! walks through the leaves: components of a leaf, their taps, and the nodes of the tree that they complete.
#![allow(unsafe_code)]

use super::super::conv::ConvShape;
use super::super::lanes::Real as _;
use super::super::micro::{Kernels, Output, Path, Right};
use super::super::pack::{Panel, Panels};
use super::super::weight_grad::{Step, expect_lengths, steps};
use super::super::{Context, SharedMut};
use super::{COMPONENTS, Image, LANES, TAPS, Tiles, taps_of, transform_patch, transform_tile};
use crate::order::LEAF;
use std::array::from_fn;
use std::ops::Range;

/// Tiles of a part of a leaf: transformed, they stay in the caches. A part is one chain of multiply-adds.
const PART: usize = 256;

/// Elements of the transformed patches and tiles of several leaves.
const MOST_TRANSFORMED: usize = 1 << 21;

/// Elements of components of a block of the gradient.
const MOST_COMPONENTS: usize = 1 << 17;

/// Tiles of a leaf, at least: of fewer, the components cost more than they spare.
const LEAST: usize = 64;

/// Tiles that a task transforms.
const TILES: usize = 32;

/// Whether the gradient of the weight is computed this way where the convolution is.
pub(crate) fn fits_weight_grad(shape: &ConvShape) -> bool {
    Tiles::new(LEAF, Image::both(shape)[1]).count() >= LEAST
}

/// The gradient `[3, 3, c, c_out]` of the weight of a convolution that [`fits`](super::fits), summed over the images of
/// this micro-batch; as [`conv2d_weight_grad`](super::super::conv2d_weight_grad).
///
/// # Panics
/// When lengths do not fit the shape: the caller checks its operands.
pub(crate) fn conv2d_weight_grad(
    cx: &Context<'_>,
    shape: &ConvShape,
    first_leaf: usize,
    x: &[f32],
    dy: &[f32],
    nodes: &mut [&mut [f32]],
) {
    let (steps, slots) = steps(first_leaf, expect_lengths(shape, first_leaf, [x.len(), dy.len()], nodes));
    let kernels = f32::kernels(cx.isa);
    let [inputs, outputs] = Image::both(shape);
    let tiles = Tiles::new(shape.n, outputs);
    let gradient =
        Gradient { shape, kernels, panels: Panels::new(shape.c_out, kernels), inputs, outputs, tiles, steps };
    // The first slots are the nodes: there they are in the end.
    let mut others = cx.scratch.lease::<f32>((slots - nodes.len()) * shape.weight_len());
    let others = others.chunks_exact_mut(shape.weight_len());
    let slots: Vec<_> = nodes.iter_mut().map(|node| &mut **node).chain(others).map(SharedMut::new).collect();
    gradient.run(cx, x, dy, &slots);
}

struct Gradient<'a> {
    shape: &'a ConvShape,
    kernels: &'static Kernels<f32>,
    /// Panels of the output channels.
    panels: Panels,
    inputs: Image,
    outputs: Image,
    tiles: Tiles,
    /// By leaf of this micro-batch.
    steps: Vec<Step>,
}

/// Some leaves, or a part of one, transformed.
struct Unit<'a> {
    leaves: Range<usize>,
    /// Whether it begins with a leaf, and ends with one.
    place: [bool; 2],
    tiles: usize,
    /// The components of the leaf's parts up to this one, where they come in parts: block by block.
    so_far: Option<SharedMut<f32>>,
    /// `[component][tile][input channel]`.
    patches: &'a [f32],
    /// `[component][panel][tile][column]`.
    outputs: &'a [f32],
    /// By tile: its place among the patches, and among the rows of a panel.
    positions: &'a [(usize, usize)],
}

impl Gradient<'_> {
    fn run(&self, cx: &Context<'_>, x: &[f32], dy: &[f32], slots: &[SharedMut<f32>]) {
        let (c, c_out, leaves) = (self.shape.c, self.shape.c_out, self.steps.len());
        let leaf_tiles = LEAF * self.tiles.per_image();
        let at_once = (MOST_TRANSFORMED / (COMPONENTS * leaf_tiles * (c + c_out))).clamp(1, leaves);
        let (at_once, part) = if leaf_tiles > PART { (1, PART) } else { (at_once, at_once * leaf_tiles) };
        let mut patches = cx.scratch.lease::<f32>(COMPONENTS * component_len(part, c));
        let mut outputs = cx.scratch.lease::<f32>(COMPONENTS * component_len(part, c_out));
        let mut so_far = cx.scratch.lease::<f32>(if leaf_tiles > PART { COMPONENTS * c * c_out } else { 0 });
        let so_far = (leaf_tiles > PART).then(|| SharedMut::new(&mut so_far));
        let positions: Vec<_> = (0..part).map(|tile| (tile * c, tile)).collect();
        let (rows, columns) = self.blocks(cx.threads());
        for first in (0..leaves).step_by(at_once) {
            let leaves = first..leaves.min(first + at_once);
            let all = leaves.start * leaf_tiles..self.tiles.count().min(leaves.end * leaf_tiles);
            for start in all.clone().step_by(part) {
                let tiles = start..all.end.min(start + part);
                self.transform(cx, [x, dy], tiles.clone(), [&mut patches, &mut outputs]);
                let unit = Unit {
                    leaves: leaves.clone(),
                    place: [start == all.start, tiles.end == all.end],
                    tiles: tiles.len(),
                    patches: &patches,
                    outputs: &outputs,
                    positions: &positions,
                    so_far,
                };
                cx.run(rows.len() * columns.len(), |task| {
                    self.block(cx, &unit, &rows[task / columns.len()], &columns[task % columns.len()], slots);
                });
            }
        }
    }

    /// Input channels and panels of the blocks: as large as their components may be, but enough for all threads.
    fn blocks(&self, threads: usize) -> (Vec<Range<usize>>, Vec<Range<usize>>) {
        let (c, panels) = (self.shape.c, self.panels.count());
        let most = MOST_COMPONENTS / (COMPONENTS * self.kernels.max_columns());
        let tall = c.min(4 * self.kernels.max_rows());
        let columns = cut(panels, panels.div_ceil((most / tall).max(1)).max(threads.min(panels)));
        let enough = threads.div_ceil(columns.len()).min(c.div_ceil(self.kernels.max_rows()));
        (cut(c, c.div_ceil(tall).max(enough)), columns)
    }

    fn transform(&self, cx: &Context<'_>, [x, dy]: [&[f32]; 2], tiles: Range<usize>, to: [&mut [f32]; 2]) {
        let (count, c, c_out) = (tiles.len(), self.shape.c, self.shape.c_out);
        let [patches, outputs] = to.map(SharedMut::new);
        let width = self.kernels.width;
        cx.run(count.div_ceil(TILES), |task| {
            for row in task * TILES..count.min((task + 1) * TILES) {
                let origin = self.tiles.origin(tiles.start + row);
                // SAFETY: tasks write the rows of their own tiles, and the memory outlives the run.
                let patches = |at: usize| unsafe { patches.slice(at, c) };
                // SAFETY: as above.
                let outputs = |at: usize, len: usize| unsafe { outputs.slice(at, len) };
                let at = self.inputs.patch(origin, self.shape.padding);
                transform_patch(cx.isa, x, &at, c, from_fn(|i| patches(i * component_len(count, c) + row * c)));
                let at = self.outputs.tile(origin);
                for panel in (0..self.panels.count()).map(|i| self.panels.get(i)) {
                    let len = panel.vectors * width;
                    let to =
                        from_fn(|i| outputs(i * component_len(count, c_out) + panel.first * count + row * len, len));
                    transform_tile(cx.isa, &dy[panel.first..], &at, len, to);
                }
            }
        });
    }

    /// Adds the leaves of a unit to a block of the gradient.
    fn block(
        &self,
        cx: &Context<'_>,
        unit: &Unit<'_>,
        rows: &Range<usize>,
        panels: &Range<usize>,
        slots: &[SharedMut<f32>],
    ) {
        let panels: Vec<Panel> = panels.clone().map(|i| self.panels.get(i)).collect();
        let (first_column, columns) = (panels[0].first, panels.iter().map(|panel| panel.columns).sum::<usize>());
        let len = COMPONENTS * rows.len() * columns;
        let mut own = cx.scratch.lease::<f32>(if unit.so_far.is_some() { 0 } else { len });
        let components = match unit.so_far {
            // Blocks lie one after another: those of the rows above, then those to the left.
            // SAFETY: blocks are disjoint, and each is one task's.
            Some(all) => unsafe {
                all.slice(COMPONENTS * (rows.start * self.shape.c_out + rows.len() * first_column), len)
            },
            None => &mut own,
        };
        let leaf_tiles = LEAF * self.tiles.per_image();
        let [is_first, is_last] = unit.place;
        for (i, leaf) in unit.leaves.clone().enumerate() {
            let tiles = i * leaf_tiles..unit.tiles.min((i + 1) * leaf_tiles);
            self.components(unit, tiles, rows, &panels, is_first, components);
            if !is_last {
                continue;
            }
            let Step { merge, to } = &self.steps[leaf];
            let mut taps = [[0f32; LANES]; TAPS * TAPS];
            for (at, row) in rows.clone().flat_map(|row| (0..columns).step_by(LANES).map(move |at| (at, row))) {
                let here = &components[(row - rows.start) * columns + at..];
                taps_of(cx.isa, here, rows.len() * columns, &mut taps);
                for (tap, sum) in taps.iter_mut().enumerate() {
                    let at = (tap * self.shape.c + row) * self.shape.c_out + first_column + at;
                    // SAFETY: as above.
                    let slot = |slot: usize| unsafe { slots[slot].slice(at, LANES) };
                    for &node in merge {
                        sum.iter_mut().zip(&*slot(node)).for_each(|(sum, node)| *sum += *node);
                    }
                    slot(*to).copy_from_slice(sum);
                }
            }
        }
    }

    /// The components of a block, `[component][input channel][column]`: the chain over some tiles, added to what is there
    /// unless it is the leaf's first.
    fn components(
        &self,
        unit: &Unit<'_>,
        tiles: Range<usize>,
        rows: &Range<usize>,
        panels: &[Panel],
        is_first: bool,
        to: &mut [f32],
    ) {
        let columns: usize = panels.iter().map(|panel| panel.columns).sum();
        let strips = cut(rows.len(), rows.len().div_ceil(self.kernels.max_rows()));
        let offsets = from_fn(|row| row * columns);
        let positions = &unit.positions[tiles];
        for component in 0..COMPONENTS {
            let patches = &unit.patches[component * component_len(unit.tiles, self.shape.c)..];
            for panel in panels {
                let outputs =
                    &unit.outputs[component * component_len(unit.tiles, self.shape.c_out) + panel.first * unit.tiles..];
                let outputs = Right::new(outputs, panel.vectors * self.kernels.width);
                for strip in &strips {
                    let kernel = self.kernels.columns[strip.len() - 1][panel.vectors - 1];
                    let at = (component * rows.len() + strip.start) * columns + panel.first - panels[0].first;
                    let to = to[at..].as_mut_ptr();
                    let before = [to.cast_const()];
                    let out = Output { add: if is_first { &[] } else { &before }, to, rows: &offsets };
                    let patches = patches[rows.start + strip.start..].as_ptr();
                    // The patches have an element per channel at every position, the panel a row, and the block a row of the
                    // panel's columns per channel.
                    // SAFETY: by that, and the kernel's instruction set being present.
                    unsafe { kernel(patches, outputs, &Path::new(positions, outputs), &out) };
                }
            }
        }
    }
}

/// Elements from a component to the next: some more than there are, lest they share the sets of a cache.
fn component_len(tiles: usize, channels: usize) -> usize {
    tiles * channels + LANES
}

/// `0..len` in parts of nearly equal length.
fn cut(len: usize, parts: usize) -> Vec<Range<usize>> {
    (0..parts).map(|i| i * len / parts..(i + 1) * len / parts).collect()
}
