//! Gathering and scattering by index, in fixed order.
//!
//! An array is seen as `[outer, n, inner]`, the axis that indices count along in the middle. Indices are i64 and must
//! lie in 0..n: [`check_index`] tells. Sums that meet in one element are added by increasing position along the axis
//! of the source: a thread owns an element of the result and looks through all indices of its line, so that neither
//! atomics nor a sort are needed; the indices of neighbouring threads are mostly the same and come from the cache.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::{Case, change, exactly};
#[cfg(not(target_arch = "nvptx64"))]
use crate::device::run::joined;
use crate::device::run::{EACH, RUN, THREADS, divide, each};
use crate::kernel;
use crate::simt::*;

/// Reading at positions, for each type of element.
macro_rules! reading_kernels {
    ($($(#[doc = $doc:literal])+ $gather:ident $select:ident: $type:ident;)+) => {
        kernel! {$(
            /// `y[o, j, i] = x[o, index[o, j, i], i]`, with j in 0..k.
            $(#[doc = $doc])+
            $gather(
                x: In<$type>[outer * n * inner], index: In<i64>[outer * k * inner], y: Out<$type>[outer * k * inner],
                outer: u32, n: u32, inner: u32, k: u32,
            )
            grid [(outer * k * inner).div_ceil(RUN)] block [THREADS]
            cost {}
            cases $gather
            {
                each::<EACH, _>(
                    outer * k * inner,
                    |at| {
                        let (row, i) = divide(at, inner);
                        let (o, _) = divide(row, k);
                        x.get((o * n + index.get(at) as u32) * inner + i)
                    },
                    |at, x| y.set(at, x),
                );
            }

            /// `y[o, j, i] = x[o, index[j], i]`, with j in 0..k.
            $(#[doc = $doc])+
            $select(
                x: In<$type>[outer * n * inner], index: In<i64>[k], y: Out<$type>[outer * k * inner],
                outer: u32, n: u32, inner: u32, k: u32,
            )
            grid [(outer * k * inner).div_ceil(RUN)] block [THREADS]
            cost { reread: 8 * (outer * inner).saturating_sub(1) * k }
            cases $select
            {
                each::<EACH, _>(
                    outer * k * inner,
                    |at| {
                        let (row, i) = divide(at, inner);
                        let (o, j) = divide(row, k);
                        x.get((o * n + index.get(j) as u32) * inner + i)
                    },
                    |at, x| y.set(at, x),
                );
            }
        )+}

        $(
            #[cfg(not(target_arch = "nvptx64"))]
            fn $gather() -> Vec<Case> {
                cases::shapes(|s| {
                    let (x, index) = (s.array::<$type>(s.n, 1), s.index(s.outer * s.k * s.inner));
                    let y = s.places(|o, j, i| {
                        let at = (o * s.k + j) * s.inner + i;
                        x[(o * s.n + index[at] as usize) * s.inner + i]
                    });
                    let [outer, n, inner, k] = s.extents();
                    $gather::TestCase { x, index, y: exactly(y), outer, n, inner, k }.named(s.name())
                })
            }

            #[cfg(not(target_arch = "nvptx64"))]
            fn $select() -> Vec<Case> {
                cases::shapes(|s| {
                    let (x, index) = (s.array::<$type>(s.n, 2), s.index(s.k));
                    let y = s.places(|o, j, i| x[(o * s.n + index[j] as usize) * s.inner + i]);
                    let [outer, n, inner, k] = s.extents();
                    $select::TestCase { x, index, y: exactly(y), outer, n, inner, k }.named(s.name())
                })
            }
        )+

        #[cfg(not(target_arch = "nvptx64"))]
        const READING: &[&kernel::KernelSpec] = &[$(&$gather::SPEC, &$select::SPEC),+];
    };
}
reading_kernels! {
    /// Elements of f32.
    gather index_select: f32;
    /// Elements of f64.
    gather_f64 index_select_f64: f64;
    /// 16-bit elements of any kind.
    gather_u16 index_select_u16: u16;
    /// Elements of i32.
    gather_i32 index_select_i32: i32;
    /// Elements of i64.
    gather_i64 index_select_i64: i64;
    /// Elements of u8, truth values among them.
    gather_u8 index_select_u8: u8;
}

kernel! {
    /// `base[o, index[o, j, i], i] += src[o, j, i]` for j = 0, 1, ... k - 1 in this order: the adjoint of [`gather`].
    scatter_add(
        base: InOut<f32>[outer * n * inner], index: In<i64>[outer * k * inner], src: In<f32>[outer * k * inner],
        outer: u32, n: u32, inner: u32, k: u32,
    )
    grid [(outer * n * inner).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: outer * k * inner, reread: 8 * outer * n.saturating_sub(1) * k * inner }
    cases scatter_add_cases
    {
        let at = block_idx().x * THREADS + thread_idx().x;
        if within(at, outer * n * inner) {
            let (row, i) = divide(at, inner);
            let (o, own) = divide(row, n);
            let mut sum = base.get(at);
            for j in strided(0, k, 1) {
                let from = (o * k + j) * inner + i;
                if index.get(from) as u32 == own {
                    sum += src.get(from);
                }
            }
            base.set(at, sum);
        }
    }

    /// `base[o, index[j], i] += src[o, j, i]` for j = 0, 1, ... k - 1 in this order: the adjoint of [`index_select`].
    index_add(
        base: InOut<f32>[outer * n * inner], index: In<i64>[k], src: In<f32>[outer * k * inner],
        outer: u32, n: u32, inner: u32, k: u32,
    )
    grid [(outer * n * inner).div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: outer * k * inner, reread: 8 * (outer * n * inner).saturating_sub(1) * k }
    cases index_add_cases
    {
        let at = block_idx().x * THREADS + thread_idx().x;
        if within(at, outer * n * inner) {
            let (row, i) = divide(at, inner);
            let (o, own) = divide(row, n);
            let mut sum = base.get(at);
            for j in strided(0, k, 1) {
                if index.get(j) as u32 == own {
                    sum += src.get((o * k + j) * inner + i);
                }
            }
            base.set(at, sum);
        }
    }

    /// `y[row, class]` = 1 where class = `index[row]`, else 0.
    one_hot(index: In<i64>[rows], y: Out<f32>[rows * classes], rows: u32, classes: u32)
    grid [(rows * classes).div_ceil(RUN)] block [THREADS]
    cost { reread: 8 * rows * classes.saturating_sub(1) }
    cases one_hot_cases
    {
        each::<EACH, _>(
            rows * classes,
            |at| {
                let (row, class) = divide(at, classes);
                index.get(row) as u32 == class
            },
            |at, hot| y.set(at, if hot { 1.0 } else { 0.0 }),
        );
    }

    /// The identity matrix `[n, n]`.
    eye(y: Out<f32>[n * n], n: u32)
    grid [(n * n).div_ceil(THREADS as u64)] block [THREADS]
    cost {}
    cases eye_cases
    {
        each::<1, _>(
            n * n,
            |at| {
                let (row, col) = divide(at, n);
                row == col
            },
            |at, diagonal| y.set(at, if diagonal { 1.0 } else { 0.0 }),
        );
    }

    /// y = 0, 1, ... n - 1.
    arange(y: Out<i64>[n], n: u32)
    grid [n.div_ceil(RUN)] block [THREADS]
    cost {}
    cases arange_cases
    {
        each::<EACH, _>(n, i64::from, |i, value| y.set(i, value));
    }

    /// Looks for indices outside 0..length: the flag, 0 at first, becomes u32::MAX - i for the first such element i,
    /// and stays 0 when there is none.
    check_index(index: In<i64>[n], flag: InOut<u32>[1], length: u32, n: u32)
    grid [n.div_ceil(THREADS as u64)] block [THREADS]
    cost {}
    cases check_index_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, n) {
            let index = index.get(i);
            if index < 0 || index >= i64::from(length) {
                flag.atomic_max(0, u32::MAX - i);
            }
        }
    }
}

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &joined::<{ READING.len() + 6 }>(&[
    READING,
    &[&scatter_add::SPEC, &index_add::SPEC, &one_hot::SPEC, &eye::SPEC, &arange::SPEC, &check_index::SPEC],
]);

#[cfg(not(target_arch = "nvptx64"))]
use cases::{arange_cases, check_index_cases, eye_cases, index_add_cases, one_hot_cases, scatter_add_cases};

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;
    use crate::case::noise;
    use crate::device::run::cases::SIZES;

    /// Extents of an operation along an axis of `n` elements with `k` indices.
    #[derive(Clone, Copy)]
    pub(super) struct Shape {
        pub outer: usize,
        pub n: usize,
        pub inner: usize,
        pub k: usize,
    }

    impl Shape {
        pub(super) fn extents(self) -> [u32; 4] {
            [self.outer, self.n, self.inner, self.k].map(|n| n as u32)
        }

        pub(super) fn name(self) -> String {
            format!("{} indices into the middle of {} x {} x {}", self.k, self.outer, self.n, self.inner)
        }

        /// An array `[outer, length, inner]` of small numbers.
        pub(super) fn array<T: Element>(self, length: usize, seed: u64) -> Vec<T> {
            (0..(self.outer * length * self.inner) as u64).map(|i| T::from_bits(i * 37 % 101 + seed)).collect()
        }

        /// Indices of which many meet.
        pub(super) fn index(self, count: usize) -> Vec<i64> {
            (0..count).map(|i| (i * 7919 % 1009 % self.n) as i64).collect()
        }

        /// `value(o, j, i)` for all of `[outer, k, inner]`.
        pub(super) fn places<T>(self, value: impl Fn(usize, usize, usize) -> T) -> Vec<T> {
            let mut all = Vec::new();
            for o in 0..self.outer {
                for j in 0..self.k {
                    all.extend((0..self.inner).map(|i| value(o, j, i)));
                }
            }
            all
        }
    }

    pub(super) fn shapes(case: impl Fn(Shape) -> Case) -> Vec<Case> {
        [(1, 1, 1, 1), (31, 5, 1, 33), (1, 7, 50, 24), (3, 4, 13, 9)]
            .map(|(outer, n, inner, k)| case(Shape { outer, n, inner, k }))
            .into()
    }

    pub(super) fn scatter_add_cases() -> Vec<Case> {
        shapes(|s| {
            let (base, src) = (noise(s.outer * s.n * s.inner, 1), noise(s.outer * s.k * s.inner, 2));
            let (index, mut after) = (s.index(src.len()), base.clone());
            for (at, (&to, src)) in index.iter().zip(&src).enumerate() {
                let (o, i) = (at / (s.k * s.inner), at % s.inner);
                after[(o * s.n + to as usize) * s.inner + i] += src;
            }
            let [outer, n, inner, k] = s.extents();
            scatter_add::TestCase { base: change(base, exactly(after)), index, src, outer, n, inner, k }.named(s.name())
        })
    }

    pub(super) fn index_add_cases() -> Vec<Case> {
        shapes(|s| {
            let (base, src) = (noise(s.outer * s.n * s.inner, 3), noise(s.outer * s.k * s.inner, 4));
            let (index, mut after) = (s.index(s.k), base.clone());
            for (at, src) in src.iter().enumerate() {
                let (o, j, i) = (at / (s.k * s.inner), at / s.inner % s.k, at % s.inner);
                after[(o * s.n + index[j] as usize) * s.inner + i] += src;
            }
            let [outer, n, inner, k] = s.extents();
            index_add::TestCase { base: change(base, exactly(after)), index, src, outer, n, inner, k }.named(s.name())
        })
    }

    pub(super) fn one_hot_cases() -> Vec<Case> {
        [(1, 1), (33, 31), (41, 30)]
            .map(|(rows, classes)| {
                let index: Vec<i64> = (0..rows).map(|row| (row * 7 % classes) as i64).collect();
                let mut y = vec![0.0; rows * classes];
                for (row, &class) in index.iter().enumerate() {
                    y[row * classes + class as usize] = 1.0;
                }
                one_hot::TestCase { index, y: exactly(y), rows: rows as u32, classes: classes as u32 }
                    .named(format!("{rows} of {classes} classes"))
            })
            .into()
    }

    pub(super) fn eye_cases() -> Vec<Case> {
        [1, 16, 33]
            .map(|n| {
                let mut y = vec![0.0; n * n];
                (0..n).for_each(|i| y[i * n + i] = 1.0);
                eye::TestCase { y: exactly(y), n: n as u32 }.named(format!("{n} x {n}"))
            })
            .into()
    }

    pub(super) fn arange_cases() -> Vec<Case> {
        SIZES
            .map(|n| {
                arange::TestCase { y: exactly((0..n as i64).collect()), n: n as u32 }.named(format!("{n} elements"))
            })
            .into()
    }

    pub(super) fn check_index_cases() -> Vec<Case> {
        let case = |n: usize, bad: &[(usize, i64)]| {
            let mut index: Vec<i64> = (0..n).map(|i| (i % 10) as i64).collect();
            bad.iter().for_each(|&(at, value)| index[at] = value);
            let flag = bad.iter().map(|&(at, _)| u32::MAX - at as u32).max().unwrap_or(0);
            check_index::TestCase { index, flag: change(vec![0], exactly(vec![flag])), length: 10, n: n as u32 }
                .named(format!("{n} elements, bad ones {bad:?}"))
        };
        vec![
            case(1, &[]),
            case(600, &[]),
            case(1, &[(0, 10)]),
            case(600, &[(599, -1)]),
            case(600, &[(400, 1 << 32), (17, i64::MIN), (300, 11)]),
        ]
    }
}
