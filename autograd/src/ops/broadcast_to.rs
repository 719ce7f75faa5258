//! y = x repeated along new leading axes and axes of length 1.  Backward: dx = dy summed over what was repeated.

use super::prelude::*;

struct BroadcastTo {
    shape: Vec<usize>,
}

/// See [`Tensor::broadcast_to`].
pub(super) static BROADCAST_TO: OpSpec = OpSpec {
    name: "broadcast_to",
    gradient: Gradient::Vjp,
    cases: |g| {
        let shape = g.shape((0, 4));
        let drop = g.below(shape.len() + 1);
        let narrow: Vec<usize> = shape[drop..].iter().map(|&d| if g.one_in(2) { 1 } else { d }).collect();
        Ok(Case::new(BroadcastTo { shape }, vec![g.array(&narrow, Domain::Normal)?]))
    },
};

impl Op for BroadcastTo {
    fn spec(&self) -> &'static OpSpec {
        &BROADCAST_TO
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep_shape(x[0].shape());
        Ok(vec![x[0].broadcast_to(&self.shape)?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Ok(vec![Some(ops::sum_to(only(dy)?, saved.shape(0)?)?.into())])
    }
}

impl Tensor {
    /// A view repeated along new leading axes and axes of length 1 to fill `shape`.
    ///
    /// # Errors
    /// `Shape` when it does not broadcast.
    #[track_caller]
    pub fn broadcast_to(&self, shape: &[usize]) -> Result<Tensor> {
        apply1(BroadcastTo { shape: shape.to_vec() }, &[self])
    }
}
