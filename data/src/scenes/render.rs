//! From a [`Scene`] to pixels and masks.
//!
//! Pixel centres lie at (x + 1/2, y + 1/2) over the size. A silhouette's edge is anti-aliased by its signed distance:
//! coverage is 1/2 - d, with d in pixels, clipped to [0, 1]. Rows are worked on as slices so that the loops vectorise.

use super::domain::{Domain, Surface};
use super::layout::{Object, Scene, direction};
use crate::image::{Image, clip};

/// A rendered scene: colours, and for each object the share of every pixel where it is the one seen.
pub(crate) struct Rendered {
    /// RGB in [0, 1].
    pub(crate) image: Image,
    /// `[objects][height * width]`, in the scene's order (back to front).
    pub(crate) visible: Vec<Vec<f32>>,
}

/// Renders `frame` of `scene` as a square of `size` pixels, without sensor noise.
pub(crate) fn render(scene: &Scene, frame: u32, size: usize, domain: Domain) -> Rendered {
    let surface = Surface::new(domain, size);
    let mut canvas = Canvas::new(size);
    canvas.paint_background(scene, &surface);
    let mut visible: Vec<Vec<f32>> = Vec::with_capacity(scene.objects.len());
    for object in &scene.objects {
        let mut coverage = vec![0.0; size * size];
        canvas.paint_object(object, frame, scene, &surface, &mut coverage);
        for behind in &mut visible {
            for (behind, &cover) in behind.iter_mut().zip(&coverage) {
                *behind *= 1.0 - cover;
            }
        }
        visible.push(coverage);
    }
    let image = Image { height: size, width: size, channels: 3, pixels: canvas.pixels };
    Rendered { image, visible }
}

/// The picture being painted, and one row of scratch per quantity.
struct Canvas {
    size: usize,
    pixels: Vec<f32>,
    xs: Vec<f32>,
    ys: Vec<f32>,
    field: Vec<f32>,
    distance: Vec<f32>,
}

impl Canvas {
    fn new(size: usize) -> Canvas {
        let row = vec![0.0; size];
        let pixels = vec![0.0; size * size * 3];
        Canvas { size, pixels, xs: row.clone(), ys: row.clone(), field: row.clone(), distance: row }
    }

    /// Texture in two tones, brighter towards the light.
    fn paint_background(&mut self, scene: &Scene, surface: &Surface) {
        let step = 1.0 / self.size as f32;
        let (lx, ly) = direction(scene.light.angle);
        let (lx, ly) = (lx * 0.5 * scene.light.strength, ly * 0.5 * scene.light.strength);
        for y in 0..self.size {
            let v = (y as f32 + 0.5) * step - 0.5;
            for (x, (u_out, v_out)) in self.xs.iter_mut().zip(&mut self.ys).enumerate() {
                *u_out = (x as f32 + 0.5) * step - 0.5;
                *v_out = v;
            }
            scene.texture.field(&self.xs, &self.ys, &mut self.field);
            let row = &mut self.pixels[y * self.size * 3..][..self.size * 3];
            for ((pixel, &field), &u) in row.chunks_exact_mut(3).zip(&self.field).zip(&self.xs) {
                let colour = surface.background(&scene.tones, field, 1.0 + lx * u + ly * v);
                pixel.copy_from_slice(&colour);
            }
        }
    }

    /// The object's shadow, then the object; `coverage` becomes its share of each pixel.
    fn paint_object(&mut self, object: &Object, frame: u32, scene: &Scene, surface: &Surface, coverage: &mut [f32]) {
        let (centre, tilt) = object.pose(frame);
        let light = direction(scene.light.angle);
        let turn = direction(tilt);
        let away = [centre[0] - 0.22 * object.radius * light.0, centre[1] - 0.22 * object.radius * light.1];
        let pixels_per_unit = object.radius * self.size as f32;
        // The shadow's edge fades over a fifth of the radius.
        let softness = 0.2;
        for y in self.rows(away[1], object.radius * (1.0 + softness)) {
            let columns = self.place(object, away, turn, y, object.radius * (1.0 + softness));
            let row = &mut self.pixels[(y * self.size + columns.start) * 3..][..columns.len() * 3];
            for (pixel, &d) in row.chunks_exact_mut(3).zip(&self.distance) {
                let shade = 1.0 - surface.shadow(scene.light.shadow) * clip(0.5 - d / softness);
                pixel.iter_mut().for_each(|c| *c *= shade);
            }
        }
        // One pixel more than the radius, for the anti-aliased rim and the sketch's outline.
        let reach = object.radius + 2.0 / self.size as f32;
        // The light in object coordinates, where the texture and the shading live.
        let (lx, ly) = (light.0 * turn.0 + light.1 * turn.1, light.1 * turn.0 - light.0 * turn.1);
        let (lx, ly) = (lx * scene.light.strength, ly * scene.light.strength);
        for y in self.rows(centre[1], reach) {
            let columns = self.place(object, centre, turn, y, reach);
            let n = columns.len();
            object.texture.field(&self.xs[..n], &self.ys[..n], &mut self.field[..n]);
            let start = y * self.size + columns.start;
            let row = &mut self.pixels[start * 3..][..n * 3];
            for (k, (pixel, cover)) in row.chunks_exact_mut(3).zip(&mut coverage[start..start + n]).enumerate() {
                let d = self.distance[k] * pixels_per_unit;
                let shade = 1.0 + lx * self.xs[k] + ly * self.ys[k];
                let (colour, opacity) = surface.object(&object.tones, self.field[k], shade, d);
                *cover = clip(0.5 - d);
                for (channel, colour) in pixel.iter_mut().zip(colour) {
                    *channel += opacity * (colour - *channel);
                }
            }
        }
    }

    /// Rows within `reach` of `centre`, both in units of the side.
    fn rows(&self, centre: f32, reach: f32) -> std::ops::Range<usize> {
        let side = self.size as f32;
        let low = ((centre - reach) * side).max(0.0) as usize;
        let high = ((centre + reach) * side).max(0.0) as usize + 1;
        low.min(self.size)..high.min(self.size)
    }

    /// Fills the scratch rows with object coordinates and distances for row `y`; returns the columns they cover.
    /// `turn` is the cosine and sine of the tilt.
    fn place(
        &mut self,
        object: &Object,
        centre: [f32; 2],
        turn: (f32, f32),
        y: usize,
        reach: f32,
    ) -> std::ops::Range<usize> {
        let columns = self.rows(centre[0], reach);
        let n = columns.len();
        let step = 1.0 / self.size as f32;
        let (c, s) = (turn.0 / object.radius, turn.1 / object.radius);
        let dy = (y as f32 + 0.5) * step - centre[1];
        for (k, x) in columns.clone().enumerate() {
            let dx = (x as f32 + 0.5) * step - centre[0];
            self.xs[k] = dx * c + dy * s;
            self.ys[k] = dy * c - dx * s;
        }
        object.shape.distances(&self.xs[..n], &self.ys[..n], &mut self.distance[..n]);
        columns
    }
}
