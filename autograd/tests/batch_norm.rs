//! Batch norm: its fused forms against the separate steps, and its statistics groups against batches of their own and
//! under cuts of the batch.

use selfsame_autograd::ops::{BatchNorm, BatchStats};
use selfsame_autograd::{Grads, Param, Role, Tensor};
use selfsame_engine::{Array, Comm, DType, Device, ErrorKind, Result, Rows, ops};
use selfsame_kernels::philox::{Key, Purpose};

const IMAGES: usize = 96;

fn generated(device: &Device, shapes: &[&[usize]]) -> Vec<Array> {
    let normal = |(i, shape): (usize, &&[usize])| {
        let stream = Key::new(3, Purpose::Check).stream(0, i as u64, 0);
        ops::normal(shape, DType::F32, 0.0, 1.0, &stream, device).unwrap()
    };
    shapes.iter().enumerate().map(normal).collect()
}

fn bits(x: &Array) -> Vec<u32> {
    x.to_vec::<f32>().unwrap().into_iter().map(f32::to_bits).collect()
}

#[test]
fn fusing_does_not_change_a_bit() -> Result<()> {
    let device = Device::cpu_with(2)?;
    let shape: &[usize] = &[32, 9, 19];
    let values = generated(&device, &[shape, &[19], &[19], shape, shape]);
    let run = |stats: &BatchStats, fused: bool, with_residual: bool| -> Result<Vec<Vec<u32>>> {
        let inputs: Vec<Tensor> = values[..4].iter().map(|a| Tensor::leaf(a.clone())).collect();
        let [x, gamma, beta, residual] = &inputs[..] else { panic!("four inputs") };
        let (gamma, beta) = (Some(gamma), Some(beta));
        let options = BatchNorm { eps: 1e-5, rows: Rows::of(shape, 0)?, stats: stats.clone() };
        let y = match (fused, with_residual) {
            (true, true) => x.batch_norm_add_relu(gamma, beta, residual, &options)?.y,
            (true, false) => x.batch_norm_relu(gamma, beta, &options)?.y,
            (false, true) => x.batch_norm(gamma, beta, &options)?.y.add(residual)?.relu()?,
            (false, false) => x.batch_norm(gamma, beta, &options)?.y.relu()?,
        };
        let grads = y.backward_from(values[4].clone())?;
        let mut found = vec![bits(y.array())];
        for input in &inputs[..if with_residual { 4 } else { 3 }] {
            found.push(bits(&grads.get(input)?.expect("a gradient")));
        }
        Ok(found)
    };
    for stats in [BatchStats::Batch(None), BatchStats::Groups { images: 16 }] {
        for with_residual in [false, true] {
            assert_eq!(run(&stats, true, with_residual)?, run(&stats, false, with_residual)?);
        }
    }
    Ok(())
}

/// Batch norm with a scale and an offset, of images `from..to` of the same batch.
struct Layer {
    x: Array,
    dy: Array,
    gamma: Param,
    beta: Param,
}

struct Ran {
    y: Vec<u32>,
    dx: Vec<u32>,
    groups: Vec<usize>,
    moments: [Vec<f32>; 3],
    grads: Grads,
}

impl Layer {
    fn new() -> Layer {
        let device = Device::cpu_with(1).unwrap();
        let shape: &[usize] = &[IMAGES, 3, 5];
        let [x, dy, gamma, beta] = &generated(&device, &[shape, shape, &[5], &[5]])[..] else { panic!("four") };
        Layer {
            x: x.clone(),
            dy: dy.clone(),
            gamma: Param::new("gamma", Role::NormScale, gamma.clone()),
            beta: Param::new("beta", Role::NormBias, beta.clone()),
        }
    }

    /// The images `from..to` when their batch begins `from - first_image` images into the data.
    fn run(&self, from: usize, to: usize, first_image: usize, stats: BatchStats) -> Result<Ran> {
        let x = Tensor::leaf(self.x.slice(0, from, to)?);
        let options = BatchNorm { eps: 1e-5, rows: Rows::of(x.shape(), first_image)?, stats };
        let normed = x.batch_norm(Some(&self.gamma.tensor()), Some(&self.beta.tensor()), &options)?;
        let grads = normed.y.backward_from(self.dy.slice(0, from, to)?)?;
        let m = normed.moments.expect("not fixed");
        let moments = [m.mean, m.variance, m.unbiased_variance].map(|m| m.to_vec().unwrap());
        let dx = bits(&grads.get(&x)?.expect("tracked"));
        Ok(Ran { y: bits(normed.y.array()), dx, groups: m.groups, moments, grads })
    }

    fn params(&self, grads: &Grads) -> [Vec<u32>; 2] {
        [&self.gamma, &self.beta].map(|p| bits(&grads.param(p).unwrap().expect("used")))
    }
}

fn groups(images: usize) -> BatchStats {
    BatchStats::Groups { images }
}

#[test]
fn a_group_is_a_batch_of_its_own() {
    let layer = Layer::new();
    let found = layer.run(0, IMAGES, 0, groups(48)).unwrap();
    let [a, b] = [(0, 48), (48, 96)].map(|(from, to)| layer.run(from, to, 0, BatchStats::Batch(None)).unwrap());
    assert_eq!(found.y, [a.y, b.y].concat());
    assert_eq!(found.dx, [a.dx, b.dx].concat());
    assert_eq!((&a.groups[..], &found.groups[..]), (&[0][..], &[0, 48][..]));
    for ((found, a), b) in found.moments.iter().zip(a.moments).zip(b.moments) {
        assert_eq!(*found, [a, b].concat());
    }
    let whole = layer.run(0, IMAGES, 0, BatchStats::Batch(None)).unwrap();
    let one_group = layer.run(0, IMAGES, 0, groups(IMAGES)).unwrap();
    assert_eq!((&one_group.y, &one_group.dx, one_group.moments), (&whole.y, &whole.dx, whole.moments));
    assert!(found.y != whole.y, "the groups did not matter");
}

/// dbeta = Σ dy is the same sum over the batch whatever was normalised with what. 48 images are no node of the tree.
#[test]
fn parameter_gradients_are_sums_over_the_batch_not_over_groups() {
    let layer = Layer::new();
    let dbeta = |stats| layer.params(&layer.run(0, IMAGES, 0, stats).unwrap().grads)[1].clone();
    let whole = dbeta(BatchStats::Batch(None));
    for images in [16, 32, 48, 96] {
        assert_eq!(dbeta(groups(images)), whole, "groups of {images}");
    }
}

#[test]
fn cuts_between_groups_do_not_change_a_bit() {
    let layer = Layer::new();
    let whole = layer.run(0, IMAGES, 0, groups(32)).unwrap();
    for cuts in [vec![0, 32, IMAGES], vec![0, 64, IMAGES], vec![0, 32, 64, IMAGES]] {
        let (mut grads, mut y, mut dx) = (Grads::default(), Vec::new(), Vec::new());
        let (mut groups_seen, mut moments) = (Vec::new(), <[Vec<f32>; 3]>::default());
        for part in cuts.windows(2) {
            let ran = layer.run(part[0], part[1], part[0], groups(32)).unwrap();
            y.extend(ran.y);
            dx.extend(ran.dx);
            groups_seen.extend(ran.groups);
            moments.iter_mut().zip(ran.moments).for_each(|(all, part)| all.extend(part));
            grads.merge(ran.grads).unwrap();
        }
        assert_eq!((&y, &dx), (&whole.y, &whole.dx));
        assert_eq!((&groups_seen, &moments), (&whole.groups, &whole.moments));
        assert_eq!(layer.params(&grads), layer.params(&whole.grads));

        let cuts = &cuts;
        let ranks = |comm: Comm| {
            let (layer, comm) = (Layer::new(), comm);
            let (from, to) = (cuts[comm.rank()], cuts[comm.rank() + 1]);
            let stats = BatchStats::Groups { images: 32 };
            let ran = layer.run(from, to, from, stats).unwrap();
            let params = layer.params(&ran.grads.all_sum(&comm).unwrap());
            (ran.y, ran.dx, params)
        };
        let (mut y, mut dx) = (Vec::new(), Vec::new());
        std::thread::scope(|scope| {
            let comms = Comm::emulated(cuts.len() - 1).unwrap();
            let threads: Vec<_> = comms.into_iter().map(|comm| scope.spawn(move || ranks(comm))).collect();
            for thread in threads {
                let (their_y, their_dx, params) = thread.join().unwrap();
                y.extend(their_y);
                dx.extend(their_dx);
                assert_eq!(params, layer.params(&whole.grads));
            }
        });
        assert_eq!((y, dx), (whole.y.clone(), whole.dx.clone()));
    }
}

#[test]
fn a_group_across_a_cut_and_a_group_of_parts_of_leaves_are_refused() {
    let layer = Layer::new();
    for (from, to) in [(0, 48), (48, 96), (16, 48)] {
        let error = layer.run(from, to, from, groups(32)).err().expect("refused");
        assert_eq!(error.kind(), ErrorKind::Numerics);
        assert!(error.sentence().contains("straddles a micro-batch or rank boundary"), "{error}");
    }
    for images in [0, 24] {
        assert_eq!(layer.run(0, 48, 0, groups(images)).err().map(|e| e.kind()), Some(ErrorKind::Config));
    }
}
