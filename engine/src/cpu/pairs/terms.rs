//! The element functions of pairs, over one row of a tile. Each says what it computes in the words of `NUMERICS.md`.

use super::sums::Sums;
use selfsame_kernels::math::Real;
use selfsame_kernels::stamp;

stamp! {
    /// x = dot scale.
    pub(super) fn scaled<T: Real>(dot: &[T], scale: T, x: &mut [T]) {
        for (x, &dot) in x.iter_mut().zip(dot) {
            *x = dot * scale;
        }
    }

    /// e = exp(dot scale - shift).
    pub(super) fn exp_scaled<T: Real>(dot: &[T], scale: T, shift: T, e: &mut [T]) {
        for (e, &dot) in e.iter_mut().zip(dot) {
            *e = Real::exp(dot * scale - shift);
        }
    }

    /// e = exp(dot scale - shift of the column).
    pub(super) fn exp_scaled_columns<T: Real>(dot: &[T], scale: T, shift: &[T], e: &mut [T]) {
        for ((e, &dot), &shift) in e.iter_mut().zip(dot).zip(shift) {
            *e = Real::exp(dot * scale - shift);
        }
    }

    /// value = softplus(x), e = sigmoid(x), x = fma(dot, scale, bias).
    pub(super) fn softplus_sigmoid<T: Real>(dot: &[T], scale: T, bias: T, value: &mut [T], e: &mut [T]) {
        for ((value, e), &dot) in value.iter_mut().zip(e).zip(dot) {
            let x = Real::mul_add(dot, scale, bias);
            *value = Real::softplus(x);
            *e = Real::sigmoid(x);
        }
    }

    /// sum = sum + x.
    pub(super) fn add<T: Real>(x: &[T], sum: &mut [T]) {
        for (sum, &x) in sum.iter_mut().zip(x) {
            *sum += x;
        }
    }

    /// sum = fma(x, y, sum).
    pub(super) fn add_product<T: Real>(x: &[T], y: &[T], sum: &mut [T]) {
        for ((sum, &x), &y) in sum.iter_mut().zip(x).zip(y) {
            *sum = Real::mul_add(x, y, *sum);
        }
    }

    /// largest = max(largest, x).
    pub(super) fn raise<T: Real>(x: &[T], largest: &mut [T]) {
        for (largest, &x) in largest.iter_mut().zip(x) {
            *largest = Real::max(*largest, x);
        }
    }

    /// The largest so far, and `at` where x is larger.
    pub(super) fn raise_top<T: Real>(x: &[T], at: T, top: &mut [T], top_at: &mut [T]) {
        for ((&x, top), top_at) in x.iter().zip(top).zip(top_at) {
            *top_at = if x > *top { at } else { *top_at };
            *top = if x > *top { x } else { *top };
        }
    }

    /// `with` where the keys are equal.
    pub(super) fn cover_equal<T: Real>(keys: &[u32], key: u32, with: T, x: &mut [T]) {
        for (x, &other) in x.iter_mut().zip(keys) {
            *x = if other == key { with } else { *x };
        }
    }

    /// From exp(fma(dot, scale, -shift)): G, times row weight + column weight.
    pub(super) fn weigh<T: Real>(row: T, column: &[T], g: &mut [T]) {
        for (g, &column) in g.iter_mut().zip(column) {
            *g *= row + column;
        }
    }

    /// From dot: G = row weight exp(x - row value) + column weight exp(x - column value), x = dot scale.
    pub(super) fn grad_exp<T: Real>(
        scale: T, row_weight: T, row_value: T, column_weight: &[T], column_value: &[T], g: &mut [T],
    ) {
        for ((g, &weight), &value) in g.iter_mut().zip(column_weight).zip(column_value) {
            let x = *g * scale;
            *g = row_weight * Real::exp(x - row_value) + weight * Real::exp(x - value);
        }
    }

    /// From dot: G = sigmoid(fma(dot, scale, bias)) (row weight + column weight).
    pub(super) fn grad_softplus<T: Real>(scale: T, bias: T, row: T, column: &[T], g: &mut [T]) {
        for (g, &column) in g.iter_mut().zip(column) {
            *g = Real::sigmoid(Real::mul_add(*g, scale, bias)) * (row + column);
        }
    }

    /// x = x factor.
    pub(super) fn multiply<T: Real>(factor: T, x: &mut [T]) {
        for x in x {
            *x *= factor;
        }
    }

    /// Blocks so far and the next block, where both are sums.
    pub(super) fn join_sums<T: Real>(next: &[Sums<T>], so_far: &mut [Sums<T>]) {
        for (a, b) in so_far.iter_mut().zip(next) {
            a.second += b.second;
            a.sum += b.sum;
            a.weighted_dot += b.weighted_dot;
            a.join_top(b);
        }
    }

    /// Blocks so far and the next block, where each is relative to its largest x: both are rescaled to the larger.
    pub(super) fn join_shifted_sums<T: Real>(next: &[Sums<T>], so_far: &mut [Sums<T>]) {
        for (a, b) in so_far.iter_mut().zip(next) {
            let largest = Real::max(a.second, b.second);
            let of_a = if a.second == largest { T::ONE } else { Real::exp(a.second - largest) };
            let of_b = if b.second == largest { T::ONE } else { Real::exp(b.second - largest) };
            a.second = largest;
            a.sum = Real::mul_add(b.sum, of_b, a.sum * of_a);
            a.weighted_dot = Real::mul_add(b.weighted_dot, of_b, a.weighted_dot * of_a);
            a.join_top(b);
        }
    }

    /// The values of rows from all their blocks: `shift` + log sum, the shift of each row being its largest x if none
    /// is given.
    pub(super) fn log_of_sums<T: Real>(sums: &[Sums<T>], shift: Option<T>, value: &mut [T]) {
        for (value, sums) in value.iter_mut().zip(sums) {
            *value = shift.unwrap_or(super::sums::shift_of(sums.second)) + Real::log(sums.sum);
        }
    }
}
