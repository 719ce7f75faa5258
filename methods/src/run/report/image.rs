//! Pictures of the report: plain RGB pixels, as PNG and as data URI.

use selfsame_engine::{Error, ErrorKind, Result};

/// An 8-bit RGB image, row-major, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    width: u32,
    height: u32,
    pixels: Vec<u8>,
}

impl RgbImage {
    /// An image of `width` x `height` pixels from `3 * width * height` bytes.
    ///
    /// Errors: `Shape` when the number of bytes is another, or the image has no pixel.
    pub fn new(width: u32, height: u32, pixels: Vec<u8>) -> Result<RgbImage> {
        let expected = 3 * u128::from(width) * u128::from(height);
        if pixels.len() as u128 != expected || expected == 0 {
            return Err(Error::new(ErrorKind::Shape, "RGB image", format!("{} bytes", pixels.len()))
                .expected(format!("3 x {width} x {height} = {expected} bytes, at least one pixel")));
        }
        Ok(RgbImage { width, height, pixels })
    }

    /// Width in pixels.
    pub fn width(&self) -> u32 {
        self.width
    }

    /// Height in pixels.
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The pixels, row-major, three bytes each.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }

    /// The image as a PNG file.
    ///
    /// Errors: `Io` when the encoder fails.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, self.width, self.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let written = encoder.write_header().and_then(|mut writer| {
            writer.write_image_data(&self.pixels)?;
            writer.finish()
        });
        written.map_err(|error| Error::new(ErrorKind::Io, "PNG encoder", error.to_string()))?;
        Ok(file)
    }

    /// The image as a `data:` URI for a page that must need no other file.
    pub(super) fn to_data_uri(&self) -> Result<String> {
        Ok(format!("data:image/png;base64,{}", base64(&self.to_png()?)))
    }

    /// Puts images of one size side by side, `columns` to a row; `None` when there is none or sizes differ.
    pub(super) fn sheet(images: &[RgbImage], columns: usize) -> Option<RgbImage> {
        let first = images.first()?;
        if images.iter().any(|image| (image.width, image.height) != (first.width, first.height)) {
            return None;
        }
        let (width, height) = (first.width as usize, first.height as usize);
        let columns = columns.clamp(1, images.len());
        let rows = images.len().div_ceil(columns);
        let stride = 3 * width * columns;
        let mut pixels = vec![0; stride * height * rows];
        for (index, image) in images.iter().enumerate() {
            let (row, column) = (index / columns, index % columns);
            for (y, line) in image.pixels.chunks_exact(3 * width).enumerate() {
                let start = (row * height + y) * stride + column * 3 * width;
                pixels[start..start + 3 * width].copy_from_slice(line);
            }
        }
        RgbImage::new(u32::try_from(width * columns).ok()?, u32::try_from(height * rows).ok()?, pixels).ok()
    }
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().enumerate().fold(0, |word, (at, &byte)| word | u32::from(byte) << (16 - 8 * at));
        for at in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * at)) as usize & 63];
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_matches_rfc_4648() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, encoded) in cases {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
        assert_eq!(base64(&[0xfb, 0xff]), "+/8=");
    }

    #[test]
    fn png_reads_back() {
        let image = RgbImage::new(5, 3, (0..45).map(|i| i * 5).collect()).unwrap();
        let file = image.to_png().unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
        let mut pixels = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut pixels).unwrap();
        assert_eq!((info.width, info.height, &pixels[..]), (5, 3, image.pixels()));
    }

    #[test]
    fn sheet_places_images_row_by_row() {
        let images: Vec<RgbImage> = (0..3).map(|i| RgbImage::new(2, 1, vec![i; 6]).unwrap()).collect();
        let sheet = RgbImage::sheet(&images, 2).unwrap();
        assert_eq!((sheet.width, sheet.height), (4, 2));
        assert_eq!(sheet.pixels, [[0; 6], [1; 6], [2; 6], [0; 6]].concat());
        let odd = RgbImage::new(1, 1, vec![0; 3]).unwrap();
        assert_eq!(RgbImage::sheet(&[odd, images[0].clone()], 2), None);
    }

    #[test]
    fn wrong_number_of_bytes_is_a_shape_error() {
        for (width, height, bytes) in [(2, 2, 11), (0, 0, 0), (u32::MAX, u32::MAX, 3)] {
            let error = RgbImage::new(width, height, vec![0; bytes]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Shape);
        }
    }
}
