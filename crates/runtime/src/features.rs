//! What this kernel can do of CRI that not every kernel can, found out by trying, once and when first asked.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use podd_shim::wire::{IdMaps, IdRange, NamespaceKind, Request, Response, SandboxSpec, UserNamespace};
use podd_sys::mount::{Attributes, clone_tree, map_ids, set_attributes};
use rustix::fs::CWD;

use crate::engine::{Engine, blocking, new_id};
use crate::error::{Context, CriError, Result};
use crate::seccomp;
use crate::shim::{Client, Launched, unexpected};

/// Since when overlay takes layers whose ids are mapped.
const MAPPED_LAYERS: (u32, u32) = (5, 19);
/// How long the shim that helps here may take to end.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `Status` says of the runtime handlers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Pods can have user namespaces: the kernel makes them, and shows the images' files by their ids.
    pub(crate) user_namespaces: bool,
    /// A mount can be made read-only with all below it.
    pub(crate) recursive_read_only: bool,
}

impl Engine {
    /// Tries, or remembers what came of it.
    pub(crate) async fn features(self: &Arc<Self>) -> Features {
        let probe = || async {
            let engine = Arc::clone(self);
            // To its end even if the caller leaves, so that no helper is left behind.
            let user_namespaces = self.whole(async move { engine.probe_users().await }).await;
            Features {
                user_namespaces: user_namespaces
                    .inspect_err(|error| tracing::info!(%error, "no user namespaces here"))
                    .is_ok(),
                recursive_read_only: has_mount_attributes(),
            }
        };
        *self.features.get_or_init(probe).await
    }

    /// Has a shim make a user namespace and shows the image store by its ids.
    async fn probe_users(&self) -> Result<()> {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        if seccomp::version(&release).is_none_or(|version| version < MAPPED_LAYERS) {
            return Err(CriError::Unsupported(format!("Linux {release} cannot map the ids of layers")));
        }
        let id = format!("probe-{}", new_id());
        let Launched { socket, process } = self.launcher.launch(&id)?;
        let outcome = match Client::open(socket).await {
            Ok((client, _, _)) => probe(&client, &id, &self.paths.images()).await,
            Err(error) => Err(error),
        };
        process.kill();
        process.ended_within(PATIENCE).await;
        self.launcher.forget(&id).context(|| "forget the shim of a probe")?;
        outcome
    }
}

async fn probe(client: &Client, id: &str, images: &Path) -> Result<()> {
    let range = vec![IdRange { inside: 0, outside: 65536, count: 65536 }];
    let ids = IdMaps { uids: range.clone(), gids: range };
    let user = Some(UserNamespace { ids, ..UserNamespace::default() });
    let spec = SandboxSpec { id: id.to_owned(), user, ..SandboxSpec::default() };
    match client.call(Request::Setup(spec)).await? {
        Response::Done | Response::SetUp { .. } => {}
        other => return Err(unexpected(&other)),
    }
    let (response, fds) = client.call_with_fds(Request::Namespaces, &[]).await?;
    let Response::Namespaces { kinds } = response else { return Err(unexpected(&response)) };
    let users = kinds.into_iter().zip(fds).find(|(kind, _)| *kind == NamespaceKind::User);
    let (_, users) = users.ok_or_else(|| CriError::Unsupported("the shim made no user namespace".into()))?;
    let images = images.to_owned();
    blocking(move || {
        let what = || format!("show {} by other ids", images.display());
        let tree = clone_tree(CWD, &images, false).context(what)?;
        map_ids(tree.as_fd(), users.as_fd(), false).context(what)
    })
    .await
}

/// mount_setattr(2) is there: what is asked for on a descriptor that is no mount is refused for that reason then.
fn has_mount_attributes() -> bool {
    let (reader, _writer) = match io::pipe() {
        Ok(pair) => pair,
        Err(_) => return false,
    };
    let outcome = set_attributes(reader.as_fd(), true, &Attributes::default());
    !outcome.is_err_and(|error| error.kind() == io::ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_can_change_mounts_with_all_below_them() {
        assert!(has_mount_attributes());
    }
}
