//! VGG-16 (Simonyan and Zisserman 2015, arXiv:1409.1556) with batch norm, as DeepCluster trains it.

use super::plain::small_stem;
use super::{BackboneOpts, BackboneSpec, PlainConfig, PlainNet, Step};
use selfsame_engine::Result;

/// VGG-16 with batch norm: thirteen convolutions, two hidden layers of 4096.
///
/// With a stem for small images the last map is averaged to one position in place of 7x7, and pooling ends where the
/// map has one pixel.
///
/// # Errors
/// `Config` for an option of other families.
pub fn vgg16(o: &BackboneOpts) -> Result<PlainConfig> {
    let small = small_stem(o);
    let mut steps = Vec::new();
    for (stage, (convolutions, channels)) in [(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)].into_iter().enumerate() {
        for i in 0..convolutions {
            let is_first = stage == 0 && i == 0;
            let [kernel, stride, padding] = small.filter(|_| is_first).unwrap_or([3, 1, 1]);
            steps.push(Step::Conv { channels, kernel, stride, padding });
        }
        steps.push(Step::Pool { kernel: 2, stride: 2, padding: 0 });
    }
    let config = PlainConfig {
        steps,
        grid: if small.is_some() { 1 } else { 7 },
        hidden: 4096,
        drops_map: false,
        dropout: 0.5,
        sobel: false,
        channels: 3,
        classes: None,
        bn_group: None,
    };
    config.with("vgg16", o)
}

/// With batch norm.
pub(super) static VGG16: BackboneSpec = BackboneSpec {
    name: "vgg16",
    doc: "thirteen convolutions with batch norm, two hidden layers, 4096 features",
    build: |init, o| Ok(Box::new(PlainNet::new(init, &vgg16(o)?)?)),
};
