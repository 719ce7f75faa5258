//! y = the ranks' x joined along axis 0, in rank order.  Backward: dx = this rank's part of the sum of dy over ranks,
//! as every rank's loss depends on every rank's x.

use super::prelude::*;
use selfsame_engine::Comm;
use std::sync::Arc;

struct AllGather {
    comm: Arc<Comm>,
}

/// See [`Tensor::all_gather`].
pub(super) static ALL_GATHER: OpSpec = OpSpec {
    name: "all_gather",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((1, 4));
        Ok(Case::new(AllGather { comm: Arc::new(Comm::single()) }, vec![g.array(&shape, Domain::Normal)?]))
    },
};

impl Op for AllGather {
    fn spec(&self) -> &'static OpSpec {
        &ALL_GATHER
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![self.comm.all_gather(x[0])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dx = self.comm.reduce_scatter(only(dy)?)?;
        if dx.shape() != saved.shape(0)? {
            return Err(Error::new(ErrorKind::Shape, "all_gather", format!("a part of shape {:?}", dx.shape()))
                .expected(format!("{:?}: equally many rows on every rank", saved.shape(0)?)));
        }
        Ok(vec![Some(dx.into())])
    }
}

impl Tensor {
    /// The ranks' tensors joined along axis 0, in rank order; all have one shape. The gradient is summed over ranks.
    ///
    /// # Errors
    /// `Shape` when shapes differ; `Device` when a rank has left.
    #[track_caller]
    pub fn all_gather(&self, comm: &Arc<Comm>) -> Result<Tensor> {
        apply1(AllGather { comm: comm.clone() }, &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    /// A loss over pairs of all rows, weighted by the row that a rank owns.
    fn loss_of_rows(all: &Tensor, own: &Tensor) -> Tensor {
        own.matmul(&all.transpose(0, 1).unwrap()).unwrap().square().unwrap().sum_all().unwrap()
    }

    #[test]
    fn gathered_ranks_have_the_gradient_of_one_batch() {
        let values: Vec<f64> = (0..12).map(|i| f64::from(i * i % 7) - 2.5).collect();
        let device = Device::cpu_with(1).unwrap();
        let whole = Tensor::leaf(Array::from_slice(&values, &[4, 3], &device).unwrap());
        let grads = loss_of_rows(&whole, &whole).backward().unwrap();
        let expected = grads.get(&whole).unwrap().unwrap().to_vec::<f64>().unwrap();
        let mut parts = Vec::new();
        std::thread::scope(|scope| {
            let ranks: Vec<_> = Comm::emulated(2)
                .unwrap()
                .into_iter()
                .map(|comm| {
                    let values = &values;
                    scope.spawn(move || {
                        let (device, comm) = (Device::cpu_with(1).unwrap(), Arc::new(comm));
                        let rows = &values[comm.rank() * 6..comm.rank() * 6 + 6];
                        let own = Tensor::leaf(Array::from_slice(rows, &[2, 3], &device).unwrap());
                        let grads = loss_of_rows(&own.all_gather(&comm).unwrap(), &own).backward().unwrap();
                        grads.get(&own).unwrap().unwrap().to_vec::<f64>().unwrap()
                    })
                })
                .collect();
            parts.extend(ranks.into_iter().flat_map(|rank| rank.join().unwrap()));
        });
        for (part, expected) in parts.iter().zip(&expected) {
            assert!((part - expected).abs() <= 1e-12 * expected.abs().max(1.0));
        }
    }
}
