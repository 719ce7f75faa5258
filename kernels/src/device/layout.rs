//! Moving elements: strided copies, transposition, padding, joining.
//!
//! Elements are moved as bits, so there is a kernel per size of element, not per type.
//!
//! Any view is made contiguous by a strided copy: permuted, broadcast (stride 0), sliced (offset) or flipped (negative
//! stride). A strided write is its inverse; several of them join arrays, and one after a fill pads.

#[cfg(not(target_arch = "nvptx64"))]
use crate::case::{Case, change, exactly};
#[cfg(not(target_arch = "nvptx64"))]
use crate::device::run::joined;
use crate::device::run::{EACH, RUN, THREADS, divide, each};
use crate::simt::*;
use crate::{kernel, shared};

/// Six axes of a view: lengths, strides, and where the first element is.
#[derive(Clone, Copy)]
struct View {
    offset: u32,
    lengths: [u32; 6],
    strides: [i32; 6],
}

impl View {
    /// The position of element `i`, counted in row-major order.
    ///
    /// Computed modulo 2^32: partial sums may be negative, the result is a position. Divisions take most of the time,
    /// and most views have no more than three axes, which by convention are the last.
    #[inline(always)]
    fn position(self, i: u32) -> u32 {
        let step = |axis: usize, at: u32| at.wrapping_mul(self.strides[axis] as u32);
        let (i, at5) = divide(i, self.lengths[5]);
        let (i, at4) = divide(i, self.lengths[4]);
        let inner = self.offset.wrapping_add(step(5, at5)).wrapping_add(step(4, at4));
        if self.lengths[0] * self.lengths[1] * self.lengths[2] == 1 {
            return inner.wrapping_add(step(3, i));
        }
        let (i, at3) = divide(i, self.lengths[3]);
        let (i, at2) = divide(i, self.lengths[2]);
        let (at0, at1) = divide(i, self.lengths[1]);
        let outer = step(0, at0).wrapping_add(step(1, at1)).wrapping_add(step(2, at2));
        inner.wrapping_add(step(3, at3)).wrapping_add(outer)
    }
}

/// A kernel per size of element: `copy`, `write` and `fill` for `$type`, whose value a launch passes as `$value`.
macro_rules! moving_kernels {
    ($($copy:ident $write:ident $fill:ident: $type:ident, $value:ident;)+) => {
        kernel! {$(
            /// y, contiguous of shape [d0, ..., d5], holds the elements of x that lie at
            /// offset + i0 s0 + ... + i5 s5. Missing axes have length 1; the first three are the slow
            /// ones to have.
            $copy(
                x: In<$type>[x_len], y: Out<$type>[d0 * d1 * d2 * d3 * d4 * d5], x_len: u32, offset: u32,
                d0: u32, d1: u32, d2: u32, d3: u32, d4: u32, d5: u32,
                s0: i32, s1: i32, s2: i32, s3: i32, s4: i32, s5: i32,
            )
            grid [(d0 * d1 * d2 * d3 * d4 * d5).div_ceil(RUN)] block [THREADS]
            cost {}
            cases $copy
            {
                let view = View { offset, lengths: [d0, d1, d2, d3, d4, d5], strides: [s0, s1, s2, s3, s4, s5] };
                each::<EACH, _>(
                    d0 * d1 * d2 * d3 * d4 * d5,
                    |i| x.get(view.position(i)),
                    |i, x| y.set(i, x),
                );
            }

            /// The elements of y at offset + i0 s0 + ... + i5 s5 become those of x, contiguous of shape [d0, ..., d5];
            /// the others stay. Missing axes have length 1; no two positions are the same.
            $write(
                x: In<$type>[d0 * d1 * d2 * d3 * d4 * d5], y: InOut<$type>[y_len], y_len: u32, offset: u32,
                d0: u32, d1: u32, d2: u32, d3: u32, d4: u32, d5: u32,
                s0: i32, s1: i32, s2: i32, s3: i32, s4: i32, s5: i32,
            )
            grid [(d0 * d1 * d2 * d3 * d4 * d5).div_ceil(RUN)] block [THREADS]
            cost {}
            cases $write
            {
                let view = View { offset, lengths: [d0, d1, d2, d3, d4, d5], strides: [s0, s1, s2, s3, s4, s5] };
                each::<EACH, _>(
                    d0 * d1 * d2 * d3 * d4 * d5,
                    |i| x.get(i),
                    |i, x| y.set(view.position(i), x),
                );
            }

            /// y = value in every element; of a value with more bits than an element, the low ones.
            $fill(y: Out<$type>[n], value: $value, n: u32)
            grid [n.div_ceil(RUN)] block [THREADS]
            cost {}
            cases $fill
            {
                each::<EACH, _>(n, |_| value as $type, |i, value| y.set(i, value));
            }
        )+}

        $(
            #[cfg(not(target_arch = "nvptx64"))]
            fn $copy() -> Vec<Case> {
                cases::views::<$type>(true, |v| {
                    let y = exactly(v.positions().into_iter().map(|at| v.memory[at]).collect());
                    let ([d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]) = (v.lengths, v.strides);
                    let (name, x_len, x, offset) = (v.name(), v.memory.len() as u32, v.memory, v.offset);
                    $copy::TestCase { x, y, x_len, offset, d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5 }.named(name)
                })
            }

            #[cfg(not(target_arch = "nvptx64"))]
            fn $write() -> Vec<Case> {
                cases::views::<$type>(false, |v| {
                    let positions = v.positions();
                    let x: Vec<$type> = (0..positions.len()).map(|i| (i * 5 + 1) as $type).collect();
                    let mut after = v.memory.clone();
                    for (&at, &x) in positions.iter().zip(&x) {
                        after[at] = x;
                    }
                    let ([d0, d1, d2, d3, d4, d5], [s0, s1, s2, s3, s4, s5]) = (v.lengths, v.strides);
                    let (name, y_len, offset) = (v.name(), v.memory.len() as u32, v.offset);
                    let y = change(v.memory, exactly(after));
                    $write::TestCase { x, y, y_len, offset, d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5 }.named(name)
                })
            }

            #[cfg(not(target_arch = "nvptx64"))]
            fn $fill() -> Vec<Case> {
                crate::device::run::cases::SIZES
                    .map(|n| {
                        let value = 0xfedc_ba98_7654_3210_u64 as $value;
                        let y = exactly(vec![0xfedc_ba98_7654_3210_u64 as $type; n]);
                        $fill::TestCase { y, value, n: n as u32 }.named(format!("{n} elements"))
                    })
                    .into()
            }
        )+

        #[cfg(not(target_arch = "nvptx64"))]
        const MOVING: &[&kernel::KernelSpec] = &[$(&$copy::SPEC, &$write::SPEC, &$fill::SPEC),+];
    };
}
moving_kernels! {
    strided_copy_1 strided_write_1 fill_1: u8, u32;
    strided_copy_2 strided_write_2 fill_2: u16, u32;
    strided_copy_4 strided_write_4 fill_4: u32, u32;
    strided_copy_8 strided_write_8 fill_8: u64, u64;
}

/// Side of a tile of [`transpose_4`].
const TILE: u32 = 32;
/// Rows of a tile that a block moves at a time.
const STEP: u32 = 8;

kernel! {
    /// y = x with its last two axes exchanged: `[batch, rows, cols]` becomes `[batch, cols, rows]`; 4-byte elements.
    ///
    /// A block moves one tile of 32 x 32 through shared memory, so that both its reads and its writes run along rows.
    /// The tile's rows are one element longer, so that a column's elements lie in different banks.
    transpose_4(
        x: In<u32>[batch * rows * cols], y: Out<u32>[batch * rows * cols], batch: u32, rows: u32, cols: u32,
    )
    grid [batch * rows.div_ceil(TILE as u64) * cols.div_ceil(TILE as u64)] block [TILE, STEP]
    cost {}
    cases transpose_cases
    {
        let tile = shared!(u32; TILE * (TILE + 1));
        let (strip, tile_col) = divide(block_idx().x, cols.div_ceil(TILE));
        let (image, tile_row) = divide(strip, rows.div_ceil(TILE));
        let (row, col) = (tile_row * TILE, tile_col * TILE);
        let first = image * (rows * cols);
        let (across, down) = (thread_idx().x, thread_idx().y);
        let at = |k: u32| first + (row + down + k * STEP) * cols + col + across;
        let place = |k: u32| (down + k * STEP) * (TILE + 1) + across;
        if within(row + (TILE - 1), rows) && within(col + (TILE - 1), cols) {
            let values = [x.get(at(0)), x.get(at(1)), x.get(at(2)), x.get(at(3))];
            for (k, value) in (0..).zip(values) {
                tile.set(place(k), value);
            }
        } else {
            for k in 0..TILE / STEP {
                if within(row + down + k * STEP, rows) && within(col + across, cols) {
                    tile.set(place(k), x.get(at(k)));
                }
            }
        }
        barrier();
        for k in 0..TILE / STEP {
            let below = down + k * STEP;
            if within(col + below, cols) && within(row + across, rows) {
                y.set(first + (col + below) * rows + row + across, tile.get(across * (TILE + 1) + below));
            }
        }
    }
}

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &joined::<{ MOVING.len() + 1 }>(&[MOVING, &[&transpose_4::SPEC]]);

#[cfg(not(target_arch = "nvptx64"))]
use cases::transpose_cases;

#[cfg(not(target_arch = "nvptx64"))]
mod cases {
    use super::*;

    /// A view of memory.
    pub(super) struct Strided<T> {
        pub memory: Vec<T>,
        pub lengths: [u32; 6],
        pub offset: u32,
        pub strides: [i32; 6],
        kind: &'static str,
    }

    impl<T> Strided<T> {
        pub(super) fn name(&self) -> String {
            format!("{}: {:?} at {} by {:?}", self.kind, self.lengths, self.offset, self.strides)
        }

        /// The position of each element in row-major order.
        pub(super) fn positions(&self) -> Vec<usize> {
            let mut positions = vec![i64::from(self.offset)];
            for (length, stride) in self.lengths.into_iter().zip(self.strides) {
                let steps = |from: i64| (0..length).map(move |i| from + i64::from(i) * i64::from(stride));
                positions = positions.into_iter().flat_map(steps).collect();
            }
            positions.into_iter().map(|at| at as usize).collect()
        }
    }
    /// Views whose positions all differ, and, if `repeating`, some whose positions do not.
    pub(super) fn views<T: Element>(repeating: bool, case: impl Fn(Strided<T>) -> Case) -> Vec<Case> {
        let injective = [
            ("one element", [1; 6], 3, [0; 6]),
            ("permuted", [1, 1, 3, 11, 31, 1], 0, [0, 0, 11, 1, 33, 0]),
            ("every axis", [2, 3, 2, 3, 2, 3], 0, [1, 2, 6, 12, 36, 72]),
            ("sliced by steps", [1, 1, 1, 5, 7, 3], 17, [0, 0, 0, 60, 6, 2]),
            ("flipped", [1, 1, 1, 4, 50, 7], 1399, [0, 0, 0, -350, -7, -1]),
            ("one axis flipped", [1, 1, 5, 4, 1, 3], 9, [0, 0, 12, -3, 0, 1]),
        ];
        let repeated = [
            ("a row repeated", [1, 1, 1, 90, 1, 13], 0, [0, 0, 0, 0, 0, 1]),
            ("a column repeated", [1, 4, 1, 5, 6, 2], 2, [0, 1, 0, 0, 4, 0]),
        ];
        let chosen = injective.into_iter().chain(repeated.into_iter().filter(|_| repeating));
        chosen
            .map(|(kind, lengths, offset, strides)| {
                let view = Strided { memory: Vec::<T>::new(), lengths, offset, strides, kind };
                let len = view.positions().into_iter().max().map_or(0, |last| last + 1);
                let memory =
                    (0..len as u64).map(|i| T::from_bits(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 3)).collect();
                case(Strided { memory, ..view })
            })
            .collect()
    }

    pub(super) fn transpose_cases() -> Vec<Case> {
        [(1, 1, 1), (2, 33, 40), (3, 31, 5), (1, 31, 64), (1, 64, 31), (1, 7, 65)]
            .map(|(batch, rows, cols)| {
                let n = (batch * rows * cols) as u32;
                let x: Vec<u32> = (0..n).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
                let mut y = Vec::new();
                for image in x.chunks(rows * cols) {
                    y.extend((0..cols).flat_map(|col| (0..rows).map(move |row| image[row * cols + col])));
                }
                let [batch, rows, cols] = [batch, rows, cols].map(|n| n as u32);
                transpose_4::TestCase { x, y: exactly(y), batch, rows, cols }
                    .named(format!("{batch} x {rows} x {cols}"))
            })
            .into()
    }
}
