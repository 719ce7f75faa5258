//! Progress of a run on standard error: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use selfsame_methods::Observer;
use selfsame_methods::trainer::{Plan, StepRecord};

/// Shows what a run tells.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    plan: Option<Plan>,
    line_every: u64,
    started: Instant,
    knn: Option<f64>,
    rank: Option<f64>,
    first_step: Option<u64>,
}

impl Progress {
    /// For this process: a bar if standard error is a terminal, else a line every `line_every` steps.
    pub(crate) fn new(line_every: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(8));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        let (started, line_every) = (Instant::now(), line_every.max(1));
        Progress { bar, plan: None, line_every, started, knn: None, rank: None, first_step: None }
    }

    /// Removes the bar.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// One line of fixed columns.
    fn line(&self, record: &StepRecord, steps: u64) -> String {
        let ms = |time: Duration| time.as_millis();
        let times = &record.times;
        let rank = self.rank.map_or("-".into(), |rank| format!("{rank:.1}"));
        let std = record.embedding_std.map_or("-".into(), |std| format!("{std:.4}"));
        format!(
            "step {:>6}/{steps} | loss {:.4} | gnorm {:.2} | lr {:.4} | std {std} | erank {rank} | \
             data {} fwd {} bwd {} opt {} ms | {:.0} img/s | mem {:.2}/{:.2} GB{}",
            record.step,
            record.loss,
            record.grad_norm,
            record.lr,
            ms(times.data),
            ms(times.forward),
            ms(times.backward),
            ms(times.optimizer),
            record.images_per_second,
            record.memory_live as f64 / 1e9,
            record.memory_peak as f64 / 1e9,
            self.remaining(record.step, steps),
        )
    }

    /// Time left at the pace so far, evaluations included.
    fn remaining(&self, step: u64, steps: u64) -> String {
        let Some(first) = self.first_step else { return String::new() };
        let done = step.saturating_sub(first).max(1);
        let left = self.started.elapsed().as_secs_f64() * steps.saturating_sub(step) as f64 / done as f64;
        format!(" | eta {}", clock(left))
    }
}

/// Seconds as `1:23:45` or `2:07`.
fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

impl Observer for Progress {
    fn begin(&mut self, plan: &Plan, done: u64) {
        self.plan = Some(*plan);
        self.started = Instant::now();
        self.first_step = Some(done);
        match &self.bar {
            Some(bar) => {
                let style = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
                bar.set_length(plan.steps());
                bar.set_position(done);
            }
            None => eprintln!("training: {} epochs of {} steps", plan.epochs, plan.steps_per_epoch),
        }
    }

    fn step(&mut self, record: &StepRecord) {
        let Some(plan) = self.plan else { return };
        self.rank = record.effective_rank.or(self.rank);
        match &self.bar {
            Some(bar) => {
                bar.set_position(record.step);
                let knn = self.knn.map(|knn| format!(" | kNN {:.1} %", 100.0 * knn)).unwrap_or_default();
                bar.set_message(format!(
                    "epoch {}/{} | loss {:.3}{knn} | {:.0} img/s{}",
                    record.step.div_ceil(plan.steps_per_epoch),
                    plan.epochs,
                    record.loss,
                    record.images_per_second,
                    self.remaining(record.step, plan.steps()),
                ));
            }
            None if record.step.is_multiple_of(self.line_every) || record.step == plan.steps() => {
                eprintln!("{}", self.line(record, plan.steps()));
            }
            None => {}
        }
    }

    fn evaluated(&mut self, epoch: u64, knn: f64) {
        self.knn = Some(knn);
        self.say(&format!("epoch {epoch}: kNN accuracy {:.1} %", 100.0 * knn));
    }

    fn phase(&mut self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_style(
                    ProgressStyle::with_template("{spinner} {msg}")
                        .unwrap_or_else(|_| ProgressStyle::default_spinner()),
                );
                bar.set_message(what.to_string());
            }
            None => eprintln!("{what}"),
        }
    }

    fn note(&mut self, text: &str) {
        self.say(&format!("note: {text}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_reads_like_a_clock() {
        assert_eq!([0.4, 59.6, 127.0, 3600.0, 45296.0].map(clock), ["0:00", "1:00", "2:07", "1:00:00", "12:34:56"]);
    }
}
