//! Sums of a symmetric problem, rows being columns: each dot product serves both.
//!
//! A thread block has 512 rows and 512 columns of the upper triangle, so that it finishes a block of sums for each of
//! its rows, over its columns, and for each of its columns, over its rows. It walks tiles of 64 rows x 128 columns,
//! left to right, then down: the sums of rows stay in registers, those of columns wait in shared memory, where a thread
//! finds what it wrote itself. A thread is one lane of either side: dot_ij has the bits of dot_ji, columns are taken
//! from left to right and rows from top to bottom, so that these are the sums of `pair_rows_fixed`.

#[cfg(not(target_arch = "nvptx64"))]
use super::cases::symmetric_cases;
#[cfg(not(target_arch = "nvptx64"))]
use super::dots::totals_bytes;
use super::dots::{Lines, SIDE, THREADS, Tiles, edge, thread_x, thread_y};
use super::rows::{Parts, Sums, Top};
use super::term::{Fixed, Form, RowRules, Rules};
use super::{BLOCK, COLUMNS, LANE};
#[cfg(not(target_arch = "nvptx64"))]
use crate::device::tile::product_reread;
use crate::device::tile::unroll;
use crate::kernel;
use crate::math::Real;
use crate::simt::*;

/// Rows of a thread in a tile.
const ROWS: usize = 4;

/// Pairs of blocks of the upper triangle.
#[cfg(not(target_arch = "nvptx64"))]
fn triangle(n: u64) -> u64 {
    let blocks = n.div_ceil(u64::from(BLOCK));
    blocks * (blocks + 1) / 2
}

/// The sums of a block's columns by lane: planes of one word per thread and column.
#[derive(Clone, Copy)]
struct ColumnSums(Shared<f32>);

impl ColumnSums {
    /// Words of a plane.
    const PLANE: u32 = LANE as u32 * THREADS;

    /// Those of `thread` for its column `place`.
    #[inline(always)]
    fn get(self, place: u32, thread: u32) -> Sums {
        let at = place * THREADS + thread;
        let top = Top { dot: self.0.get(2 * Self::PLANE + at), column: self.0.cast::<u32>().get(3 * Self::PLANE + at) };
        Sums { lead: 0.0, sum: self.0.get(at), weighted_dot: self.0.get(Self::PLANE + at), top }
    }

    /// Keeps this thread's.
    #[inline(always)]
    fn set(self, place: u32, sums: Sums) {
        let at = place * THREADS + thread_idx().x;
        self.0.set(at, sums.sum);
        self.0.set(Self::PLANE + at, sums.weighted_dot);
        self.0.set(2 * Self::PLANE + at, sums.top.dot);
        self.0.cast::<u32>().set(3 * Self::PLANE + at, sums.top.column);
    }

    /// The sums over the lanes of column `place`, `x` of each, folded in canonical order.
    #[inline(always)]
    fn fold(self, place: u32, x: u32) -> Sums {
        let mut lanes = [Sums::new::<Fixed>(); 8];
        unroll!(l in 0..8 => {
            let lane = |l: u32| self.get(place, l * SIDE + x);
            lanes[l] = lane(l as u32).join(lane(l as u32 + 8), false);
        });
        unroll!(l in 0..4 => {
            lanes[l] = lanes[l].join(lanes[l + 4], false);
        });
        lanes[0].join(lanes[2], false).join(lanes[1].join(lanes[3], false), false)
    }
}

kernel! {
    /// `pair_rows_fixed` of q `[n, d]` with itself, one block of 512 columns to a part: `sums` is `[4, parts, n]`,
    /// `tops` `[parts, n]`. Half the work, where the grid of 512 x 512 pairs fills the device. It takes 158 KiB of
    /// shared memory, and 32 more where d is above 512. Lists of pairs are not for it: `rules` is 0 or [`KEYS`](super::KEYS).
    pair_rows_symmetric(
        q: In<f32>[n * d], own: In<u32>[n], key: In<u32>[n * (rules & 1)], keep: In<u32>[n * (rules & 1)],
        sums: Out<f32>[4 * n.div_ceil(BLOCK as u64) * n], tops: Out<u32>[n.div_ceil(BLOCK as u64) * n],
        n: u32, d: u32, rules: u32, scale: f32, bias: f32,
    )
    grid [triangle(n)] block [THREADS]
    shared [4 * 4 * u64::from(ColumnSums::PLANE) + totals_bytes((ROWS * COLUMNS) as u64, d)]
    cost {
        flop: n * n * d + 8 * n * n,
        special: n * n / 2,
        reread: product_reread(n * n / 2, d, u64::from(edge::<ROWS>()), u64::from(edge::<COLUMNS>())),
    }
    cases symmetric_cases
    {
        let blocks = n.div_ceil(BLOCK);
        let (mut above, mut right) = (0, block_idx().x);
        while right >= blocks - above {
            right -= blocks - above;
            above += 1;
        }
        let (rows_start, columns_start) = (above * BLOCK, (above + right) * BLOCK);
        let (rows_end, columns_end) = (n.min(rows_start + BLOCK), n.min(columns_start + BLOCK));
        let both = right > 0;

        let lines = Lines { data: q, count: n, d };
        // Lists have no place here; what stands for them is not read.
        let rules = Rules { own, row_key: key, column_key: key, keep, starts: own, list: own, rules, columns: n };
        let parts = Parts { sums, tops, count: blocks, rows: n };
        let tiles = Tiles::<ROWS, COLUMNS>::new();
        let memory = dynamic_shared::<f32>();
        let (of_columns, totals) = (ColumnSums(memory), memory.offset(4 * ColumnSums::PLANE));
        for first_row in strided(rows_start, rows_end, edge::<ROWS>()) {
            let row_at = |i: usize| first_row + thread_y() + SIDE * i as u32;
            let mut row_rules = [RowRules::default(); ROWS];
            unroll!(i in 0..ROWS => {
                row_rules[i] = rules.row(row_at(i).min(n - 1));
            });
            let mut row_sums = [Sums::new::<Fixed>(); ROWS];
            for first in strided(columns_start, columns_end, edge::<COLUMNS>()) {
                let dots = tiles.dots(lines, lines, [first_row, first], totals);
                unroll!(j in 0..COLUMNS => {
                    let column = first + thread_x() + SIDE * j as u32;
                    let place = (first - columns_start) / SIDE + j as u32;
                    let column_rules = rules.row(column.min(n - 1));
                    let mut sums = Sums::new::<Fixed>();
                    if both && first_row > rows_start {
                        sums = of_columns.get(place, thread_idx().x);
                    }
                    unroll!(i in 0..ROWS => {
                        let (row, dot) = (row_at(i), dots[i][j]);
                        let e = Fixed::e(Real::mul_add(dot, scale, bias), 0.0);
                        if within(column, n) {
                            row_sums[i].take(dot, e, 0.0, column, rules.allows(&row_rules[i], column, column_rules.key()));
                        }
                        if within(row, n) {
                            sums.take(dot, e, 0.0, row, rules.allows(&column_rules, row, row_rules[i].key()));
                        }
                    });
                    if both {
                        of_columns.set(place, sums);
                    }
                });
            }
            let mut kept = Sums::new::<Fixed>();
            unroll!(i in 0..ROWS => {
                let folded = row_sums[i].fold::<Fixed>();
                if thread_x() == i as u32 {
                    kept = folded;
                }
            });
            let row = first_row + thread_y() + SIDE * thread_x();
            if thread_x() < ROWS as u32 && within(row, n) {
                parts.set(above + right, row, kept);
            }
        }
        if both {
            barrier();
            for column in strided(columns_start + thread_idx().x, columns_end, THREADS) {
                let place = (column - columns_start) / SIDE;
                parts.set(above, column, of_columns.fold(place, column % SIDE));
            }
        }
    }
}
