//! Convolution and its two gradients.

use super::Chain;
use super::samples::{Samples, fold_samples};
use crate::math::Real;

/// Shapes and options of a 2-D convolution: x `[n, h, w, c]`, weight `[kh, kw, c / groups, c_out]`, y
/// `[n, oh, ow, c_out]`.
///
/// Output channels of group g are the g-th block of `c_out / groups`; they see the g-th block of `c / groups` inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2d {
    /// Images.
    pub n: usize,
    /// Input height.
    pub h: usize,
    /// Input width.
    pub w: usize,
    /// Input channels, of all groups.
    pub c: usize,
    /// Output channels, of all groups.
    pub c_out: usize,
    /// Kernel height.
    pub kh: usize,
    /// Kernel width.
    pub kw: usize,
    /// Stride, vertical and horizontal.
    pub stride: [usize; 2],
    /// Zero padding on both sides, vertical and horizontal.
    pub padding: [usize; 2],
    /// Dilation, vertical and horizontal.
    pub dilation: [usize; 2],
    /// Groups; divides `c` and `c_out`.
    pub groups: usize,
}

impl Conv2d {
    /// Output height.
    pub fn oh(&self) -> usize {
        (self.h + 2 * self.padding[0] - self.dilation[0] * (self.kh - 1) - 1) / self.stride[0] + 1
    }

    /// Output width.
    pub fn ow(&self) -> usize {
        (self.w + 2 * self.padding[1] - self.dilation[1] * (self.kw - 1) - 1) / self.stride[1] + 1
    }

    /// Input channels of a group.
    pub fn group_c(&self) -> usize {
        self.c / self.groups
    }

    /// Output channels of a group.
    pub fn group_c_out(&self) -> usize {
        self.c_out / self.groups
    }

    /// Row and column of the input that tap (ky, kx) of output pixel (oy, ox) reads; `None` in the padding.
    fn tap(&self, oy: usize, ox: usize, ky: usize, kx: usize) -> Option<(usize, usize)> {
        let y = (oy * self.stride[0] + ky * self.dilation[0]).checked_sub(self.padding[0])?;
        let x = (ox * self.stride[1] + kx * self.dilation[1]).checked_sub(self.padding[1])?;
        (y < self.h && x < self.w).then_some((y, x))
    }

    /// The output pixel whose tap (ky, kx) reads input pixel (y, x), if there is one.
    fn output_of(&self, y: usize, x: usize, ky: usize, kx: usize) -> Option<(usize, usize)> {
        let oy = (y + self.padding[0]).checked_sub(ky * self.dilation[0])?;
        let ox = (x + self.padding[1]).checked_sub(kx * self.dilation[1])?;
        let on_stride = oy % self.stride[0] == 0 && ox % self.stride[1] == 0;
        let (oy, ox) = (oy / self.stride[0], ox / self.stride[1]);
        (on_stride && oy < self.oh() && ox < self.ow()).then_some((oy, ox))
    }

    fn x_index(&self, image: usize, y: usize, x: usize, channel: usize) -> usize {
        ((image * self.h + y) * self.w + x) * self.c + channel
    }

    fn y_index(&self, image: usize, oy: usize, ox: usize, channel: usize) -> usize {
        ((image * self.oh() + oy) * self.ow() + ox) * self.c_out + channel
    }

    fn weight_index(&self, ky: usize, kx: usize, channel: usize, out: usize) -> usize {
        ((ky * self.kw + kx) * self.group_c() + channel) * self.c_out + out
    }
}

/// y = x * weight.
///
/// Each output is a [`Chain`] of fused multiply-adds x w over (kh, kw, channel of the group) in that order, at position
/// (kh KW + kw) C + channel with C the channels of a group. Taps in the padding are not part of it.
pub fn conv2d<T: Real>(shape: &Conv2d, x: &[T], weight: &[T]) -> Vec<T> {
    let (c, c_out) = (shape.group_c(), shape.group_c_out());
    let mut y = vec![T::ZERO; shape.n * shape.oh() * shape.ow() * shape.c_out];
    for image in 0..shape.n {
        for oy in 0..shape.oh() {
            for ox in 0..shape.ow() {
                for out in 0..shape.c_out {
                    let mut sum = Chain::new();
                    for ky in 0..shape.kh {
                        for kx in 0..shape.kw {
                            let Some((iy, ix)) = shape.tap(oy, ox, ky, kx) else { continue };
                            for channel in 0..c {
                                let position = (ky * shape.kw + kx) * c + channel;
                                let input = x[shape.x_index(image, iy, ix, out / c_out * c + channel)];
                                sum.fma(position, input, weight[shape.weight_index(ky, kx, channel, out)]);
                            }
                        }
                    }
                    y[shape.y_index(image, oy, ox, out)] = sum.finish();
                }
            }
        }
    }
    y
}

/// dx from dy.
///
/// Each input element is a [`Chain`] of fused multiply-adds dy w over (kh, kw, output channel of the group) in that
/// order, at position (kh KW + kw) C_out + output channel with C_out the output channels of a group. Taps by which no
/// output reads the element are not part of it.
pub fn conv2d_input_grad<T: Real>(shape: &Conv2d, dy: &[T], weight: &[T]) -> Vec<T> {
    let (c, c_out) = (shape.group_c(), shape.group_c_out());
    let mut dx = vec![T::ZERO; shape.n * shape.h * shape.w * shape.c];
    for image in 0..shape.n {
        for iy in 0..shape.h {
            for ix in 0..shape.w {
                for channel in 0..shape.c {
                    let mut sum = Chain::new();
                    for ky in 0..shape.kh {
                        for kx in 0..shape.kw {
                            let Some((oy, ox)) = shape.output_of(iy, ix, ky, kx) else { continue };
                            for co in 0..c_out {
                                let position = (ky * shape.kw + kx) * c_out + co;
                                let out = channel / c * c_out + co;
                                let output = dy[shape.y_index(image, oy, ox, out)];
                                sum.fma(position, output, weight[shape.weight_index(ky, kx, channel % c, out)]);
                            }
                        }
                    }
                    dx[shape.x_index(image, iy, ix, channel)] = sum.finish();
                }
            }
        }
    }
    dx
}

/// dw from x and dy, `[kh, kw, c / groups, c_out]`: a sum over samples.
///
/// A row is (image, oh, ow). In a leaf each element is a [`Chain`] of fused multiply-adds x dy over its rows, at
/// positions counted from the leaf's first row; rows whose tap lies in the padding are not part of it, and a leaf
/// without any real row is +0. Leaves are added in the tree.
pub fn conv2d_weight_grad<T: Real>(shape: &Conv2d, x: &[T], dy: &[T]) -> Vec<T> {
    let (c, c_out) = (shape.group_c(), shape.group_c_out());
    let pixels = shape.oh() * shape.ow();
    let samples = Samples { images: shape.n, rows_per_image: pixels };
    let mut dw = vec![T::ZERO; shape.kh * shape.kw * c * shape.c_out];
    for ky in 0..shape.kh {
        for kx in 0..shape.kw {
            for channel in 0..c {
                for out in 0..shape.c_out {
                    dw[shape.weight_index(ky, kx, channel, out)] = fold_samples(samples, |sum, position, row| {
                        let (image, oy, ox) = (row / pixels, row % pixels / shape.ow(), row % shape.ow());
                        if let Some((iy, ix)) = shape.tap(oy, ox, ky, kx) {
                            let input = x[shape.x_index(image, iy, ix, out / c_out * c + channel)];
                            sum.fma(position, input, dy[shape.y_index(image, oy, ox, out)]);
                        }
                    });
                }
            }
        }
    }
    dw
}
