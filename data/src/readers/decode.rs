//! JPEG and PNG bytes to RGB pixels, and pixels to PNG.
//!
//! Pixels are part of the bits: the JPEG decoder runs its one portable code path (built without SIMD, `unsafe` off), so
//! that they do not depend on the processor. Conventions: grey becomes three equal channels, CMYK is converted, alpha
//! is dropped, 16-bit channels keep their upper byte, colour profiles and EXIF rotation are not applied.

use crate::image::{Bitmap, MAX_PIXELS, MAX_SIDE, check_shape};
use selfsame_engine::{Error, ErrorKind, Result};
use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

/// Decodes a whole JPEG or PNG file, told apart by its first bytes; `path` is for error messages alone.
///
/// The result has three channels. An error names the file when it is of another format, damaged, truncated, or larger
/// than [`MAX_SIDE`] or [`MAX_PIXELS`] allow, or than so many bytes can encode; sizes are checked before memory is
/// allocated.
pub fn decode(bytes: &[u8], path: &Path) -> Result<Bitmap> {
    let decoded = match bytes {
        [0xff, 0xd8, 0xff, ..] if !ends_after_its_scan(bytes) => Err("a truncated JPEG image".to_string()),
        [0xff, 0xd8, 0xff, ..] => decode_jpeg(bytes),
        [0x89, b'P', b'N', b'G', ..] => decode_png(bytes),
        [] => Err("an empty file".to_string()),
        _ => Err("neither JPEG nor PNG data".to_string()),
    };
    decoded.map_err(|got| {
        Error::new(ErrorKind::Corrupt, path.display().to_string(), got).expected("a JPEG or PNG image that decodes")
    })
}

/// Most pixels that a byte of a JPEG file can stand for: a block of 8 x 8 has at least one bit.
const JPEG_DENSITY: usize = 8 * 64;

/// Most bytes that a byte of deflated data can stand for: two bits repeat 258.
const DEFLATE_DENSITY: usize = 4 * 258;

/// Refuses a header that announces more than the file has room for, before memory for it is taken.
fn check_density(announced: usize, density: usize, file: &[u8]) -> std::result::Result<(), String> {
    let most = density.saturating_mul(file.len());
    if announced <= most { Ok(()) } else { Err(format!("a truncated image, {} bytes long", file.len())) }
}

fn decode_jpeg(bytes: &[u8]) -> std::result::Result<Bitmap, String> {
    let options = DecoderOptions::new_safe()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    // The decoder's authors count panics on malformed input as bugs, but do not rule them out.
    let decoded = catch_unwind(AssertUnwindSafe(|| {
        let mut decoder = JpegDecoder::new_with_options(Cursor::new(bytes), options);
        decoder.decode_headers().map_err(|error| format!("{error:?}"))?;
        let info = decoder.info().ok_or("no image size")?;
        let (height, width) = (usize::from(info.height), usize::from(info.width));
        check_shape(height, width, 3).map_err(|error| error.sentence())?;
        check_density(height * width, JPEG_DENSITY, bytes)?;
        let bytes = decoder.decode().map_err(|error| format!("{error:?}"))?;
        Bitmap::new(height, width, 3, bytes).map_err(|error| error.sentence())
    }));
    decoded.unwrap_or_else(|_| Err("the JPEG decoder gave up".to_string()))
}

/// Whether an end-of-image marker follows the last start of a scan. The decoder fills a missing end with grey; within a
/// scan no byte 0xff is followed by one that makes it a marker, so the search cannot be fooled by pixels.
fn ends_after_its_scan(bytes: &[u8]) -> bool {
    let last = |marker: u8| bytes.windows(2).rposition(|pair| pair == [0xff, marker]);
    last(0xd9) > last(0xda)
}

fn decode_png(bytes: &[u8]) -> std::result::Result<Bitmap, String> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_limits(png::Limits { bytes: 8 * MAX_PIXELS });
    decoder.set_transformations(png::Transformations::EXPAND | png::Transformations::STRIP_16);
    let mut reader = decoder.read_info().map_err(|error| error.to_string())?;
    let (height, width) = (reader.info().height as usize, reader.info().width as usize);
    check_shape(height, width, 3).map_err(|error| error.sentence())?;
    check_density(reader.info().raw_bytes(), DEFLATE_DENSITY, bytes)?;
    let mut buffer = vec![0; reader.output_buffer_size().ok_or("a picture too large to address")?];
    let frame = reader.next_frame(&mut buffer).map_err(|error| error.to_string())?;
    reader.finish().map_err(|error| error.to_string())?;
    buffer.truncate(frame.buffer_size());
    let rgb = match frame.color_type {
        png::ColorType::Rgb => buffer,
        png::ColorType::Rgba => buffer.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        png::ColorType::Grayscale => buffer.iter().flat_map(|&grey| [grey; 3]).collect(),
        png::ColorType::GrayscaleAlpha => buffer.chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        png::ColorType::Indexed => return Err("an unexpanded palette".to_string()),
    };
    Bitmap::new(height, width, 3, rgb).map_err(|error| error.sentence())
}

/// The picture as the bytes of a PNG file.
pub fn encode_png(bitmap: &Bitmap) -> Result<Vec<u8>> {
    let failed = |error: png::EncodingError| Error::new(ErrorKind::Io, "PNG encoder", error.to_string());
    let side = |pixels: usize| {
        u32::try_from(pixels).map_err(|_| Error::new(ErrorKind::Shape, "PNG encoder", format!("side {pixels}")))
    };
    let mut out = Vec::new();
    let mut encoder = png::Encoder::new(&mut out, side(bitmap.width)?, side(bitmap.height)?);
    encoder.set_color(if bitmap.channels == 1 { png::ColorType::Grayscale } else { png::ColorType::Rgb });
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&bitmap.bytes).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(out)
}
