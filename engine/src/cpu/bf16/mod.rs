//! Products of bf16 matrices in f32, in the order of [`contract_bf16`](selfsame_kernels::reference::contract_bf16).
//!
//! A product comes in blocks of 32 x 32 sums over a chunk of positions, from operands that lie in blocks of 32 x 32
//! elements (`pack`). Four units compute it, with the same bits: the matrix unit of x86-64 (`amx`), its dot products
//! (`dot`), its fused multiply-adds (`fma`), and loops for every instruction set (`plain`).
//!
//! Measured on one core of an Intel Xeon with AMX-BF16 and AVX-512 (2.1 GHz, shared machine), GFLOP/s from registers: fma
//! of f32 222, `vdpbf16ps` 108, `tdpbf16ps` 2000; with tiles from caches 700 to 840. So the order is that of the matrix
//! unit, and where there is none on such a machine, `vdpbf16ps` is slower than fma; on an AMD EPYC it is faster.
#![allow(unsafe_code)]

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(target_arch = "x86_64")]
mod dot;
#[cfg(target_arch = "x86_64")]
mod fma;
mod pack;
mod plain;

pub(super) use pack::{Operand, Packed, Pairs, Side, flushed, pack_weights, pair_columns, pair_lines, pair_rows};
pub(super) use plain::{add_block, add_block_transposed};

use selfsame_kernels::isa::Isa;
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
use selfsame_kernels::isa::Level;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// Rows, columns and positions of a block.
pub(super) const EDGE: usize = selfsame_kernels::bf16::BF16_GROUP;

/// Elements of a block.
pub(super) const BLOCK: usize = EDGE * EDGE;

/// A block of left rows and one of right columns, over equally many positions: blocks one after another.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    pub(super) left: &'a [u16],
    pub(super) right: &'a [u16],
}

/// Left blocks that are read where they lie: block b of row r is the 32 elements from `starts[r] + deltas[b]` on, with pairs
/// that the unit wants.
pub(super) struct InPlace<'a> {
    from: &'a [u16],
    starts: &'a [usize; EDGE],
    deltas: &'a [isize],
}

impl<'a> InPlace<'a> {
    /// # Panics
    /// When a block is not one of `from`.
    pub(super) fn new(from: &'a [u16], starts: &'a [usize; EDGE], deltas: &'a [isize]) -> InPlace<'a> {
        let (first, last) = deltas.iter().fold((isize::MAX, isize::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        let (low, high) = starts.iter().fold((usize::MAX, 0), |(a, b), x| (a.min(*x), b.max(*x)));
        let end = high.checked_add_signed(last).and_then(|last| last.checked_add(EDGE));
        let is_inside = low.checked_add_signed(first).is_some() && end.is_some_and(|end| end <= from.len());
        assert!(deltas.is_empty() || is_inside, "blocks outside their slice");
        InPlace { from, starts, deltas }
    }

    fn rows(&self) -> [*const u16; EDGE] {
        self.starts.map(|start| self.from.as_ptr().wrapping_add(start))
    }

    /// Asks for all blocks to be brought to the second-level cache.
    pub(super) fn ask(&self) {
        for row in self.rows() {
            self.deltas.iter().for_each(|delta| pack::ask_for::<false>(row.wrapping_offset(*delta)));
        }
    }
}

/// How the elements of a left block lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Row by row.
    Rows,
    /// As those of a right block, whose columns are its rows.
    Pairs,
}

/// What computes the products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    /// Loops on an instruction set.
    Plain(Isa),
    /// Fused multiply-adds of vectors that flush.
    #[cfg(target_arch = "x86_64")]
    Fma(Isa),
    /// Dot products of vectors, which this machine has.
    #[cfg(target_arch = "x86_64")]
    Dot,
    /// The matrix unit, which this process may use.
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    Amx,
}

impl Unit {
    /// The fastest unit beside `isa`.
    pub(super) fn beside(isa: Isa) -> Unit {
        static FASTEST: OnceLock<Vec<(Isa, Unit)>> = OnceLock::new();
        let fastest =
            FASTEST.get_or_init(|| Isa::available().into_iter().map(|isa| (isa, Unit::present(isa)[0])).collect());
        fastest.iter().find(|(other, _)| *other == isa).map_or(Unit::Plain(isa), |(_, unit)| *unit)
    }

    /// The units beside `isa` that compute what loops compute, fastest first.
    fn present(isa: Isa) -> Vec<Unit> {
        let mut units = vec![Unit::Plain(isa)];
        #[cfg(target_arch = "x86_64")]
        {
            units.extend(fma::is_in(isa).then_some(Unit::Fma(isa)));
            units.extend(dot::is_beside(isa).then_some(Unit::Dot));
        }
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if isa.level() == Level::Avx512 && amx::is_permitted() {
            units.push(Unit::Amx);
        }
        units.retain(|unit| unit.agrees());
        units.reverse();
        units
    }

    /// Compares one product of numbers of all signs and sizes with the loops': emulators of processors exist that flush
    /// by another rule, or not at all.
    fn agrees(self) -> bool {
        // Exponents from -111 to 0: products are flushed, too.
        let bits = |i: usize, factor: usize| {
            let product = i * factor;
            ((product ^ (product >> 7)) as u16 & 0xbfff) | 0x0800
        };
        let mut left: Vec<u16> = (0..2 * BLOCK).map(|i| bits(i, 40503)).collect();
        let mut right: Vec<u16> = (0..2 * BLOCK).map(|i| bits(i, 60493)).collect();
        // The first sum of the second block is 2^-126 less 3/2 of 2^-151, which rounds to 2^-126 with fewer bits.
        let power = |exponent: i32| ((127 + exponent) as u16) << 7;
        left[BLOCK..][..EDGE].fill(0);
        (left[BLOCK], left[BLOCK + 2]) = (power(-126), power(-76) | 0x8040);
        (right[BLOCK], right[BLOCK + EDGE]) = (power(0), power(-76));
        let product = |unit: Unit| {
            let (mut left, mut right) = (left.clone(), right.clone());
            unit.pairs().arrange(Isa::PORTABLE, Side::Left, &mut left);
            unit.pairs().arrange(Isa::PORTABLE, Side::Right, &mut right);
            let mut sums = [0f32; BLOCK];
            unit.open().product(Layout::Rows, &[Run { left: &left[BLOCK..], right: &right[BLOCK..] }], &mut sums, EDGE);
            let of_second = sums.map(f32::to_bits);
            unit.open().product(Layout::Rows, &[Run { left: &left, right: &right }], &mut sums, EDGE);
            (of_second, sums.map(f32::to_bits))
        };
        product(self) == product(Unit::Plain(Isa::PORTABLE))
    }

    /// The pairs that its operands are packed in.
    pub(super) fn pairs(self) -> Pairs {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Dot => Pairs::Apart,
            _ => Pairs::Neighbours,
        }
    }

    /// Whether its left elements need not lie in blocks.
    pub(super) fn reads_in_place(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Unit::Dot => true,
            _ => false,
        }
    }

    /// Makes it ready on this thread. A thread opens one at a time.
    pub(super) fn open(self) -> Session {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self == Unit::Amx {
            // SAFETY: an `Amx` exists only where the unit is present.
            unsafe { amx::configure() };
        }
        Session { unit: self, rows: Vec::new(), this_thread: PhantomData }
    }
}

/// A unit that is ready on this thread.
pub(crate) struct Session {
    unit: Unit,
    /// Left blocks row by row, for units that take no others.
    rows: Vec<u16>,
    this_thread: PhantomData<*const ()>,
}

impl Session {
    /// The sums of one chunk: `to[row * stride + column]` over the positions of the runs, one after another.
    pub(super) fn product(&mut self, layout: Layout, runs: &[Run<'_>], to: &mut [f32], stride: usize) {
        assert!(stride >= EDGE && to.len() >= (EDGE - 1) * stride + EDGE, "no room for a block");
        for run in runs {
            assert!(
                run.left.len() == run.right.len() && run.left.len().is_multiple_of(BLOCK),
                "operands not in blocks"
            );
        }
        match self.unit {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a `Dot` exists only where the machine has the instruction.
            Unit::Dot => unsafe { dot::product(layout, runs, to, stride) },
            unit => match layout {
                Layout::Rows => product_of_rows(unit, runs, to, stride),
                Layout::Pairs => {
                    self.rows.clear();
                    let blocks = runs.iter().flat_map(|run| run.left.as_chunks::<BLOCK>().0);
                    blocks.for_each(|block| self.rows.extend(pack::rows_of(block)));
                    let mut rows = &self.rows[..];
                    let runs: Vec<Run<'_>> = runs
                        .iter()
                        .map(|run| {
                            let (left, rest) = rows.split_at(run.left.len());
                            rows = rest;
                            Run { left, right: run.right }
                        })
                        .collect();
                    product_of_rows(unit, &runs, to, stride);
                }
            },
        }
    }

    /// The same of left blocks in place, by a unit that reads them there; `rights` are their right blocks, at least one.
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_variables, reason = "no unit of other machines does"))]
    pub(super) fn product_in_place(&mut self, left: &InPlace<'_>, rights: &[&[u16]], to: &mut [f32], stride: usize) {
        assert!(self.unit.reads_in_place(), "{:?} reads blocks", self.unit);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Dot` exists only where the machine has the instruction.
        unsafe {
            dot::product_in_place(left, rights, to, stride);
        }
    }
}

/// See [`Session::product`]; `unit` is open on this thread.
fn product_of_rows(unit: Unit, runs: &[Run<'_>], to: &mut [f32], stride: usize) {
    match unit {
        Unit::Plain(isa) => plain::product(isa, runs, to, stride),
        #[cfg(target_arch = "x86_64")]
        Unit::Fma(isa) => fma::product(isa, runs, to, stride),
        #[cfg(target_arch = "x86_64")]
        Unit::Dot => unreachable!("takes both layouts"),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        // SAFETY: the unit is present and was configured by `open`; operands and result were measured by the caller.
        Unit::Amx => unsafe { amx::product(runs, to, stride) },
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if self.unit == Unit::Amx {
            // SAFETY: `open` configured the unit on this thread.
            unsafe { amx::release() };
        }
    }
}

#[cfg(test)]
mod tests;
