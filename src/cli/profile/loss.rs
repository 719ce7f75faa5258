//! A loss on random embeddings: forward and backward, and nothing else.

use std::collections::BTreeMap;
use std::time::Instant;

use selfsame_autograd::Tensor;
use selfsame_engine::profile::{Owner, Phase, Probe, Roof};
use selfsame_engine::{Array, DType, Device, Error, ErrorKind, Result, nearest, ops};
use selfsame_kernels::philox::{Key, Purpose};
use selfsame_losses::{LossSpec, NamedTensors, Options, Role};
use selfsame_methods::profile::Profiled;

/// A loss with its options, under the name it is shown with.
pub(super) struct LossForm {
    pub(super) label: String,
    spec: &'static LossSpec,
    options: Options,
    dim: usize,
}

impl LossForm {
    /// The form that `NAME` or `NAME:key=value,key=value` means, with `common` settings before its own.
    pub(super) fn parse(
        text: &str,
        dim: usize,
        common: &[String],
        losses: &[&'static LossSpec],
        methods: &[&str],
    ) -> Result<LossForm> {
        let (name, own) = text.split_once(':').unwrap_or((text, ""));
        let Some(spec) = losses.iter().find(|spec| spec.name == name).copied() else {
            let known: Vec<&str> = methods.iter().copied().chain(losses.iter().map(|spec| spec.name)).collect();
            let error = Error::new(ErrorKind::Config, "profile", format!("'{name}'")).expected(known.join(", "));
            return Err(match nearest(name, known) {
                Some(near) => error.hint(format!("is '{near}' meant?")),
                None => error,
            });
        };
        let own = own.split(',').filter(|setting| !setting.is_empty());
        let settings: Vec<(String, String)> = common
            .iter()
            .map(String::as_str)
            .chain(own)
            .map(|setting| {
                let (key, value) = setting.split_once('=').ok_or_else(|| {
                    Error::new(ErrorKind::Config, format!("setting '{setting}'"), "no '='").expected("key=value")
                })?;
                Ok((key.trim().to_string(), value.to_string()))
            })
            .collect::<Result<_>>()?;
        if dim == 0 {
            return Err(Error::new(ErrorKind::Config, "--dim", "0").expected("at least 1"));
        }
        Ok(LossForm { label: text.to_string(), spec, options: Options::parse(spec, &settings)?, dim })
    }

    /// Normal numbers for every input that must be there, its first axis `rows` long and the others `dim`; labels are
    /// classes of four rows each.
    fn inputs(&self, rows: usize, device: &Device) -> Result<NamedTensors> {
        let _data = device.owned_by(Owner::Data);
        let mut inputs = BTreeMap::new();
        for (number, port) in self.spec.inputs.iter().enumerate().filter(|(_, port)| !port.optional) {
            let axes = port.shape.split(',').filter(|axis| axis.chars().any(char::is_alphanumeric)).count();
            let shape: Vec<usize> = (0..axes).map(|axis| if axis == 0 { rows } else { self.dim }).collect();
            let normal = || {
                let stream = Key::new(number as u64, Purpose::Check).stream(0, 0, 0);
                ops::normal(&shape, DType::F32, 0.0, 1.0, &stream, device)
            };
            let tensor = match port.role {
                Role::Differentiated => Tensor::leaf(normal()?),
                Role::Constant => Tensor::constant(normal()?),
                Role::Labels => {
                    let classes: Vec<i64> = (0..rows as i64).map(|row| row / 4).collect();
                    Tensor::constant(Array::from_slice(&classes, &[rows], device)?)
                }
            };
            inputs.insert(port.name.to_string(), tensor);
        }
        Ok(inputs)
    }

    fn step(&self, inputs: &NamedTensors, device: &Device) -> Result<()> {
        let phase = device.phase(Phase::Forward);
        let mut outputs = (self.spec.run)(inputs, &self.options)?;
        drop(phase);
        let _phase = device.phase(Phase::Backward);
        let loss = outputs
            .remove("loss")
            .ok_or_else(|| Error::new(ErrorKind::Config, self.spec.name, "no output 'loss'").expected("one"))?;
        drop(outputs);
        let grads = loss.backward()?;
        drop((loss, grads));
        Ok(())
    }

    /// Runs it on `rows` rows, `warmup` times unmeasured and then `steps` times.
    pub(super) fn run(
        &self,
        rows: usize,
        (warmup, steps): (usize, usize),
        device: &Device,
        roof: Option<Roof>,
    ) -> Result<Profiled> {
        device.begin_memory_log();
        let inputs = self.inputs(rows, device)?;
        let mut times = Vec::with_capacity(steps);
        for step in 0..warmup + steps {
            if step == warmup {
                device.profiler().start(roof);
            }
            let started = Instant::now();
            self.step(&inputs, device)?;
            if step >= warmup {
                times.push(started.elapsed());
            }
        }
        let recording = device.profiler().stop();
        let memory = device.end_memory_log().ok_or_else(|| {
            Error::new(ErrorKind::Config, "profile", "the memory log was ended by another profile")
                .expected("one profile of a device at a time")
        })?;
        Ok(Profiled { recording, memory, steps: times })
    }

    /// Runs it on `rows` rows for the memory alone.
    pub(super) fn probe(&self, rows: usize, device: &Device) -> Result<Probe> {
        Ok(Probe { batch: rows, is_cut: false, log: self.run(rows, (2, 0), device, None)?.memory })
    }
}
