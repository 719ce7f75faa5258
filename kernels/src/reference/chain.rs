//! The chunked chain, the order inside every contraction and every leaf.

use crate::math::Real;
use crate::order::CHUNK;

/// A sum of terms at increasing nominal positions, cut into chunks of [`CHUNK`] positions.
///
/// Each chunk is one chain that starts from +0 and takes its terms in order; chunk results are added in order, the
/// first being the start. Positions without a term (padding) are not part of the chain, and a chunk without any term
/// contributes nothing. A sum without any term is +0.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chain<T> {
    total: Option<T>,
    chunk: Option<(usize, T)>,
}

impl<T: Real> Chain<T> {
    /// The empty sum.
    pub fn new() -> Chain<T> {
        Chain { total: None, chunk: None }
    }

    /// Adds a b at `position` by a fused multiply-add.
    pub fn fma(&mut self, position: usize, a: T, b: T) {
        let chain = self.chunk_at(position);
        self.chunk = Some((position / CHUNK, Real::mul_add(a, b, chain)));
    }

    /// Adds `a` at `position`.
    pub fn add(&mut self, position: usize, a: T) {
        let chain = self.chunk_at(position);
        self.chunk = Some((position / CHUNK, chain + a));
    }

    /// The sum.
    pub fn finish(mut self) -> T {
        self.close_chunk();
        self.total.unwrap_or(T::ZERO)
    }

    /// The value of the chain that `position` continues or starts.
    fn chunk_at(&mut self, position: usize) -> T {
        match self.chunk {
            Some((index, chain)) if index == position / CHUNK => chain,
            _ => {
                self.close_chunk();
                T::ZERO
            }
        }
    }

    fn close_chunk(&mut self) {
        if let Some((_, chain)) = self.chunk.take() {
            self.total = Some(match self.total {
                None => chain,
                Some(total) => total + chain,
            });
        }
    }
}
