//! Sinkhorn codes, f32: 4096 samples over 3000 prototypes, 3 iterations, epsilon 0.05, as SwAV takes them; in both
//! domains. Scores are cosines of random directions in 128 dimensions.

use selfsame_engine::ops::{self, Sinkhorn, SinkhornDomain};
use selfsame_engine::{Array, Comm, Result};

use super::{Bench, Timing};

/// Samples, prototypes, dimensions of the embedding.
const SHAPE: [usize; 3] = [4096, 3000, 128];

pub(super) fn run(bench: &Bench<'_>) -> Result<Vec<Timing>> {
    let [samples, prototypes, dimensions] = SHAPE;
    let directions =
        |seed, n| -> Result<Array> { Ok(ops::l2_normalize(&bench.normal(seed, &[n, dimensions])?, 1e-12)?.0) };
    let scores = ops::matmul(&directions(1, samples)?, &directions(2, prototypes)?.transpose(0, 1)?)?;
    let comm = Comm::single();
    let mut timings = Vec::new();
    for (name, domain) in [("scaling", SinkhornDomain::Scaling), ("log", SinkhornDomain::Log)] {
        let options = Sinkhorn { domain: Some(domain), ..Sinkhorn::swav(0.05, 3) };
        let name = format!("sinkhorn {samples}x{prototypes} 3 iterations, {name}");
        let mut error = 0.0;
        let mut timing = bench.time(name, None, || {
            error = ops::sinkhorn(&scores, &options, &comm)?.column_error.l1;
            Ok(())
        })?;
        timing.extra.push(("column error", error, "L1"));
        timings.push(timing);
    }
    Ok(timings)
}
