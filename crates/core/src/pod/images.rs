//! The images that a container waits for: its own, and those of the image volumes that it mounts. Each is looked for, or
//! pulled, by itself; the memory keeps them by a key.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, Volume};

use super::{
    Action, ImageKnown, Memory, PullPolicy, Target,
    container_status::pull_back_off_shows_at,
    containers::{Member, members, pull_policy_of},
    decide::{Batch, Turn},
};

/// The key of an image volume; no container has a name with a colon.
const VOLUME: &str = "volume:";

/// An image that somebody waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    /// The container's name, or that of a volume with a prefix.
    pub(super) key: String,
    pub(super) image: &'a str,
    pull: PullPolicy,
}

/// How far the images of a container are.
pub(super) enum Stand {
    /// All are there; the reference of the container's own.
    Here(String),
    /// One is being looked for or pulled.
    Busy,
    /// One has failed and waits for its next try.
    Failing,
}

/// What a container waits for, its own image first.
pub(super) fn of_member<'a>(pod: &'a Pod, member: &Member<'a>) -> Vec<Wanted<'a>> {
    let own = Wanted { key: member.name().to_owned(), image: member.image(), pull: member.pull };
    [own].into_iter().chain(of_volumes(pod, &member.spec)).collect()
}

/// The name of the volume that a key stands for; none if it stands for a container.
#[must_use]
pub fn image_volume(key: &str) -> Option<&str> {
    key.strip_prefix(VOLUME)
}

/// All images of a pod by their keys.
pub(super) fn of_pod(pod: &Pod) -> BTreeMap<String, &str> {
    let containers = members(pod).into_iter().map(|member| (member.name().to_owned(), member.image()));
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).filter_map(of_volume);
    containers.chain(volumes.map(|wanted| (wanted.key, wanted.image))).collect()
}

/// The names of all images that a pod asks for: of its containers, ephemeral ones too, and of its volumes.
#[must_use]
pub fn image_names(pod: &Pod) -> BTreeSet<&str> {
    of_pod(pod).into_values().filter(|name| !name.is_empty()).collect()
}

fn of_volumes<'a>(pod: &'a Pod, container: &Container) -> impl Iterator<Item = Wanted<'a>> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let mounted = |volume: &&Volume| container.volume_mounts.iter().flatten().any(|mount| mount.name == volume.name);
    volumes.filter(mounted).filter_map(of_volume)
}

fn of_volume(volume: &Volume) -> Option<Wanted<'_>> {
    let source = volume.image.as_ref()?;
    let image = source.reference.as_deref().unwrap_or_default();
    let pull = pull_policy_of(image, source.pull_policy.as_deref());
    Some(Wanted { key: format!("{VOLUME}{}", volume.name), image, pull })
}

/// Brings every image of a container one step nearer to being there.
pub(super) fn advance(turn: &Turn<'_>, member: &Member<'_>, batch: &mut Batch<'_>) -> Stand {
    let stands: Vec<Stand> =
        of_member(turn.pod, member).iter().map(|wanted| advance_one(turn.memory, wanted, batch)).collect();
    if stands.iter().any(|stand| matches!(stand, Stand::Failing)) {
        return Stand::Failing;
    }
    if stands.iter().any(|stand| matches!(stand, Stand::Busy)) {
        return Stand::Busy;
    }
    // Its own comes first.
    stands.into_iter().next().unwrap_or(Stand::Busy)
}

fn advance_one(memory: &Memory, wanted: &Wanted<'_>, batch: &mut Batch<'_>) -> Stand {
    let key = &wanted.key;
    let known = memory.images.get(key).filter(|(image, _)| image == wanted.image);
    let target = Target::Image(key.clone());
    let pull = match known {
        Some((_, ImageKnown::Present(image_ref))) => return Stand::Here(image_ref.clone()),
        Some((_, ImageKnown::Absent)) => true,
        None => wanted.pull == PullPolicy::Always,
    };
    // Another container of the pod may wait for the same volume.
    if batch.has(&target) {
        return Stand::Busy;
    }
    let pulled = memory.pulls.get(key).and_then(|back_off| back_off.until(wanted.image));
    if let Some(until) = pulled
        && pull
    {
        if let Some(shows_at) = pull_back_off_shows_at(memory, key) {
            batch.waits_until(shows_at);
        }
        if batch.waits_until(until) {
            return Stand::Failing;
        }
    } else if !batch.may_try(&target) {
        return Stand::Failing;
    }
    let (container, image) = (key.clone(), wanted.image.to_owned());
    batch.push_now(if pull {
        Action::PullImage { container, image }
    } else {
        Action::InspectImage { container, image, pull: wanted.pull }
    });
    Stand::Busy
}
