//! Sinkhorn gives the same bits on `simt` as on the CPU, through kernels alone, on one rank and on several.

mod common;

use common::{noise, same};
use selfsame_engine::ops::{CodeScale, Marginal, Sinkhorn, SinkhornDomain, SinkhornStop, sinkhorn};
use selfsame_engine::{Array, Comm, Device, Result};

/// Both domains; probabilities of balanced sides, and a plan with given ones that stops by its error.
fn options(n: usize, k: usize) -> [Sinkhorn; 4] {
    let uneven = |len: usize| Marginal::Given((0..len).map(|i| 1.0 + (i % 3) as f64).collect());
    let plan = Sinkhorn {
        rows: uneven(n),
        columns: uneven(k),
        codes: CodeScale::Plan,
        stop: SinkhornStop::Tolerance { column_error: 0.05, at_most: 6 },
        ..Sinkhorn::swav(0.5, 6)
    };
    let log = Some(SinkhornDomain::Log);
    let swav = Sinkhorn::swav(0.25, 3);
    [Sinkhorn { domain: log, ..swav.clone() }, Sinkhorn { domain: log, ..plan.clone() }, swav, plan]
}

/// The codes, the errors and the number of iterations.
fn results(scores: &Array, options: &Sinkhorn, comm: &Comm) -> Result<Vec<Array>> {
    let result = sinkhorn(scores, options, comm)?;
    let (rows, columns) = (result.row_error, result.column_error);
    let measured = [rows.l1, rows.max, columns.l1, columns.max, result.iterations as f64];
    Ok(vec![result.codes, Array::from_slice(&measured, &[5], scores.device())?])
}

#[test]
fn one_rank() {
    same(|device| {
        let mut all = Vec::new();
        for (n, k) in [(1, 1), (20, 40), (300, 5)] {
            let scores = noise(&[n, k], 1, device);
            for options in options(n, k) {
                all.extend(results(&scores, &options, &Comm::single())?);
            }
        }
        Ok(all)
    });
}

#[test]
fn ranks_of_unlike_sizes() {
    const CUTS: [usize; 4] = [0, 48, 112, 130];
    const COLUMNS: usize = 7;
    same(|device: &Device| {
        let scores = noise(&[CUTS[3], COLUMNS], 2, device);
        let mut all = Vec::new();
        for options in options(CUTS[3], COLUMNS) {
            let ranks: Vec<Result<Vec<Array>>> = std::thread::scope(|scope| {
                let comms = Comm::emulated(3).unwrap();
                let ranks = comms.into_iter().zip(CUTS.windows(2)).map(|(comm, cut)| {
                    let mut options = options.clone();
                    if let Marginal::Given(weights) = &mut options.rows {
                        *weights = weights[cut[0]..cut[1]].to_vec();
                    }
                    let scores = &scores;
                    scope.spawn(move || results(&scores.slice(0, cut[0], cut[1])?.copy()?, &options, &comm))
                });
                let ranks: Vec<_> = ranks.collect();
                ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
            });
            for rank in ranks {
                all.extend(rank?);
            }
        }
        Ok(all)
    });
}
