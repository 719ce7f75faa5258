//! [`kernel!`](crate::kernel!): one declaration of a kernel, from which come its PTX entry, its typed launcher, its
//! host runner and its entry in the list of kernels.
#![cfg_attr(target_arch = "nvptx64", allow(unsafe_code))]

/// An argument type of a kernel: [`In`](crate::simt::In), [`Out`](crate::simt::Out), [`InOut`](crate::simt::InOut) or a
/// number.
#[cfg(target_arch = "nvptx64")]
pub trait Param: Copy {
    /// What the launch passes.
    type Raw;
    /// # Safety
    /// `raw` comes from a launch that met the kernel's launch rule.
    unsafe fn from_raw(raw: Self::Raw) -> Self;
}

#[cfg(not(target_arch = "nvptx64"))]
pub use host_side::*;

#[cfg(not(target_arch = "nvptx64"))]
mod host_side {
    use crate::case::{Case, CaseData};
    use crate::host::exec::BoundArg;
    use crate::launch::{ArgValue, Geometry};
    use crate::simt::ElementType;

    /// An argument type of a kernel: [`In`](crate::simt::In), [`Out`](crate::simt::Out),
    /// [`InOut`](crate::simt::InOut) or a number.
    pub trait Param: Copy {
        /// What a launch passes.
        type Launch<'a>;
        /// What a test case gives.
        type Data;
        /// What launch rules, lengths and costs compute with: integers widened to u64, a length for a slice.
        type Extent;
        /// How the kernel uses it.
        const KIND: ParamKind;
        /// The launch's argument without its type.
        fn value(launch: &Self::Launch<'_>) -> ArgValue;
        /// The data of a case without its type.
        fn data(data: Self::Data) -> CaseData;
        /// The argument as an extent.
        fn extent(value: &ArgValue) -> Self::Extent;
        /// The argument as the kernel sees it on the host. `value` was made for this parameter.
        fn bind(value: &BoundArg) -> Self;
    }

    /// How a kernel uses an argument.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum ParamKind {
        /// Global memory that is read.
        In(ElementType),
        /// Global memory of which every element is written exactly once.
        Out(ElementType),
        /// Global memory that is read and written.
        InOut(ElementType),
        /// A number.
        Scalar(ElementType),
    }

    impl ParamKind {
        /// The type of the elements, or of the number.
        pub const fn element(self) -> ElementType {
            match self {
                ParamKind::In(t) | ParamKind::Out(t) | ParamKind::InOut(t) | ParamKind::Scalar(t) => t,
            }
        }

        /// Whether it is memory.
        pub const fn is_memory(self) -> bool {
            !matches!(self, ParamKind::Scalar(_))
        }
    }

    /// A parameter of a kernel.
    #[derive(Clone, Copy, Debug)]
    pub struct ParamSpec {
        /// Its name.
        pub name: &'static str,
        /// How it is used.
        pub kind: ParamKind,
    }

    /// The analytic cost of a launch, from the algorithm, not from a run.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Cost {
        /// Floating-point operations; a fused multiply-add is two. Functions of [`crate::math`] count as `special`.
        pub flop: u64,
        /// Evaluations of exp, log, division, square root and their like.
        pub special: u64,
        /// Floating-point operations on tensor cores.
        pub tensor_flop: u64,
        /// Bytes read from global memory beyond one read of each argument that is read.
        pub reread: u64,
    }

    /// A kernel as the lists, the launchers and the checker see it.
    pub struct KernelSpec {
        /// The name, also of the PTX entry.
        pub name: &'static str,
        /// The module that declares it.
        pub module: &'static str,
        /// What it does: its doc comment.
        pub doc: &'static str,
        /// The parameters in order.
        pub params: &'static [ParamSpec],
        /// The launch rule: blocks, threads, dynamic shared memory.
        pub geometry: fn(&[ArgValue]) -> Geometry,
        /// Elements that each parameter must have at least; 0 for numbers.
        pub lengths: fn(&[ArgValue]) -> Vec<u64>,
        /// What a launch costs.
        pub cost: fn(&[ArgValue]) -> Cost,
        /// Test cases with their expected results.
        pub cases: fn() -> Vec<Case>,
        /// Runs one thread on the host, inside the executor.
        pub thread: fn(&[BoundArg]),
    }

    impl KernelSpec {
        /// Compulsory traffic in bytes (read, written): each argument once, plus what the cost says is read again.
        pub fn traffic(&self, args: &[ArgValue]) -> (u64, u64) {
            let (mut read, mut written) = ((self.cost)(args).reread, 0);
            for (param, length) in self.params.iter().zip((self.lengths)(args)) {
                let bytes = length * param.kind.element().bytes() as u64;
                match param.kind {
                    ParamKind::In(_) => read += bytes,
                    ParamKind::Out(_) => written += bytes,
                    ParamKind::InOut(_) => {
                        read += bytes;
                        written += bytes;
                    }
                    ParamKind::Scalar(_) => {}
                }
            }
            (read, written)
        }
    }

    impl std::fmt::Debug for KernelSpec {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "kernel {}", self.name)
        }
    }
}

/// Declares a kernel.
///
/// ```text
/// kernel! {
///     /// y = alpha x + y, one fused multiply-add per element.
///     axpy(alpha: f32, x: In<f32>[n], y: InOut<f32>[n], n: u32)
///     grid [n.div_ceil(256)] block [256]
///     cost { flop: 2 * n }
///     cases axpy_cases
///     {
///         let i = block_idx().x * 256 + thread_idx().x;
///         if within(i, n) {
///             y.set(i, math::f32::mul_add(alpha, x.get(i), y.get(i)));
///         }
///     }
/// }
/// ```
///
/// It makes a module `axpy` with `Args` (named, typed arguments; `Args { .. }.launch(&launcher)`), `TestCase` (what
/// a case gives: inputs, expected outputs, numbers) and `SPEC`; on the device, the PTX entry `axpy`.
///
/// Memory arguments name in brackets how many elements the launch needs. There, in `grid`, `block`, `shared` (bytes of
/// dynamic shared memory) and `cost`, integer arguments are u64. `grid` and `block` have one to three extents. Empty
/// grids are not launched. `cases` names a function `fn() -> Vec<Case>`, compiled on the host only.
#[macro_export]
macro_rules! kernel {
    ($(
        $(#[doc = $doc:literal])+
        $name:ident ($($arg:ident : $kind:ident $(<$element:ty>)? $([$length:expr])?),+ $(,)?)
        grid [$($grid:expr),+] block [$($block:expr),+] $(shared [$shared:expr])?
        cost { $($cost:ident : $cost_value:expr),* $(,)? }
        cases $cases:ident
        $body:block
    )+) => {$(
        $(#[doc = $doc])+
        #[allow(unused_variables, unused_imports)]
        pub mod $name {
            use super::*;

            #[inline(always)]
            fn body($($arg: $kind $(<$element>)?),+) $body

            /// # Safety
            /// The launch met the launch rule.
            #[cfg(target_arch = "nvptx64")]
            #[unsafe(no_mangle)]
            #[allow(unsafe_code)]
            pub unsafe extern "ptx-kernel" fn $name(
                $($arg: <$kind $(<$element>)? as $crate::kernel::Param>::Raw),+
            ) {
                // SAFETY: passed on to the caller.
                unsafe { body($(<$kind $(<$element>)? as $crate::kernel::Param>::from_raw($arg)),+) }
            }

            #[cfg(not(target_arch = "nvptx64"))]
            $crate::kernel! { @host $name [$($doc)+] [$($arg: ($kind $(<$element>)?) [$($length)?]),+]
                [$($grid),+] [$($block),+] [$($shared)?] [$($cost: $cost_value),*] $cases }
        }
    )+};
    (
        @host $name:ident [$($doc:literal)+] [$($arg:ident : ($type:ty) [$($length:expr)?]),+]
        [$($grid:expr),+] [$($block:expr),+] [$($shared:expr)?] [$($cost:ident : $cost_value:expr),*] $cases:ident
    ) => {
        use $crate::kernel::Param as KernelParam;

        /// The arguments of a launch.
        #[derive(Clone, Copy)]
        #[allow(missing_docs)]
        pub struct Args<'a> {
            $(pub $arg: <$type as KernelParam>::Launch<'a>,)+
        }

        impl Args<'_> {
            /// The arguments without their types, in order.
            pub fn values(&self) -> Vec<$crate::launch::ArgValue> {
                vec![$(<$type as KernelParam>::value(&self.$arg)),+]
            }

            /// Launches the kernel.
            ///
            /// # Errors
            /// When a slice is too short for the launch rule, the grid too large for the device, or the device fails.
            pub fn launch(&self, launcher: &dyn $crate::launch::Launcher) -> Result<(), $crate::launch::LaunchError> {
                $crate::launch::submit(launcher, &SPEC, &self.values())
            }
        }

        /// The data of a test case: inputs, expected outputs, numbers.
        #[allow(missing_docs)]
        pub struct TestCase {
            $(pub $arg: <$type as KernelParam>::Data,)+
        }

        impl TestCase {
            /// The case without its types.
            pub fn named(self, name: impl Into<String>) -> $crate::case::Case {
                $crate::case::Case {
                    name: name.into(),
                    data: vec![$(<$type as KernelParam>::data(self.$arg)),+],
                }
            }
        }

        fn with_extents<R>(
            args: &[$crate::launch::ArgValue],
            compute: impl FnOnce($(<$type as KernelParam>::Extent),+) -> R,
        ) -> R {
            let [$($arg),+] = args else {
                unreachable!("a launch has one value per parameter")
            };
            compute($(<$type as KernelParam>::extent($arg)),+)
        }

        /// The kernel.
        pub static SPEC: $crate::kernel::KernelSpec = $crate::kernel::KernelSpec {
            name: stringify!($name),
            module: module_path!(),
            doc: concat!($($doc, "\n"),+),
            params: &[$($crate::kernel::ParamSpec {
                name: stringify!($arg),
                kind: <$type as KernelParam>::KIND,
            }),+],
            geometry: |args| with_extents(args, |$($arg),+| $crate::launch::Geometry {
                grid: $crate::launch::extents(&[$($grid as u64),+]),
                block: $crate::launch::extents(&[$($block as u64),+]),
                shared: 0 $(+ $shared as u64)?,
            }),
            lengths: |args| with_extents(args, |$($arg),+| vec![$(0 $(+ $length as u64)?),+]),
            cost: |args| with_extents(args, |$($arg),+| {
                // A kernel may name every field, or only some.
                #[allow(clippy::needless_update)]
                let cost = $crate::kernel::Cost { $($cost: $cost_value,)* ..$crate::kernel::Cost::default() };
                cost
            }),
            cases: $cases,
            thread: |args| {
                let [$($arg),+] = args else {
                    unreachable!("a launch has one value per parameter")
                };
                body($(<$type as KernelParam>::bind($arg)),+)
            },
        };
    };
}
