//! Content hashes: what identifies weights, gradients and results across runs and machines.
//!
//! XXH3 (64 bits) of the element type's name, the shape, and the elements in row-major order as little-endian bytes.
//! All NaNs are one value; -0 and +0 differ. Strides and devices do not count.

use crate::bytes::for_each_piece;
use crate::{Array, Result};
use xxhash_rust::xxh3::Xxh3;

/// The hash of one array.
///
/// # Errors
/// `OutOfMemory`.
pub fn hash_array(x: &Array) -> Result<u64> {
    let mut hasher = ContentHasher::new();
    hasher.array(x)?;
    Ok(hasher.finish())
}

/// Hashes a sequence of named arrays; their order counts.
#[derive(Clone, Default)]
pub struct ContentHasher(Xxh3);

impl ContentHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> ContentHasher {
        ContentHasher::default()
    }

    /// Takes in a named array.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn named(&mut self, name: &str, x: &Array) -> Result<()> {
        self.text(name);
        self.array(x)
    }

    /// Takes in a piece of text, ended by its length, so that neighbouring pieces do not run together.
    pub fn text(&mut self, text: &str) {
        self.0.update(text.as_bytes());
        self.number(text.len());
    }

    /// Takes in an array.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn array(&mut self, x: &Array) -> Result<()> {
        self.text(x.dtype().name());
        self.number(x.rank());
        x.shape().iter().for_each(|&len| self.number(len));
        for_each_piece(x, true, |bytes| self.0.update(bytes))
    }

    /// The hash of what was taken in.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }

    fn number(&mut self, n: usize) {
        self.0.update(&(n as u64).to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Device};

    fn device() -> Device {
        Device::cpu_with(1).unwrap()
    }

    #[test]
    fn views_and_copies_hash_alike_and_contents_differ() {
        let x = Array::from_slice(&(0..12_000).map(|i| i as f32).collect::<Vec<_>>(), &[100, 120], &device()).unwrap();
        let t = x.transpose(0, 1).unwrap();
        assert_eq!(hash_array(&t).unwrap(), hash_array(&t.contiguous().unwrap()).unwrap());
        assert_ne!(hash_array(&t).unwrap(), hash_array(&x).unwrap());
        assert_ne!(hash_array(&x.reshape(&[120, 100]).unwrap()).unwrap(), hash_array(&x).unwrap());
        let mut y = x.copy().unwrap();
        y.make_mut::<f32>().unwrap()[11_999] = 0.5;
        assert_ne!(hash_array(&y).unwrap(), hash_array(&x).unwrap());
        let zeros = |dtype| hash_array(&Array::zeros(&[4], dtype, &device()).unwrap()).unwrap();
        assert_ne!(zeros(DType::F32), zeros(DType::I32));
    }

    #[test]
    fn all_nans_are_one_and_zeros_are_two() {
        let hash = |x: f32| hash_array(&Array::scalar(x, &device()).unwrap()).unwrap();
        assert_eq!(hash(f32::from_bits(0xffc0_0001)), hash(f32::from_bits(0x7f80_0001)));
        assert_ne!(hash(0.0), hash(-0.0));
    }

    #[test]
    fn names_and_order_count() {
        let (a, b) = (Array::scalar(1f32, &device()).unwrap(), Array::scalar(2f32, &device()).unwrap());
        let hash = |pairs: &[(&str, &Array)]| {
            let mut hasher = ContentHasher::new();
            pairs.iter().for_each(|(name, x)| hasher.named(name, x).unwrap());
            hasher.finish()
        };
        assert_ne!(hash(&[("a", &a), ("b", &b)]), hash(&[("b", &b), ("a", &a)]));
        assert_ne!(hash(&[("a", &a), ("b", &b)]), hash(&[("a", &b), ("b", &a)]));
    }
}
