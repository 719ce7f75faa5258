//! The fixed front end of DeepCluster and SeLa: without colour, clusters follow shapes.

use crate::{Ctx, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Array, Result, ops};

/// Sobel's filters, cross-correlated: the first sees changes along the width, the second along the height.
const FILTERS: [[f32; 9]; 2] = [[1., 0., -1., 2., 0., -2., 1., 0., -1.], [1., 2., 1., 0., 0., 0., -1., -2., -1.]];

/// Images `[n, h, w, channels]` to `[n, h, w, 2]`: the mean of the channels, then two Sobel filters of 3x3 pixels with
/// zeros around the image. Nothing is learned.
pub struct Sobel;

impl Sobel {
    /// Channels of the result.
    pub const CHANNELS: usize = 2;
}

impl Module for Sobel {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> Result<Tensor> {
        let [_, _, _, _] = x.dims()?;
        let grey = x.mean(&[3], true)?;
        // [h, w, in, out]: the filters are the last axis.
        let taps: Vec<f32> = (0..9).flat_map(|tap| FILTERS.map(|filter| filter[tap])).collect();
        let filters = ops::cast(&Array::from_slice(&taps, &[3, 3, 1, Sobel::CHANNELS], x.device())?, x.dtype())?;
        let geometry = ops::Conv2d { padding: [1; 2], ..ops::Conv2d::default() };
        grey.conv2d(&Tensor::constant(filters), geometry, cx.rows(&grey)?)
    }

    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::{Device, ErrorKind};

    #[test]
    fn ramps_have_a_constant_slope_inside_and_none_across() {
        let device = Device::cpu_with(1).unwrap();
        // Pixel (y, x) is 3 x + 30 y in the mean of its channels.
        let pixel = |i: usize| (3 * (i % 5) + 30 * (i / 5)) as f32;
        let values: Vec<f32> = (0..20).flat_map(|i| [pixel(i) - 6.0, pixel(i), pixel(i) + 6.0]).collect();
        let image = Tensor::constant(Array::from_slice(&values, &[1, 4, 5, 3], &device).unwrap());
        let edges = Sobel.forward(&image, &Ctx::eval()).unwrap();
        assert_eq!(edges.shape(), [1, 4, 5, 2]);
        let edges = edges.array().to_vec::<f32>().unwrap();
        let at = |y: usize, x: usize| [edges[(y * 5 + x) * 2], edges[(y * 5 + x) * 2 + 1]];
        // Two pixels apart, weights 1 + 2 + 1: 8 times the slope.
        for (y, x) in [(1, 1), (2, 3)] {
            assert_eq!(at(y, x), [-24.0, -240.0]);
        }
        // In the corner the pixels outside are zeros: -(2 p(0, 1) + p(1, 1)) and -(2 p(1, 0) + p(1, 1)).
        assert_eq!(at(0, 0), [-(2.0 * 3.0 + 33.0), -(2.0 * 30.0 + 33.0)]);
        let flat = Tensor::constant(Array::full(1f32, &[2, 3], &device).unwrap());
        assert_eq!(Sobel.forward(&flat, &Ctx::eval()).unwrap_err().kind(), ErrorKind::Shape);
    }
}
