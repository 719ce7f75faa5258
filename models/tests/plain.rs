//! AlexNet and VGG-16: published shapes and counts, small images, DeepCluster's two features.

use selfsame_autograd::{Grads, Param, Role, Tensor};
use selfsame_engine::{DType, Device, ops};
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_models::backbones::{Backbone, BackboneOpts, PlainNet, Stem, alexnet, backbone, vgg16};
use selfsame_models::{Ctx, Init, Module, param_count, params};

fn build(name: &str, device: &Device, set: &[(&str, &str)]) -> Box<dyn Backbone> {
    let mut o = BackboneOpts::default();
    set.iter().for_each(|(key, value)| o.set(key, value).unwrap());
    (backbone(name).unwrap().build)(&Init::new(device, 0), &o).unwrap()
}

fn images(n: usize, size: usize, device: &Device) -> Tensor {
    let stream = Key::new(9, Purpose::Check).stream(0, size as u64, 0);
    Tensor::constant(ops::normal(&[n, size, size, 3], DType::F32, 0.0, 1.0, &stream, device).unwrap())
}

const NAMES: [&str; 2] = ["alexnet", "vgg16"];

/// Weights and biases of convolutions, batch norms and hidden layers, by their published shapes.
#[test]
fn parameter_counts_follow_from_the_published_shapes() {
    let conv = |k: usize, from: usize, to: usize| k * k * from * to + to + 2 * to;
    let linear = |from: usize, to: usize| from * to + to;
    let alexnet = conv(11, 3, 96) + conv(5, 96, 256) + conv(3, 256, 384) + conv(3, 384, 384) + conv(3, 384, 256);
    let device = Device::cpu_with(1).unwrap();
    // An eighth of the width keeps the test small: 12, 32, 48, 48, 32 channels, 512 hidden.
    let eighth = conv(11, 3, 12) + conv(5, 12, 32) + conv(3, 32, 48) + conv(3, 48, 48) + conv(3, 48, 32);
    let hidden = linear(32 * 36, 512) + linear(512, 512);
    assert_eq!(param_count(&*build("alexnet", &device, &[("width", "0.125")])), eighth + hidden);
    assert_eq!(alexnet, 34_944 + 614_656 + 885_120 + 1_327_488 + 884_992 + 2 * 1376);
    let widths = [8, 8, 16, 16, 32, 32, 32, 64, 64, 64, 64, 64, 64];
    let vgg: usize = widths.iter().zip([3].iter().chain(&widths)).map(|(to, from)| conv(3, *from, *to)).sum();
    let hidden = linear(64 * 49, 512) + linear(512, 512);
    assert_eq!(param_count(&*build("vgg16", &device, &[("width", "0.125")])), vgg + hidden);
}

#[test]
fn names_count_every_step_of_the_published_definitions() {
    let device = Device::cpu_with(1).unwrap();
    let weights = |name: &str| -> Vec<String> {
        let all = params(&*build(name, &device, &[("width", "0.02"), ("classes", "3")]));
        all.iter().filter_map(|p| p.path().strip_suffix(".weight").map(str::to_string)).collect()
    };
    // Convolutions at 0, 4, 8, 11, 14 with their norms behind them.
    let convolutions = [0, 4, 8, 11, 14].iter().flat_map(|i| [i, &(i + 1)].map(|i| format!("features.{i}")));
    let rest = ["classifier.1", "classifier.4", "top_layer"].map(str::to_string);
    assert_eq!(weights("alexnet"), convolutions.chain(rest).collect::<Vec<_>>());
    let vgg = weights("vgg16");
    assert_eq!(
        vgg[24..],
        ["features.40", "features.41", "classifier.0", "classifier.3", "top_layer"].map(String::from)
    );
}

#[test]
fn large_images_end_in_the_published_maps() {
    let device = Device::cpu_with(2).unwrap();
    let cx = Ctx::eval().no_grad();
    for (name, side) in NAMES.into_iter().zip([6, 7]) {
        let net = build(name, &device, &[("width", "0.02")]);
        let map = net.feature_map(&images(1, 224, &device), &cx).unwrap();
        assert_eq!(map.shape()[1..3], [side; 2], "{name}");
        assert_eq!(net.forward(&images(1, 224, &device), &cx).unwrap().shape(), [1, net.feature_dim()]);
    }
}

#[test]
fn small_images_pass_with_either_stem_and_sobel_filters() {
    let device = Device::cpu_with(1).unwrap();
    let cx = Ctx::eval().no_grad();
    for name in NAMES {
        for stem in ["cifar", "small"] {
            for size in [16, 32, 40] {
                let net = build(name, &device, &[("width", "0.03"), ("stem", stem), ("sobel", "true")]);
                let y = net.forward(&images(2, size, &device), &cx).unwrap();
                assert_eq!(y.shape(), [2, net.feature_dim()], "{name} {stem} {size}");
                let first = params(&*net)[0].array().shape().to_vec();
                assert_eq!(first[..3], [3, 3, 2], "two channels of edges");
            }
        }
    }
}

#[test]
fn features_are_rectified_and_the_layer_before_is_in_reach() {
    let device = Device::cpu_with(1).unwrap();
    let cx = Ctx::eval().no_grad();
    for name in NAMES {
        let net = build(name, &device, &[("width", "0.03"), ("stem", "small")]);
        let x = images(4, 32, &device);
        let before = net.before_relu(&x, &cx).unwrap().array().to_vec::<f32>().unwrap();
        let after = net.forward(&x, &cx).unwrap().array().to_vec::<f32>().unwrap();
        assert!(before.iter().any(|v| *v < 0.0), "{name}");
        assert_eq!(before.iter().map(|v| v.max(0.0)).collect::<Vec<_>>(), after);
    }
    let resnet = build("resnet-small", &device, &[("width", "0.25")]);
    let x = images(2, 32, &device);
    let features = |y: Tensor| y.array().to_vec::<f32>().unwrap();
    assert_eq!(features(resnet.before_relu(&x, &cx).unwrap()), features(resnet.forward(&x, &cx).unwrap()));
}

fn small(device: &Device, dtype: DType) -> PlainNet {
    let o = BackboneOpts { width: Some(0.02), stem: Some(Stem::Small), sobel: Some(true), ..BackboneOpts::default() };
    PlainNet::new(&Init::new(device, 2).with_dtype(dtype), &alexnet(&o).unwrap()).unwrap()
}

fn trainable(net: &dyn Module) -> Vec<Param> {
    params(net).into_iter().filter(|p| p.role() != Role::Buffer).collect()
}

fn step(net: &PlainNet, x: &Tensor, cx: &Ctx) -> Grads {
    net.before_relu(x, cx).unwrap().square().unwrap().sum_all().unwrap().backward().unwrap()
}

#[test]
fn threads_change_no_bit_and_dropout_is_keyed_by_step() {
    let run = |threads: usize, step_number: u64| -> Vec<Vec<f32>> {
        let device = Device::cpu_with(threads).unwrap();
        let net = small(&device, DType::F32);
        let grads = step(&net, &images(20, 16, &device), &Ctx::train().step(1, step_number));
        trainable(&net).iter().map(|p| grads.param(p).unwrap().unwrap().to_vec().unwrap()).collect()
    };
    let expected = run(1, 7);
    assert!(run(2, 7) == expected);
    assert!(run(1, 8) != expected);
}

/// The derivative along one parameter's gradient, in f64: the first convolution's, behind Sobel filters, five batch
/// norms, pooling and dropout.
#[test]
fn gradients_agree_with_differences() {
    let device = Device::cpu_with(1).unwrap();
    let net = small(&device, DType::F64);
    let x = images(6, 16, &device);
    let x = Tensor::constant(ops::cast(x.array(), DType::F64).unwrap());
    let cx = Ctx::train().step(1, 2);
    let grads = step(&net, &x, &cx);
    let first = trainable(&net).into_iter().next().unwrap();
    let (value, d) = (first.array(), grads.param(&first).unwrap().unwrap());
    let norm = ops::norm_sq(&d).unwrap();
    let at = |h: f64| {
        first.set(ops::add_scaled(value.copy().unwrap(), h, &d).unwrap()).unwrap();
        let y = net.before_relu(&x, &cx).unwrap().square().unwrap().sum_all().unwrap();
        y.array().item::<f64>().unwrap()
    };
    // A step short enough that few activations meet a kink of ReLU or pooling.
    let h = 1e-6 / norm.sqrt();
    let difference = (at(h) - at(-h)) / (2.0 * h);
    assert!(norm > 0.0);
    assert!((norm - difference).abs() <= 1e-3 * norm, "{norm} and {difference}");
}

#[test]
fn configurations_of_other_families_are_refused() {
    let o = BackboneOpts { patch: Some(4), ..BackboneOpts::default() };
    assert!(alexnet(&o).is_err() && vgg16(&o).is_err());
    let sobel = BackboneOpts { sobel: Some(true), ..BackboneOpts::default() };
    assert!(vgg16(&sobel).unwrap().sobel);
    let device = Device::cpu_with(1).unwrap();
    assert!((backbone("vit-tiny").unwrap().build)(&Init::new(&device, 0), &sobel).is_err());
    let empty = selfsame_models::backbones::PlainConfig { steps: Vec::new(), ..vgg16(&sobel).unwrap() };
    assert!(PlainNet::new(&Init::new(&device, 0), &empty).is_err());
}
