//! Every loss at the edges: temperatures 0.005 and 10, embeddings that are identical, orthogonal or antipodal, two
//! images, one dimension. Losses and gradients stay finite in f32 and f64, and agree with each other.

use selfsame_engine::{Array, DType, Device, ops};
use selfsame_losses::{LOSSES, LossSpec, OptionSpec, Role, evaluate};
use std::collections::BTreeMap;

const TEMPERATURES: [f64; 2] = [0.005, 10.0];

/// Embeddings `[rows, d]`, row by row from the place of the row.
struct Scene {
    what: &'static str,
    images: usize,
    d: usize,
    /// Coordinate k of view v of image i.
    at: fn(i: usize, v: usize, k: usize) -> f64,
}

const SCENES: [Scene; 6] = [
    Scene { what: "identical", images: 5, d: 3, at: |_, _, k| 1.0 + k as f64 },
    Scene { what: "orthogonal", images: 5, d: 5, at: |i, _, k| if i == k { 2.0 } else { 0.0 } },
    Scene {
        what: "antipodal partners",
        images: 5,
        d: 3,
        at: |_, v, k| if v == 0 { 1.0 + k as f64 } else { -1.0 - k as f64 },
    },
    Scene {
        what: "antipodal images",
        images: 5,
        d: 3,
        at: |i, _, k| if i == 0 { 1.0 + k as f64 } else { -1.0 - k as f64 },
    },
    Scene { what: "two images", images: 2, d: 3, at: |i, v, k| ((i + 2 * v + 1) * (k + 1)) as f64 - 3.5 },
    Scene { what: "one dimension", images: 4, d: 1, at: |i, v, _| if (i + v) % 2 == 0 { 0.5 } else { -3.0 } },
];

/// Losses that take more than embeddings, logits and a label for each row: lists of negatives, banks, probabilities.
const OTHER_INPUTS: [&str; 7] = [
    "cacr_momentum",
    "false_negative_cancellation",
    "iic",
    "instance_recognition",
    "local_aggregation",
    "mochi",
    "proto_nce",
];

/// Losses that may fall below 0: differences of costs, and an entropy taken off.
const SIGNED: [&str; 2] = ["cacr", "scan"];

/// The inputs of a loss: of two views one after another in the first axis, or in an axis of their own, or each in an
/// input of its own. Nothing for a loss that takes more than that.
fn inputs(spec: &LossSpec, scene: &Scene, dtype: DType, device: &Device) -> Option<BTreeMap<String, Array>> {
    let (n, d) = (scene.images, scene.d);
    let embeddings = |first: usize, views: usize| {
        let rows = (first..first + views).flat_map(|v| (0..n).map(move |i| (i, v)));
        let values: Vec<f64> = rows.flat_map(|(i, v)| (0..d).map(move |k| (scene.at)(i, v, k))).collect();
        ops::cast(&Array::from_slice(&values, &[views * n, d], device).unwrap(), dtype).unwrap()
    };
    let mut inputs = BTreeMap::new();
    let mut side = 0;
    for port in spec.inputs.iter().filter(|port| !port.optional) {
        let array = match (port.role, port.shape) {
            (Role::Labels, "[N]" | "[K]" | "[M]") => {
                let rows = if port.shape == "[M]" { 2 * n } else { n };
                let classes: Vec<i64> = (0..rows).map(|row| (row % n % 4 % d) as i64).collect();
                Array::from_slice(&classes, &[rows], device).unwrap()
            }
            (_, "[2N, D]" | "[2N, K]" | "[M, D]") => embeddings(0, 2),
            (_, "[V, N, K]" | "[A, N, K]" | "[L, N, D]" | "[M, B, D]") => embeddings(0, 2).reshape(&[2, n, d]).unwrap(),
            (_, "[N, D]" | "[N, K]" | "[B, C]" | "[K, D]") => {
                side += 1;
                embeddings((side - 1) % 2, 1)
            }
            _ => return None,
        };
        inputs.insert(port.name.to_string(), array);
    }
    Some(inputs)
}

/// Every temperature of the loss, or its scale.
fn options(spec: &LossSpec, temperature: f64) -> Vec<(String, String)> {
    let set = |option: &OptionSpec| match option.name {
        name if name.contains("temperature") => Some((name.to_string(), temperature.to_string())),
        "scale" => Some(("scale".to_string(), (1.0 / temperature).to_string())),
        _ => None,
    };
    spec.options.iter().filter_map(set).collect()
}

#[test]
fn losses_stay_finite_at_the_edges() {
    let device = Device::cpu_with(1).unwrap();
    for spec in LOSSES {
        let takes_more = inputs(spec, &SCENES[0], DType::F64, &device).is_none();
        assert_eq!(takes_more, OTHER_INPUTS.contains(&spec.name), "{}", spec.name);
        if takes_more {
            continue;
        }
        for scene in &SCENES {
            for temperature in TEMPERATURES {
                let case = format!("{} of {} at temperature {temperature}", spec.name, scene.what);
                let run = |dtype| {
                    let outputs =
                        evaluate(spec, inputs(spec, scene, dtype, &device).unwrap(), &options(spec, temperature));
                    let outputs = outputs.unwrap_or_else(|error| panic!("{case}: {error}"));
                    for (name, array) in &outputs {
                        let values = ops::cast(array, DType::F64).unwrap().to_vec::<f64>().unwrap();
                        assert!(values.iter().all(|v| v.is_finite()), "{case}: {name} {values:?} in {dtype}");
                    }
                    ops::cast(&outputs["loss"], DType::F64).unwrap().item::<f64>().unwrap()
                };
                let (narrow, wide) = (run(DType::F32), run(DType::F64));
                // Rounding of logits up to 1 / temperature, and of sums of the logits of ten pairs per row.
                let tolerance = 10.0 * f64::from(f32::EPSILON) * (1.0 / temperature + 10.0 + wide.abs());
                assert!((narrow - wide).abs() <= tolerance, "{case}: {narrow} in f32, {wide} in f64");
                assert!(narrow >= -tolerance || SIGNED.contains(&spec.name), "{case}: {narrow}");
            }
        }
    }
}

/// The losses that tell partners apart by a softmax grow as the gap of similarities over the temperature: partners
/// antipodal, all else up to identical, is 2 / temperature and the logarithm of the number of candidates.
#[test]
fn antipodal_partners_cost_the_gap_over_the_temperature() {
    let device = Device::cpu_with(1).unwrap();
    let scene = &SCENES[2];
    let (n, t) = (scene.images as f64, 0.005);
    for (name, candidates) in [("ntxent", n - 1.0), ("hard_negatives", 2.0 * n - 2.0)] {
        let spec = LOSSES.iter().find(|spec| spec.name == name).unwrap();
        let loss = evaluate(spec, inputs(spec, scene, DType::F64, &device).unwrap(), &options(spec, t)).unwrap();
        let expected = 2.0 / t + selfsame_kernels::math::f64::log(candidates);
        let loss = loss["loss"].item::<f64>().unwrap();
        // Debiasing takes a share off that is exp(-400) here, and divides by 1 - 0.1.
        let expected = if name == "ntxent" { expected } else { expected - selfsame_kernels::math::f64::log(0.9) };
        assert!((loss - expected).abs() < 1e-9, "{name}: {loss}, not {expected}");
    }
}
