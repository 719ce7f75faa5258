//! Left operands, whose rows the row kernel reads where they are, or from a copy.
//!
//! In both cases the kernel asks for the rows of the tile after it reads those of this one, or memory would be waited for
//! at the start of every tile. Least times of nine and more, two cores of an AMD EPYC, in ms, copied; in place; in place
//! and asked for: 1 x 1 of 64 channels at 56 x 56 2.9, 3.0, 2.4; 256 to 64 channels 10.8, 10.8, 8.3; 256 to 128 18.1,
//! 18.1, 16.0; 3 x 3 of 64 channels at 32 x 32 23.9, 23.0, 22.3; 7 x 7 stem 21.7, 19.3, 19.1. Copies were the better
//! for eight panels of 3 x 3 of 256 channels (18.8 to 19.4) and for rows that crowd the cache (512 channels at 4 x 4
//! 16.7 to 18.2).

use super::lanes::Real;
use super::micro::{A_STRIDE, MAX_ROWS, Piece, Rows};
use std::marker::PhantomData;

/// `rows` rows of a class from `first`.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) class: usize,
    pub(super) first: usize,
    pub(super) rows: usize,
}

/// Rows with the same taps.
pub(super) struct Class {
    pub(super) rows: usize,
    /// By chunk: what of a row, from its start in memory, takes part in its sums. Empty where nothing does.
    pub(super) pieces: Vec<Vec<Piece>>,
}

impl Class {
    /// Positions that take part.
    pub(super) fn depth(&self) -> usize {
        self.pieces.iter().flatten().map(|piece| piece.len).sum()
    }
}

/// Where the rows of a tile start.
pub(super) type Starts<T> = [*const T; MAX_ROWS];

/// A left operand.
pub(super) trait Source<T>: Sync {
    fn classes(&self) -> &[Class];

    /// Elements between the starts of neighbouring rows, if the elements of a row's pieces are next to each other.
    fn pitch(&self) -> Option<usize>;

    /// Where rows `first ..` of the class start: one of `to` each. Only where there is a pitch.
    fn starts(&self, class: usize, first: usize, to: &mut [*const T]);

    /// Copies, for rows `first .. first + rows` of the class, the positions of the chunk that take part:
    /// position k of row m goes to `to[m * A_STRIDE + k]`.
    fn load(&self, class: usize, first: usize, rows: usize, chunk: usize, to: &mut [T]);

    /// Where the outputs of rows `first ..` of the class start, in elements from the start of C: one of `to` each.
    fn outputs(&self, class: usize, first: usize, to: &mut [usize]);
}

/// From so many panels on that read it, a copy is no more than the conflicts in the first-level cache that it avoids.
const REPAID: usize = 8;

/// Rows in pieces shorter than that are not worth asking for ahead.
const SHORT: usize = 32;

/// Whether so many rows at this pitch fall into the same sets of a first-level cache of 64 sets and 8 ways that a tile
/// of them does not stay there.
fn crowd<T>(pitch: usize) -> bool {
    (pitch * size_of::<T>()).is_multiple_of(2048)
}

/// The tiles of A on their way to the row kernel: in place where that is possible, else copied.
pub(super) struct Left<'a, T, S> {
    source: &'a S,
    is_in_place: bool,
    /// Of copied tiles, by class and chunk: the pieces of the copy.
    copied: Vec<Vec<Vec<Piece>>>,
    marker: PhantomData<T>,
}

impl<'a, T: Real, S: Source<T>> Left<'a, T, S> {
    /// For a right operand of so many panels.
    pub(super) fn new(source: &'a S, panels: usize) -> Left<'a, T, S> {
        let is_in_place = panels < REPAID && source.pitch().is_some_and(|pitch| !crowd::<T>(pitch));
        let of_class = |class: &Class| class.pieces.iter().map(|pieces| joined(pieces)).collect();
        let copied = if is_in_place { Vec::new() } else { source.classes().iter().map(of_class).collect() };
        Left { source, is_in_place, copied, marker: PhantomData }
    }

    /// Where the rows of a tile start in memory, the first in place of those that it has not; null where there is no pitch.
    pub(super) fn starts(&self, tile: Tile) -> Starts<T> {
        let mut starts = [std::ptr::null(); MAX_ROWS];
        if self.source.pitch().is_some() {
            self.source.starts(tile.class, tile.first, &mut starts[..tile.rows]);
            let first = starts[0];
            starts[tile.rows..].fill(first);
        }
        starts
    }

    /// The rows of a tile that has pieces in this chunk, and the pieces; `scratch` is for the copy. Meanwhile the kernel
    /// asks for those of the next tile.
    pub(super) fn rows<'b>(
        &'b self,
        tile: Tile,
        chunk: usize,
        [starts, next]: [&Starts<T>; 2],
        scratch: &'b mut [T],
    ) -> (Rows<T>, &'b [Piece]) {
        let in_memory = &self.source.classes()[tile.class].pieces[chunk];
        if self.is_in_place {
            return (Rows::new(starts, if in_memory[0].len < SHORT { starts } else { next }), in_memory);
        }
        self.source.load(tile.class, tile.first, tile.rows, chunk, scratch);
        let pieces = &self.copied[tile.class][chunk];
        let copy = std::array::from_fn(|row| scratch.as_ptr().wrapping_add(row * A_STRIDE));
        let shift = in_memory[0].delta - pieces[0].delta;
        let next = next.map(|start| start.wrapping_offset(shift));
        let is_asked_for = self.source.pitch().is_some() && in_memory[0].len >= SHORT;
        (Rows::new(&copy, if is_asked_for { &next } else { &copy }), pieces)
    }
}

/// The pieces of rows whose position k lies at k.
fn joined(pieces: &[Piece]) -> Vec<Piece> {
    let mut joined: Vec<Piece> = Vec::new();
    for piece in pieces {
        match joined.last_mut() {
            Some(last) if last.at + last.len == piece.at => last.len += piece.len,
            _ => joined.push(Piece { delta: piece.at.cast_signed(), ..*piece }),
        }
    }
    joined
}
