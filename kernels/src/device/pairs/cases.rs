//! Problems for the kernels of pairs, and what the reference makes of them.

use super::*;
use crate::case::{Case, exactly, noise};
use crate::reference::{self, PairTerm};

pub(super) mod gradient;
pub(super) mod tensor;

/// Rows, columns, and which pairs are left out.
#[derive(Clone)]
pub(super) struct Problem {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) d: usize,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) own: Vec<u32>,
    pub(super) rules: u32,
    pub(super) row_key: Vec<u32>,
    pub(super) column_key: Vec<u32>,
    pub(super) keep: Vec<u32>,
    pub(super) starts: Vec<u32>,
    pub(super) list: Vec<u32>,
}

impl Problem {
    /// Noise; no rule but that every row but the last has an own column.
    pub(super) fn new([m, n, d]: [usize; 3]) -> Problem {
        let own = |i: usize| if i + 1 < m { (i * 37 % n) as u32 } else { NONE };
        Problem {
            m,
            n,
            d,
            q: noise(m * d, 1),
            k: noise(n * d, 2),
            own: (0..m).map(own).collect(),
            rules: 0,
            row_key: Vec::new(),
            column_key: Vec::new(),
            keep: Vec::new(),
            starts: Vec::new(),
            list: Vec::new(),
        }
    }

    /// With keys: a few columns of each row's key, of which one may be kept.
    pub(super) fn keyed(mut self) -> Problem {
        self.rules |= KEYS;
        self.row_key = (0..self.m as u32).map(|i| i % 5).collect();
        self.column_key = (0..self.n as u32).map(|j| j * 7 % 11).collect();
        let kept = |i: u32| (0..self.n as u32).filter(|j| self.column_key[*j as usize] == i % 5).nth(i as usize % 3);
        self.keep = (0..self.m as u32).map(|i| kept(i).unwrap_or(NONE)).collect();
        self
    }

    /// With lists of several columns a tile, the first and the last column and none.
    pub(super) fn listed(mut self) -> Problem {
        self.rules |= LIST;
        self.starts.push(0);
        for i in 0..self.m {
            match i % 4 {
                0 => self.list.extend((0..self.n as u32).filter(|j| j % 19 == 3)),
                1 => self.list.extend([0, self.n as u32 - 1]),
                2 => self.list.extend((0..self.n as u32).filter(|j| j % 128 < 2)),
                _ => {}
            }
            self.starts.push(self.list.len() as u32);
        }
        self
    }

    /// One row without columns.
    pub(super) fn emptied(mut self) -> Problem {
        self.rules |= LIST;
        (self.starts, self.list) = (vec![0], Vec::new());
        for i in 0..self.m {
            if i == 0 {
                self.list.extend(0..self.n as u32);
            }
            self.starts.push(self.list.len() as u32);
        }
        self
    }

    /// A column that is NaN: it is no row's top.
    pub(super) fn with_nan(mut self) -> Problem {
        self.k[self.d] = f32::NAN;
        self
    }

    /// Pairs with infinite and undefined dot products, all of them left out: the last column, and the row's own.
    fn with_wild_pairs_excluded(mut self) -> Problem {
        let last = self.n - 1;
        self.k[last * self.d] = f32::INFINITY;
        self.k[0] = f32::NAN;
        self.own = vec![0; self.m];
        self.rules |= LIST;
        self.starts = (0..=self.m as u32).collect();
        self.list = vec![last as u32; self.m];
        self
    }

    /// Dot products just below 0, all alike, and no pair left out.
    fn vanishing(mut self) -> Problem {
        self.q.fill(1.0);
        self.k.fill(-1e-12);
        self.own.fill(NONE);
        self
    }

    pub(super) fn excluded(&self, i: usize, j: usize) -> bool {
        let column = j as u32;
        let by_key = self.rules & KEYS != 0 && self.row_key[i] == self.column_key[j] && self.keep[i] != column;
        let listed = || &self.list[self.starts[i] as usize..self.starts[i + 1] as usize];
        self.own[i] == column || by_key || self.rules & LIST != 0 && listed().contains(&column)
    }

    /// (m, n, d), as they are passed.
    pub(super) fn dims(&self) -> [u32; 3] {
        [self.m, self.n, self.d].map(|n| n as u32)
    }

    pub(super) fn named(&self) -> String {
        format!("{} x {} x {}, rules {}", self.m, self.n, self.d, self.rules)
    }

    /// What the kernels of rows write, `each` blocks to a part: every part is a problem of its own.
    fn parts(&self, term: PairTerm<f32>, each: usize) -> (Vec<f32>, Vec<u32>) {
        let length = BLOCK as usize * each;
        let starts: Vec<usize> = (0..self.n).step_by(length).collect();
        let mut planes = vec![Vec::new(); 4];
        let mut tops = Vec::new();
        for start in starts {
            let columns = self.n.min(start + length) - start;
            let k = &self.k[start * self.d..][..columns * self.d];
            let excluded = |i, j| self.excluded(i, start + j);
            let rows = reference::pair_rows([self.m, columns, self.d], &self.q, k, term, excluded);
            for (i, row) in rows.iter().enumerate() {
                let dots = reference::contract(1, columns, self.d, &self.q[i * self.d..][..self.d], &turned(k, self.d));
                let lead = match term {
                    PairTerm::ExpShifted { .. } => 0.0,
                    PairTerm::Exp { scale } => {
                        let x = (0..columns).filter(|j| !excluded(i, *j)).map(|j| dots[j] * scale);
                        x.fold(f32::NEG_INFINITY, Real::max)
                    }
                    PairTerm::Softplus { .. } => row.value,
                };
                let top = row.top.map_or(f32::NEG_INFINITY, |j| dots[j]);
                planes.iter_mut().zip([lead, row.sum, row.weighted_dot, top]).for_each(|(plane, x)| plane.push(x));
                tops.push(row.top.map_or(NONE, |j| (start + j) as u32));
            }
        }
        (planes.concat(), tops)
    }
}

/// `[rows, d]` as `[d, rows]`.
fn turned(x: &[f32], d: usize) -> Vec<f32> {
    let rows = x.len() / d;
    (0..x.len()).map(|at| x[at % rows * d + at / rows]).collect()
}

pub(super) const FIXED_TERM: PairTerm<f32> = PairTerm::ExpShifted { scale: 0.4, shift: 1.5 };
pub(super) const ONLINE_TERM: PairTerm<f32> = PairTerm::Exp { scale: 0.7 };
pub(super) const SOFTPLUS_TERM: PairTerm<f32> = PairTerm::Softplus { scale: 0.3, bias: -0.5 };

/// (scale, bias), as they are passed.
pub(super) fn numbers(term: PairTerm<f32>) -> [f32; 2] {
    match term {
        PairTerm::ExpShifted { scale, shift } => [scale, -shift],
        PairTerm::Exp { scale } => [scale, -0.0],
        PairTerm::Softplus { scale, bias } => [scale, bias],
    }
}

/// (problem, term, blocks to a part): one pair; rows, columns and positions at the edges of tiles, steps, blocks and
/// chunks; several parts, several blocks to one; a whole block whose sum is -0, to which nothing may be added.
fn problems(term: PairTerm<f32>) -> Vec<(Problem, PairTerm<f32>, usize)> {
    vec![
        (Problem::new([1, 1, 1]), term, 1),
        (Problem::new([3, 63, 3]).with_nan(), term, 1),
        (Problem::new([3, 5, 2]).with_wild_pairs_excluded(), term, 1),
        (Problem::new([1, 3, 512]), term, 1),
        (Problem::new([1, 2, 1030]), term, 1),
        (Problem::new([2, 65, 513]).emptied(), term, 1),
        (Problem::new([65, 130, 20]).keyed(), term, 1),
        (Problem::new([2, 513, 1]).listed(), term, 1),
        (Problem::new([4, 514, 3]).keyed().listed(), term, 2),
        (Problem::new([1, CHUNK, 1]).vanishing(), vanishing(term), 1),
    ]
}

/// The term whose e is so small that e dot rounds to -0 for [`Problem::vanishing`]. Of e relative to the largest x one
/// is 1, which no term can make small.
fn vanishing(term: PairTerm<f32>) -> PairTerm<f32> {
    match term {
        PairTerm::ExpShifted { scale, .. } => PairTerm::ExpShifted { scale, shift: 80.0 },
        PairTerm::Exp { scale } => PairTerm::Exp { scale },
        PairTerm::Softplus { scale, .. } => PairTerm::Softplus { scale, bias: -80.0 },
    }
}

macro_rules! row_cases {
    ($($name:ident $kernel:ident $term:ident;)+) => {$(
        pub(super) fn $name() -> Vec<Case> {
            let case = |(problem, term, each): (Problem, PairTerm<f32>, usize)| {
                let (sums, tops) = problem.parts(term, each);
                let ([m, n, d], [scale, bias], name) = (problem.dims(), numbers(term), problem.named());
                let Problem { q, k, own, rules, row_key, column_key, keep, starts, list, .. } = problem;
                let listed = list.len() as u32;
                $kernel::TestCase {
                    q, k, own, row_key, column_key, keep, starts, list, sums: exactly(sums), tops: exactly(tops),
                    m, n, d, rules, listed, each: each as u32, scale, bias,
                }
                .named(format!("{name}, {each} blocks to a part"))
            };
            problems($term).into_iter().map(case).collect()
        }
    )+};
}
row_cases! {
    fixed_cases pair_rows_fixed FIXED_TERM;
    softplus_cases pair_rows_softplus SOFTPLUS_TERM;
    online_cases pair_rows_online ONLINE_TERM;
}

pub(super) fn symmetric_cases() -> Vec<Case> {
    let case = |(n, d, keyed): (usize, usize, bool)| {
        let mut problem = Problem::new([n, n, d]);
        problem.k.clone_from(&problem.q);
        problem.own = (0..n as u32).collect();
        if keyed {
            problem.rules = KEYS;
            problem.row_key = (0..n as u32).map(|i| i % 7).collect();
            problem.column_key.clone_from(&problem.row_key);
            problem.keep = (0..n as u32).map(|i| (i + 14) % n as u32).collect();
        }
        let (sums, tops) = problem.parts(FIXED_TERM, 1);
        let ([_, n, d], [scale, bias], name) = (problem.dims(), numbers(FIXED_TERM), problem.named());
        let Problem { q, own, rules, row_key: key, keep, .. } = problem;
        let (sums, tops) = (exactly(sums), exactly(tops));
        pair_rows_symmetric::TestCase { q, own, key, keep, sums, tops, n, d, rules, scale, bias }.named(name)
    };
    [(1, 1, false), (2, 512, false), (2, 513, false), (65, 3, true), (1025, 1, true)].map(case).into()
}

pub(super) fn join_cases() -> Vec<Case> {
    let case = |(problem, form, term): (Problem, u32, PairTerm<f32>)| {
        let (sums, tops) = problem.parts(term, 1);
        let dims = [problem.m, problem.n, problem.d];
        let all = reference::pair_rows(dims, &problem.q, &problem.k, term, |i, j| problem.excluded(i, j));
        let shift = if let PairTerm::ExpShifted { shift, .. } = term { shift } else { 0.0 };
        pair_rows_join::TestCase {
            sums,
            tops,
            value: exactly(all.iter().map(|row| row.value).collect()),
            sum: exactly(all.iter().map(|row| row.sum).collect()),
            weighted_dot: exactly(all.iter().map(|row| row.weighted_dot).collect()),
            top: exactly(all.iter().map(|row| row.top.map_or(NONE, |j| j as u32)).collect()),
            rows: problem.m as u32,
            parts: problem.n.div_ceil(CHUNK) as u32,
            form,
            shift,
        }
        .named(format!("{}, form {form}", problem.named()))
    };
    let forms = [(FIXED, FIXED_TERM), (ONLINE, ONLINE_TERM), (SOFTPLUS, SOFTPLUS_TERM)];
    let problems =
        [Problem::new([257, 5, 1]), Problem::new([3, 1030, 2]).emptied(), Problem::new([4, 600, 1]).with_nan()];
    forms.into_iter().flat_map(|(form, term)| problems.clone().map(|problem| case((problem, form, term)))).collect()
}
