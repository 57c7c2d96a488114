//! What the process is told by signals.

use std::io;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The first future is ready at SIGTERM or SIGINT, which from now on do not end the process
/// themselves; the second one when one of them comes again.
///
/// # Errors
/// When the handlers cannot be set up.
pub fn stop_signals() -> io::Result<(impl Future<Output = ()>, impl Future<Output = ()>)> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (told, first) = watch::channel(0_u32);
    let second = told.subscribe();
    tokio::spawn(async move {
        loop {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            told.send_modify(|times| *times = times.saturating_add(1));
        }
    });
    let at_least = |mut told: watch::Receiver<u32>, times| async move {
        if told.wait_for(|told| *told >= times).await.is_err() {
            std::future::pending().await // the runtime is ending: nobody tells any more
        }
    };
    Ok((at_least(first, 1), at_least(second, 2)))
}

/// SIGHUP, which from now on does not end the process.
///
/// # Errors
/// When the handler cannot be set up.
pub fn reload_signal() -> io::Result<Signal> {
    signal(SignalKind::hangup())
}
