//! The draws that scenes and augmentations share.

use selfsame_kernels::philox::Stream;

/// Uniform draws from intervals.
pub(crate) trait Draw {
    /// Uniform on [low, high): `low + (high - low) u`.
    fn between(&mut self, low: f32, high: f32) -> f32;

    /// One of `choices`, each equally likely. `choices` must not be empty.
    fn pick<T: Copy>(&mut self, choices: &[T]) -> T;
}

impl Draw for Stream {
    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.uniform_f32()
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.range(choices.len() as u64) as usize]
    }
}
