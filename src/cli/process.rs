//! The process: its environment, its one thread, its signals, and the service manager that started it.

use std::path::Path;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Given, credentials, environment};
use crate::error::{Error, Exit, Result};
use crate::observe::{Id, log};

/// The environment, and below it what systemd hands over as credentials. A variable of ours must be readable text: what is
/// passed over could be `cache.protect`.
pub(crate) fn environment() -> Result<Vec<Given>> {
    let mut environment: Vec<Given> = Vec::new();
    for (name, value) in std::env::vars_os() {
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => environment.push(Given::from((name, value))),
            (name, _) => {
                let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
                if environment::concerns_us(&name) {
                    return Err(Error::definite(Exit::Config, format!("environment variable {name} is not UTF-8"))
                        .hint("Write it in UTF-8; percent-encode other bytes of an address."));
                }
            }
        }
    }
    if let Some(directory) = std::env::var_os("CREDENTIALS_DIRECTORY") {
        for credential in credentials::from_directory(Path::new(&directory))? {
            // A blank variable says nothing, so it hides nothing.
            if !environment.iter().any(|given| given.name == credential.name && !given.value.trim().is_empty()) {
                environment.push(credential);
            }
        }
    }
    Ok(environment)
}

/// Runs what a command does on one thread, because the work is one ordered stream.
///
/// The end waits for nobody: a resolver that does not answer holds its thread for most of a minute, and a service manager
/// would kill the process meanwhile.
pub(crate) fn block_on<T, E: From<Error>>(
    work: impl Future<Output = std::result::Result<T, E>>,
) -> std::result::Result<T, E> {
    let built = tokio::runtime::Builder::new_current_thread().max_blocking_threads(RESOLVERS_MAX).enable_all().build();
    let runtime = built.map_err(|cause| Error::definite(Exit::Os, "start the runtime").because(cause))?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}

/// Names that are looked up at once, each by a thread of its own: fewer than the unit's TasksMax, which counts threads.
const RESOLVERS_MAX: usize = 8;

/// Resolves at the first SIGTERM or SIGINT.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify(&[NotifyState::Stopping]);
    })
}

/// The same for a command at a terminal, which a hangup ends as well.
pub(crate) fn end_signal() -> Result<impl Future<Output = ()>> {
    let (stop, mut hangup) = (stop_signal()?, listen(SignalKind::hangup())?);
    Ok(async move {
        tokio::select! {
            () = stop => {}
            _ = hangup.recv() => {}
        }
    })
}

/// A signal to wait for.
pub(crate) fn listen(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|cause| Error::definite(Exit::Os, "listen for signals").because(cause))
}

/// Tells systemd, where there is one (`NOTIFY_SOCKET`).
pub(crate) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log!(Id::SystemdUnreached, "systemd did not take a message of crieur: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_does_not_wait_for_a_resolver() {
        use std::sync::atomic::{AtomicBool, Ordering};
        static ANSWERED: AtomicBool = AtomicBool::new(false);
        let (alive, ended) = std::sync::mpsc::channel::<()>();
        let work = async {
            drop(tokio::task::spawn_blocking(move || {
                // Bounded, so that an end that waits fails the test below and does not hang it.
                let _ = ended.recv_timeout(std::time::Duration::from_secs(30));
                ANSWERED.store(true, Ordering::SeqCst);
            }));
            Ok::<_, Error>(())
        };
        block_on(work).expect("the work is done");
        assert!(!ANSWERED.load(Ordering::SeqCst), "the end waited for the thread");
        drop(alive);
    }
}
