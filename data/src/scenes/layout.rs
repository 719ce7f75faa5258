//! What a scene consists of, and how it is drawn at random: every nuisance of the data set in one place.
//!
//! Lengths are in units of the image side, the origin is the top left corner, y points down, angles are radians
//! clockwise from the x axis.

use super::shapes::Shape;
use super::texture::{Texture, TextureKind};
use super::{ScenesConfig, draw_order};
use crate::image::clip;
use crate::random::Draw;
use selfsame_kernels::math;
use selfsame_kernels::philox::Stream;

/// The largest tilt of an object to either side: 30 degrees, so that an arrow still points up.
pub const MAX_TILT: f32 = std::f32::consts::PI / 6.0;

/// Clearance kept between an object's circumcircle and the border of the image.
const MARGIN: f32 = 0.02;

/// Two tones of one colour, in [0, 1] RGB. A texture's field mixes from the first to the second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tones(
    /// The tone where the field is 0.
    pub [f32; 3],
    /// The tone where the field is 1.
    pub [f32; 3],
);

/// A directional light.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Light {
    /// Where the light comes from.
    pub angle: f32,
    /// Relative brightening of an object's lit rim, and darkening of its far rim.
    pub strength: f32,
    /// Darkening of the background in an object's shadow, as a fraction.
    pub shadow: f32,
}

/// One object and how it moves.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// The class.
    pub shape: Shape,
    /// Centre (x, y) in frame 0.
    pub centre: [f32; 2],
    /// Radius of the circumcircle.
    pub radius: f32,
    /// Tilt in frame 0, within ±[`MAX_TILT`].
    pub rotation: f32,
    /// Surface colours.
    pub tones: Tones,
    /// Surface texture, fixed to the object.
    pub texture: Texture,
    /// Movement of the centre per frame; the object bounces off the borders.
    pub velocity: [f32; 2],
    /// Change of tilt per frame; it swings back at ±[`MAX_TILT`].
    pub spin: f32,
}

impl Object {
    /// Centre and tilt in `frame`.
    pub fn pose(&self, frame: u32) -> ([f32; 2], f32) {
        let (low, high) = (self.radius + MARGIN, 1.0 - self.radius - MARGIN);
        let at = |k: usize| bounce(self.centre[k], self.velocity[k], frame, low, high);
        ([at(0), at(1)], bounce(self.rotation, self.spin, frame, -MAX_TILT, MAX_TILT))
    }
}

/// Everything that is drawn at random about one image except its sensor noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// From back to front; the last one is the largest and gives the image its class.
    pub objects: Vec<Object>,
    /// Background colours.
    pub tones: Tones,
    /// Background texture.
    pub texture: Texture,
    /// The light.
    pub light: Light,
}

impl Scene {
    /// Draws scene `index`.
    pub(crate) fn draw(config: &ScenesConfig, index: u64, rng: &mut Stream) -> Scene {
        let light = Light {
            angle: rng.between(0.0, std::f32::consts::TAU),
            strength: rng.between(0.1, 0.4),
            shadow: rng.between(0.15, 0.45),
        };
        let luma = rng.between(0.2, 0.8);
        let tones = draw_tones(luma, 0.14, rng);
        let texture = draw_texture(3.0, 8.0, rng);
        let (fewest, most) = config.objects;
        let count = fewest + rng.range(u64::from(most - fewest) + 1) as u32;
        let dominant_radius = if most == 1 { (0.27, 0.43) } else { (0.22, 0.3) };
        let shape = Shape::ALL[draw_order(config.seed, index)];
        let mut objects = vec![draw_object(shape, dominant_radius, luma, &[], rng)];
        for _ in 1..count {
            let shape = rng.pick(&Shape::ALL);
            let object = draw_object(shape, (0.12, 0.18), luma, &objects, rng);
            objects.push(object);
        }
        objects.reverse();
        Scene { objects, tones, texture, light }
    }

    /// The object that gives the image its class.
    pub fn dominant(&self) -> &Object {
        self.objects.last().expect("a scene has at least one object")
    }
}

/// An object clear of the border and, as far as a few tries allow, of the `others`.
fn draw_object(shape: Shape, radius: (f32, f32), background: f32, others: &[Object], rng: &mut Stream) -> Object {
    const TRIES: usize = 16;
    let radius = rng.between(radius.0, radius.1);
    let (low, high) = (radius + MARGIN, 1.0 - radius - MARGIN);
    let mut centre = [0.0; 2];
    let mut widest = f32::NEG_INFINITY;
    for _ in 0..TRIES {
        let candidate = [rng.between(low, high), rng.between(low, high)];
        let gap = others.iter().fold(f32::INFINITY, |gap, other| {
            let (dx, dy) = (candidate[0] - other.centre[0], candidate[1] - other.centre[1]);
            gap.min((dx * dx + dy * dy).sqrt() - radius - other.radius)
        });
        if gap > widest {
            (centre, widest) = (candidate, gap);
        }
        if widest > 0.0 {
            break;
        }
    }
    let rotation = rng.between(-MAX_TILT, MAX_TILT);
    let tones = draw_tones(contrasting_luma(background, rng), 0.16, rng);
    let texture = draw_texture(1.2, 2.5, rng);
    let velocity = [rng.between(-0.03, 0.03), rng.between(-0.03, 0.03)];
    let spin = rng.between(-0.08, 0.08);
    Object { shape, centre, radius, rotation, tones, texture, velocity, spin }
}

fn draw_texture(low: f32, high: f32, rng: &mut Stream) -> Texture {
    let kind = rng.pick(&TextureKind::ALL);
    let frequency = rng.between(low, high);
    Texture::draw(kind, frequency, rng)
}

/// A luma at least 0.28 away from the background's, above or below at random where both fit.
fn contrasting_luma(background: f32, rng: &mut Stream) -> f32 {
    let contrast = rng.between(0.28, 0.5);
    let brighter = rng.uniform_f32() < 0.5;
    let (up, down) = (background + contrast, background - contrast);
    match (up <= 0.95, down >= 0.05) {
        (true, true) => {
            if brighter {
                up
            } else {
                down
            }
        }
        (true, false) => up,
        (false, true) => down,
        (false, false) => {
            if background < 0.5 {
                0.95
            } else {
                0.05
            }
        }
    }
}

/// Two tones of nearby hue whose lumas lie `spread` apart around `luma`.
fn draw_tones(luma: f32, spread: f32, rng: &mut Stream) -> Tones {
    let hue = rng.uniform_f32();
    let chroma = rng.between(0.15, 0.6);
    let turn = rng.between(-0.08, 0.08);
    Tones(colour(hue, chroma, luma - 0.5 * spread), colour(hue + turn, chroma, luma + 0.5 * spread))
}

/// The colour of given hue (in turns) and luma (Rec. 601 weights), `chroma` of the way to the pure hue, moved towards
/// grey as far as RGB requires.
fn colour(hue: f32, chroma: f32, luma: f32) -> [f32; 3] {
    let channel = |offset: f32| {
        let t = hue + offset;
        let t = (t - t.floor()) * 6.0;
        clip((t - 3.0).abs() - 1.0)
    };
    let pure = [channel(0.0), channel(2.0 / 3.0), channel(1.0 / 3.0)];
    let pure_luma = 0.299 * pure[0] + 0.587 * pure[1] + 0.114 * pure[2];
    let room = |direction: f32| {
        if direction > 0.0 { (1.0 - luma) / direction } else { -luma / direction.min(-1e-6) }
    };
    let most = pure.iter().fold(chroma, |most, &p| if p == pure_luma { most } else { most.min(room(p - pure_luma)) });
    pure.map(|p| luma + most * (p - pure_luma))
}

/// A point that starts at `start` and moves by `step` a frame, reflected between `low` and `high`.
fn bounce(start: f32, step: f32, frame: u32, low: f32, high: f32) -> f32 {
    let range = high - low;
    if frame == 0 || range <= 0.0 {
        return start;
    }
    let t = (start - low + step * frame as f32) / (2.0 * range);
    let t = t - t.floor();
    low + range * (1.0 - (2.0 * t - 1.0).abs())
}

/// Cosine and sine of an angle.
pub(crate) fn direction(angle: f32) -> (f32, f32) {
    (math::f32::cos(angle), math::f32::sin(angle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_have_the_luma_asked_for() {
        for hue in 0..12 {
            for luma in [0.05, 0.3, 0.5, 0.8, 0.95] {
                let [r, g, b] = colour(hue as f32 / 12.0, 0.6, luma);
                assert!([r, g, b].iter().all(|c| (-1e-6..=1.000_001).contains(c)), "{r} {g} {b}");
                assert!((0.299 * r + 0.587 * g + 0.114 * b - luma).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn bouncing_stays_inside_and_starts_at_the_start() {
        assert_eq!(bounce(0.3, 0.05, 0, 0.2, 0.8), 0.3);
        assert!((bounce(0.3, 0.05, 2, 0.2, 0.8) - 0.4).abs() < 1e-6);
        assert!((bounce(0.7, 0.2, 1, 0.2, 0.8) - 0.7).abs() < 1e-6);
        for frame in 0..500 {
            let at = bounce(0.3, -0.07, frame, 0.2, 0.8);
            assert!((0.199_99..=0.800_01).contains(&at), "frame {frame} at {at}");
        }
    }
}
