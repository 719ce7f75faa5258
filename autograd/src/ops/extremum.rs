//! What maximum and minimum share: one of two operands, and its gradient.

use super::prelude::*;

/// The operand that `choose` chooses, element by element.
pub(super) struct Extremum {
    pub(super) spec: &'static OpSpec,
    pub(super) choose: Binary,
    /// Holds where the first operand is chosen, ties included.
    pub(super) is_first: Compare,
}

/// Cases of two operands on grids that never meet: no ties.
pub(super) fn case(g: &mut Gen, op: Extremum) -> Result<Case> {
    g.two_inputs(op, Domain::Grid(0.0), Domain::Grid(0.05))
}

impl Op for Extremum {
    fn spec(&self) -> &'static OpSpec {
        self.spec
    }

    fn forward(&self, x: &[&Array], save: &mut Saved) -> Result<Vec<Array>> {
        save.keep(x[0]);
        save.keep(x[1]);
        Ok(vec![ops::binary(self.choose, x[0], x[1])?])
    }

    fn vjp(&self, saved: &Saved, dy: &[Option<Array>], want: &[bool]) -> Result<Vec<Option<Cotangent>>> {
        let (a, b, dy) = (saved.array(0)?, saved.array(1)?, only(dy)?);
        let first = ops::compare(self.is_first, a, b)?;
        let zero = Array::zeros(&[], dy.dtype(), dy.device())?;
        let da = wanted(want, 0, || ops::sum_to(&ops::select(&first, dy, &zero)?, a.shape()))?;
        let db = wanted(want, 1, || ops::sum_to(&ops::select(&first, &zero, dy)?, b.shape()))?;
        Ok(vec![da, db])
    }
}
