//! Matrix products and convolution on tensor cores, with f32 sums: the fast mode, outside the canonical order.
//!
//! A block of 256 threads computes 128 x 128 elements in eight warps of 64 x 32, each 4 x 4 products `m16n8` per half
//! step. Shared tiles hold words: a word is two bf16 at neighbouring positions of k, or one tf32; so both precisions
//! have the same fragments. While one pair of tiles is multiplied, the next step is on its way through registers into
//! the other.
//!
//! **Order and error.** A step is 16 words deep; k is padded with zeros to whole steps, in convolutions also the taps
//! outside the image. On the host and in the PTX interpreter each element is one chain of fused multiply-adds from +0
//! over k so padded (see [`crate::host::mma`]). Hardware forms exact products and adds several at a time with
//! truncation: it is held to the distance (k + 16) 2^-23 sum |a b| from that chain.

#[cfg(not(target_arch = "nvptx64"))]
use self::cases::*;
use super::conv::{Conv, pixel};
#[cfg(not(target_arch = "nvptx64"))]
use super::tile::product_reread;
use super::tile::{THREADS, unroll};
use crate::simt::*;
use crate::{kernel, shared};

/// The kernels of this file.
#[cfg(not(target_arch = "nvptx64"))]
pub(super) static KERNELS: &[&kernel::KernelSpec] = &[
    &matmul_bf16::SPEC,
    &matmul_bf16_nt::SPEC,
    &matmul_bf16_tn::SPEC,
    &matmul_tf32::SPEC,
    &matmul_tf32_nt::SPEC,
    &matmul_tf32_tn::SPEC,
    &conv2d_bf16::SPEC,
    &conv2d_tf32::SPEC,
];

/// Rows and columns of a block's tile.
const EDGE: u32 = 128;

/// Words of a step along k.
const WORDS: u32 = 16;

/// Words from one line to the next where a tile holds lines one after the other: eight lines x four words hit 32 banks.
const LINE_PITCH: u32 = WORDS + 4;

/// Words from one position to the next where a tile holds positions one after the other: likewise.
const WORD_PITCH: u32 = EDGE + 8;

/// Words of a shared tile, in either layout.
const TILE: u32 = EDGE * LINE_PITCH;

/// What a thread brings of an operand's step: eight words.
type Words = [u32; 8];

/// The numbers that are multiplied.
trait Precision {
    /// Their type in memory.
    type Memory: Element;
    /// Numbers in a word.
    const PER_WORD: u32;
    /// The number's bits in a word.
    fn encode(number: Self::Memory) -> u32;
    /// One product of fragments.
    fn mma(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4];
}

/// Bits of bf16 in u16.
struct Bf16;

impl Precision for Bf16 {
    type Memory = u16;
    const PER_WORD: u32 = 2;

    #[inline(always)]
    fn encode(number: u16) -> u32 {
        u32::from(number)
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn mma(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
        mma_bf16(a, b, c)
    }
}

/// f32 rounded to the 11 significant bits of tf32, ties away from zero.
struct Tf32;

impl Precision for Tf32 {
    type Memory = f32;
    const PER_WORD: u32 = 1;

    #[inline(always)]
    fn encode(number: f32) -> u32 {
        let bits = number.to_bits();
        // Infinities stay; of a NaN the leading bit of the fraction, which the cut does not touch, is set.
        match bits & 0x7fff_ffff {
            0x7f80_0001.. => bits | 0x0040_0000,
            0x7f80_0000 => bits,
            _ => (bits + 0x1000) & 0xffff_e000,
        }
    }

    #[inline(always)]
    #[cfg_attr(not(target_arch = "nvptx64"), track_caller)]
    fn mma(a: [u32; 4], b: [u32; 2], c: [f32; 4]) -> [f32; 4] {
        mma_tf32(a, b, c)
    }
}

/// An operand as lines (rows of A, columns of B) of `k` numbers: contiguous in k, or its lines side by side.
struct Operand<P: Precision, const ALONG_K: bool> {
    data: In<P::Memory>,
    start: u32,
    lines: u32,
    k: u32,
    /// Elements from one line to the next, or from one position to the next.
    pitch: u32,
    /// The first line of the block's tile.
    first: u32,
}

impl<P: Precision, const ALONG_K: bool> Operand<P, ALONG_K> {
    /// The eight words of this thread in the step that starts at number `at`.
    #[inline(always)]
    fn load(&self, at: u32) -> Words {
        if ALONG_K {
            load_units::<P>(|_, line, k| self.numbers([self.first + line, at + k], [self.lines, self.k]))
        } else {
            let mut words = [0; 8];
            for i in 0..2 {
                let (word, line) = share_along_lines(i as u32);
                for half in 0..P::PER_WORD {
                    let k = at + word * P::PER_WORD + half;
                    let numbers = self.numbers([k, self.first + line], [self.k, self.lines]);
                    for j in 0..4 {
                        words[4 * i + j] |= numbers[j] << (16 * half);
                    }
                }
            }
            words
        }
    }

    /// Four numbers from (row, column) on of the operand as it lies in memory; 0 outside.
    #[inline(always)]
    fn numbers(&self, [row, column]: [u32; 2], [rows, columns]: [u32; 2]) -> [u32; 4] {
        let i = self.start + row.min(rows - 1) * self.pitch + column;
        let here = if within(row, rows) { columns } else { 0 };
        // The tensor itself is aligned.
        if (self.start | self.pitch).is_multiple_of(4) && within(column + 3, here) {
            self.data.get4(i).map(P::encode)
        } else {
            [0, 1, 2, 3].map(|j| if within(column + j, here) { P::encode(self.data.get(i + j)) } else { 0 })
        }
    }
}

/// The words that this thread brings of an operand that is contiguous in k: `numbers(i, line, k)` are the four numbers
/// of its i-th line, line `line` of the tile, from `k` of the step on. Lanes run along k.
#[inline(always)]
fn load_units<P: Precision>(numbers: impl Fn(usize, u32, u32) -> [u32; 4]) -> Words {
    let per_unit = 4 / P::PER_WORD;
    let mut words = [0; 8];
    for i in 0..8 / per_unit {
        let (line, word) = share_along_k::<P>(i);
        let numbers = numbers(i as usize, line, word * P::PER_WORD);
        for j in 0..4 {
            words[(i * per_unit + j / P::PER_WORD) as usize] |= numbers[j as usize] << (j % P::PER_WORD * 16);
        }
    }
    words
}

/// Line and first word of the `i`-th unit of four numbers that this thread brings along k.
#[inline(always)]
fn share_along_k<P: Precision>(i: u32) -> (u32, u32) {
    let per_unit = 4 / P::PER_WORD;
    let units = WORDS / per_unit;
    (thread_idx().x / units + i * (THREADS / units), thread_idx().x % units * per_unit)
}

/// Word and first line of the `i`-th unit of four lines that this thread brings along the lines.
#[inline(always)]
fn share_along_lines(i: u32) -> (u32, u32) {
    (thread_idx().x / (EDGE / 4) + i * (4 * THREADS / EDGE), thread_idx().x % (EDGE / 4) * 4)
}

/// Puts a thread's words into a shared tile.
#[inline(always)]
fn store<P: Precision, const ALONG_K: bool>(tile: Shared<u32>, words: Words) {
    let per_unit = 4 / P::PER_WORD;
    if ALONG_K {
        for i in 0..8 / per_unit {
            let (line, word) = share_along_k::<P>(i);
            for j in 0..per_unit {
                tile.set(line * LINE_PITCH + word + j, words[(i * per_unit + j) as usize]);
            }
        }
    } else {
        for i in 0..2 {
            let (word, line) = share_along_lines(i as u32);
            tile.set4(word * WORD_PITCH + line, [0, 1, 2, 3].map(|j| words[4 * i + j]));
        }
    }
}

/// Element (line, word) of a shared tile.
#[inline(always)]
fn word<const ALONG_K: bool>(tile: Shared<u32>, line: u32, word: u32) -> u32 {
    tile.get(if ALONG_K { line * LINE_PITCH + word } else { word * WORD_PITCH + line })
}

/// The sums of a thread: 4 x 4 products of its warp, of each the four elements that `mma` gives a lane.
type Sums = [[[f32; 4]; 4]; 4];

/// First row and column of this warp's elements in the block's tile.
#[inline(always)]
fn warp_place() -> [u32; 2] {
    [warp() / 4 * 64, warp() % 4 * 32]
}

/// The sums of a block's tile over `k` numbers, in steps that `a` and `b` bring.
#[inline(always)]
fn product<P: Precision, const A_ALONG_K: bool, const B_ALONG_K: bool>(
    k: u32,
    a: impl Fn(u32) -> Words,
    b: impl Fn(u32) -> Words,
) -> Sums {
    let (a_tiles, b_tiles) = (shared!(u32; 2 * TILE), shared!(u32; 2 * TILE));
    let [row, column] = warp_place();
    let (line, quad) = (lane() / 4, lane() % 4);
    let depth = WORDS * P::PER_WORD;
    let mut sums = [[[0.0; 4]; 4]; 4];
    store::<P, A_ALONG_K>(a_tiles, a(0));
    store::<P, B_ALONG_K>(b_tiles, b(0));
    barrier();
    let mut buffer = 0;
    for at in strided(0, k, depth) {
        let more = k - at > depth;
        let next = if more { [a(at + depth), b(at + depth)] } else { [[0; 8]; 2] };
        let (a_tile, b_tile) = (a_tiles.offset(buffer * TILE), b_tiles.offset(buffer * TILE));
        unroll!(half in 0..2 => {
            let at = 8 * half as u32 + quad;
            let b = [0, 1, 2, 3]
                .map(|j| [0, 1].map(|part| word::<B_ALONG_K>(b_tile, column + 8 * j + line, at + 4 * part)));
            unroll!(i in 0..4 => {
                let a = [0, 1, 2, 3].map(|part| {
                    word::<A_ALONG_K>(a_tile, row + 16 * i as u32 + line + part % 2 * 8, at + part / 2 * 4)
                });
                unroll!(j in 0..4 => {
                    sums[i][j] = P::mma(a, b[j], sums[i][j]);
                });
            });
        });
        buffer = 1 - buffer;
        if more {
            store::<P, A_ALONG_K>(a_tiles.offset(buffer * TILE), next[0]);
            store::<P, B_ALONG_K>(b_tiles.offset(buffer * TILE), next[1]);
        }
        barrier();
    }
    sums
}

/// Writes the elements that lie in the matrix: those of row r from `start(r)` on.
#[inline(always)]
fn write(
    sums: Sums,
    out: Out<f32>,
    [first_row, rows]: [u32; 2],
    [first_column, columns]: [u32; 2],
    start: impl Fn(u32) -> u32,
) {
    let [row, column] = warp_place();
    let (row, column) = (first_row + row + lane() / 4, first_column + column + lane() % 4 * 2);
    unroll!(i in 0..4 => {
        unroll!(half in 0..2 => {
            let row = row + 16 * i as u32 + 8 * half as u32;
            let here = if within(row, rows) { columns } else { 0 };
            let start = start(row.min(rows - 1));
            unroll!(j in 0..4 => {
                let column = column + 8 * j as u32;
                if within(column, here) {
                    out.set(start + column, sums[i][j][2 * half]);
                }
                if within(column + 1, here) {
                    out.set(start + column + 1, sums[i][j][2 * half + 1]);
                }
            });
        });
    });
}

macro_rules! products {
    (
        $precision:ident $memory:ident;
        $($(#[doc = $doc:literal])+ $name:ident [$a_along_k:literal $b_along_k:literal] $cases:ident;)+
    ) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            a: In<$memory>[span(batch, a_batch, m * k)], b: In<$memory>[span(batch, b_batch, k * n)],
            c: Out<f32>[batch * m * n], m: u32, n: u32, k: u32, a_batch: u32, b_batch: u32, batch: u32,
        )
        grid [batch * m.div_ceil(EDGE as u64) * n.div_ceil(EDGE as u64)] block [THREADS]
        cost { tensor_flop: 2 * batch * m * n * k, reread: tensor_reread::<$precision>(batch * m * n, k) }
        cases $cases
        {
            let across = n.div_ceil(EDGE);
            let tiles = m.div_ceil(EDGE) * across;
            let (matrix, tile) = (block_idx().x / tiles, block_idx().x % tiles);
            let (row, column) = (tile / across * EDGE, tile % across * EDGE);
            let a = Operand::<$precision, $a_along_k> { data: a, start: matrix * a_batch, lines: m, k, pitch: if $a_along_k { k } else { m }, first: row };
            let b = Operand::<$precision, $b_along_k> { data: b, start: matrix * b_batch, lines: n, k, pitch: if $b_along_k { k } else { n }, first: column };
            let sums = product::<$precision, $a_along_k, $b_along_k>(k, |at| a.load(at), |at| b.load(at));
            write(sums, c, [row, m], [column, n], |row| (matrix * m + row) * n);
        }
    )+}};
}

products! {
    Bf16 u16;
    /// C = A B on tensor cores for `batch` pairs of matrices of bf16, A `[m, k]` and B `[k, n]`, matrices `a_batch` and
    /// `b_batch` elements apart; C `[batch, m, n]` is f32. k is at least 1; a and b stand on 8 bytes.
    matmul_bf16 [true false] matmul_bf16_cases;
    /// As `matmul_bf16` with B given as `[n, k]`.
    matmul_bf16_nt [true true] matmul_bf16_nt_cases;
    /// As `matmul_bf16` with A given as `[k, m]`.
    matmul_bf16_tn [false false] matmul_bf16_tn_cases;
}

products! {
    Tf32 f32;
    /// C = A B on tensor cores for `batch` pairs of matrices of f32, whose elements are rounded to tf32: A `[m, k]` and
    /// B `[k, n]`, matrices `a_batch` and `b_batch` elements apart; C `[batch, m, n]`. k is at least 1; a and b stand
    /// on 16 bytes.
    matmul_tf32 [true false] matmul_tf32_cases;
    /// As `matmul_tf32` with B given as `[n, k]`.
    matmul_tf32_nt [true true] matmul_tf32_nt_cases;
    /// As `matmul_tf32` with A given as `[k, m]`.
    matmul_tf32_tn [false false] matmul_tf32_tn_cases;
}

macro_rules! convolutions {
    ($($(#[doc = $doc:literal])+ $name:ident $precision:ident $memory:ident $cases:ident;)+) => { kernel! {$(
        $(#[doc = $doc])+
        $name(
            x: In<$memory>[n * h * w * c], weight: In<$memory>[kh * kw * (c / groups) * c_out],
            y: Out<f32>[n * oh * ow * c_out],
            n: u32, h: u32, w: u32, c: u32, oh: u32, ow: u32, c_out: u32, kh: u32, kw: u32, stride_h: u32,
            stride_w: u32, pad_h: u32, pad_w: u32, dil_h: u32, dil_w: u32, groups: u32,
        )
        grid [groups * (n * oh * ow).div_ceil(EDGE as u64) * (c_out / groups).div_ceil(EDGE as u64)] block [THREADS]
        cost {
            tensor_flop: 2 * n * oh * ow * c_out * kh * kw * (c / groups),
            reread: tensor_reread::<$precision>(n * oh * ow * c_out, kh * kw * (c / groups)),
        }
        cases $cases
        {
            let conv = Conv {
                n,
                input: [h, w],
                c,
                output: [oh, ow],
                c_out,
                kernel: [kh, kw],
                stride: [stride_h, stride_w],
                padding: [pad_h, pad_w],
                dilation: [dil_h, dil_w],
                groups,
            };
            convolution::<$precision>(conv, x, weight, y, block_idx().x);
        }
    )+}};
}

convolutions! {
    /// y `[n, oh, ow, c_out]` in f32 = x `[n, h, w, c]` convolved with weight `[kh, kw, c / groups, c_out]`, both bf16,
    /// on tensor cores. x and weight stand on 8 bytes.
    conv2d_bf16 Bf16 u16 conv2d_bf16_cases;
    /// As `conv2d_bf16` for f32, rounded to tf32. x and weight stand on 16 bytes.
    conv2d_tf32 Tf32 f32 conv2d_tf32_cases;
}

/// A block's tile of y: the product of the gathered pixels and the weights.
#[inline(always)]
fn convolution<P: Precision>(conv: Conv, x: In<P::Memory>, weight: In<P::Memory>, y: Out<f32>, block: u32) {
    let [c, c_out] = conv.group_channels();
    let pixels = conv.n * conv.output[0] * conv.output[1];
    let k = conv.kernel[0] * conv.kernel[1] * c;
    let across = c_out.div_ceil(EDGE);
    let tiles = across * pixels.div_ceil(EDGE);
    let (group, tile) = (block / tiles, block % tiles);
    let (row, column) = (tile / across * EDGE, tile % across * EDGE);

    // Four channels of a tap at once where no unit of four meets two taps.
    let aligned = (c | conv.c).is_multiple_of(4);
    let lines = [0, 1, 2, 3].map(|i| {
        let [image, oy, ox] = pixel(conv.output, (row + share_along_k::<P>(i).0).min(pixels - 1));
        let [y, x] = [0, 1].map(|axis| ([oy, ox][axis] * conv.stride[axis]).wrapping_sub(conv.padding[axis]));
        [image, y, x]
    });
    // The element of a line at position `p` of the tap and channel order; None in the padding and past the end.
    let element = |[image, y, x]: [u32; 3], p: u32| {
        let [_, ky, kx] = pixel(conv.kernel, p / c);
        let y = y.wrapping_add(ky * conv.dilation[0]);
        let x = x.wrapping_add(kx * conv.dilation[1]);
        let inside = within(p, k) & within(y, conv.input[0]) & within(x, conv.input[1]);
        let channel = group * c + p % c;
        inside.then(|| ((image * conv.input[0] + y) * conv.input[1] + x) * conv.c + channel)
    };
    let gather = |at: u32| {
        load_units::<P>(|i, _, unit| {
            if aligned {
                element(lines[i], at + unit).map_or([0; 4], |i| x.get4(i).map(P::encode))
            } else {
                [0, 1, 2, 3].map(|j| element(lines[i], at + unit + j).map_or(0, |i| P::encode(x.get(i))))
            }
        })
    };
    let weights =
        Operand::<P, false> { data: weight, start: group * c_out, lines: c_out, k, pitch: conv.c_out, first: column };
    let sums = product::<P, true, false>(k, gather, |at| weights.load(at));
    write(sums, y, [row, pixels], [column, c_out], |row| row * conv.c_out + group * c_out);
}

#[cfg(not(target_arch = "nvptx64"))]
mod cases;

#[cfg(test)]
mod tests {
    use super::cases::{self, Held};
    use super::*;
    use crate::host::HostLauncher;

    #[test]
    fn host_results_are_chains_to_the_bit() {
        let launcher = HostLauncher::new();
        let all = [
            (&matmul_bf16::SPEC, cases::matmul_bf16(Held::Bits)),
            (&matmul_bf16_nt::SPEC, cases::matmul_bf16_nt(Held::Bits)),
            (&matmul_bf16_tn::SPEC, cases::matmul_bf16_tn(Held::Bits)),
            (&matmul_tf32::SPEC, cases::matmul_tf32(Held::Bits)),
            (&matmul_tf32_nt::SPEC, cases::matmul_tf32_nt(Held::Bits)),
            (&matmul_tf32_tn::SPEC, cases::matmul_tf32_tn(Held::Bits)),
            (&conv2d_bf16::SPEC, cases::conv2d_bf16(Held::Bits)),
            (&conv2d_tf32::SPEC, cases::conv2d_tf32(Held::Bits)),
        ];
        for (kernel, cases) in all {
            for case in cases {
                case.run(kernel, &launcher).unwrap_or_else(|e| panic!("{} ({}): {e}", kernel.name, case.name));
            }
        }
    }

    #[test]
    fn tf32_keeps_what_is_not_finite() {
        for x in [f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(Tf32::encode(x), x.to_bits());
        }
        let nan = f32::from_bits(0x7f80_0001);
        assert!(f32::from_bits(Tf32::encode(nan) & 0xffff_e000).is_nan());
        assert_eq!(f32::from_bits(Tf32::encode(f32::MAX)), f32::INFINITY);
    }
}
