//! Mutations that change nothing, each with the reason.

use super::mutation::{
    Mutant::{self, EndMinus, EndPlus, EndRemoved, IndexFlipped, Removed},
    Mutated,
};
use super::site::Operation;
use std::fmt;

/// A file of kernels, as it was compiled.
#[derive(Clone, Copy)]
pub struct Source {
    /// The end of its path.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.path)
    }
}

/// A mutation that changes nothing, whichever kernel reaches its site. The site is known by how the source reads there,
/// so that an edit elsewhere in the file leaves the entry as it is.
#[derive(Clone, Copy, Debug)]
pub struct Equivalent {
    /// The file of the site.
    pub source: Source,
    /// What stands at the site: the word and as much after it as tells it from others, or the use of the macro that it
    /// comes from. White space does not count.
    pub reads: &'static str,
    /// The kernels that it is true of; all where none is named.
    pub kernels: &'static [&'static str],
    /// The word that is weakened.
    pub operation: Operation,
    /// How it is weakened.
    pub mutants: &'static [Mutant],
    /// Why that changes nothing.
    pub reason: &'static str,
}

impl Equivalent {
    /// Whether this entry means `mutated`.
    pub fn matches(&self, mutated: &Mutated) -> bool {
        let site = &mutated.mutation.site;
        self.operation == site.operation
            && self.mutants.contains(&mutated.mutation.mutant)
            && (self.kernels.is_empty() || self.kernels.contains(&mutated.kernel))
            && site.place.file.ends_with(self.source.path)
            && self.stands_at(site.place.line, site.place.column)
    }

    /// Whether the source reads so from this line and column on, both from 1.
    fn stands_at(&self, line: u32, column: u32) -> bool {
        let mut lines = self.source.text.lines().skip(line as usize - 1);
        let first = lines.next().unwrap_or_default().chars().skip(column as usize - 1);
        let mut here = first.chain(lines.flat_map(str::chars)).filter(|c| !c.is_whitespace());
        self.reads.chars().filter(|c| !c.is_whitespace()).all(|c| here.next() == Some(c))
    }

    /// Whether the source reads so anywhere.
    pub fn is_in_source(&self) -> bool {
        let dense = |text: &str| text.split_whitespace().collect::<String>();
        dense(self.source.text).contains(&dense(self.reads))
    }
}

impl fmt::Display for Equivalent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {:?} {:?}, {}", self.source.path, self.operation, self.mutants, self.reads)
    }
}

macro_rules! sources {
    ($($name:ident $path:literal;)+) => {$(
        const $name: Source = Source { path: $path, text: include_str!(concat!("../", $path)) };
    )+};
}
sources! {
    CLUSTER "device/cluster.rs";
    DEPTHWISE "device/depthwise.rs";
    LAYOUT "device/layout.rs";
    OPTIM "device/optim.rs";
    PAIRS "device/pairs.rs";
    PAIRS_DOTS "device/pairs/dots.rs";
    PAIRS_GRADIENT "device/pairs/gradient.rs";
    PAIRS_SYMMETRIC "device/pairs/symmetric.rs";
    PAIRS_TENSOR "device/pairs/tensor.rs";
    PAIRS_TERM "device/pairs/term.rs";
    REDUCE "device/reduce.rs";
    ROW "device/reduce/row.rs";
    ROW_BLOCK "device/reduce/row/block.rs";
    ROW_HALF_WARP "device/reduce/row/half_warp.rs";
    RUN "device/run.rs";
    SAMPLES "device/samples.rs";
    SORT "device/sort.rs";
    TENSOR_CORE "device/tensor_core.rs";
    TILE "device/tile.rs";
}

macro_rules! equivalents {
    ($($source:ident: $operation:ident [$($mutant:ident)+] $reads:literal $(of [$($kernel:literal)+])? => $reason:expr;)+) => {
        &[$(Equivalent {
            source: $source,
            reads: $reads,
            kernels: &[$($($kernel),+)?],
            operation: Operation::$operation,
            mutants: &[$($mutant),+],
            reason: $reason,
        }),+]
    };
}

const NEUTRAL_BATCH: &str = "a batch past the end holds neutral terms alone, which change no bit, and stores nothing";
const NEUTRAL_ABSENT: &str = "an absent element is (-0, +0), which changes no bit of these sums: they start from +0";
const LANES_SWAPPED: &str = "lanes 2 i and 2 i + 1 change places: they meet in the fold's last step, which commutes";
const LARGEST_SWAPPED: &str = "lanes 2 i and 2 i + 1 change places: the largest may become the other of -0 and +0, and \
    a row that has both shows no difference when it is shifted by either";
const WORDS_SWAPPED: &str = "words 2 i and 2 i + 1 change places in both operands: the same products are added, in an \
    order that a tensor core does not promise";
const NO_DEPTH: &str = "a step of depth 0 multiplies nothing, and all threads pass its barrier";
const WHOLE_FOURS: &str = "positions and end are multiples of 4: none is the last alone";
const SAME_ELEMENTS: &str = "the path for what is cut by the end moves the elements of a whole part just as well";

/// The equivalent mutations of the kernels of [`crate::device`]. Those of a loop over u32 that goes on past its end
/// hold where arithmetic wraps, as on a GPU and in release builds; with overflow checks some are caught.
pub static EQUIVALENT: &[Equivalent] = equivalents! {
    RUN: Within [EndMinus] "within(first + (run - 1), n)" => SAME_ELEMENTS;
    LAYOUT: Within [EndMinus] "within(row + (TILE - 1), rows)" => SAME_ELEMENTS;
    LAYOUT: Within [EndMinus] "within(col + (TILE - 1), cols)" => SAME_ELEMENTS;

    ROW: Within [EndPlus EndRemoved] "within(row, rows) { row }" of ["group_norm"]
        => "where a row past the last would lie is not asked: that row has no elements";
    ROW_HALF_WARP: Within [EndPlus EndRemoved] "within(self.lane + WIDTH * i as u32, self.len)" of
        ["group_norm_grad" "l2_normalize" "l2_normalize_grad" "layer_norm_grad" "log_softmax_grad" "row_mean" "row_sum"
        "softmax_grad"] => NEUTRAL_ABSENT;
    ROW_HALF_WARP: Within [EndPlus EndRemoved] "within(j, self.len) { results[i] = value(j, self.values[i])"
        => "what is computed of an absent element is not stored";
    ROW_HALF_WARP: Strided [EndPlus EndRemoved] "strided(self.lane, self.len, WIDTH * BATCH as u32)" => NEUTRAL_BATCH;
    ROW_BLOCK: Strided [EndPlus EndRemoved] "strided(0, self.len, tile)"
        => "a tile past the end holds neutral terms alone, and all threads pass its barrier";
    ROW_BLOCK: Write [IndexFlipped] "set(plane(which, p)" => LANES_SWAPPED;
    ROW_BLOCK: Read [IndexFlipped] "get(plane(which, p)" => LANES_SWAPPED;
    ROW_BLOCK: Strided [EndPlus EndRemoved] "strided(part * each, (part + 1) * each, BATCH as u32)"
        => "a batch past this part's end takes no element: those behind it belong to the next part";
    ROW_BLOCK: Within [EndPlus EndRemoved] "within(q, (part + 1) * each)"
        => "elements of the next part are taken twice, which changes no extremum";
    ROW_BLOCK: Write [IndexFlipped] "set(thread_idx().x, best)" of ["softmax" "log_softmax" "log_sum_exp"]
        => LARGEST_SWAPPED;
    ROW_BLOCK: Read [IndexFlipped] "get(part as u32 * WIDTH + lane)" of ["softmax" "log_softmax" "log_sum_exp"]
        => LARGEST_SWAPPED;
    ROW_BLOCK: Strided [EndPlus EndRemoved] "strided(thread_idx().x, self.len, THREADS * BATCH as u32)" => NEUTRAL_BATCH;
    REDUCE: Strided [EndPlus EndRemoved] "strided(0, len, WIDTH)" => NEUTRAL_BATCH;
    REDUCE: Strided [EndPlus EndRemoved] "strided(ty, len, 8 * WIDTH)" => NEUTRAL_BATCH;
    REDUCE: Strided [EndPlus EndRemoved] "strided(thread_idx().x % WIDTH, len, 16 * WIDTH)" => NEUTRAL_BATCH;

    SAMPLES: Within [EndPlus EndRemoved] "within(channel, channels)"
        => "where a channel past the last would lie is not asked: `channel` says that there is none";
    SAMPLES: Strided [EndPlus] "strided(0, chunks, side)"
        => "a round behind the last chunk joins none, and all threads pass its barriers";
    SAMPLES: Strided [EndPlus EndRemoved] "strided(start, end, BATCH as u32)" => NEUTRAL_BATCH;

    CLUSTER: Strided [EndPlus EndRemoved] "strided(0, k, TILE)"
        => "a tile behind the last centroid changes no minimum: a centroid is taken within k alone";
    CLUSTER: Strided [EndPlus EndRemoved] "strided(0, d, CHUNK as u32)"
        => "an empty chunk adds +0, which makes of a product -0 a +0: the value, of which -0 is written as +0, is the same";
    CLUSTER: Strided [EndPlus] "load_turned(x, row_tile"
        => "the element behind the tile's last goes to the tile's padding, which is not read";
    CLUSTER: Strided [EndPlus] "load_turned(centroids, centroid_tile"
        => "the element behind the tile's last goes to the tile's padding, which is not read";
    CLUSTER: Strided [EndPlus] "strided(0, d - start, 1)"
        => "position d of a cut tile is 0 in both operands: fma(0, 0, s) makes +0 of -0 at most, and a value -0 is \
            written as +0";
    CLUSTER: Strided [EndPlus EndRemoved] "strided(0, n, CHUNK as u32)"
        => "a chunk behind the last row has no members and is no term";

    TILE: Strided [EndPlus] "strided(start, end, DEPTH)" of
        ["matmul" "matmul_small" "linear_weight_grad_leaves" "linear_weight_grad_leaves_small"]
        => "a step of depth 0 multiplies nothing, and all threads pass its barrier";
    TILE: Within [EndMinus] "within(column, here)"
        => "where four elements are written at once, columns come in fours: none is the last alone";
    DEPTHWISE: Strided [EndPlus EndRemoved] "strided(0, rows, WARPS * CHUNK as u32)"
        => "a round behind the last row has chunks without terms, which the total passes over";
    DEPTHWISE: Within [EndPlus EndRemoved] "within(out, c_out) { rows"
        => "lanes behind the last channel compute that channel's sum again, and do not write it";

    TENSOR_CORE: Within [EndPlus EndRemoved] "within(row, rows) { columns }" of ["matmul_bf16_nt" "matmul_tf32_nt"]
        => "a line behind the last repeats that line, and its products are not written";
    TENSOR_CORE: Within [EndMinus] "within(column + 3, here)" => SAME_ELEMENTS;
    TENSOR_CORE: Within [EndPlus] "within(column + 3, here)" of
        ["matmul_bf16" "matmul_bf16_nt" "matmul_bf16_tn" "matmul_tf32" "matmul_tf32_nt" "matmul_tf32_tn"]
        => "these matrices are as wide as their pitch: where that is a multiple of 4, no four elements are cut";
    TENSOR_CORE: Within [EndPlus] "within(column + 3, here)" of ["conv2d_bf16" "conv2d_tf32"]
        => "the fourth element is a weight of the next group, in a line behind this group's last, which is not written";
    TENSOR_CORE: Write [IndexFlipped] "set(line * LINE_PITCH + word + j" of ["matmul_bf16_nt" "matmul_tf32_nt"]
        => WORDS_SWAPPED;
    TENSOR_CORE: Read [IndexFlipped] "get(if ALONG_K" of ["matmul_bf16_nt" "matmul_tf32_nt"]
        => WORDS_SWAPPED;

    SORT: Strided [EndPlus] "strided(0, cols, TILE)" => "a tile behind the last column has no elements";
    SORT: SyncWarp [Removed] "sync_warp(ALL_LANES); }" of ["cumsum_rows"]
        => "the last of the loop's three: what a lane read of the tile, it alone writes in the next turn";
    OPTIM: Strided [EndMinus] "strided(lane, fours, 4 * STEP)"
        => "the end is a multiple of 64 and a lane's position is below 16 modulo 64: none is the last alone";

    PAIRS: Strided [EndPlus EndRemoved] "strided(start, end, BLOCK)" of ["pair_rows_online"]
        => "a block behind the last joins with exp(-infinity) = 0 times +0: sums, which have a term of size 1, stay";
    PAIRS_DOTS: Strided [EndPlus] "strided(0, rows.d, LEN)" of
        ["pair_grad_fixed" "pair_grad_fixed_wide" "pair_grad_online" "pair_grad_online_wide" "pair_grad_softplus"
        "pair_grad_softplus_wide"]
        => "rows have at most 256 elements: there is one chunk, far from its end";
    PAIRS_DOTS: Strided [EndPlus] "strided(start, end, DEPTH)" => NO_DEPTH;
    PAIRS_DOTS: Strided [EndMinus] "strided(0, fours, 4)" => WHOLE_FOURS;
    PAIRS_GRADIENT: Strided [EndPlus] "strided(first, end, STEP)" => NO_DEPTH;
    PAIRS_GRADIENT: Strided [EndMinus] "strided(0, fours, 4)" => WHOLE_FOURS;
    PAIRS_TERM: Within [EndPlus EndRemoved] "within(column, self.columns) && self.allows" of
        ["pair_grad_fixed" "pair_grad_fixed_wide" "pair_grad_online" "pair_grad_online_wide" "pair_grad_softplus"
        "pair_grad_softplus_wide" "pair_weights_fixed" "pair_weights_online" "pair_weights_softplus"]
        => "G behind the last column is neither read nor written";
    PAIRS_SYMMETRIC: Within [EndPlus EndMinus EndRemoved] "within(row, n) { sums.take"
        => "sums of columns are kept right of the diagonal alone, where a block of rows is whole";
    PAIRS_TENSOR: Within [EndPlus EndRemoved] "within(line, self.count)" of
        ["pair_rows_bf16_fixed" "pair_rows_bf16_online"]
        => "a line behind the last repeats that line, and its products are not counted";
    PAIRS_TENSOR: Within [EndMinus] "within(at, here) { self.data.get4(start)" => WHOLE_FOURS;
};
