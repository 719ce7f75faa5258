//! The steps of optimisers, element by element: the roundings are written once, for the CPU's loops and for the GPU's
//! kernels. What a step is made of (trust ratios, bias corrections) is worked out in f64 by the caller and rounded
//! once, by `rounded`.
//!
//! Names: w a parameter, g its gradient, v, m, s its state; `decay` the weight decay that this parameter gets.

use crate::math::Real;

/// Declares numbers of a step, and how they are rounded from f64.
macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub struct $name<T> {
            $($(#[$field_meta])* pub $field: T,)+
        }

        impl $name<f64> {
            /// The numbers in the type of the parameters.
            pub fn rounded<T: Real>(self) -> $name<T> {
                $name { $($field: T::from_f64(self.$field),)+ }
            }
        }
    };
}

numbers! {
    /// Gradient descent with momentum: g' = g + decay w; v = momentum v + g'; w = w - lr (v, or g' + ahead v).
    Sgd {
        /// Weight decay.
        decay,
        /// What of the buffer survives.
        momentum,
        /// Nesterov's look-ahead: the momentum, or 0 for a step along the buffer itself.
        ahead,
        /// The learning rate.
        lr,
    }
}

impl<T: Real> Sgd<T> {
    /// (w, v) after the step: fma(decay, w, g); fma(momentum, v, g'); fma(ahead, v, g'); fma(-lr, step, w).
    #[inline(always)]
    pub fn step(self, w: T, v: T, g: T) -> (T, T) {
        let g = Real::mul_add(self.decay, w, g);
        let v = Real::mul_add(self.momentum, v, g);
        let step = if self.ahead == T::ZERO { v } else { Real::mul_add(self.ahead, v, g) };
        (Real::mul_add(-self.lr, step, w), v)
    }
}

numbers! {
    /// Layer-wise adaptive rates: d = g + decay w; v = momentum v + before d; w = w - after (v, or before d + ahead v).
    /// The learning rate and the trust ratio are factors of `before` or of `after`.
    Lars {
        /// Weight decay.
        decay,
        /// What of the buffer survives.
        momentum,
        /// Nesterov's look-ahead: the momentum, or 0 for a step along the buffer itself.
        ahead,
        /// What the gradient is multiplied by before it enters the buffer.
        before,
        /// What the buffer is multiplied by before it leaves the parameter.
        after,
    }
}

impl<T: Real> Lars<T> {
    /// v after the step: fma(before, d, momentum v) with d = fma(decay, w, g).
    #[inline(always)]
    pub fn velocity(self, w: T, v: T, g: T) -> T {
        let d = Real::mul_add(self.decay, w, g);
        Real::mul_add(self.before, d, self.momentum * v)
    }

    /// What w moves along, of the new v: v, or fma(ahead, v, before d).
    #[inline(always)]
    pub fn direction(self, w: T, v: T, g: T) -> T {
        if self.ahead == T::ZERO {
            return v;
        }
        let d = Real::mul_add(self.decay, w, g);
        Real::mul_add(self.ahead, v, self.before * d)
    }

    /// w after the step, of the new v: fma(-after, direction, w).
    #[inline(always)]
    pub fn walk(self, w: T, v: T, g: T) -> T {
        Real::mul_add(-self.after, self.direction(w, v, g), w)
    }

    /// (w, v) after the step.
    #[inline(always)]
    pub fn step(self, w: T, v: T, g: T) -> (T, T) {
        let v = self.velocity(w, v, g);
        (self.walk(w, v, g), v)
    }
}

numbers! {
    /// AdamW: m = b1 m + (1 - b1) g; s = b2 s + (1 - b2) g^2; w = keep w - rate m / (sqrt(s / correction) + eps).
    AdamW {
        /// Decay of the first moment.
        b1,
        /// Decay of the second moment.
        b2,
        /// What weight decay leaves of the parameter: 1 - lr decay.
        keep,
        /// lr / (1 - b1^t) at the t-th update.
        rate,
        /// 1 - b2^t.
        correction,
        /// Added to the root of the second moment.
        eps,
    }
}

impl<T: Real> AdamW<T> {
    /// (w, m, s) after the step: fma(b1, m, (1 - b1) g); fma(b2, s, (1 - b2) (g g)); fma(-rate, u, keep w) with
    /// u = m / (sqrt(s / correction) + eps).
    #[inline(always)]
    pub fn step(self, w: T, m: T, s: T, g: T) -> (T, T, T) {
        let m = Real::mul_add(self.b1, m, (T::ONE - self.b1) * g);
        let s = Real::mul_add(self.b2, s, (T::ONE - self.b2) * (g * g));
        let direction = m / (Real::sqrt(s / self.correction) + self.eps);
        (Real::mul_add(-self.rate, direction, self.keep * w), m, s)
    }
}

numbers! {
    /// LAMB: g' = scale g + l2 w; m = b1 m + b3 g'; s = b2 s + (1 - b2) g'^2;
    /// u = (m / correction1) / (sqrt(s / correction2) + eps) + decay w; w = w - rate u.
    Lamb {
        /// Decay of the first moment.
        b1,
        /// Decay of the second moment.
        b2,
        /// Weight of the gradient in the first moment: 1 - b1 where gradients are averaged, else 1.
        b3,
        /// What clipping leaves of the gradient.
        scale,
        /// Weight decay as a part of the gradient.
        l2,
        /// Weight decay as a part of the update.
        decay,
        /// 1 - b1^t at the t-th update, or 1.
        correction1,
        /// 1 - b2^t, or 1.
        correction2,
        /// Added to the root of the second moment.
        eps,
    }
}

impl<T: Real> Lamb<T> {
    /// (m, s) after the step: g' = fma(l2, w, scale g); fma(b1, m, b3 g'); fma(b2, s, (1 - b2) (g' g')).
    #[inline(always)]
    pub fn moments(self, w: T, m: T, s: T, g: T) -> (T, T) {
        let g = Real::mul_add(self.l2, w, self.scale * g);
        let m = Real::mul_add(self.b1, m, self.b3 * g);
        (m, Real::mul_add(self.b2, s, (T::ONE - self.b2) * (g * g)))
    }

    /// u of the new moments: fma(decay, w, (m / correction1) / (sqrt(s / correction2) + eps)).
    #[inline(always)]
    pub fn direction(self, w: T, m: T, s: T) -> T {
        let adam = (m / self.correction1) / (Real::sqrt(s / self.correction2) + self.eps);
        Real::mul_add(self.decay, w, adam)
    }
}

numbers! {
    /// Exponential moving average: w = momentum w + share x.
    Average {
        /// What of the average survives.
        momentum,
        /// Share of the new value: 1 - momentum.
        share,
    }
}

impl<T: Real> Average<T> {
    /// The average after x: fma(momentum, w, share x).
    #[inline(always)]
    pub fn step(self, w: T, x: T) -> T {
        Real::mul_add(self.momentum, w, self.share * x)
    }
}

#[cfg(not(target_arch = "nvptx64"))]
pub use loops::*;

/// The steps over slices of one length, for the CPU. Sums of squares are by lanes, as in [`crate::lanes`].
#[cfg(not(target_arch = "nvptx64"))]
mod loops {
    use super::*;
    use crate::order::LANES;

    /// The sums of squares, by lanes, of the terms that `$terms` makes of the elements of slices that are read and of
    /// others that it may write. A macro, as a closure is not sure to be inlined into the stamped instances.
    macro_rules! sums_of_squares {
        ($count:literal of [$($read:ident),*] [$($written:ident),*] $terms:expr) => {{
            let mut lanes = [[T::ZERO; LANES]; $count];
            $(let $read = $read.as_chunks::<LANES>();)*
            $(let $written = $written.as_chunks_mut::<LANES>();)*
            let rows = [$($read.0.len()),*][0];
            for row in 0..rows {
                $(let $read = &$read.0[row];)*
                $(let $written = &mut $written.0[row];)*
                // Term by term: with the terms of one element side by side, the compiler shuffles instead of using lanes.
                let mut terms = [[T::ZERO; LANES]; $count];
                for i in 0..LANES {
                    $(let $read = $read[i];)*
                    $(let $written = &mut $written[i];)*
                    let element: [T; $count] = $terms;
                    for k in 0..$count {
                        terms[k][i] = element[k];
                    }
                }
                for (lanes, terms) in lanes.iter_mut().zip(&terms) {
                    for (lane, &term) in lanes.iter_mut().zip(terms) {
                        *lane = Real::mul_add(term, term, *lane);
                    }
                }
            }
            let rest = [$($read.1.len()),*][0];
            for i in 0..rest {
                $(let $read = $read.1[i];)*
                $(let $written = &mut $written.1[i];)*
                let terms = $terms;
                for k in 0..$count {
                    lanes[k][i] = Real::mul_add(terms[k], terms[k], lanes[k][i]);
                }
            }
            let mut half = LANES / 2;
            while half > 0 {
                for lanes in &mut lanes {
                    for i in 0..half {
                        lanes[i] += lanes[i + half];
                    }
                }
                half /= 2;
            }
            lanes.map(|lanes| lanes[0])
        }};
    }

    crate::stamp! {
        /// The sums of squares of w, of g and of g + decay w (one fused multiply-add per element).
        pub fn decayed_squares<T: Real>(decay: T, w: &[T], g: &[T]) -> [T; 3] {
            sums_of_squares!(3 of [w, g] [] [w, g, Real::mul_add(decay, w, g)])
        }

        /// [`Sgd::step`] of each element; the sum of squares of w before it.
        pub fn sgd_step<T: Real>(sgd: Sgd<T>, w: &mut [T], v: &mut [T], g: &[T]) -> [T; 1] {
            sums_of_squares!(1 of [g] [w, v] {
                let before = *w;
                (*w, *v) = sgd.step(*w, *v, g);
                [before]
            })
        }

        /// [`AdamW::step`] of each element; the sum of squares of w before it.
        pub fn adamw_step<T: Real>(adamw: AdamW<T>, w: &mut [T], m: &mut [T], s: &mut [T], g: &[T]) -> [T; 1] {
            sums_of_squares!(1 of [g] [w, m, s] {
                let before = *w;
                (*w, *m, *s) = adamw.step(*w, *m, *s, g);
                [before]
            })
        }

        /// [`Lars::step`] of each element.
        pub fn lars_step<T: Real>(lars: Lars<T>, w: &mut [T], v: &mut [T], g: &[T]) {
            for ((w, v), &g) in w.iter_mut().zip(v).zip(g) {
                (*w, *v) = lars.step(*w, *v, g);
            }
        }

        /// [`Lars::velocity`] of each element; the sum of squares of [`Lars::direction`].
        pub fn lars_velocity<T: Real>(lars: Lars<T>, w: &[T], v: &mut [T], g: &[T]) -> [T; 1] {
            sums_of_squares!(1 of [w, g] [v] {
                *v = lars.velocity(w, *v, g);
                [lars.direction(w, *v, g)]
            })
        }

        /// [`Lars::walk`] of each element.
        pub fn lars_walk<T: Real>(lars: Lars<T>, w: &mut [T], v: &[T], g: &[T]) {
            for ((w, &v), &g) in w.iter_mut().zip(v).zip(g) {
                *w = lars.walk(*w, v, g);
            }
        }

        /// [`Lamb::moments`] of each element; the sums of squares of w and of [`Lamb::direction`].
        pub fn lamb_moments<T: Real>(lamb: Lamb<T>, w: &[T], m: &mut [T], s: &mut [T], g: &[T]) -> [T; 2] {
            sums_of_squares!(2 of [w, g] [m, s] {
                (*m, *s) = lamb.moments(w, *m, *s, g);
                [w, lamb.direction(w, *m, *s)]
            })
        }

        /// w = fma(-rate, u, w) with u of [`Lamb::direction`], of each element.
        pub fn lamb_walk<T: Real>(lamb: Lamb<T>, rate: T, w: &mut [T], m: &[T], s: &[T]) {
            for ((w, &m), &s) in w.iter_mut().zip(m).zip(s) {
                *w = Real::mul_add(-rate, lamb.direction(*w, m, s), *w);
            }
        }

        /// [`Average::step`] of each element.
        pub fn average<T: Real>(average: Average<T>, w: &mut [T], x: &[T]) {
            for (w, &x) in w.iter_mut().zip(x) {
                *w = average.step(*w, x);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::noise;
    use crate::isa::Isa;
    use crate::reference::lane_sum_sq;

    #[test]
    fn sums_of_squares_are_by_lanes_on_every_instruction_set() {
        for n in [0, 1, 15, 16, 300, 4096] {
            let (w, g) = (noise(n, 1), noise(n, 2));
            let decayed: Vec<f32> = w.iter().zip(&g).map(|(&w, &g)| Real::mul_add(0.5, w, g)).collect();
            let expected = [lane_sum_sq(&w), lane_sum_sq(&g), lane_sum_sq(&decayed)];
            for isa in Isa::available() {
                assert_eq!(decayed_squares(isa, 0.5, &w, &g), expected, "{n} elements, {isa}");
            }
        }
    }

    /// Rewrites of one definition: a step in two halves, a step with neutral numbers.
    #[test]
    fn halves_of_a_step_are_the_step() {
        let (w, v, g) = (noise(100, 1), noise(100, 2), noise(100, 3));
        for ahead in [0.0, 0.9] {
            let lars = Lars { decay: 0.1f32, momentum: 0.9, ahead, before: 0.5, after: 0.25 };
            let isa = Isa::detect();
            let (mut whole_w, mut whole_v, mut w, mut v) = (w.clone(), v.clone(), w.clone(), v.clone());
            lars_step(isa, lars, &mut whole_w, &mut whole_v, &g);
            let directions: Vec<f32> = (0..100).map(|i| lars.direction(w[i], whole_v[i], g[i])).collect();
            assert_eq!(lars_velocity(isa, lars, &w, &mut v, &g), [lane_sum_sq(&directions)]);
            lars_walk(isa, lars, &mut w, &v, &g);
            assert_eq!((w, v), (whole_w, whole_v));
        }
    }
}
