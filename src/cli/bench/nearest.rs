//! Searches among 50,000 features in 128 dimensions: the nearest of 1000 centroids, and 200 nearest neighbours of 1000
//! queries.

use selfsame_engine::Result;
use selfsame_losses::state::{KMeans, k_means};
use selfsame_methods::eval::knn::neighbours;

use super::{Bench, Timing};

const FEATURES: [usize; 2] = [50_000, 128];
const CENTROIDS: usize = 1000;
const QUERIES: usize = 1000;
const NEIGHBOURS: usize = 200;

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let [n, d] = FEATURES;
    let features = bench.normal(1, &FEATURES)?;
    let queries = bench.normal(2, &[QUERIES, d])?;
    // Without a change of the centroids: rows drawn as such, one assignment and its objective.
    let options = KMeans { iterations: 0, ..KMeans::new(CENTROIDS) };
    let dots = |rows: usize, columns: usize| Some(2.0 * (rows * columns * d) as f64);
    Ok(vec![
        bench.time(format!("kmeans assign {n}x{d} to {CENTROIDS}"), dots(n, CENTROIDS), || {
            k_means(&features, &options, 0, 0).map(drop)
        })?,
        bench.time(format!("knn {NEIGHBOURS} of {n}x{d} for {QUERIES}"), dots(n, QUERIES), || {
            neighbours(&features, &queries, NEIGHBOURS).map(drop)
        })?,
    ])
}
