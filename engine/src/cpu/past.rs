//! Results that are written past the caches: what is larger than these would only push out what is read next, and every
//! line of it would first be fetched.
//!
//! Two cores of an AMD EPYC, results of 77 MB, medians of 25 in ms: adding two arrays 9.8, past the caches 6.6, through a
//! buffer of 128 elements 6.7, of 384 8.2, of 2048 8.8. In operations, medians of ratios of pairs, 67 to 134 MB: relu and
//! its gradient 1.3 to 1.5 times as fast, addition 1.4 to 1.5, batch norm 1.1 to 1.4 and its gradient 1.0 to 1.2, softmax's
//! gradient 1.2 to 1.4. Calls for so few elements cost more than that where a function is more than its memory: GELU 0.8,
//! layer norm 0.8, log softmax's gradient 0.8 times as fast; and in layer norm's gradient gained nothing. These are written
//! in place.
#![allow(unsafe_code)]

use crate::Element;

/// Bytes of a result from which on it is written past the caches.
const LARGE: usize = 24 << 20;

/// Elements that are computed before they are written.
const BLOCK: usize = 128;

/// How tasks write a result.
#[derive(Clone, Copy)]
pub(crate) enum Writing {
    /// In place.
    Cached,
    /// Through a buffer.
    Past,
}

impl Writing {
    /// The better of both for a result, all of which is written without being read.
    pub(crate) fn of<T>(result: &[T]) -> Writing {
        if size_of_val(result) >= LARGE { Writing::Past } else { Writing::Cached }
    }

    /// The better of both where parts must be whole rows of `row_len` elements.
    pub(crate) fn of_rows<T>(result: &[T], row_len: usize) -> Writing {
        if row_len > 0 && BLOCK.is_multiple_of(row_len) { Writing::of(result) } else { Writing::Cached }
    }

    /// Copies a part of a result.
    #[inline(always)]
    pub(crate) fn copy<T: Element>(self, from: &[T], to: &mut [T]) {
        match self {
            Writing::Cached => to.copy_from_slice(from),
            Writing::Past => copy(from, to),
        }
    }

    /// Writes `to` by calls of `fill(first, part)` for its parts in order.
    pub(crate) fn write<T: Element>(self, to: &mut [T], mut fill: impl FnMut(usize, &mut [T])) {
        match self {
            Writing::Cached => fill(0, to),
            Writing::Past => {
                let mut buffer = [T::default(); BLOCK];
                for (i, to) in to.chunks_mut(BLOCK).enumerate() {
                    let buffer = &mut buffer[..to.len()];
                    fill(i * BLOCK, buffer);
                    copy(buffer, to);
                }
            }
        }
    }
}

/// Copies a buffer past the caches where the machine can.
#[inline(always)]
fn copy<T: Element>(from: &[T], to: &mut [T]) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
        let bytes = size_of_val(to);
        if to.as_ptr().cast::<__m128i>().is_aligned() && bytes.is_multiple_of(size_of::<__m128i>()) {
            for i in 0..bytes / size_of::<__m128i>() {
                // SAFETY: both slices have as many bytes as the vectors up to this one; the result is aligned to them. Every
                // x86-64 machine has the instruction, and `fence` comes before anyone else reads.
                unsafe {
                    let vector = _mm_loadu_si128(from.as_ptr().cast::<__m128i>().add(i));
                    _mm_stream_si128(to.as_mut_ptr().cast::<__m128i>().add(i), vector);
                }
            }
            return;
        }
    }
    to.copy_from_slice(from);
}

/// Makes what this thread has written past the caches visible before anything it writes from here on.
pub(super) fn fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: every x86-64 machine has the instruction.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_write_the_same() {
        for (len, start) in [(0, 0), (1, 0), (BLOCK, 0), (3 * BLOCK, 4), (3 * BLOCK + 7, 0), (2 * BLOCK + 5, 1)] {
            let mut written = [Writing::Cached, Writing::Past].map(|writing| {
                let mut all = vec![-1f32; start + len + 1];
                writing.write(&mut all[start..start + len], |first, part| {
                    part.iter_mut().enumerate().for_each(|(i, x)| *x = (first + i) as f32);
                });
                fence();
                all
            });
            let [cached, past] = written.each_mut();
            assert_eq!(cached, past);
            assert_eq!(past.pop(), Some(-1.0));
            assert!(past[start..].iter().enumerate().all(|(i, x)| *x == i as f32));
        }
    }

    #[test]
    fn large_results_of_short_rows_go_past_the_caches() {
        let [small, large] = [LARGE / 4 - 1, LARGE / 4].map(|len| vec![0f32; len]);
        let of_rows = |result: &[f32], row_len| matches!(Writing::of_rows(result, row_len), Writing::Past);
        assert_eq!([of_rows(&small, 64), of_rows(&large, 64)], [false, true]);
        assert_eq!([of_rows(&large, 2 * BLOCK), of_rows(&large, 48), of_rows(&large, 0)], [false; 3]);
    }
}
