//! Local aggregation (Zhuang, Zhai, Yamins 2019, arXiv:1903.12355, equation 3).
//!
//! For the embedding v_i of image i and a memory bank with a row m_j for each image, all unit vectors:
//!
//! ```text
//! B_i = the k rows of the bank that are most similar to v_i           background neighbours
//! C_i = the images that share a cluster with i in any clustering      close neighbours, i among them
//! l_i = -ln [ Σ_{C_i and B_i} exp(m_j·v_i / T) / Σ_{B_i} exp(m_j·v_i / T) + floor ]      L = mean over the batch
//! ```
//!
//! The floor keeps l_i finite where no close neighbour is among the nearest k. The embeddings alone are differentiated;
//! the sets are constants.

use crate::batch::{Batch, TEMPERATURE_RANGE, check_temperature, constant, is_temperature, unit};
use crate::softmax_terms::{WEIGHT_RANGE, batch_mean, check_option, check_shape, check_width, is_weight};
use crate::spec::{CrossRank, Fact, LossCase, LossSpec, OptionSpec, Options, Port, Role};
use selfsame_autograd::{Domain, Gen, Tensor};
use selfsame_engine::{Array, Comm, Error, ErrorKind, Result, ops};
use selfsame_kernels::math::Real;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Options of [`local_aggregation`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LocalAggregation {
    /// T, 0.07.
    pub temperature: f64,
    /// k, the background neighbours: 4096 on ImageNet.
    pub background: usize,
    /// What is added inside the logarithm: 1e-7.
    pub floor: f64,
}

impl Default for LocalAggregation {
    /// The paper's on ImageNet.
    fn default() -> LocalAggregation {
        LocalAggregation { temperature: 0.07, background: 4096, floor: 1e-7 }
    }
}

/// What [`local_aggregation`] finds.
#[derive(Clone)]
pub struct Aggregation {
    /// The scalar loss.
    pub loss: Tensor,
    /// Images of this rank without a close neighbour among the nearest k: the loss does not move them.
    pub stranded: usize,
    /// Mean number of close neighbours among the nearest k, of this rank's images.
    pub close: f64,
}

/// The loss of embeddings `v` `[n, D]` of the images `images` `[n]` i64 against `bank` `[N, D]`, with the clusters of all
/// images in each of H clusterings, `clusterings` `[H, N]` i64. Without any, each image is its own cluster. Vectors are
/// normalised here. No gradient goes to the bank.
///
/// # Errors
/// `Shape` unless shapes fit, images are below N and the bank has k rows; `DType` unless integers are i64; `Config` for
/// a temperature that is not positive or a negative floor.
#[track_caller]
pub fn local_aggregation(
    v: &Tensor,
    bank: &Tensor,
    images: &Array,
    clusterings: &Array,
    o: &LocalAggregation,
) -> Result<Aggregation> {
    local_aggregation_ranks(v, bank, images, clusterings, o, &Arc::new(Comm::single()))
}

/// The loss of the whole batch from each rank's embeddings and images; every rank holds the same bank and clusterings.
/// See [`nt_xent_ranks`](crate::nt_xent_ranks).
///
/// # Errors
/// As for [`local_aggregation`]; `Numerics` when ranks differ in images, or when these are no multiple of 16 and there
/// is more than one rank; or as for [`Comm::exchange`].
#[track_caller]
pub fn local_aggregation_ranks(
    v: &Tensor,
    bank: &Tensor,
    images: &Array,
    clusterings: &Array,
    o: &LocalAggregation,
    comm: &Arc<Comm>,
) -> Result<Aggregation> {
    check_temperature("local_aggregation", o.temperature)?;
    check_option("local_aggregation", "floor", o.floor, is_weight, WEIGHT_RANGE)?;
    check_width("local_aggregation", v, "bank", bank)?;
    let batch = Batch::of_pairs("local_aggregation", v, v, comm)?;
    let ([rows, _], [runs, _]) = (bank.dims()?, clusterings.dims()?);
    check_shape("local_aggregation", "images", images, &[batch.local])?;
    check_shape("local_aggregation", "clusterings", clusterings, &[runs, rows])?;
    if o.background == 0 || o.background > rows {
        return Err(Error::new(ErrorKind::Shape, "local_aggregation", format!("k = {} of {rows} rows", o.background))
            .expected("at least 1, and at most the rows of the bank"));
    }
    let (v, bank) = (unit(v)?, unit(&bank.detach())?);
    let dots = v.matmul(&bank.transpose(0, 1)?)?; // [n, N]
    let (_, background) = ops::topk(dots.array(), o.background)?; // [n, k]
    let close = close_neighbours(&background, images, clusterings)?;
    let p = dots.gather(1, &background)?.scale(1.0 / o.temperature)?.softmax()?;
    let chosen = Tensor::select(&close, &p, &constant(0.0, &p)?)?.sum(&[1], true)?; // [n, 1]
    let l = chosen.add_scalar(o.floor)?.log()?.neg()?;
    let numbers: Vec<usize> = close
        .as_slice::<bool>()?
        .chunks(o.background)
        .map(|row| row.iter().filter(|is_close| **is_close).count())
        .collect();
    Ok(Aggregation {
        loss: batch_mean(&l, &batch, comm)?,
        stranded: numbers.iter().filter(|number| **number == 0).count(),
        close: numbers.iter().sum::<usize>() as f64 / numbers.len() as f64,
    })
}

/// `[n, k]`: which background neighbours share a cluster with the image of their row, or are that image.
fn close_neighbours(background: &Array, images: &Array, clusterings: &Array) -> Result<Array> {
    let ([_, k], [_, rows]) = (background.dims()?, clusterings.dims()?);
    let (neighbours, images) = (background.to_vec::<i64>()?, images.to_vec::<i64>()?);
    if let Some(image) = images.iter().find(|image| **image < 0 || **image as usize >= rows) {
        return Err(Error::new(ErrorKind::Shape, "local_aggregation", format!("image {image}"))
            .expected(format!("below the {rows} rows of the bank")));
    }
    let clusterings = clusterings.to_vec::<i64>()?;
    Array::on_host::<bool>(background.device(), background.shape(), "close neighbours", |_, close| {
        for ((close, neighbours), image) in close.chunks_mut(k).zip(neighbours.chunks(k)).zip(&images) {
            for (close, neighbour) in close.iter_mut().zip(neighbours) {
                let together = |clusters: &[i64]| clusters[*neighbour as usize] == clusters[*image as usize];
                *close = neighbour == image || clusterings.chunks(rows).any(together);
            }
        }
        Ok(())
    })
}

/// The entry in [`crate::LOSSES`].
pub static SPEC: LossSpec = LossSpec {
    name: "local_aggregation",
    doc: "each image must pick the neighbours of its clusters out of its nearest ones in a memory bank",
    paper: "Zhuang et al. 2019, Local Aggregation for Unsupervised Learning of Visual Embeddings, arXiv:1903.12355",
    cross_rank: CrossRank::Local,
    inputs: &[
        Port::new("v", "[n, D]", "embeddings"),
        Port::new("bank", "[N, D]", "a row for each image of the data set").role(Role::Constant),
        Port::new("images", "[n]", "the image of each embedding: its row of the bank").role(Role::Labels),
        Port::new("clusterings", "[H, N]", "the cluster of each image in each clustering").role(Role::Labels),
    ],
    outputs: &[Port::new("loss", "[]", "mean over embeddings; ln k where nothing but the image itself is close")],
    options: &[
        OptionSpec {
            name: "temperature",
            default: 0.07,
            allowed: is_temperature,
            range: TEMPERATURE_RANGE,
            doc: "divides the cosines; lower weighs hard negatives more",
        },
        OptionSpec {
            name: "background",
            default: 4096.0,
            allowed: |x| x >= 1.0 && x.fract() == 0.0,
            range: "a positive integer",
            doc: "k: how many nearest rows of the bank are compared; a tenth of a small data set",
        },
        OptionSpec {
            name: "floor",
            default: 1e-7,
            allowed: is_weight,
            range: WEIGHT_RANGE,
            doc: "added inside the logarithm, so that images far from their clusters cost a finite amount",
        },
    ],
    run: |inputs, options| {
        let o = LocalAggregation {
            temperature: options.get("temperature")?,
            background: options.get("background")? as usize,
            floor: options.get("floor")?,
        };
        let (images, clusterings) = (inputs["images"].array(), inputs["clusterings"].array());
        let found = local_aggregation(&inputs["v"], &inputs["bank"], images, clusterings, &o)?;
        Ok(BTreeMap::from([("loss".to_string(), found.loss)]))
    },
    cases,
    oracle,
    facts: &[Fact {
        what: "ln k: all of the nearest k equally similar, and the image alone close",
        value: |_, options| options.get("background").map_or(f64::NAN, Real::log),
    }],
};

/// The nearest k are few or all: their number is far from where a difference would change them.
fn cases(g: &mut Gen) -> Result<LossCase> {
    let (n, d, rows, runs) = (g.dim(), 2 + g.dim(), g.pick(&[6, 33]), g.pick(&[0, 1, 3]));
    let background = g.pick(&[5, rows]);
    let inputs = BTreeMap::from([
        ("v".to_string(), g.array(&[n, d], Domain::Signed(0.5, 1.5))?),
        ("bank".to_string(), g.array(&[rows, d], Domain::Distinct)?),
        ("images".to_string(), g.indices(&[n], rows)?),
        ("clusterings".to_string(), g.indices(&[runs, rows], 3)?),
    ]);
    // A large floor, so that images without close neighbours have a loss and gradient of a moderate size.
    let set = [("temperature", g.pick(&["0.5", "1.0"]).to_string()), ("background", background.to_string())];
    let set = set.into_iter().chain([("floor", "0.01".to_string())]);
    let options = Options::parse(&SPEC, &set.map(|(key, value)| (key.to_string(), value)).collect::<Vec<_>>())?;
    Ok(LossCase { inputs, options })
}

/// Equation 3 in scalar loops.
fn oracle(case: &LossCase) -> Result<f64> {
    let (v, bank) = (case.inputs["v"].to_vec::<f64>()?, case.inputs["bank"].to_vec::<f64>()?);
    let integers = |name: &str| case.inputs[name].to_vec::<i64>();
    let (images, clusterings) = (integers("images")?, integers("clusterings")?);
    let (t, floor) = (case.options.get("temperature")?, case.options.get("floor")?);
    let k = case.options.get("background")? as usize;
    let ([n, d], [rows, _]) = (case.inputs["v"].dims()?, case.inputs["bank"].dims()?);
    let mut sum = 0.0;
    for (v, image) in v.chunks(d).zip(images) {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let cosine = |j: usize| {
            let m = &bank[j * d..(j + 1) * d];
            dot(m, v) / (dot(m, m).sqrt() * dot(v, v).sqrt())
        };
        let mut background: Vec<usize> = (0..rows).collect();
        background.sort_by(|a, b| cosine(*b).total_cmp(&cosine(*a)));
        background.truncate(k);
        let is_close = |j: &usize| {
            let shared = (0..clusterings.len() / rows).any(|h| {
                let clusters = &clusterings[h * rows..(h + 1) * rows];
                clusters[*j] == clusters[image as usize]
            });
            shared || *j == image as usize
        };
        let mass = |j: &usize| Real::exp(cosine(*j) / t);
        let close: f64 = background.iter().filter(|j| is_close(j)).map(mass).sum();
        sum -= Real::log(close / background.iter().map(mass).sum::<f64>() + floor);
    }
    Ok(sum / n as f64)
}
