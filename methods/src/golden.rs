//! Golden bits: one hash per operation, loss and method, to be compared with those that another machine found.
//!
//! An operation's and a loss's hash is that of everything their forward and backward make, in f64 and f32, on the first
//! cases of their own gradient check ([`OpSpec::cases`], [`LossSpec::cases`]); a method's is the chain of fingerprints of a short
//! training on the built-in data, from the rendering of the pictures to the optimiser.

use std::sync::Arc;

use selfsame_autograd::{Domain, Gen, Gradient, OpSpec, Tensor, apply};
use selfsame_engine::hash::ContentHasher;
use selfsame_engine::op_log::LogOptions;
use selfsame_engine::{Array, DType, Device, ErrorKind, Result, ops};
use selfsame_losses::{LossSpec, Role};

use crate::method::MethodSpec;
use crate::observer::Observer;
use crate::replay::Scratch;
use crate::run::fingerprints::Digest;
use crate::run::{CreateMode, Fingerprint};
use crate::session::{Pretrain, pretrain};
use crate::settings;

/// Cases of an operation or a loss.
const CASES: u64 = 6;

/// Seed of the cases.
const SEED: u64 = 20;

/// The short training: two epochs of one step, on an encoder with everything that a ResNet has.
const TRAINING: [&str; 5] = ["data=scenes:train=32,test=16", "batch=32", "epochs=2", "warmup_epochs=1", "eval_every=0"];

/// What forward and backward of an operation make on `device`.
///
/// # Errors
/// Those of the operation.
pub fn operation(spec: &OpSpec, device: &Device) -> Result<Digest> {
    logged(device, |number, dtype| {
        let mut g = Gen::new(device, spec.name, SEED, number);
        let case = (spec.cases)(&mut g)?;
        let is_tracked = spec.gradient == Gradient::Vjp;
        let inputs: Vec<Tensor> = case.inputs.iter().map(|x| tensor(x, dtype, is_tracked)).collect::<Result<_>>()?;
        let slots: Vec<&Tensor> = case.slots.iter().map(|&input| &inputs[input]).collect();
        let mut objective: Option<Tensor> = None;
        for y in apply(case.op.clone(), &slots)?.iter().filter(|y| y.is_tracked()) {
            let dy = tensor(&g.array(y.shape(), Domain::Normal)?, dtype, false)?;
            let part = y.mul(&dy)?.sum_all()?;
            objective = Some(match objective {
                Some(sum) => sum.add(&part)?,
                None => part,
            });
        }
        objective.map_or(Ok(()), |objective| objective.backward().map(drop))
    })
}

/// What forward and backward of a loss make on `device`.
///
/// # Errors
/// Those of the loss.
pub fn loss(spec: &'static LossSpec, device: &Device) -> Result<Digest> {
    logged(device, |number, dtype| {
        let case = (spec.cases)(&mut Gen::new(device, spec.name, SEED, number))?;
        let role = |name: &str| spec.inputs.iter().find(|port| port.name == name).map(|port| port.role);
        let input = |(name, x): (&String, &Array)| {
            Ok((name.clone(), tensor(x, dtype, role(name) == Some(Role::Differentiated))?))
        };
        let inputs = case.inputs.iter().map(input).collect::<Result<_>>()?;
        let outputs = (spec.run)(&inputs, &case.options)?;
        outputs.get("loss").map_or(Ok(()), |loss| loss.backward().map(drop))
    })
}

/// A short training of a method on `device`.
///
/// # Errors
/// Those of training.
pub fn training(spec: &'static MethodSpec, device: &Device) -> Result<Digest> {
    let mut config = settings::defaults(spec)?;
    TRAINING.iter().try_for_each(|setting| config.apply_setting(setting))?;
    settings::shrink(&mut config)?;
    let scratch = Scratch::create(None)?;
    let request = Pretrain {
        spec,
        config,
        device: device.clone(),
        ranks: 1,
        workers: 1,
        out: scratch.path().to_path_buf(),
        mode: CreateMode::New,
        stop: Arc::default(),
    };
    let mut last = Last::default();
    pretrain(request, &mut last)?;
    Ok(last.0)
}

/// Remembers the chain.
#[derive(Default)]
struct Last(Digest);

impl Observer for Last {
    fn fingerprint(&mut self, fingerprint: &Fingerprint) {
        self.0 = fingerprint.chain;
    }

    fn measures(&self) -> bool {
        false
    }
}

/// `x`, in `dtype` if it is a float, tracked if asked and possible.
fn tensor(x: &Array, dtype: DType, is_tracked: bool) -> Result<Tensor> {
    if !x.dtype().is_float() {
        return Ok(Tensor::constant(x.clone()));
    }
    let x = ops::cast(x, dtype)?;
    Ok(if is_tracked { Tensor::leaf(x) } else { Tensor::constant(x) })
}

/// The hash of all that `run` makes in every case, in f64 and, where its options are not bound to f64, in f32.
fn logged(device: &Device, run: impl Fn(u64, DType) -> Result<()>) -> Result<Digest> {
    let log = device.host().op_log();
    let mut all = ContentHasher::new();
    for (number, dtype) in (0..CASES).flat_map(|number| [(number, DType::F64), (number, DType::F32)]) {
        log.begin(LogOptions::default());
        let result = run(number, dtype);
        let trace = log.end();
        match result {
            // In f64 it has just run: what it refuses is f32 beside statistics or parameters that are its options.
            Err(error) if dtype == DType::F32 && matches!(error.kind(), ErrorKind::DType | ErrorKind::Shape) => {
                continue;
            }
            result => result?,
        }
        for record in trace.lanes.values().flatten() {
            all.text(record.op);
            all.text(record.direction.name());
            all.text(&Digest(record.hash).to_string());
        }
    }
    Ok(Digest(all.finish()))
}
