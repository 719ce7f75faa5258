//! Content hashes: what identifies weights, gradients and results across runs and machines.
//!
//! XXH3 (64 bits) of the element type's name, the shape, and the elements in row-major order as little-endian bytes.
//! All NaNs are one value; -0 and +0 differ. Strides and devices do not count.

use crate::bytes::{for_each_piece, for_each_piece_of};
use crate::cpu::Workers;
use crate::{Array, Result};
use std::sync::OnceLock;
use xxhash_rust::xxh3::Xxh3;

/// Elements whose bytes [`hash_arrays`] hashes in one go.
const PIECE: usize = 1 << 18;

/// The hash of one array.
///
/// # Errors
/// `OutOfMemory`.
pub fn hash_array(x: &Array) -> Result<u64> {
    let mut hasher = ContentHasher::new();
    hasher.array(x)?;
    Ok(hasher.finish())
}

/// One hash per array, on the threads of `workers`: of its head, and of the hashes of its pieces of 2^18 elements, so
/// that a large array is the work of many threads. The number of threads is not in the hash, which is another one than
/// [`hash_array`]'s.
///
/// # Errors
/// `OutOfMemory`; `Device` when an array cannot be brought to the host.
pub fn hash_arrays(arrays: &[&Array], workers: &Workers) -> Result<Vec<u64>> {
    let pieces: Vec<(&Array, usize)> =
        arrays.iter().flat_map(|&x| (0..x.numel()).step_by(PIECE).map(move |start| (x, start))).collect();
    // What lives on a device comes to the host once, not from every thread.
    arrays.iter().try_for_each(|x| for_each_piece_of(x, 0..x.numel().min(1), false, |_| {}))?;
    let sums: Vec<OnceLock<Result<u64>>> = pieces.iter().map(|_| OnceLock::new()).collect();
    workers.run(pieces.len(), |i| {
        let (x, start) = pieces[i];
        let mut sum = Xxh3::new();
        let end = x.numel().min(start + PIECE);
        let hashed = for_each_piece_of(x, start..end, true, |bytes| sum.update(bytes)).map(|()| sum.digest());
        sums[i].set(hashed).expect("a task runs once");
    });
    let mut sums = sums.into_iter().map(|sum| sum.into_inner().expect("every task has run"));
    let hash = |x: &&Array| {
        let mut hasher = ContentHasher::new();
        hasher.head(x);
        for sum in sums.by_ref().take(x.numel().div_ceil(PIECE)) {
            hasher.0.update(&sum?.to_le_bytes());
        }
        Ok(hasher.finish())
    };
    arrays.iter().map(hash).collect()
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
        self.head(x);
        for_each_piece(x, true, |bytes| self.0.update(bytes))
    }

    /// The hash of what was taken in.
    pub fn finish(&self) -> u64 {
        self.0.digest()
    }

    fn head(&mut self, x: &Array) {
        self.text(x.dtype().name());
        self.number(x.rank());
        x.shape().iter().for_each(|&len| self.number(len));
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
    fn hashes_of_pieces_know_every_element_and_no_thread() {
        let values: Vec<f32> = (0..2 * PIECE + 77).map(|i| i as f32).collect();
        let x = Array::from_slice(&values, &[values.len()], &device()).unwrap();
        let small = x.slice(0, 3, 9).unwrap();
        let empty = x.slice(0, 0, 0).unwrap();
        let hashes = |x: &Array, threads: usize| {
            hash_arrays(&[&small, x, &empty], &Workers::new(threads, Default::default()).unwrap()).unwrap()
        };
        let expected = hashes(&x, 1);
        assert_eq!(hashes(&x, 3), expected);
        for at in [0, PIECE - 1, PIECE, 2 * PIECE, values.len() - 1] {
            let mut changed = x.copy().unwrap();
            changed.make_mut::<f32>().unwrap()[at] = f32::from_bits(0x7f80_0001);
            let found = hashes(&changed, 2);
            assert_ne!(found[1], expected[1], "element {at}");
            assert_eq!((found[0], found[2]), (expected[0], expected[2]));
            changed.make_mut::<f32>().unwrap()[at] = f32::from_bits(0xffc0_0003);
            assert_eq!(hashes(&changed, 2), found, "NaNs are one value");
        }
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
