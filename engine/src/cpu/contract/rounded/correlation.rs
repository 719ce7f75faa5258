//! Convolution forward and input gradient.
#![allow(unsafe_code)]

use super::super::super::bf16::{
    BLOCK, EDGE, InPlace, Layout, Packed, Pairs, Run, Side, Unit, pair_columns, pair_rows,
};
use super::super::super::past::Writing;
use super::super::conv::{Gathering, Pixels};
use super::super::micro::Piece;
use super::super::pack::Operand;
use super::super::{Context, SharedMut};
use super::{CHUNK_BLOCKS, Rounded, add_product, round};
use selfsame_kernels::stamp;
use std::ops::Range;

/// Blocks of rows of a task: so many times its blocks of the weight serve while they are in a cache.
const ROW_BLOCKS: usize = 4;

/// Writes what each pixel of one side gathers from the other side, plus a bias for each pixel.
pub(super) fn correlate(
    cx: &Context<'_>,
    gathering: &Gathering,
    from: &Rounded<'_>,
    weight: &[f32],
    bias: Option<&[f32]>,
    to: &mut [f32],
) {
    if from.len == 0 || weight.is_empty() {
        return to.fill(0.0);
    }
    let unit = Unit::beside(cx.isa);
    let [_, columns] = gathering.channels();
    let later = if from.pairs == unit.pairs() { Pairs::Neighbours } else { unit.pairs() };
    let writing = Writing::of(to);
    let pixels = Pixels::new(gathering);
    let classes =
        pixels.classes.iter().map(|class| class.pieces.iter().enumerate().map(Chunk::new).collect()).collect();
    let reads_in_place = unit.reads_in_place() && later == Pairs::Neighbours;
    let correlation = Correlation { pixels: &pixels, classes, unit, later, reads_in_place, columns, bias, writing };
    let tasks = correlation.tasks(cx.threads());
    for group in 0..gathering.groups {
        let [first_from, first_to] = gathering.first_channels(group);
        let operand = gathering.weight(weight, group);
        let size = [operand.n, operand.k];
        let weight = Packed::filled(cx, size, Side::Right, unit.pairs(), |column, position, to| {
            fill(cx, &operand, column, position, to);
        });
        let to = SharedMut::new(to);
        cx.run(tasks.len(), |task| {
            correlation.run(cx, &tasks[task], &from.bits[first_from..], &weight, (to, first_to))
        });
    }
}

/// The block of columns `column ..` and positions `position ..`, whose pairs are neighbours.
fn fill(cx: &Context<'_>, operand: &Operand<'_, f32>, column: usize, position: usize, to: &mut [u16]) {
    let Operand { data, k, n, inner, outer_stride, row_stride, col_stride } = *operand;
    let (columns, positions) = (EDGE.min(n - column), EDGE.min(k - position));
    let start = |position: usize| position / inner * outer_stride + position % inner * row_stride;
    let mut lines = [0u16; BLOCK];
    if col_stride == 1 {
        for (line, to) in lines.as_chunks_mut::<EDGE>().0.iter_mut().enumerate().take(positions) {
            round(cx.isa, &data[start(position + line) + column..][..columns], &mut to[..columns]);
        }
        pair_rows(cx.isa, &lines, to);
    } else {
        for (line, to) in lines.as_chunks_mut::<EDGE>().0.iter_mut().enumerate().take(columns) {
            let mut done = 0;
            while done < positions {
                let at = position + done;
                let len = (inner - at % inner).min(positions - done);
                round(cx.isa, &data[start(at) + (column + line) * col_stride..][..len], &mut to[done..done + len]);
                done += len;
            }
        }
        pair_columns(cx.isa, &lines, to);
    }
}

/// What a class's rows gather for one chunk.
struct Chunk {
    /// Copies that stay in a block: `at` counts from the row of the first block.
    moves: Vec<Piece>,
    /// Where the blocks of a row lie, from its source pixel, if each is one copy.
    deltas: Option<Vec<isize>>,
    /// Blocks of positions of which any takes part, neighbours joined.
    runs: Vec<Range<usize>>,
    /// How many blocks that is.
    count: usize,
}

impl Chunk {
    fn new((chunk, copies): (usize, &Vec<Piece>)) -> Chunk {
        let (mut moves, mut taken) = (Vec::new(), Vec::<usize>::new());
        for copy in copies {
            let mut done = 0;
            while done < copy.len {
                let at = copy.at + done;
                let len = (EDGE - at % EDGE).min(copy.len - done);
                if taken.last() != Some(&(at / EDGE)) {
                    taken.push(at / EDGE);
                }
                let delta = copy.delta + done.cast_signed();
                moves.push(Piece { delta, at: (taken.len() - 1) * BLOCK + at % EDGE, len });
                done += len;
            }
        }
        let mut runs: Vec<Range<usize>> = Vec::new();
        for block in taken.iter().map(|block| chunk * CHUNK_BLOCKS + block) {
            match runs.last_mut() {
                Some(last) if last.end == block => last.end += 1,
                _ => runs.push(block..block + 1),
            }
        }
        let is_full = moves.iter().all(|copy| copy.len == EDGE);
        let deltas = is_full.then(|| moves.iter().map(|copy| copy.delta).collect());
        Chunk { moves, deltas, runs, count: taken.len() }
    }
}

/// Rows of a class.
struct Task {
    class: usize,
    rows: Range<usize>,
}

/// What all groups of channels have in common.
struct Correlation<'a> {
    pixels: &'a Pixels<'a>,
    /// By class, then by chunk.
    classes: Vec<Vec<Chunk>>,
    unit: Unit,
    /// How to arrange what was gathered.
    later: Pairs,
    /// Whether blocks that lie in one piece need not be gathered.
    reads_in_place: bool,
    /// Channels of a group that are written.
    columns: usize,
    /// What is added to each row's sums.
    bias: Option<&'a [f32]>,
    /// How rows are written.
    writing: Writing,
}

impl Correlation<'_> {
    fn tasks(&self, threads: usize) -> Vec<Task> {
        let step = EDGE * self.pixels.rows().div_ceil(EDGE * 4 * threads).clamp(1, ROW_BLOCKS);
        let cut = |(class, rows): (usize, usize)| {
            (0..rows).step_by(step).map(move |first| Task { class, rows: first..rows.min(first + step) })
        };
        self.pixels.classes.iter().map(|class| class.rows).enumerate().flat_map(cut).collect()
    }

    /// The rows of a task for one group, whose channels begin with the first of `from` and with channel `first` of `to`.
    fn run(
        &self,
        cx: &Context<'_>,
        task: &Task,
        from: &[u16],
        weight: &Packed<'_>,
        (to, first_channel): (SharedMut<f32>, usize),
    ) {
        let Task { class, ref rows } = *task;
        let across = self.columns.div_ceil(EDGE);
        let blocks: Vec<RowBlock> =
            rows.clone().step_by(EDGE).map(|row| self.block(class, row..rows.end.min(row + EDGE))).collect();
        let chunks: Vec<&Chunk> = self.classes[class].iter().filter(|chunk| chunk.count > 0).collect();
        let mut copied = cx.scratch.lease::<u16>(blocks.len() * CHUNK_BLOCKS * BLOCK);
        let mut sums = cx.scratch.lease::<f32>(blocks.len() * across * BLOCK);
        let mut session = self.unit.open();
        let mut rights = Vec::new();
        for (i, chunk) in chunks.iter().enumerate() {
            let copies = copied.chunks_exact_mut(CHUNK_BLOCKS * BLOCK).map(|to| &mut to[..chunk.count * BLOCK]);
            let lefts: Vec<Left<'_>> =
                blocks.iter().zip(copies).map(|(block, to)| self.left(cx, chunk, block, from, to)).collect();
            for left in &lefts {
                if let Left::InPlace(left) = left {
                    left.ask();
                }
            }
            for column in 0..across {
                rights.clear();
                rights.extend(chunk.runs.iter().map(|blocks| weight.blocks(column, blocks.clone())));
                let sums = sums.chunks_exact_mut(across * BLOCK);
                for (left, sums) in lefts.iter().zip(sums) {
                    let sums = &mut sums[column * BLOCK..][..BLOCK];
                    add_product(cx, i == 0, sums, |to| match left {
                        Left::InPlace(left) => session.product_in_place(left, &rights, to, EDGE),
                        Left::Blocks(left) => session.product(Layout::Rows, &runs(left, &rights), to, EDGE),
                    });
                }
            }
        }
        if chunks.is_empty() {
            sums.fill(0.0);
        }
        for (block, sums) in blocks.iter().zip(sums.chunks_exact_mut(across * BLOCK)) {
            if let Some(bias) = self.bias {
                add_bias(cx.isa, bias, sums);
            }
            for (row, output) in block.outputs[..block.rows].iter().enumerate() {
                // SAFETY: each pixel is a row of one class, and each row one task's.
                let to = unsafe { to.slice(output + first_channel, self.columns) };
                put(cx.isa, &sums[row * EDGE..], self.writing, to);
            }
        }
    }

    fn block(&self, class: usize, rows: Range<usize>) -> RowBlock {
        let mut block = RowBlock { rows: rows.len(), sources: [0; EDGE], outputs: [0; EDGE] };
        self.pixels.for_each_source(class, rows.start, rows.len(), |row, start| block.sources[row] = start);
        self.pixels.outputs(class, rows.start, &mut block.outputs[..rows.len()]);
        let first = block.sources[0];
        block.sources[rows.len()..].fill(first);
        block
    }

    /// The blocks of some rows for one chunk: where they lie, or else copied to `to`.
    fn left<'b>(
        &self,
        cx: &Context<'_>,
        chunk: &'b Chunk,
        rows: &'b RowBlock,
        from: &'b [u16],
        to: &'b mut [u16],
    ) -> Left<'b> {
        let starts = &rows.sources[..rows.rows];
        match &chunk.deltas {
            Some(deltas) if self.reads_in_place => return Left::InPlace(InPlace::new(from, &rows.sources, deltas)),
            Some(_) => copy_full(cx.isa, from, starts, &chunk.moves, to),
            None => {
                to.fill(0);
                copy_ragged(cx.isa, from, starts, &chunk.moves, to);
            }
        }
        self.later.arrange(cx.isa, Side::Left, to);
        Left::Blocks(to)
    }
}

/// Up to 32 rows of a task.
struct RowBlock {
    rows: usize,
    /// Where their source pixels start, and that of the first in place of rows that there are not.
    sources: [usize; EDGE],
    /// Where their outputs start.
    outputs: [usize; EDGE],
}

/// The rows of a block for one chunk.
enum Left<'a> {
    /// Copied.
    Blocks(&'a [u16]),
    /// As they lie.
    InPlace(InPlace<'a>),
}

/// Left blocks, one after another, with their right ones.
fn runs<'a>(mut left: &'a [u16], rights: &[&'a [u16]]) -> Vec<Run<'a>> {
    let run = |right: &&'a [u16]| {
        let (of_right, rest) = left.split_at(right.len());
        left = rest;
        Run { left: of_right, right }
    };
    rights.iter().map(run).collect()
}

stamp! {
    /// The moves of rows whose source pixels are at `starts`, each a block wide.
    fn copy_full(from: &[u16], starts: &[usize], moves: &[Piece], to: &mut [u16]) {
        for (row, start) in starts.iter().enumerate() {
            for Piece { delta, at, .. } in moves {
                to[row * EDGE + at..][..EDGE].copy_from_slice(&from[start.wrapping_add_signed(*delta)..][..EDGE]);
            }
        }
    }

    /// The same, of any width.
    fn copy_ragged(from: &[u16], starts: &[usize], moves: &[Piece], to: &mut [u16]) {
        for (row, start) in starts.iter().enumerate() {
            for &Piece { delta, at, len } in moves {
                to[row * EDGE + at..][..len].copy_from_slice(&from[start.wrapping_add_signed(delta)..][..len]);
            }
        }
    }

    /// Adds the bias of each column to blocks of sums.
    fn add_bias(bias: &[f32], sums: &mut [f32]) {
        for (sums, bias) in sums.chunks_exact_mut(BLOCK).zip(bias.chunks(EDGE)) {
            for sums in sums.as_chunks_mut::<EDGE>().0 {
                for (sum, bias) in sums.iter_mut().zip(bias) {
                    *sum += *bias;
                }
            }
        }
    }

    /// Writes a row of blocks of sums, the first of which begins `sums`.
    fn put(sums: &[f32], writing: Writing, to: &mut [f32]) {
        let (full, rest) = to.as_chunks_mut::<EDGE>();
        for (to, sums) in full.iter_mut().zip(sums.chunks(BLOCK)) {
            writing.copy(&sums[..EDGE], to);
        }
        if !rest.is_empty() {
            writing.copy(&sums[full.len() * BLOCK..][..rest.len()], rest);
        }
    }
}
