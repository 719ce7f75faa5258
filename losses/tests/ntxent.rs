//! What must hold of NT-Xent: the identities of the paper's formula, its symmetries, and its split over ranks.

use selfsame_autograd::Tensor;
use selfsame_engine::{Array, Comm, DType, Device, ErrorKind, ops};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::math::Real;
use selfsame_kernels::philox::{self, Key, Purpose};
use selfsame_losses::{Form, LOSSES, NtXent, Options, evaluate, find, nt_xent, nt_xent_ranks};
use std::collections::BTreeMap;
use std::sync::Arc;

const HALF: NtXent = NtXent { temperature: 0.5, form: Form::Streaming };

fn device() -> Device {
    Device::cpu_with(1).unwrap()
}

fn random(rows: usize, d: usize, number: u64) -> Vec<f64> {
    let mut values = vec![0.0; rows * d];
    philox::fill_normal(Isa::detect(), &Key::new(5, Purpose::Check).stream(number, 0, 0), 0, &mut values);
    values
}

/// Loss and gradient.
fn run(z: &[f64], d: usize, o: NtXent) -> (f64, Vec<f64>) {
    let z = Tensor::leaf(Array::from_slice(z, &[z.len() / d, d], &device()).unwrap());
    let loss = nt_xent(&z, &o).unwrap();
    let dz = loss.backward().unwrap().get(&z).unwrap().unwrap();
    (loss.array().item().unwrap(), dz.to_vec().unwrap())
}

fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} and {b}");
}

#[test]
fn identical_embeddings_give_ln_of_2n_minus_1() {
    for n in [1usize, 2, 5, 16, 100] {
        let z: Vec<f64> = (0..2 * n).flat_map(|_| [0.3, -0.7, 0.2]).collect();
        for temperature in [0.05, 0.1, 0.5, 2.0] {
            let expected = Real::log(2.0 * n as f64 - 1.0);
            close(run(&z, 3, NtXent { temperature, ..HALF }).0, expected);
        }
    }
}

#[test]
fn one_image_has_no_loss_and_no_gradient() {
    let (loss, dz) = run(&random(2, 6, 0), 6, HALF);
    // The positive is the only term of the denominator: what is left is the rounding of ln e^x - x.
    assert!(loss.abs() <= f64::EPSILON, "{loss}");
    assert!(dz.iter().all(|d| d.abs() <= 4.0 * f64::EPSILON), "{dz:?}");
}

#[test]
fn equal_partners_and_orthogonal_images_give_the_formula() {
    let n = 8;
    let z: Vec<f64> = (0..2 * n * n).map(|i| if (i / n) % n == i % n { 1.0 } else { 0.0 }).collect();
    let loss = run(&z, n, HALF).0;
    close(loss, Real::log(1.0 + 14.0 * Real::exp(-2.0)));
    assert!((loss - 1.0629).abs() < 5e-5, "the method sheet's figure to its four places: {loss}");
}

#[test]
fn known_values_of_the_registry_are_those_of_the_loss() {
    let spec = find(LOSSES, "ntxent").unwrap();
    let options = Options::parse(spec, &[("temperature".into(), "0.5".into())]).unwrap();
    let equal: Vec<f64> = [1.0, 2.0].repeat(12);
    close((spec.facts[0].value)(6, &options), run(&equal, 2, HALF).0);
    let apart: Vec<f64> = (0..12 * 6).map(|i| if (i / 6) % 6 == i % 6 { 3.0 } else { 0.0 }).collect();
    close((spec.facts[1].value)(6, &options), run(&apart, 6, HALF).0);
}

#[test]
fn lengths_do_not_matter_and_the_gradient_is_orthogonal() {
    let (n, d) = (6, 5);
    let z = random(2 * n, d, 1);
    let (loss, dz) = run(&z, d, HALF);
    let stretched: Vec<f64> =
        z.chunks(d).enumerate().flat_map(|(i, row)| row.iter().map(move |v| v * (0.5 + i as f64))).collect();
    close(run(&stretched, d, HALF).0, loss);
    for (z, dz) in z.chunks(d).zip(dz.chunks(d)) {
        let dot: f64 = z.iter().zip(dz).map(|(z, d)| z * d).sum();
        let size: f64 = z.iter().zip(dz).map(|(z, d)| (z * d).abs()).sum();
        assert!(dot.abs() <= 1e-13 * size.max(1.0), "{dot} of {size}");
        assert!(dz.iter().any(|d| d.abs() > 1e-6), "a gradient that is not zero");
    }
}

#[test]
fn a_common_rotation_does_not_matter() {
    let (n, d) = (5, 4);
    let z = random(2 * n, d, 2);
    // The Householder reflection of v followed by that of w is a rotation.
    let reflect = |z: Vec<f64>, v: &[f64]| -> Vec<f64> {
        let length: f64 = v.iter().map(|x| x * x).sum();
        z.chunks(d)
            .flat_map(|row| {
                let along: f64 = row.iter().zip(v).map(|(a, b)| a * b).sum();
                row.iter().zip(v).map(|(a, b)| a - 2.0 * along / length * b).collect::<Vec<_>>()
            })
            .collect()
    };
    let (v, w) = (random(1, d, 3), random(1, d, 4));
    let rotated = reflect(reflect(z.clone(), &v), &w);
    assert!(rotated.iter().zip(&z).any(|(a, b)| (a - b).abs() > 0.1));
    close(run(&rotated, d, HALF).0, run(&z, d, HALF).0);
}

#[test]
fn order_of_images_and_of_views_does_not_matter() {
    let (n, d) = (7, 3);
    let z = random(2 * n, d, 5);
    let rows: Vec<&[f64]> = z.chunks(d).collect();
    let (loss, dz) = run(&z, d, HALF);
    let order = [3, 0, 6, 1, 5, 2, 4];
    let permuted: Vec<usize> = order.iter().copied().chain(order.iter().map(|i| i + n)).collect();
    let swapped: Vec<usize> = (n..2 * n).chain(0..n).collect();
    for order in [permuted, swapped] {
        let moved: Vec<f64> = order.iter().flat_map(|i| rows[*i].to_vec()).collect();
        let (moved_loss, moved_dz) = run(&moved, d, HALF);
        close(moved_loss, loss);
        for (at, from) in order.iter().enumerate() {
            for k in 0..d {
                close(moved_dz[at * d + k], dz[from * d + k]);
            }
        }
    }
}

#[test]
fn both_members_of_a_pair_receive_gradient() {
    let (_, dz) = run(&random(8, 3, 6), 3, HALF);
    assert!(dz.chunks(3).all(|row| row.iter().any(|d| *d != 0.0)));
}

#[test]
fn extreme_temperatures_stay_finite() {
    for temperature in [1e-3, 1e3] {
        let z: Vec<f32> = random(16, 4, 7).iter().map(|v| *v as f32).collect();
        let z = Tensor::leaf(Array::from_slice(&z, &[16, 4], &device()).unwrap());
        let loss = nt_xent(&z, &NtXent { temperature, ..HALF }).unwrap();
        assert!(loss.array().item::<f32>().unwrap().is_finite());
        let dz = loss.backward().unwrap().get(&z).unwrap().unwrap();
        assert!(dz.to_vec::<f32>().unwrap().iter().all(|v| v.is_finite()));
    }
}

/// Loss and gradient of `z` `[2N, d]` computed by `size` ranks, gradients back in the order of `z`.
fn split(z: &Array, size: usize) -> (f64, Vec<f64>) {
    let [rows, d] = z.dims().unwrap();
    let n = rows / 2;
    let share = n / size;
    let comms = Comm::emulated(size).unwrap();
    let results: Vec<(f64, Vec<f64>)> = std::thread::scope(|scope| {
        let threads: Vec<_> = comms
            .into_iter()
            .map(|comm| {
                scope.spawn(move || {
                    let from = comm.rank() * share;
                    let view = |at: usize| Tensor::leaf(z.slice(0, at, at + share).unwrap());
                    let (a, b) = (view(from), view(n + from));
                    let loss = nt_xent_ranks(&a, &b, &HALF, &Arc::new(comm)).unwrap();
                    let grads = loss.backward().unwrap();
                    let wide = |x: &Array| ops::cast(x, DType::F64).unwrap().to_vec::<f64>().unwrap();
                    let dz = [&a, &b].iter().flat_map(|v| wide(&grads.get(v).unwrap().unwrap())).collect();
                    (wide(loss.array())[0], dz)
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(results.iter().all(|(loss, _)| *loss == results[0].0), "every rank has the same loss");
    let mut dz = vec![0.0; rows * d];
    for (rank, (_, local)) in results.iter().enumerate() {
        let block = share * d;
        dz[rank * block..][..block].copy_from_slice(&local[..block]);
        dz[n * d + rank * block..][..block].copy_from_slice(&local[block..]);
    }
    (results[0].0, dz)
}

#[test]
fn loss_and_gradient_have_the_same_bits_on_any_number_of_ranks() {
    let z = Array::from_slice(&random(128, 8, 8), &[128, 8], &device()).unwrap();
    for dtype in [DType::F64, DType::F32] {
        let z = ops::cast(&z, dtype).unwrap();
        let (loss, dz) = split(&z, 1);
        for size in [2, 4] {
            assert_eq!(split(&z, size), (loss, dz.clone()), "{dtype} on {size} ranks");
        }
        let leaf = Tensor::leaf(z.clone());
        let whole = nt_xent(&leaf, &HALF).unwrap();
        let whole_loss = ops::cast(whole.array(), DType::F64).unwrap().item::<f64>().unwrap();
        assert_eq!(whole_loss, loss, "both forms have the same bits");
    }
}

#[test]
fn evaluate_returns_loss_and_gradient_in_the_type_of_the_input() {
    let spec = find(LOSSES, "ntxent").unwrap();
    let z = random(8, 4, 9);
    let wide = Array::from_slice(&z, &[8, 4], &device()).unwrap();
    let set = [("temperature".to_string(), "0.5".to_string())];
    let out = evaluate(spec, BTreeMap::from([("z".to_string(), wide.clone())]), &set).unwrap();
    let (loss, dz) = run(&z, 4, HALF);
    assert_eq!(out["loss"].item::<f64>().unwrap(), loss);
    assert_eq!(out["grad_z"].to_vec::<f64>().unwrap(), dz);
    let narrow = ops::cast(&wide, DType::F32).unwrap();
    let out = evaluate(spec, BTreeMap::from([("z".to_string(), narrow)]), &set).unwrap();
    assert!((f64::from(out["loss"].item::<f32>().unwrap()) - loss).abs() < 1e-6);
    assert_eq!(out["grad_z"].shape(), [8, 4]);
}

#[test]
fn wrong_input_is_named() {
    let spec = find(LOSSES, "ntxent").unwrap();
    let z = |shape: &[usize]| BTreeMap::from([("z".to_string(), Array::full(1f32, shape, &device()).unwrap())]);
    let set = |k: &str, v: &str| vec![(k.to_string(), v.to_string())];
    let message = |inputs, set: &[(String, String)]| evaluate(spec, inputs, set).unwrap_err();
    assert!(message(z(&[4, 2]), &set("temprature", "1")).sentence().contains("'temperature'"));
    for bad in ["0", "-1", "hot", "inf", "NaN"] {
        let error = message(z(&[4, 2]), &set("temperature", bad));
        assert!(error.sentence().contains("a positive number"), "{error}");
    }
    for shape in [&[3, 2][..], &[0, 2], &[4], &[4, 2, 1]] {
        assert_eq!(message(z(shape), &[]).kind(), ErrorKind::Shape);
    }
    let other = BTreeMap::from([("zz".to_string(), Array::full(1f32, &[4, 2], &device()).unwrap())]);
    assert!(message(other, &[]).sentence().contains("'z'"));
    assert!(message(BTreeMap::new(), &[]).sentence().contains("[2N, D]"));
    let integers = BTreeMap::from([("z".to_string(), Array::full(1i64, &[4, 2], &device()).unwrap())]);
    assert_eq!(message(integers, &[]).kind(), ErrorKind::DType);
    let unknown = find(LOSSES, "nt-xnet").map(|s| s.name).unwrap_err();
    assert!(unknown.sentence().contains("'ntxent'"));
}

/// Rounding moves a unit vector by 2^-9 of itself at most, and so a similarity by 2^-8.
#[test]
fn bf16_inputs_are_near_f32() {
    let device = Device::cpu_with(2).unwrap();
    let (rows, d) = (600, 40);
    let z: Vec<f32> = random(rows, d, 20).into_iter().map(|x| x as f32).collect();
    let z = Tensor::leaf(Array::from_slice(&z, &[rows, d], &device).unwrap());
    let [full, rounded] = [Form::Streaming, Form::Bf16].map(|form| {
        let loss = nt_xent(&z, &NtXent { temperature: 0.2, form }).unwrap();
        let dz = loss.backward().unwrap().get(&z).unwrap().unwrap();
        assert_eq!(dz.dtype(), DType::F32);
        (f64::from(loss.array().item::<f32>().unwrap()), dz.to_vec::<f32>().unwrap())
    });
    assert!(full.0 != rounded.0 && (full.0 - rounded.0).abs() < 2.0 / 256.0 / 0.2, "{} and {}", full.0, rounded.0);
    let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    let apart = norm(&mut full.1.iter().zip(&rounded.1).map(|(a, b)| a - b));
    assert!(apart < 0.01 * norm(&mut full.1.iter().copied()), "{apart}");

    let wide = Tensor::leaf(ops::cast(z.array(), DType::F64).unwrap());
    let refused = nt_xent(&wide, &NtXent { temperature: 0.2, form: Form::Bf16 });
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::DType);
}

/// Memory of loss and gradient beside the embeddings and their gradient, in bytes.
fn memory_beyond(rows: usize, d: usize) -> usize {
    let device = Device::cpu_with(2).unwrap();
    let noise = Key::new(5, Purpose::Check).stream(21, 0, 0);
    let z = Tensor::leaf(ops::normal(&[rows, d], DType::F32, 0.0, 1.0, &noise, &device).unwrap());
    let cpu = device.host();
    cpu.memory().reset_peak();
    let before = device.memory().live + cpu.scratch_bytes();
    let gradient = nt_xent(&z, &HALF).unwrap().backward().unwrap().get(&z).unwrap();
    assert!(gradient.is_some());
    device.memory().peak + cpu.scratch_bytes() - before - rows * d * size_of::<f32>()
}

const MOST: usize = 64 << 20;

/// As many elements as 32,768 rows of 128, and an eighth of the pairs' work.
#[test]
fn memory_is_a_few_copies_of_the_embeddings() {
    let beyond = memory_beyond(4096, 1024);
    assert!(beyond <= MOST, "{beyond} bytes");
}

#[test]
#[ignore = "minutes in an unoptimised build"]
fn thirty_two_thousand_rows_take_64_mib() {
    let beyond = memory_beyond(32768, 128);
    assert!(beyond <= MOST, "{beyond} bytes");
}
