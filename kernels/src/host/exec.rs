//! One block: its threads as coroutines, its shared memory, its meetings.
#![allow(unsafe_code)]

use super::mma::Fragment;
use crate::kernel::KernelSpec;
use crate::launch::Geometry;
use crate::simt::{Dim3, Element, WARP};
use corosensei::{Coroutine, CoroutineResult, Yielder};
use std::cell::Cell;
use std::panic::Location;
use std::rc::Rc;

/// An argument of a launch as the kernel sees it on the host.
#[derive(Clone, Copy, Debug)]
pub enum BoundArg {
    /// Memory.
    Memory(View),
    /// The bits of a number.
    Scalar(u64),
}

/// Memory as a kernel sees it: where it is and how far it reaches.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The first byte.
    pub data: *mut u8,
    /// The length in bytes.
    pub bytes: usize,
}

impl View {
    /// The view from element `i` of `size` bytes on.
    pub fn offset(self, i: u32, size: usize) -> View {
        let skipped = i as usize * size;
        View { data: self.data.wrapping_add(skipped), bytes: self.bytes.saturating_sub(skipped) }
    }
}

/// Where a thread is.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// In its block.
    pub thread: Dim3,
    /// Its block in the grid.
    pub block: Dim3,
    /// Threads per block.
    pub block_dim: Dim3,
    /// Blocks of the grid.
    pub grid_dim: Dim3,
    /// The number of the thread in its block.
    pub number: u32,
}

/// What lanes do when they meet.
#[derive(Clone, Copy, Debug)]
pub enum Exchange {
    /// Nothing.
    Sync,
    /// Read the value of a lane.
    Shuffle {
        /// That lane.
        source: u32,
    },
    /// Learn whose values are not 0.
    Ballot,
}

/// Why a thread waits.
#[derive(Clone, Copy)]
enum Wait {
    Barrier,
    Exchange { mask: u32, value: u64, exchange: Exchange },
    Mma { fragment: Fragment, model: fn(&[Fragment; 32]) -> [[f32; 4]; 32] },
}

/// What a thread gets when it goes on.
#[derive(Clone, Copy)]
enum Resume {
    Go,
    Value(u64),
    Product([f32; 4]),
}

/// The running thread's side of its block.
struct Running {
    position: Position,
    yielder: *const Yielder<Resume, Wait>,
    tiles: *mut Tiles,
}

thread_local! {
    static RUNNING: Cell<*const Running> = const { Cell::new(std::ptr::null()) };
}

fn running() -> &'static Running {
    let running = RUNNING.get();
    assert!(!running.is_null(), "a kernel's vocabulary is for kernels: it was used outside a launch");
    // SAFETY: set by `run_block` to the state of the thread it resumes, which outlives the resumption.
    unsafe { &*running }
}

/// Where the running thread is.
pub fn position() -> Position {
    running().position
}

fn wait(wait: Wait) -> Resume {
    let me = running();
    // SAFETY: the yielder lives as long as its coroutine, which is running.
    unsafe { &*me.yielder }.suspend(wait)
}

/// Waits for the block.
#[track_caller]
pub fn barrier() {
    wait(Wait::Barrier);
}

/// Orders this thread's writes.
#[track_caller]
pub fn fence() {}

/// Meets the lanes of `mask`.
#[track_caller]
pub fn exchange(mask: u32, value: u64, exchange: Exchange) -> u64 {
    match wait(Wait::Exchange { mask, value, exchange }) {
        Resume::Value(value) => value,
        _ => 0,
    }
}

/// Meets all lanes for a product.
#[track_caller]
pub fn mma(fragment: Fragment, model: fn(&[Fragment; 32]) -> [[f32; 4]; 32]) -> [f32; 4] {
    match wait(Wait::Mma { fragment, model }) {
        Resume::Product(d) => d,
        _ => [0.0; 4],
    }
}

/// A limit.
#[track_caller]
pub fn bound(end: u32) -> u32 {
    end
}

#[track_caller]
fn element<T, const N: usize>(view: View, i: u32) -> *mut T {
    let start = i as usize * size_of::<T>();
    assert!(start + N * size_of::<T>() <= view.bytes, "element {i} of {} bytes", view.bytes);
    // SAFETY: inside the view.
    unsafe { view.data.add(start).cast() }
}

/// Reads `N` elements.
#[track_caller]
pub fn read<T: Element, const N: usize>(view: View, i: u32) -> [T; N] {
    // SAFETY: `element` checked the range; every bit pattern is a T.
    unsafe { element::<T, N>(view, i).cast::<[T; N]>().read_unaligned() }
}

/// Writes `N` elements.
#[track_caller]
pub fn write<T: Element, const N: usize>(view: View, i: u32, values: [T; N]) {
    // SAFETY: `element` checked the range.
    unsafe { element::<T, N>(view, i).cast::<[T; N]>().write_unaligned(values) }
}

/// Changes an element as one step.
#[track_caller]
pub fn atomic<T: Element>(view: View, i: u32, change: impl FnOnce(T) -> T) -> T {
    let [old] = read::<T, 1>(view, i);
    write(view, i, [change(old)]);
    old
}

/// The shared memory of a block: tiles by the line that declares them, and the dynamic one.
struct Tiles {
    fixed: Vec<(&'static Location<'static>, Vec<u128>)>,
    dynamic: Vec<u128>,
    dynamic_bytes: usize,
}

/// The tile of the calling line.
#[track_caller]
pub fn static_shared(count: usize, size: usize) -> View {
    let at = Location::caller();
    // SAFETY: only the running thread of the block touches the tiles, and only here and below.
    let tiles = unsafe { &mut *running().tiles };
    let index = tiles.fixed.iter().position(|(known, _)| *known == at).unwrap_or_else(|| {
        tiles.fixed.push((at, vec![0; (count * size).div_ceil(16)]));
        tiles.fixed.len() - 1
    });
    View { data: tiles.fixed[index].1.as_mut_ptr().cast(), bytes: count * size }
}

/// The dynamic tile.
pub fn dynamic_shared(_size: usize) -> View {
    // SAFETY: as in `static_shared`.
    let tiles = unsafe { &mut *running().tiles };
    View { data: tiles.dynamic.as_mut_ptr().cast(), bytes: tiles.dynamic_bytes }
}

/// Runs one block to its end.
///
/// # Errors
/// One line per thing that went wrong.
pub fn run_block(
    kernel: &'static KernelSpec,
    geometry: &Geometry,
    block: Dim3,
    args: &[BoundArg],
) -> Result<(), String> {
    let args: Rc<[BoundArg]> = args.into();
    let (block_dim, grid_dim) = (geometry.block_dim(), geometry.grid_dim());
    let count = block_dim.count() as u32;
    let dynamic_bytes = geometry.shared as usize;
    let mut tiles = Tiles { fixed: Vec::new(), dynamic: vec![0; dynamic_bytes.div_ceil(16)], dynamic_bytes };
    let mut states: Vec<Running> = (0..count)
        .map(|number| Running {
            position: Position {
                thread: Dim3::new(
                    number % block_dim.x,
                    number / block_dim.x % block_dim.y,
                    number / (block_dim.x * block_dim.y),
                ),
                block,
                block_dim,
                grid_dim,
                number,
            },
            yielder: std::ptr::null(),
            tiles: &raw mut tiles,
        })
        .collect();
    let states_at = states.as_mut_ptr();
    let mut threads: Vec<Coroutine<Resume, Wait, ()>> = (0..count as usize)
        .map(|number| {
            // SAFETY: `states` outlives the coroutines and is not moved.
            let state = unsafe { states_at.add(number) };
            let args = Rc::clone(&args);
            Coroutine::new(move |yielder: &Yielder<Resume, Wait>, _| {
                // SAFETY: as above; only this thread writes its own state.
                unsafe { (*state).yielder = yielder };
                (kernel.thread)(&args);
            })
        })
        .collect();
    let mut waits: Vec<Option<Wait>> = vec![None; count as usize];
    let mut resumes: Vec<Option<Resume>> = vec![Some(Resume::Go); count as usize];
    loop {
        for number in 0..count as usize {
            let Some(resume) = resumes[number].take() else { continue };
            // SAFETY: as above.
            RUNNING.set(unsafe { states_at.add(number) });
            waits[number] = match threads[number].resume(resume) {
                CoroutineResult::Yield(wait) => Some(wait),
                CoroutineResult::Return(()) => None,
            };
            RUNNING.set(std::ptr::null());
        }
        if threads.iter().all(Coroutine::done) {
            return Ok(());
        }
        if threads.iter().zip(&waits).all(|(thread, wait)| thread.done() || matches!(wait, Some(Wait::Barrier))) {
            if threads.iter().any(Coroutine::done) {
                return Err("a thread has ended where others wait at a barrier".into());
            }
            resumes.fill(Some(Resume::Go));
            continue;
        }
        if !meet_warps(&waits, &mut resumes) {
            return Err("threads wait for others that do not come".into());
        }
    }
}

/// Lets every complete meeting of lanes happen; whether there was one.
fn meet_warps(waits: &[Option<Wait>], resumes: &mut [Option<Resume>]) -> bool {
    let mut met = false;
    for (warp, waits) in waits.chunks(WARP as usize).enumerate() {
        let first = warp * WARP as usize;
        let arrived = |lane: usize, mask: u32| match waits.get(lane) {
            Some(Some(Wait::Exchange { mask: theirs, .. })) => *theirs == mask,
            Some(Some(Wait::Mma { .. })) => mask == u32::MAX,
            _ => false,
        };
        for lane in 0..waits.len() {
            let mask = match waits[lane] {
                Some(Wait::Exchange { mask, .. }) => mask,
                Some(Wait::Mma { .. }) => u32::MAX,
                _ => continue,
            };
            let all = (0..WARP as usize).filter(|other| mask >> other & 1 == 1).all(|other| arrived(other, mask));
            if resumes[first + lane].is_some() || !all {
                continue;
            }
            met = true;
            let value = |lane: usize| match waits[lane] {
                Some(Wait::Exchange { value, .. }) => value,
                _ => 0,
            };
            resumes[first + lane] = Some(match waits[lane] {
                Some(Wait::Exchange { value: own, exchange, .. }) => Resume::Value(match exchange {
                    Exchange::Sync => 0,
                    Exchange::Shuffle { source } if mask >> source & 1 == 1 => value(source as usize),
                    Exchange::Shuffle { .. } => own,
                    Exchange::Ballot => (0..WARP as usize)
                        .filter(|other| mask >> other & 1 == 1 && value(*other) != 0)
                        .map(|other| 1 << other)
                        .sum(),
                }),
                Some(Wait::Mma { model, .. }) => {
                    let fragments = std::array::from_fn(|lane| match waits[lane] {
                        Some(Wait::Mma { fragment, .. }) => fragment,
                        _ => unreachable!("all lanes have arrived with a fragment"),
                    });
                    Resume::Product(model(&fragments)[lane])
                }
                _ => unreachable!("only waiting lanes meet"),
            });
        }
    }
    met
}
