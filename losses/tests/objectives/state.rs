//! What objectives keep between steps, and how prototypes are used.

use crate::common::*;
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, Comm, DType, ErrorKind, ops};
use selfsame_kernels::math::Real;
use selfsame_losses::state::Centre;
use selfsame_losses::{Usage, centred_targets, mean_entropy};

#[test]
fn a_centre_begins_with_a_tenth_of_the_mean_and_ends_at_it() {
    let centre = Centre::new("centre", 3, 0.9, &device()).unwrap();
    let rows = Tensor::constant(Array::from_slice(&[1f32, 2.0, -4.0, 3.0, 0.0, 8.0], &[2, 3], &device()).unwrap());
    let other = Tensor::constant(Array::from_slice(&[0f32, 0.0, 0.0, 0.0, 6.0, 0.0], &[2, 3], &device()).unwrap());
    let next = centre.next(&[rows.clone(), other.clone()], &single()).unwrap().1.to_vec::<f32>().unwrap();
    // The mean over both crops is (1, 2, 1).
    next.iter().zip([0.1, 0.2, 0.1]).for_each(|(c, wanted)| assert!((c - wanted).abs() < 1e-7));
    assert_eq!(centre.value().to_vec::<f32>().unwrap(), [0.0; 3], "a step does not see its own centre");
    for _ in 0..200 {
        let (param, value) = centre.next(&[rows.clone(), other.clone()], &single()).unwrap();
        param.set(value).unwrap();
    }
    centre
        .value()
        .to_vec::<f32>()
        .unwrap()
        .iter()
        .zip([1.0, 2.0, 1.0])
        .for_each(|(c, w)| assert!((c - w).abs() < 1e-5));
    let narrow = Tensor::constant(Array::zeros(&[2, 2], DType::F32, &device()).unwrap());
    assert_eq!(centre.next(&[narrow], &single()).err().unwrap().kind(), ErrorKind::Shape);
    assert_eq!(Centre::new("centre", 3, 1.5, &device()).err().unwrap().kind(), ErrorKind::Config);
}

#[test]
fn centring_alone_makes_a_constant_teacher_uniform() {
    let centre = Centre::new("centre", 4, 0.9, &device()).unwrap();
    let row = Array::from_slice(&[3f32, -1.0, 0.5, 2.0], &[4], &device()).unwrap();
    let teacher = Tensor::constant(row.broadcast_to(&[16, 4]).unwrap().contiguous().unwrap());
    let entropy = || {
        let targets = centred_targets(teacher.array(), &centre.value(), 0.04).unwrap();
        mean_entropy(&[Tensor::constant(targets)], &single()).unwrap()
    };
    assert!(entropy() < 1e-3, "sharpened");
    for _ in 0..200 {
        let (param, value) = centre.next(std::slice::from_ref(&teacher), &single()).unwrap();
        param.set(value).unwrap();
    }
    assert!((entropy() - Real::log(4.0)).abs() < 1e-3);
}

#[test]
fn a_centre_has_the_same_bits_on_any_number_of_ranks() {
    let outputs = ops::cast(&random(64, 5, 1), DType::F32).unwrap();
    let next = |size: usize| -> Vec<Vec<f32>> {
        std::thread::scope(|scope| {
            let ranks: Vec<_> = Comm::emulated(size)
                .unwrap()
                .into_iter()
                .map(|comm| {
                    let share = outputs.slice(0, comm.rank() * 64 / size, (comm.rank() + 1) * 64 / size).unwrap();
                    scope.spawn(move || {
                        let centre = Centre::new("centre", 5, 0.9, &device()).unwrap();
                        centre.next(&[Tensor::constant(share)], &comm).unwrap().1.to_vec::<f32>().unwrap()
                    })
                })
                .collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    };
    let one = next(1).remove(0);
    assert!([2, 4].into_iter().flat_map(next).all(|centre| centre == one));
}

#[test]
fn usage_of_one_of_all_and_of_half_of_the_prototypes() {
    let codes = |at: &[usize]| {
        let rows: Vec<f64> = at.iter().flat_map(|at| (0..4).map(move |j| f64::from(j == *at))).collect();
        Tensor::constant(array(&rows, &[at.len(), 4]))
    };
    let of = |views: &[Tensor]| Usage::of(views, &single()).unwrap();
    assert_eq!(of(&[codes(&[2; 6])]), Usage { used: 0.25, entropy: 0.0 });
    let all = of(&[codes(&[0, 1]), codes(&[2, 3])]);
    assert_eq!(all.used, 1.0);
    close(all.entropy, Real::log(4.0));
    let half = of(&[codes(&[0, 3, 3, 0])]);
    assert_eq!(half.used, 0.5);
    close(half.entropy, Real::log(2.0));
}
