//! A step has the same bits on one rank and on two: objectives over all images, queues, centres and banks included.

use std::time::Duration;

use crate::bench::{config, to_views};
use selfsame_data::{Loader, LoaderConfig, Split, open};
use selfsame_engine::Device;
use selfsame_methods::method::MethodSpec;
use selfsame_methods::trainer::{Cut, Plan, Trainer};
use selfsame_methods::zoo::{
    barlow_twins, byol, carl, deepcluster, deepcluster_v2, dino, domain_agnostic_self_distillation, iic, mira,
    relic_v2, sela, swav,
};
use selfsame_models::BatchNormMode;

const METHODS: [(&MethodSpec, &[&str]); 12] = [
    (&byol::SPEC, &[]),
    (&swav::SPEC, &["freeze_epochs=0", "queue=32", "queue_from=0"]),
    (&barlow_twins::SPEC, &[]),
    (&dino::SPEC, &["freeze_epochs=0"]),
    (&deepcluster::SPEC, &["clusters=5"]),
    (&deepcluster_v2::SPEC, &[]),
    (&sela::SPEC, &["classes=5", "heads=2"]),
    (&relic_v2::SPEC, &["large_crops=2"]),
    (&carl::SPEC, &["teacher=true"]),
    (&mira::SPEC, &["freeze_epochs=0"]),
    (&iic::SPEC, &["clusters=3", "over_clusters=5", "turns=both", "partners=2"]),
    (&domain_agnostic_self_distillation::SPEC, &[]),
];

#[test]
fn two_ranks_change_no_bit() {
    let device = Device::cpu_with(2).unwrap();
    for (spec, changed) in METHODS {
        let config = config(spec, &[changed, &["batch=32"]].concat());
        let data = open("scenes:train=64,test=20", Split::Train).unwrap();
        let plan = Plan::of(&config, 64).unwrap();
        let loader = LoaderConfig { batch: 32, views: (spec.views)(&config).unwrap(), ..LoaderConfig::default() };
        let batches: Vec<_> =
            Loader::new(data, loader).unwrap().map(|batch| to_views(&batch.unwrap(), &device)).collect();
        let trained = |ranks: Vec<Vec<usize>>| {
            let cut = Cut::sizes(ranks, false, BatchNormMode::Lockstep).unwrap();
            let mut trainer = Trainer::new(spec, &config, &plan, &device).unwrap().with_cut(cut).unwrap();
            for views in &batches {
                trainer.step(views, Duration::ZERO).unwrap();
            }
            trainer.snapshot().unwrap()
        };
        assert!(trained(vec![vec![32]]) == trained(vec![vec![16], vec![16]]), "{}: other bits on two ranks", spec.name);
    }
}
