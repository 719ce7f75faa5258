//! ReLIC: its contrast is InfoNCE between views, and its invariance term a divergence.

use crate::common::*;
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, ErrorKind};
use selfsame_kernels::math::Real;
use selfsame_losses::{Clip, Coefficient, Divergence, Relic, RelicLoss, RelicViews, clip, relic_ranks};

fn views(count: usize, first: u64) -> Vec<Tensor> {
    (0..count as u64).map(|view| Tensor::leaf(random(6, 5, first + view))).collect()
}

fn run(large: &[Tensor], small: &[Tensor], targets: &[Tensor], negatives: Option<&Array>, o: &Relic) -> RelicLoss {
    relic_ranks(RelicViews { large, small, targets, references: None }, negatives, o, &single()).unwrap()
}

/// ReLIC's two views at temperature 0.5, pairs added.
const SUM: Relic = Relic { temperature: 0.5, beta: 1.0, divergence: Divergence::FromAnchor, mean_over_pairs: false };

fn negatives(rows: &[&[i64]]) -> Array {
    Array::from_slice(&rows.concat(), &[rows.len(), rows[0].len()], &device()).unwrap()
}

#[test]
fn without_invariance_and_teacher_it_is_info_nce_between_views() {
    let u = views(2, 30);
    let relic = run(&u, &[], &u, None, &Relic { beta: 0.0, ..SUM });
    let both = clip(&u[0], &u[1], &Clip { scale: Coefficient::Fixed(2.0) }).unwrap();
    close(value(&relic.loss), 2.0 * value(&both));
}

#[test]
fn equal_embeddings_are_at_chance() {
    let equal = Tensor::leaf(array(&[0.3, -1.0, 2.0], &[3]).broadcast_to(&[4, 3]).unwrap().contiguous().unwrap());
    let u = [equal.clone(), equal];
    let relic = run(&u, &u[..1], &u, None, &Relic { mean_over_pairs: true, ..SUM });
    close(value(&relic.contrast), Real::log(4.0));
    assert!(value(&relic.invariance).abs() < 1e-15);
    let two = negatives(&[&[1, 2], &[0, 3], &[3, 3], &[0, 1]]);
    close(value(&run(&u, &[], &u, Some(&two), &Relic { mean_over_pairs: true, ..SUM }).contrast), Real::log(3.0));
}

#[test]
fn the_divergence_is_0_for_equal_views_positive_for_others_and_has_a_direction() {
    let (u, w) = (views(2, 40), views(2, 42));
    let same = [u[0].clone(), u[0].clone()];
    assert!(value(&run(&same, &[], &same, None, &SUM).invariance).abs() < 1e-15);
    let forth = value(&run(&u, &[], &w, None, &SUM).invariance);
    let back = value(&run(&u, &[], &w, None, &Relic { divergence: Divergence::FromReference, ..SUM }).invariance);
    assert!(forth > 1e-3 && back > 1e-3);
    // Of two views both directions are summed: KL(p||q) + KL(q||p) whichever way each is taken.
    close(forth, back);
    let one_way = |divergence| {
        let o = Relic { divergence, ..SUM };
        value(&run(&u[..1], &u[1..], &w[..1], None, &o).invariance)
    };
    assert!((one_way(Divergence::FromAnchor) - one_way(Divergence::FromReference)).abs() > 1e-6);
}

#[test]
fn without_negatives_there_is_nothing_to_learn() {
    let (u, w) = (views(2, 50), views(2, 52));
    let none = Array::from_slice::<i64>(&[], &[6, 0], &device()).unwrap();
    let relic = run(&u, &[], &w, Some(&none), &SUM);
    assert_eq!((value(&relic.contrast), value(&relic.invariance)), (0.0, 0.0));
    assert!(gradient(&relic.loss, &u[0]).iter().all(|d| *d == 0.0));
}

#[test]
fn gradients_go_to_anchors_alone() {
    let (u, w, fixed) = (views(2, 60), views(2, 62), views(2, 64));
    let views = RelicViews { large: &u, small: &[], targets: &w, references: Some(&fixed) };
    let relic = relic_ranks(views, None, &SUM, &single()).unwrap();
    let grads = relic.loss.backward().unwrap();
    assert!(w.iter().chain(&fixed).all(|x| grads.get(x).unwrap().is_none()));
    assert!(u.iter().all(|x| grads.get(x).unwrap().is_some()));
    // References held at the online embeddings: the same loss and the same gradient.
    let detached: Vec<Tensor> = u.iter().map(Tensor::detach).collect();
    let held = RelicViews { references: Some(&detached), ..views };
    let held = relic_ranks(held, None, &SUM, &single()).unwrap().loss;
    let free = run(&u, &[], &w, None, &SUM).loss;
    assert_eq!(value(&held), value(&free));
    assert_eq!(gradient(&held, &u[1]), gradient(&free, &u[1]));
}

#[test]
fn the_order_of_negatives_does_not_matter_and_listing_all_others_changes_nothing() {
    let (u, s, w) = (views(2, 70), views(1, 72), views(2, 73));
    let all: Vec<Vec<i64>> = (0..6).map(|i| (0..6).filter(|j| *j != i).collect()).collect();
    let turned: Vec<Vec<i64>> = all.iter().map(|row| row.iter().rev().copied().collect()).collect();
    let listed = |rows: &[Vec<i64>]| negatives(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let whole = value(&run(&u, &s, &w, None, &SUM).loss);
    close(value(&run(&u, &s, &w, Some(&listed(&all)), &SUM).loss), whole);
    close(value(&run(&u, &s, &w, Some(&listed(&turned)), &SUM).loss), whole);
    // Four pairs: either large view with the other, and the small one with both.
    let mean = Relic { mean_over_pairs: true, ..SUM };
    close(4.0 * value(&run(&u, &s, &w, None, &mean).loss), whole);
}

#[test]
fn an_image_is_no_negative_of_itself() {
    let (u, w) = (views(2, 80), views(2, 82));
    let mut rows = [[1i64]; 6];
    for bad in [1, 6, -1] {
        rows[0] = [2];
        rows[1] = [bad];
        let rows: Vec<&[i64]> = rows.iter().map(<[i64; 1]>::as_slice).collect();
        let views = RelicViews { large: &u, small: &[], targets: &w, references: None };
        let refused = relic_ranks(views, Some(&negatives(&rows)), &SUM, &single());
        assert_eq!(refused.err().unwrap().kind(), ErrorKind::Shape);
    }
}

#[test]
fn ranks_do_not_change_a_bit() {
    let x: Vec<Array> = (90..95).map(|number| random(64, 8, number)).collect();
    let mut lists = Vec::new();
    (0..64i64).for_each(|i| lists.extend([(i + 1) % 64, (i + 7) % 64, (i + 40) % 64]));
    let lists = Array::from_slice(&lists, &[64, 3], &device()).unwrap();
    for listed in [false, true] {
        let inputs: Vec<Array> = x.iter().chain([&lists]).cloned().collect();
        expect_same_bits("relic", &inputs, &|x, comm| {
            let u: Vec<Tensor> = x[..3].iter().map(|x| Tensor::leaf(x.clone())).collect();
            let w: Vec<Tensor> = x[3..5].iter().map(|x| Tensor::constant(x.clone())).collect();
            let views = RelicViews { large: &u[..2], small: &u[2..], targets: &w, references: None };
            let negatives = listed.then_some(&x[5]);
            Ok((relic_ranks(views, negatives, &Relic::default(), &comm)?.loss, local(u)))
        });
    }
}

/// Targets share one coordinate: what an anchor has there is added to all of its logits. A
/// coordinate that no target has keeps anchors at length 1.
#[test]
fn what_is_added_to_all_logits_of_an_anchor_changes_nothing() {
    let n = 5;
    let targets = [0.0, 1.0].map(|view| {
        let row = |i: usize| {
            let angle = 0.9 * i as f64 + 0.4 * view;
            [0.8 * Real::cos(angle), 0.8 * Real::sin(angle), 0.6, 0.0]
        };
        Tensor::leaf(array(&(0..n).flat_map(row).collect::<Vec<_>>(), &[n, 4]))
    });
    let at = |shift: f64| {
        let u = [0.0, 1.0, 2.0].map(|view| {
            let row = |i: usize| {
                let (angle, shared) = (1.3 * i as f64 + view, shift * (i as f64 - 2.0 + 0.5 * view));
                [0.5 * Real::cos(angle), 0.5 * Real::sin(angle), shared, (0.75 - shared * shared).sqrt()]
            };
            Tensor::leaf(array(&(0..n).flat_map(row).collect::<Vec<_>>(), &[n, 4]))
        });
        let relic = run(&u[..2], &u[2..], &targets, None, &SUM);
        [value(&relic.contrast), value(&relic.invariance)]
    };
    all_close(&at(0.25), &at(0.0));
    assert!(at(0.0)[1] > 1e-3, "views differ");
}
