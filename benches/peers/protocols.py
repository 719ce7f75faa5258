"""Measures a small set of features with scikit-learn and SciPy, for `methods/tests/scikit_learn.rs` to compare with.

    python benches/peers/protocols.py > methods/tests/scikit_learn.json

Needs scikit-learn. The features are Gaussian clouds that overlap, rounded to three digits so that both sides read the
same numbers.
"""

import json
import sys

import numpy
import scipy
import sklearn
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import adjusted_rand_score, confusion_matrix, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

CLASSES, LENGTH, BINS = 4, 5, 15
NEIGHBOURS, TEMPERATURE = 9, 0.2
PENALTIES = [1e-3, 1e-1, 1.0]


def features(generator, centres, images):
    labels = generator.integers(0, CLASSES, images)
    return numpy.round(centres[labels] + generator.normal(0, 1, (images, LENGTH)), 3), labels


def calibration_error(probabilities, labels):
    confidence, predicted = probabilities.max(axis=1), probabilities.argmax(axis=1)
    bins = numpy.clip(numpy.ceil(confidence * BINS).astype(int), 1, BINS)
    gaps = [abs((confidence - (predicted == labels))[bins == i].sum()) for i in range(1, BINS + 1)]
    return sum(gaps) / len(labels)


def logistic(train, test, labels, test_labels, penalty):
    scaler = StandardScaler().fit(train)
    model = LogisticRegression(C=1 / (penalty * len(train)), tol=1e-10, max_iter=10000)
    model.fit(scaler.transform(train), labels)
    probabilities = model.predict_proba(scaler.transform(test))
    accuracy = (probabilities.argmax(axis=1) == test_labels).mean()
    return {"penalty": penalty, "accuracy": accuracy, "calibration_error": calibration_error(probabilities, test_labels)}


def agreement(clusters, labels):
    table = confusion_matrix(labels, clusters)
    rows, columns = linear_sum_assignment(-table)
    return {
        "clusters": clusters.tolist(),
        "accuracy": table[rows, columns].sum() / len(labels),
        "nmi": normalized_mutual_info_score(labels, clusters),
        "ari": adjusted_rand_score(labels, clusters),
    }


def main():
    generator = numpy.random.default_rng(7)
    centres = generator.normal(0, 1.5, (CLASSES, LENGTH))
    train, labels = features(generator, centres, 120)
    test, test_labels = features(generator, centres, 80)
    nearest = KNeighborsClassifier(
        NEIGHBOURS, metric="cosine", weights=lambda distance: numpy.exp((1 - distance) / TEMPERATURE)
    ).fit(train, labels)
    k_means = KMeans(CLASSES, n_init=50, tol=0, random_state=0).fit(train)
    result = {
        "versions": {"scikit-learn": sklearn.__version__, "scipy": scipy.__version__, "numpy": numpy.__version__},
        "train": train.tolist(),
        "labels": labels.tolist(),
        "test": test.tolist(),
        "test_labels": test_labels.tolist(),
        "classes": CLASSES,
        "knn": {"k": NEIGHBOURS, "temperature": TEMPERATURE, "predictions": nearest.predict(test).tolist()},
        "logistic": [logistic(train, test, labels, test_labels, penalty) for penalty in PENALTIES],
        "agreement": agreement(k_means.labels_, labels),
        "k_means": {"restarts": 50, "objective": k_means.inertia_ / len(train)},
    }
    json.dump(result, sys.stdout, indent=None, separators=(",", ":"))
    print()


if __name__ == "__main__":
    main()
