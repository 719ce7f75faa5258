//! Ctrl-C and SIGTERM: the first asks the running work to stop after its step, the second ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use selfsame_engine::{Error, ErrorKind, Result};

/// Listens from now on. The flag becomes true at the first signal.
pub(crate) fn listen() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if seen.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("selfsame: stopping after this step (once more to stop at once)");
    })
    .map_err(|error| Error::new(ErrorKind::Io, "signal handler", error.to_string()))?;
    Ok(stop)
}
