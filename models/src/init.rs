//! Parameters and their first values, keyed by path: adding, removing or reordering layers changes no other layer's
//! values, and every element depends on its own position alone.

use selfsame_autograd::{Param, Role};
use selfsame_engine::{Array, DType, Device, Result, ops};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::philox::{self, Key, Purpose, Stream};

/// Makes the parameters of a module: device, element type, seed and the path so far.
#[derive(Clone, Debug)]
pub struct Init {
    device: Device,
    dtype: DType,
    seed: u64,
    path: String,
    frozen: bool,
}

/// Which side of a weight its variance is scaled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fan {
    /// Inputs that meet in one output: kernel positions x input channels (of the group).
    In,
    /// Outputs that one input reaches: kernel positions x output channels.
    Out,
}

/// How a parameter is filled. Weights are `[…, in, out]` (HWIO for convolutions).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fill {
    /// 0 everywhere.
    Zeros,
    /// 1 everywhere.
    Ones,
    /// Normal with standard deviation sqrt(2 / fan): He et al. 2015, for layers followed by ReLU.
    KaimingNormal {
        /// The side to scale by; torchvision's ResNets use [`Fan::Out`].
        fan: Fan,
    },
    /// Uniform on ±1/sqrt(fan in): what PyTorch's `Linear` and `Conv2d` do unless told otherwise.
    KaimingUniform,
    /// Uniform on ±sqrt(6 / (fan in + fan out)): Glorot and Bengio 2010.
    XavierUniform,
    /// Normal with mean 0, drawn again where it lies outside two standard deviations.
    TruncNormal {
        /// Standard deviation before truncation.
        std: f64,
    },
    /// Normal with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Uniform on ±`bound`.
    Uniform {
        /// Largest absolute value.
        bound: f64,
    },
}

impl Init {
    /// Starts at an empty path, with f32 parameters.
    pub fn new(device: &Device, seed: u64) -> Init {
        Init { device: device.clone(), dtype: DType::F32, seed, path: String::new(), frozen: false }
    }

    /// Makes parameters of another float type. Values are drawn in f32 and cast, so an f64 twin of a model starts
    /// from exactly the values of the f32 one.
    #[must_use]
    pub fn with_dtype(mut self, dtype: DType) -> Init {
        self.dtype = dtype;
        self
    }

    /// The child at `name`, which may itself contain dots.
    #[must_use]
    pub fn at(&self, name: &str) -> Init {
        Init { path: self.join(name), ..self.clone() }
    }

    /// Makes buffers in place of parameters: of a network that has no gradient of its own, such as a momentum encoder.
    #[must_use]
    pub fn frozen(mut self) -> Init {
        self.frozen = true;
        self
    }

    /// The device that parameters are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The path so far.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_string() } else { format!("{}.{name}", self.path) }
    }

    /// A parameter called `name` under this path.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn param(&self, name: &str, role: Role, shape: &[usize], fill: Fill) -> Result<Param> {
        let path = self.join(name);
        let value = ops::cast(&self.draw(&path, shape, fill)?, self.dtype)?;
        Ok(Param::new(path, if self.frozen { Role::Buffer } else { role }, value))
    }

    /// A buffer called `name` under this path, of one value everywhere.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn buffer(&self, name: &str, shape: &[usize], value: f32) -> Result<Param> {
        let value = ops::cast(&Array::full(value, shape, &self.device)?, self.dtype)?;
        Ok(Param::new(self.join(name), Role::Buffer, value))
    }

    /// The values of `fill` in f32.
    fn draw(&self, path: &str, shape: &[usize], fill: Fill) -> Result<Array> {
        let stream = |attempt| Key::new(self.seed, Purpose::Init).stream(attempt, philox::key_of_path(path), 0);
        Array::on_host(&self.device, shape, "init", |_, out| {
            match fill {
                Fill::Zeros => out.fill(0.0),
                Fill::Ones => out.fill(1.0),
                Fill::KaimingNormal { fan: Fan::In } => normal(&stream(0), (2.0 / fan_in(shape)).sqrt(), out),
                Fill::KaimingNormal { fan: Fan::Out } => normal(&stream(0), (2.0 / fan_out(shape)).sqrt(), out),
                Fill::KaimingUniform => uniform(&stream(0), 1.0 / fan_in(shape).sqrt(), out),
                Fill::XavierUniform => uniform(&stream(0), (6.0 / (fan_in(shape) + fan_out(shape))).sqrt(), out),
                Fill::TruncNormal { std } => truncated_normal(stream, std, out),
                Fill::Normal { std } => normal(&stream(0), std, out),
                Fill::Uniform { bound } => uniform(&stream(0), bound, out),
            }
            Ok(())
        })
    }
}

fn uniform(stream: &Stream, bound: f64, out: &mut [f32]) {
    philox::fill_uniform(Isa::detect(), stream, 0, out);
    out.iter_mut().for_each(|v| *v = (2.0 * *v - 1.0) * bound as f32);
}

fn normal(stream: &Stream, std: f64, out: &mut [f32]) {
    philox::fill_normal(Isa::detect(), stream, 0, out);
    out.iter_mut().for_each(|v| *v *= std as f32);
}

/// Each element is the first of its own draws, one from each of the streams 0, 1, 2, …, that lies inside two standard
/// deviations.
fn truncated_normal(stream: impl Fn(u64) -> Stream, std: f64, out: &mut [f32]) {
    normal(&stream(0), std, out);
    let limit = 2.0 * std as f32;
    let mut redrawn = vec![0.0; out.len()];
    for attempt in 1.. {
        if out.iter().all(|v| v.abs() <= limit) {
            break;
        }
        normal(&stream(attempt), std, &mut redrawn);
        for (value, new) in out.iter_mut().zip(&redrawn) {
            if value.abs() > limit {
                *value = *new;
            }
        }
    }
}

/// Kernel positions x input channels of a weight `[…, in, out]`; at least 1.
fn fan_in(shape: &[usize]) -> f64 {
    shape[..shape.len().saturating_sub(1)].iter().product::<usize>().max(1) as f64
}

/// Kernel positions x output channels of a weight `[…, in, out]`; at least 1.
fn fan_out(shape: &[usize]) -> f64 {
    let kernel: usize = shape[..shape.len().saturating_sub(2)].iter().product();
    (kernel * shape.last().copied().unwrap_or(1)).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: u64, path: &str, shape: &[usize], fill: Fill) -> Vec<f32> {
        let device = Device::cpu_with(1).unwrap();
        let param = Init::new(&device, seed).at(path).param("weight", Role::Weight, shape, fill).unwrap();
        assert_eq!(param.path(), format!("{path}.weight"));
        param.array().to_vec::<f32>().unwrap()
    }

    #[test]
    fn values_depend_on_seed_and_path() {
        let fill = Fill::Normal { std: 1.0 };
        let first = values(1, "a", &[64], fill);
        assert_eq!(first, values(1, "a", &[64], fill));
        assert_ne!(first, values(2, "a", &[64], fill));
        assert_ne!(first, values(1, "b", &[64], fill));
    }

    #[test]
    fn an_element_depends_on_its_position_alone() {
        for fill in [Fill::Normal { std: 1.0 }, Fill::TruncNormal { std: 1.0 }, Fill::Uniform { bound: 1.0 }] {
            assert_eq!(values(1, "a", &[1000], fill)[..10], values(1, "a", &[10], fill)[..]);
        }
    }

    /// Sample variance against the formula's; 4096 draws put five standard errors at 11 %.
    #[test]
    fn variances_follow_the_formulas() {
        let shape = [3, 3, 16, 32];
        let (fan_in, fan_out) = (9.0 * 16.0, 9.0 * 32.0);
        for (fill, variance) in [
            (Fill::KaimingNormal { fan: Fan::In }, 2.0 / fan_in),
            (Fill::KaimingNormal { fan: Fan::Out }, 2.0 / fan_out),
            (Fill::KaimingUniform, 1.0 / fan_in / 3.0),
            (Fill::XavierUniform, 6.0 / (fan_in + fan_out) / 3.0),
            (Fill::Normal { std: 0.02 }, 0.0004),
        ] {
            let drawn = values(3, "conv", &shape, fill);
            let found = drawn.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>() / drawn.len() as f64;
            assert!((found / variance - 1.0).abs() < 0.11, "{fill:?}: {found} for {variance}");
        }
    }

    #[test]
    fn truncated_normal_stays_inside_two_deviations_and_fills_them() {
        let drawn = values(4, "t", &[4096], Fill::TruncNormal { std: 0.5 });
        let largest = drawn.iter().fold(0f32, |m, v| m.max(v.abs()));
        assert!((0.9..=1.0).contains(&largest), "{largest}");
    }
}
