//! The operations that `core` does not offer on stable: the one place to swap for `core_float_math` on a device.

macro_rules! ieee {
    ($float:ident) => {
        pub(super) mod $float {
            /// a b + c, rounded once.
            #[inline(always)]
            pub(crate) fn mul_add(a: $float, b: $float, c: $float) -> $float {
                a.mul_add(b, c)
            }

            /// The correctly rounded square root.
            #[inline(always)]
            pub(crate) fn sqrt(x: $float) -> $float {
                x.sqrt()
            }

            /// The largest integer not above x.
            #[inline(always)]
            pub(crate) fn floor(x: $float) -> $float {
                x.floor()
            }
        }
    };
}

ieee!(f32);
ieee!(f64);
