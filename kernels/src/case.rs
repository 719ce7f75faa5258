//! Test cases of kernels: inputs, expected outputs and numbers, from which the checker, the parity tests and the PTX
//! interpreter's tests run.

use crate::kernel::KernelSpec;
use crate::launch::{Address, ArgValue, Buffer, LaunchError, Launcher, submit};
use crate::philox::{Key, Purpose};
use crate::simt::{Element, ElementType};
use std::fmt;

/// A launch of a kernel with known results.
pub struct Case {
    /// What is special about it, shapes included.
    pub name: String,
    /// One entry per parameter.
    pub data: Vec<CaseData>,
}

/// The data of one parameter.
pub enum CaseData {
    /// A number.
    Scalar {
        /// The bits, zero-extended.
        bits: u64,
        /// The type.
        element: ElementType,
    },
    /// Memory before and after the launch.
    Memory {
        /// The elements before; `None`: uninitialised.
        before: Option<Vec<u64>>,
        /// The elements after; `None`: as before.
        after: Option<Vec<u64>>,
        /// The type.
        element: ElementType,
        /// How near `after` the result must come.
        tolerance: Tolerance,
    },
}

/// How near a result must come to the expected one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// The same bits; all NaNs are one.
    Bits,
    /// An absolute difference of at most this: for tensor cores, whose order of sums is the hardware's.
    Within(f64),
}

/// Expected contents of an output.
pub struct Expected<T> {
    values: Vec<T>,
    tolerance: Tolerance,
}

/// The same bits as `values`.
pub fn exactly<T>(values: Vec<T>) -> Expected<T> {
    Expected { values, tolerance: Tolerance::Bits }
}

/// At most `bound` away from `values`.
pub fn nearly<T>(values: Vec<T>, bound: f64) -> Expected<T> {
    Expected { values, tolerance: Tolerance::Within(bound) }
}

/// Contents of memory that a kernel reads and writes.
pub struct Change<T> {
    before: Vec<T>,
    after: Expected<T>,
}

/// `before` becomes `after`.
pub fn change<T>(before: Vec<T>, after: Expected<T>) -> Change<T> {
    Change { before, after }
}

/// `n` numbers spread evenly over [-2, 2), the same for the same `seed`: inputs of cases.
pub fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    (0..n).map(|_| 4.0 * stream.uniform_f32() - 2.0).collect()
}

fn bits<T: Element>(values: Vec<T>) -> Vec<u64> {
    values.into_iter().map(T::to_bits).collect()
}

impl CaseData {
    /// What a kernel reads.
    pub fn input<T: Element>(values: Vec<T>) -> CaseData {
        let before = Some(bits(values));
        CaseData::Memory { before, after: None, element: T::TYPE, tolerance: Tolerance::Bits }
    }

    /// What a kernel writes.
    pub fn output<T: Element>(expected: Expected<T>) -> CaseData {
        let after = Some(bits(expected.values));
        CaseData::Memory { before: None, after, element: T::TYPE, tolerance: expected.tolerance }
    }

    /// What a kernel changes.
    pub fn changed<T: Element>(change: Change<T>) -> CaseData {
        let (before, after) = (Some(bits(change.before)), Some(bits(change.after.values)));
        CaseData::Memory { before, after, element: T::TYPE, tolerance: change.after.tolerance }
    }

    /// A number.
    pub fn scalar<T: Element>(value: T) -> CaseData {
        CaseData::Scalar { bits: value.to_bits(), element: T::TYPE }
    }
}

impl CaseData {
    fn len(&self) -> usize {
        match self {
            CaseData::Scalar { .. } => 0,
            CaseData::Memory { before, after, .. } => before.as_ref().or(after.as_ref()).map_or(0, Vec::len),
        }
    }
}

impl Case {
    /// The arguments of a launch, for launch rules, lengths and costs: memory has its length and no address.
    pub fn arguments(&self) -> Vec<ArgValue> {
        let argument = |data: &CaseData| match data {
            CaseData::Scalar { bits, element } => ArgValue::Scalar { bits: *bits, element: *element },
            CaseData::Memory { .. } => ArgValue::Memory { address: Address(0), len: data.len() as u64 },
        };
        self.data.iter().map(argument).collect()
    }

    /// The elements of all its memory.
    pub fn elements(&self) -> usize {
        self.data.iter().map(CaseData::len).sum()
    }

    /// Runs the case on a device and compares every output. The device's memory is as before afterwards.
    ///
    /// # Errors
    /// [`CaseError::Launch`] when the device or the checker refuses the launch, [`CaseError::Value`] for the first
    /// element that is not as expected.
    pub fn run(&self, kernel: &'static KernelSpec, launcher: &dyn Launcher) -> Result<(), CaseError> {
        let mut buffers = Vec::new();
        let result = self.run_in(kernel, launcher, &mut buffers);
        buffers.into_iter().for_each(|buffer| launcher.free(buffer));
        result
    }

    fn run_in(
        &self,
        kernel: &'static KernelSpec,
        launcher: &dyn Launcher,
        buffers: &mut Vec<Buffer>,
    ) -> Result<(), CaseError> {
        let mut args = Vec::new();
        for data in &self.data {
            args.push(match data {
                CaseData::Scalar { bits, element } => ArgValue::Scalar { bits: *bits, element: *element },
                CaseData::Memory { before, element, .. } => {
                    let buffer = launcher.allocate(data.len() * element.bytes())?;
                    buffers.push(buffer);
                    if let Some(before) = before {
                        launcher.upload(buffer.address, &to_bytes(before, *element))?;
                    }
                    ArgValue::Memory { address: buffer.address, len: data.len() as u64 }
                }
            });
        }
        submit(launcher, kernel, &args)?;
        for ((data, param), arg) in self.data.iter().zip(kernel.params).zip(&args) {
            let (CaseData::Memory { before, after, element, tolerance }, ArgValue::Memory { address, .. }) =
                (data, arg)
            else {
                continue;
            };
            let Some(expected) = after.as_ref().or(before.as_ref()) else { continue };
            let mut bytes = vec![0; expected.len() * element.bytes()];
            launcher.download(*address, &mut bytes)?;
            let got = from_bytes(&bytes, *element);
            if let Some(i) = (0..got.len()).find(|&i| !tolerance.accepts(got[i], expected[i], *element)) {
                return Err(CaseError::Value {
                    param: param.name,
                    index: i,
                    got: display(got[i], *element),
                    expected: display(expected[i], *element),
                });
            }
        }
        Ok(())
    }
}

/// Why a case did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CaseError {
    /// The launch failed.
    Launch(LaunchError),
    /// An output is not as expected.
    Value {
        /// The parameter.
        param: &'static str,
        /// The first such element.
        index: usize,
        /// Its value, in decimal and hexadecimal.
        got: String,
        /// The value expected.
        expected: String,
    },
}

impl From<LaunchError> for CaseError {
    fn from(error: LaunchError) -> CaseError {
        CaseError::Launch(error)
    }
}

impl fmt::Display for CaseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CaseError::Launch(error) => error.fmt(f),
            CaseError::Value { param, index, got, expected } => {
                write!(f, "{param}[{index}]: got {got}, expected {expected}")
            }
        }
    }
}

impl std::error::Error for CaseError {}

impl Tolerance {
    /// Whether `got` is near enough to `expected`, both as bits of `element`.
    pub fn accepts(self, got: u64, expected: u64, element: ElementType) -> bool {
        match (self, number(got, element), number(expected, element)) {
            (_, Some(a), Some(b)) if a.is_nan() || b.is_nan() => a.is_nan() && b.is_nan(),
            // Equal infinities have no difference.
            (Tolerance::Within(bound), Some(a), Some(b)) => a == b || (a - b).abs() <= bound,
            _ => got == expected,
        }
    }
}

/// The value of a floating-point element.
fn number(bits: u64, element: ElementType) -> Option<f64> {
    match element {
        ElementType::F32 => Some(f64::from(<f32 as Element>::from_bits(bits))),
        ElementType::F64 => Some(<f64 as Element>::from_bits(bits)),
        _ => None,
    }
}

fn display(bits: u64, element: ElementType) -> String {
    match number(bits, element) {
        Some(value) => format!("{value:e} (0x{bits:0width$x})", width = 2 * element.bytes()),
        None => format!("{bits} (0x{bits:x})"),
    }
}

fn to_bytes(bits: &[u64], element: ElementType) -> Vec<u8> {
    bits.iter().flat_map(|bits| bits.to_le_bytes().into_iter().take(element.bytes())).collect()
}

fn from_bytes(bytes: &[u8], element: ElementType) -> Vec<u64> {
    let widen = |bytes: &[u8]| bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
    bytes.chunks(element.bytes()).map(widen).collect()
}
