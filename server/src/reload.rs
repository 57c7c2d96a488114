//! What is read anew while the server runs: the certificate, and whose identities are exchanged.
//!
//! Guarantees: SIGHUP never ends the server, also where there is nothing to read anew; what cannot
//! be used changes nothing, and the log says why.

use crate::http::Shared;
use crate::systemd;
use std::time::Duration;
use tokio::signal::unix::Signal;

/// Looks for a certificate by the clock, and for all of it at every SIGHUP, for ever.
pub async fn keep_up(app: Shared, mut hangups: Signal) {
    let interval = Duration::from_secs(app.config.tls.reload_interval_s);
    loop {
        let clock = async {
            match (interval, &app.certificates) {
                (Duration::ZERO, _) | (_, None) => std::future::pending().await,
                (interval, Some(_)) => tokio::time::sleep(interval).await,
            }
        };
        let asked = tokio::select! { () = clock => false, _ = hangups.recv() => true };
        if asked {
            tracing::info!("told to reload");
            systemd::reloading();
        }
        let looked = {
            let app = app.clone();
            tokio::task::spawn_blocking(move || look_again(&app, asked))
        };
        if let Err(error) = looked.await {
            tracing::error!(%error, "looking for what is new panicked");
        }
        if asked {
            systemd::ready();
        }
    }
}

fn look_again(app: &Shared, asked: bool) {
    if let Some(certificates) = &app.certificates {
        certificates.look_again();
    }
    if !asked {
        return;
    }
    match app.issuers.read_again() {
        Ok(0) => {}
        Ok(issuers) => tracing::info!(issuers, "the rules of the issuers are read again"),
        Err(error) => tracing::error!(%error, "auth.issuers_file is left as it was"),
    }
}
