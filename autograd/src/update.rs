//! Element updates of parameters in place, parallel over fixed chunks.

use crate::Param;
use selfsame_engine::profile::Work;
use selfsame_engine::{Array, Element, Result};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;

/// Elements per parallel task of an update.
const TASK: usize = 1 << 15;

/// Runs `change(isa, w, operands)` over corresponding chunks of a parameter and read-only operands of its shape.
///
/// # Errors
/// `DType` when an element type is another.
pub(crate) fn change<T: Element, const N: usize>(
    param: &Param,
    operands: [&Array; N],
    change: impl Fn(Isa, &mut [T], [&[T]; N]) + Sync,
) -> Result<()> {
    let contiguous = operands.iter().map(|x| x.contiguous()).collect::<Result<Vec<_>>>()?;
    let mut slices = [&[][..]; N];
    for (slice, x) in slices.iter_mut().zip(&contiguous) {
        *slice = x.as_slice::<T>()?;
    }
    param.update(|w| {
        let device = w.device().clone();
        let cpu = device.host();
        let _span = device.span("update", || Work::moving((2 + N) * w.numel() * w.dtype().size()));
        cpu.workers().run_chunks(w.make_mut::<T>()?, TASK, |i, w| {
            change(cpu.isa(), w, slices.map(|x| &x[i * TASK..][..w.len()]));
        });
        Ok(())
    })
}

/// Runs `change(isa, a, b, g)` over corresponding chunks of a parameter, its state and a read-only operand.
///
/// # Errors
/// `DType` when an element type is another.
pub(crate) fn change2<T: Element>(
    a: &Param,
    b: &Param,
    g: &Array,
    change: impl Fn(Isa, &mut [T], &mut [T], &[T]) + Sync,
) -> Result<()> {
    let g = g.contiguous()?;
    let g = g.as_slice::<T>()?;
    a.update(|a| {
        b.update(|b| {
            let device = a.device().clone();
            let cpu = device.host();
            let _span = device.span("update", || Work::moving(5 * a.numel() * a.dtype().size()));
            cpu.workers().run_chunks2((a.make_mut::<T>()?, TASK), (b.make_mut::<T>()?, TASK), |i, a, b| {
                change(cpu.isa(), a, b, &g[i * TASK..][..a.len()])
            });
            Ok(())
        })
    })
}

/// The types that parameters are updated in.
pub(crate) trait Float: Element + Real {}
impl Float for f32 {}
impl Float for f64 {}

/// Runs an expression with a type name bound to the type of a parameter.
macro_rules! with_float {
    ($param:expr, $T:ident, $body:expr) => {
        match $param.array().dtype() {
            selfsame_engine::DType::F32 => {
                type $T = f32;
                $body
            }
            selfsame_engine::DType::F64 => {
                type $T = f64;
                $body
            }
            other => Err(selfsame_engine::Error::new(selfsame_engine::ErrorKind::DType, $param.path(), other.name())
                .expected("parameters of type f32 or f64")),
        }
    };
}
pub(crate) use with_float;
