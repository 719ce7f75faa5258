//! Arrays to test on, comparisons, and a loss split over emulated ranks.

use selfsame_autograd::Tensor;
use selfsame_engine::{Array, Comm, DType, Device, Result, ops};
use selfsame_kernels::isa::Isa;
use selfsame_kernels::philox::{self, Key, Purpose};
use std::sync::{Arc, LazyLock};

/// One for all: arrays of two devices do not mix.
pub(crate) fn device() -> Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| Device::cpu_with(1).unwrap());
    DEVICE.clone()
}

pub(crate) fn random(rows: usize, d: usize, number: u64) -> Array {
    let mut values = vec![0.0; rows * d];
    philox::fill_normal(Isa::detect(), &Key::new(6, Purpose::Check).stream(number, 0, 0), 0, &mut values);
    array(&values, &[rows, d])
}

pub(crate) fn array(values: &[f64], shape: &[usize]) -> Array {
    Array::from_slice(values, shape, &device()).unwrap()
}

pub(crate) fn labels(values: &[i64]) -> Array {
    Array::from_slice(values, &[values.len()], &device()).unwrap()
}

pub(crate) fn scalar(value: f64) -> Tensor {
    Tensor::leaf(array(&[value], &[]))
}

/// Row i is `length` times the unit vector i % d.
pub(crate) fn axes(rows: usize, d: usize, length: f64) -> Array {
    array(&(0..rows * d).map(|i| if (i / d) % d == i % d { length } else { 0.0 }).collect::<Vec<_>>(), &[rows, d])
}

pub(crate) fn single() -> Arc<Comm> {
    Arc::new(Comm::single())
}

pub(crate) fn value(loss: &Tensor) -> f64 {
    loss.array().item().unwrap()
}

pub(crate) fn gradient(loss: &Tensor, of: &Tensor) -> Vec<f64> {
    loss.backward().unwrap().get(of).unwrap().unwrap().to_vec().unwrap()
}

/// The gradients of several leaves from one backward.
pub(crate) fn gradients<const N: usize>(loss: &Tensor, of: [&Tensor; N]) -> [Vec<f64>; N] {
    let grads = loss.backward().unwrap();
    of.map(|leaf| grads.get(leaf).unwrap().unwrap().to_vec().unwrap())
}

pub(crate) fn close(a: f64, b: f64) {
    assert!((a - b).abs() <= 1e-12 * b.abs().max(1.0), "{a} and {b}");
}

pub(crate) fn all_close(a: &[f64], b: &[f64]) {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).for_each(|(a, b)| close(*a, *b));
}

/// What one rank does: the loss, and the leaves in question, each with whether it has a row per image here or is held by
/// all ranks.
pub(crate) type Rank<'a> = &'a (dyn Fn(&[Array], Arc<Comm>) -> Result<(Tensor, Vec<(bool, Tensor)>)> + Sync);

/// Leaves with a row per image.
pub(crate) fn local(leaves: impl IntoIterator<Item = Tensor>) -> Vec<(bool, Tensor)> {
    leaves.into_iter().map(|leaf| (true, leaf)).collect()
}

/// The bits of the loss, of the gradients of rows in the order of all rows, and of the total gradients of what all ranks hold.
pub(crate) fn split(inputs: &[Array], size: usize, run: Rank<'_>) -> Vec<Vec<u64>> {
    let wide = |x: &Array| ops::cast(x, DType::F64).unwrap().to_vec::<f64>().unwrap();
    let ranks: Vec<Vec<(bool, Vec<f64>)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = Comm::emulated(size)
            .unwrap()
            .into_iter()
            .map(|comm| {
                scope.spawn(move || {
                    let share = |x: &Array| {
                        let n = x.shape()[0] / size;
                        x.slice(0, comm.rank() * n, (comm.rank() + 1) * n).unwrap()
                    };
                    let local: Vec<Array> = inputs.iter().map(share).collect();
                    let (loss, leaves) = run(&local, Arc::new(comm)).unwrap();
                    let grads = loss.backward().unwrap();
                    let mut results = vec![(false, wide(loss.array()))];
                    for (is_local, leaf) in leaves {
                        results.push((is_local, wide(&grads.get(&leaf).unwrap().unwrap())));
                    }
                    results
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(ranks.iter().all(|rank| rank[0] == ranks[0][0]), "every rank has the same loss");
    let bits = |values: Vec<f64>| values.into_iter().map(f64::to_bits).collect();
    let mut merged = vec![bits(ranks[0][0].1.clone())];
    for at in 1..ranks[0].len() {
        let parts: Vec<&Vec<f64>> = ranks.iter().map(|rank| &rank[at].1).collect();
        merged.push(bits(match ranks[0][at].0 {
            true => parts.into_iter().flatten().copied().collect(),
            false => (0..parts[0].len()).map(|at| parts.iter().map(|part| part[at]).sum()).collect(),
        }));
    }
    merged
}

pub(crate) fn expect_same_bits(name: &str, inputs: &[Array], run: Rank<'_>) {
    for dtype in [DType::F64, DType::F32] {
        let cast = |x: &Array| if x.dtype() == DType::I64 { Ok(x.clone()) } else { ops::cast(x, dtype) };
        let inputs: Vec<Array> = inputs.iter().map(|x| cast(x).unwrap()).collect();
        let one = split(&inputs, 1, run);
        assert!(one.iter().flatten().any(|bits| f64::from_bits(*bits) != 0.0), "{name}");
        for size in [2, 4] {
            assert!(split(&inputs, size, run) == one, "{name}: other bits in {dtype} on {size} ranks");
        }
    }
}
