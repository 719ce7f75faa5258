//! The ten silhouettes as signed distance functions.
//!
//! Object coordinates: x right, y down, every silhouette inside the unit circle. Distances are negative inside,
//! positive outside, in object units. Disc, square, ring and the polygons are exact; the crescent, an intersection,
//! is a bound near its tips. Formulas of the primitives after Inigo Quilez, "2D distance functions".
//! A whole row of points is evaluated at once, edge by edge, so that the inner loop runs over pixels and vectorises.

use crate::image::clip;

/// The ten object classes, in label order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Shape {
    /// A full circle.
    Disc,
    /// A square.
    Square,
    /// An equilateral triangle.
    Triangle,
    /// A five-pointed star.
    Star,
    /// A circle with a round hole.
    Ring,
    /// A Greek cross.
    Cross,
    /// A crescent moon.
    Crescent,
    /// A heart.
    Heart,
    /// An arrow.
    Arrow,
    /// A lightning bolt.
    Bolt,
}

impl Shape {
    /// All classes in label order.
    pub const ALL: [Shape; 10] = [
        Shape::Disc,
        Shape::Square,
        Shape::Triangle,
        Shape::Star,
        Shape::Ring,
        Shape::Cross,
        Shape::Crescent,
        Shape::Heart,
        Shape::Arrow,
        Shape::Bolt,
    ];

    /// The class name.
    pub fn name(self) -> &'static str {
        match self {
            Shape::Disc => "disc",
            Shape::Square => "square",
            Shape::Triangle => "triangle",
            Shape::Star => "star",
            Shape::Ring => "ring",
            Shape::Cross => "cross",
            Shape::Crescent => "crescent",
            Shape::Heart => "heart",
            Shape::Arrow => "arrow",
            Shape::Bolt => "bolt",
        }
    }

    /// The label: the place in [`Shape::ALL`].
    pub fn label(self) -> u32 {
        self as u32
    }

    /// Signed distances of the points `(xs[i], ys[i])` into `out[i]`; the three slices are equally long.
    pub(crate) fn distances(self, xs: &[f32], ys: &[f32], out: &mut [f32]) {
        match self {
            Shape::Disc => each(xs, ys, out, |x, y| length(x, y) - 0.82),
            Shape::Square => each(xs, ys, out, |x, y| {
                let (dx, dy) = (x.abs() - 0.7, y.abs() - 0.7);
                length(dx.max(0.0), dy.max(0.0)) + dx.max(dy).min(0.0)
            }),
            Shape::Ring => each(xs, ys, out, |x, y| (length(x, y) - 0.69).abs() - 0.23),
            Shape::Crescent => each(xs, ys, out, |x, y| {
                let x = x - 0.12;
                (length(x, y) - 0.92).max(0.74 - length(x - 0.46, y))
            }),
            Shape::Heart => each(xs, ys, out, heart),
            Shape::Triangle => polygon(&TRIANGLE, xs, ys, out),
            Shape::Star => polygon(&STAR, xs, ys, out),
            Shape::Cross => polygon(&CROSS, xs, ys, out),
            Shape::Arrow => polygon(&ARROW, xs, ys, out),
            Shape::Bolt => polygon(&BOLT, xs, ys, out),
        }
    }
}

/// Circumradius 1.
const TRIANGLE: [[f32; 2]; 3] = [[0.0, -1.0], [0.866_025_4, 0.5], [-0.866_025_4, 0.5]];

/// Outer radius 1, inner radius 0.45: cos and sin of multiples of 36 degrees.
const STAR: [[f32; 2]; 10] = [
    [0.0, -1.0],
    [0.264_503_36, -0.364_057_65],
    [0.951_056_5, -0.309_017],
    [0.427_975_43, 0.139_057_65],
    [0.587_785_25, 0.809_017],
    [0.0, 0.45],
    [-0.587_785_25, 0.809_017],
    [-0.427_975_43, 0.139_057_65],
    [-0.951_056_5, -0.309_017],
    [-0.264_503_36, -0.364_057_65],
];

const CROSS: [[f32; 2]; 12] = [
    [-0.29, -0.92],
    [0.29, -0.92],
    [0.29, -0.29],
    [0.92, -0.29],
    [0.92, 0.29],
    [0.29, 0.29],
    [0.29, 0.92],
    [-0.29, 0.92],
    [-0.29, 0.29],
    [-0.92, 0.29],
    [-0.92, -0.29],
    [-0.29, -0.29],
];

const ARROW: [[f32; 2]; 7] =
    [[0.0, -0.98], [0.76, -0.1], [0.29, -0.1], [0.29, 0.9], [-0.29, 0.9], [-0.29, -0.1], [-0.76, -0.1]];

const BOLT: [[f32; 2]; 6] = [[0.22, -0.97], [-0.58, 0.16], [-0.06, 0.16], [-0.26, 0.96], [0.6, -0.26], [0.06, -0.26]];

#[inline(always)]
fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

#[inline(always)]
fn each(xs: &[f32], ys: &[f32], out: &mut [f32], distance: impl Fn(f32, f32) -> f32) {
    for ((out, &x), &y) in out.iter_mut().zip(xs).zip(ys) {
        *out = distance(x, y);
    }
}

/// Two quarter circles on the corner of a square, scaled by 1.55 and centred on the unit circle.
#[inline(always)]
fn heart(x: f32, y: f32) -> f32 {
    const SCALE: f32 = 1.55;
    let (x, y) = (x.abs() / SCALE, 0.6 - y / SCALE);
    let lobe = length(x - 0.25, y - 0.75) - 0.353_553_4;
    let along = 0.5 * (x + y).max(0.0);
    let flank = length(x, y - 1.0).min(length(x - along, y - along));
    let flank = if x > y { flank } else { -flank };
    SCALE * if x + y > 1.0 { lobe } else { flank }
}

/// Distance to the nearest edge, its sign by the crossing rule.
fn polygon(vertices: &[[f32; 2]], xs: &[f32], ys: &[f32], out: &mut [f32]) {
    // `out` carries ± the squared distance from edge to edge; the sign bit is whether the point is inside so far.
    out.fill(f32::MAX);
    for (k, &[ax, ay]) in vertices.iter().enumerate() {
        let [bx, by] = vertices[(k + 1) % vertices.len()];
        let (ex, ey) = (bx - ax, by - ay);
        let scale = 1.0 / (ex * ex + ey * ey);
        for ((out, &x), &y) in out.iter_mut().zip(xs).zip(ys) {
            let (wx, wy) = (x - ax, y - ay);
            let along = clip((wx * ex + wy * ey) * scale);
            let (dx, dy) = (wx - ex * along, wy - ey * along);
            let nearest = out.abs().min(dx * dx + dy * dy);
            let below = wy >= 0.0;
            let above = y < by;
            let left = ex * wy > ey * wx;
            let crosses = (below & above & left) | !(below | above | left);
            *out = if crosses ^ out.is_sign_negative() { -nearest } else { nearest };
        }
    }
    for out in out {
        *out = if out.is_sign_negative() { -out.abs().sqrt() } else { out.sqrt() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(shape: Shape, x: f32, y: f32) -> f32 {
        let mut out = [0.0];
        shape.distances(&[x], &[y], &mut out);
        out[0]
    }

    fn grid() -> impl Iterator<Item = (f32, f32)> {
        (-60..=60).flat_map(|i| (-60..=60).map(move |j| (i as f32 * 0.025, j as f32 * 0.025)))
    }

    #[test]
    fn silhouettes_fit_the_unit_circle_and_fill_it_well() {
        for shape in Shape::ALL {
            let (mut inside, mut farthest) = (0usize, 0.0f32);
            for (x, y) in grid() {
                if distance(shape, x, y) < 0.0 {
                    inside += 1;
                    farthest = farthest.max(length(x, y));
                }
            }
            let area = inside as f32 * 0.025 * 0.025;
            assert!(farthest <= 1.02, "{} reaches {farthest}", shape.name());
            assert!((0.6..2.2).contains(&area), "{} covers {area}", shape.name());
        }
    }

    #[test]
    fn distances_change_no_faster_than_the_point_moves() {
        for shape in Shape::ALL {
            for (x, y) in grid() {
                let step = (distance(shape, x + 0.01, y) - distance(shape, x, y)).abs();
                assert!(step <= 0.0101, "{} jumps by {step} at ({x}, {y})", shape.name());
            }
        }
    }

    #[test]
    fn no_two_silhouettes_are_alike() {
        for (k, &a) in Shape::ALL.iter().enumerate() {
            for &b in &Shape::ALL[k + 1..] {
                let (mut both, mut either) = (0, 0);
                for (x, y) in grid() {
                    let (in_a, in_b) = (distance(a, x, y) < 0.0, distance(b, x, y) < 0.0);
                    both += usize::from(in_a & in_b);
                    either += usize::from(in_a | in_b);
                }
                let overlap = both as f32 / either as f32;
                assert!(overlap < 0.85, "{} and {} overlap by {overlap}", a.name(), b.name());
            }
        }
    }
}
