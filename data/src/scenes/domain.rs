//! The named domains: the same scenes, drawn by different hands.

use super::layout::Tones;
use crate::image::{Image, clip};
use selfsame_kernels::philox::Stream;

/// How scenes look. The scene behind an index (objects, poses, labels) is the same in every domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Domain {
    /// Colour, texture, shading, shadow and a little sensor noise.
    Photo,
    /// Ink on paper: outlines and hatching, no colour.
    Sketch,
    /// As photo, with strong noise and 3 % dead or hot pixels.
    Noisy,
    /// The photo's luma in three equal channels.
    Mono,
}

impl Domain {
    /// All domains.
    pub const ALL: [Domain; 4] = [Domain::Photo, Domain::Sketch, Domain::Noisy, Domain::Mono];

    /// The domain's name in specifications.
    pub fn name(self) -> &'static str {
        match self {
            Domain::Photo => "photo",
            Domain::Sketch => "sketch",
            Domain::Noisy => "noisy",
            Domain::Mono => "mono",
        }
    }

    /// What the sensor adds to a rendered picture: noise, dead pixels, the loss of colour.
    pub(crate) fn sense(self, image: &mut Image, rng: &mut Stream) {
        match self {
            Domain::Photo => add_grain(image, 0.02, rng),
            Domain::Sketch => add_grain(image, 0.015, rng),
            Domain::Noisy => {
                add_grain(image, 0.12, rng);
                kill_pixels(image, 0.03, rng);
            }
            Domain::Mono => {
                add_grain(image, 0.02, rng);
                for pixel in image.pixels.chunks_exact_mut(3) {
                    pixel.fill(0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]);
                }
            }
        }
        image.clip();
    }
}

/// Adds one value per pixel to its three channels: four bytes of a random word, summed and centred (close to a normal
/// distribution, at a quarter of its cost), with standard deviation `sigma`.
fn add_grain(image: &mut Image, sigma: f32, rng: &mut Stream) {
    // A byte has variance (256^2 - 1) / 12 = 5461.25; the sum of four has standard deviation 147.8.
    let scale = sigma / (4.0f32 * 5461.25).sqrt();
    for pixel in image.pixels.chunks_exact_mut(3) {
        let sum: u32 = rng.next_u32().to_le_bytes().iter().map(|&byte| u32::from(byte)).sum();
        let grain = (sum as f32 - 510.0) * scale;
        pixel.iter_mut().for_each(|c| *c += grain);
    }
}

/// Sets a `share` of the pixels to black or white.
fn kill_pixels(image: &mut Image, share: f32, rng: &mut Stream) {
    for pixel in image.pixels.chunks_exact_mut(3) {
        let u = rng.uniform_f32();
        if u < share {
            pixel.fill(if u < 0.5 * share { 0.0 } else { 1.0 });
        }
    }
}

/// The colour of a point of the background or of an object, before the sensor.
pub(crate) struct Surface {
    is_sketch: bool,
    /// Half the width of the sketch's outline, in pixels.
    half_stroke: f32,
}

const PAPER: f32 = 0.95;
const INK: f32 = 0.12;

impl Surface {
    pub(crate) fn new(domain: Domain, size: usize) -> Surface {
        Surface { is_sketch: domain == Domain::Sketch, half_stroke: 0.9 * size as f32 / 32.0 }
    }

    /// The background where its texture's field is `field` and the light is `shade`.
    #[inline(always)]
    pub(crate) fn background(&self, tones: &Tones, field: f32, shade: f32) -> [f32; 3] {
        if self.is_sketch { [PAPER - 0.12 * field; 3] } else { lit(tones, field, shade) }
    }

    /// How dark a shadow of strength `shadow` falls: a sketch leaves shadows out.
    #[inline(always)]
    pub(crate) fn shadow(&self, shadow: f32) -> f32 {
        if self.is_sketch { 0.0 } else { shadow }
    }

    /// Colour and opacity of an object at signed distance `d` pixels from its edge.
    #[inline(always)]
    pub(crate) fn object(&self, tones: &Tones, field: f32, shade: f32, d: f32) -> ([f32; 3], f32) {
        if self.is_sketch {
            // The pen follows the edge; inside it, hatching.
            let pen = clip(0.5 + self.half_stroke - d.abs());
            let hatched = PAPER - 0.3 * field;
            ([hatched + pen * (INK - hatched); 3], clip(0.5 + self.half_stroke - d))
        } else {
            // The rim, two pixels wide, is a little darker: it sets the object off a background of equal tone.
            let rim = 0.8 + 0.2 * clip(-0.5 * d);
            (lit(tones, field, shade * rim), clip(0.5 - d))
        }
    }
}

#[inline(always)]
fn lit(tones: &Tones, field: f32, shade: f32) -> [f32; 3] {
    let Tones(a, b) = tones;
    std::array::from_fn(|k| clip((a[k] + field * (b[k] - a[k])) * shade))
}
