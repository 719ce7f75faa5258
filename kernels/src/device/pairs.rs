//! Functions of the dot products of all pairs of rows (NT-Xent and its kin), which no one ever holds: sums over the
//! columns of each row, and the gradient of the rows.
//!
//! | kernel | a block has |
//! |---|---|
//! | `pair_rows_fixed`, `_softplus`, `_online` | 64 (32) rows; it walks the columns, or one block of 512 of them |
//! | `pair_rows_symmetric` | 512 rows x 512 columns of a symmetric problem, used for both sides |
//! | `pair_rows_join` | joins parts in order and finishes |
//! | `pair_grad_*`, `pair_grad_*_wide` | 64 rows of the gradient, to 128 or 256 elements each ([`gradient`]) |
//! | `pair_weights_*` | a tile of G, which a matrix product takes on from there: for longer rows |
//! | `pair_rows_bf16_*`, `pair_grad_bf16_*` | the same on tensor cores, outside the canonical order ([`tensor`]) |
//!
//! **Order.** Columns are cut into blocks of 512. A thread is one lane of the canonical order (`dots`): it takes its
//! columns from left to right, lanes fold by half warps, blocks join from left to right. A launch has either all
//! columns of a row in one thread block, or one block of columns in each, which `pair_rows_join` joins: the same
//! operations in the same order.
//!
//! Which pairs are left out is in the arguments `own`, `row_key`, `column_key`, `keep`, `starts`, `list` and `rules`
//! ([`KEYS`], [`LIST`]): a row's own column; columns with the row's key, but for one that is kept; columns of a list.

#[cfg(not(target_arch = "nvptx64"))]
use self::cases::*;
#[cfg(not(target_arch = "nvptx64"))]
use self::dots::totals_bytes;
use self::dots::{Lines, SIDE, THREADS, Tiles, edge, slot, thread_x, thread_y};
use self::rows::{Parts, Sums, Top, shift_of};
use self::term::{Fixed, Form, Online, RowRules, Rules, Softplus};
pub use self::term::{KEYS, LIST, NONE};
#[cfg(not(target_arch = "nvptx64"))]
use super::run::joined;
#[cfg(not(target_arch = "nvptx64"))]
use super::tile::product_reread;
use super::tile::unroll;
use crate::kernel;
use crate::math::Real;
use crate::order::CHUNK;
use crate::simt::*;

#[cfg(not(target_arch = "nvptx64"))]
mod cases;
mod dots;
pub mod gradient;
mod rows;
mod symmetric;
pub mod tensor;
mod term;

pub use symmetric::pair_rows_symmetric;

/// The kernels of this family.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &joined::<
    { ROWS.len() + gradient::KERNELS.len() + tensor::KERNELS.len() },
>(&[ROWS, gradient::KERNELS, tensor::KERNELS]);

#[cfg(not(target_arch = "nvptx64"))]
const ROWS: &[&kernel::KernelSpec] = &[
    &pair_rows_fixed::SPEC,
    &pair_rows_softplus::SPEC,
    &pair_rows_online::SPEC,
    &pair_rows_symmetric::SPEC,
    &pair_rows_join::SPEC,
];

/// Columns of a block of sums.
const BLOCK: u32 = CHUNK as u32;

/// Columns of a thread in a tile of dot products.
const COLUMNS: usize = 8;

/// Columns of a thread in a block of sums.
const LANE: usize = CHUNK / SIDE as usize;

/// [`pair_rows_join`]: the sums are those of `pair_rows_fixed`.
pub const FIXED: u32 = 0;
/// See [`FIXED`].
pub const ONLINE: u32 = 1;
/// See [`FIXED`].
pub const SOFTPLUS: u32 = 2;

/// Parts of a row's columns with `each` blocks of sums.
#[cfg(not(target_arch = "nvptx64"))]
fn parts_of(columns: u64, each: u64) -> u64 {
    columns.div_ceil(u64::from(BLOCK) * each.max(1))
}

/// Sums over this thread block's part of the columns, for its R x 16 rows. `memory` holds the dot products of a block
/// of sums for [`Form::ONLINE`], which needs the largest before the first exponential; else it is for
/// [`Tiles::dots`]. A thread reads there what it wrote.
#[inline(always)]
fn row_sums<F: Form, const R: usize>(
    q: Lines,
    k: Lines,
    rules: Rules,
    [scale, bias]: [f32; 2],
    each: u32,
    parts: Parts,
) {
    let tiles = Tiles::<R, COLUMNS>::new();
    let memory = dynamic_shared::<f32>();
    let first_row = block_idx().x * edge::<R>();
    let mut of_rows = [RowRules::default(); R];
    unroll!(i in 0..R => {
        of_rows[i] = rules.row((first_row + thread_y() + SIDE * i as u32).min(q.count - 1));
    });
    let start = block_idx().y * each * BLOCK;
    let end = k.count.min(start + each * BLOCK);
    // Of the half warp's rows, lane i keeps row i.
    let mut kept = Sums::new::<F>();
    for block in strided(start, end, BLOCK) {
        let mut sums = [Sums::new::<F>(); R];
        let mut counted = [0; R];
        let block_end = end.min(block + BLOCK);
        for first in strided(block, block_end, edge::<COLUMNS>()) {
            let tile = (first - block) / edge::<COLUMNS>();
            let held = if F::ONLINE { memory.offset(tile * (R * COLUMNS) as u32 * THREADS) } else { memory };
            let keys = rules.keys::<COLUMNS>(first);
            let dots = tiles.dots(q, k, [first_row, first], held);
            unroll!(i in 0..R => {
                let taken = rules.taken::<COLUMNS>(&mut of_rows[i], first, &keys);
                counted[i] |= taken << (tile * COLUMNS as u32);
                unroll!(j in 0..COLUMNS => {
                    let (dot, column) = (dots[i][j], first + thread_x() + SIDE * j as u32);
                    let x = Real::mul_add(dot, scale, bias);
                    let taken = taken >> j & 1 != 0;
                    if F::ONLINE {
                        held.set(slot::<COLUMNS>(i, j), dot);
                        if taken {
                            sums[i].lead = Real::max(sums[i].lead, x);
                        }
                    } else {
                        sums[i].take(dot, F::e(x, 0.0), F::softplus(x), column, taken);
                    }
                });
            });
        }
        if F::ONLINE {
            unroll!(i in 0..R => {
                sums[i].lead = half_warp_max(ALL_LANES, sums[i].lead);
            });
            for column in strided(block + thread_x(), block_end, SIDE) {
                let place = (column - block) / SIDE;
                let (tile, j) = (place / COLUMNS as u32, place % COLUMNS as u32);
                unroll!(i in 0..R => {
                    let at = (tile * R as u32 + i as u32) * COLUMNS as u32 + j;
                    let dot = memory.get(at * THREADS + thread_idx().x);
                    let x = Real::mul_add(dot, scale, bias);
                    let e = F::e(x, shift_of(sums[i].lead));
                    sums[i].take(dot, e, 0.0, column, counted[i] >> place & 1 != 0);
                });
            }
        }
        let mut next = Sums::new::<F>();
        unroll!(i in 0..R => {
            let folded = sums[i].fold::<F>();
            if thread_x() == i as u32 {
                next = folded;
            }
        });
        kept = if block > start { kept.join(next, F::ONLINE) } else { next };
    }
    let row = first_row + thread_y() + SIDE * thread_x();
    if thread_x() < R as u32 && within(row, q.count) {
        parts.set(block_idx().y, row, kept);
    }
}

macro_rules! row_kernels {
    ($($(#[doc = $doc:literal])+ $name:ident $form:ident [$r:literal] shared |$d:ident| $shared:expr,
        special $special:literal, cases $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            q: In<f32>[m * d], k: In<f32>[n * d], own: In<u32>[m], row_key: In<u32>[m * (rules & 1)],
            column_key: In<u32>[n * (rules & 1)], keep: In<u32>[m * (rules & 1)],
            starts: In<u32>[(m + 1) * (rules >> 1 & 1)], list: In<u32>[listed],
            sums: Out<f32>[4 * parts_of(n, each) * m], tops: Out<u32>[parts_of(n, each) * m],
            m: u32, n: u32, d: u32, rules: u32, listed: u32, each: u32, scale: f32, bias: f32,
        )
        grid [m.div_ceil(u64::from(SIDE) * $r), parts_of(n, each)] block [THREADS]
        shared [{ let $d = d; $shared }]
        cost {
            flop: 2 * m * n * d + 8 * m * n,
            special: $special * m * n,
            reread: product_reread(m * n, d, u64::from(SIDE) * $r, u64::from(edge::<COLUMNS>())),
        }
        cases $cases
        {
            let rules = Rules { own, row_key, column_key, keep, starts, list, rules, columns: n };
            let parts = Parts { sums, tops, count: grid_dim().y, rows: m };
            let (q, k) = (Lines { data: q, count: m, d }, Lines { data: k, count: n, d });
            row_sums::<$form, $r>(q, k, rules, [scale, bias], each, parts);
        }
    )+}};
}

row_kernels! {
    /// Of each row of q `[m, d]` the sums over the columns k `[n, d]` of e = exp(fma(dot, scale, bias)), of e dot, and
    /// the column of the largest dot product. `each` blocks of 512 columns make a part, 1 or all there are: `sums` is
    /// `[4, parts, m]` (plane 0 is not used), `tops` `[parts, m]`; `pair_rows_join` makes results of them.
    pair_rows_fixed Fixed [4] shared |d| totals_bytes(32, d), special 1, cases fixed_cases;
    /// As `pair_rows_fixed` with x = fma(dot, scale, bias) and e = sigmoid(x); plane 0 is the sum of softplus(x).
    pair_rows_softplus Softplus [4] shared |d| totals_bytes(32, d), special 4, cases softplus_cases;
    /// As `pair_rows_fixed` with x = fma(dot, scale, bias), the bias being -0, and e = exp(x - the largest x of the
    /// block, or of all): that is plane 0.
    pair_rows_online Online [2] shared |d| (4 * 2 * LANE) as u64 * u64::from(THREADS), special 1, cases online_cases;
}

kernel! {
    /// Joins the `parts` of each row in order and finishes: `form` is [`FIXED`], [`ONLINE`] or [`SOFTPLUS`]. The value
    /// is shift + log(sum) with the fixed shift, the largest x + log(sum), or the sum of softplus: without columns
    /// -infinity or, for softplus, 0. The top of a row without a dot product above -infinity is [`NONE`].
    pair_rows_join(
        sums: In<f32>[4 * parts * rows], tops: In<u32>[parts * rows], value: Out<f32>[rows], sum: Out<f32>[rows],
        weighted_dot: Out<f32>[rows], top: Out<u32>[rows], rows: u32, parts: u32, form: u32, shift: f32,
    )
    grid [rows.div_ceil(THREADS as u64)] block [THREADS]
    cost { flop: 4 * parts * rows, special: (1 + 2 * parts) * rows }
    cases join_cases
    {
        let row = block_idx().x * THREADS + thread_idx().x;
        if within(row, rows) {
            let part = |part: u32| {
                let at = part * rows + row;
                let plane = |i: u32| sums.get(i * parts * rows + at);
                let top = Top { dot: plane(3), column: tops.get(at) };
                Sums { lead: if form == FIXED { 0.0 } else { plane(0) }, sum: plane(1), weighted_dot: plane(2), top }
            };
            let mut all = Sums { lead: 0.0, sum: 0.0, weighted_dot: 0.0, top: Top::NONE };
            for i in strided(0, parts, 1) {
                all = if i == 0 { part(0) } else { all.join(part(i), form == ONLINE) };
            }
            let result = match form {
                SOFTPLUS => all.lead,
                ONLINE => shift_of(all.lead) + Real::log(all.sum),
                _ => shift + Real::log(all.sum),
            };
            value.set(row, result);
            sum.set(row, all.sum);
            weighted_dot.set(row, all.weighted_dot);
            top.set(row, all.top.column);
        }
    }
}
