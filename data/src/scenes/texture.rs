//! Procedural textures: a field in [0, 1] over the plane, which the renderer turns into two tones of a colour.
//!
//! No trigonometry per pixel: waves are triangle waves rounded by the smoothstep polynomial 3t² - 2t³.

use super::layout::direction;
use crate::image::clip;
use crate::random::Draw;
use selfsame_kernels::philox::Stream;

/// The texture families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TextureKind {
    /// One tone.
    Plain,
    /// A slope from one tone to the other.
    Gradient,
    /// Parallel bands with soft edges.
    Stripes,
    /// A checkerboard.
    Checker,
    /// Round dots on a square grid.
    Dots,
    /// Value noise of three octaves: clouds.
    Clouds,
}

impl TextureKind {
    /// All families.
    pub const ALL: [TextureKind; 6] = [
        TextureKind::Plain,
        TextureKind::Gradient,
        TextureKind::Stripes,
        TextureKind::Checker,
        TextureKind::Dots,
        TextureKind::Clouds,
    ];

    /// The family's name.
    pub fn name(self) -> &'static str {
        match self {
            TextureKind::Plain => "plain",
            TextureKind::Gradient => "gradient",
            TextureKind::Stripes => "stripes",
            TextureKind::Checker => "checker",
            TextureKind::Dots => "dots",
            TextureKind::Clouds => "clouds",
        }
    }
}

/// Side of the periodic table of lattice values behind [`TextureKind::Clouds`].
const LATTICE: usize = 16;

/// A texture with its parameters drawn.
#[derive(Clone, Debug, PartialEq)]
pub struct Texture {
    /// The family.
    pub kind: TextureKind,
    /// Repetitions per unit of length.
    pub frequency: f32,
    /// Direction across the bands or along the slope, in radians.
    pub angle: f32,
    /// Cosine and sine of `angle`.
    axis: (f32, f32),
    /// Offset of the pattern along and across the axis, in repetitions.
    phase: (f32, f32),
    /// `LATTICE` x `LATTICE` values in [0, 1); empty except for clouds.
    lattice: Vec<f32>,
}

impl Texture {
    /// A texture of `kind` with direction and offset from `rng`.
    pub(crate) fn draw(kind: TextureKind, frequency: f32, rng: &mut Stream) -> Texture {
        let angle = rng.between(0.0, std::f32::consts::TAU);
        let axis = direction(angle);
        let phase = (rng.between(0.0, 1.0), rng.between(0.0, 1.0));
        let lattice = match kind {
            TextureKind::Clouds => (0..LATTICE * LATTICE).map(|_| rng.uniform_f32()).collect(),
            _ => Vec::new(),
        };
        Texture { kind, frequency, angle, axis, phase, lattice }
    }

    /// The field at the points `(xs[i], ys[i])` into `out[i]`; the three slices are equally long.
    pub(crate) fn field(&self, xs: &[f32], ys: &[f32], out: &mut [f32]) {
        let (c, s) = self.axis;
        let f = self.frequency;
        let points = out.iter_mut().zip(xs.iter().zip(ys));
        let turned = |x: f32, y: f32| ((x * c + y * s) * f + self.phase.0, (y * c - x * s) * f + self.phase.1);
        match self.kind {
            TextureKind::Plain => out.fill(0.5),
            TextureKind::Gradient => points.for_each(|(out, (&x, &y))| *out = clip(0.5 + 0.7 * (x * c + y * s))),
            TextureKind::Stripes => points.for_each(|(out, (&x, &y))| *out = sharpen(wave(turned(x, y).0))),
            TextureKind::Checker => points.for_each(|(out, (&x, &y))| {
                let (u, v) = turned(x, y);
                let (a, b) = (sharpen(wave(0.5 * u)), sharpen(wave(0.5 * v)));
                *out = a * b + (1.0 - a) * (1.0 - b);
            }),
            TextureKind::Dots => points.for_each(|(out, (&x, &y))| {
                let (u, v) = turned(x, y);
                let (u, v) = (fraction(u) - 0.5, fraction(v) - 0.5);
                *out = clip(2.0 - 18.0 * (u * u + v * v));
            }),
            TextureKind::Clouds => points.for_each(|(out, (&x, &y))| {
                let (u, v) = turned(x, y);
                let value =
                    0.5 * self.noise(u, v) + 0.3 * self.noise(2.0 * u, 2.0 * v) + 0.2 * self.noise(4.0 * u, 4.0 * v);
                // Octaves average out towards the middle; this restores the range.
                *out = clip(0.5 + 1.8 * (value - 0.5));
            }),
        }
    }

    /// Value noise: lattice values interpolated with smoothstep weights.
    #[inline(always)]
    fn noise(&self, u: f32, v: f32) -> f32 {
        let (a, b) = (smooth(fraction(u)), smooth(fraction(v)));
        let (i, j) = (floor(u) as usize % LATTICE, floor(v) as usize % LATTICE);
        let (i1, j1) = ((i + 1) % LATTICE, (j + 1) % LATTICE);
        let at = |row: usize, column: usize| self.lattice[row * LATTICE + column];
        let top = at(j, i) + a * (at(j, i1) - at(j, i));
        let bottom = at(j1, i) + a * (at(j1, i1) - at(j1, i));
        top + b * (bottom - top)
    }
}

/// `floor` of a value that fits an i32. The standard one is a library call on processors without SSE 4.1.
#[inline(always)]
fn floor(x: f32) -> i32 {
    let whole = x as i32;
    whole - i32::from(whole as f32 > x)
}

/// The part above the floor, in [0, 1].
#[inline(always)]
fn fraction(x: f32) -> f32 {
    x - floor(x) as f32
}

/// A rounded triangle wave of period 1 in [0, 1], 0 at whole numbers.
#[inline(always)]
fn wave(x: f32) -> f32 {
    let t = fraction(x);
    smooth(1.0 - (2.0 * t - 1.0).abs())
}

/// Smoothstep of t in [0, 1].
#[inline(always)]
fn smooth(t: f32) -> f32 {
    t * t * (3.0 - 2.0 * t)
}

/// Widens the flanks of a wave into plateaus.
#[inline(always)]
fn sharpen(t: f32) -> f32 {
    clip(0.5 + 2.0 * (t - 0.5))
}
