//! Fast numerics: near the canonical result by the error of tf32, the same bits every time, through kernels alone.

use selfsame_engine::cpu::CpuDevice;
use selfsame_engine::ops::{self, Conv2d};
use selfsame_engine::{Array, DType, Device, ErrorKind, Numerics, Result, Rows};
use selfsame_kernels::philox::{Key, Purpose};

/// Numbers over [-2, 2), the same for the same `seed`.
fn noise(shape: &[usize], seed: u64, device: &Device) -> Array {
    let stream = Key::new(seed, Purpose::Check).stream(0, 0, 0);
    ops::uniform(shape, DType::F32, -2.0, 2.0, &stream, device).unwrap()
}

/// Two roundings of operands to 11 bits, on products below 4 and sums of up to `terms`: the worst case.
fn bound(terms: usize) -> f32 {
    4.0 * terms as f32 * 2.0 * 2f32.powi(-11)
}

/// Compares with the CPU; at least one result must differ from it in a bit, or nothing ran on tensor cores.
#[track_caller]
fn near(terms: usize, compute: impl Fn(&Device) -> Result<Vec<Array>>) {
    let open = || Device::open_with("simt", CpuDevice::new(1).unwrap(), Numerics::Fast).unwrap();
    let values = |device: &Device| -> Vec<Vec<f32>> {
        let results = compute(device).unwrap_or_else(|e| panic!("{e}"));
        results.iter().map(|x| x.to_vec().unwrap()).collect()
    };
    let (strict, device) = (values(&Device::cpu_with(1).unwrap()), open());
    let fast = values(&device);
    assert_eq!(device.gpu().unwrap().host_fallbacks(), []);
    assert_eq!(fast, values(&open()), "the same bits run after run");
    assert_ne!(fast, strict, "nothing was rounded to tf32");
    for (i, (fast, strict)) in fast.iter().zip(&strict).enumerate() {
        assert_eq!(fast.len(), strict.len());
        let distance = fast.iter().zip(strict).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(distance <= bound(terms), "result {i}: off by {distance}");
    }
}

#[test]
fn products_in_every_layout() {
    near(36, |device| {
        let (a, b) = (noise(&[2, 20, 36], 1, device), noise(&[2, 36, 12], 2, device));
        let (a_t, b_t) = (a.transpose(1, 2)?.copy()?.transpose(1, 2)?, b.transpose(1, 2)?.copy()?.transpose(1, 2)?);
        [(&a, &b), (&a, &b_t), (&a_t, &b), (&a_t, &b_t)].into_iter().map(|(a, b)| ops::matmul(a, b)).collect()
    });
}

#[test]
fn products_of_parts_and_vectors() {
    near(36, |device| {
        let (a, b) = (noise(&[21, 37], 1, device), noise(&[37, 12], 2, device));
        Ok(vec![
            ops::matmul(&a.slice(1, 1, 37)?, &b.slice(0, 1, 37)?)?,
            ops::matmul(&a.slice(0, 3, 4)?, &b)?,
            ops::matmul(&a, &b.slice(1, 5, 6)?)?,
            ops::matmul(&a, &b)?,
        ])
    });
}

#[test]
fn gradients_of_linear_layers() {
    near(70 * 3, |device| {
        let (x, dy) = (noise(&[70, 3, 8], 1, device), noise(&[70, 3, 12], 2, device));
        Ok(vec![ops::linear_weight_grad(&x, &dy, Rows::of(x.shape(), 0)?)?.total()?])
    });
}

#[test]
fn convolutions_and_their_gradients() {
    let window = Conv2d { padding: [1, 0], dilation: [1, 2], ..Conv2d::default() };
    for (options, kernel) in
        [(window, [3, 2]), (Conv2d { stride: [2, 1], groups: 2, ..window }, [3, 2]), (Conv2d::default(), [1, 1])]
    {
        near(17 * 49, |device| {
            let x = noise(&[17, 7, 7, 8], 1, device);
            let w = noise(&[kernel[0], kernel[1], 8 / options.groups, 4], 2, device);
            let y = ops::conv2d(&x, &w, &options)?;
            let dy = noise(y.shape(), 3, device);
            Ok(vec![
                ops::conv2d_input_grad(&dy, &w, x.shape(), &options)?,
                ops::conv2d_weight_grad(&x, &dy, w.shape(), &options, Rows::of(dy.shape(), 0)?)?.total()?,
                y,
            ])
        });
    }
}

/// On the CPU only convolutions of 3 x 3 taps and whole groups of channels differ, and those by little.
#[test]
fn the_cpu_differs_in_convolutions_alone() {
    let of = |numerics| {
        let device = &Device::open_with("cpu", CpuDevice::new(2).unwrap(), numerics).unwrap();
        assert_eq!(device.numerics(), numerics);
        let options = Conv2d { padding: [1, 1], ..Conv2d::default() };
        let strided = Conv2d { stride: [2, 2], ..options };
        let (x, w) = (noise(&[17, 9, 8, 32], 1, device), noise(&[3, 3, 32, 16], 2, device));
        let y = ops::conv2d(&x, &w, &options).unwrap();
        let dy = noise(y.shape(), 3, device);
        let rows = Rows::of(dy.shape(), 0).unwrap();
        let near = [
            ops::conv2d_input_grad(&dy, &w, x.shape(), &options).unwrap(),
            ops::conv2d_weight_grad(&x, &dy, w.shape(), &options, rows).unwrap().total().unwrap(),
            y,
        ];
        let same = [
            ops::conv2d(&x, &w, &strided).unwrap(),
            ops::matmul(&noise(&[30, 40], 4, device), &noise(&[40, 50], 5, device)).unwrap(),
        ];
        (near.map(|x| x.to_vec::<f32>().unwrap()), same.map(|x| x.to_vec::<f32>().unwrap()))
    };
    let ((near, same), (strict, strict_same)) = (of(Numerics::Fast), of(Numerics::Strict));
    assert_eq!(same, strict_same);
    for (fast, strict) in near.iter().zip(&strict) {
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |largest, v| largest.max(v.abs()));
        let difference = largest(&mut fast.iter().zip(strict).map(|(a, b)| a - b));
        let size = largest(&mut strict.iter().copied());
        assert!(0.0 < difference && difference < 1e-5 * size, "{difference} of {size}");
    }
}

#[test]
fn numerics_of_one_device_leave_another_as_it_is() {
    let cpu = CpuDevice::new(1).unwrap();
    let open = |numerics| Device::open_with("cpu", cpu.clone(), numerics).unwrap();
    let (strict, fast) = (open(Numerics::Strict), open(Numerics::Fast));
    assert_eq!((strict.numerics(), fast.numerics()), (Numerics::Strict, Numerics::Fast));
    assert_eq!(cpu.numerics(), Numerics::Strict);
    assert!(!strict.is(&fast));
}

/// Two roundings of operands to 8 bits.
#[test]
fn bf16_numerics_round_convolutions_and_linear_layers_alone() {
    let of = |numerics| {
        let device = &Device::open_with("cpu", CpuDevice::new(2).unwrap(), numerics).unwrap();
        let (x, w) = (noise(&[3, 7, 6, 20], 1, device), noise(&[3, 3, 20, 24], 2, device));
        let options = Conv2d { stride: [2, 1], padding: [1, 1], ..Conv2d::default() };
        let y = ops::conv2d(&x, &w, &options).unwrap();
        let dy = noise(y.shape(), 3, device);
        let (rows, weight, drows) =
            (noise(&[30, 40], 4, device), noise(&[40, 50], 5, device), noise(&[30, 50], 6, device));
        let (conv_rows, linear_rows) = (Rows::of(dy.shape(), 0).unwrap(), Rows::of(rows.shape(), 0).unwrap());
        let near = [
            ops::conv2d_input_grad(&dy, &w, x.shape(), &options).unwrap(),
            ops::conv2d_weight_grad(&x, &dy, w.shape(), &options, conv_rows).unwrap().total().unwrap(),
            y,
            ops::linear(&rows, &weight, None).unwrap(),
            ops::linear_input_grad(&drows, &weight).unwrap(),
            ops::linear_weight_grad(&rows, &drows, linear_rows).unwrap().total().unwrap(),
        ];
        let double = |x: &Array| ops::cast(x, DType::F64).unwrap();
        let same = [
            ops::matmul(&rows, &weight).unwrap(),
            ops::cast(&ops::linear(&double(&rows), &double(&weight), None).unwrap(), DType::F32).unwrap(),
        ];
        (near.map(|x| x.to_vec::<f32>().unwrap()), same.map(|x| x.to_vec::<f32>().unwrap()))
    };
    let ((near, same), (strict, strict_same)) = (of(Numerics::Bf16), of(Numerics::Strict));
    assert_eq!(same, strict_same);
    for (i, (rounded, strict)) in near.iter().zip(&strict).enumerate() {
        let largest = |values: &mut dyn Iterator<Item = f32>| values.fold(0f32, |largest, v| largest.max(v.abs()));
        let difference = largest(&mut rounded.iter().zip(strict).map(|(a, b)| a - b));
        let size = largest(&mut strict.iter().copied());
        assert!(1e-4 * size < difference && difference < 1e-2 * size, "result {i}: {difference} of {size}");
    }
}

#[test]
fn bf16_numerics_are_refused_where_kernels_run() {
    for device in ["simt", "simt:unchecked", "cuda:0"] {
        let error = Device::open_with(device, CpuDevice::new(1).unwrap(), Numerics::Bf16).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Numerics);
        assert!(error.to_string().contains(&format!("bf16 on {device}")), "{error}");
    }
    let unknown = Device::open_with("cup", CpuDevice::new(1).unwrap(), Numerics::Bf16).unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Device);
}
