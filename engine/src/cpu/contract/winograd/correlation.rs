//! Convolution forward and input gradient.
#![allow(unsafe_code)]

use super::super::conv::ConvShape;
use super::super::lanes::Real as _;
use super::super::micro::{A_STRIDE, Kernels, MAX_ROWS, Output, Piece, Right, Rows};
use super::super::pack::Panels;
use super::super::transpose::transpose;
use super::super::{Context, Lease, SharedMut};
use super::{COMPONENTS, Image, LANES, OUTSIDE, TAPS, TILE, Tiles, interpolate, transform_patch, transform_taps};
use crate::order::CHUNK;
use std::array::from_fn;
use std::ops::Range;

/// Most tiles of a task: strips of full height, whose components are a few times the second-level cache; of fewer, the
/// taps' components would be read more often. (28, 56, 84, 112 tiles, forward, two threads of an AMD EPYC: 64 channels
/// 12, 10, 10, 10 ms; 128: 8.4, 8.6, 8.5, 9.9; 256: 11, 11, 9.0, 8.8; 512: 15, 15, 14, 15.)
const MOST_TILES: usize = 6 * MAX_ROWS;

/// y = x * weight, for a shape that [`fits`](super::fits).
///
/// # Panics
/// When lengths do not fit the shape: the caller checks its operands.
pub(crate) fn conv2d(cx: &Context<'_>, shape: &ConvShape, x: &[f32], weight: &[f32], y: &mut [f32]) {
    assert_eq!([x.len(), weight.len(), y.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    let [from, to] = Image::both(shape);
    let taps = Taps::new(cx, weight, [shape.c, shape.c_out]);
    Correlation { tiles: Tiles::new(shape.n, to), from, to, padding: shape.padding, taps }.run(cx, x, y);
}

/// dx from dy, for a shape that [`fits`](super::fits): the convolution of dy with the taps in reverse, from output to
/// input channels.
///
/// # Panics
/// As for [`conv2d`].
pub(crate) fn conv2d_input_grad(cx: &Context<'_>, shape: &ConvShape, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    assert_eq!([dx.len(), weight.len(), dy.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    let [to, from] = Image::both(shape);
    let part = shape.c * shape.c_out;
    let mut reversed = cx.scratch.lease::<f32>(weight.len());
    let (parts, kernels) = (SharedMut::new(&mut reversed), f32::kernels(cx.isa));
    cx.run(TAPS * TAPS, |tap| {
        // SAFETY: tasks have disjoint parts, and the lease outlives the run.
        let to = unsafe { parts.slice((TAPS * TAPS - 1 - tap) * part, part) };
        transpose(kernels, &weight[tap * part..][..part], [1, shape.c_out], [shape.c_out, shape.c], to, shape.c);
    });
    let taps = Taps::new(cx, &reversed, [shape.c_out, shape.c]);
    let padding = shape.padding.map(|padding| TAPS - 1 - padding);
    Correlation { tiles: Tiles::new(shape.n, to), from, to, padding, taps }.run(cx, dy, dx);
}

/// The components of all taps, as right operands: `[component][panel][input channel][column]`.
struct Taps<'a> {
    components: Lease<'a, f32>,
    kernels: &'static Kernels<f32>,
    panels: Panels,
    channels: [usize; 2],
    /// Elements from a component to the next: some more than there are, lest they share the sets of a cache.
    component_len: usize,
}

impl<'a> Taps<'a> {
    /// From `[3, 3, c, c_out]`.
    fn new(cx: &Context<'a>, weight: &[f32], channels @ [c, c_out]: [usize; 2]) -> Taps<'a> {
        const ROWS: usize = 4;
        let kernels = f32::kernels(cx.isa);
        let panels = Panels::new(c_out, kernels);
        let component_len = c * c_out + LANES;
        let mut components = cx.scratch.lease::<f32>(COMPONENTS * component_len);
        let to = SharedMut::new(&mut components);
        cx.run(c.div_ceil(ROWS), |task| {
            let mut row_of = [[0f32; LANES]; COMPONENTS];
            for row in task * ROWS..c.min((task + 1) * ROWS) {
                for column in (0..c_out).step_by(LANES) {
                    let at = from_fn(|tap| (tap * c + row) * c_out + column);
                    transform_taps(cx.isa, weight, &at, &mut row_of);
                    let panel = panels.get(column / kernels.max_columns());
                    let in_panel = row * panel.vectors * kernels.width + column - panel.first;
                    for (component, lanes) in row_of.iter().enumerate() {
                        // SAFETY: tasks have disjoint rows, and the lease outlives the run.
                        let to = unsafe { to.slice(component * component_len + panel.first * c + in_panel, LANES) };
                        to.copy_from_slice(lanes);
                    }
                }
            }
        });
        Taps { components, kernels, panels, channels, component_len }
    }
}

/// Every image of one side from that of the other.
struct Correlation<'a> {
    tiles: Tiles,
    from: Image,
    to: Image,
    padding: [usize; 2],
    taps: Taps<'a>,
}

impl Correlation<'_> {
    fn run(&self, cx: &Context<'_>, from: &[f32], to: &mut [f32]) {
        let count = self.tiles.count();
        let per_task = count.div_ceil(2 * cx.threads()).clamp(1, MOST_TILES);
        let to = SharedMut::new(to);
        cx.run(count.div_ceil(per_task), |task| {
            let tiles = task * per_task..count.min((task + 1) * per_task);
            let patches = self.patches(cx, from, tiles.clone());
            let products = self.products(cx, &patches, tiles.len());
            self.outputs(cx, &products, tiles, to);
        });
    }

    /// Components of a row of [`A_STRIDE`], which are side by side.
    fn side_by_side(&self) -> usize {
        CHUNK / self.from.channels
    }

    /// The components of patches, as left operands: rows of [`Correlation::side_by_side`] components of each tile.
    fn patches<'b>(&self, cx: &Context<'b>, from: &[f32], tiles: Range<usize>) -> Lease<'b, f32> {
        let (count, beside) = (tiles.len(), self.side_by_side());
        let mut patches = cx.scratch.lease::<f32>(COMPONENTS.div_ceil(beside) * count * A_STRIDE);
        let to = SharedMut::new(&mut patches);
        for (row, tile) in tiles.enumerate() {
            let at = self.from.patch(self.tiles.origin(tile), self.padding);
            let channels = self.from.channels;
            let place = |i: usize| (i / beside * count + row) * A_STRIDE + i % beside * channels;
            // SAFETY: components have places of their own, and the lease outlives the loop.
            let to = from_fn(|i| unsafe { to.slice(place(i), channels) });
            transform_patch(cx.isa, from, &at, channels, to);
        }
        patches
    }

    /// `[tile][component][output channel]`, rows [`Correlation::row_of_products`] apart.
    fn products<'b>(&self, cx: &Context<'b>, patches: &[f32], tiles: usize) -> Lease<'b, f32> {
        let Taps { components, kernels, panels, channels: [c, c_out], component_len } = &self.taps;
        let (beside, stride) = (self.side_by_side(), self.row_of_products());
        let mut products = cx.scratch.lease::<f32>(tiles * stride);
        let to = products.as_mut_ptr();
        let rows: [usize; MAX_ROWS] = from_fn(|row| row * stride);
        let runs = [Piece::whole(*c)];
        let strips = tiles.div_ceil(kernels.max_rows());
        for component in 0..COMPONENTS {
            let patches = &patches[component / beside * tiles * A_STRIDE + component % beside * c..];
            let taps = &components[component * component_len..][..c * c_out];
            for strip in 0..strips {
                let tiles = strip * tiles / strips..(strip + 1) * tiles / strips;
                let left = Rows::copied(patches[tiles.start * A_STRIDE..].as_ptr());
                for panel in (0..panels.count()).map(|i| panels.get(i)) {
                    let kernel = kernels.rows[tiles.len() - 1][panel.vectors - 1];
                    let to = to.wrapping_add(tiles.start * stride + component * c_out + panel.first);
                    let out = Output { add: &[], to, rows: &rows };
                    let taps = Right::new(&taps[panel.first * c..], panel.vectors * kernels.width);
                    // A patch has c elements of the component from each row's start, and the panel a row for each; c_out
                    // is whole vectors, so that panels end where the products do.
                    // SAFETY: by that, and `cx.isa` being present.
                    unsafe { kernel(&left, taps, &runs, &out) };
                }
            }
        }
        products
    }

    /// Elements between the products of tiles: some more than there are, lest the rows share the sets of a cache.
    fn row_of_products(&self) -> usize {
        COMPONENTS * self.to.channels + LANES
    }

    fn outputs(&self, cx: &Context<'_>, products: &[f32], tiles: Range<usize>, to: SharedMut<f32>) {
        let channels = self.to.channels;
        let mut outputs = cx.scratch.lease::<f32>(TILE * TILE * channels);
        for (tile, products) in tiles.zip(products.chunks(self.row_of_products())) {
            interpolate(cx.isa, products, channels, &mut outputs);
            let at = self.to.tile(self.tiles.origin(tile));
            for (at, pixel) in at.into_iter().zip(outputs.chunks_exact(channels)).filter(|(at, _)| *at != OUTSIDE) {
                // SAFETY: each pixel is in one tile, and each tile one task's.
                unsafe { to.slice(at, channels) }.copy_from_slice(pixel);
            }
        }
    }
}
