//! Losses on clusters and neighbours: ProtoNCE, instance recognition, local aggregation, SCAN, self-labelling.

use super::common::{
    all_close, array, axes, close, device, expect_same_bits, gradient, gradients, labels, local, random, value,
};
use selfsame_autograd::Tensor;
use selfsame_engine::{Array, DType, ErrorKind, ops};
use selfsame_kernels::math::Real;
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_losses::proto_nce::{Prototypes, concentrations, draw_negatives};
use selfsame_losses::state::Clustering;
use selfsame_losses::{
    InfoNce, InstanceRecognition, LocalAggregation, ProtoNce, Scan, SelfLabel, info_nce, instance_recognition,
    instance_recognition_ranks, local_aggregation, local_aggregation_ranks, proto_nce, proto_nce_ranks, scan,
    scan_ranks, self_label, self_label_ranks,
};

fn leaf(rows: usize, d: usize, number: u64) -> Tensor {
    Tensor::leaf(random(rows, d, number))
}

fn prototypes(centroids: Array, phi: &[f64]) -> Prototypes {
    Prototypes { centroids: Tensor::leaf(centroids), concentrations: array(phi, &[phi.len()]) }
}

#[test]
fn one_query_without_negatives_has_nothing_to_tell_apart() {
    let (q, p) = (leaf(1, 4, 0), prototypes(random(3, 4, 1), &[0.2, 0.3, 0.4]));
    let loss = proto_nce(&q, &p, &labels(&[1]), &labels(&[]), &ProtoNce::default()).unwrap();
    assert_eq!(value(&loss), 0.0);
    assert!(gradient(&loss, &q).iter().all(|d| *d == 0.0));
}

#[test]
fn equal_prototypes_cost_the_logarithm_of_their_number() {
    let (q, equal) = (leaf(5, 4, 2), random(1, 4, 3).broadcast_to(&[9, 4]).unwrap());
    let p = prototypes(equal, &[0.3; 9]);
    let loss = proto_nce(&q, &p, &labels(&[0, 1, 2, 3, 4]), &labels(&[5, 6, 7]), &ProtoNce::default()).unwrap();
    close(value(&loss), Real::log(8.0));
}

#[test]
fn each_image_its_own_cluster_is_info_nce_against_a_bank() {
    let (q, bank, t) = (leaf(1, 4, 4), random(7, 4, 5), 0.2);
    let p = prototypes(bank.clone(), &[t; 7]);
    let found = proto_nce(&q, &p, &labels(&[3]), &labels(&[0, 1, 2, 4, 5, 6]), &ProtoNce::default()).unwrap();
    let others = ops::index_select(&bank, 0, &labels(&[0, 1, 2, 4, 5, 6])).unwrap();
    let key = Tensor::constant(bank.slice(0, 3, 4).unwrap());
    let plain = info_nce(&q, &key, &Tensor::constant(others), &InfoNce { temperature: t }).unwrap();
    close(value(&found), value(&plain));
    let grads = found.backward().unwrap();
    all_close(&grads.get(&q).unwrap().unwrap().to_vec::<f64>().unwrap(), &gradient(&plain, &q));
    assert!(grads.get(&p.centroids).unwrap().is_none(), "prototypes are constants");
}

#[test]
fn each_column_has_the_temperature_of_its_prototype() {
    // q·c is 1 and 0; the other prototype, of three times the temperature, at cosine 0.6.
    let q = Tensor::leaf(array(&[1.0, 0.0], &[1, 2]));
    let p = prototypes(array(&[1.0, 0.0, 0.6, 0.8], &[2, 2]), &[0.5, 1.5]);
    let loss = proto_nce(&q, &p, &labels(&[0]), &labels(&[1]), &ProtoNce::default()).unwrap();
    close(value(&loss), Real::log(1.0 + Real::exp(0.6 / 1.5 - 1.0 / 0.5)));
}

#[test]
fn the_own_prototype_of_another_query_is_a_negative_unless_copies_are_left_out() {
    let (q, p) = (leaf(2, 4, 6), prototypes(random(3, 4, 7), &[0.3; 3]));
    let run = |unique| value(&proto_nce(&q, &p, &labels(&[1, 1]), &labels(&[]), &ProtoNce { unique }).unwrap());
    close(run(false), Real::log(2.0));
    assert_eq!(run(true), 0.0);
}

#[test]
fn negatives_are_clusters_of_nobody_in_the_batch() {
    let stream = |step| Key::new(1, Purpose::Check).stream(step, 0, 0);
    let drawn = draw_negatives(&labels(&[3, 5, 3]), 10, 8, stream(0)).unwrap().to_vec::<i64>().unwrap();
    let mut sorted = drawn.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, [0, 1, 2, 4, 6, 7, 8, 9]);
    let some = |step| draw_negatives(&labels(&[3]), 100, 8, stream(step)).unwrap().to_vec::<i64>().unwrap();
    assert_ne!(some(0), some(1));
    assert_eq!(draw_negatives(&labels(&[3, 5, 3]), 10, 9, stream(0)).unwrap_err().kind(), ErrorKind::Config);
}

/// Clusters of `sizes` rows around the points of a line, each row at distance `spreads` from its centroid.
fn on_a_line(sizes: &[usize], spreads: &[f64]) -> (Array, Clustering) {
    let (mut values, mut assigned) = (Vec::new(), Vec::new());
    for (cluster, (size, spread)) in sizes.iter().zip(spreads).enumerate() {
        for row in 0..*size {
            values.push(10.0 * cluster as f64 + if row % 2 == 0 { *spread } else { -spread });
            assigned.push(cluster as i64);
        }
    }
    let centroids: Vec<f64> = (0..sizes.len()).map(|cluster| 10.0 * cluster as f64).collect();
    let found = Clustering {
        centroids: array(&centroids, &[sizes.len(), 1]),
        assignments: labels(&assigned),
        counts: sizes.to_vec(),
        objective: vec![0.0],
    };
    (array(&values, &[values.len(), 1]), found)
}

fn phi(sizes: &[usize], spreads: &[f64]) -> Vec<f64> {
    let (v, found) = on_a_line(sizes, spreads);
    concentrations(&v, &found, 0.2, 10.0).unwrap().to_vec().unwrap()
}

#[test]
fn concentrations_have_the_temperature_as_mean_and_tell_spread_and_size() {
    assert_eq!(phi(&[6; 5], &[0.5; 5]), [0.2; 5], "equal sizes and spreads");
    let (sizes, spreads) = ([4, 6, 8, 10, 30, 4, 4, 50], [0.1, 0.4, 0.3, 1.0, 0.7, 0.9, 0.2, 0.6]);
    close(phi(&sizes, &spreads).iter().sum::<f64>() / 8.0, 0.2);
    // Two of each, so that the percentiles between which values are clamped are the values themselves.
    let by_spread = phi(&[20; 4], &[0.1, 0.1, 0.3, 0.3]);
    close(by_spread[2] / by_spread[0], 3.0);
    let by_size = phi(&[10, 10, 100, 100], &[0.5; 4]);
    close(by_size[2] / by_size[0], Real::log(20.0) / Real::log(110.0));
    assert!((by_size[2] / by_size[0] - 0.637).abs() < 5e-4);
}

#[test]
fn lone_images_have_the_largest_concentration_and_extremes_are_clamped() {
    let lone = phi(&[10, 10, 1, 10, 10], &[0.1, 0.2, 0.0, 0.2, 0.2]);
    close(lone[2], lone[1]);
    assert!(lone[0] < lone[1]);
    // Ten clusters of distances 1 to 10: percentiles at the places 0.9 and 8.1 between 0 and 9.
    let spread: Vec<f64> = (1..=10).map(f64::from).collect();
    let found = phi(&[4; 10], &spread);
    close(found[0] / found[4], 1.9 / 5.0);
    close(found[9] / found[4], 9.1 / 5.0);
    assert_eq!(phi(&[4; 3], &[0.0; 3]), [0.2; 3], "rows at their centroids");
}

/// Row i of the bank for image i; the clusters of all images in each clustering.
fn aggregation(v: &Tensor, bank: &Tensor, images: &[i64], clusterings: &[&[i64]], background: usize) -> f64 {
    value(&aggregated(v, bank, images, clusterings, background))
}

fn aggregated(v: &Tensor, bank: &Tensor, images: &[i64], clusterings: &[&[i64]], background: usize) -> Tensor {
    let all = Array::from_slice(&clusterings.concat(), &[clusterings.len(), bank.shape()[0]], &device()).unwrap();
    let o = LocalAggregation { background, floor: 0.0, ..LocalAggregation::default() };
    local_aggregation(v, bank, &labels(images), &all, &o).unwrap().loss
}

#[test]
fn where_all_are_close_there_is_no_loss() {
    let (v, bank) = (leaf(3, 4, 8), leaf(20, 4, 9));
    let loss = aggregated(&v, &bank, &[0, 5, 7], &[&[4; 20]], 6);
    assert!(value(&loss).abs() < 1e-15);
    let grads = loss.backward().unwrap();
    let slopes = grads.get(&v).unwrap().unwrap().to_vec::<f64>().unwrap();
    assert!(slopes.iter().all(|d| d.abs() < 1e-14));
    assert!(grads.get(&bank).unwrap().is_none(), "the bank is a constant");
}

#[test]
fn own_clusters_over_the_whole_bank_are_the_non_parametric_softmax() {
    let (v, bank, images) = (leaf(3, 4, 10), leaf(20, 4, 11), [0, 5, 7]);
    let own: Vec<i64> = (0..20).collect();
    let plain = instance_recognition(&v, &bank, &labels(&images), &InstanceRecognition::default()).unwrap();
    let (plain, slopes) = (value(&plain), gradient(&plain, &v));
    for clusterings in [vec![], vec![&own[..]]] {
        let found = aggregated(&v, &bank, &images, &clusterings, 20);
        close(value(&found), plain);
        all_close(&gradient(&found, &v), &slopes);
    }
}

#[test]
fn more_clusterings_never_raise_the_loss_of_an_image() {
    let bank = leaf(30, 4, 12);
    let clusterings: Vec<Vec<i64>> = (0..4).map(|h| (0..30).map(|i| (i * (h + 3) / 5) % 7).collect()).collect();
    for image in 0..5i64 {
        let v = leaf(1, 4, 13 + image as u64);
        let runs = |h: usize| clusterings[..h].iter().map(Vec::as_slice).collect::<Vec<_>>();
        // All 30, so that no image is far from its clusters.
        let losses: Vec<f64> = (1..=4).map(|h| aggregation(&v, &bank, &[image], &runs(h), 30)).collect();
        assert!(losses.windows(2).all(|w| w[1] <= w[0] + 1e-12), "{losses:?}");
        assert!(losses.iter().all(|loss| *loss >= -1e-12));
    }
}

#[test]
fn equally_near_neighbours_cost_the_logarithm_of_their_number() {
    // Every row is at cosine 0 but for the first axis, along which none lies.
    let v = Tensor::leaf(array(&[1.0, 0.0, 0.0, 0.0], &[1, 4]));
    let bank = Tensor::constant(ops::concat(&[&axes(4, 4, 1.0).slice(0, 1, 4).unwrap(); 2], 0).unwrap());
    close(aggregation(&v, &bank, &[2], &[], 5), Real::log(5.0));
}

#[test]
fn images_far_from_their_clusters_are_counted_and_cost_the_floor() {
    let v = Tensor::leaf(array(&[1.0, 0.0], &[1, 2]));
    let bank = Tensor::constant(array(&[1.0, 0.0, 0.8, 0.6, -1.0, 0.0], &[3, 2]));
    let own = Array::zeros(&[0, 3], DType::I64, &device()).unwrap();
    let o = LocalAggregation { background: 2, ..LocalAggregation::default() };
    let found = local_aggregation(&v, &bank, &labels(&[2]), &own, &o).unwrap();
    assert_eq!((found.stranded, found.close), (1, 0.0));
    close(value(&found.loss), -Real::log(1e-7));
    assert!(gradient(&found.loss, &v).iter().all(|d| *d == 0.0));
    let near = local_aggregation(&v, &bank, &labels(&[1]), &own, &o).unwrap();
    assert_eq!((near.stranded, near.close), (0, 1.0));
    let wrong = local_aggregation(&v, &bank, &labels(&[3]), &own, &o).err().unwrap();
    assert_eq!(wrong.kind(), ErrorKind::Shape);
}

#[test]
fn a_common_rotation_changes_no_neighbours() {
    let (v, bank) = (random(4, 2, 20), random(15, 2, 21));
    let turn = array(&[0.6, 0.8, -0.8, 0.6], &[2, 2]);
    let turned = |x: &Array| Tensor::leaf(ops::matmul(x, &turn).unwrap());
    let clusters: Vec<i64> = (0..15).map(|i| i % 4).collect();
    let run = |v: &Tensor, bank: &Tensor| aggregation(v, bank, &[1, 4, 8, 9], &[&clusters], 15);
    let (plain, other) = (run(&Tensor::leaf(v.clone()), &Tensor::leaf(bank.clone())), run(&turned(&v), &turned(&bank)));
    assert!((plain - other).abs() < 1e-9);
}

fn scanned(anchors: &Array, neighbours: &Array, entropy_weight: f64) -> f64 {
    let (a, b) = (Tensor::leaf(anchors.clone()), Tensor::leaf(neighbours.clone()));
    value(&scan(&a, &b, &Scan { entropy_weight }).unwrap().loss)
}

#[test]
fn scan_has_its_known_values() {
    let c = 10;
    let uniform = Array::full(0.3, &[20, c], &device()).unwrap();
    close(scanned(&uniform, &uniform, 5.0), -4.0 * Real::log(10.0));
    // Logits of 1000 are certain: the other probabilities underflow.
    let certain = axes(20, c, 1000.0);
    close(scanned(&certain, &certain, 5.0), -5.0 * Real::log(10.0));
    let collapsed = axes(1, c, 1000.0).broadcast_to(&[20, c]).unwrap();
    assert_eq!(scanned(&collapsed, &collapsed, 5.0), 0.0);
    for number in 0..20 {
        let (a, b) = (random(20, c, 30 + number), random(20, c, 60 + number));
        assert!(scanned(&a, &b, 5.0) > -5.0 * Real::log(10.0));
    }
}

#[test]
fn scan_knows_no_names_of_clusters() {
    let (a, b) = (random(8, 4, 22), random(8, 4, 23));
    let named = |x: &Array| ops::index_select(x, 1, &labels(&[2, 0, 3, 1])).unwrap();
    close(scanned(&named(&a), &named(&b), 5.0), scanned(&a, &b, 5.0));
}

#[test]
fn equal_certain_predictions_are_at_rest() {
    let certain = axes(8, 4, 1000.0);
    let (a, b) = (Tensor::leaf(certain.clone()), Tensor::leaf(certain));
    let loss = scan(&a, &b, &Scan { entropy_weight: 0.0 }).unwrap().loss;
    let [da, db] = gradients(&loss, [&a, &b]);
    assert!(da.iter().chain(&db).all(|d| *d == 0.0));
    // Both sides move otherwise.
    let (a, b) = (leaf(8, 4, 24), leaf(8, 4, 25));
    let [da, db] = gradients(&scan(&a, &b, &Scan::default()).unwrap().loss, [&a, &b]);
    assert!(da.iter().all(|d| d.abs() > 0.0) && db.iter().all(|d| d.abs() > 0.0));
}

fn labelled(weak: &Array, strong: &Tensor, threshold: f64, balance: bool) -> (Tensor, usize) {
    let found = self_label(&Tensor::leaf(weak.clone()), strong, &SelfLabel { threshold, balance }).unwrap();
    (found.loss, found.kept)
}

#[test]
fn nobody_is_surer_than_certain() {
    let (weak, strong) = (axes(6, 3, 1000.0), leaf(6, 3, 26));
    let (loss, kept) = labelled(&weak, &strong, 1.0, true);
    assert_eq!((value(&loss), kept), (0.0, 0));
    assert!(gradient(&loss, &strong).iter().all(|d| *d == 0.0));
}

#[test]
fn without_threshold_and_balance_it_is_cross_entropy() {
    let (weak, strong) = (random(6, 3, 27), leaf(6, 3, 28));
    let (loss, kept) = labelled(&weak, &strong, 0.0, false);
    let plain = strong.cross_entropy(&ops::argmax(&weak, 1).unwrap()).unwrap();
    assert_eq!(kept, 6);
    close(value(&loss), value(&plain));
    all_close(&gradient(&loss, &strong), &gradient(&plain, &strong));
}

#[test]
fn rare_classes_weigh_as_much_as_common_ones() {
    // Three images of class 0, one of class 1, and one in doubt.
    let weak = array(&[9.0, 0.0, 9.0, 0.0, 9.0, 0.0, 0.0, 9.0, 0.1, 0.0], &[5, 2]);
    let strong = Tensor::leaf(array(&[1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 2.0, 0.0, 5.0, 0.0], &[5, 2]));
    let (loss, kept) = labelled(&weak, &strong, 0.99, true);
    assert_eq!(kept, 4);
    let (common, rare) = (Real::log(1.0 + Real::exp(-1.0)), Real::log(1.0 + Real::exp(2.0)));
    close(value(&loss), (common + rare) / 2.0);
    assert_eq!(gradient(&loss, &strong)[8..], [0.0, 0.0]);
    let (plain, _) = labelled(&weak, &strong, 0.99, false);
    close(value(&plain), (3.0 * common + rare) / 4.0);
}

#[test]
fn ranks_share_clusters_and_neighbours() {
    let (a, b, bank) = (random(64, 8, 40), random(64, 8, 41), random(80, 8, 42));
    let images = labels(&(0..64).map(|i| i * 5 % 80).collect::<Vec<_>>());
    let assigned = labels(&(0..64).map(|i| i * i % 11).collect::<Vec<_>>());
    let clusterings = Array::from_slice(&(0..160).map(|i| i * 7 % 13).collect::<Vec<i64>>(), &[2, 80], &device());
    let clusterings = clusterings.unwrap();
    let shared = |x: &Array, like: &Array| ops::cast(x, like.dtype()).unwrap();
    for unique in [false, true] {
        expect_same_bits("proto_nce", &[a.clone(), assigned.clone()], &|x, comm| {
            let q = Tensor::leaf(x[0].clone());
            let p = Prototypes {
                centroids: Tensor::constant(shared(&bank.slice(0, 0, 20)?, &x[0])),
                concentrations: shared(&Array::full(0.3, &[20], &device())?, &x[0]),
            };
            let negatives = labels(&[11, 12, 15]);
            Ok((proto_nce_ranks(&q, &p, &x[1], &negatives, &ProtoNce { unique }, &comm)?, local([q])))
        });
    }
    expect_same_bits("instance_recognition", &[a.clone(), images.clone()], &|x, comm| {
        let (v, bank) = (Tensor::leaf(x[0].clone()), Tensor::constant(shared(&bank, &x[0])));
        let o = InstanceRecognition::default();
        Ok((instance_recognition_ranks(&v, &bank, &x[1], &o, &comm)?, local([v])))
    });
    expect_same_bits("local_aggregation", &[a.clone(), images], &|x, comm| {
        let (v, bank) = (Tensor::leaf(x[0].clone()), Tensor::constant(shared(&bank, &x[0])));
        let o = LocalAggregation { background: 20, ..LocalAggregation::default() };
        Ok((local_aggregation_ranks(&v, &bank, &x[1], &clusterings, &o, &comm)?.loss, local([v])))
    });
    expect_same_bits("scan", &[a.clone(), b.clone()], &|x, comm| {
        let (anchors, neighbours) = (Tensor::leaf(x[0].clone()), Tensor::leaf(x[1].clone()));
        let loss = scan_ranks(&anchors, &neighbours, &Scan::default(), &comm)?.loss;
        Ok((loss, local([anchors, neighbours])))
    });
    expect_same_bits("self_label", &[a, b], &|x, comm| {
        let (weak, strong) = (Tensor::constant(x[0].clone()), Tensor::leaf(x[1].clone()));
        let o = SelfLabel { threshold: 0.4, balance: true };
        Ok((self_label_ranks(&weak, &strong, &o, &comm)?.loss, local([strong])))
    });
}

#[test]
fn cosines_and_concentrations_at_half_leave_the_logits() {
    let q = Tensor::leaf(array(&[1.0, 0.0], &[1, 2]));
    let run = |share: f64| {
        let at_cosine = |c: f64| [share * c, (1.0 - share * c * share * c).sqrt()];
        let centroids = array(&[0.8, 0.4, -0.6].map(at_cosine).concat(), &[3, 2]);
        let p = prototypes(centroids, &[0.5, 0.7, 0.9].map(|phi| share * phi));
        value(&proto_nce(&q, &p, &labels(&[0]), &labels(&[1, 2]), &ProtoNce::default()).unwrap())
    };
    close(run(1.0), run(0.5));
}

/// A linear classifier of two noisy classes that learns from its own labels.
#[test]
fn ever_more_images_are_confident() {
    let noise = |number, size| ops::scale(random(40, 2, number), size).unwrap();
    let weak = ops::add(&axes(40, 2, 1.0), &noise(80, 0.3)).unwrap();
    let strong = Tensor::constant(ops::add(&weak, &noise(81, 0.2)).unwrap());
    let (mut weight, mut kept) = (axes(2, 2, 1.5), Vec::new());
    for _ in 0..20 {
        let w = Tensor::leaf(weight.clone());
        let logits = ops::matmul(&weak, &weight).unwrap();
        let (loss, confident) = labelled(&logits, &strong.matmul(&w).unwrap(), 0.9, true);
        kept.push(confident);
        weight = ops::add_scaled(weight, -1.0, &array(&gradient(&loss, &w), &[2, 2])).unwrap();
    }
    assert!(kept.windows(2).all(|w| w[0] <= w[1]) && kept[0] > 0 && kept[19] >= 2 * kept[0], "{kept:?}");
}
