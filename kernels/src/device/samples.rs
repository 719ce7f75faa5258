//! Sums over samples: leaves of 16 images, and the tree above them.
//!
//! A leaf of x `[images, rows per image, channels]` is, per channel, a sequence of chains over 512 rows each, whose
//! results are joined in order. Chains are sequential by definition; what runs side by side is channels, leaves and
//! the chains of a leaf. A block works on one leaf and a tile of channels: thread x is a channel (consecutive
//! channels, consecutive addresses), thread y a chain; the block has as many chains as the leaf has, up to 32, and
//! fewer channels the more chains it has. A thread loads `BATCH` rows before it adds the first. Thread y = 0 joins
//! the results of up to 32 chains in order, out of shared memory, before the next 32.
//!
//! The tree splits after the largest power of two below the number of leaves. The same sums come out of joining
//! neighbours (2 i, 2 i + 1) level by level, a last one without neighbour going up as it is: a thread does so with 16
//! leaves in registers, a block with up to 16 such results in shared memory, 256 leaves in all. Where there are more
//! leaves, another launch folds the results.

use super::reduce::row::unrolled;
use crate::kernel;
use crate::math::Real;
use crate::order::{CHUNK, LEAF};
use crate::simt::*;

#[cfg(not(target_arch = "nvptx64"))]
use cases::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[&rows_sum_leaves::SPEC, &rows_dot_leaves::SPEC, &tree_fold::SPEC];

/// Threads of a block.
pub(super) const THREADS: u32 = 256;

/// Rows that a thread loads before it uses the first.
const BATCH: usize = 16;

/// Leaves that a launch folds to one.
pub const FOLD: u32 = 256;

/// Leaves that a thread folds.
const FOLD_THREAD: usize = 16;

/// Chains side by side in a block.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) fn chains(rows_per_image: u64) -> u64 {
    (LEAF as u64 * rows_per_image).div_ceil(CHUNK as u64).next_power_of_two().min(32)
}

/// Channels of a block.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) fn channel_tile(rows_per_image: u64) -> u64 {
    u64::from(THREADS) / chains(rows_per_image)
}

/// Leaves of `images`.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) fn leaves(images: u64) -> u64 {
    images.div_ceil(LEAF as u64)
}

/// One channel of this block's leaf.
#[derive(Clone, Copy)]
pub(super) struct LeafChannel {
    channel: u32,
    channels: u32,
    /// Rows of the leaf; none past the last channel.
    rows: u32,
    /// Where the first row has the channel.
    first: u32,
}

impl LeafChannel {
    /// This thread's.
    #[inline(always)]
    pub(super) fn here(images: u32, rows_per_image: u32, channels: u32) -> LeafChannel {
        const LEAF_IMAGES: u32 = LEAF as u32;
        let first_image = block_idx().y * LEAF_IMAGES;
        let images = if images - first_image < LEAF_IMAGES { images - first_image } else { LEAF_IMAGES };
        let channel = block_idx().x * block_dim().x + thread_idx().x;
        let exists = within(channel, channels);
        LeafChannel {
            channel,
            channels,
            rows: images * rows_per_image,
            first: if exists { first_image * rows_per_image * channels + channel } else { 0 },
        }
    }

    /// The channel, if it exists.
    #[inline(always)]
    pub(super) fn channel(self) -> Option<u32> {
        if within(self.channel, self.channels) { Some(self.channel) } else { None }
    }

    /// Where row `row` of the leaf has the channel.
    #[inline(always)]
    pub(super) fn at(self, row: u32) -> u32 {
        self.first + row * self.channels
    }

    /// Where the leaf's result has the channel.
    #[inline(always)]
    pub(super) fn result(self) -> u32 {
        block_idx().y * self.channels + self.channel
    }

    /// `chunk(start, end)` of every chunk of rows, joined in order: `join(so far, chunk, start, end)`. The threads with
    /// y = 0 have the result, zeros where the leaf has no rows; `tile` has `A * THREADS` elements.
    #[inline(always)]
    pub(super) fn fold_chunks<const A: usize>(
        self,
        tile: Shared<f32>,
        chunk: impl Fn(u32, u32) -> [f32; A],
        join: impl Fn([f32; A], [f32; A], u32, u32) -> [f32; A],
    ) -> [f32; A] {
        const LEN: u32 = CHUNK as u32;
        let (tx, ty, columns, side) = (thread_idx().x, thread_idx().y, block_dim().x, block_dim().y);
        let chunks = self.rows.div_ceil(LEN);
        let end = |chunk: u32| if self.rows - chunk * LEN < LEN { self.rows } else { (chunk + 1) * LEN };
        let at = |a: usize, chain: u32| (a as u32 * side + chain) * columns + tx;
        let mut total = [0.0; A];
        for round in strided(0, chunks, side) {
            let mine = round + ty;
            if self.channel().is_some() && within(mine, chunks) {
                let result = chunk(mine * LEN, end(mine));
                unrolled::<A>(|a| tile.set(at(a, ty), result[a]));
            }
            barrier();
            if self.channel().is_some() && ty == 0 {
                let last = if chunks - round < side { chunks } else { round + side };
                for chunk in strided(round, last, 1) {
                    let mut part = [0.0; A];
                    unrolled::<A>(|a| part[a] = tile.get(at(a, chunk - round)));
                    total = if chunk == 0 { part } else { join(total, part, chunk * LEN, end(chunk)) };
                }
            }
            barrier();
        }
        total
    }
}

/// The chains `sums = step(sums, terms(row))` from +0 over rows `start..end`. Terms past the end are -0 and, after the
/// first, +0: s + (-0) and fma(-0, +0, s) are s, for s = -0 too.
#[inline(always)]
pub(super) fn chain<const P: usize, const A: usize>(
    start: u32,
    end: u32,
    terms: impl Fn(u32) -> [f32; P],
    step: impl Fn([f32; A], [f32; P]) -> [f32; A],
) -> [f32; A] {
    let mut sums = [0.0; A];
    for first in strided(start, end, BATCH as u32) {
        let mut ready = [[0.0; P]; BATCH];
        unrolled::<BATCH>(|i| ready[i][0] = -0.0);
        unrolled::<BATCH>(|i| {
            if within(first + i as u32, end) {
                ready[i] = terms(first + i as u32);
            }
        });
        unrolled::<BATCH>(|i| sums = step(sums, ready[i]));
    }
    sums
}

/// Sums of chunks are added.
#[inline(always)]
pub(super) fn add<const A: usize>(mut sums: [f32; A], part: [f32; A], _start: u32, _end: u32) -> [f32; A] {
    unrolled::<A>(|a| sums[a] += part[a]);
    sums
}

/// Threads of a block of a fold over `leaves`: (columns, threads per column).
#[cfg(not(target_arch = "nvptx64"))]
pub(super) fn fold_block(leaves: u64) -> [u64; 2] {
    let side = leaves.div_ceil(FOLD_THREAD as u64).next_power_of_two().min(u64::from(FOLD) / FOLD_THREAD as u64);
    [u64::from(THREADS) / side, side]
}

/// Folds this block's leaves of a tile of columns of `[leaves, width]`. `join(left, right, first, span)`: the left node
/// is leaves `first..first + span`, the right one those after it, at most `span`. `put(position, node)` goes to
/// `[leaves / FOLD rounded up, width]`; `tile` has `A * THREADS` elements.
#[inline(always)]
pub(super) fn fold_leaves<const A: usize>(
    leaves: u32,
    width: u32,
    tile: Shared<f32>,
    load: impl Fn(u32) -> [f32; A],
    join: impl Fn([f32; A], [f32; A], u32, u32) -> [f32; A],
    put: impl FnOnce(u32, [f32; A]),
) {
    const EACH: u32 = FOLD_THREAD as u32;
    let (tx, ty, columns, side) = (thread_idx().x, thread_idx().y, block_dim().x, block_dim().y);
    let column = block_idx().x * columns + tx;
    let exists = within(column, width);
    let first = block_idx().y * FOLD + ty * EACH;
    let mut nodes = [[0.0; A]; FOLD_THREAD];
    unrolled::<FOLD_THREAD>(|i| {
        if exists && within(first + i as u32, leaves) {
            nodes[i] = load((first + i as u32) * width + column);
        }
    });
    // Four levels, each of half as many nodes of twice the span.
    macro_rules! level {
        ($nodes:literal) => {
            unrolled::<$nodes>(|i| {
                const SPAN: u32 = EACH / (2 * $nodes);
                let left = first + 2 * SPAN * i as u32;
                let joined = join(nodes[2 * i], nodes[2 * i + 1], left, SPAN);
                nodes[i] = if within(left + SPAN, leaves) { joined } else { nodes[2 * i] };
            });
        };
    }
    level!(8);
    level!(4);
    level!(2);
    level!(1);
    let mut node = nodes[0];
    let at = |a: usize, ty: u32| (a as u32 * side + ty) * columns + tx;
    unrolled::<A>(|a| tile.set(at(a, ty), node[a]));
    let mut step = 1;
    while step < side {
        barrier();
        if ty & (2 * step - 1) == 0 && within(first + step * EACH, leaves) {
            let mut right = [0.0; A];
            unrolled::<A>(|a| right[a] = tile.get(at(a, ty + step)));
            node = join(node, right, first, step * EACH);
            unrolled::<A>(|a| tile.set(at(a, ty), node[a]));
        }
        step *= 2;
    }
    if exists && ty == 0 {
        put(block_idx().y * width + column, node);
    }
}

kernel! {
    /// The sum over the rows of each leaf of x `[images, rows_per_image, channels]`, per channel.
    rows_sum_leaves(
        x: In<f32>[images * rows_per_image * channels],
        sums: Out<f32>[leaves(images) * channels],
        images: u32,
        rows_per_image: u32,
        channels: u32,
    )
    grid [channels.div_ceil(channel_tile(rows_per_image)), leaves(images)]
    block [channel_tile(rows_per_image), chains(rows_per_image)]
    cost { flop: images * rows_per_image * channels }
    cases rows_sum_leaves_cases
    {
        let tile = crate::shared!(f32; THREADS);
        let leaf = LeafChannel::here(images, rows_per_image, channels);
        let chunk = |start, end| chain(start, end, |row| [x.get(leaf.at(row))], |[s], [x]: [f32; 1]| [s + x]);
        let [sum] = leaf.fold_chunks(tile, chunk, add);
        if leaf.channel().is_some() && thread_idx().y == 0 {
            sums.set(leaf.result(), sum);
        }
    }

    /// The sum over the rows of each leaf of a b, per channel: fused multiply-adds.
    rows_dot_leaves(
        a: In<f32>[images * rows_per_image * channels],
        b: In<f32>[images * rows_per_image * channels],
        sums: Out<f32>[leaves(images) * channels],
        images: u32,
        rows_per_image: u32,
        channels: u32,
    )
    grid [channels.div_ceil(channel_tile(rows_per_image)), leaves(images)]
    block [channel_tile(rows_per_image), chains(rows_per_image)]
    cost { flop: 2 * images * rows_per_image * channels }
    cases rows_dot_leaves_cases
    {
        let tile = crate::shared!(f32; THREADS);
        let leaf = LeafChannel::here(images, rows_per_image, channels);
        let terms = |row| [a.get(leaf.at(row)), b.get(leaf.at(row))];
        let chunk = |start, end| chain(start, end, terms, |[s], [a, b]: [f32; 2]| [Real::mul_add(a, b, s)]);
        let [sum] = leaf.fold_chunks(tile, chunk, add);
        if leaf.channel().is_some() && thread_idx().y == 0 {
            sums.set(leaf.result(), sum);
        }
    }

    /// Adds each 256 consecutive leaves of x `[leaves, width]` in the tree: y is `[leaves / 256 rounded up, width]`.
    /// Repeated until one is left, it is the tree over all leaves, whatever their number.
    tree_fold(
        x: In<f32>[leaves * width],
        y: Out<f32>[leaves.div_ceil(FOLD as u64) * width],
        leaves: u32,
        width: u32,
    )
    grid [width.div_ceil(fold_block(leaves)[0]), leaves.div_ceil(FOLD as u64)]
    block [fold_block(leaves)[0], fold_block(leaves)[1]]
    cost { flop: leaves * width }
    cases tree_fold_cases
    {
        let tile = crate::shared!(f32; THREADS);
        fold_leaves(leaves, width, tile, |i| [x.get(i)], |[a], [b], _, _| [a + b], |i, [sum]| y.set(i, sum));
    }
}

#[cfg(not(target_arch = "nvptx64"))]
pub(super) mod cases {
    use super::*;
    use crate::case::{Case, exactly, noise};
    use crate::reference::{self, Samples};
    use crate::tree::fold_tree;

    /// (images, rows per image, channels): one chain and several, ragged leaves and chunks, tiles of channels that do
    /// not fill, more than 32 chunks.
    pub(in crate::device) const SHAPES: [[usize; 3]; 5] =
        [[1, 1, 1], [17, 1, 300], [20, 40, 5], [33, 100, 3], [16, 1100, 1]];

    /// (samples, first row) of each leaf.
    pub(in crate::device) fn leaves_of(images: usize, rows_per_image: usize) -> impl Iterator<Item = (Samples, usize)> {
        (0..images)
            .step_by(LEAF)
            .map(move |first| (Samples { images: LEAF.min(images - first), rows_per_image }, first * rows_per_image))
    }

    /// The rows of a leaf.
    pub(in crate::device) fn rows((samples, first): (Samples, usize), c: usize, x: &[f32]) -> &[f32] {
        &x[first * c..(first + samples.images * samples.rows_per_image) * c]
    }

    pub(super) fn rows_sum_leaves_cases() -> Vec<Case> {
        let case = |shape: [usize; 3]| {
            let (x, [images, rows_per_image, c]) = (noise(shape.iter().product(), 1), shape);
            let leaf = |leaf: (Samples, usize)| reference::rows_sum(leaf.0, c, rows(leaf, c, &x));
            let sums = exactly(leaves_of(images, rows_per_image).flat_map(leaf).collect());
            let [images, rows_per_image, channels] = shape.map(|n| n as u32);
            rows_sum_leaves::TestCase { x, sums, images, rows_per_image, channels }.named(format!("{shape:?}"))
        };
        SHAPES.map(case).into()
    }

    pub(super) fn rows_dot_leaves_cases() -> Vec<Case> {
        let case = |(shape, [a, b]): ([usize; 3], [Vec<f32>; 2])| {
            let [images, rows_per_image, c] = shape;
            let leaf = |leaf: (Samples, usize)| reference::rows_dot(leaf.0, c, rows(leaf, c, &a), rows(leaf, c, &b));
            let sums = exactly(leaves_of(images, rows_per_image).flat_map(leaf).collect());
            let [images, rows_per_image, channels] = shape.map(|n| n as u32);
            rows_dot_leaves::TestCase { a, b, sums, images, rows_per_image, channels }.named(format!("{shape:?}"))
        };
        let noisy = SHAPES.map(|shape| (shape, [2, 3].map(|seed| noise(shape.iter().product(), seed))));
        // Products that underflow to -0: their sum is -0.
        let tiny = ([3, 5, 2], [vec![1e-30; 30], vec![-1e-30; 30]]);
        noisy.into_iter().chain([tiny]).map(case).collect()
    }

    /// (leaves, width) of folds: one leaf, a thread's and a block's limits, an odd one at every level, two blocks.
    pub(in crate::device) const FOLDS: [(usize, usize); 11] =
        [(1, 5), (2, 300), (4, 2), (8, 2), (9, 2), (11, 3), (16, 1), (17, 40), (48, 3), (131, 20), (256 + 37, 17)];

    pub(super) fn tree_fold_cases() -> Vec<Case> {
        let case = |(leaves, width): (usize, usize)| {
            let mut x = noise(leaves * width, 4);
            // The sum of -0 is -0, unless an absent leaf were added.
            x.iter_mut().step_by(width).for_each(|x| *x = -0.0);
            let part = |first: usize, j: usize| {
                let count = (leaves - first).min(FOLD as usize);
                fold_tree(count, &mut |i| x[(first + i) * width + j], &mut |a, b| a + b).expect("at least one leaf")
            };
            let parts = (0..leaves).step_by(FOLD as usize);
            let y =
                exactly(parts.flat_map(|first| (0..width).map(move |j| (first, j))).map(|(f, j)| part(f, j)).collect());
            tree_fold::TestCase { x, y, leaves: leaves as u32, width: width as u32 }
                .named(format!("{leaves} x {width}"))
        };
        FOLDS.map(case).into()
    }
}

#[cfg(test)]
mod tests {
    use super::FOLD;
    use crate::tree::fold_tree;

    fn tree(nodes: &[String]) -> String {
        fold_tree(nodes.len(), &mut |i| nodes[i].clone(), &mut |a, b| format!("({a} {b})")).expect("some leaves")
    }

    #[test]
    fn folds_of_folds_are_the_tree() {
        for leaves in [1, 2, 255, 256, 257, 511, 512, 513, 700, 1024, 1300] {
            let nodes: Vec<String> = (0..leaves).map(|i| i.to_string()).collect();
            let folds: Vec<String> = nodes.chunks(FOLD as usize).map(tree).collect();
            assert_eq!(tree(&folds), tree(&nodes), "{leaves} leaves");
        }
    }
}
