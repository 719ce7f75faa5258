//! Vision transformers: published sizes, positions, cuts of the batch, threads, recomputation, gradients.

use selfsame_autograd::{Domain, Gen, Grads, Param, Role, Tensor, gradcheck};
use selfsame_engine::{Array, Comm, DType, Device, ErrorKind, ops};
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_models::backbones::{Backbone, BackboneOpts, TokenPool, Vit, VitConfig, backbone};
use selfsame_models::heads::{DinoHead, DinoHeadOpts};
use selfsame_models::layers::Gain;
use selfsame_models::{Ctx, Init, Module, param_count, params};
use std::sync::Arc;

fn device(threads: usize) -> Device {
    Device::cpu_with(threads).unwrap()
}

fn images(n: usize, size: usize, device: &Device) -> Array {
    let stream = Key::new(9, Purpose::Check).stream(0, size as u64, 0);
    ops::normal(&[n, size, size, 3], DType::F32, 0.0, 1.0, &stream, device).unwrap()
}

/// Two blocks of one head over 2x2 patches of 4 pixels.
const TINY: VitConfig = VitConfig {
    heads: 1,
    depth: 2,
    patch: 4,
    image: 8,
    channels: 3,
    pool: TokenPool::Class,
    drop_path: 0.0,
    classes: None,
};

fn tiny(device: &Device) -> Vit {
    Vit::new(&Init::new(device, 1), &TINY).unwrap()
}

fn trainable(net: &dyn Module) -> Vec<Param> {
    params(net).into_iter().filter(|p| p.role() != Role::Buffer).collect()
}

fn bits(net: &dyn Module, grads: &Grads) -> Vec<Vec<f32>> {
    trainable(net).iter().map(|p| grads.param(p).unwrap().unwrap().to_vec().unwrap()).collect()
}

fn features(net: &dyn Module, x: Array, cx: &Ctx) -> Vec<f32> {
    net.forward(&Tensor::constant(x), cx).unwrap().array().to_vec().unwrap()
}

/// One forward and backward of the sum of exponentials of the features.
fn step(net: &dyn Module, x: Array, cx: &Ctx) -> Grads {
    let y = net.forward(&Tensor::constant(x), cx).unwrap();
    // Not a sum of squares, which the last norm fixes.
    y.exp().unwrap().sum_all().unwrap().backward().unwrap()
}

/// timm's counts for `vit_tiny_patch16_224`, `vit_small_…` and `vit_base_…`.
#[test]
fn parameter_counts_are_those_of_timm() {
    for (name, dim, count) in
        [("vit-tiny", 192, 5_717_416), ("vit-small", 384, 22_050_664), ("vit-base", 768, 86_567_656)]
    {
        // A block less is enough to know all of them: 12 dim² + 13 dim parameters.
        let o = BackboneOpts { depth: Some(1), classes: Some(1000), ..BackboneOpts::default() };
        let net = (backbone(name).unwrap().build)(&Init::new(&device(1), 0), &o).unwrap();
        assert_eq!(net.feature_dim(), dim);
        assert_eq!(param_count(&*net) + 11 * (12 * dim * dim + 13 * dim), count, "{name}");
    }
}

#[test]
fn options_set_the_shape_and_wrong_ones_are_refused() {
    let mut o = BackboneOpts::default();
    let set = [("patch", "4"), ("image", "16"), ("depth", "2"), ("width", "0.34"), ("pool", "mean"), ("channels", "1")];
    set.iter().for_each(|(key, value)| o.set(key, value).unwrap());
    let device = device(1);
    let net = (backbone("vit-tiny").unwrap().build)(&Init::new(&device, 0), &o).unwrap();
    let x = Tensor::constant(Array::full(0.5f32, &[2, 16, 16, 1], &device).unwrap());
    let cx = Ctx::eval().no_grad();
    assert_eq!(net.feature_map(&x, &cx).unwrap().shape(), [2, 4, 4, 64]);
    assert_eq!(net.forward(&x, &cx).unwrap().shape(), [2, 64]);
    let ragged = Tensor::constant(Array::full(0.5f32, &[2, 16, 18, 1], &device).unwrap());
    let error = net.forward(&ragged, &cx).unwrap_err();
    assert!(error.kind() == ErrorKind::Shape && error.sentence().contains("16 x 18"), "{error}");
    o.set("image", "18").unwrap();
    assert_eq!(VitConfig::standard(3).with(&o).map(|c| c.image).unwrap(), 18);
    let built = (backbone("vit-tiny").unwrap().build)(&Init::new(&device, 0), &o);
    assert_eq!(built.err().map(|e| e.kind()), Some(ErrorKind::Config));
    o.set("widths", "8,16").unwrap();
    assert!(VitConfig::standard(3).with(&o).unwrap_err().sentence().contains("widths"));
    let vit_option = BackboneOpts { patch: Some(4), ..BackboneOpts::default() };
    let built = (backbone("resnet18").unwrap().build)(&Init::new(&device, 0), &vit_option);
    assert!(built.err().unwrap().sentence().contains("patch"));
}

#[test]
fn the_features_are_the_class_token_or_the_mean_of_the_patches() {
    let device = device(1);
    let net = tiny(&device);
    let x = Tensor::constant(images(3, 8, &device));
    let cx = Ctx::eval().no_grad();
    let last = net.last_tokens(&x, 2, &cx).unwrap();
    let tokens = last[1].array().to_vec::<f32>().unwrap();
    let class: Vec<f32> = tokens.chunks(5 * 64).flat_map(|image| image[..64].to_vec()).collect();
    assert_eq!(features(&net, x.array().clone(), &cx), class);
    let patches: Vec<f32> = tokens.chunks(5 * 64).flat_map(|image| image[64..].to_vec()).collect();
    let map = net.feature_map(&x, &cx).unwrap();
    assert_eq!((map.shape(), map.array().to_vec::<f32>().unwrap()), (&[3, 2, 2, 64][..], patches));
    let mean = Vit::new(&Init::new(&device, 1), &VitConfig { pool: TokenPool::Mean, ..TINY }).unwrap();
    let expected = map.global_avg_pool().unwrap().array().to_vec::<f32>().unwrap();
    assert_eq!(features(&mean, x.array().clone(), &cx), expected);
    assert_ne!(last[0].array().to_vec::<f32>().unwrap(), tokens);
    assert_eq!(net.last_tokens(&x, 3, &cx).unwrap_err().kind(), ErrorKind::Config);
}

/// Without blocks the tokens are visible: patch times weight, plus positions, then the norm.
#[test]
fn positions_of_other_sizes_are_interpolated_and_the_class_token_keeps_its_own() {
    let device = device(1);
    let net = Vit::new(&Init::new(&device, 1), &VitConfig { depth: 0, ..TINY }).unwrap();
    let set = |path: &str, value: Array| {
        params(&net).into_iter().find(|p| p.path() == path).unwrap().set(value).unwrap();
    };
    // Patches add nothing; of the positions, channel 0 is 9 for the class token and 0, 4 | 8, 12 in the grid, and
    // channel 1 its negative, so that the norm, (x - 0) / sqrt(2 x² / 64), leaves the sign alone.
    set("patch_embed.proj.weight", Array::zeros(&[4, 4, 3, 64], DType::F32, &device).unwrap());
    set("patch_embed.proj.bias", Array::zeros(&[64], DType::F32, &device).unwrap());
    set("cls_token", Array::zeros(&[1, 1, 64], DType::F32, &device).unwrap());
    let mut table = vec![0f32; 5 * 64];
    for (token, value) in [9.0, -4.0, 4.0, -4.0, 4.0].into_iter().enumerate() {
        table[token * 64] = value;
        table[token * 64 + 1] = -value;
    }
    set("pos_embed", Array::from_slice(&table, &[1, 5, 64], &device).unwrap());
    let signs = |size: usize| {
        let x = Tensor::constant(images(1, size, &device));
        let all = net.feature_map(&x, &Ctx::eval()).unwrap().array().to_vec::<f32>().unwrap();
        let class = features(&net, x.array().clone(), &Ctx::eval())[0];
        (class, all.chunks(64).map(|token| token[0]).collect::<Vec<_>>())
    };
    // sqrt(64 / 2), but for the norm's eps.
    let unit = 32f32.sqrt();
    let near = |found: &[f32], expected: &[f32]| {
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-4), "{found:?} {expected:?}");
    };
    let (class, same) = signs(8);
    near(&[class], &[unit]);
    near(&same, &[-unit, unit, -unit, unit]);
    let (class, wider) = signs(16);
    near(&[class], &[unit]);
    let row = [-unit, -unit, unit, unit];
    near(&wider, &[row; 4].concat());
    // Half way between the columns, bicubic weights of ±4 cancel.
    let (class, one) = signs(4);
    near(&[class, one[0]], &[unit, 0.0]);
}

#[test]
fn images_of_another_size_than_the_positions_train_them() {
    let device = device(1);
    let net = tiny(&device);
    for size in [4, 12] {
        let grads = step(&net, images(2, size, &device), &Ctx::train());
        for name in ["pos_embed", "cls_token"] {
            let param = trainable(&net).into_iter().find(|p| p.path() == name).unwrap();
            let gradient = grads.param(&param).unwrap().unwrap().to_vec::<f32>().unwrap();
            assert!(gradient.chunks(64).all(|token| token.iter().any(|g| *g != 0.0)), "{name} at {size}");
        }
    }
}

#[test]
fn threads_and_recomputation_change_no_bit() {
    let run = |threads: usize, cx: Ctx| {
        let device = device(threads);
        let net = headed(&device, 0.5);
        let x = images(20, 12, &device);
        (features(&net, x.clone(), &cx), bits(&net, &step(&net, x, &cx)))
    };
    let cx = Ctx::train().step(3, 4);
    let expected = run(1, cx.clone());
    assert!(run(2, cx.clone()) == expected);
    assert!(run(2, cx.recompute(true)) == expected);
    assert!(run(1, Ctx::train().step(3, 5)).0 != expected.0, "branches are dropped");
}

/// A transformer under DINO's head with learned lengths: token, positions and directions have derived gradients.
struct Headed(Vit, DinoHead);

impl Module for Headed {
    fn forward(&self, x: &Tensor, cx: &Ctx) -> selfsame_engine::Result<Tensor> {
        self.1.forward(&self.0.forward(x, cx)?, cx)
    }

    fn visit(&self, v: &mut dyn selfsame_autograd::ParamVisitor) {
        self.0.visit(v);
        self.1.visit(v);
    }
}

fn headed(device: &Device, drop_path: f64) -> Headed {
    let o = DinoHeadOpts { hidden: 8, bottleneck: 6, gain: Gain::Learned, ..DinoHeadOpts::default() };
    let init = Init::new(device, 1);
    let vit = Vit::new(&init.at("backbone"), &VitConfig { drop_path, ..TINY }).unwrap();
    Headed(vit, DinoHead::new(&init.at("head"), 64, 10, o).unwrap())
}

#[test]
fn micro_batches_have_the_bits_of_the_batch() {
    let device = device(2);
    let net = headed(&device, 0.5);
    // Positions are interpolated: 3x3 patches.
    let x = images(56, 12, &device);
    let cx = Ctx::train().step(1, 2);
    let whole = (features(&net, x.clone(), &cx), bits(&net, &step(&net, x.clone(), &cx)));
    for cuts in [&[0, 16, 56][..], &[0, 32, 48, 56]] {
        let (mut y, mut grads) = (Vec::new(), Grads::default());
        for part in cuts.windows(2) {
            let cx = cx.clone().first_image(part[0]);
            let x = x.slice(0, part[0], part[1]).unwrap();
            y.extend(features(&net, x.clone(), &cx));
            grads.merge(step(&net, x, &cx)).unwrap();
        }
        assert!(y == whole.0, "features, cut at {cuts:?}");
        assert!(bits(&net, &grads) == whole.1, "gradients, cut at {cuts:?}");
    }
}

#[test]
fn ranks_have_the_bits_of_one() {
    let device = device(1);
    let net = headed(&device, 0.5);
    let x = images(32, 12, &device);
    let cx = Ctx::train().step(1, 2);
    let whole = bits(&net, &step(&net, x.clone(), &cx));
    let rank = |comm: Comm| {
        let first = comm.rank() * 16;
        let cx = cx.clone().first_image(first).comm(Arc::new(comm));
        let grads = step(&net, x.slice(0, first, first + 16).unwrap(), &cx);
        bits(&net, &grads.all_sum(cx.ranks()).unwrap())
    };
    std::thread::scope(|scope| {
        let ranks: Vec<_> = Comm::emulated(2).unwrap().into_iter().map(|comm| scope.spawn(|| rank(comm))).collect();
        assert!(ranks.into_iter().all(|rank| rank.join().unwrap() == whole));
    });
}

/// Attention, norms, interpolation and the way back through derived weights, all by kernels.
#[test]
fn the_gpu_device_has_the_bits_of_the_cpu() {
    let run = |device: &Device| {
        let net = headed(device, 0.0);
        let x = images(2, 12, device);
        (features(&net, x.clone(), &Ctx::train()), bits(&net, &step(&net, x, &Ctx::train())))
    };
    let simt = Device::open("simt").unwrap();
    assert!(run(&simt) == run(&Device::cpu_with(2).unwrap()));
    assert_eq!(simt.gpu().unwrap().host_fallbacks(), []);
}

#[test]
fn gradients_agree_with_differences() {
    let device = device(1);
    for number in 0..3 {
        let net = Vit::new(&Init::new(&device, number).with_dtype(DType::F64), &TINY).unwrap();
        let mut g = Gen::new(&device, "vit", 1, number);
        let x = g.array(&[2, 12, 8, 3], Domain::Normal).unwrap();
        let f = |x: &[Tensor]| Ok(vec![net.forward(&x[0], &Ctx::train())?]);
        assert!(gradcheck::check_function(f, &[x], &mut g).unwrap() <= 1.0);
    }
}

/// The derivative along one random direction of all parameters at once, in f64.
#[test]
fn parameter_gradients_agree_with_differences() {
    let device = device(1);
    let net = Vit::new(&Init::new(&device, 3).with_dtype(DType::F64), &TINY).unwrap();
    let x = ops::cast(&images(3, 12, &device), DType::F64).unwrap();
    let loss = || {
        let y = net.forward(&Tensor::constant(x.clone()), &Ctx::train()).unwrap();
        y.exp().unwrap().sum_all().unwrap()
    };
    let grads = loss().backward().unwrap();
    let mut g = Gen::new(&device, "vit parameters", 1, 0);
    let moved: Vec<(Param, Array, Array, Array)> = trainable(&net)
        .into_iter()
        .map(|p| {
            let u = g.array(p.array().shape(), Domain::Normal).unwrap();
            let d = grads.param(&p).unwrap().unwrap();
            (p.clone(), p.array(), u, d)
        })
        .collect();
    let sum = |x: Array| ops::sum(&x, &(0..x.rank()).collect::<Vec<_>>(), false).unwrap().item::<f64>().unwrap();
    let analytic: f64 = moved.iter().map(|(_, _, u, d)| sum(ops::mul(u, d).unwrap())).sum();
    let at = |h: f64| {
        for (p, value, u, _) in &moved {
            p.set(ops::add_scaled(value.copy().unwrap(), h, &u.contiguous().unwrap()).unwrap()).unwrap();
        }
        loss().array().item::<f64>().unwrap()
    };
    // Truncation h² and rounding 1e-16 / h of values near 500, relative to a derivative of that order.
    let h = 1e-6;
    let difference = (at(h) - at(-h)) / (2.0 * h);
    assert!(analytic.abs() > 1.0, "a direction in which the loss changes: {analytic}");
    assert!((analytic - difference).abs() <= 1e-6 * analytic.abs(), "{analytic} and {difference}");
}
