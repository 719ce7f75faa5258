//! ResNets: published sizes and names, recomputation, ranks, gradients of a whole network.

use selfsame_autograd::{Grads, Param, Role, Tensor};
use selfsame_engine::{Array, Comm, DType, Device, ErrorKind, ops};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::philox::{self, Key, Purpose};
use selfsame_models::backbones::{BACKBONES, Backbone, BackboneOpts, Block, ResNet, ResNetConfig, Stem, backbone};
use selfsame_models::layers::Sobel;
use selfsame_models::{Ctx, Init, Module, Updates, copy_values, param_count, params};
use std::sync::Arc;

fn device() -> Device {
    Device::cpu_with(1).unwrap()
}

fn build(name: &str, set: &[(&str, &str)]) -> Box<dyn Backbone> {
    let mut o = BackboneOpts::default();
    set.iter().for_each(|(key, value)| o.set(key, value).unwrap());
    (backbone(name).unwrap().build)(&Init::new(&device(), 0), &o).unwrap()
}

fn images(n: usize, size: usize) -> Array {
    let mut values = vec![0f32; n * size * size * 3];
    philox::fill_normal(Isa::detect(), &Key::new(9, Purpose::Check).stream(0, 0, 0), 0, &mut values);
    Array::from_slice(&values, &[n, size, size, 3], &device()).unwrap()
}

/// Two stages of four and eight channels.
fn tiny(init: &Init, zero_init: bool) -> ResNet {
    let config =
        ResNetConfig { widths: vec![4, 8], depths: vec![1, 1], stem: Stem::Cifar, zero_init, ..ResNetConfig::small() };
    ResNet::new(init, &config).unwrap()
}

/// torchvision's published counts.
#[test]
fn parameter_counts_are_those_of_torchvision() {
    for (name, with_classes, without) in [
        ("resnet18", 11_689_512, 11_176_512),
        ("resnet34", 21_797_672, 21_284_672),
        ("resnet50", 25_557_032, 23_508_032),
    ] {
        let net = build(name, &[("classes", "1000")]);
        assert_eq!(param_count(&*net), with_classes, "{name}");
        let fc = (net.feature_dim() + 1) * 1000;
        assert_eq!(with_classes - fc, without);
        let small = build(name, &[("width", "0.125")]);
        assert!(
            !params(&*small).iter().any(|p| p.path().starts_with("fc")),
            "no classification layer unless asked for"
        );
    }
    assert_eq!(param_count(&*build("resnet18", &[])), 11_176_512);
}

#[test]
fn names_and_order_are_those_of_torchvision() {
    let net = build("resnet18", &[("width", "0.0625")]);
    let names: Vec<String> = params(&*net).iter().map(|p| p.path().to_string()).collect();
    // torchvision's state dict has 122 entries: 20 of num_batches_tracked and 2 of fc are not here.
    assert_eq!(names.len(), 100);
    let bn = |layer: &str| ["weight", "bias", "running_mean", "running_var"].map(|n| format!("{layer}.{n}")).to_vec();
    let mut start = vec!["conv1.weight".to_string()];
    start.extend(bn("bn1"));
    start.push("layer1.0.conv1.weight".into());
    assert_eq!(names[..6], start[..]);
    let block: Vec<&str> = names.iter().filter_map(|n| n.strip_prefix("layer2.0.")).collect();
    let order =
        ["conv1.weight", "bn1.weight", "conv2.weight", "bn2.weight", "downsample.0.weight", "downsample.1.weight"];
    let at: Vec<usize> = order.iter().map(|n| block.iter().position(|b| b == n).unwrap()).collect();
    assert!(at.is_sorted(), "{block:?}");
    let bottleneck = build("resnet50", &[("width", "0.0625")]);
    let names: Vec<String> = params(&*bottleneck).iter().map(|p| p.path().to_string()).collect();
    // 320 in torchvision, less 53 of num_batches_tracked and 2 of fc.
    assert_eq!(names.len(), 265);
    assert!(names.contains(&"layer1.0.downsample.0.weight".to_string()), "the first bottleneck widens by a projection");
}

#[test]
fn bottlenecks_stride_in_the_middle() {
    let net = build("resnet50", &[("width", "0.0625"), ("stem", "cifar")]);
    let shape = |path: &str| params(&*net).iter().find(|p| p.path() == path).unwrap().array().shape().to_vec();
    assert_eq!(shape("layer2.0.conv1.weight"), [1, 1, 16, 8]);
    assert_eq!(shape("layer2.0.conv2.weight"), [3, 3, 8, 8]);
    assert_eq!(shape("layer2.0.conv3.weight"), [1, 1, 8, 32]);
    let x = Tensor::constant(images(2, 16));
    assert_eq!(net.feature_map(&x, &Ctx::eval().no_grad()).unwrap().shape(), [2, 2, 2, 128]);
}

#[test]
fn stems_and_widths_give_the_documented_shapes() {
    let map = |name, set: &[(&str, &str)], size| {
        let net = build(name, set);
        let (x, cx) = (Tensor::constant(images(2, size)), Ctx::eval().no_grad());
        assert_eq!(net.forward(&x, &cx).unwrap().shape(), [2, net.feature_dim()]);
        net.feature_map(&x, &cx).unwrap().shape().to_vec()
    };
    assert_eq!(map("resnet18", &[("width", "0.0625")], 64), [2, 2, 2, 32]);
    assert_eq!(map("resnet18", &[("width", "0.0625"), ("stem", "cifar")], 32), [2, 4, 4, 32]);
    assert_eq!(map("resnet-small", &[("widths", "4,8,16")], 32), [2, 4, 4, 16]);
    assert_eq!(map("resnet-small", &[("widths", "4,8,16,32"), ("stem", "cifar")], 32), [2, 4, 4, 32]);
    let wide = ResNetConfig::standard(Block::Bottleneck, [3, 4, 6, 3]);
    let wide = wide.with(&BackboneOpts { width: Some(2.0), ..BackboneOpts::default() }).unwrap();
    assert_eq!(wide.widths, [128, 256, 512, 1024]);
}

#[test]
fn names_of_backbones_and_wrong_options_are_explained() {
    assert!(BACKBONES.iter().all(|spec| backbone(spec.name).is_ok()));
    assert!(backbone("resnet-18").map(|s| s.name).unwrap_err().sentence().contains("'resnet18'"));
    let three = BackboneOpts { widths: Some(vec![8, 16, 32]), ..BackboneOpts::default() };
    assert_eq!(ResNetConfig::standard(Block::Basic, [2; 4]).with(&three).unwrap_err().kind(), ErrorKind::Config);
    let gray = Tensor::constant(Array::full(0f32, &[1, 32, 32, 1], &device()).unwrap());
    let error = build("resnet-small", &[]).forward(&gray, &Ctx::eval()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Shape);
    assert!(error.sentence().contains("conv2d"), "{error}");
}

#[test]
fn zero_initialised_blocks_are_the_identity() {
    let device = device();
    let net = |depth| {
        let config = ResNetConfig {
            widths: vec![4],
            depths: vec![depth],
            stem: Stem::Cifar,
            zero_init: true,
            ..ResNetConfig::small()
        };
        ResNet::new(&Init::new(&device, 0), &config).unwrap()
    };
    let run = |net: ResNet| {
        let x = Tensor::constant(images(3, 8).to_device(&device).unwrap());
        let y = net.feature_map(&x, &Ctx::train().no_grad()).unwrap();
        y.array().to_vec::<f32>().unwrap()
    };
    assert_eq!(run(net(3)), run(net(0)));
}

/// One forward and backward of the mean square of the features.
fn step(net: &dyn Module, x: Array, cx: &Ctx) -> Grads {
    let x = x.to_device(params(net)[0].array().device()).unwrap();
    let y = net.forward(&Tensor::constant(x), cx).unwrap();
    y.square().unwrap().sum_all().unwrap().backward().unwrap()
}

fn trainable(net: &dyn Module) -> Vec<Param> {
    params(net).into_iter().filter(|p| p.role() != Role::Buffer).collect()
}

fn bits(net: &dyn Module, grads: &Grads) -> Vec<Vec<f32>> {
    trainable(net).iter().map(|p| grads.param(p).unwrap().unwrap().to_vec().unwrap()).collect()
}

fn updated(cx: &Ctx) -> Vec<(String, Vec<f32>)> {
    values(cx.take_updates())
}

fn values(updates: Updates) -> Vec<(String, Vec<f32>)> {
    updates.values().unwrap().iter().map(|(b, v)| (b.path().to_string(), v.to_vec().unwrap())).collect()
}

#[test]
fn recomputation_changes_no_bit_and_collects_statistics_once() {
    let net = tiny(&Init::new(&device(), 1), false);
    let (plain, again) = (Ctx::train(), Ctx::train().recompute(true));
    let expected = bits(&net, &step(&net, images(20, 8), &plain));
    assert_eq!(bits(&net, &step(&net, images(20, 8), &again)), expected);
    let updates = updated(&again);
    assert_eq!(updates, updated(&plain));
    assert_eq!(updates.len(), params(&net).iter().filter(|p| p.role() == Role::Buffer).count());
}

/// [`tiny`] on `device` with batch norm over groups of that many images.
fn grouped(device: &Device, bn_group: Option<usize>) -> ResNet {
    let o = BackboneOpts { bn_group, ..BackboneOpts::default() };
    let config = ResNetConfig { widths: vec![4, 8], depths: vec![1, 1], ..ResNetConfig::small() };
    ResNet::new(&Init::new(device, 1), &config.with(&o).unwrap()).unwrap()
}

#[test]
fn two_ranks_have_the_bits_of_one() {
    for bn_group in [None, Some(16)] {
        let net = grouped(&device(), bn_group);
        let cx = Ctx::train();
        let expected = bits(&net, &step(&net, images(32, 8), &cx));
        let statistics = updated(&cx);
        let rank = |comm: Comm| {
            let first = comm.rank() * 16;
            let cx = Ctx::train().first_image(first).comm(Arc::new(comm));
            let grads = step(&net, images(32, 8).slice(0, first, first + 16).unwrap(), &cx);
            (bits(&net, &grads.all_sum(cx.ranks()).unwrap()), cx.take_updates())
        };
        std::thread::scope(|scope| {
            let comms = Comm::emulated(2).unwrap();
            let ranks: Vec<_> = comms.into_iter().map(|comm| scope.spawn(|| rank(comm))).collect();
            let mut all = Updates::default();
            for rank in ranks {
                let (found, updates) = rank.join().unwrap();
                assert_eq!(found, expected);
                all.merge(updates).unwrap();
            }
            assert_eq!(values(all), statistics);
        });
    }
}

#[test]
fn micro_batches_of_whole_statistics_groups_have_the_bits_of_the_batch() {
    let net = grouped(&device(), Some(16));
    let cx = Ctx::train();
    let whole = bits(&net, &step(&net, images(48, 8), &cx));
    let (mut grads, mut all) = (Grads::default(), Updates::default());
    for (from, to) in [(0, 32), (32, 48)] {
        let part = images(48, 8).slice(0, from, to).unwrap();
        let cx = Ctx::train().first_image(from);
        grads.merge(step(&net, part, &cx)).unwrap();
        all.merge(cx.take_updates()).unwrap();
    }
    assert!(bits(&net, &grads) == whole);
    assert_eq!(values(all), updated(&cx));
    let ungrouped = grouped(&device(), None);
    assert!(bits(&ungrouped, &step(&ungrouped, images(48, 8), &Ctx::train())) != whole);
}

#[test]
fn an_evaluation_without_gradients_is_untracked_and_updates_nothing() {
    let net = tiny(&Init::new(&device(), 1), false);
    let cx = Ctx::eval().no_grad().recompute(true);
    let y = net.forward(&Tensor::constant(images(2, 8)), &cx).unwrap();
    assert!(!y.is_tracked());
    assert!(cx.take_updates().is_empty());
}

/// The derivative along one random direction of all parameters at once, in f64.
#[test]
fn gradient_of_a_whole_network_agrees_with_differences() {
    let device = device();
    let net = tiny(&Init::new(&device, 3).with_dtype(DType::F64), false);
    let x = ops::cast(&images(6, 8).to_device(&device).unwrap(), DType::F64).unwrap();
    let weights: Vec<f64> = (0..6 * 8).map(|i| f64::from(i % 7) - 3.0).collect();
    let weights = Tensor::constant(Array::from_slice(&weights, &[6, 8], &device).unwrap());
    let loss = || {
        let y = net.forward(&Tensor::constant(x.clone()), &Ctx::train()).unwrap();
        y.mul(&weights).unwrap().sum_all().unwrap()
    };
    let grads = loss().backward().unwrap();
    let start: Vec<(Param, Vec<f64>, Vec<f64>)> = trainable(&net)
        .into_iter()
        .map(|p| {
            let mut u = vec![0f64; p.array().numel()];
            let stream = Key::new(4, Purpose::Check).stream(0, philox::key_of_path(p.path()), 0);
            philox::fill_normal(Isa::detect(), &stream, 0, &mut u);
            let value = p.array().to_vec().unwrap();
            (p, value, u)
        })
        .collect();
    let analytic: f64 = start
        .iter()
        .map(|(p, _, u)| {
            let d = grads.param(p).unwrap().unwrap().to_vec::<f64>().unwrap();
            d.iter().zip(u).map(|(d, u)| d * u).sum::<f64>()
        })
        .sum();
    let at = |h: f64| -> f64 {
        for (p, value, u) in &start {
            let moved: Vec<f64> = value.iter().zip(u).map(|(v, u)| v + h * u).collect();
            p.set(Array::from_slice(&moved, p.array().shape(), &device).unwrap()).unwrap();
        }
        loss().array().item().unwrap()
    };
    let h = 1e-6;
    let difference = (at(h) - at(-h)) / (2.0 * h);
    // A step of 1e-6 leaves few activations near the kink of a relu: each moves the difference by about 1e-6.
    assert!((analytic - difference).abs() <= 1e-4 * analytic.abs().max(1.0), "{analytic} and {difference}");
    assert!(analytic.abs() > 1e-2, "a direction in which the loss changes: {analytic}");
}

#[test]
fn twins_start_apart_and_copy() {
    let init = Init::new(&device(), 1);
    let (online, target) = (tiny(&init.at("online"), false), tiny(&init.at("target"), false));
    let values = |net: &ResNet| params(net).iter().map(|p| p.array().to_vec::<f32>().unwrap()).collect::<Vec<_>>();
    assert_ne!(values(&online), values(&target));
    copy_values(&online, &target).unwrap();
    assert_eq!(values(&online), values(&target));
    assert!(params(&target)[0].path().starts_with("target.conv1"));
}

#[test]
fn with_sobel_filters_the_network_sees_edges_alone() {
    let filtered = build("resnet-small", &[("width", "0.25"), ("sobel", "true")]);
    let of_two_channels = build("resnet-small", &[("width", "0.25"), ("channels", "2")]);
    let (x, cx) = (Tensor::constant(images(2, 32)), Ctx::eval());
    let edges = Sobel.forward(&x, &cx).unwrap();
    let features = |net: &dyn Backbone, x: &Tensor| net.forward(x, &cx).unwrap().array().to_vec::<f32>().unwrap();
    let found = features(&*filtered, &x);
    assert_eq!(found, features(&*of_two_channels, &edges));
    assert!(found.iter().any(|feature| *feature != 0.0));
}
