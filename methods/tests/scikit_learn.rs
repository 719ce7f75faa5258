//! The protocols against scikit-learn's numbers on the same features, as `benches/peers/protocols.py` recorded them.

use selfsame_engine::{Array, Device};
use selfsame_losses::state::{KMeans, Start, k_means};
use selfsame_methods::eval::clustering::Agreement;
use selfsame_methods::eval::features::Features;
use selfsame_methods::eval::knn::{Knn, classify};
use selfsame_methods::eval::logistic::{Logistic, logistic_regression};
use serde_json::Value;

fn recorded() -> Value {
    serde_json::from_str(include_str!("scikit_learn.json")).unwrap()
}

fn integers(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

fn classes(recorded: &Value) -> usize {
    recorded["classes"].as_u64().unwrap() as usize
}

fn features(recorded: &Value, values: &str, labels: &str, device: &Device) -> Features {
    let rows: Vec<&Vec<Value>> =
        recorded[values].as_array().unwrap().iter().map(|row| row.as_array().unwrap()).collect();
    let flat: Vec<f32> = rows.iter().flat_map(|row| row.iter().map(|value| number(value) as f32)).collect();
    let array = Array::from_slice(&flat, &[rows.len(), rows[0].len()], device).unwrap();
    Features::new(array, integers(&recorded[labels]).into_iter().map(Some).collect())
}

fn train_and_test(recorded: &Value) -> (Features, Features) {
    let device = Device::cpu_with(1).unwrap();
    (features(recorded, "train", "labels", &device), features(recorded, "test", "test_labels", &device))
}

#[test]
fn nearest_neighbours_vote_for_the_same_classes() {
    let recorded = recorded();
    let (train, test) = train_and_test(&recorded);
    let vote = &recorded["knn"];
    let options = Knn { k: vote["k"].as_u64().unwrap() as usize, temperature: number(&vote["temperature"]) };
    let found = classify(&train, &test.values, classes(&recorded), &options).unwrap();
    assert_eq!(found, integers(&vote["predictions"]));
}

/// The calibration error is a continuous function of all probabilities: where it agrees, so does the minimum.
#[test]
fn logistic_regression_has_the_same_minimum() {
    let recorded = recorded();
    let (train, test) = train_and_test(&recorded);
    for expected in recorded["logistic"].as_array().unwrap() {
        let options = Logistic { penalties: vec![number(&expected["penalty"])], ..Logistic::default() };
        let found = logistic_regression(&train, &test, classes(&recorded), &options).unwrap().classified;
        assert_eq!(found.accuracy.overall, number(&expected["accuracy"]), "{expected}");
        assert!(
            (found.calibration_error - number(&expected["calibration_error"])).abs() < 1e-5,
            "{expected}: {found:?}"
        );
    }
}

#[test]
fn clusters_agree_with_classes_as_much() {
    let recorded = recorded();
    let expected = &recorded["agreement"];
    let classes = classes(&recorded);
    let found =
        Agreement::of(&integers(&expected["clusters"]), classes, &integers(&recorded["labels"]), classes).unwrap();
    for (found, key) in [(found.accuracy, "accuracy"), (found.nmi, "nmi"), (found.ari, "ari")] {
        assert!((found - number(&expected[key])).abs() < 1e-12, "{key}: {found} for {}", expected[key]);
    }
}

/// Both take the best of many starts, which on four clouds is the least objective there is.
#[test]
fn k_means_finds_the_same_objective() {
    let recorded = recorded();
    let (train, _) = train_and_test(&recorded);
    let how = KMeans { start: Start::PlusPlus, restarts: 50, iterations: 100, ..KMeans::new(4) };
    let found = k_means(&train.values, &how, 0, 0).unwrap();
    let expected = number(&recorded["k_means"]["objective"]);
    assert!((found.objective.last().unwrap() - expected).abs() < 1e-5 * expected, "{:?}", found.objective.last());
}
