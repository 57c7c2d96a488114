//! What is read anew while the server runs: the certificate.
//!
//! Guarantees: SIGHUP never ends the server, also where there is nothing to read anew.

use crate::config::Tls;
use crate::listen::tls::Certificates;
use crate::systemd;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::Signal;

/// Looks by the clock, and at every SIGHUP, for ever.
pub async fn keep_up(certificates: Option<Arc<Certificates>>, tls: Tls, mut hangups: Signal) {
    let interval = Duration::from_secs(tls.reload_interval_s);
    loop {
        let clock = async {
            match (interval, &certificates) {
                (Duration::ZERO, _) | (_, None) => std::future::pending().await,
                (interval, Some(_)) => tokio::time::sleep(interval).await,
            }
        };
        let asked = tokio::select! { () = clock => false, _ = hangups.recv() => true };
        if asked {
            tracing::info!("told to reload");
            systemd::reloading();
        }
        if let Some(certificates) = certificates.clone() {
            let looked = tokio::task::spawn_blocking(move || certificates.look_again());
            if let Err(error) = looked.await {
                tracing::error!(%error, "looking for a new certificate panicked");
            }
        }
        if asked {
            systemd::ready();
        }
    }
}
