//! y = x·w + b on the last axis.  Backward: dx = dy·wᵀ; dw = Σ xᵀ·dy and db = Σ dy are sums over samples.

use super::prelude::*;

struct Linear {
    rows: Rows,
}

/// See [`Tensor::linear`].
pub(super) static LINEAR: OpSpec = OpSpec {
    name: "linear",
    gradient: Gradient::Vjp,
    cases: |g| {
        let mut shape = vec![g.pick(&[1, 3, 17, 35])];
        shape.extend((0..g.below(3)).map(|_| g.pick(&[1, 2, 3])));
        let (k, n) = (g.dim(), g.dim());
        shape.push(k);
        let rows = Rows::of(&shape, 0)?;
        let mut inputs = vec![g.array(&shape, Domain::Normal)?, g.array(&[k, n], Domain::Normal)?];
        if g.one_in(2) {
            inputs.push(g.array(&[n], Domain::Normal)?);
        }
        Ok(Case::new(Linear { rows }, inputs))
    },
};

impl Op for Linear {
    fn spec(&self) -> &'static OpSpec {
        &LINEAR
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        let (x, w, bias) = (x[0], x[1], x.get(2).copied());
        let [_, n] = w.dims()?;
        check_rows("linear", x.shape(), self.rows)?;
        save.keep(x);
        save.keep(w);
        let mut shape = x.shape().to_vec();
        shape.pop();
        shape.push(n);
        Ok(vec![ops::linear(&flat(x, self.rows)?, w, bias)?.reshape(&shape)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (x, w, dy) = (saved.array(0)?, saved.array(1)?, only(dy)?);
        let db = wanted(want, 2, || ops::rows_sum(dy, self.rows))?;
        if want[..2] == [true, true] {
            let (dx, dw) = ops::linear_grads(x, dy, w, self.rows)?;
            return Ok(vec![Some(dx.into()), Some(dw.into()), db]);
        }
        let dx = wanted(want, 0, || ops::linear_input_grad(&flat(dy, self.rows)?, w)?.reshape(x.shape()))?;
        let dw = wanted(want, 1, || ops::linear_weight_grad(x, dy, self.rows))?;
        Ok(vec![dx, dw, db])
    }
}

/// All rows as one matrix, so that one product serves all images.
fn flat(x: &Array, rows: Rows) -> Result<Array> {
    x.reshape(&[rows.len(), x.shape()[x.rank() - 1]])
}

/// Refuses an activation that `rows` does not describe, before any gradient needs it.
pub(super) fn check_rows(op: &str, shape: &[usize], rows: Rows) -> Result<()> {
    if Rows::of(shape, rows.first_image)? == rows {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Shape, op, format!("an activation of shape {shape:?}"))
        .expected(format!("{} images of {} rows", rows.images, rows.rows_per_image)))
}

impl Tensor {
    /// A linear layer: `self` `[images, .., k]`, `weight` `[k, n]`, `bias` `[n]`; the result is `[images, .., n]`.
    ///
    /// `rows` says which images these are of the global batch; weight and bias gradients are sums over them.
    ///
    /// # Errors
    /// `Shape` when shapes or rows do not fit; `DType` or `Device` when those differ.
    #[track_caller]
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>, rows: Rows) -> Result<Tensor> {
        let inputs: Vec<&Tensor> = [Some(self), Some(weight), bias].into_iter().flatten().collect();
        apply1(Linear { rows }, &inputs)
    }
}
