//! Sums over all pairs: against f64, at the extremes, over ranks, and in memory.

use selfsame_autograd::Tensor;
use selfsame_autograd::ops::{Excluded, PairSums, Pairs};
use selfsame_engine::{Array, Comm, DType, Device, ErrorKind, ops};
use selfsame_kernels::philox::{Key, Purpose};
use std::sync::Arc;

fn device() -> Device {
    Device::cpu_with(2).unwrap()
}

/// Rows of length 1 in directions that depend on `seed`.
fn unit_rows(n: usize, d: usize, seed: u64, device: &Device) -> Array {
    let mut stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    let values: Vec<f32> = (0..n * d).map(|_| stream.normal()).collect();
    let rows = Array::from_slice(&values, &[n, d], device).unwrap();
    ops::l2_normalize(&rows, 1e-12).unwrap().0
}

fn number(x: f32, device: &Device) -> Tensor {
    Tensor::constant(Array::scalar(x, device).unwrap())
}

/// Every row's own column left out.
fn others(n: usize, device: &Device) -> Pairs {
    Pairs { excluded: Excluded::Own(ops::arange(n, device).unwrap()), ..Pairs::default() }
}

/// Values, and gradients of their mean, of the rows `z` over one another.
fn own(z: &Array, scale: f32) -> (Vec<f32>, Vec<f32>) {
    let (n, device) = (z.shape()[0], z.device());
    let leaf = Tensor::leaf(z.clone());
    let value = leaf.pair_log_sum_exp(&number(scale, device), Some(1.0), &others(n, device)).unwrap().value;
    let dz = value.mean(&[0], false).unwrap().backward().unwrap().get(&leaf).unwrap().unwrap();
    (value.array().to_vec().unwrap(), dz.to_vec().unwrap())
}

/// Compares every `stride`-th row with f64: values by their definition, gradients from f64 similarities and the values
/// of all rows. Returns the largest relative errors.
fn sampled_errors(n: usize, d: usize, scale: f32, stride: usize) -> [f64; 2] {
    let z = unit_rows(n, d, 1, &device());
    let (values, dz) = own(&z, scale);
    let z: Vec<f64> = z.to_vec::<f32>().unwrap().into_iter().map(f64::from).collect();
    let scale = f64::from(scale);
    let row = |i: usize| &z[i * d..(i + 1) * d];
    let mut worst = [0f64; 2];
    for i in (0..n).step_by(stride) {
        let x: Vec<f64> = (0..n).map(|j| scale * row(i).iter().zip(row(j)).map(|(a, b)| a * b).sum::<f64>()).collect();
        let value = (0..n).filter(|j| *j != i).map(|j| x[j].exp()).sum::<f64>().ln();
        worst[0] = worst[0].max((f64::from(values[i]) - value).abs() / value.abs());
        let mut gradient = vec![0.0; d];
        for j in (0..n).filter(|j| *j != i) {
            let g = scale / n as f64 * ((x[j] - value).exp() + (x[j] - f64::from(values[j])).exp());
            gradient.iter_mut().zip(row(j)).for_each(|(to, z)| *to += g * z);
        }
        let length = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        let off = gradient.iter().zip(&dz[i * d..]).map(|(a, b)| (a - f64::from(*b)).powi(2)).sum::<f64>().sqrt();
        worst[1] = worst[1].max(off / length);
    }
    worst
}

#[test]
fn values_and_gradients_agree_with_f64() {
    for (n, d) in [(2051, 33), (131, 2048)] {
        for scale in [0.1, 2.0, 10.0, 100.0, 200.0] {
            let [value, gradient] = sampled_errors(n, d, scale, n / 20);
            assert!(value < 1e-6 && gradient < 2e-5, "{n} x {d}, scale {scale}: {value:.1e} {gradient:.1e}");
        }
    }
}

/// Takes minutes: `cargo test --release -p selfsame-autograd --test pairs -- --ignored --nocapture`.
#[test]
#[ignore = "minutes"]
fn large_batches_agree_with_f64() {
    for n in [4096, 16384, 65536] {
        for scale in [0.1, 2.0, 10.0, 100.0, 200.0] {
            let [value, gradient] = sampled_errors(n, 128, scale, n / 16 + 1);
            println!("{n} rows, temperature {}: values {value:.1e}, gradients {gradient:.1e}", 1.0 / scale);
            assert!(value < 1e-6 && gradient < 5e-5);
        }
    }
}

#[test]
fn extremes_have_their_limits() {
    let device = device();
    let rows = |rows: &[[f32; 2]]| Array::from_slice(rows.as_flattened(), &[rows.len(), 2], &device).unwrap();
    for scale in [0.1f32, 1.0, 200.0] {
        // Identical: every similarity is 1.
        let (values, dz) = own(&rows(&[[1.0, 0.0]; 5]), scale);
        assert!(values.iter().all(|v| (v - (scale + 4f32.ln())).abs() <= 1e-6 * scale.max(2.0)), "{values:?}");
        assert!(dz.chunks(2).all(|d| (d[0] - scale * 0.4).abs() <= 1e-5 * scale && d[1] == 0.0), "{dz:?}");
        // Orthogonal: 0. Antipodal: -1, and e^-shift of it underflows at the lowest temperatures.
        assert!(own(&rows(&[[1.0, 0.0], [0.0, 1.0]]), scale).0.iter().all(|v| v.abs() <= 1e-6 * scale.max(1.0)));
        let (values, dz) = own(&rows(&[[0.0, 1.0], [0.0, -1.0]]), scale);
        assert!(values.iter().all(|v| (v + scale).abs() <= 1e-6 * scale.max(1.0)), "{values:?}");
        assert!(dz.iter().all(|d| d.is_finite()));
    }
    let line = Array::from_slice(&[1f32, -1.0, 1.0], &[3, 1], &device).unwrap();
    let (values, _) = own(&line, 200.0);
    assert_eq!((values[0], values[1]), (200.0, -200.0 + 2f32.ln()));
}

/// Rows that both sides of [`on_ranks`] have.
const N: usize = 96;

/// In place of the row's own column, all pairs of rows whose squares are equal modulo 7, or all but its own column.
fn duplicates(own: &Pairs, device: &Device, keeps_own: bool) -> Excluded {
    let Excluded::Own(own) = &own.excluded else { panic!("not its own column") };
    let keys = |rows: &[i64]| {
        let keys: Vec<i64> = rows.iter().map(|row| row * row % 7).collect();
        Array::from_slice(&keys, &[keys.len()], device).unwrap()
    };
    let columns = keys(&(0..N as i64).collect::<Vec<_>>());
    Excluded::SameKey { rows: keys(&own.to_vec().unwrap()), columns, kept: keeps_own.then(|| own.clone()) }
}

/// The gradients of Σ values and of the numbers on `size` ranks: rows in global order, numbers added up.
fn on_ranks(size: usize, sums: impl Fn(&[Tensor; 2], &[Tensor; 2], &Pairs) -> Tensor + Sync) -> (Vec<f32>, Vec<f32>) {
    let whole = device();
    let (q, k) = (unit_rows(N, 5, 1, &whole), unit_rows(N, 5, 2, &whole));
    let share = N / size;
    let parts: Vec<(Vec<f32>, Vec<f32>)> = std::thread::scope(|scope| {
        let ranks: Vec<_> = Comm::emulated(size)
            .unwrap()
            .into_iter()
            .map(|comm| {
                let (sums, q, k) = (&sums, &q, &k);
                scope.spawn(move || {
                    let device = Device::cpu_with(1).unwrap();
                    let rank = comm.rank();
                    let part = |x: &Array| {
                        let part = x.slice(0, rank * share, (rank + 1) * share).unwrap();
                        Tensor::leaf(part.copy().unwrap().to_device(&device).unwrap())
                    };
                    let leaves = [part(q), part(k)];
                    let numbers = [3.0f32, -1.0].map(|x| Tensor::leaf(Array::scalar(x, &device).unwrap()));
                    let own: Vec<i64> = (rank * share..(rank + 1) * share).map(|row| row as i64).collect();
                    let excluded = Excluded::Own(Array::from_slice(&own, &[share], &device).unwrap());
                    let pairs = Pairs { excluded, comm: Arc::new(comm), ..Pairs::default() };
                    let value = sums(&leaves, &numbers, &pairs);
                    let grads = value.sum_all().unwrap().backward().unwrap();
                    let values = |x: &Tensor| match grads.get(x).unwrap() {
                        Some(dx) => dx.to_vec::<f32>().unwrap(),
                        None => Vec::new(),
                    };
                    let rows = [value.array().to_vec().unwrap(), values(&leaves[0]), values(&leaves[1])].concat();
                    (rows, numbers.iter().flat_map(values).collect())
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    let numbers = parts
        .iter()
        .skip(1)
        .fold(parts[0].1.clone(), |sum, (_, more)| sum.iter().zip(more).map(|(a, b)| a + b).collect());
    // Of each rank: its values, then its gradients; interleaved alike for every size once sorted by their bits.
    let mut rows: Vec<f32> = parts.into_iter().flat_map(|(rows, _)| rows).collect();
    rows.sort_by(f32::total_cmp);
    (rows, numbers)
}

#[test]
fn ranks_have_the_bits_of_one() {
    let own = |[q, _]: &[Tensor; 2], [scale, _]: &[Tensor; 2], pairs: &Pairs| {
        q.pair_log_sum_exp(scale, Some(1.0), pairs).unwrap().value
    };
    let both = |[q, k]: &[Tensor; 2], [scale, _]: &[Tensor; 2], pairs: &Pairs| {
        let sums = |pairs: &Pairs| {
            let [rows, columns] = q.pair_log_sum_exp_both(k, scale, None, pairs).unwrap();
            rows.value.add(&columns.value.scale(2.0).unwrap()).unwrap()
        };
        let all = Pairs { excluded: Excluded::None, ..pairs.clone() };
        sums(&all).add(&sums(pairs).scale(4.0).unwrap()).unwrap()
    };
    let both_but_duplicates = |[q, k]: &[Tensor; 2], [scale, _]: &[Tensor; 2], pairs: &Pairs| {
        let sums = |keeps_own| {
            let excluded = duplicates(pairs, q.device(), keeps_own);
            let [rows, columns] =
                q.pair_log_sum_exp_both(k, scale, None, &Pairs { excluded, ..pairs.clone() }).unwrap();
            rows.value.add(&columns.value.scale(2.0).unwrap()).unwrap()
        };
        sums(false).add(&sums(true).scale(4.0).unwrap()).unwrap()
    };
    let softplus = |[q, k]: &[Tensor; 2], [scale, bias]: &[Tensor; 2], pairs: &Pairs| {
        let pairs = Pairs { excluded: Excluded::None, ..pairs.clone() };
        q.pair_softplus_sum(k, scale, bias, &pairs).unwrap().value
    };
    for size in [2, 3, 6] {
        assert_eq!(on_ranks(size, own), on_ranks(1, own), "own, {size} ranks");
        assert_eq!(on_ranks(size, both), on_ranks(1, both), "both, {size} ranks");
        let one = on_ranks(1, both_but_duplicates);
        assert_eq!(on_ranks(size, both_but_duplicates), one, "both but duplicates, {size} ranks");
        assert_eq!(on_ranks(size, softplus), on_ranks(1, softplus), "softplus, {size} ranks");
    }
}

/// What the columns leave out is known on other ranks alone, unless it is what the rows of the same numbers leave out.
#[test]
fn over_ranks_both_sides_leave_out_what_is_the_same_transposed() {
    let device = device();
    let z = Tensor::constant(unit_rows(16, 3, 1, &device));
    let comm = Arc::new(Comm::emulated(2).unwrap().swap_remove(1));
    let of_another_rank = others(16, &device).excluded;
    let array = |values: &[i64]| Array::from_slice(values, &[values.len()], &device).unwrap();
    let by_key = |rows: [i64; 16], kept: Option<[i64; 16]>| {
        let columns = array(&[3; 32]);
        Excluded::SameKey { rows: array(&rows), columns, kept: kept.map(|kept| array(&kept)) }
    };
    let too_few = Excluded::SameKey { rows: array(&[3; 16]), columns: array(&[3; 16]), kept: None };
    for excluded in [of_another_rank, by_key([4; 16], None), by_key([3; 16], Some([20; 16])), too_few] {
        let pairs = Pairs { excluded, comm: Arc::clone(&comm), ..Pairs::default() };
        let error = z.pair_log_sum_exp_both(&z, &number(2.0, &device), None, &pairs).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    }
}

#[test]
fn statistics_come_with_the_sums() {
    let device = device();
    let z = Array::from_slice(&[1f32, 0.0, 0.8, 0.6, 0.0, 1.0], &[3, 2], &device).unwrap();
    let pairs = Pairs { statistics: true, ..others(3, &device) };
    let PairSums { value, top, mean_dot } =
        Tensor::constant(z).pair_log_sum_exp(&number(2.0, &device), Some(1.0), &pairs).unwrap();
    assert_eq!(top.unwrap().to_vec::<i64>().unwrap(), [1, 0, 1]);
    // Row 0: dots 0.8 and 0; entropy = value - 2 mean is that of softmax(1.6, 0).
    let p = 1.6f32.exp() / (1.6f32.exp() + 1.0);
    let entropy = -(p * p.ln() + (1.0 - p) * (1.0 - p).ln());
    let got = value.array().to_vec::<f32>().unwrap()[0] - 2.0 * mean_dot.unwrap().to_vec::<f32>().unwrap()[0];
    assert!((got - entropy).abs() < 1e-6, "{got} {entropy}");
}

/// The logarithm of no sum is -infinity at every scale.
#[test]
fn rows_without_columns_have_no_slope() {
    let device = device();
    let z = Tensor::leaf(unit_rows(4, 3, 1, &device));
    let keys = Array::from_slice(&[0i64, 0, 0, 1], &[4], &device).unwrap();
    let columns = Array::zeros(&[4], DType::I64, &device).unwrap();
    let excluded = Excluded::SameKey { rows: keys, columns, kept: None };
    let pairs = Pairs { excluded, statistics: true, ..Pairs::default() };
    for bound in [None, Some(1.0)] {
        let scale = Tensor::leaf(Array::scalar(2f32, &device).unwrap());
        let PairSums { value, mean_dot, .. } = z.pair_log_sum_exp_over(&z.detach(), &scale, bound, &pairs).unwrap();
        let values = value.array().to_vec::<f32>().unwrap();
        assert!(values[..3].iter().all(|value| *value == f32::NEG_INFINITY) && values[3].is_finite());
        let means = mean_dot.unwrap().to_vec::<f32>().unwrap();
        assert_eq!(means[..3], [0.0; 3]);
        let slope = value.sum_all().unwrap().backward().unwrap().get(&scale).unwrap();
        assert_eq!(slope.unwrap().item::<f32>().unwrap(), means[3]);
    }
}

#[test]
fn memory_does_not_grow_with_the_pairs() {
    let device = device();
    let (n, d) = (6000, 16);
    let leaf = Tensor::leaf(unit_rows(n, d, 1, &device));
    let cpu = device.host();
    cpu.memory().reset_peak();
    let before = device.memory().live + cpu.scratch_bytes();
    let value = leaf.pair_log_sum_exp(&number(2.0, &device), Some(1.0), &others(n, &device)).unwrap().value;
    let grads = value.mean(&[0], false).unwrap().backward().unwrap();
    assert_eq!(grads.get(&leaf).unwrap().unwrap().dtype(), DType::F32);
    let beyond = device.memory().peak + cpu.scratch_bytes() - before;
    // Inputs packed twice, the gradient, statistics, and a tile of G for each thread; the matrix would be 137 MiB.
    assert!(beyond < 8 << 20, "{beyond} bytes");
}
