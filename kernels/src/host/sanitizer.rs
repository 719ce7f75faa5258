//! What a thread sanitizer must be told: that a coroutine has a call stack of its own.
//!
//! Without it, the sanitizer's record of a host thread's calls mixes those of all coroutines that the thread runs, and
//! runs over its end. Compiled with `--cfg selfsame_thread_sanitizer`, next to the sanitizer itself (CONTRIBUTING.md).
#![cfg_attr(selfsame_thread_sanitizer, allow(unsafe_code))]

/// A call stack, as the sanitizer sees it.
#[cfg(not(selfsame_thread_sanitizer))]
pub(super) struct CallStack;

#[cfg(not(selfsame_thread_sanitizer))]
impl CallStack {
    pub(super) fn new() -> CallStack {
        CallStack
    }

    /// Runs `resume`, which switches to the coroutine and back.
    #[inline(always)]
    pub(super) fn within<R>(&self, resume: impl FnOnce() -> R) -> R {
        resume()
    }
}

#[cfg(selfsame_thread_sanitizer)]
mod enabled {
    use std::ffi::{c_uint, c_void};

    // Of LLVM's sanitizer/tsan_interface.h.
    unsafe extern "C" {
        fn __tsan_get_current_fiber() -> *mut c_void;
        fn __tsan_create_fiber(flags: c_uint) -> *mut c_void;
        fn __tsan_destroy_fiber(fiber: *mut c_void);
        fn __tsan_switch_to_fiber(fiber: *mut c_void, flags: c_uint);
    }

    /// A call stack, as the sanitizer sees it.
    pub(in super::super) struct CallStack(*mut c_void);

    impl CallStack {
        pub(in super::super) fn new() -> CallStack {
            // SAFETY: the sanitizer's runtime is linked in, as the configuration promises.
            CallStack(unsafe { __tsan_create_fiber(0) })
        }

        /// Runs `resume`, which switches to the coroutine and back. Calls that begin before a switch end after another:
        /// each stack sees as many ends as beginnings.
        pub(in super::super) fn within<R>(&self, resume: impl FnOnce() -> R) -> R {
            // SAFETY: as above; the coroutine runs on this thread alone, and not now.
            unsafe {
                let outside = __tsan_get_current_fiber();
                __tsan_switch_to_fiber(self.0, 0);
                let result = resume();
                __tsan_switch_to_fiber(outside, 0);
                result
            }
        }
    }

    impl Drop for CallStack {
        fn drop(&mut self) {
            // SAFETY: it was created by `new` and is not the current one.
            unsafe { __tsan_destroy_fiber(self.0) }
        }
    }
}

#[cfg(selfsame_thread_sanitizer)]
pub(super) use enabled::CallStack;
