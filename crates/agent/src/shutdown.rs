//! The end of the machine: where there is a logind, it is held up until the pods have ended. Without one, or without a
//! period, pods end with the machine.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use podd_core::{
    pod::is_terminal,
    shutdown::{Periods, ending, grace, groups},
};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use zbus::zvariant::OwnedFd;

use crate::{
    source::uid,
    worker::{Ender, Lookup},
};

/// First and longest wait before a bus that is not there is looked for again.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often it is asked whether the pods of a group have ended.
const POLL: Duration = Duration::from_millis(200);
/// How long the last statuses may take to reach the API.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1",
    gen_blocking = false
)]
trait Login {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;
    #[zbus(property, name = "InhibitDelayMaxUSec")]
    fn inhibit_delay_max_usec(&self) -> zbus::Result<u64>;
    #[zbus(signal)]
    fn prepare_for_shutdown(&self, start: bool) -> zbus::Result<()>;
}

/// Who ends the pods before the machine.
pub(crate) struct Shutdown {
    pub(crate) periods: Periods,
    pub(crate) pods: Lookup,
    pub(crate) ender: Ender,
    pub(crate) objects: kube::Api<Pod>,
    /// Whether the machine goes down, for whoever tells of it and for admission.
    pub(crate) going: watch::Sender<bool>,
}

impl Shutdown {
    /// Waits for the end of the machine until `closing`.
    pub(crate) async fn run(self, closing: CancellationToken) {
        if self.periods.total.is_zero() {
            return;
        }
        let (first, longest) = LOOK_AGAIN;
        let mut pause = first;
        loop {
            let begun = Instant::now();
            // Dropped, it lets go of the machine; pods that are ending go on to end.
            let ended = tokio::select! {
                () = closing.cancelled() => return,
                ended = self.watch() => ended,
            };
            if let Err(error) = ended {
                warn!(%error, "no logind to tell when the machine goes down; it is looked for again");
            }
            pause = if begun.elapsed() > longest { first } else { (pause * 2).min(longest) };
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Holds the machine up and waits for its end, as long as there is a bus.
    async fn watch(&self) -> zbus::Result<()> {
        let bus = zbus::Connection::system().await?;
        let login = LoginProxy::new(&bus).await?;
        let mut signals = login.receive_prepare_for_shutdown().await?;
        let mut held = Some(self.hold(&login).await?);
        while let Some(signal) = signals.next().await {
            if signal.args()?.start {
                info!("the machine goes down: pods are ended");
                self.going.send_replace(true);
                self.end_pods().await;
                info!("the machine may go down");
                held = None;
            } else {
                info!("the machine stays up");
                self.going.send_replace(false);
                held = Some(self.hold(&login).await?);
            }
        }
        drop(held);
        Ok(())
    }

    async fn hold(&self, login: &LoginProxy<'_>) -> zbus::Result<OwnedFd> {
        let most = Duration::from_micros(login.inhibit_delay_max_usec().await?);
        if most < self.periods.total {
            warn!(
                ?most,
                wanted = ?self.periods.total,
                "logind does not wait for as long as pods may take: set InhibitDelayMaxSec in logind.conf"
            );
        }
        login.inhibit("shutdown", "podd", "podd ends its pods in order", "delay").await
    }

    async fn end_pods(&self) {
        for group in groups(&self.pods.pods(), &self.periods) {
            for pod in &group.pods {
                self.ender.end(uid(pod), ending(), grace(pod, &group)).await;
            }
            let all = self.pods.clone();
            let ended = async {
                let is_one = |pod: &Arc<Pod>| group.pods.iter().any(|one| uid(one) == uid(pod));
                while all.pods().iter().any(|pod| is_one(pod) && !is_terminal(pod)) {
                    tokio::time::sleep(POLL).await;
                }
            };
            if timeout(group.period, ended).await.is_err() {
                warn!(period = ?group.period, "pods have not ended in their period; the next ones follow");
            }
        }
        let told = async {
            let is_live = |pod: &Pod| {
                self.pods.pods().iter().any(|own| uid(own) == uid(pod) && is_terminal(own)) && !is_terminal(pod)
            };
            while let Ok(pods) = self.objects.list(&kube::api::ListParams::default()).await {
                if !pods.items.iter().any(is_live) {
                    return;
                }
                tokio::time::sleep(POLL).await;
            }
        };
        if timeout(LAST_WORDS, told).await.is_err() {
            warn!("not all pods' ends were told in time");
        }
    }
}
