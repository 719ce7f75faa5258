//! The augmentation kernels against the transforms of one image: equal bits.

use selfsame_data::Image;
use selfsame_data::augment::{
    Crop, adjust_contrast, adjust_hue, adjust_saturation, blur, flip_horizontally, resize_crop, solarize, to_grayscale,
};
use selfsame_kernels::device::augment as kernels;
use selfsame_kernels::host::HostLauncher;
use selfsame_kernels::launch::{Buffer, Launcher, Slice, SliceMut};
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_kernels::simt::Element;

/// Memory of the host executor, typed.
struct Device(HostLauncher);

impl Device {
    fn upload<T: Element>(&self, values: &[T]) -> Buffer {
        let bytes: Vec<u8> =
            values.iter().flat_map(|v| v.to_bits().to_le_bytes().into_iter().take(size_of::<T>())).collect();
        let buffer = self.0.allocate(bytes.len()).unwrap();
        self.0.upload(buffer.address, &bytes).unwrap();
        buffer
    }

    fn floats(&self, buffer: &Buffer) -> Vec<f32> {
        let mut bytes = vec![0; buffer.bytes];
        self.0.download(buffer.address, &mut bytes).unwrap();
        bytes.as_chunks().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
    }
}

fn all<T: Element>(buffer: &Buffer) -> Slice<'_, T> {
    buffer.slice(0, buffer.bytes / size_of::<T>())
}

fn all_mut<T: Element>(buffer: &Buffer) -> SliceMut<'_, T> {
    buffer.slice_mut(0, buffer.bytes / size_of::<T>())
}

/// A batch of colour images of one size.
fn batch(n: usize, height: usize, width: usize) -> Vec<Image> {
    let image = |sample: usize| {
        let mut stream = Key::new(8, Purpose::Check).stream(0, sample as u64, 0);
        let mut pixels: Vec<f32> = (0..height * width * 3).map(|_| stream.uniform_f32()).collect();
        // Grey and black pixels have no hue.
        pixels[..6].copy_from_slice(&[0.5, 0.5, 0.5, 0.0, 0.0, 0.0]);
        Image::new(height, width, 3, pixels).unwrap()
    };
    (0..n).map(image).collect()
}

fn pixels(images: &[Image]) -> Vec<f32> {
    images.iter().flat_map(|image| image.pixels.iter().copied()).collect()
}

fn assert_same_bits(got: &[f32], expected: &[Image]) {
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(got), bits(&pixels(expected)));
}

#[test]
fn crops_are_resampled_alike() {
    let device = Device(HostLauncher::new());
    let (n, h, w, out) = (3u32, 20u32, 26u32, 9u32);
    let images = batch(n as usize, h as usize, w as usize);
    let crops = [(0, 0, 20, 26), (3, 5, 9, 9), (11, 20, 7, 4)];
    let part = |f: fn(&(u32, u32, u32, u32)) -> u32| crops.iter().map(f).collect::<Vec<u32>>();
    let (heights, widths) = (part(|c| c.2), part(|c| c.3));
    let table = |extents: &[u32]| {
        let taps = |m: &u32| ((4.0 * (f64::from(*m) / f64::from(out)).max(1.0)).ceil() as u32).min(*m);
        let most = extents.iter().map(taps).max().unwrap();
        let extent = device.upload(extents);
        let count = device.upload(&vec![0u32; n as usize]);
        let first = device.upload(&vec![0u32; (n * out) as usize]);
        let weight = device.upload(&vec![0f32; (n * out * most) as usize]);
        let (extent, count_, first_, weight_) = (all(&extent), all_mut(&count), all_mut(&first), all_mut(&weight));
        kernels::crop_resize_taps::Args { extent, count: count_, first: first_, weight: weight_, n, out, most }
            .launch(&device.0)
            .unwrap();
        (count, first, weight, most)
    };
    let most_rows = h;
    let narrow = device.upload(&vec![0f32; (n * most_rows * out * 3) as usize]);
    let (count, first, weight, most) = table(&widths);
    kernels::crop_resize_columns::Args {
        x: all(&device.upload(&pixels(&images))),
        top: all(&device.upload(&part(|c| c.0))),
        left: all(&device.upload(&part(|c| c.1))),
        rows: all(&device.upload(&heights)),
        count: all(&count),
        first: all(&first),
        weight: all(&weight),
        y: all_mut(&narrow),
        n,
        h,
        w,
        most_rows,
        ow: out,
        most,
    }
    .launch(&device.0)
    .unwrap();
    let y = device.upload(&vec![0f32; (n * out * out * 3) as usize]);
    let (count, first, weight, most) = table(&heights);
    let (x, count, first, weight) = (all(&narrow), all(&count), all(&first), all(&weight));
    kernels::crop_resize_rows::Args { x, count, first, weight, y: all_mut(&y), n, most_rows, oh: out, ow: out, most }
        .launch(&device.0)
        .unwrap();
    let expected: Vec<Image> = images
        .iter()
        .zip(crops)
        .map(|(image, (top, left, height, width))| {
            let [top, left, height, width] = [top, left, height, width].map(|extent: u32| extent as usize);
            resize_crop(image, Crop { top, left, height, width }, out as usize, out as usize).unwrap()
        })
        .collect();
    assert_same_bits(&device.floats(&y), &expected);
}

#[test]
fn colours_change_alike() {
    let device = Device(HostLauncher::new());
    let (n, h, w) = (3u32, 7u32, 11u32);
    let mut images = batch(n as usize, h as usize, w as usize);
    let (contrast, saturation, turn) = ([1.7, 0.2, 1.0], [0.4, 1.8, 1.1], [0.19, -0.2, 0.05]);
    let buffer = device.upload(&pixels(&images));
    let order = device.upload(&[3u32, 1, 2, 4].repeat(n as usize));
    let factor: Vec<f32> = (0..3).flat_map(|i| [0.0, contrast[i], saturation[i], turn[i]]).collect();
    let factor = device.upload(&factor);
    let mean = device.upload(&[0f32; 9]);
    for stage in [0, 1] {
        kernels::channel_means::Args { x: all(&buffer), mean: all_mut(&mean), n, h, w }.launch(&device.0).unwrap();
        kernels::color_jitter::Args {
            image: all_mut(&buffer),
            order: all(&order),
            factor: all(&factor),
            mean: all(&mean),
            n,
            pixels: h * w,
            additive: 1,
            stage,
        }
        .launch(&device.0)
        .unwrap();
    }
    for (i, image) in images.iter_mut().enumerate() {
        adjust_hue(image, turn[i]);
        adjust_contrast(image, contrast[i]);
        adjust_saturation(image, saturation[i]);
    }
    assert_same_bits(&device.floats(&buffer), &images);

    let chosen = device.upload(&[0u32, 1, 1]);
    let args = kernels::grayscale::Args { image: all_mut(&buffer), chosen: all(&chosen), n, pixels: h * w };
    args.launch(&device.0).unwrap();
    images[1..].iter_mut().for_each(to_grayscale);
    assert_same_bits(&device.floats(&buffer), &images);

    let chosen = device.upload(&[1u32, 0, 1]);
    let (image, chosen) = (all_mut(&buffer), all(&chosen));
    kernels::solarize::Args { image, chosen, n, values: h * w * 3, threshold: 0.5 }.launch(&device.0).unwrap();
    [0, 2].into_iter().for_each(|i: usize| solarize(&mut images[i], 0.5));
    assert_same_bits(&device.floats(&buffer), &images);
}

#[test]
fn images_are_mirrored_and_blurred_alike() {
    let device = Device(HostLauncher::new());
    let (n, h, w, half_width) = (3u32, 9u32, 6u32, 4u32);
    let mut images = batch(n as usize, h as usize, w as usize);
    let (source, flipped) = (device.upload(&pixels(&images)), device.upload(&pixels(&images)));
    let chosen = device.upload(&[1u32, 0, 1]);
    kernels::flip_horizontally::Args { x: all(&source), flipped: all(&chosen), y: all_mut(&flipped), n, h, w }
        .launch(&device.0)
        .unwrap();
    [0, 2].into_iter().for_each(|i: usize| flip_horizontally(&mut images[i]));
    assert_same_bits(&device.floats(&flipped), &images);

    let sigmas = [0.7f32, 1.9, 0.0];
    let (sigma, weight) = (device.upload(&sigmas), device.upload(&[0f32; 27]));
    kernels::blur_weights::Args { sigma: all(&sigma), weight: all_mut(&weight), n, half_width }
        .launch(&device.0)
        .unwrap();
    let (sigma, weight) = (all(&sigma), all(&weight));
    kernels::blur_columns::Args { x: all(&flipped), sigma, weight, y: all_mut(&source), n, h, w, half_width }
        .launch(&device.0)
        .unwrap();
    kernels::blur_rows::Args { x: all(&source), sigma, weight, y: all_mut(&flipped), n, h, w, half_width }
        .launch(&device.0)
        .unwrap();
    images[..2].iter_mut().zip(sigmas).for_each(|(image, sigma)| blur(image, sigma, half_width as usize));
    assert_same_bits(&device.floats(&flipped), &images);
}
