//! Every form of LARS against a transcription, in f64 and one file at a time, of the code that it is named after.

mod common;

use common::{Spec, gradients, params, value};
use selfsame_autograd::Role;
use selfsame_autograd::optim::{Lars, LarsOptions, LarsVariant, Optimizer};
use selfsame_engine::{DType, Device};
use selfsame_kernels::philox::{Key, Purpose};

/// A matrix, one that is 0, one whose gradient is 0, a learned token (one dimension, decays), a bias, and the scale of a
/// normalisation layer that starts at 0.
const SPECS: [Spec; 6] = [
    ("a.weight", Role::Weight, &[8, 5]),
    ("b.weight", Role::Weight, &[3, 3]),
    ("c.weight", Role::Weight, &[2, 7]),
    ("d.token", Role::Embedding, &[6]),
    ("e.bias", Role::Bias, &[5]),
    ("f.gamma", Role::NormScale, &[4]),
];

/// What the transcriptions know of a parameter.
struct Parameter {
    w: Vec<f64>,
    v: Vec<f64>,
    one_dimensional: bool,
    bias_or_norm: bool,
}

#[derive(Clone, Copy)]
struct Settings {
    lr: f64,
    momentum: f64,
    nesterov: bool,
    decay: f64,
    eta: f64,
}

fn norm(x: &[f64]) -> f64 {
    x.iter().map(|x| x * x).sum::<f64>().sqrt()
}

/// a + factor b.
fn plus(a: &[f64], factor: f64, b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + factor * b).collect()
}

fn times(factor: f64, a: &[f64]) -> Vec<f64> {
    a.iter().map(|a| factor * a).collect()
}

/// `torch.optim.SGD` without weight decay, as inner optimiser or written out: momentum, then the learning rate.
fn torch_sgd(p: &mut Parameter, d: &[f64], s: Settings) {
    p.v = plus(d, s.momentum, &p.v);
    let step = if s.nesterov { plus(d, s.momentum, &p.v) } else { p.v.clone() };
    p.w = plus(&p.w, -s.lr, &step);
}

/// TensorFlow's momentum: the learning rate enters the buffer.
fn tf_momentum(p: &mut Parameter, d: &[f64], lr: f64, s: Settings) {
    let scaled = times(lr, d);
    p.v = plus(&scaled, s.momentum, &p.v);
    let update = if s.nesterov { plus(&scaled, s.momentum, &p.v) } else { p.v.clone() };
    p.w = plus(&p.w, -1.0, &update);
}

fn paper(p: &mut Parameter, g: &[f64], s: Settings) {
    let divisor = norm(g) + s.decay * norm(&p.w);
    let local = if divisor == 0.0 { 1.0 } else { s.eta * norm(&p.w) / divisor };
    p.v = plus(&times(s.lr * local, &plus(g, s.decay, &p.w)), s.momentum, &p.v);
    p.w = plus(&p.w, -1.0, &p.v);
}

fn apex(p: &mut Parameter, g: &[f64], s: Settings, clip: bool) {
    let (param_norm, grad_norm) = (norm(&p.w), norm(g));
    let mut d = g.to_vec();
    if param_norm != 0.0 && grad_norm != 0.0 {
        let mut adaptive_lr = s.eta * param_norm / (grad_norm + param_norm * s.decay + 1e-8);
        if clip {
            adaptive_lr = (adaptive_lr / s.lr).min(1.0);
        }
        d = times(adaptive_lr, &plus(g, s.decay, &p.w));
    }
    torch_sgd(p, &d, s);
}

fn torchlars(p: &mut Parameter, g: &[f64], s: Settings) {
    let (param_norm, grad_norm) = (norm(&p.w), norm(g));
    let adaptive_lr = if param_norm > 0.0 && grad_norm > 0.0 {
        s.eta * param_norm / (grad_norm + s.decay * param_norm + 1e-8)
    } else {
        1.0
    };
    torch_sgd(p, &times(adaptive_lr, &plus(g, s.decay, &p.w)), s);
}

fn timm(p: &mut Parameter, g: &[f64], s: Settings, trust_clip: bool) {
    let decay = if p.bias_or_norm { 0.0 } else { s.decay };
    let mut d = g.to_vec();
    if decay != 0.0 {
        let (w_norm, g_norm) = (norm(&p.w), norm(g));
        let mut ratio = s.eta * w_norm / (g_norm + w_norm * decay + 1e-8);
        if w_norm == 0.0 || g_norm == 0.0 {
            ratio = 1.0;
        }
        if trust_clip {
            ratio = (ratio / s.lr).min(1.0);
        }
        d = times(ratio, &plus(g, decay, &p.w));
    }
    torch_sgd(p, &d, s);
}

fn lightly(p: &mut Parameter, g: &[f64], s: Settings) {
    let decay = if p.bias_or_norm { 0.0 } else { s.decay };
    let (p_norm, g_norm) = (norm(&p.w), norm(g));
    let mut d = g.to_vec();
    if decay != 0.0 && p_norm != 0.0 && g_norm != 0.0 {
        let ratio = s.eta * (p_norm / (g_norm + p_norm * decay + 1e-8));
        d = times(ratio, &plus(g, decay, &p.w));
    }
    torch_sgd(p, &d, s);
}

fn solo_learn(p: &mut Parameter, g: &[f64], s: Settings, flags: bool) {
    let (p_norm, g_norm) = (norm(&p.w), norm(g));
    let mut d = g.to_vec();
    if !(p.one_dimensional && flags) && p_norm != 0.0 && g_norm != 0.0 {
        let mut ratio = s.eta * (p_norm / (g_norm + p_norm * s.decay + 1e-8));
        if flags {
            ratio = (ratio / s.lr).min(1.0);
        }
        d = times(ratio, &plus(g, s.decay, &p.w));
    }
    torch_sgd(p, &d, s);
}

fn mxnet(p: &mut Parameter, g: &[f64], s: Settings) {
    let (w_norm, g_norm) = (norm(&p.w), norm(g));
    let ratio = if p.bias_or_norm || w_norm == 0.0 || g_norm == 0.0 {
        1.0
    } else {
        s.eta * w_norm / (g_norm + s.decay * w_norm + 1e-8)
    };
    // mom = momentum mom - lr ratio (g + wd w), and w += mom: the buffer has the other sign.
    let mom = plus(&times(-s.momentum, &p.v), -s.lr * ratio, &plus(g, s.decay, &p.w));
    p.w = plus(&p.w, 1.0, &mom);
    p.v = times(-1.0, &mom);
}

fn mlperf_tf(p: &mut Parameter, g: &[f64], s: Settings) {
    if p.bias_or_norm {
        return tf_momentum(p, g, s.lr, s);
    }
    let (w_norm, g_norm) = (norm(&p.w), norm(g));
    let ratio = if w_norm > 0.0 && g_norm > 0.0 { s.eta * w_norm / (g_norm + s.decay * w_norm + 1e-7) } else { 1.0 };
    let d = plus(g, s.decay, &p.w);
    tf_momentum(p, &d, ratio * s.lr, s);
}

fn tinygrad(p: &mut Parameter, g: &[f64], s: Settings, classic: bool) {
    let (r1, r2) = (norm(&p.w), norm(g));
    let r = if r1 > 0.0 && r2 > 0.0 { s.eta * r1 / (r2 + s.decay * r1) } else { 1.0 };
    let mut d = plus(g, s.decay, &p.w);
    if classic {
        d = times(r * s.lr, &d);
    }
    p.v = plus(&d, s.momentum, &p.v);
    let mut step = if s.nesterov { plus(&d, s.momentum, &p.v) } else { p.v.clone() };
    if !classic {
        step = times(r * s.lr, &step);
    }
    p.w = plus(&p.w, -1.0, &step);
}

fn simclr(p: &mut Parameter, g: &[f64], s: Settings, classic_momentum: bool) {
    let d = if p.bias_or_norm { g.to_vec() } else { plus(g, s.decay, &p.w) };
    let ratio = |w: &[f64], update: &[f64], adapts: bool| {
        let (w_norm, norm) = (norm(w), norm(update));
        if adapts && w_norm > 0.0 && norm > 0.0 { s.eta * w_norm / norm } else { 1.0 }
    };
    if classic_momentum {
        let scaled_lr = s.lr * ratio(&p.w, &d, !p.bias_or_norm);
        return tf_momentum(p, &d, scaled_lr, s);
    }
    p.v = plus(&d, s.momentum, &p.v);
    let update = if s.nesterov { plus(&d, s.momentum, &p.v) } else { p.v.clone() };
    let scaled_lr = ratio(&p.w, &update, !p.bias_or_norm) * s.lr;
    p.w = plus(&p.w, -scaled_lr, &update);
}

fn barlow_twins(p: &mut Parameter, g: &[f64], s: Settings) {
    let mut d = g.to_vec();
    if !p.one_dimensional {
        d = plus(g, s.decay, &p.w);
        let (param_norm, update_norm) = (norm(&p.w), norm(&d));
        let q = if param_norm > 0.0 && update_norm > 0.0 { s.eta * param_norm / update_norm } else { 1.0 };
        d = times(q, &d);
    }
    p.v = plus(&d, s.momentum, &p.v);
    p.w = plus(&p.w, -s.lr, &p.v);
}

fn transcription(variant: LarsVariant, p: &mut Parameter, g: &[f64], s: Settings) {
    match variant {
        LarsVariant::Paper => paper(p, g, s),
        LarsVariant::ApexLarc => apex(p, g, s, false),
        LarsVariant::ApexLarcClip => apex(p, g, s, true),
        LarsVariant::Torchlars => torchlars(p, g, s),
        LarsVariant::Timm => timm(p, g, s, false),
        LarsVariant::TimmClip => timm(p, g, s, true),
        LarsVariant::Lightly => lightly(p, g, s),
        LarsVariant::SoloLearn => solo_learn(p, g, s, false),
        LarsVariant::SoloLearnClip => solo_learn(p, g, s, true),
        LarsVariant::Mxnet => mxnet(p, g, s),
        LarsVariant::MlperfTf => mlperf_tf(p, g, s),
        LarsVariant::Tinygrad => tinygrad(p, g, s, true),
        LarsVariant::TinygradPopular => tinygrad(p, g, s, false),
        LarsVariant::SimclrClassic => simclr(p, g, s, true),
        LarsVariant::SimclrNonClassic => simclr(p, g, s, false),
        LarsVariant::BarlowTwins => barlow_twins(p, g, s),
    }
}

/// Values of every parameter over [-1, 1): those of `zero` are 0.
fn values(seed: u64, scale: f64, zero: &[&str]) -> Vec<Vec<f64>> {
    let of = |(i, (path, _, shape)): (usize, &Spec)| {
        let mut stream = Key::new(seed, Purpose::Check).stream(0, i as u64, 0);
        let n = shape.iter().product();
        // Rounded to f32, so that both types start alike.
        let draw = |_| f64::from((scale * (2.0 * stream.uniform_f64() - 1.0)) as f32);
        let drawn: Vec<f64> = (0..n).map(draw).collect();
        if zero.contains(path) { vec![0.0; n] } else { drawn }
    };
    SPECS.iter().enumerate().map(of).collect()
}

/// Runs five steps of a warm-up in a type and in the transcription, and compares after each.
fn compare(variant: LarsVariant, dtype: DType, nesterov: bool, decay: f64, scale: f64) {
    let device = Device::cpu_with(2).unwrap();
    let start = values(1, scale, &["b.weight", "f.gamma"]);
    let set = params(&SPECS, &start, dtype, &device);
    // A trust coefficient at which clipping acts on some parameters in some steps.
    let (momentum, eta) = (0.9, 0.25);
    let options = LarsOptions { momentum, nesterov, weight_decay: decay, trust: eta, ..LarsOptions::of(variant) };
    let mut lars = Lars::new(&set, options).unwrap();
    let mut expected: Vec<Parameter> = SPECS
        .iter()
        .zip(start)
        .map(|((_, role, shape), w)| Parameter {
            v: vec![0.0; w.len()],
            w,
            one_dimensional: shape.len() == 1,
            bias_or_norm: !role.decays(),
        })
        .collect();
    for step in 1..=5 {
        let lr = 0.2 * f64::from(step);
        let g = values(10 + step as u64, 1.0, &["c.weight"]);
        lars.step(&set, &gradients(&set, &SPECS, &g), lr).unwrap();
        for ((p, g), (path, ..)) in expected.iter_mut().zip(&g).zip(&SPECS) {
            transcription(variant, p, g, Settings { lr, momentum, nesterov, decay, eta });
            let tolerance = if dtype == DType::F64 { 1e-13 } else { 1e-6 } * norm(&p.w).max(1.0);
            let got = value(set.get(path).unwrap());
            for (got, expected) in got.iter().zip(&p.w) {
                assert!(
                    (got - expected).abs() <= tolerance,
                    "{} {dtype}, nesterov {nesterov}, decay {decay}, scale {scale}: step {step} of {path} gives {got}, \
                     not {expected}",
                    variant.name()
                );
            }
        }
    }
}

#[test]
fn every_variant_is_its_transcription_over_a_warm_up() {
    for variant in LarsVariant::ALL {
        for dtype in [DType::F64, DType::F32] {
            for nesterov in [false, true] {
                if nesterov && !variant.rule().nesterov {
                    continue;
                }
                for decay in [0.0, 0.1] {
                    for scale in [1.0, 30.0, 0.01] {
                        compare(*variant, dtype, nesterov, decay, scale);
                    }
                }
            }
        }
    }
}
