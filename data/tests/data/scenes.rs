//! The procedural data set: determinism, labels, and that pixels alone do not give the class away.

use selfsame_data::scenes::{Domain, MAX_TILT, SceneSample, Scenes, ScenesConfig, Shape};
use selfsame_data::{Dataset, Split};

fn scenes(config: ScenesConfig) -> Scenes {
    Scenes::new(config, Split::Train).unwrap()
}

#[test]
fn the_same_seed_and_index_give_the_same_picture() {
    let config = ScenesConfig { seed: 4, ..Default::default() };
    let (a, b) = (scenes(config.clone()), scenes(config.clone()));
    for k in [0, 5, 4095] {
        assert_eq!(a.sample(k).unwrap(), b.sample(k).unwrap());
        assert_eq!(a.get(k).unwrap().image, a.sample(k).unwrap().image);
    }
    let other_seed = scenes(ScenesConfig { seed: 5, ..config.clone() });
    let test = Scenes::new(config, Split::Test).unwrap();
    for k in 0..20 {
        assert_ne!(a.get(k).unwrap().image, other_seed.get(k).unwrap().image);
        assert_ne!(a.get(k).unwrap().image, test.get(k).unwrap().image);
        assert_ne!(a.get(k).unwrap().image, a.get(k + 1).unwrap().image);
    }
    assert!(a.get(4096).is_err());
}

#[test]
fn every_ten_pictures_hold_every_class_once() {
    for split in [Split::Train, Split::Test] {
        let data = Scenes::new(ScenesConfig { train: 100, test: 100, ..Default::default() }, split).unwrap();
        let labels: Vec<u32> = (0..100).map(|k| data.get(k).unwrap().label.unwrap()).collect();
        for block in labels.chunks_exact(10) {
            let mut block = block.to_vec();
            block.sort_unstable();
            assert_eq!(block, (0..10).collect::<Vec<_>>());
        }
        assert_ne!(labels[..10], labels[10..20]);
    }
}

fn check_labels(sample: &SceneSample, size: usize) {
    let mut present = [false; 10];
    let mut taken = vec![false; size * size];
    for object in &sample.objects {
        let Some(bounds) = object.bounds else {
            assert!(object.mask.iter().all(|&pixel| !pixel));
            continue;
        };
        present[object.shape.label() as usize] = true;
        let (mut rows, mut columns) = (vec![false; size], vec![false; size]);
        for (k, _) in object.mask.iter().enumerate().filter(|(_, pixel)| **pixel) {
            (rows[k / size], columns[k % size]) = (true, true);
            assert!(!taken[k], "two objects own pixel {k}");
            taken[k] = true;
        }
        let span = |seen: &[bool]| {
            let first = seen.iter().position(|&s| s).unwrap();
            (first, seen.iter().rposition(|&s| s).unwrap() + 1)
        };
        assert_eq!(((bounds.x0, bounds.x1), (bounds.y0, bounds.y1)), (span(&columns), span(&rows)));
        assert!(object.rotation.abs() <= MAX_TILT);
    }
    assert_eq!(present, sample.present);
    assert_eq!(sample.objects.last().unwrap().shape.label(), sample.label);
    assert!(present[sample.label as usize]);
}

#[test]
fn masks_boxes_and_labels_agree() {
    for (size, objects) in [(32, (1, 1)), (48, (1, 4)), (64, (5, 8))] {
        let data = scenes(ScenesConfig { size, objects, ..Default::default() });
        for k in 0..40 {
            let sample = data.sample(k).unwrap();
            assert!((objects.0..=objects.1).contains(&(sample.objects.len() as u32)));
            check_labels(&sample, size);
        }
    }
}

#[test]
fn masks_have_the_area_of_their_silhouette() {
    // A disc of circumradius r has drawn radius 0.82 r; a square side 1.4 r.
    let data = scenes(ScenesConfig { size: 128, train: 200, ..Default::default() });
    for k in 0..200 {
        let sample = data.sample(k).unwrap();
        let radius = sample.scene.dominant().radius * 128.0;
        let area = match sample.scene.dominant().shape {
            Shape::Disc => std::f32::consts::PI * (0.82 * radius) * (0.82 * radius),
            Shape::Square => (1.4 * radius) * (1.4 * radius),
            _ => continue,
        };
        let pixels = sample.objects[0].mask.iter().filter(|&&pixel| pixel).count() as f32;
        assert!((pixels - area).abs() < 0.02 * area, "{pixels} pixels for an area of {area}");
    }
}

#[test]
fn a_track_starts_at_its_picture_and_moves_the_object_alone() {
    let data = scenes(ScenesConfig { size: 64, ..Default::default() });
    for k in 0..10 {
        let still = data.sample(k).unwrap();
        assert_eq!(still, data.track(k, 0).unwrap());
        let mut last = still.objects[0].centre;
        for frame in 1..40 {
            let sample = data.track(k, frame).unwrap();
            check_labels(&sample, 64);
            assert_eq!(sample.scene, still.scene);
            let centre = sample.objects[0].centre;
            assert!((centre[0] - last[0]).abs() <= 0.031 && (centre[1] - last[1]).abs() <= 0.031);
            last = centre;
        }
        assert_ne!(data.track(k, 7).unwrap().objects[0].centre, still.objects[0].centre);
    }
}

#[test]
fn domains_redraw_the_same_scene() {
    let in_domain = |domain| scenes(ScenesConfig { domain, ..Default::default() });
    for k in 0..20 {
        let samples = Domain::ALL.map(|domain| in_domain(domain).sample(k).unwrap());
        for (a, sample) in samples.iter().enumerate() {
            assert_eq!(sample.scene, samples[0].scene);
            assert_eq!(sample.objects, samples[0].objects);
            assert!(samples[..a].iter().all(|other| other.image != sample.image));
        }
        let is_grey = |sample: &SceneSample| sample.image.bytes.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]);
        assert_eq!(samples.each_ref().map(is_grey), [false, true, false, true]);
    }
}

/// Accuracy of k nearest neighbours by Euclidean distance between raw pixels, each neighbour one vote.
fn pixel_knn(train: &Scenes, test: &Scenes, k: usize) -> f64 {
    let load = |data: &Scenes| -> Vec<(Vec<f32>, u32)> {
        let pixels = |bytes: Vec<u8>| bytes.into_iter().map(f32::from).collect();
        (0..data.len()).map(|k| data.get(k).unwrap()).map(|s| (pixels(s.image.bytes), s.label.unwrap())).collect()
    };
    let (train, test) = (load(train), load(test));
    let right = test.iter().filter(|(query, label)| {
        let mut near: Vec<(f32, u32)> = train
            .iter()
            .map(|(image, label)| {
                let mut lanes = [0.0f32; 8];
                for (a, b) in query.chunks_exact(8).zip(image.chunks_exact(8)) {
                    for lane in 0..8 {
                        lanes[lane] += (a[lane] - b[lane]) * (a[lane] - b[lane]);
                    }
                }
                (lanes.iter().sum(), *label)
            })
            .collect();
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let mut votes = [0usize; 10];
        near[..k].iter().for_each(|(_, label)| votes[*label as usize] += 1);
        // Ties go to the smaller label.
        let most = *votes.iter().max().unwrap();
        votes.iter().position(|&v| v == most).unwrap() as u32 == *label
    });
    right.count() as f64 / test.len() as f64
}

#[test]
fn raw_pixels_do_not_give_the_class_away() {
    let config = ScenesConfig { train: 2000, test: 500, ..Default::default() };
    let (train, test) = (Scenes::new(config.clone(), Split::Train).unwrap(), Scenes::new(config, Split::Test).unwrap());
    let accuracy = pixel_knn(&train, &test, 20);
    println!("raw-pixel kNN on scenes: {:.1} %", 100.0 * accuracy);
    assert!(accuracy < 0.45, "raw-pixel kNN reaches {accuracy}");
}
