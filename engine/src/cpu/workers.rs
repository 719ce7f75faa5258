//! The threads of one CPU device. Owned by the device, never global: emulated ranks each have their own.

use super::past;
use crate::profile::{Kind, Profiler, SpanLane, Work};
use crate::{Error, ErrorKind, Result};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A fixed set of threads: the calling one and workers beside it.
///
/// The caller works along, which spares waking one thread more: layer norm's gradient of 64 rows takes two threads of an
/// AMD EPYC 14 µs and not 28.
///
/// Work is handed out task by task, so which thread runs a task varies; results must therefore depend on the task
/// index alone. No collective, lock or channel wait may happen inside a task.
pub struct Workers {
    threads: usize,
    /// The workers.
    pool: Option<rayon::ThreadPool>,
    profiler: Arc<Profiler>,
}

impl Workers {
    /// Starts `threads - 1` workers. What each thread does goes to `profiler`.
    ///
    /// # Errors
    /// When `threads` is zero or the system refuses a thread.
    pub fn new(threads: usize, profiler: Arc<Profiler>) -> Result<Workers> {
        if threads == 0 {
            return Err(Error::new(ErrorKind::Config, "cpu device", "0 threads").expected("at least one thread"));
        }
        let pool = if threads == 1 {
            None
        } else {
            Some(
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads - 1)
                    .thread_name(|i| format!("selfsame-cpu-{}", i + 1))
                    .build()
                    .map_err(|e| Error::new(ErrorKind::Device, "cpu device", format!("{threads} threads: {e}")))?,
            )
        };
        Ok(Workers { threads, pool, profiler })
    }

    /// How many threads run tasks at once.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Elements per task of a loop over `total` elements that waits for memory, a multiple of 4096: enough tasks to
    /// balance the threads, each as long as may be, since memory is read fastest in long runs. (Two threads over half a
    /// gigabyte: tasks of 262,144 elements take 5 to 8 % less time than tasks of 32,768, on an idle bus up to 25 %.)
    pub(crate) fn task_len(&self, total: usize) -> usize {
        (total / (8 * self.threads)).clamp(1 << 14, 1 << 18) >> 12 << 12
    }

    /// Runs `task(0)` … `task(tasks - 1)`, each once, lowest index first handed out, and returns when all are done.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        self.hand_out(tasks, &task);
    }

    /// The one place that names the thread pool: compiled once, not once per task type.
    fn hand_out(&self, tasks: usize, task: &(dyn Fn(usize) + Sync)) {
        match &self.pool {
            Some(pool) if tasks > 1 => {
                let next = AtomicUsize::new(0);
                let take_tasks = || {
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= tasks {
                            break;
                        }
                        task(i);
                    }
                    past::fence();
                };
                let profiled = self.profiler.current();
                let work = || match profiled {
                    None => take_tasks(),
                    Some(name) => {
                        let started = Instant::now();
                        take_tasks();
                        let time = [started, Instant::now()];
                        self.profiler.record(SpanLane::Thread, Kind::Job, name, time, Work::default());
                    }
                };
                pool.in_place_scope(|scope| {
                    for _ in 1..self.threads.min(tasks) {
                        scope.spawn(|_| work());
                    }
                    work();
                });
            }
            _ => {
                (0..tasks).for_each(task);
                past::fence();
            }
        }
    }

    /// Cuts `out` into chunks of `chunk` elements (the last may be shorter) and runs `task(i, chunk i)` for each.
    ///
    /// A single chunk runs on the calling thread. `chunk` must be positive.
    pub fn run_chunks<T: Send>(&self, out: &mut [T], chunk: usize, task: impl Fn(usize, &mut [T]) + Sync) {
        self.run_parts(out.chunks_mut(chunk), task);
    }

    /// [`Workers::run_chunks`] over two outputs at once: chunk `i` of both goes to `task(i, _, _)`. Both must have
    /// the same number of chunks.
    pub fn run_chunks2<T: Send, U: Send>(
        &self,
        (a, chunk_a): (&mut [T], usize),
        (b, chunk_b): (&mut [U], usize),
        task: impl Fn(usize, &mut [T], &mut [U]) + Sync,
    ) {
        debug_assert_eq!(a.len().div_ceil(chunk_a), b.len().div_ceil(chunk_b));
        self.run_parts(a.chunks_mut(chunk_a).zip(b.chunks_mut(chunk_b)), |i, (a, b)| task(i, a, b));
    }

    /// Gives part `i` to `task(i, _)`. The locks are never waited for: each part has one task.
    pub(crate) fn run_parts<P: Send>(&self, parts: impl Iterator<Item = P>, task: impl Fn(usize, P) + Sync) {
        let parts: Vec<Mutex<Option<P>>> = parts.map(|part| Mutex::new(Some(part))).collect();
        self.run(parts.len(), |i| {
            let part = parts[i].lock().unwrap_or_else(PoisonError::into_inner).take();
            task(i, part.expect("a task runs once"));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_and_chunk_runs_once() {
        for threads in [1, 2, 3] {
            let workers = Workers::new(threads, Arc::default()).unwrap();
            let mut seen = vec![0usize; 1003];
            workers.run_chunks(&mut seen, 10, |i, part| {
                for (j, value) in part.iter_mut().enumerate() {
                    *value += 10 * i + j;
                }
            });
            assert!(seen.iter().copied().eq(0..1003));
            let (mut wide, mut narrow) = (vec![0usize; 12], vec![0usize; 4]);
            workers.run_chunks2((&mut wide, 3), (&mut narrow, 1), |i, wide, narrow| {
                wide.fill(i);
                narrow[0] = wide.len() + i;
            });
            assert_eq!(wide, [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
            assert_eq!(narrow, [3, 4, 5, 6]);
            let count = AtomicUsize::new(0);
            workers.run(100, |i| {
                count.fetch_add(i, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 4950);
        }
    }
}
