//! Sums and gradients of pairs on tensor cores: q and k in bf16, everything else in f32. The fast mode, outside the
//! canonical order; the same device and run have the same bits.
//!
//! A warp has 16 rows, whose fragments stay in registers, and walks tiles of 64 columns, which all eight warps share
//! and the next of which is on its way meanwhile. As in FlashAttention, the dot products stay where `mma` leaves them:
//! a lane has columns 2 t, 2 t + 1 of every eight for rows g and g + 8 (t = lane mod 4, g = lane / 4), takes its own
//! sums over them, and G, rounded to bf16, is the next product's left operand as it lies.
//!
//! ```text
//!   k, a tile: 64 columns x d             G (16 x 64)  x  k (64 x d): a word of the tile is two neighbouring elements
//!   word w of a line: elements 2 w,       of a column. Words of two neighbouring columns hold what two products need,
//!   2 w + 1                               of even and of odd elements; a lane's sums are then four in a row.
//! ```
//!
//! **Order and error.** A lane's columns from left to right, then four lanes: with the fixed shift additions, online
//! joins of tiles. Products are those of [`crate::host::mma`] on the host. Rounding G costs at most 2^-9 of each of its
//! elements.

use super::BLOCK;
#[cfg(not(target_arch = "nvptx64"))]
use super::cases::tensor::*;
use super::dots::THREADS;
use super::gradient::Side;
#[cfg(not(target_arch = "nvptx64"))]
use super::parts_of;
use super::rows::{Parts, Sums, shift_of};
use super::term::{Fixed, Form, KEYS, LIST, Online, RowRules, Rules};
#[cfg(not(target_arch = "nvptx64"))]
use crate::device::tile::product_reread;
use crate::device::tile::unroll;
use crate::half_precision::bf16_bits_of_f32;
use crate::kernel;
use crate::math::Real;
use crate::simt::*;

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) const KERNELS: &[&kernel::KernelSpec] = &[
    &pair_rows_bf16_fixed::SPEC,
    &pair_rows_bf16_online::SPEC,
    &pair_grad_bf16_fixed::SPEC,
    &pair_grad_bf16_online::SPEC,
];

/// Rows of a block: 16 to a warp.
const ROWS: u32 = THREADS / 2;

/// Columns of a tile.
const TILE: u32 = 64;

/// Eights of columns of a tile.
const EIGHTS: usize = TILE as usize / 8;

/// Steps of 16 elements: a vector has up to 128.
const STEPS: usize = 8;

/// Words from one column of a tile to the next: eight columns x four words hit 32 banks.
const PITCH: u32 = 8 * STEPS as u32 + 4;

/// Bytes of two tiles.
#[cfg(not(target_arch = "nvptx64"))]
const TILE_BYTES: u64 = 4 * (2 * TILE * PITCH) as u64;

/// Vectors of bf16 `[count, d]`, on 8 bytes.
#[derive(Clone, Copy)]
struct Lines {
    data: In<u16>,
    count: u32,
    d: u32,
}

impl Lines {
    /// Elements `at .. at + 4` of a line, at being a multiple of 4; 0 where there is none.
    #[inline(always)]
    fn four(&self, line: u32, at: u32) -> [u32; 4] {
        let here = if within(line, self.count) { self.d } else { 0 };
        let start = line.min(self.count - 1) * self.d + at;
        if self.d.is_multiple_of(4) {
            if within(at, here) { self.data.get4(start).map(u32::from) } else { [0; 4] }
        } else {
            [0, 1, 2, 3].map(|i| if within(at + i, here) { u32::from(self.data.get(start + i)) } else { 0 })
        }
    }
}

/// Two numbers as a word.
#[inline(always)]
fn word(low: u32, high: u32) -> u32 {
    low | high << 16
}

/// The left operand of this warp's 16 rows.
#[inline(always)]
fn row_fragments(q: Lines, first_row: u32) -> [[u32; 4]; STEPS] {
    let mut fragments = [[0; 4]; STEPS];
    unroll!(s in 0..STEPS => {
        unroll!(part in 0..4 => {
            let row = first_row + lane() / 4 + part as u32 % 2 * 8;
            let at = 16 * s as u32 + part as u32 / 2 * 8 + lane() % 4 * 2;
            // Two of four: lanes 2 i and 2 i + 1 read the same.
            let four = q.four(row, at / 4 * 4);
            fragments[s][part] = if at.is_multiple_of(4) { word(four[0], four[1]) } else { word(four[2], four[3]) };
        });
    });
    fragments
}

/// The tiles of columns of a block.
#[derive(Clone, Copy)]
struct Tiles {
    words: Shared<u32>,
    k: Lines,
}

impl Tiles {
    /// Column and first element of the i-th unit of four that this thread brings.
    #[inline(always)]
    fn place(i: usize) -> (u32, u32) {
        let unit = i as u32 * THREADS + thread_idx().x;
        (unit / (4 * STEPS as u32), unit % (4 * STEPS as u32) * 4)
    }

    #[inline(always)]
    fn load(&self, first: u32) -> [[u32; 2]; STEPS] {
        let mut words = [[0; 2]; STEPS];
        unroll!(i in 0..STEPS => {
            let (column, at) = Self::place(i);
            let [a, b, c, d] = self.k.four(first + column, at);
            words[i] = [word(a, b), word(c, d)];
        });
        words
    }

    #[inline(always)]
    fn store(&self, buffer: u32, words: [[u32; 2]; STEPS]) {
        unroll!(i in 0..STEPS => {
            let (column, at) = Self::place(i);
            let start = (buffer * TILE + column) * PITCH + at / 2;
            self.words.set(start, words[i][0]);
            self.words.set(start + 1, words[i][1]);
        });
    }

    /// Brings the first tile. All threads of the block call it, and then [`Tiles::ahead`] and [`Tiles::turn`] for every
    /// tile.
    #[inline(always)]
    fn begin(&self, first: u32) {
        self.store(0, self.load(first));
        barrier();
    }

    /// The tile behind the one at `first`, on its way, if there is one before `end`.
    #[inline(always)]
    fn ahead(&self, first: u32, end: u32) -> [[u32; 2]; STEPS] {
        if end - first > TILE { self.load(first + TILE) } else { [[0; 2]; STEPS] }
    }

    /// The tile at `first`, counted from `start`.
    #[inline(always)]
    fn at(&self, first: u32, start: u32) -> Shared<u32> {
        self.words.offset((first - start) / TILE % 2 * TILE * PITCH)
    }

    /// Ends the tile at `first`: puts the next one beside it.
    #[inline(always)]
    fn turn(&self, first: u32, [start, end]: [u32; 2], next: [[u32; 2]; STEPS]) {
        if end - first > TILE {
            self.store(((first - start) / TILE + 1) % 2, next);
        }
        barrier();
    }
}

/// The dot products of a warp's rows with the columns of a tile, as `mma` gives them.
#[inline(always)]
fn dots(rows: &[[u32; 4]; STEPS], tile: Shared<u32>) -> [[f32; 4]; EIGHTS] {
    let mut sums = [[0.0; 4]; EIGHTS];
    unroll!(s in 0..STEPS => {
        unroll!(eight in 0..EIGHTS => {
            let at = (8 * eight as u32 + lane() / 4) * PITCH + 8 * s as u32 + lane() % 4;
            sums[eight] = mma_bf16(rows[s], [tile.get(at), tile.get(at + 4)], sums[eight]);
        });
    });
    sums
}

/// The column of this lane's element `i` (of two) of an eight of columns.
#[inline(always)]
fn column_of(first: u32, eight: usize, i: usize) -> u32 {
    first + 8 * eight as u32 + lane() % 4 * 2 + i as u32
}

/// Bit 2 eight + i: the column exists and counts for the row. Tiles are asked for from left to right.
#[inline(always)]
fn taken(rules: &Rules, row: &mut RowRules, first: u32) -> u32 {
    let mut taken = 0;
    unroll!(eight in 0..EIGHTS => {
        unroll!(i in 0..2 => {
            let column = column_of(first, eight, i);
            if within(column, rules.columns) {
                let key = if rules.rules & KEYS != 0 { rules.column_key.get(column) } else { 0 };
                if rules.allows(row, column, key) {
                    taken |= 1 << (2 * eight + i);
                }
            }
        });
    });
    if rules.rules & LIST != 0 {
        rules.listed(row, first, TILE, |offset| {
            if offset % 8 / 2 == lane() % 4 {
                taken &= !(1 << (offset / 8 * 2 + offset % 2));
            }
        });
    }
    taken
}

/// The rules of this lane's two rows; `row(half)` is their number.
#[inline(always)]
fn rules_of(rules: &Rules, first_row: u32, rows: u32) -> [RowRules; 2] {
    [0, 8].map(|half| rules.row((first_row + lane() / 4 + half).min(rows - 1)))
}

/// The first row of this warp.
#[inline(always)]
fn first_row() -> u32 {
    block_idx().x * ROWS + warp() * 16
}

/// Where this block's part of the columns starts and ends.
#[inline(always)]
fn part(columns: u32, each: u32) -> (u32, u32) {
    let start = block_idx().y * each * BLOCK;
    (start, columns.min(start + each * BLOCK))
}

/// Sums of this warp's rows over the block's part of the columns.
#[inline(always)]
fn row_sums<F: Form>([q, k]: [Lines; 2], rules: Rules, [scale, bias]: [f32; 2], each: u32, parts: Parts) {
    let rows = row_fragments(q, first_row());
    let mut of_rows = rules_of(&rules, first_row(), q.count);
    let mut kept = [Sums::new::<F>(); 2];
    let (start, end) = part(k.count, each);
    let tiles = Tiles { words: dynamic_shared(), k };
    tiles.begin(start);
    for first in strided(start, end, TILE) {
        let (tile, next) = (tiles.at(first, start), tiles.ahead(first, end));
        let dots = dots(&rows, tile);
        unroll!(half in 0..2 => {
            let taken = taken(&rules, &mut of_rows[half], first);
            let x = |eight: usize, i: usize| Real::mul_add(dots[eight][2 * half + i], scale, bias);
            let counts = |eight: usize, i: usize| taken >> (2 * eight + i) & 1 != 0;
            let mut sums = if F::ONLINE { Sums::new::<F>() } else { kept[half] };
            if F::ONLINE {
                unroll!(eight in 0..EIGHTS => {
                    unroll!(i in 0..2 => {
                        if counts(eight, i) {
                            sums.lead = Real::max(sums.lead, x(eight, i));
                        }
                    });
                });
            }
            let shift = if F::ONLINE { shift_of(sums.lead) } else { 0.0 };
            unroll!(eight in 0..EIGHTS => {
                unroll!(i in 0..2 => {
                    let column = column_of(first, eight, i);
                    let e = F::e(x(eight, i), shift);
                    if counts(eight, i) {
                        sums.take(dots[eight][2 * half + i], e, 0.0, column, true);
                    }
                });
            });
            kept[half] = if F::ONLINE { kept[half].join(sums, true) } else { sums };
        });
        tiles.turn(first, [start, end], next);
    }
    unroll!(half in 0..2 => {
        let mut sums = kept[half];
        unroll!(level in 0..2 => {
            sums = sums.join(sums.of_lane(1 << level as u32), F::ONLINE);
        });
        let row = first_row() + lane() / 4 + 8 * half as u32;
        if lane().is_multiple_of(4) && within(row, q.count) {
            parts.set(block_idx().y, row, sums);
        }
    });
}

/// The gradient of this warp's rows, of up to 128 elements, from the block's part of the columns.
#[inline(always)]
fn gradient<F: Form>(
    [q, k]: [Lines; 2],
    rules: Rules,
    [of_row, of_column]: [Side; 2],
    [scale, bias, factor]: [f32; 3],
    each: u32,
    dq: Out<f32>,
) {
    let rows = row_fragments(q, first_row());
    let mut of_rows = rules_of(&rules, first_row(), q.count);
    let sides = [0, 8].map(|half| of_row.get::<F>((first_row() + lane() / 4 + half).min(q.count - 1)));
    let mut sums = [[[0.0; 4]; 2]; 8];
    let (start, end) = part(k.count, each);
    let tiles = Tiles { words: dynamic_shared(), k };
    tiles.begin(start);
    for first in strided(start, end, TILE) {
        let (tile, next) = (tiles.at(first, start), tiles.ahead(first, end));
        let dots = dots(&rows, tile);
        let mut g = [[0; 2]; EIGHTS];
        let taken = [taken(&rules, &mut of_rows[0], first), taken(&rules, &mut of_rows[1], first)];
        unroll!(eight in 0..EIGHTS => {
            let columns = [0, 1].map(|i| of_column.get::<F>(column_of(first, eight, i).min(k.count - 1)));
            unroll!(half in 0..2 => {
                let mut bits = [0; 2];
                unroll!(i in 0..2 => {
                    let x = Real::mul_add(dots[eight][2 * half + i], scale, bias);
                    let weight = F::weight(x, sides[half], columns[i]);
                    let counts = taken[half] >> (2 * eight + i) & 1 != 0;
                    bits[i] = u32::from(bf16_bits_of_f32(if counts { weight } else { 0.0 }));
                });
                g[eight][half] = word(bits[0], bits[1]);
            });
        });
        unroll!(step in 0..4 => {
            let rows = [g[2 * step][0], g[2 * step][1], g[2 * step + 1][0], g[2 * step + 1][1]];
            let column = 16 * step as u32 + lane() % 4 * 2;
            unroll!(pair in 0..8 => {
                let at = column * PITCH + 8 * pair as u32 + lane() / 4;
                let words = [0, 1, 8, 9].map(|next| tile.get(at + next * PITCH));
                let even = [word(words[0] & 0xffff, words[1] & 0xffff), word(words[2] & 0xffff, words[3] & 0xffff)];
                let odd = [word(words[0] >> 16, words[1] >> 16), word(words[2] >> 16, words[3] >> 16)];
                sums[pair][0] = mma_bf16(rows, even, sums[pair][0]);
                sums[pair][1] = mma_bf16(rows, odd, sums[pair][1]);
            });
        });
        tiles.turn(first, [start, end], next);
    }
    unroll!(half in 0..2 => {
        let row = first_row() + lane() / 4 + 8 * half as u32;
        let here = if within(row, q.count) { k.d } else { 0 };
        let line = (block_idx().y * q.count + row.min(q.count - 1)) * k.d;
        unroll!(pair in 0..8 => {
            unroll!(i in 0..4 => {
                let element = 16 * pair as u32 + lane() % 4 * 4 + i as u32;
                if within(element, here) {
                    dq.set(line + element, sums[pair][i % 2][2 * half + i / 2] * factor);
                }
            });
        });
    });
}

/// Bytes read again by tiles of 128 rows and all columns.
#[cfg(not(target_arch = "nvptx64"))]
fn reread(m: u64, n: u64, d: u64) -> u64 {
    product_reread(m * n, d, u64::from(ROWS), u64::from(TILE)) / 4
}

macro_rules! rows {
    ($($(#[doc = $doc:literal])+ $name:ident $form:ident cases $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            q: In<u16>[m * d], k: In<u16>[n * d], own: In<u32>[m], row_key: In<u32>[m * (rules & 1)],
            column_key: In<u32>[n * (rules & 1)], keep: In<u32>[m * (rules & 1)],
            starts: In<u32>[(m + 1) * (rules >> 1 & 1)], list: In<u32>[listed],
            sums: Out<f32>[4 * parts_of(n, each) * m], tops: Out<u32>[parts_of(n, each) * m],
            m: u32, n: u32, d: u32, rules: u32, listed: u32, each: u32, scale: f32, bias: f32,
        )
        grid [m.div_ceil(u64::from(ROWS)), parts_of(n, each)] block [THREADS] shared [TILE_BYTES]
        cost { flop: 8 * m * n, special: m * n, tensor_flop: 2 * m * n * d, reread: reread(m, n, d) }
        cases $cases
        {
            let rules = Rules { own, row_key, column_key, keep, starts, list, rules, columns: n };
            let parts = Parts { sums, tops, count: grid_dim().y, rows: m };
            let lines = [Lines { data: q, count: m, d }, Lines { data: k, count: n, d }];
            row_sums::<$form>(lines, rules, [scale, bias], each, parts);
        }
    )+}};
}

rows! {
    /// `pair_rows_fixed` of vectors in bf16, on 8 bytes, with d up to 128; `each` is any number of blocks of 512.
    pair_rows_bf16_fixed Fixed cases rows_fixed_cases;
    /// `pair_rows_online` of vectors in bf16, on 8 bytes, with d up to 128; `each` is any number of blocks of 512.
    pair_rows_bf16_online Online cases rows_online_cases;
}

macro_rules! gradients {
    ($($(#[doc = $doc:literal])+ $name:ident $form:ident values $values:literal,
        special $special:literal, cases $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            q: In<u16>[m * d], k: In<u16>[n * d], own: In<u32>[m], row_key: In<u32>[m * (rules & 1)],
            column_key: In<u32>[n * (rules & 1)], keep: In<u32>[m * (rules & 1)],
            starts: In<u32>[(m + 1) * (rules >> 1 & 1)], list: In<u32>[listed],
            row_weight: In<f32>[m], row_value: In<f32>[m * $values],
            column_weight: In<f32>[n], column_value: In<f32>[n * $values], dq: Out<f32>[parts_of(n, each) * m * d],
            m: u32, n: u32, d: u32, rules: u32, listed: u32, each: u32, scale: f32, bias: f32, factor: f32,
        )
        grid [m.div_ceil(u64::from(ROWS)), parts_of(n, each)] block [THREADS]
        shared [TILE_BYTES]
        cost {
            flop: 3 * m * n,
            special: $special * m * n,
            tensor_flop: 4 * m * n * d,
            reread: reread(m, n, d),
        }
        cases $cases
        {
            let rules = Rules { own, row_key, column_key, keep, starts, list, rules, columns: n };
            let lines = [Lines { data: q, count: m, d }, Lines { data: k, count: n, d }];
            let sides =
                [Side { weight: row_weight, value: row_value }, Side { weight: column_weight, value: column_value }];
            gradient::<$form>(lines, rules, sides, [scale, bias, factor], each, dq);
        }
    )+}};
}

gradients! {
    /// `pair_grad_fixed` of vectors in bf16, on 8 bytes, with d from 1 to 128; G is rounded to bf16. `each` is any
    /// number of blocks of 512 columns.
    pair_grad_bf16_fixed Fixed values 0, special 1, cases grad_fixed_cases;
    /// `pair_grad_online` likewise.
    pair_grad_bf16_online Online values 1, special 2, cases grad_online_cases;
}
