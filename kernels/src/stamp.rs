//! [`stamp!`](crate::stamp!): one loop, compiled once per instruction set, chosen at run time.
//!
//! A stock x86-64 build has no fused multiply-add instruction and calls `fmaf` once per element, a hundred times
//! slower. Every loop over [`crate::math`] therefore goes through this macro.

/// Defines functions that take an [`Isa`](crate::isa::Isa) as their first argument and run their body compiled for it.
///
/// For each definition `pub fn name<T: Real>(x: &[T], y: &mut [T]) { .. }` the macro emits
/// `pub fn name<T: Real>(isa: Isa, x: &[T], y: &mut [T])`, with AVX-512, AVX2+FMA, NEON and portable instances of
/// the body behind one `match`. The instances differ in speed alone: Rust neither contracts nor reassociates
/// floating-point operations, so the body defines the bits.
///
/// Accepted: attributes and doc comments, a visibility, generic parameters with at most one bound each
/// (`T: Real, const N: usize`; constants last), a `where`-free signature with plain identifiers as arguments.
/// Functions that the body calls must be `#[inline(always)]`, or they are compiled without the instruction set.
///
/// The emitted function is sound: an `Isa` exists only for a level that the machine has.
///
/// ```
/// use selfsame_kernels::{isa::Isa, math::Real, stamp};
/// stamp! {
///     /// y = alpha x + y, one fused multiply-add per element.
///     pub fn axpy<T: Real>(alpha: T, x: &[T], y: &mut [T]) {
///         for (y, &x) in y.iter_mut().zip(x) {
///             *y = Real::mul_add(alpha, x, *y);
///         }
///     }
/// }
/// let mut y = [1.0f32, 2.0];
/// axpy(Isa::detect(), 2.0, &[10.0, 20.0], &mut y);
/// assert_eq!(y, [21.0, 42.0]);
/// ```
#[cfg(not(target_arch = "nvptx64"))]
#[macro_export]
macro_rules! stamp {
    ($(
        $(#[$meta:meta])*
        $vis:vis fn $name:ident
        $(< $($ty:ident $(: $bound:path)?),+ $(, const $constant:ident : $constant_ty:ty)* $(,)? >)?
        ($($arg:ident : $arg_ty:ty),* $(,)?) $(-> $ret:ty)? $body:block
    )+) => {$(
        $crate::stamp! {
            @one [$(#[$meta])*] [$vis] $name
            [$(<$($ty $(: $bound)?,)+ $(const $constant: $constant_ty,)*>)?]
            [$(::<$($ty,)+ $($constant,)*>)?]
            [$($arg: $arg_ty),*] [$($arg),*] [$(-> $ret)?] $body
        }
    )+};
    (
        @one [$($meta:tt)*] [$vis:vis] $name:ident [$($generics:tt)*] [$($turbofish:tt)*]
        [$($args:tt)*] [$($pass:tt)*] [$($ret:tt)*] $body:block
    ) => {
        $($meta)*
        #[allow(unsafe_code)]
        $vis fn $name $($generics)* (isa: $crate::isa::Isa, $($args)*) $($ret)* {
            #[inline(always)]
            fn portable $($generics)* ($($args)*) $($ret)* $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma")]
            fn avx2 $($generics)* ($($args)*) $($ret)* {
                portable $($turbofish)* ($($pass)*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            fn avx512 $($generics)* ($($args)*) $($ret)* {
                portable $($turbofish)* ($($pass)*)
            }

            #[cfg(target_arch = "aarch64")]
            #[target_feature(enable = "neon")]
            fn neon $($generics)* ($($args)*) $($ret)* {
                portable $($turbofish)* ($($pass)*)
            }

            match isa.level() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this level exists only where the machine has AVX2 and FMA.
                $crate::isa::Level::Avx2 => unsafe { avx2 $($turbofish)* ($($pass)*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: an `Isa` of this level exists only where the machine has AVX-512 F, BW, DQ and VL.
                $crate::isa::Level::Avx512 => unsafe { avx512 $($turbofish)* ($($pass)*) },
                #[cfg(target_arch = "aarch64")]
                // SAFETY: an `Isa` of this level exists only where the machine has NEON.
                $crate::isa::Level::Neon => unsafe { neon $($turbofish)* ($($pass)*) },
                _ => portable $($turbofish)* ($($pass)*),
            }
        }
    };
}

/// On a device there are no slices to loop over: kernels call the functions of one element.
#[cfg(target_arch = "nvptx64")]
#[macro_export]
macro_rules! stamp {
    ($($ignored:tt)*) => {};
}
