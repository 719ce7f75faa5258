//! Pictures: [`Bitmap`] as stored (8 bits a channel), [`Image`] as worked on (f32 in [0, 1]).

use selfsame_engine::{Error, ErrorKind, Result};

/// The largest height or width of a picture that any reader accepts, in pixels.
pub const MAX_SIDE: usize = 16_384;

/// The largest number of pixels of a picture that any reader accepts (a 100 megapixel photograph).
pub const MAX_PIXELS: usize = 100_000_000;

/// A picture of 8-bit channels in rows of interleaved pixels (height, width, channel).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// `height * width * channels` bytes.
    pub bytes: Vec<u8>,
}

impl Bitmap {
    /// A picture of the given bytes. An error when they do not fill the shape, when it is empty, has a number of
    /// channels other than 1 or 3, or exceeds [`MAX_SIDE`] or [`MAX_PIXELS`].
    pub fn new(height: usize, width: usize, channels: usize, bytes: Vec<u8>) -> Result<Bitmap> {
        check_shape(height, width, channels)?;
        if bytes.len() != height * width * channels {
            return Err(Error::new(ErrorKind::Shape, "bitmap", format!("{} bytes", bytes.len()))
                .expected(format!("{height} x {width} x {channels} bytes")));
        }
        Ok(Bitmap { height, width, channels, bytes })
    }

    /// The picture as f32 in [0, 1]: each byte over 255.
    pub fn to_image(&self) -> Image {
        let pixels = self.bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect();
        Image { height: self.height, width: self.width, channels: self.channels, pixels }
    }

    /// The same picture in three channels: grey is repeated.
    pub fn into_rgb(self) -> Bitmap {
        if self.channels == 3 {
            return self;
        }
        let bytes = self.bytes.iter().flat_map(|&grey| [grey; 3]).collect();
        Bitmap { channels: 3, bytes, ..self }
    }
}

/// A picture in the working form: f32 in [0, 1], rows of interleaved pixels (height, width, channel).
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 1 (grey) or 3 (red, green, blue).
    pub channels: usize,
    /// `height * width * channels` values in [0, 1].
    pub pixels: Vec<f32>,
}

impl Image {
    /// A picture of the given values. An error when they do not fill the shape, when it is empty, has a number of
    /// channels other than 1 or 3, or exceeds [`MAX_SIDE`] or [`MAX_PIXELS`].
    pub fn new(height: usize, width: usize, channels: usize, pixels: Vec<f32>) -> Result<Image> {
        check_shape(height, width, channels)?;
        if pixels.len() != height * width * channels {
            return Err(Error::new(ErrorKind::Shape, "image", format!("{} values", pixels.len()))
                .expected(format!("{height} x {width} x {channels} values")));
        }
        Ok(Image { height, width, channels, pixels })
    }

    /// The picture in 8 bits: each value times 255, rounded to the nearest, clipped to 0..=255.
    pub fn to_bitmap(&self) -> Bitmap {
        let bytes = self.pixels.iter().map(|&value| to_byte(value)).collect();
        Bitmap { height: self.height, width: self.width, channels: self.channels, bytes }
    }

    /// Sets every value outside [0, 1] to the nearer bound.
    pub fn clip(&mut self) {
        for value in &mut self.pixels {
            *value = clip(*value);
        }
    }
}

/// The nearer bound for a value outside [0, 1]; NaN becomes 0.
#[inline(always)]
pub(crate) fn clip(value: f32) -> f32 {
    let low = if value > 0.0 { value } else { 0.0 };
    if low < 1.0 { low } else { 1.0 }
}

/// 8-bit form of a value in [0, 1].
#[inline(always)]
pub(crate) fn to_byte(value: f32) -> u8 {
    (clip(value) * 255.0 + 0.5) as u8
}

/// Refuses shapes that no reader should build, before anything of their size is allocated.
pub(crate) fn check_shape(height: usize, width: usize, channels: usize) -> Result<()> {
    let fits = |side: usize| (1..=MAX_SIDE).contains(&side);
    if !fits(height) || !fits(width) || height * width > MAX_PIXELS || !matches!(channels, 1 | 3) {
        return Err(Error::new(
            ErrorKind::Shape,
            "image shape",
            format!("{height} x {width} pixels of {channels} channels"),
        )
        .expected(format!("sides of 1 to {MAX_SIDE}, at most {MAX_PIXELS} pixels, 1 or 3 channels")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_working_form() {
        let bytes: Vec<u8> = (0..=255).collect();
        let bitmap = Bitmap::new(16, 16, 1, bytes).unwrap();
        assert_eq!(bitmap.to_image().to_bitmap(), bitmap);
    }

    #[test]
    fn wrong_shapes_are_refused() {
        assert!(Bitmap::new(2, 2, 3, vec![0; 11]).is_err());
        assert!(Bitmap::new(0, 2, 3, vec![]).is_err());
        assert!(Bitmap::new(1, 1, 2, vec![0; 2]).is_err());
        assert!(check_shape(MAX_SIDE, MAX_SIDE, 3).is_err());
        assert!(check_shape(usize::MAX, usize::MAX, 3).is_err());
    }

    #[test]
    fn clip_takes_nan_and_infinities() {
        assert_eq!([clip(f32::NAN), clip(f32::INFINITY), clip(f32::NEG_INFINITY)], [0.0, 1.0, 0.0]);
    }
}
