//! Vectors of floating-point lanes: the few operations that the micro-kernels need, per instruction set.
#![allow(unsafe_code)]

use super::micro::Kernels;
use selfsame_kernels::isa::Isa;

/// A floating-point type that can be contracted.
pub(crate) trait Real: super::Plain + Send + Sync + PartialEq + std::fmt::Debug + 'static {
    /// Positive zero, where every chain of multiply-adds starts.
    const ZERO: Self;

    /// The micro-kernels of this type for an instruction-set level.
    fn kernels(isa: Isa) -> &'static Kernels<Self>;
}

/// A vector of `WIDTH` lanes.
///
/// # Safety
/// The methods may only run on a machine that has the instruction set of the implementing type, and pointers must be
/// valid for the elements that are touched (`WIDTH` of them; one for `splat`). No alignment is needed.
pub(super) trait Lanes: Copy {
    type Elem: Real;
    const WIDTH: usize;
    unsafe fn zero() -> Self;
    unsafe fn splat(from: *const Self::Elem) -> Self;
    unsafe fn load(from: *const Self::Elem) -> Self;
    unsafe fn store(self, to: *mut Self::Elem);
    /// `self * b + c`, rounded once.
    unsafe fn fma(self, b: Self, c: Self) -> Self;
    unsafe fn add(self, b: Self) -> Self;
    /// The lanes of both, one of each after another: the lower half of them, the upper half.
    unsafe fn interleave(self, b: Self) -> (Self, Self);
    /// Asks for the cache line at `at`; the address need not be valid.
    unsafe fn prefetch(at: *const Self::Elem);
    /// The same, but no nearer than the second-level cache.
    unsafe fn prefetch_far(at: *const Self::Elem);
}

/// Lanes in plain Rust. AArch64 compiles them to NEON, which is part of its baseline.
#[derive(Clone, Copy)]
pub(super) struct Plain<T, const N: usize>([T; N]);

macro_rules! plain_lanes {
    ($elem:ty, $n:literal) => {
        impl Lanes for Plain<$elem, $n> {
            type Elem = $elem;
            const WIDTH: usize = $n;
            #[inline(always)]
            unsafe fn zero() -> Self {
                Plain([0.0; $n])
            }
            #[inline(always)]
            unsafe fn splat(from: *const $elem) -> Self {
                // SAFETY: the caller's pointer is valid for one element.
                Plain([unsafe { *from }; $n])
            }
            #[inline(always)]
            unsafe fn load(from: *const $elem) -> Self {
                // SAFETY: the caller's pointer is valid for WIDTH elements.
                Plain(unsafe { from.cast::<[$elem; $n]>().read_unaligned() })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut $elem) {
                // SAFETY: the caller's pointer is valid for WIDTH elements.
                unsafe { to.cast::<[$elem; $n]>().write_unaligned(self.0) }
            }
            #[inline(always)]
            unsafe fn fma(self, b: Self, c: Self) -> Self {
                Plain(std::array::from_fn(|i| self.0[i].mul_add(b.0[i], c.0[i])))
            }
            #[inline(always)]
            unsafe fn add(self, b: Self) -> Self {
                Plain(std::array::from_fn(|i| self.0[i] + b.0[i]))
            }
            #[inline(always)]
            unsafe fn interleave(self, b: Self) -> (Self, Self) {
                let half = |first: usize| {
                    Plain(std::array::from_fn(|i| if i % 2 == 0 { self.0[first + i / 2] } else { b.0[first + i / 2] }))
                };
                (half(0), half($n / 2))
            }
            #[inline(always)]
            unsafe fn prefetch(_: *const $elem) {}
            #[inline(always)]
            unsafe fn prefetch_far(_: *const $elem) {}
        }
    };
}
plain_lanes!(f32, 8);
plain_lanes!(f64, 4);

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Lanes;
    use std::arch::x86_64::*;

    macro_rules! x86_lanes {
        ($vector:ty, $elem:ty, $width:literal, $zero:ident, $splat:ident, $load:ident, $store:ident, $fma:ident,
         $add:ident, $interleave:ident) => {
            impl Lanes for $vector {
                type Elem = $elem;
                const WIDTH: usize = $width;
                #[inline(always)]
                unsafe fn zero() -> Self {
                    // SAFETY: the caller runs on a machine with this instruction set.
                    unsafe { $zero() }
                }
                #[inline(always)]
                unsafe fn splat(from: *const $elem) -> Self {
                    // SAFETY: the caller's machine has the instructions; the pointer is valid for one element.
                    unsafe { $splat(*from) }
                }
                #[inline(always)]
                unsafe fn load(from: *const $elem) -> Self {
                    // SAFETY: the caller's machine has the instructions; the pointer is valid for WIDTH elements.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut $elem) {
                    // SAFETY: the caller's machine has the instructions; the pointer is valid for WIDTH elements.
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn fma(self, b: Self, c: Self) -> Self {
                    // SAFETY: the caller runs on a machine with this instruction set.
                    unsafe { $fma(self, b, c) }
                }
                #[inline(always)]
                unsafe fn add(self, b: Self) -> Self {
                    // SAFETY: the caller runs on a machine with this instruction set.
                    unsafe { $add(self, b) }
                }
                #[inline(always)]
                unsafe fn interleave(self, b: Self) -> (Self, Self) {
                    // SAFETY: the caller runs on a machine with this instruction set.
                    unsafe { $interleave(self, b) }
                }
                #[inline(always)]
                unsafe fn prefetch_far(at: *const $elem) {
                    // SAFETY: a prefetch does not fault, whatever the address.
                    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
                }
                #[inline(always)]
                unsafe fn prefetch(at: *const $elem) {
                    // SAFETY: a prefetch does not fault, whatever the address.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
                }
            }
        };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn interleave_ps16(a: __m512, b: __m512) -> (__m512, __m512) {
        let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        (_mm512_permutex2var_ps(a, low, b), _mm512_permutex2var_ps(a, high, b))
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn interleave_pd8(a: __m512d, b: __m512d) -> (__m512d, __m512d) {
        let (low, high) = (_mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15));
        (_mm512_permutex2var_pd(a, low, b), _mm512_permutex2var_pd(a, high, b))
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn interleave_ps8(a: __m256, b: __m256) -> (__m256, __m256) {
        let (even, odd) = (_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b));
        (_mm256_permute2f128_ps::<0x20>(even, odd), _mm256_permute2f128_ps::<0x31>(even, odd))
    }

    #[inline]
    #[target_feature(enable = "avx")]
    fn interleave_pd4(a: __m256d, b: __m256d) -> (__m256d, __m256d) {
        let (even, odd) = (_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b));
        (_mm256_permute2f128_pd::<0x20>(even, odd), _mm256_permute2f128_pd::<0x31>(even, odd))
    }

    x86_lanes!(
        __m512,
        f32,
        16,
        _mm512_setzero_ps,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        interleave_ps16
    );
    x86_lanes!(
        __m512d,
        f64,
        8,
        _mm512_setzero_pd,
        _mm512_set1_pd,
        _mm512_loadu_pd,
        _mm512_storeu_pd,
        _mm512_fmadd_pd,
        _mm512_add_pd,
        interleave_pd8
    );
    x86_lanes!(
        __m256,
        f32,
        8,
        _mm256_setzero_ps,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        interleave_ps8
    );
    x86_lanes!(
        __m256d,
        f64,
        4,
        _mm256_setzero_pd,
        _mm256_set1_pd,
        _mm256_loadu_pd,
        _mm256_storeu_pd,
        _mm256_fmadd_pd,
        _mm256_add_pd,
        interleave_pd4
    );
}
