//! Networks over the views of a batch.

use std::ops::Range;

use selfsame_autograd::Tensor;
use selfsame_engine::Result;
use selfsame_models::Ctx;

use crate::method::{Embeddings, Views};

/// What `forward` makes of each of the views `range`, as embeddings `{name}{view}`. Batch norm sees one view at a time.
///
/// # Errors
/// Those of `forward`; `Config` when there are fewer views.
pub fn each_view(
    views: &Views,
    range: Range<usize>,
    name: &str,
    cx: &Ctx,
    forward: impl Fn(&Tensor, &Ctx) -> Result<Tensor>,
) -> Result<Embeddings> {
    range.into_iter().try_fold(Embeddings::default(), |all, view| {
        Ok(all.with(format!("{name}{view}"), forward(views.view(view)?, &cx.clone().view(view))?))
    })
}

/// The embeddings `{name}{view}` of the views `range`, in order: what [`each_view`] has made.
///
/// # Errors
/// `Config` when one is missing.
pub fn of_views(z: &Embeddings, name: &str, range: Range<usize>) -> Result<Vec<Tensor>> {
    range.map(|view| z.get(&format!("{name}{view}")).cloned()).collect()
}
