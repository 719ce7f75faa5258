//! Random numbers keyed by what they are for, never by who draws them: Philox 4x32-10 (Salmon, Moraes, Dror, Shaw,
//! *Parallel random numbers: as easy as 1, 2, 3*, SC 2011).
//!
//! **Bit layout.** All numbers come from one function, `block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4]`.
//! A [`Stream`] is named by (seed, purpose, view, step, sample). With words written low half first:
//!
//! 1. stream key = words 0 and 1 of `block([step low, step high, purpose, view], [seed low, seed high])`;
//! 2. word `w` of the stream = word `w % 4` of `block([w/4 low, w/4 high, sample low, sample high], stream key)`.
//!
//! `step` is the step, the epoch, or 0, as the purpose wants; `sample` an index into the data set, a
//! [`key_of_path`], or 0.
//!
//! | draw | words |
//! |---|---|
//! | [`Stream::next_u32`] | the next word |
//! | [`Stream::next_u64`] | the next word as low half, the one after as high half |
//! | [`Stream::uniform_f32`] | one word: its upper 24 bits times 2^-24 |
//! | [`Stream::uniform_f64`] | one `next_u64`: its upper 53 bits times 2^-53 |
//! | [`Stream::range`] | one or more `next_u64` (multiply, reject the uneven rest) |
//! | [`Stream::normal`] | two words (Box and Muller; the sine partner is dropped) |
//! | [`fill_uniform`] | element at position p: word p |
//! | [`fill_normal`] | elements at positions 2i and 2i + 1: words 2i and 2i + 1 |

use crate::math::{Real, cos_moderate, sin_moderate};

/// What random numbers are for. The discriminant is part of the bits: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Purpose {
    /// Parameter initialisation; `sample` is the [`key_of_path`] of the parameter.
    Init = 1,
    /// The order of samples in an epoch.
    Shuffle = 2,
    /// Augmentation of one view of one sample.
    Augment = 3,
    /// The procedural data set.
    Scenes = 4,
    /// Dropout and stochastic depth.
    Dropout = 5,
    /// Noise added to inputs, features or targets.
    Noise = 6,
    /// Masks of masked-image methods.
    Mask = 7,
    /// Clustering: initial centres, empty clusters.
    Cluster = 8,
    /// Random projections and directions, embeddings for display.
    Project = 9,
    /// Evaluation protocols: splits, few-shot subsets.
    Evaluate = 10,
    /// Batch-norm groups that are shuffled across samples.
    Group = 11,
    /// Tests, checks and benchmarks.
    Check = 12,
}

/// Where streams start: a seed and a purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The seed of the run or data set.
    pub seed: u64,
    /// What the numbers are for.
    pub purpose: Purpose,
}

impl Key {
    /// The key of that seed and purpose.
    pub const fn new(seed: u64, purpose: Purpose) -> Key {
        Key { seed, purpose }
    }

    /// The stream of one view of one sample in one step or epoch, at its first word.
    #[inline]
    pub fn stream(self, step: u64, sample: u64, view: u16) -> Stream {
        let [step_low, step_high] = halves(step);
        let [key_low, key_high, ..] =
            block([step_low, step_high, self.purpose as u32, u32::from(view)], halves(self.seed));
        Stream { key: [key_low, key_high], sample: halves(sample), position: 0, words: [0; 4] }
    }
}

/// A random-access sequence of words. Copies continue independently from the same place.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u32; 2],
    sample: [u32; 2],
    /// The next word to hand out.
    position: u64,
    /// The block that `position` lies in, unless `position` is a multiple of 4.
    words: [u32; 4],
}

impl Stream {
    /// What a word depends on besides its position: the stream's key (two words) and the sample (two words, low half
    /// first). Kernels that draw from the stream take these.
    #[inline]
    pub fn key_words(&self) -> [u32; 4] {
        [self.key[0], self.key[1], self.sample[0], self.sample[1]]
    }

    /// The number of words drawn so far.
    #[inline]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Moves to word `position`.
    #[inline]
    pub fn seek(&mut self, position: u64) {
        self.position = position;
        self.words = self.block_at(position / 4);
    }

    /// The next word: 32 random bits.
    #[inline]
    pub fn next_u32(&mut self) -> u32 {
        let within = (self.position % 4) as usize;
        if within == 0 {
            self.words = self.block_at(self.position / 4);
        }
        self.position = self.position.wrapping_add(1);
        self.words[within]
    }

    /// The next two words, the first as the low half.
    #[inline]
    pub fn next_u64(&mut self) -> u64 {
        let low = u64::from(self.next_u32());
        low | (u64::from(self.next_u32()) << 32)
    }

    /// Uniform on [0, 1), a multiple of 2^-24.
    #[inline]
    pub fn uniform_f32(&mut self) -> f32 {
        uniform_of_word(self.next_u32())
    }

    /// Uniform on [0, 1), a multiple of 2^-53.
    #[inline]
    pub fn uniform_f64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / 9007199254740992.0)
    }

    /// Uniform on `0..n` without bias; 0 for n = 0.
    ///
    /// The high word of the 128-bit product of `n` and a 64-bit draw, drawn again while the low word is below
    /// 2^64 mod n (Lemire, *Fast random integer generation in an interval*, 2019).
    #[inline]
    pub fn range(&mut self, n: u64) -> u64 {
        let uneven = if n == 0 { 0 } else { n.wrapping_neg() % n };
        loop {
            let product = u128::from(self.next_u64()) * u128::from(n);
            if product as u64 >= uneven {
                return (product >> 64) as u64;
            }
        }
    }

    /// Standard normal: the cosine branch of Box and Muller on the next two words.
    #[inline]
    pub fn normal(&mut self) -> f32 {
        let radius_word = self.next_u32();
        normal_pair(radius_word, self.next_u32()).0
    }

    /// True with probability `p` (to 24 bits): whether the next uniform number is below `p`.
    #[inline]
    pub fn bernoulli(&mut self, p: f32) -> bool {
        self.uniform_f32() < p
    }

    /// Fisher and Yates, from the end: element `i` changes places with element `range(i + 1)`.
    #[inline]
    pub fn shuffle<V>(&mut self, values: &mut [V]) {
        for i in (1..values.len()).rev() {
            values.swap(i, self.range(i as u64 + 1) as usize);
        }
    }

    #[inline(always)]
    fn block_at(&self, index: u64) -> [u32; 4] {
        block_of(self.key_words(), index)
    }
}

crate::stamp! {
    /// Fills `y` with uniform numbers on [0, 1), multiples of 2^-24 in every format: element `i` is the word at
    /// position `first_position + i` of the stream, wherever the stream stands.
    pub fn fill_uniform<T: Real>(stream: &Stream, first_position: u64, y: &mut [T]) {
        for_each_batch(stream, first_position, y, #[inline(always)] |words| {
            words.map(|word| T::from_f32(uniform_of_word(word)))
        });
    }

    /// Fills `y` with standard normal numbers, computed in f32 for every format: positions `2 i` and `2 i + 1` hold
    /// the cosine and sine branch of Box and Muller on the words there.
    pub fn fill_normal<T: Real>(stream: &Stream, first_position: u64, y: &mut [T]) {
        for_each_batch(stream, first_position, y, #[inline(always)] |words| {
            // One plain loop per step, so that each vectorises.
            let mut pairs = [(0.0, 0.0); BATCH / 2];
            for (i, pair) in pairs.iter_mut().enumerate() {
                *pair = normal_pair(words[2 * i], words[2 * i + 1]);
            }
            let mut out = [T::ZERO; BATCH];
            for (i, (cosine, sine)) in pairs.into_iter().enumerate() {
                out[2 * i] = T::from_f32(cosine);
                out[2 * i + 1] = T::from_f32(sine);
            }
            out
        });
    }
}

#[cfg(not(target_arch = "nvptx64"))]
/// Words drawn together in bulk: 16 blocks, a full vector of each of the four words.
const BATCH: usize = 64;

#[cfg(not(target_arch = "nvptx64"))]
/// Hands `transform` the words of each aligned batch that `y` touches and copies the elements that `y` holds.
#[inline(always)]
fn for_each_batch<T: Real>(
    stream: &Stream,
    first_position: u64,
    y: &mut [T],
    transform: impl Fn([u32; BATCH]) -> [T; BATCH],
) {
    let mut done = 0;
    while done < y.len() {
        let position = first_position.wrapping_add(done as u64);
        let skip = (position % BATCH as u64) as usize;
        let first_block = (position - skip as u64) / 4;
        let mut words = [0; BATCH];
        for lane in 0..BATCH / 4 {
            words[4 * lane..4 * lane + 4].copy_from_slice(&stream.block_at(first_block + lane as u64));
        }
        let values = transform(words);
        let take = (BATCH - skip).min(y.len() - done);
        y[done..done + take].copy_from_slice(&values[skip..skip + take]);
        done += take;
    }
}

/// One block of Philox 4x32-10.
#[inline(always)]
pub fn block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let product_0 = MULTIPLIERS[0] * u64::from(c0);
        let product_1 = MULTIPLIERS[1] * u64::from(c2);
        (c0, c1, c2, c3) = (
            (product_1 >> 32) as u32 ^ c1 ^ k0,
            product_1 as u32,
            (product_0 >> 32) as u32 ^ c3 ^ k1,
            product_0 as u32,
        );
        k0 = k0.wrapping_add(WEYL[0]);
        k1 = k1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// A 64-bit key for a parameter's path: FNV-1a over its UTF-8 bytes (offset basis 14695981039346656037, prime
/// 1099511628211).
#[inline]
pub const fn key_of_path(path: &str) -> u64 {
    let bytes = path.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut i = 0;
    while i < bytes.len() {
        hash = (hash ^ bytes[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        i += 1;
    }
    hash
}

/// Words `4 index..4 index + 4` of the stream with these [`Stream::key_words`].
#[inline(always)]
pub(crate) fn block_of(key_words: [u32; 4], index: u64) -> [u32; 4] {
    let ([index_low, index_high], [key_low, key_high, sample_low, sample_high]) = (halves(index), key_words);
    block([index_low, index_high, sample_low, sample_high], [key_low, key_high])
}

/// Uniform on [0, 1), a multiple of 2^-24.
#[inline(always)]
pub(crate) fn uniform_of_word(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16777216.0)
}

/// Box and Muller: r = sqrt(-2 log u) with u = (upper 24 bits + 1) 2^-24 in (0, 1] from the first word, angle
/// 2 pi times the uniform number of the second; (r cos, r sin).
#[inline(always)]
pub(crate) fn normal_pair(radius_word: u32, angle_word: u32) -> (f32, f32) {
    let u = ((radius_word >> 8) + 1) as f32 * (1.0 / 16777216.0);
    let radius = Real::sqrt(-2.0 * <f32 as Real>::log(u));
    let angle = core::f32::consts::TAU * uniform_of_word(angle_word);
    (radius * cos_moderate(angle), radius * sin_moderate(angle))
}

#[inline(always)]
fn halves(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use proptest::prelude::*;

    /// The known answers published with Random123 (`kat_vectors`, philox4x32 10).
    #[test]
    fn block_gives_the_published_answers() {
        assert_eq!(block([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(block([u32::MAX; 4], [u32::MAX; 2]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
        assert_eq!(
            block([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn stream_words_follow_the_documented_layout() {
        let (seed, step, sample, view) = (0x0123_4567_89ab_cdef, 0x1_0000_0002, 0x3_0000_0004, 5);
        let [k0, k1, ..] = block([2, 1, Purpose::Augment as u32, 5], [0x89ab_cdef, 0x0123_4567]);
        let mut stream = Key::new(seed, Purpose::Augment).stream(step, sample, view);
        for index in 0..3 {
            for word in block([index, 0, 4, 3], [k0, k1]) {
                assert_eq!(stream.next_u32(), word);
            }
        }
    }

    /// The published FNV-1a vectors for "", "a" and "foobar".
    #[test]
    fn key_of_path_is_fnv_1a() {
        assert_eq!(key_of_path(""), 0xcbf29ce484222325);
        assert_eq!(key_of_path("a"), 0xaf63dc4c8601ec8c);
        assert_eq!(key_of_path("foobar"), 0x85944171f73967e8);
    }

    #[test]
    fn shuffle_is_a_permutation_with_every_place_reached() {
        let mut seen = [[false; 8]; 8];
        for sample in 0..400 {
            let mut order: Vec<usize> = (0..8).collect();
            Key::new(7, Purpose::Check).stream(0, sample, 0).shuffle(&mut order);
            for (place, &value) in order.iter().enumerate() {
                seen[place][value] = true;
            }
            order.sort_unstable();
            assert_eq!(order, (0..8).collect::<Vec<_>>());
        }
        assert!(seen.iter().flatten().all(|&s| s));
    }

    #[test]
    fn moments_of_a_million_draws() {
        let stream = Key::new(1, Purpose::Check).stream(0, 0, 0);
        let mut y = vec![0f32; 1 << 20];
        let moment = |y: &[f32], k: i32| y.iter().map(|&v| f64::from(v).powi(k)).sum::<f64>() / y.len() as f64;
        // Five standard errors of each estimate.
        fill_uniform(Isa::detect(), &stream, 0, &mut y);
        assert!((moment(&y, 1) - 0.5).abs() < 5.0 * (1.0 / 12.0 / y.len() as f64).sqrt());
        assert!((moment(&y, 2) - 1.0 / 3.0).abs() < 5.0 * (4.0 / 45.0 / y.len() as f64).sqrt());
        fill_normal(Isa::detect(), &stream, 0, &mut y);
        assert!(moment(&y, 1).abs() < 5.0 * (1.0 / y.len() as f64).sqrt());
        assert!((moment(&y, 2) - 1.0).abs() < 5.0 * (2.0 / y.len() as f64).sqrt());
        assert!((moment(&y, 4) - 3.0).abs() < 5.0 * (96.0 / y.len() as f64).sqrt());
    }

    proptest! {
        #[test]
        fn bulk_elements_depend_on_their_position_alone(
            seed: u64, first in 0u64..1000, len in 0usize..300, cut in 0usize..300,
        ) {
            let stream = Key::new(seed, Purpose::Init).stream(0, key_of_path("layer.weight"), 0);
            let cut = cut.min(len);
            let fill = |isa, first, y: &mut [f32], normal: bool| {
                if normal { fill_normal(isa, &stream, first, y) } else { fill_uniform(isa, &stream, first, y) }
            };
            for normal in [false, true] {
                let mut whole = vec![0f32; len];
                fill(Isa::PORTABLE, first, &mut whole, normal);
                for isa in Isa::available() {
                    let mut parts = vec![0f32; len];
                    let (head, tail) = parts.split_at_mut(cut);
                    fill(isa, first, head, normal);
                    fill(isa, first + cut as u64, tail, normal);
                    prop_assert_eq!(&parts, &whole);
                }
            }
        }

        #[test]
        fn bulk_uniform_is_the_sequence_of_single_draws(seed: u64, first in 0u64..1000) {
            let mut stream = Key::new(seed, Purpose::Noise).stream(3, 4, 1);
            let mut bulk = [0f64; 70];
            fill_uniform(Isa::detect(), &stream, first, &mut bulk);
            stream.seek(first);
            for value in bulk {
                prop_assert_eq!(value, f64::from(stream.uniform_f32()));
            }
        }

        #[test]
        fn range_stays_below_its_bound(seed: u64, n in 1u64..) {
            let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
            for _ in 0..20 {
                prop_assert!(stream.range(n) < n);
            }
        }
    }
}
