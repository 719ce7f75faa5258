//! y = position of the largest element along an axis. No backward: the position is constant between ties and jumps at
//! them.

use super::prelude::*;

struct Argmax {
    axis: usize,
}

/// See [`Tensor::argmax`].
pub(super) static ARGMAX: OpSpec = OpSpec {
    name: "argmax",
    gradient: Gradient::None("a position has no gradient"),
    cases: |g| {
        let shape = g.full_shape((1, 4));
        let axis = g.axis(&shape);
        Ok(Case::new(Argmax { axis }, vec![g.array(&shape, Domain::Distinct)?]))
    },
};

impl Op for Argmax {
    fn spec(&self) -> &'static OpSpec {
        &ARGMAX
    }

    fn forward(&self, x: &[&Array], _: &mut Saved) -> Result<Vec<Array>> {
        Ok(vec![ops::argmax(x[0], self.axis)?])
    }

    fn vjp(&self, _: &Saved, _: &[Option<Array>], _: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        Err(Error::new(ErrorKind::NoVjp, "argmax", "a backward").expected("none: a position has no gradient"))
    }
}

impl Tensor {
    /// The position (i64) of the largest element along `axis`, which goes; of equals the lowest.
    ///
    /// # Errors
    /// `NoVjp` for a tracked tensor: detach it first; `Shape` when the axis does not exist or is empty.
    #[track_caller]
    pub fn argmax(&self, axis: usize) -> Result<Tensor> {
        apply1(Argmax { axis }, &[self])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use selfsame_engine::Device;

    #[test]
    fn a_tracked_input_is_refused_at_forward() {
        let device = Device::cpu_with(1).unwrap();
        let x = Tensor::leaf(Array::from_slice(&[1f32, 5., 5.], &[3], &device).unwrap());
        assert_eq!(x.argmax(0).unwrap_err().kind(), ErrorKind::NoVjp);
        assert_eq!(x.detach().argmax(0).unwrap().array().item::<i64>().unwrap(), 1);
    }
}
