//! The gradient of the rows: G, and its product with the columns.
//!
//! Rows of up to 256 elements are done in one kernel. A thread block owns 64 rows. For each tile of 64 columns it
//! computes the dot products again, then G, which goes to shared memory, and multiplies G with the columns into
//! registers:
//!
//! ```text
//!            64 columns                        128 or 256 elements
//!         +-------------+                     +-------------------+
//! 64 rows | dots, then G| -> shared memory -> | sums of G k       |  warp w: rows 8 w .. 8 w + 7;
//!         +-------------+                     +-------------------+  lane l: elements 4 l .. 4 l + 3 (and 128 more)
//! ```
//!
//! **Order.** An element's sum is one chain of fused multiply-adds per 512 columns, from left to right. The chains are
//! added up in the result itself: a thread adds what it alone wrote.

#[cfg(not(target_arch = "nvptx64"))]
use super::cases::gradient::*;
#[cfg(not(target_arch = "nvptx64"))]
use super::dots::totals_bytes;
use super::dots::{Lines, SIDE, THREADS, Tiles, edge, thread_x, thread_y};
#[cfg(not(target_arch = "nvptx64"))]
use super::parts_of;
use super::term::{Fixed, Form, Online, RowRules, Rules, Softplus};
use super::{BLOCK, COLUMNS};
#[cfg(not(target_arch = "nvptx64"))]
use crate::device::tile::product_reread;
use crate::device::tile::unroll;
use crate::kernel;
use crate::math::Real;
use crate::simt::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) const KERNELS: &[&kernel::KernelSpec] = &[
    &pair_grad_fixed::SPEC,
    &pair_grad_softplus::SPEC,
    &pair_grad_online::SPEC,
    &pair_grad_fixed_wide::SPEC,
    &pair_grad_softplus_wide::SPEC,
    &pair_grad_online_wide::SPEC,
    &pair_grad_join::SPEC,
    &pair_weights_fixed::SPEC,
    &pair_weights_softplus::SPEC,
    &pair_weights_online::SPEC,
];

/// Rows of a thread in a tile of dot products.
const ROWS: usize = 4;

/// Columns of a thread in a tile of the gradient: few, because registers hold the gradient's sums as well.
const NARROW: usize = 4;

/// Columns of such a tile.
const TILE: u32 = edge::<NARROW>();

/// Elements from one row of G to the next in shared memory.
const G_PITCH: u32 = TILE + 4;

/// Elements of a tile of G.
const G_LEN: u32 = edge::<ROWS>() * G_PITCH;

/// Rows of a warp in the product with G.
const WARP_ROWS: usize = 8;

/// Columns of a step of the product: each warp brings one.
const STEP: u32 = THREADS / WARP;

/// Elements of a row that a warp multiplies at once, four to a lane.
const WIDTH: u32 = 4 * WARP;

/// Bytes of a tile of G and of two steps of columns of `wide` times [`WIDTH`] elements.
#[cfg(not(target_arch = "nvptx64"))]
const fn gradient_bytes(wide: u32) -> u64 {
    4 * (G_LEN + 2 * STEP * WIDTH * wide) as u64
}

/// The weights of rows or columns, and their values, which [`Form::ONLINE`] alone reads.
#[derive(Clone, Copy)]
pub(super) struct Side {
    pub(super) weight: In<f32>,
    pub(super) value: In<f32>,
}

impl Side {
    /// (weight, value).
    #[inline(always)]
    pub(super) fn get<F: Form>(&self, at: u32) -> (f32, f32) {
        (self.weight.get(at), if F::ONLINE { self.value.get(at) } else { 0.0 })
    }
}

/// What G is made of, for the rows of this thread.
struct Weights {
    q: Lines,
    k: Lines,
    first_row: u32,
    rules: Rules,
    of_rows: [RowRules; ROWS],
    rows: [(f32, f32); ROWS],
    columns: Side,
    scale: f32,
    bias: f32,
}

impl Weights {
    #[inline(always)]
    fn new<F: Form>(
        [q, k]: [Lines; 2],
        first_row: u32,
        rules: Rules,
        [rows, columns]: [Side; 2],
        [scale, bias]: [f32; 2],
    ) -> Weights {
        let mut weights = Weights {
            q,
            k,
            first_row,
            rules,
            of_rows: [RowRules::default(); ROWS],
            rows: [(0.0, 0.0); ROWS],
            columns,
            scale,
            bias,
        };
        unroll!(i in 0..ROWS => {
            let row = (first_row + thread_y() + SIDE * i as u32).min(q.count - 1);
            weights.of_rows[i] = rules.row(row);
            weights.rows[i] = rows.get::<F>(row);
        });
        weights
    }

    /// G of rows `first_row + y + 16 i` and columns `first + x + 16 j`, +0 where the pair is left out.
    #[inline(always)]
    fn tile<F: Form>(&mut self, first: u32, totals: Shared<f32>) -> [[f32; COLUMNS]; ROWS] {
        let tiles = Tiles::<ROWS, COLUMNS>::new();
        let keys = self.rules.keys::<COLUMNS>(first);
        let mut g = tiles.dots(self.q, self.k, [self.first_row, first], totals);
        let mut taken = [0; ROWS];
        unroll!(i in 0..ROWS => {
            taken[i] = self.rules.taken::<COLUMNS>(&mut self.of_rows[i], first, &keys);
        });
        unroll!(j in 0..COLUMNS => {
            let column = self.columns.get::<F>((first + thread_x() + SIDE * j as u32).min(self.k.count - 1));
            unroll!(i in 0..ROWS => {
                let weight = F::weight(Real::mul_add(g[i][j], self.scale, self.bias), self.rows[i], column);
                g[i][j] = if taken[i] >> j & 1 != 0 { weight } else { 0.0 };
            });
        });
        g
    }
}

impl Weights {
    /// G of this thread's pairs of a tile, in shared memory: as [`Weights::tile`], but column after column, so that few
    /// registers are needed beside the gradient's sums. Columns behind `end` have none.
    #[inline(always)]
    fn fill<F: Form>(&mut self, tiles: &Tiles<ROWS, NARROW>, [first, end]: [u32; 2], g: Shared<f32>) {
        // A row has at most 256 elements: its dot products are one chain.
        let dots = tiles.dots(self.q, self.k, [self.first_row, first], g);
        let keys = self.rules.keys::<NARROW>(first);
        let place = |i: usize, column: u32| (thread_y() + SIDE * i as u32) * G_PITCH + column - first;
        let mut taken = [0; ROWS];
        unroll!(i in 0..ROWS => {
            taken[i] = self.rules.taken::<NARROW>(&mut self.of_rows[i], first, &keys);
            unroll!(j in 0..NARROW => {
                g.set(place(i, first + thread_x() + SIDE * j as u32), dots[i][j]);
            });
        });
        for column in strided(first + thread_x(), end, SIDE) {
            let of_column = self.columns.get::<F>(column);
            unroll!(i in 0..ROWS => {
                let x = Real::mul_add(g.get(place(i, column)), self.scale, self.bias);
                let counts = taken[i] >> ((column - first) / SIDE) & 1 != 0;
                g.set(place(i, column), if counts { F::weight(x, self.rows[i], of_column) } else { 0.0 });
            });
        }
    }
}

/// The sums of a thread: WIDE times four elements of each of its warp's rows.
struct Product<const WIDE: usize> {
    sums: [[[f32; 4]; WIDE]; WARP_ROWS],
}

impl<const WIDE: usize> Product<WIDE> {
    /// Goes on with the chains over the columns from `first` to `end` of a tile whose G lies in `g`. `stage` has two
    /// steps of columns, which nothing reads any more. All threads of the block call it.
    #[inline(always)]
    fn add(&mut self, g: Shared<f32>, stage: Shared<f32>, k: Lines, [first, end]: [u32; 2]) {
        let pitch = WIDTH * WIDE as u32;
        let place = |buffer: u32, column: u32| (buffer * STEP + column) * pitch;
        // This thread's share of a step: of its warp's column every 32nd element, those behind the last repeat it.
        let load = |at: u32| {
            let line = (at + warp()).min(k.count - 1) * k.d;
            let mut elements = [[0.0; 4]; WIDE];
            unroll!(w in 0..WIDE => {
                unroll!(e in 0..4 => {
                    elements[w][e] = k.data.get(line + (lane() + WARP * (4 * w + e) as u32).min(k.d - 1));
                });
            });
            elements
        };
        let store = |buffer: u32, elements: [[f32; 4]; WIDE]| {
            unroll!(w in 0..WIDE => {
                unroll!(e in 0..4 => {
                    stage.set(place(buffer, warp()) + lane() + WARP * (4 * w + e) as u32, elements[w][e]);
                });
            });
        };
        let of_g = |row: usize, column: u32| (warp() * WARP_ROWS as u32 + row as u32) * G_PITCH + column - first;
        store(0, load(first));
        barrier();
        let mut buffer = 0;
        for at in strided(first, end, STEP) {
            let left = end - at;
            let more = left > STEP;
            let next = if more { load(at + STEP) } else { [[0.0; 4]; WIDE] };
            let columns = stage.offset(place(buffer, 0) + 4 * lane());
            let depth = if more { STEP } else { left };
            // As in `Tiles::dots`, ends that only the launch knows keep loads from being moved out of the loop.
            let fours = depth / 4 * 4;
            for p in strided(0, fours, 4) {
                let mut rows = [[0.0; 4]; WARP_ROWS];
                unroll!(i in 0..WARP_ROWS => {
                    rows[i] = g.get4(of_g(i, at + p));
                });
                unroll!(next in 0..4 => {
                    self.step(columns.offset((p + next as u32) * pitch), rows.map(|row| row[next]));
                });
            }
            for p in strided(fours, depth, 1) {
                let mut rows = [0.0; WARP_ROWS];
                unroll!(i in 0..WARP_ROWS => {
                    rows[i] = g.get(of_g(i, at + p));
                });
                self.step(columns.offset(p * pitch), rows);
            }
            buffer = 1 - buffer;
            if more {
                store(buffer, next);
            }
            barrier();
        }
    }

    /// `put(element of dq, sum)` for every sum of a row that exists: from shared memory, where a warp turns its rows so
    /// that lanes run along them. Nothing else reads `stage`.
    #[inline(always)]
    fn write(self, stage: Shared<f32>, rows: u32, [first_row, d]: [u32; 2], put: impl Fn(u32, f32)) {
        let turned = stage.offset(warp() * WIDTH * WIDE as u32);
        unroll!(i in 0..WARP_ROWS => {
            unroll!(w in 0..WIDE => {
                turned.set4(WIDTH * w as u32 + 4 * lane(), self.sums[i][w]);
            });
            sync_warp(ALL_LANES);
            let row = first_row + warp() * WARP_ROWS as u32 + i as u32;
            if within(row, rows) {
                for element in strided(lane(), d, WARP) {
                    put((block_idx().y * rows + row) * d + element, turned.get(element));
                }
            }
            sync_warp(ALL_LANES);
        });
    }

    /// One column: the element of each row's G, and this lane's elements from `column` on.
    #[inline(always)]
    fn step(&mut self, column: Shared<f32>, g: [f32; WARP_ROWS]) {
        unroll!(w in 0..WIDE => {
            let k = column.get4(WIDTH * w as u32);
            unroll!(i in 0..WARP_ROWS => {
                unroll!(e in 0..4 => {
                    self.sums[i][w][e] = Real::mul_add(g[i], k[e], self.sums[i][w][e]);
                });
            });
        });
    }
}

/// The gradient of this thread block's rows from its part of the columns. `factor` multiplies the sum at the end.
#[inline(always)]
fn gradient<F: Form, const WIDE: usize>(mut weights: Weights, dq: InOut<f32>, each: u32, factor: f32) {
    let (rows, k) = (weights.q.count, weights.k);
    let tiles = Tiles::<ROWS, NARROW>::new();
    let g = dynamic_shared::<f32>();
    let stage = g.offset(G_LEN);
    let start = block_idx().y * each * BLOCK;
    let end = k.count.min(start + each * BLOCK);
    for block in strided(start, end, BLOCK) {
        let block_end = end.min(block + BLOCK);
        let mut product = Product::<WIDE> { sums: [[[0.0; 4]; WIDE]; WARP_ROWS] };
        for first in strided(block, block_end, TILE) {
            let tile_end = block_end.min(first + TILE);
            weights.fill::<F>(&tiles, [first, tile_end], g);
            product.add(g, stage, k, [first, tile_end]);
        }
        product.write(stage, rows, [weights.first_row, k.d], |at, sum| {
            let total = if block > start { dq.get(at) + sum } else { sum };
            dq.set(at, if block_end == end { total * factor } else { total });
        });
    }
}

macro_rules! gradients {
    ($($(#[doc = $doc:literal])+ $name:ident $form:ident [$wide:literal] values $values:literal,
        special $special:literal, cases $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            q: In<f32>[m * d], k: In<f32>[n * d], own: In<u32>[m], row_key: In<u32>[m * (rules & 1)],
            column_key: In<u32>[n * (rules & 1)], keep: In<u32>[m * (rules & 1)],
            starts: In<u32>[(m + 1) * (rules >> 1 & 1)], list: In<u32>[listed],
            row_weight: In<f32>[m], row_value: In<f32>[m * $values],
            column_weight: In<f32>[n], column_value: In<f32>[n * $values], dq: InOut<f32>[parts_of(n, each) * m * d],
            m: u32, n: u32, d: u32, rules: u32, listed: u32, each: u32, scale: f32, bias: f32, factor: f32,
        )
        grid [m.div_ceil(u64::from(edge::<ROWS>())), parts_of(n, each)] block [THREADS]
        shared [gradient_bytes($wide)]
        cost {
            flop: 4 * m * n * d + 3 * m * n,
            special: $special * m * n,
            reread: product_reread(m * n, d, u64::from(edge::<ROWS>()), u64::from(TILE))
                + 4 * m.div_ceil(u64::from(edge::<ROWS>())) * n * d,
        }
        cases $cases
        {
            let rules = Rules { own, row_key, column_key, keep, starts, list, rules, columns: n };
            let (q, k) = (Lines { data: q, count: m, d }, Lines { data: k, count: n, d });
            let sides =
                [Side { weight: row_weight, value: row_value }, Side { weight: column_weight, value: column_value }];
            let first_row = block_idx().x * edge::<ROWS>();
            let weights = Weights::new::<$form>([q, k], first_row, rules, sides, [scale, bias]);
            gradient::<$form, $wide>(weights, dq, each, factor);
        }
    )+}};
}

gradients! {
    /// dq `[m, d]` = factor times the sum over columns of G k, d being 1 to 128, with
    /// G = exp(fma(dot, scale, bias)) (row weight + column weight). `each` blocks of 512 columns make a part: all there
    /// are, or 1, which `pair_grad_join` adds up; dq is `[parts, m, d]`, and what it held does not matter.
    pair_grad_fixed Fixed [1] values 0, special 1, cases fixed_cases;
    /// As `pair_grad_fixed` with G = sigmoid(fma(dot, scale, bias)) (row weight + column weight).
    pair_grad_softplus Softplus [1] values 0, special 2, cases softplus_cases;
    /// As `pair_grad_fixed` with x = fma(dot, scale, bias), the bias being -0, and
    /// G = row weight exp(x - row value) + column weight exp(x - column value).
    pair_grad_online Online [1] values 1, special 2, cases online_cases;
    /// As `pair_grad_fixed` for d up to 256.
    pair_grad_fixed_wide Fixed [2] values 0, special 1, cases fixed_wide_cases;
    /// As `pair_grad_softplus` for d up to 256.
    pair_grad_softplus_wide Softplus [2] values 0, special 2, cases softplus_wide_cases;
    /// As `pair_grad_online` for d up to 256.
    pair_grad_online_wide Online [2] values 1, special 2, cases online_wide_cases;
}

macro_rules! weights {
    ($($(#[doc = $doc:literal])+ $name:ident $form:ident values $values:literal, special $special:literal,
        cases $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            q: In<f32>[m * d], k: In<f32>[n * d], own: In<u32>[m], row_key: In<u32>[m * (rules & 1)],
            column_key: In<u32>[n * (rules & 1)], keep: In<u32>[m * (rules & 1)],
            starts: In<u32>[(m + 1) * (rules >> 1 & 1)], list: In<u32>[listed],
            row_weight: In<f32>[m], row_value: In<f32>[m * $values],
            column_weight: In<f32>[n], column_value: In<f32>[n * $values], g: Out<f32>[m * n],
            m: u32, n: u32, d: u32, rules: u32, listed: u32, scale: f32, bias: f32,
        )
        grid [m.div_ceil(u64::from(edge::<ROWS>())), n.div_ceil(u64::from(edge::<COLUMNS>()))] block [THREADS]
        shared [totals_bytes((ROWS * COLUMNS) as u64, d)]
        cost {
            flop: 2 * m * n * d + 3 * m * n,
            special: $special * m * n,
            reread: product_reread(m * n, d, u64::from(edge::<ROWS>()), u64::from(edge::<COLUMNS>())),
        }
        cases $cases
        {
            let rules = Rules { own, row_key, column_key, keep, starts, list, rules, columns: n };
            let (q, k) = (Lines { data: q, count: m, d }, Lines { data: k, count: n, d });
            let sides =
                [Side { weight: row_weight, value: row_value }, Side { weight: column_weight, value: column_value }];
            let [first_row, first] = [block_idx().x * edge::<ROWS>(), block_idx().y * edge::<COLUMNS>()];
            let mut weights = Weights::new::<$form>([q, k], first_row, rules, sides, [scale, bias]);
            let tile = weights.tile::<$form>(first, dynamic_shared());
            unroll!(i in 0..ROWS => {
                let row = first_row + thread_y() + SIDE * i as u32;
                let here = if within(row, m) { n } else { 0 };
                unroll!(j in 0..COLUMNS => {
                    let column = first + thread_x() + SIDE * j as u32;
                    if within(column, here) {
                        g.set(row * n + column, tile[i][j]);
                    }
                });
            });
        }
    )+}};
}

weights! {
    /// G `[m, n]` of `pair_grad_fixed`, for any d; `m` rows of a larger problem where G is large. The product G k and
    /// then the factor make the gradient, with the same bits.
    pair_weights_fixed Fixed values 0, special 1, cases fixed_weight_cases;
    /// G of `pair_grad_softplus`.
    pair_weights_softplus Softplus values 0, special 2, cases softplus_weight_cases;
    /// G of `pair_grad_online`.
    pair_weights_online Online values 1, special 2, cases online_weight_cases;
}

kernel! {
    /// Adds the `parts` of a gradient of `len` elements in order and multiplies by `factor`.
    pair_grad_join(dq: In<f32>[parts * len], sum: Out<f32>[len], len: u32, parts: u32, factor: f32)
    grid [len.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: parts * len }
    cases join_cases
    {
        let i = block_idx().x * THREADS + thread_idx().x;
        if within(i, len) {
            let mut total = 0.0;
            for part in strided(0, parts, 1) {
                let next = dq.get(part * len + i);
                total = if part == 0 { next } else { total + next };
            }
            sum.set(i, total * factor);
        }
    }
}
