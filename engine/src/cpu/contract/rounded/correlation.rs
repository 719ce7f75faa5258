//! Convolution forward and input gradient.
#![allow(unsafe_code)]

use super::super::super::bf16::{
    BLOCK, EDGE, Layout, Packed, Pairs, Run, Session, Side, Unit, add_block, pair_columns, pair_rows,
};
use super::super::conv::{ConvShape, Gathering, Pixels};
use super::super::micro::Piece;
use super::super::pack::Operand;
use super::super::{Context, SharedMut};
use super::{CHUNK_BLOCKS, round, rounded};
use selfsame_kernels::{elementwise, stamp};
use std::ops::Range;

/// Blocks of rows of a task: so many times its blocks of the weight serve while they are in a cache.
const ROW_BLOCKS: usize = 4;

/// y = x * weight.
///
/// # Panics
/// When lengths do not fit the shape, or the channels the groups: the caller checks its operands.
pub(crate) fn conv2d(cx: &Context<'_>, shape: &ConvShape, x: &[f32], weight: &[f32], y: &mut [f32]) {
    assert_eq!([x.len(), weight.len(), y.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    correlate(cx, &Gathering::of_inputs(shape), x, weight, None, y);
}

/// y = x * weight + bias for each pixel, of a shape without groups.
///
/// # Panics
/// As for [`conv2d`], and when the bias has another length than a pixel of y.
pub(crate) fn linear(
    cx: &Context<'_>,
    shape: &ConvShape,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    y: &mut [f32],
) {
    assert_eq!([x.len(), weight.len(), y.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    assert!(shape.groups == 1 && bias.is_none_or(|bias| bias.len() == shape.c_out), "bias length");
    correlate(cx, &Gathering::of_inputs(shape), x, weight, bias, y);
}

/// dx from dy.
///
/// # Panics
/// As for [`conv2d`].
pub(crate) fn conv2d_input_grad(cx: &Context<'_>, shape: &ConvShape, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
    assert_eq!([dx.len(), weight.len(), dy.len()], [shape.x_len(), shape.weight_len(), shape.y_len()], "lengths");
    correlate(cx, &Gathering::of_outputs(shape), dy, weight, None, dx);
}

fn correlate(
    cx: &Context<'_>,
    gathering: &Gathering,
    from: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    to: &mut [f32],
) {
    if from.is_empty() || weight.is_empty() {
        return to.fill(0.0);
    }
    let unit = Unit::beside(cx.isa);
    let [depth, columns] = gathering.channels();
    // Where a tap's positions are whole fours, what is gathered is arranged already.
    let (arranged, later) =
        if depth.is_multiple_of(4) { (unit.pairs(), Pairs::Neighbours) } else { (Pairs::Neighbours, unit.pairs()) };
    let from = rounded(cx, from, arranged, 0);
    let pixels = Pixels::new(gathering);
    let classes =
        pixels.classes.iter().map(|class| class.pieces.iter().enumerate().map(Chunk::new).collect()).collect();
    let correlation = Correlation { pixels: &pixels, classes, unit, later, columns, bias };
    let tasks = correlation.tasks(cx.threads());
    for group in 0..gathering.groups {
        let [first_from, first_to] = gathering.first_channels(group);
        let operand = gathering.weight(weight, group);
        let size = [operand.n, operand.k];
        let weight = Packed::filled(cx, size, Side::Right, unit.pairs(), |column, position, to| {
            fill(cx, &operand, column, position, to);
        });
        let to = SharedMut::new(to);
        cx.run(tasks.len(), |task| correlation.run(cx, &tasks[task], &from[first_from..], &weight, (to, first_to)));
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
    /// Whether they fill the blocks.
    is_full: bool,
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
        Chunk { moves, is_full, runs, count: taken.len() }
    }

    /// Operands of the product with the columns of block `column`.
    fn runs<'b>(&'b self, left: &'b [u16], weight: &'b Packed<'_>, column: usize) -> impl Iterator<Item = Run<'b>> {
        let mut rest = left;
        self.runs.iter().map(move |blocks| {
            let (left, after) = rest.split_at(blocks.len() * BLOCK);
            rest = after;
            Run { left, right: weight.blocks(column, blocks.clone()) }
        })
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
    /// Channels of a group that are written.
    columns: usize,
    /// What is added to each row's sums.
    bias: Option<&'a [f32]>,
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
        (to, first): (SharedMut<f32>, usize),
    ) {
        let Task { class, ref rows } = *task;
        let [row_blocks, across] = [rows.len(), self.columns].map(|n| n.div_ceil(EDGE));
        let rows_of = |block: usize| rows.start + block * EDGE..rows.end.min(rows.start + (block + 1) * EDGE);
        let mut left = cx.scratch.lease::<u16>(row_blocks * CHUNK_BLOCKS * BLOCK);
        let mut sums = cx.scratch.lease::<f32>(row_blocks * across * BLOCK);
        let mut session = self.unit.open();
        let mut is_first = true;
        for chunk in self.classes[class].iter().filter(|chunk| chunk.count > 0) {
            for (block, left) in left.chunks_exact_mut(CHUNK_BLOCKS * BLOCK).enumerate() {
                self.gather(cx, class, chunk, rows_of(block), from, &mut left[..chunk.count * BLOCK]);
            }
            let mut runs = Vec::with_capacity(chunk.runs.len());
            for column in 0..across {
                for (block, left) in left.chunks_exact(CHUNK_BLOCKS * BLOCK).enumerate() {
                    runs.clear();
                    runs.extend(chunk.runs(left, weight, column));
                    let sums = &mut sums[(block * across + column) * BLOCK..][..BLOCK];
                    add_product(cx, &mut session, Layout::Rows, &runs, is_first, sums);
                }
            }
            is_first = false;
        }
        if is_first {
            sums.fill(0.0);
        }
        let mut outputs = [0; EDGE];
        for (block, sums) in sums.chunks_exact(across * BLOCK).enumerate() {
            let rows = rows_of(block);
            let outputs = &mut outputs[..rows.len()];
            self.pixels.outputs(class, rows.start, outputs);
            for (row, output) in outputs.iter().enumerate() {
                // SAFETY: each pixel is a row of one class, and each row one task's.
                let to = unsafe { to.slice(output + first, self.columns) };
                copy_sums(cx.isa, &sums[row * EDGE..], to);
                self.bias.inspect(|bias| elementwise::add_assign(cx.isa, bias, to));
            }
        }
    }

    /// Left blocks of the chunk for up to 32 rows.
    fn gather(&self, cx: &Context<'_>, class: usize, chunk: &Chunk, rows: Range<usize>, from: &[u16], to: &mut [u16]) {
        let mut starts = [0; EDGE];
        let starts = &mut starts[..rows.len()];
        self.pixels.for_each_source(class, rows.start, rows.len(), |row, start| starts[row] = start);
        if chunk.is_full {
            copy_full(cx.isa, from, starts, &chunk.moves, to);
        } else {
            to.fill(0);
            copy_ragged(cx.isa, from, starts, &chunk.moves, to);
        }
        self.later.arrange(cx.isa, Side::Left, to);
    }
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

    /// A row of blocks of sums, the first of which begins `sums`.
    fn copy_sums(sums: &[f32], to: &mut [f32]) {
        let (full, rest) = to.as_chunks_mut::<EDGE>();
        for (to, sums) in full.iter_mut().zip(sums.chunks(BLOCK)) {
            to.copy_from_slice(&sums[..EDGE]);
        }
        if !rest.is_empty() {
            rest.copy_from_slice(&sums[full.len() * BLOCK..][..rest.len()]);
        }
    }
}

/// Adds the product of one chunk to a block of sums, or writes it if it is the first.
pub(super) fn add_product(
    cx: &Context<'_>,
    session: &mut Session,
    layout: Layout,
    runs: &[Run<'_>],
    is_first: bool,
    sums: &mut [f32],
) {
    if is_first {
        session.product(layout, runs, sums, EDGE);
    } else {
        let mut product = [0f32; BLOCK];
        session.product(layout, runs, &mut product, EDGE);
        add_block(cx.isa, &product, false, EDGE, EDGE, sums);
    }
}
