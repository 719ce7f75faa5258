//! y = tensors joined along an axis.  Backward: each gets its part of dy.

use super::prelude::*;

struct Concat {
    axis: usize,
}

/// See [`Tensor::concat`].
pub(super) static CONCAT: OpSpec = OpSpec {
    name: "concat",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((1, 4));
        let axis = g.axis(&shape);
        let parts = (0..1 + g.below(3)).map(|_| {
            let mut part = shape.clone();
            part[axis] = g.below(4);
            g.array(&part, Domain::Normal)
        });
        let parts = parts.collect::<Result<Vec<_>>>()?;
        Ok(Case::new(Concat { axis }, parts))
    },
};

impl Op for Concat {
    fn spec(&self) -> &'static OpSpec {
        &CONCAT
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let y = ops::concat(x, self.axis)?;
        x.iter().for_each(|x| save.keep_shape(x.shape()));
        Ok(vec![y])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let dy = only(dy)?;
        let mut end = 0;
        (0..want.len())
            .map(|i| {
                let start = end;
                end += saved.shape(i)?[self.axis];
                wanted(want, i, || dy.slice(self.axis, start, end))
            })
            .collect()
    }
}

impl Tensor {
    /// Tensors joined along `axis`; their other axes agree.
    ///
    /// # Errors
    /// `Shape` when they do not fit or there are none.
    #[track_caller]
    pub fn concat(parts: &[&Tensor], axis: usize) -> Result<Tensor> {
        apply1(Concat { axis }, parts)
    }
}
