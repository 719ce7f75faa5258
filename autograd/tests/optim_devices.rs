//! Optimisers and moving averages have the same bits with any number of threads and on the GPU device, which computes
//! them by kernels alone.

mod common;

use common::{Spec, gradients, params, value};
use selfsame_autograd::ema::ema_update;
use selfsame_autograd::optim::{AdamW, Lamb, LambOptions, Lars, LarsOptions, LarsVariant, Optimizer, Sgd};
use selfsame_autograd::{ParamSet, Role};
use selfsame_engine::{DType, Device};
use selfsame_kernels::philox::{Key, Purpose};

/// Several chunks and a rest, less than a row of lanes, exactly a chunk, nothing.
const SPECS: [Spec; 5] = [
    ("a.weight", Role::Weight, &[3, 3001]),
    ("b.bias", Role::Bias, &[13]),
    ("c.weight", Role::Weight, &[64, 64]),
    ("d.gamma", Role::NormScale, &[64]),
    ("e.weight", Role::Weight, &[0, 3]),
];

fn noise(seed: u64) -> Vec<Vec<f64>> {
    let of = |(i, (_, _, shape)): (usize, &Spec)| {
        let mut stream = Key::new(seed, Purpose::Check).stream(0, i as u64, 0);
        (0..shape.iter().product()).map(|_| f64::from(stream.normal())).collect()
    };
    SPECS.iter().enumerate().map(of).collect()
}

/// The values of parameters and of an optimiser's state after two steps of each optimiser, and of a moving average.
fn results(device: &Device) -> Vec<(String, Vec<f64>)> {
    type Make = fn(&ParamSet) -> Box<dyn Optimizer>;
    fn lars(set: &ParamSet, variant: LarsVariant) -> Box<dyn Optimizer> {
        let nesterov = variant.rule().nesterov;
        let options = LarsOptions { nesterov, weight_decay: 0.1, trust: 0.1, ..LarsOptions::of(variant) };
        Box::new(Lars::new(set, options).unwrap())
    }
    let optimisers: [(&str, Make); 7] = [
        ("sgd", |set| Box::new(Sgd::new(set, 0.9, false, 0.1).unwrap())),
        ("nesterov", |set| Box::new(Sgd::new(set, 0.9, true, 0.1).unwrap())),
        ("adamw", |set| Box::new(AdamW::new(set, (0.9, 0.999), 1e-8, 0.1).unwrap())),
        ("lamb", |set| Box::new(Lamb::new(set, LambOptions::default()).unwrap())),
        ("lars classic", |set| lars(set, LarsVariant::SimclrClassic)),
        ("lars of the update", |set| lars(set, LarsVariant::SimclrNonClassic)),
        ("larc", |set| lars(set, LarsVariant::ApexLarcClip)),
    ];
    let mut results = Vec::new();
    for (name, make) in optimisers {
        let set = params(&SPECS, &noise(1), DType::F32, device);
        let mut optimiser = make(&set);
        for step in 0..2 {
            let gradients = gradients(&set, &SPECS, &noise(2 + step));
            let stats = optimiser.step(&set, &gradients, 0.1).unwrap();
            let ratios = stats.trust_ratios.iter().map(|(_, q)| *q);
            results.push((
                format!("{name}: norms"),
                [stats.grad_norm, stats.param_norm].into_iter().chain(ratios).collect(),
            ));
        }
        let mut state = set.iter().map(|(path, p)| (format!("{name}: {path}"), value(p))).collect::<Vec<_>>();
        optimiser.visit(&mut |path: &str, p: &selfsame_autograd::Param| {
            if p.array().dtype() == DType::F32 {
                state.push((format!("{name}: {path}"), value(p)));
            }
        });
        results.extend(state);
    }
    let (target, source) =
        (params(&SPECS, &noise(1), DType::F32, device), params(&SPECS, &noise(2), DType::F32, device));
    ema_update(&target, &source, 0.99).unwrap();
    results.extend(target.iter().map(|(path, p)| (format!("average: {path}"), value(p))));
    results
}

fn expect_same(device: &str, expected: &[(String, Vec<f64>)], got: &[(String, Vec<f64>)]) {
    assert_eq!(expected.len(), got.len());
    for ((name, expected), (_, got)) in expected.iter().zip(got) {
        let bits = |x: &[f64]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert!(bits(expected) == bits(got), "{device}: {name}");
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let expected = results(&Device::cpu_with(1).unwrap());
    assert!(expected.iter().all(|(_, values)| values.iter().all(|x| x.is_finite())));
    for threads in [2, 3, 8] {
        expect_same(&format!("{threads} threads"), &expected, &results(&Device::cpu_with(threads).unwrap()));
    }
}

#[test]
fn the_gpu_device_gives_the_bits_of_the_cpu_by_kernels_alone() {
    let simt = Device::open("simt").unwrap();
    let got = results(&simt);
    expect_same("simt", &results(&Device::cpu_with(2).unwrap()), &got);
    assert_eq!(simt.gpu().unwrap().host_fallbacks(), []);
}
