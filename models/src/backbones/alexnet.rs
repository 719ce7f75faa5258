//! AlexNet (Krizhevsky et al. 2012) with batch norm in place of response normalisation and without channel groups, as
//! DeepCluster (Caron et al. 2018, arXiv:1807.05520) trains it.

use super::plain::small_stem;
use super::{BackboneOpts, BackboneSpec, PlainConfig, PlainNet, Step};
use selfsame_engine::Result;

/// AlexNet with batch norm: five convolutions, two hidden layers of 4096.
///
/// With a stem for small images the first convolution is 3x3, pooling keeps borders, and the last map is averaged to
/// 2x2 positions in place of 6x6.
///
/// # Errors
/// `Config` for an option of other families.
pub fn alexnet(o: &BackboneOpts) -> Result<PlainConfig> {
    let small = small_stem(o);
    let [kernel, stride, padding] = small.unwrap_or([11, 4, 2]);
    let conv = |channels, kernel, padding| Step::Conv { channels, kernel, stride: 1, padding };
    let pool = Step::Pool { kernel: 3, stride: 2, padding: if small.is_some() { 1 } else { 0 } };
    let steps = vec![
        Step::Conv { channels: 96, kernel, stride, padding },
        pool,
        conv(256, 5, 2),
        pool,
        conv(384, 3, 1),
        conv(384, 3, 1),
        conv(256, 3, 1),
        pool,
    ];
    let config = PlainConfig {
        steps,
        grid: if small.is_some() { 2 } else { 6 },
        hidden: 4096,
        drops_map: true,
        dropout: 0.5,
        sobel: false,
        channels: 3,
        classes: None,
        bn_group: None,
    };
    config.with("alexnet", o)
}

/// With batch norm.
pub(super) static ALEXNET: BackboneSpec = BackboneSpec {
    name: "alexnet",
    doc: "five convolutions with batch norm, two hidden layers, 4096 features",
    build: |init, o| Ok(Box::new(PlainNet::new(init, &alexnet(o)?)?)),
};
