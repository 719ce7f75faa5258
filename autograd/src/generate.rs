//! `Gen`: shapes, values and layouts for the gradient check, from a seed alone.

use crate::{Cotangent, Op, OpSpec, Saved};
use selfsame_engine::{Array, Device, Result, element_count};
use selfsame_kernels::math::Real;
use selfsame_kernels::philox::{Key, Purpose, Stream, key_of_path};
use std::sync::Arc;

/// Lengths of axes worth trying: empty, trivial, odd, a power of two, and above a power of two.
const DIMS: [usize; 7] = [0, 1, 2, 3, 7, 8, 17];

/// Elements that a generated array has at most, so that a check stays quick.
const MAX_ELEMENTS: usize = 600;

/// Where the values of an input lie: where the operation is smooth and its derivatives are of moderate size.
#[derive(Clone, Copy, Debug)]
pub enum Domain {
    /// Standard normal.
    Normal,
    /// Uniform between two bounds.
    Range(f64, f64),
    /// Uniform between two bounds, of either sign.
    Signed(f64, f64),
    /// Standard normal, but at least a distance away from each of some points (kinks).
    Apart(&'static [f64], f64),
    /// No two values closer than 0.01 (ties).
    Distinct,
    /// Multiples of 0.1 between -2 and 2, plus an offset: two inputs on different grids never meet.
    Grid(f64),
}

/// One case: an operation, its inputs, and which input goes into which of its slots.
pub struct Case {
    /// The operation with its options.
    pub op: Arc<dyn Op>,
    /// The inputs, f64, of any layout.
    pub inputs: Vec<Array>,
    /// Per slot of the operation, the number of the input in it. `[0, 0]` is f(x, x).
    pub slots: Vec<usize>,
}

impl Case {
    /// `op` applied to `inputs`, one per slot.
    pub fn new(op: impl Op, inputs: Vec<Array>) -> Case {
        let slots = (0..inputs.len()).collect();
        Case { op: Arc::new(op), inputs, slots }
    }

    /// The first input in every slot.
    pub fn shared(self) -> Case {
        let slots = vec![0; self.slots.len()];
        Case { op: self.op, inputs: self.inputs.into_iter().take(1).collect(), slots }
    }
}

/// An operation behind a pointer is that operation.
impl Op for Arc<dyn Op> {
    fn spec(&self) -> &'static OpSpec {
        (**self).spec()
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        (**self).forward(x, save)
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        (**self).vjp(saved, dy, want)
    }

    fn rematerialize(&self, saved: &Saved) -> Result<Array> {
        (**self).rematerialize(saved)
    }
}

/// A source of shapes, values and layouts. Two of the same seed, name and number give the same.
pub struct Gen {
    stream: Stream,
    device: Device,
}

impl Gen {
    /// The generator of case `number` of the operation or objective `name`.
    pub fn new(device: &Device, name: &str, seed: u64, number: u64) -> Gen {
        Gen { stream: Key::new(seed, Purpose::Check).stream(number, key_of_path(name), 0), device: device.clone() }
    }

    /// The device that arrays are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Uniform on `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.stream.range(n as u64) as usize
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// Uniform between two bounds.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.stream.uniform_f64()
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// A length of at least 1.
    pub fn dim(&mut self) -> usize {
        self.pick(&DIMS[1..])
    }

    /// A shape of `ranks.0` to `ranks.1` axes, now and then with an empty one.
    pub fn shape(&mut self, ranks: (usize, usize)) -> Vec<usize> {
        let mut shape = self.full_shape(ranks);
        if !shape.is_empty() && self.one_in(12) {
            let axis = self.below(shape.len());
            shape[axis] = 0;
        }
        shape
    }

    /// A shape of `ranks.0` to `ranks.1` axes, none empty.
    pub fn full_shape(&mut self, ranks: (usize, usize)) -> Vec<usize> {
        let rank = ranks.0 + self.below(ranks.1 - ranks.0 + 1);
        let mut left = MAX_ELEMENTS;
        (0..rank)
            .map(|_| {
                let dim = self.dim().min(left.max(1));
                left /= dim;
                dim
            })
            .collect()
    }

    /// Two shapes that broadcast: axes set to 1 or left out in one or the other.
    pub fn broadcast_shapes(&mut self) -> (Vec<usize>, Vec<usize>) {
        let shape = self.shape((0, 4));
        let narrow = |g: &mut Gen| {
            let drop = if g.one_in(3) { g.below(shape.len() + 1) } else { 0 };
            shape[drop..].iter().map(|&d| if g.one_in(4) { 1 } else { d }).collect::<Vec<_>>()
        };
        let shapes = (narrow(self), narrow(self));
        if self.one_in(2) { shapes } else { (shape, shapes.1) }
    }

    /// An axis of `shape`, which must have one.
    pub fn axis(&mut self, shape: &[usize]) -> usize {
        self.below(shape.len())
    }

    /// An array of values from `domain` in a layout drawn at random: contiguous, transposed, sliced, flipped, or (where
    /// equal values are no ties) broadcast.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn array(&mut self, shape: &[usize], domain: Domain) -> Result<Array> {
        let mut base: Vec<usize> = shape.to_vec();
        let rank = shape.len();
        if rank == 0 {
            return self.contiguous(shape, domain);
        }
        let axis = self.below(rank);
        match self.below(6) {
            0 => {
                let mut order: Vec<usize> = (0..rank).collect();
                self.stream.shuffle(&mut order);
                let base: Vec<usize> = order.iter().map(|&a| shape[a]).collect();
                let mut back = vec![0; rank];
                order.iter().enumerate().for_each(|(i, &a)| back[a] = i);
                self.contiguous(&base, domain)?.permute(&back)
            }
            1 => {
                base[axis] = shape[axis] * 2 + 3;
                let start = self.below(3);
                self.contiguous(&base, domain)?.slice_step(axis, start, start + 2 * shape[axis], 2)
            }
            2 => self.contiguous(shape, domain)?.flip(axis),
            3 if !matches!(domain, Domain::Distinct) => {
                base[axis] = base[axis].min(1);
                self.contiguous(&base, domain)?.broadcast_to(shape)
            }
            _ => self.contiguous(shape, domain),
        }
    }

    fn contiguous(&mut self, shape: &[usize], domain: Domain) -> Result<Array> {
        let n = element_count(shape)?;
        let values: Vec<f64> = match domain {
            Domain::Normal => (0..n).map(|_| f64::from(self.stream.normal())).collect(),
            Domain::Range(low, high) => (0..n).map(|_| self.uniform(low, high)).collect(),
            Domain::Signed(low, high) => {
                (0..n).map(|_| self.uniform(low, high) * if self.one_in(2) { -1.0 } else { 1.0 }).collect()
            }
            Domain::Apart(points, distance) => (0..n).map(|_| self.apart(points, distance)).collect(),
            Domain::Grid(offset) => (0..n).map(|_| (self.below(41) as f64 - 20.0) * 0.1 + offset).collect(),
            Domain::Distinct => {
                let mut ranks: Vec<usize> = (0..n).collect();
                self.stream.shuffle(&mut ranks);
                let step = 4.0 / n.clamp(1, 200) as f64;
                ranks.iter().map(|&r| step * (r as f64 - n as f64 / 2.0 + self.uniform(0.0, 0.5))).collect()
            }
        };
        Array::from_slice(&values, shape, &self.device)
    }

    fn apart(&mut self, points: &[f64], distance: f64) -> f64 {
        loop {
            let value = f64::from(self.stream.normal());
            if points.iter().all(|p| Real::abs(value - p) >= distance) {
                return value;
            }
        }
    }

    /// I64 indices below `n`, which must be positive when the shape has elements.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn indices(&mut self, shape: &[usize], n: usize) -> Result<Array> {
        let values: Vec<i64> = (0..element_count(shape)?).map(|_| self.below(n) as i64).collect();
        Array::from_slice(&values, shape, &self.device)
    }

    /// A mask, true about half of the time.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn mask(&mut self, shape: &[usize]) -> Result<Array> {
        let values: Vec<bool> = (0..element_count(shape)?).map(|_| self.one_in(2)).collect();
        Array::from_slice(&values, shape, &self.device)
    }

    /// A case of an operation of one input of any shape.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn one_input(&mut self, op: impl Op, domain: Domain) -> Result<Case> {
        let shape = self.shape((0, 4));
        Ok(Case::new(op, vec![self.array(&shape, domain)?]))
    }

    /// A case of an operation of two inputs that broadcast, or of one input in both places.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn two_inputs(&mut self, op: impl Op, a: Domain, b: Domain) -> Result<Case> {
        if self.one_in(4) {
            let shape = self.shape((0, 4));
            let x = self.array(&shape, b)?;
            return Ok(Case::new(op, vec![x.clone(), x]).shared());
        }
        let (left, right) = self.broadcast_shapes();
        let inputs = vec![self.array(&left, a)?, self.array(&right, b)?];
        Ok(Case::new(op, inputs))
    }
}
