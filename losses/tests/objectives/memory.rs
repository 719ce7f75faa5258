//! Queue, memory bank and k-means: what stays and what goes, and that the bits depend on neither threads nor ranks.

use super::common::{array, device, labels, random};
use selfsame_autograd::{Param, Role};
use selfsame_engine::{Array, Comm, DType, Device, ErrorKind, ops};
use selfsame_losses::state::{Clustering, Empty, KMeans, MemoryBank, Metric, NewValues, Queue, Start, k_means};

fn f64s(x: &Array) -> Vec<f64> {
    x.to_vec().unwrap()
}

fn commit(values: NewValues) {
    values.into_iter().for_each(|(buffer, value)| buffer.set(value).unwrap());
}

fn norms(x: &Array) -> Vec<f64> {
    f64s(x).chunks(x.shape()[1]).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt()).collect()
}

fn queue(length: usize) -> Queue {
    Queue::new("queue", length, 3, DType::F64, 1, &device()).unwrap()
}

#[test]
fn a_queue_starts_with_unit_vectors_of_its_path() {
    let keys = queue(12).keys();
    assert!(norms(keys.array()).iter().all(|norm| (norm - 1.0).abs() < 1e-14));
    let other = Queue::new("other", 12, 3, DType::F64, 1, &device()).unwrap();
    assert_eq!(f64s(keys.array()), f64s(queue(12).keys().array()));
    assert_ne!(f64s(keys.array()), f64s(other.keys().array()));
}

#[test]
fn the_newest_keys_are_just_before_the_pointer_and_the_oldest_go_first() {
    let queue = queue(12).with_images().unwrap();
    let first = f64s(queue.keys().array());
    assert_eq!(queue.images().unwrap().to_vec::<i64>().unwrap(), [Queue::NO_IMAGE; 12]);
    for step in 0..7 {
        let keys = random(4, 3, step);
        let images = labels(&[4, 5, 6, 7].map(|i| i + 10 * step as i64));
        let before = (f64s(queue.keys().array()), queue.pointer().unwrap());
        let values = queue.enqueue(&keys, Some(&images), &Comm::single()).unwrap();
        assert_eq!((f64s(queue.keys().array()), queue.pointer().unwrap()), before, "nothing is written before the end");
        commit(values);
        let pointer = queue.pointer().unwrap();
        assert_eq!(pointer, 4 * (step as usize + 1) % 12);
        let newest = if pointer == 0 { 8..12 } else { pointer - 4..pointer };
        let rows = queue.keys().array().slice(0, newest.start, newest.end).unwrap();
        assert_eq!(f64s(&rows), f64s(&keys));
        let kept = queue.images().unwrap().slice(0, newest.start, newest.end).unwrap();
        assert_eq!(kept.to_vec::<i64>().unwrap(), images.to_vec::<i64>().unwrap());
        let replaced = f64s(queue.keys().array()).iter().zip(&first).filter(|(new, old)| new != old).count();
        assert_eq!(replaced, 12 * (step as usize + 1).min(3), "one batch of first values goes in each step");
    }
}

#[test]
fn a_batch_of_another_size_goes_on_around_the_end() {
    let queue = queue(12);
    for (rows, number) in [(4, 0), (4, 1), (6, 2)] {
        commit(queue.enqueue(&random(rows, 3, number), None, &Comm::single()).unwrap());
    }
    assert_eq!(queue.pointer().unwrap(), 2);
    let (keys, newest, older) = (f64s(queue.keys().array()), f64s(&random(6, 3, 2)), f64s(&random(4, 3, 0)));
    assert_eq!(keys[24..], newest[..12]);
    assert_eq!(keys[..6], newest[12..]);
    assert_eq!(keys[6..12], older[6..]);
}

#[test]
fn ranks_enqueue_in_rank_order() {
    let keys = random(4, 3, 5);
    let whole = queue(8);
    commit(whole.enqueue(&keys, None, &Comm::single()).unwrap());
    let of_ranks: Vec<Vec<f64>> = std::thread::scope(|scope| {
        let run = |comm: Comm| {
            let queue = queue(8);
            let share = keys.slice(0, 2 * comm.rank(), 2 * comm.rank() + 2).unwrap();
            commit(queue.enqueue(&share, None, &comm).unwrap());
            f64s(queue.keys().array())
        };
        let threads: Vec<_> =
            Comm::emulated(2).unwrap().into_iter().map(|comm| scope.spawn(move || run(comm))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for keys in of_ranks {
        assert_eq!(keys, f64s(whole.keys().array()));
    }
}

#[test]
fn a_batch_that_does_not_divide_the_queue_is_refused() {
    let single = Comm::single();
    let error = queue(12).enqueue(&random(5, 3, 0), None, &single).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert_eq!(queue(12).enqueue(&random(4, 2, 0), None, &single).unwrap_err().kind(), ErrorKind::Shape);
    let images = labels(&[1; 4]);
    assert_eq!(queue(12).enqueue(&random(4, 3, 0), Some(&images), &single).unwrap_err().kind(), ErrorKind::Shape);
    assert!(queue(0).enqueue(&random(4, 3, 0), None, &single).unwrap().is_empty());
}

#[test]
fn buffers_are_shown_at_their_paths() {
    let mut seen = Vec::new();
    queue(4).with_images().unwrap().visit(&mut |path: &str, p: &Param| seen.push((path.to_string(), p.role())));
    let expected = ["queue.keys", "queue.images", "queue.pointer"].map(|path| (path.to_string(), Role::Buffer));
    assert_eq!(seen, expected);
}

fn bank() -> MemoryBank {
    MemoryBank::new("bank", 10, 3, DType::F64, 1, &device()).unwrap()
}

#[test]
fn a_bank_moves_the_rows_of_the_batch_alone() {
    let bank = bank();
    let before = f64s(bank.rows().array());
    assert!(norms(bank.rows().array()).iter().all(|norm| (norm - 1.0).abs() < 1e-14));
    let v = ops::l2_normalize(&random(3, 3, 6), 1e-12).unwrap().0;
    commit(bank.update(&labels(&[7, 0, 4]), &v, 0.5, &Comm::single()).unwrap());
    let after = f64s(bank.rows().array());
    let v = f64s(&v);
    for image in 0..10 {
        let (old, new) = (&before[3 * image..3 * image + 3], &after[3 * image..3 * image + 3]);
        let Some(at) = [7, 0, 4].iter().position(|changed| *changed == image) else {
            assert_eq!(old, new);
            continue;
        };
        let mixed: Vec<f64> = (0..3).map(|i| 0.5 * old[i] + 0.5 * v[3 * at + i]).collect();
        let length = mixed.iter().map(|x| x * x).sum::<f64>().sqrt();
        (0..3).for_each(|i| assert!((new[i] - mixed[i] / length).abs() < 1e-14));
    }
}

#[test]
fn the_last_vector_of_an_image_that_is_there_twice_counts() {
    let (twice, once) = (bank(), bank());
    let v = random(3, 3, 7);
    commit(twice.update(&labels(&[2, 5, 2]), &v, 0.25, &Comm::single()).unwrap());
    commit(once.update(&labels(&[5, 2]), &v.slice(0, 1, 3).unwrap(), 0.25, &Comm::single()).unwrap());
    assert_eq!(f64s(twice.rows().array()), f64s(once.rows().array()));
    let refused = |images: &[i64], momentum| {
        bank().update(&labels(images), &random(images.len(), 3, 0), momentum, &Comm::single()).unwrap_err().kind()
    };
    assert_eq!(refused(&[10], 0.5), ErrorKind::Shape);
    assert_eq!(refused(&[-1], 0.5), ErrorKind::Shape);
    assert_eq!(refused(&[1], 1.5), ErrorKind::Config);
}

/// Rows around `clusters` far centres, in turn.
fn blobs(rows: usize, d: usize, clusters: usize) -> Array {
    let (noise, centres) = (f64s(&random(rows, d, 10)), f64s(&random(clusters, d, 11)));
    let values: Vec<f64> =
        (0..rows * d).map(|i| 8.0 * centres[(i / d) % clusters * d + i % d] + 0.1 * noise[i]).collect();
    array(&values, &[rows, d])
}

fn assignments(found: &Clustering) -> Vec<i64> {
    found.assignments.to_vec().unwrap()
}

#[test]
fn clusters_that_lie_apart_are_found() {
    let x = blobs(60, 5, 4);
    for metric in [Metric::Euclidean, Metric::Spherical] {
        let o = KMeans { metric, start: Start::PlusPlus, restarts: 5, ..KMeans::new(4) };
        let found = k_means(&x, &o, 3, 0).unwrap();
        let of = assignments(&found);
        assert_eq!(found.counts, [15; 4]);
        assert!((4..60).all(|row| of[row] == of[row - 4]), "{metric:?}: {of:?}");
    }
}

/// Sum over the rows of the square of the distance from the mean of their cluster, in scalar loops.
fn scatter(x: &Array, of: &[i64], clusters: usize) -> f64 {
    let ([_, d], x) = (x.dims().unwrap(), f64s(x));
    let mut sum = 0.0;
    for cluster in 0..clusters as i64 {
        let rows: Vec<&[f64]> = x.chunks(d).zip(of).filter(|(_, c)| **c == cluster).map(|(row, _)| row).collect();
        for i in 0..d {
            let mean = rows.iter().map(|row| row[i]).sum::<f64>() / rows.len().max(1) as f64;
            sum += rows.iter().map(|row| (row[i] - mean).powi(2)).sum::<f64>();
        }
    }
    sum
}

#[test]
fn the_objective_never_rises() {
    let x = random(200, 4, 12);
    for metric in [Metric::Euclidean, Metric::Spherical] {
        for empty in [Empty::Keep, Empty::Split] {
            for start in [Start::RandomRows, Start::PlusPlus] {
                for round in 0..5 {
                    let o = KMeans { metric, empty, start, ..KMeans::new(40) };
                    let found = k_means(&x, &o, 4, round).unwrap();
                    let falls = found.objective.windows(2).all(|w| w[1] <= w[0] * (1.0 + 1e-12));
                    assert!(falls && found.objective.len() > 2, "{metric:?} {empty:?}: {:?}", found.objective);
                    let changed = found.objective.last() < found.objective.first();
                    assert!(changed, "something is found");
                }
            }
        }
    }
    let o = KMeans { iterations: 100, ..KMeans::new(7) };
    let found = k_means(&x, &o, 4, 0).unwrap();
    let at_rest = scatter(&x, &assignments(&found), 7) / 200.0;
    assert!((found.objective.last().unwrap() - at_rest).abs() < 1e-12, "centroids are the means of their rows");
}

#[test]
fn the_first_iterations_of_a_long_run_are_those_of_a_short_one() {
    let x = random(150, 4, 13);
    let run = |iterations| k_means(&x, &KMeans { iterations, ..KMeans::new(9) }, 5, 2).unwrap();
    let (short, long) = (run(3), run(8));
    assert_eq!(short.objective, long.objective[..4]);
    assert_eq!(run(0).objective, long.objective[..1]);
}

#[test]
fn empty_clusters_are_split_off_or_stay() {
    // All rows are equal, and go to the lowest cluster; the second and third are its copies.
    let equal = array(&[1.0; 12], &[6, 2]);
    let run = |empty| k_means(&equal, &KMeans { empty, ..KMeans::new(3) }, 6, 0).unwrap();
    let (kept, split) = (run(Empty::Keep), run(Empty::Split));
    assert_eq!(kept.counts, [6, 0, 0]);
    assert_eq!(f64s(&kept.centroids), [1.0; 6]);
    let step = 1.0 / 1024.0;
    let beside = [1.0, 1.0, 1.0 + step, 1.0 - step, 1.0 + 2.0 * step, 1.0 - 2.0 * step];
    assert_eq!(f64s(&split.centroids), beside);
    // Two clusters, of which a start in one row leaves the second empty, take half of a line each.
    let line = array(&[1.0, 1.0, 1.0, 1.0, 1.1, 1.2, 1.3, 1.4], &[8, 1]);
    let found = (0..20).map(|round| k_means(&line, &KMeans::new(2), 6, round).unwrap());
    assert!(found.into_iter().all(|found| !found.counts.contains(&0)));
}

#[test]
fn one_cluster_has_the_mean_and_as_many_as_rows_have_the_rows() {
    let x = random(20, 3, 14);
    let one = k_means(&x, &KMeans::new(1), 7, 0).unwrap();
    let mean = f64s(&ops::mean(&x, &[0], false).unwrap());
    f64s(&one.centroids).iter().zip(mean).for_each(|(a, b)| assert!((a - b).abs() < 1e-14));
    for start in [Start::RandomRows, Start::PlusPlus] {
        let all = k_means(&x, &KMeans { start, ..KMeans::new(20) }, 7, 0).unwrap();
        assert_eq!(all.counts, [1; 20], "initial rows are distinct");
        assert_eq!(*all.objective.last().unwrap(), 0.0);
    }
    let equal = Array::full(0.5, &[6, 3], &device()).unwrap();
    let o = KMeans { start: Start::PlusPlus, ..KMeans::new(3) };
    assert_eq!(*k_means(&equal, &o, 7, 0).unwrap().objective.last().unwrap(), 0.0);
}

#[test]
fn more_runs_are_never_worse_and_each_round_is_another_draw() {
    let x = random(120, 3, 15);
    let run = |restarts, round| k_means(&x, &KMeans { restarts, ..KMeans::new(12) }, 8, round).unwrap();
    let last = |found: &Clustering| *found.objective.last().unwrap();
    assert!(last(&run(6, 0)) <= last(&run(1, 0)));
    assert_ne!(assignments(&run(1, 0)), assignments(&run(1, 1)));
}

#[test]
fn centroids_of_some_rows_serve_all() {
    let x = blobs(90, 4, 3);
    let o = KMeans { rows_per_cluster: 10, start: Start::PlusPlus, restarts: 3, ..KMeans::new(3) };
    let found = k_means(&x, &o, 9, 0).unwrap();
    assert_eq!(found.counts, [30; 3]);
    assert_eq!(found.assignments.shape(), [90]);
}

#[test]
fn bits_do_not_depend_on_threads() {
    let x = random(500, 16, 16);
    for metric in [Metric::Euclidean, Metric::Spherical] {
        for dtype in [DType::F32, DType::F64] {
            let o = KMeans { metric, start: Start::PlusPlus, restarts: 2, ..KMeans::new(30) };
            let run = |threads| {
                let device = Device::cpu_with(threads).unwrap();
                let x = ops::cast(&x, dtype).unwrap().to_device(&device).unwrap();
                let found = k_means(&x, &o, 10, 0).unwrap();
                let centroids = f64s(&ops::cast(&found.centroids, DType::F64).unwrap());
                (assignments(&found), centroids, found.objective)
            };
            assert!(run(1) == run(3), "{metric:?} {dtype}");
        }
    }
}

#[test]
fn what_cannot_be_clustered_is_refused() {
    let kind = |x: &Array, o: &KMeans| k_means(x, o, 0, 0).unwrap_err().kind();
    let x = random(5, 2, 0);
    assert_eq!(kind(&x, &KMeans::new(6)), ErrorKind::Shape);
    assert_eq!(kind(&x, &KMeans::new(0)), ErrorKind::Shape);
    assert_eq!(kind(&x, &KMeans { restarts: 0, ..KMeans::new(2) }), ErrorKind::Config);
    let broken = array(&[0.0, 1.0, f64::NAN, 2.0], &[2, 2]);
    assert_eq!(kind(&broken, &KMeans::new(1)), ErrorKind::NonFinite);
}
