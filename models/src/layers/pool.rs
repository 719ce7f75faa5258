//! Pooling over NHWC images.

use crate::{Ctx, Module};
use selfsame_autograd::{ParamVisitor, Tensor};
use selfsame_engine::{Array, Error, ErrorKind, Result, ops};

/// The largest value of each window, per channel.
pub struct MaxPool2d(pub ops::Pool2d);

impl Module for MaxPool2d {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        x.max_pool2d(self.0)
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

/// The mean over all pixels: `[n, h, w, c]` to `[n, c]`.
pub struct GlobalAvgPool;

impl Module for GlobalAvgPool {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        x.global_avg_pool()
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

/// The means of windows that cover an image of any size: `[n, h, w, c]` to `[n, size[0], size[1], c]`.
///
/// Along an axis of length l, window i of s is `floor(i l / s) .. ceil((i + 1) l / s)`, as in PyTorch: windows overlap
/// where s does not divide l, and repeat pixels where l is below s. Rows are averaged first, then columns, as products
/// with a matrix of weights.
pub struct AdaptiveAvgPool2d(pub [usize; 2]);

impl Module for AdaptiveAvgPool2d {
    fn forward(&self, x: &Tensor, _: &Ctx) -> Result<Tensor> {
        let ([n, h, w, c], [rows, columns]) = (x.dims()?, self.0);
        if [h, w, rows, columns].contains(&0) {
            return Err(Error::new(
                ErrorKind::Shape,
                "adaptive_avg_pool2d",
                format!("{:?} to {:?}", x.shape(), self.0),
            )
            .expected("at least one pixel on either side"));
        }
        if [h, w] == self.0 {
            return Ok(x.clone());
        }
        let by_rows = means(h, rows, x)?.matmul(&x.reshape(&[n, h, w * c])?)?.reshape(&[n * rows, w, c])?;
        means(w, columns, x)?.matmul(&by_rows)?.reshape(&[n, rows, columns, c])
    }
    fn visit(&self, _: &mut dyn ParamVisitor) {}
}

/// The matrix `[windows, len]` whose product averages over adaptive windows, in the type of `like`.
fn means(len: usize, windows: usize, like: &Tensor) -> Result<Tensor> {
    let mut weights = vec![0f64; windows * len];
    for (i, row) in weights.chunks_mut(len).enumerate() {
        let window = i * len / windows..((i + 1) * len).div_ceil(windows);
        let share = 1.0 / window.len() as f64;
        row[window].fill(share);
    }
    let weights = Array::from_slice(&weights, &[windows, len], like.device())?;
    Ok(Tensor::constant(ops::cast(&weights, like.dtype())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    fn pooled(values: &[f64], [h, w]: [usize; 2], size: [usize; 2]) -> Vec<f64> {
        let device = Device::cpu_with(1).unwrap();
        let x = Tensor::constant(Array::from_slice(values, &[1, h, w, 1], &device).unwrap());
        let y = AdaptiveAvgPool2d(size).forward(&x, &Ctx::eval()).unwrap();
        assert_eq!(y.shape(), [1, size[0], size[1], 1]);
        y.array().to_vec().unwrap()
    }

    #[test]
    fn adaptive_windows_divide_overlap_and_repeat() {
        let ramp: Vec<f64> = (0..16).map(f64::from).collect();
        assert_eq!(pooled(&ramp, [4, 4], [2, 2]), [2.5, 4.5, 10.5, 12.5]);
        assert_eq!(pooled(&ramp, [4, 4], [4, 4]), ramp);
        // Three pixels to two windows: 0..2 and 1..3.
        assert_eq!(pooled(&[2., 4., 8.], [1, 3], [1, 2]), [3.0, 6.0]);
        assert_eq!(pooled(&[5., 7.], [1, 2], [2, 4]), [5., 5., 7., 7., 5., 5., 7., 7.]);
    }

    #[test]
    fn one_window_is_the_global_mean_and_gradients_are_shares() {
        let device = Device::cpu_with(1).unwrap();
        let values: Vec<f64> = (0..2 * 8 * 4 * 3).map(|i| f64::from(i * 7 % 23)).collect();
        let x = Tensor::leaf(Array::from_slice(&values, &[2, 8, 4, 3], &device).unwrap());
        let y = AdaptiveAvgPool2d([1, 1]).forward(&x, &Ctx::eval()).unwrap();
        let expected = x.detach().global_avg_pool().unwrap().array().to_vec::<f64>().unwrap();
        // Shares of 1/8 and 1/4 are exact, and so are sums of small integers times them.
        assert_eq!(y.array().to_vec::<f64>().unwrap(), expected);
        let dx = y.sum_all().unwrap().backward().unwrap().get(&x).unwrap().unwrap();
        assert!(dx.to_vec::<f64>().unwrap().iter().all(|d| *d == 1.0 / 32.0));
    }
}
