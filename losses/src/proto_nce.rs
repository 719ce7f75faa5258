//! ProtoNCE, the clustering term of PCL (Li, Zhou, Xiong, Hoi 2021, arXiv:2005.04966, equation 11), for one clustering.
//!
//! With s(i) the cluster of image i, c the unit centroids and φ their concentrations, over the columns P = [the N
//! prototypes of the batch; r negative ones]:
//!
//! ```text
//! l_i = -ln [ exp(q_i·c_s(i) / φ_s(i)) / Σ_{j in P} exp(q_i·c_j / φ_j) ]          L = mean over queries
//! φ_c = Σ_{i in c} |v_i - mean_c| / ( Z_c ln(Z_c + α) )          clamped, then scaled to a mean of τ
//! ```
//!
//! Where two queries of a batch share a cluster, their prototype stands in P twice, as in the authors' code; `unique`
//! leaves the copies out. The queries alone are differentiated.

use crate::batch::{Batch, LEAST_NORM, constant, row_dots, unit};
use crate::softmax_terms::{FLAG_RANGE, batch_mean, check_shape, check_width, is_flag, own_places};
use crate::spec::{CrossRank, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use crate::state::Clustering;
use selfsame_autograd::ops::{Excluded, Pairs};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, DType, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::{self, Real};
use selfsame_kernels::philox::Stream;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The prototypes of one clustering; constants.
#[derive(Clone, Debug)]
pub struct Prototypes {
    /// Centroids `[K, D]`; brought to length 1 by the loss.
    pub centroids: Tensor,
    /// Their concentrations φ, `[K]`, positive: the temperature of each.
    pub concentrations: Array,
}

/// Options of [`proto_nce`].
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProtoNce {
    /// Leaves a prototype out where it is another query's and of this query's own cluster: a deviation from the authors'
    /// code, which takes it as a negative.
    pub unique: bool,
}

/// The loss of queries `q` `[N, D]`, of which `assigned` `[N]` i64 are the clusters, against the prototypes `negatives`
/// `[r]` i64 and those of the other queries. A scalar.
///
/// # Errors
/// `Shape` unless shapes fit and clusters are below K; `DType` unless they are i64.
#[track_caller]
pub fn proto_nce(q: &Tensor, p: &Prototypes, assigned: &Array, negatives: &Array, o: &ProtoNce) -> Result<Tensor> {
    proto_nce_ranks(q, p, assigned, negatives, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's queries and their clusters; every rank holds the same prototypes and
/// negatives. See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`proto_nce`]; `Numerics` when ranks differ in queries, or when these are no multiple of 16 and there is more
/// than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn proto_nce_ranks(
    q: &Tensor,
    p: &Prototypes,
    assigned: &Array,
    negatives: &Array,
    o: &ProtoNce,
    comm: &Arc<Comm>,
) -> Result<Tensor> {
    check_width("proto_nce", q, "centroids", &p.centroids)?;
    let [n, _] = q.dims()?;
    let clusters = p.centroids.shape()[0];
    check_shape("proto_nce", "assigned", assigned, &[n])?;
    check_shape("proto_nce", "concentrations", &p.concentrations, &[clusters])?;
    let batch = Batch::of_pairs("proto_nce", q, q, comm)?;
    let q = unit(q)?;
    // Each centroid over its own temperature.
    let (centroids, _) = ops::l2_normalize(p.centroids.array(), LEAST_NORM)?;
    let scaled = ops::div(&centroids, &p.concentrations.reshape(&[clusters, 1])?)?;
    let of = |clusters: &Array| Ok(Tensor::constant(ops::index_select(&scaled, 0, clusters)?));
    let columns = ops::concat(&[&comm.all_gather(assigned)?, negatives], 0)?;
    let excluded = match o.unique {
        false => Excluded::Own(own_places(&batch, &q)?),
        true => Excluded::SameKey { rows: assigned.clone(), columns: columns.clone(), kept: None },
    };
    let pairs = Pairs { excluded, comm: Arc::clone(comm), ..Pairs::default() };
    let others = q.pair_log_sum_exp_over(&of(&columns)?, &constant(1.0, &q)?, None, &pairs)?;
    let others = others.value.reshape(&[n, 1])?;
    let positive = row_dots(&q, &of(assigned)?)?;
    batch_mean(&others.sub(&positive)?.softplus()?, &batch, comm)
}

/// `count` clusters, drawn uniformly without replacement from those that are nobody's in the batch: `[count]` i64.
/// `assigned` are the clusters of the images of all ranks.
///
/// # Errors
/// `Config` when so many are not left.
pub fn draw_negatives(assigned: &Array, clusters: usize, count: usize, mut stream: Stream) -> Result<Array> {
    let taken: BTreeSet<i64> = assigned.to_vec::<i64>()?.into_iter().collect();
    let mut left: Vec<i64> = (0..clusters as i64).filter(|cluster| !taken.contains(cluster)).collect();
    if count > left.len() {
        return Err(Error::new(ErrorKind::Config, "proto_nce", format!("{count} negative prototypes"))
            .expected(format!("at most {}: {clusters} clusters without the {} of the batch", left.len(), taken.len()))
            .hint("fewer negatives, a smaller batch or more clusters"));
    }
    stream.shuffle(&mut left);
    left.truncate(count);
    Array::from_slice(&left, &[count], assigned.device())
}

/// The concentrations φ `[K]` of a Euclidean clustering of `v` `[N, D]`, in the type of `v`.
///
/// The mean distance from the centroid over ln(size + `alpha`), the paper's 10. Clusters of at most one row have the
/// largest value of all. Clamped between the 10th and the 90th percentile (linear between order statistics), then scaled
/// so that the mean over clusters is `tau`. Where all distances are 0, every φ is `tau`.
///
/// # Errors
/// `Shape` unless the clustering is of `v`.
pub fn concentrations(v: &Array, clustering: &Clustering, tau: f64, alpha: f64) -> Result<Array> {
    let ([n, _], [k, _]) = (v.dims()?, clustering.centroids.dims()?);
    check_shape("concentrations", "assignments", &clustering.assignments, &[n])?;
    let own = ops::index_select(&clustering.centroids, 0, &clustering.assignments)?;
    let squares = ops::sum(&ops::unary(ops::Unary::Square, &ops::sub(v, &own)?)?, &[1], false)?;
    let squares = ops::cast(&squares, DType::F64)?.to_vec::<f64>()?;
    let mut phi = vec![0.0; k];
    for (cluster, square) in clustering.assignments.to_vec::<i64>()?.into_iter().zip(squares) {
        phi[cluster as usize] += square.sqrt();
    }
    for (phi, size) in phi.iter_mut().zip(&clustering.counts) {
        *phi /= (*size).max(1) as f64 * math::f64::log(*size as f64 + alpha);
    }
    let largest = phi.iter().copied().fold(0.0, f64::max);
    phi.iter_mut().zip(&clustering.counts).filter(|(_, size)| **size <= 1).for_each(|(phi, _)| *phi = largest);
    let mut sorted = phi.clone();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (percentile(&sorted, 0.1), percentile(&sorted, 0.9));
    phi.iter_mut().for_each(|phi| *phi = phi.clamp(low, high));
    let mean = phi.iter().sum::<f64>() / k as f64;
    let scaled = phi.iter().map(|phi| if mean > 0.0 { tau * (phi / mean) } else { tau });
    ops::cast(&Array::from_slice(&scaled.collect::<Vec<f64>>(), &[k], v.device())?, v.dtype())
}

/// Between order statistics, as NumPy's default.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (at - below as f64) * (sorted[above] - sorted[below])
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "proto_nce",
    doc: "each query must pick the centroid of its cluster out of other centroids, each with its own temperature",
    paper: "Li et al. 2021, Prototypical Contrastive Learning of Unsupervised Representations, arXiv:2005.04966",
    cross_rank: CrossRank::GatherNegatives,
    inputs: &[
        Port::new("q", "[N, D]", "embeddings of the queries"),
        Port::new("centroids", "[K, D]", "centroids of one clustering").role(Role::Constant),
        Port::new("concentrations", "[K]", "temperature of each centroid, positive").role(Role::Constant),
        Port::new("assigned", "[N]", "the cluster of each query's image").role(Role::Labels),
        Port::new("negatives", "[R]", "further centroids to tell it from").role(Role::Labels),
    ],
    outputs: &[Port::new("loss", "[]", "mean over queries; ln(N + R) where all prototypes are equal")],
    options: &[OptionSpec {
        name: "unique",
        default: 0.0,
        allowed: is_flag,
        range: FLAG_RANGE,
        doc: "1: other queries' copies of a query's own prototype are no negatives; 0: as the authors' code",
    }],
    run: |inputs, options| {
        let array = |name: &str| inputs[name].array();
        let p = Prototypes { centroids: inputs["centroids"].clone(), concentrations: array("concentrations").clone() };
        let o = ProtoNce { unique: options.get("unique")? == 1.0 };
        let loss = proto_nce(&inputs["q"], &p, array("assigned"), array("negatives"), &o)?;
        Ok(BTreeMap::from([("loss".to_string(), loss)]))
    },
    cases,
    oracle,
    facts: &[],
};

fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d, clusters, r) = (g.dim(), 1 + g.dim(), g.pick(&[1, 4, 20]), g.pick(&[0, 1, 6]));
    let mut inputs = BTreeMap::new();
    for (name, rows) in [("q", n), ("centroids", clusters)] {
        inputs.insert(name.to_string(), g.array(&[rows, d], Domain::Signed(0.5, 1.5))?);
    }
    inputs.insert("concentrations".to_string(), g.array(&[clusters], Domain::Range(0.2, 1.0))?);
    inputs.insert("assigned".to_string(), g.indices(&[n], clusters)?);
    inputs.insert("negatives".to_string(), g.indices(&[r], clusters)?);
    let options = Options::parse(&SPEC, &[("unique".to_string(), g.pick(&["0", "1"]).to_string())])?;
    Ok(LossCase { inputs, options })
}

/// The definition in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let vectors = |name: &str| case.inputs[name].to_vec::<f64>();
    let (q, centroids, phi) = (vectors("q")?, vectors("centroids")?, vectors("concentrations")?);
    let assigned = case.inputs["assigned"].to_vec::<i64>()?;
    let negatives = case.inputs["negatives"].to_vec::<i64>()?;
    let unique = case.options.get("unique")? == 1.0;
    let [n, d] = case.inputs["q"].dims()?;
    let weight = |i: usize, cluster: i64| {
        let (q, c) = (&q[i * d..(i + 1) * d], &centroids[cluster as usize * d..][..d]);
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        Real::exp(dot(q, c) / (dot(q, q).sqrt() * dot(c, c).sqrt()) / phi[cluster as usize])
    };
    let mut sum = 0.0;
    for i in 0..n {
        let others = assigned.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, cluster)| cluster);
        let counted = others.chain(&negatives).filter(|cluster| !unique || **cluster != assigned[i]);
        let positive = weight(i, assigned[i]);
        sum -= Real::log(positive / (positive + counted.map(|cluster| weight(i, *cluster)).sum::<f64>()));
    }
    Ok(sum / n as f64)
}
