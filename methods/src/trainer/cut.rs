//! How the batch of a step is cut: over ranks, and on each rank into micro-batches.

use std::ops::Range;

use selfsame_engine::{Error, ErrorKind, Result};
use selfsame_kernels::order::LEAF;
use selfsame_models::BatchNormMode;

use crate::config::Config;

/// Which images each rank computes, in which micro-batches, and how micro-batches and batch norm go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Images of each micro-batch of each rank, in global order.
    ranks: Vec<Vec<Range<usize>>>,
    cached: bool,
    batch_norm: BatchNormMode,
}

impl Cut {
    /// The cut that `batch`, `micro_batch`, `grad_cache` and `batch_norm` describe, over `ranks` ranks whose shares are
    /// whole leaves, as even as those allow.
    ///
    /// # Errors
    /// `Numerics` when a micro-batch or share would begin inside a leaf; `Config` for values out of range.
    pub fn of(config: &Config, ranks: usize) -> Result<Cut> {
        let (batch, micro_batch) = (config.at_least("batch", 2)?, config.usize("micro_batch")?);
        let leaves = batch.div_ceil(LEAF);
        if ranks == 0 || ranks > leaves {
            let got = format!("{ranks} for a batch of {batch} images");
            return Err(Error::new(ErrorKind::Config, "ranks", got)
                .expected(format!("1 to {leaves}: a share is at least one leaf of {LEAF} images")));
        }
        let start = |rank: usize| (rank * leaves / ranks * LEAF).min(batch);
        let sizes = (0..ranks).map(|rank| {
            let share = start(rank + 1) - start(rank);
            let micro = if micro_batch == 0 { share } else { micro_batch };
            (0..share).step_by(micro).map(|from| micro.min(share - from)).collect()
        });
        let name = config.choice("batch_norm", &BatchNormMode::NAMES)?;
        let batch_norm = BatchNormMode::parse(name).unwrap_or_default();
        Cut::sizes(sizes.collect(), config.bool("grad_cache")?, batch_norm)
    }

    /// The cut into micro-batches of those sizes, per rank: `[[32, 16], [16]]` is two ranks, of which the first has two.
    /// With `cached`, micro-batches run one after another; without, they advance together.
    ///
    /// # Errors
    /// `Config` when there is none, or one without images; `Numerics` when one begins inside a leaf.
    pub fn sizes(sizes: Vec<Vec<usize>>, cached: bool, batch_norm: BatchNormMode) -> Result<Cut> {
        let mut end = 0;
        let ranks: Vec<Vec<Range<usize>>> = sizes
            .iter()
            .map(|rank| {
                let micro = rank.iter().map(|size| {
                    end += size;
                    end - size..end
                });
                micro.collect()
            })
            .collect();
        if ranks.is_empty() || ranks.iter().any(|micro| micro.is_empty() || micro.iter().any(Range::is_empty)) {
            return Err(Error::new(ErrorKind::Config, "micro-batches", format!("{sizes:?} images"))
                .expected("at least one image in each, and a micro-batch on every rank"));
        }
        if let Some(micro) = ranks.iter().flatten().find(|micro| micro.start % LEAF != 0) {
            let got = format!("a batch cut at image {}", micro.start);
            return Err(Error::new(ErrorKind::Numerics, "micro-batches", got)
                .expected(format!("cuts at multiples of {LEAF} images"))
                .hint("other cuts change the order of sums over samples, and so the bits"));
        }
        Ok(Cut { ranks, cached, batch_norm })
    }

    /// Number of ranks.
    pub fn ranks(&self) -> usize {
        self.ranks.len()
    }

    /// Images in all.
    pub fn images(&self) -> usize {
        self.ranks.last().and_then(|micro| micro.last()).map_or(0, |last| last.end)
    }

    /// Images of each micro-batch of each rank.
    pub fn micro_batches(&self) -> Vec<Vec<usize>> {
        self.ranks.iter().map(|micro| micro.iter().map(Range::len).collect()).collect()
    }

    /// What batch norm normalises by.
    pub fn batch_norm(&self) -> BatchNormMode {
        self.batch_norm
    }

    /// Whether the bits are those of the whole batch in one piece.
    pub fn is_exact(&self) -> bool {
        self.is_whole() || self.batch_norm != BatchNormMode::Local
    }

    /// Refuses this cut of a run that began with micro-batches of these sizes, per rank, where its bits depend on them.
    ///
    /// # Errors
    /// `Numerics` for other statistics groups of batch norm `local`. Runs of earlier versions do not know their sizes.
    pub(crate) fn expect_groups_of(&self, began: &[Vec<usize>]) -> Result<()> {
        let own = self.micro_batches();
        // Which rank computes a group changes no bit.
        if self.batch_norm != BatchNormMode::Local || began.is_empty() || own.concat() == began.concat() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Numerics, "batch_norm = \"local\"", in_words(&own))
            .expected(format!("{}, as the run began", in_words(began)))
            .hint(
                "each micro-batch is normalised by itself: cut otherwise, the bits are others in strict numerics too; \
                 give the run's own --ranks and --micro-batch",
            ))
    }

    /// In words, for the log; `None` for a batch in one piece.
    pub fn describe(&self) -> Option<String> {
        if self.is_whole() {
            return None;
        }
        let mut text = in_words(&self.micro_batches());
        if self.has_micro_batches() {
            text.push_str(if self.runs_apart() { ", with gradient caching" } else { ", in lockstep" });
        }
        if self.batch_norm == BatchNormMode::Local {
            text.push_str("; each is a statistics group of batch norm, so that results depend on the cut");
        }
        Some(text)
    }

    /// Whether a forward sees a part of the batch while the others do not run: gradient caching.
    pub fn runs_apart(&self) -> bool {
        self.cached && self.has_micro_batches()
    }

    pub(super) fn parts(&self) -> &[Vec<Range<usize>>] {
        &self.ranks
    }

    pub(super) fn has_micro_batches(&self) -> bool {
        self.ranks.iter().any(|micro| micro.len() > 1)
    }

    pub(super) fn is_whole(&self) -> bool {
        self.ranks.len() == 1 && !self.has_micro_batches()
    }
}

/// Micro-batches of these sizes, per rank.
fn in_words(ranks: &[Vec<usize>]) -> String {
    let words = |sizes: &Vec<usize>| sizes.iter().map(usize::to_string).collect::<Vec<_>>().join("+");
    let shares: Vec<String> = ranks.iter().map(words).collect();
    match &shares[..] {
        [share] => format!("each batch in micro-batches of {share} images"),
        _ => format!("each batch over {} ranks: {} images", shares.len(), shares.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{settings, zoo::simclr};

    fn cut(batch: usize, micro: usize, ranks: usize) -> Result<Cut> {
        let mut config = settings::defaults(&simclr::SPEC).unwrap();
        config.apply_setting(&format!("batch={batch}")).unwrap();
        config.apply_setting(&format!("micro_batch={micro}")).unwrap();
        Cut::of(&config, ranks)
    }

    #[test]
    fn shares_are_whole_leaves_and_micro_batches_whole_but_the_last() {
        let sizes = |batch, micro, ranks| cut(batch, micro, ranks).unwrap().micro_batches();
        assert_eq!(sizes(64, 0, 1), [[64]]);
        assert_eq!(sizes(80, 32, 1), [[32, 32, 16]]);
        assert_eq!(sizes(64, 0, 3), [[16], [16], [32]]);
        assert_eq!(sizes(72, 32, 2), [[32, 0], [32, 8]].map(|r| r.into_iter().filter(|n| *n > 0).collect::<Vec<_>>()));
        assert_eq!(sizes(8, 100, 1), [[8]]);
        assert!(cut(64, 64, 1).unwrap().is_whole() && !cut(64, 32, 1).unwrap().is_whole());
        assert_eq!(cut(72, 32, 2).unwrap().images(), 72);
    }

    #[test]
    fn cuts_that_would_change_the_bits_are_refused() {
        let error = cut(64, 24, 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Numerics);
        assert!(error.sentence().contains("at image 24") && error.sentence().contains("multiples of 16"), "{error}");
        assert!(cut(32, 0, 3).unwrap_err().sentence().contains("1 to 2"));
        assert!(cut(32, 0, 0).is_err());
        for sizes in [vec![], vec![vec![]], vec![vec![16, 0]]] {
            let error = Cut::sizes(sizes, true, BatchNormMode::Lockstep).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
        }
    }

    #[test]
    fn a_local_cut_says_that_results_depend_on_it() {
        let describe = |batch_norm| Cut::sizes(vec![vec![32, 16], vec![16]], true, batch_norm).unwrap().describe();
        let local = describe(BatchNormMode::Local).unwrap();
        assert!(
            local.contains("2 ranks: 32+16, 16 images, with gradient caching") && local.contains("depend on the cut")
        );
        assert!(!describe(BatchNormMode::Frozen).unwrap().contains("depend"));
        assert_eq!(cut(64, 0, 1).unwrap().describe(), None);
    }

    #[test]
    fn another_cut_is_refused_where_the_bits_depend_on_it() {
        let cut = |sizes: &[&[usize]], batch_norm| {
            Cut::sizes(sizes.iter().map(|rank| rank.to_vec()).collect(), true, batch_norm).unwrap()
        };
        let (one, two) = ([vec![16, 16, 16]], [vec![16, 16], vec![16]]);
        for batch_norm in [BatchNormMode::Lockstep, BatchNormMode::Frozen] {
            cut(&[&[48]], batch_norm).expect_groups_of(&one).unwrap();
        }
        // The same groups on other ranks, and a run that did not write its own down.
        let local = |sizes| cut(sizes, BatchNormMode::Local);
        local(&[&[16, 16, 16]]).expect_groups_of(&two).unwrap();
        local(&[&[16], &[16, 16]]).expect_groups_of(&one).unwrap();
        local(&[&[48]]).expect_groups_of(&[]).unwrap();
        for sizes in [&[&[48][..]][..], &[&[32, 16]], &[&[16], &[32]]] {
            let error = local(sizes).expect_groups_of(&two).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Numerics);
            let sentence = error.sentence();
            assert!(sentence.contains("over 2 ranks: 16+16, 16 images, as the run began"), "{sentence}");
        }
    }
}
