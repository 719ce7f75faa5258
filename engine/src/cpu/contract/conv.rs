//! Convolution forward and input gradient: contractions whose rows are gathered from pixels.
//!
//! Output pixels fall into classes with the same real taps (3 x 3 with padding 1: inside, four edges, four corners;
//! the input gradient of stride 2: one per parity). Within a class each row of A is a list of copies at fixed
//! distances from one source pixel, taps outside the image are no part of it, and cost nothing.
#![allow(unsafe_code)]

use super::driver::contract;
use super::lanes::Real;
use super::left::{Class, Source};
use super::micro::{A_STRIDE, Piece};
use super::pack::{Operand, Packed};
use super::{Context, SharedMut};
use crate::order::CHUNK;
use std::ops::Range;

/// A two-dimensional convolution, in NHWC: x `[n, h, w, c]`, weight `[kh, kw, c / groups, c_out]`, y
/// `[n, out_h, out_w, c_out]`. Pairs are (vertical, horizontal).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ConvShape {
    pub(crate) n: usize,
    pub(crate) h: usize,
    pub(crate) w: usize,
    pub(crate) c: usize,
    pub(crate) c_out: usize,
    pub(crate) kernel: [usize; 2],
    pub(crate) stride: [usize; 2],
    pub(crate) padding: [usize; 2],
    pub(crate) dilation: [usize; 2],
    pub(crate) groups: usize,
}

impl ConvShape {
    /// A linear layer from `k` to `n` channels, of images of one line.
    pub(crate) fn pointwise([images, rows_per_image]: [usize; 2], [k, n]: [usize; 2]) -> ConvShape {
        ConvShape {
            n: images,
            h: 1,
            w: rows_per_image,
            c: k,
            c_out: n,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0, 0],
            dilation: [1, 1],
            groups: 1,
        }
    }

    /// Height and width of y; zero where the kernel does not fit.
    pub(crate) fn out_size(&self) -> [usize; 2] {
        std::array::from_fn(|axis| {
            let size = [self.h, self.w][axis] + 2 * self.padding[axis];
            let reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1;
            if size < reach { 0 } else { (size - reach) / self.stride[axis] + 1 }
        })
    }

    /// Taps of an output, padding ones counted.
    pub(crate) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.c / self.groups
    }

    /// Elements of x.
    pub(crate) fn x_len(&self) -> usize {
        self.n * self.h * self.w * self.c
    }

    /// Elements of y.
    pub(crate) fn y_len(&self) -> usize {
        let [h, w] = self.out_size();
        self.n * h * w * self.c_out
    }

    /// Elements of the weight.
    pub(crate) fn weight_len(&self) -> usize {
        self.kernel[0] * self.kernel[1] * (self.c / self.groups) * self.c_out
    }

    /// The input coordinate that tap `k` of output coordinate `o` reads, unless it lies in the padding.
    fn input_of(&self, axis: usize, o: usize, k: usize) -> Option<usize> {
        let padded = o * self.stride[axis] + k * self.dilation[axis];
        padded.checked_sub(self.padding[axis]).filter(|i| *i < [self.h, self.w][axis])
    }

    /// The output coordinates whose tap `k` is real.
    pub(super) fn real_outputs(&self, axis: usize, k: usize) -> Range<usize> {
        let out = self.out_size()[axis];
        let mut real = (0..out).filter(|o| self.input_of(axis, *o, k).is_some());
        let first = real.next();
        first.map_or(0..0, |first| first..real.next_back().unwrap_or(first) + 1)
    }

    /// Offset in x of the pixel that tap (ky, kx) of output (oy, ox) reads, relative to its image; of a pixel in the
    /// padding, too, as if the images went on there.
    pub(super) fn input_offset(&self, [oy, ox]: [usize; 2], [ky, kx]: [usize; 2]) -> isize {
        let at = |axis: usize, o: usize, k: usize| {
            (o * self.stride[axis] + k * self.dilation[axis]).cast_signed() - self.padding[axis].cast_signed()
        };
        (at(0, oy, ky) * self.w.cast_signed() + at(1, ox, kx)) * self.c.cast_signed()
    }
}

/// y = x * weight, each output the canonical contraction over (kh, kw, c) without the taps in the padding.
///
/// # Panics
/// When lengths do not fit the shape, or the channels the groups: the caller checks its operands.
pub(crate) fn conv2d<T: Real>(cx: &Context<'_>, shape: &ConvShape, x: &[T], weight: &[T], y: &mut [T]) {
    assert_eq!([x.len(), weight.len(), y.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    correlate(cx, &Gathering::of_inputs(shape), x, weight, y);
}

/// dx from dy: each input element the canonical contraction over (kh, kw, c_out) of the outputs that read it.
///
/// # Panics
/// As for [`conv2d`].
pub(crate) fn conv2d_input_grad<T: Real>(cx: &Context<'_>, shape: &ConvShape, dy: &[T], weight: &[T], dx: &mut [T]) {
    assert_eq!([dx.len(), weight.len(), dy.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    correlate(cx, &Gathering::of_outputs(shape), dy, weight, dx);
}

fn correlate<T: Real>(cx: &Context<'_>, gathering: &Gathering, from: &[T], weight: &[T], to: &mut [T]) {
    let pixels = Pixels::new(gathering);
    for group in 0..gathering.groups {
        let [first_from, first_to] = gathering.first_channels(group);
        let packed = Packed::for_rows(cx, &gathering.weight(weight, group), pixels.rows());
        let rows = PixelRows { pixels: &pixels, from: from.get(first_from..).unwrap_or(&[]), first_channel: first_to };
        // SAFETY: rows are pixels of `to`, each once, and the group's channels are some of theirs.
        unsafe { contract(cx, &rows, &packed, None, SharedMut::new(to)) }
    }
}

/// What each pixel of one side gathers from the other side.
pub(super) struct Gathering {
    images: usize,
    kernel: [usize; 2],
    axes: [Vec<AxisClass>; 2],
    /// Height, width and channels of the side that is read and of the side that is written.
    image: [[usize; 3]; 2],
    pub(super) groups: usize,
    /// Whether the weight's last axis, the output channels, is that of the side that is read.
    is_transposed: bool,
}

impl Gathering {
    /// Outputs gather inputs.
    pub(super) fn of_inputs(shape: &ConvShape) -> Gathering {
        let [out_h, out_w] = shape.out_size();
        Gathering {
            images: shape.n,
            kernel: shape.kernel,
            axes: std::array::from_fn(|axis| {
                axis_classes([out_h, out_w][axis], shape.kernel[axis], |o, k| shape.input_of(axis, o, k))
            }),
            image: [[shape.h, shape.w, shape.c], [out_h, out_w, shape.c_out]],
            groups: shape.groups,
            is_transposed: false,
        }
    }

    /// Inputs gather the outputs that read them.
    pub(super) fn of_outputs(shape: &ConvShape) -> Gathering {
        let [out_h, out_w] = shape.out_size();
        Gathering {
            images: shape.n,
            kernel: shape.kernel,
            axes: std::array::from_fn(|axis| {
                axis_classes([shape.h, shape.w][axis], shape.kernel[axis], |i, k| {
                    let distance = (i + shape.padding[axis]).checked_sub(k * shape.dilation[axis])?;
                    let o = distance / shape.stride[axis];
                    (distance % shape.stride[axis] == 0 && o < [out_h, out_w][axis]).then_some(o)
                })
            }),
            image: [[out_h, out_w, shape.c_out], [shape.h, shape.w, shape.c]],
            groups: shape.groups,
            is_transposed: true,
        }
    }

    /// Channels of a group on the side that is read and on the side that is written.
    pub(super) fn channels(&self) -> [usize; 2] {
        self.image.map(|[_, _, channels]| channels / self.groups)
    }

    /// The first of them.
    pub(super) fn first_channels(&self, group: usize) -> [usize; 2] {
        self.channels().map(|channels| group * channels)
    }

    /// Positions of the contraction, padding ones counted.
    pub(super) fn positions(&self) -> usize {
        self.kernel[0] * self.kernel[1] * self.channels()[0]
    }

    /// A group's part of the weight `[kh, kw, c / groups, c_out]` as right operand.
    pub(super) fn weight<'a, T>(&self, weight: &'a [T], group: usize) -> Operand<'a, T> {
        let [k, n] = [self.positions(), self.channels()[1]];
        let [from, to] = self.channels();
        if self.is_transposed {
            let (outer_stride, c_out) = (to * self.image[0][2], self.image[0][2]);
            let data = weight.get(group * from..).unwrap_or(&[]);
            Operand { data, k, n, inner: from.max(1), outer_stride, row_stride: 1, col_stride: c_out }
        } else {
            let data = weight.get(group * to..).unwrap_or(&[]);
            Operand { data, k, n, inner: k.max(1), outer_stride: 0, row_stride: self.image[1][2], col_stride: 1 }
        }
    }
}

/// Coordinates of one axis that have the same real taps.
pub(super) struct AxisClass {
    /// Real taps, increasing.
    taps: Vec<usize>,
    /// Source coordinate of tap `taps[i]` less that of `taps[0]`; the same for every coordinate of the class.
    deltas: Vec<isize>,
    /// (coordinate, source coordinate of `taps[0]`), or 0 where there is no real tap.
    coordinates: Vec<(usize, usize)>,
}

/// Groups the coordinates `0..size` by their real taps; `source` gives what a tap reads.
fn axis_classes(size: usize, taps: usize, source: impl Fn(usize, usize) -> Option<usize>) -> Vec<AxisClass> {
    let mut classes: Vec<AxisClass> = Vec::new();
    for at in 0..size {
        let real: Vec<(usize, usize)> = (0..taps).filter_map(|k| Some((k, source(at, k)?))).collect();
        let base = real.first().map_or(0, |(_, source)| *source);
        let taps: Vec<usize> = real.iter().map(|(k, _)| *k).collect();
        match classes.iter_mut().find(|class| class.taps == taps) {
            Some(class) => class.coordinates.push((at, base)),
            None => {
                let deltas = real.iter().map(|(_, source)| source.wrapping_sub(base).cast_signed()).collect();
                classes.push(AxisClass { taps, deltas, coordinates: vec![(at, base)] });
            }
        }
    }
    classes
}

/// The rows of a convolution: all pixels of one side, by class, with what each gathers from the other side.
pub(super) struct Pixels<'a> {
    pub(super) classes: Vec<Class>,
    /// By class: vertical and horizontal coordinates.
    axes: Vec<[&'a AxisClass; 2]>,
    /// As in [`Gathering`].
    image: [[usize; 3]; 2],
}

impl<'a> Pixels<'a> {
    pub(super) fn new(gathering: &'a Gathering) -> Pixels<'a> {
        let Gathering { images, kernel, axes, image, .. } = gathering;
        let depth = gathering.channels()[0];
        let mut pixels = Pixels { classes: Vec::new(), axes: Vec::new(), image: *image };
        let [_, width, channels] = image[0].map(usize::cast_signed);
        let chunks = gathering.positions().div_ceil(CHUNK);
        for y in &axes[0] {
            for x in &axes[1] {
                let mut pieces = vec![Vec::new(); chunks];
                for (ky, dy) in y.taps.iter().zip(&y.deltas) {
                    for (kx, dx) in x.taps.iter().zip(&x.deltas) {
                        let position = (ky * kernel[1] + kx) * depth;
                        push_pieces(&mut pieces, position, depth, (dy * width + dx) * channels);
                    }
                }
                let rows = images * y.coordinates.len() * x.coordinates.len();
                pixels.classes.push(Class { rows, pieces });
                pixels.axes.push([y, x]);
            }
        }
        pixels
    }

    /// All rows.
    pub(super) fn rows(&self) -> usize {
        self.classes.iter().map(|class| class.rows).sum()
    }

    /// Calls `visit(row, start)` for rows `first .. first + rows` of the class, where `start` is the offset of the row's
    /// source pixel.
    pub(super) fn for_each_source(&self, class: usize, first: usize, rows: usize, mut visit: impl FnMut(usize, usize)) {
        let [height, width, channels] = self.image[0];
        let [y, x] = self.axes[class];
        self.for_each_row(class, first, rows, |row, [image, i, j]| {
            let pixel = (image * height + y.coordinates[i].1) * width + x.coordinates[j].1;
            visit(row, pixel * channels);
        });
    }

    /// Where the outputs of rows `first ..` of the class start: one of `to` each.
    pub(super) fn outputs(&self, class: usize, first: usize, to: &mut [usize]) {
        let [height, width, channels] = self.image[1];
        let [y, x] = self.axes[class];
        self.for_each_row(class, first, to.len(), |row, [image, i, j]| {
            let pixel = (image * height + y.coordinates[i].0) * width + x.coordinates[j].0;
            to[row] = pixel * channels;
        });
    }

    /// Calls `visit(row, [image, i, j])` for rows `first .. first + rows` of the class, where i and j index the
    /// class's coordinates.
    fn for_each_row(&self, class: usize, first: usize, rows: usize, mut visit: impl FnMut(usize, [usize; 3])) {
        let [height, width] = self.axes[class].map(|axis| axis.coordinates.len());
        let mut at = [first / (height * width), first / width % height, first % width];
        for row in 0..rows {
            visit(row, at);
            at[2] += 1;
            if at[2] == width {
                (at[1], at[2]) = (at[1] + 1, 0);
                if at[1] == height {
                    (at[0], at[1]) = (at[0] + 1, 0);
                }
            }
        }
    }
}

/// Adds the pieces of one tap, cut at the chunks, and joined to the last where source and position go on.
fn push_pieces(pieces: &mut [Vec<Piece>], position: usize, depth: usize, delta: isize) {
    let mut done = 0;
    while done < depth {
        let at = (position + done) % CHUNK;
        let len = (CHUNK - at).min(depth - done);
        let delta = delta + done.cast_signed();
        let chunk = &mut pieces[(position + done) / CHUNK];
        match chunk.last_mut() {
            Some(last) if last.at + last.len == at && last.delta + last.len.cast_signed() == delta => last.len += len,
            _ => chunk.push(Piece { delta, at, len }),
        }
        done += len;
    }
}

/// [`Pixels`] with the memory of the side that is read.
struct PixelRows<'a, T> {
    pixels: &'a Pixels<'a>,
    from: &'a [T],
    first_channel: usize,
}

impl<T: Real> Source<T> for PixelRows<'_, T> {
    fn classes(&self) -> &[Class] {
        &self.pixels.classes
    }

    fn pitch(&self) -> Option<usize> {
        Some(self.pixels.image[0][2])
    }

    fn starts(&self, class: usize, first: usize, to: &mut [*const T]) {
        self.pixels.for_each_source(class, first, to.len(), |row, start| {
            to[row] = self.from[start..].as_ptr();
        });
    }

    fn load(&self, class: usize, first: usize, rows: usize, chunk: usize, to: &mut [T]) {
        let pieces = &self.pixels.classes[class].pieces[chunk];
        self.pixels.for_each_source(class, first, rows, |row, start| {
            let to = &mut to[row * A_STRIDE..][..CHUNK];
            for &Piece { delta, at, len } in pieces {
                to[at..at + len].copy_from_slice(&self.from[start.wrapping_add_signed(delta)..][..len]);
            }
        });
    }

    fn outputs(&self, class: usize, first: usize, to: &mut [usize]) {
        self.pixels.outputs(class, first, to);
        to.iter_mut().for_each(|to| *to += self.first_channel);
    }
}
