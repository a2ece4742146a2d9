//! The API as a `kube` client sees it, in process.

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api as Objects, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, Preconditions,
    ValidationDirective, WatchEvent, WatchParams,
};
use podd_api::{Api, Config};
use serde_json::json;

type Tested = Result<(), Box<dyn std::error::Error>>;

fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "x"}]},
    }))
    .expect("a pod")
}

fn pods(api: &Api) -> Objects<Pod> {
    Objects::default_namespaced(kube::Client::new(api.router(), "default"))
}

fn code<T>(result: kube::Result<T>) -> u16 {
    match result {
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => panic!("{other}"),
        Ok(_) => 200,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_created_found_changed_and_deleted() -> Tested {
    let directory = tempfile::tempdir()?;
    let api = Api::open(Config::new(directory.path().join("db"), "node")).await?;
    let pods = pods(&api);
    let first = pods.create(&PostParams::default(), &pod("a")).await?;
    pods.create(&PostParams::default(), &pod("b")).await?;
    assert_eq!(code(pods.create(&PostParams::default(), &pod("a")).await), 409);
    for wanted in [ListParams::default().labels("app=a"), ListParams::default().fields("metadata.name=a")] {
        let found = pods.list(&wanted).await?;
        assert_eq!(found.items.iter().map(|p| p.metadata.name.as_deref()).collect::<Vec<_>>(), [Some("a")]);
    }
    let merge = Patch::Merge(json!({"metadata": {"labels": {"x": "1"}}}));
    let changed = pods.patch("a", &PatchParams::default(), &merge).await?;
    assert_eq!(changed.metadata.labels.as_ref().and_then(|l| l.get("x")).map(String::as_str), Some("1"));
    assert_eq!(code(pods.replace("a", &PostParams::default(), &first).await), 409);
    let strategic = Patch::Strategic(json!({"metadata": {"labels": {"x": "2"}}}));
    assert_eq!(code(pods.patch("a", &PatchParams::default(), &strategic).await), 415);
    let other = Preconditions { uid: Some("another".into()), resource_version: None };
    let refused = DeleteParams { preconditions: Some(other), ..DeleteParams::default() };
    assert_eq!(code(pods.delete("a", &refused).await), 409);
    pods.delete("a", &DeleteParams::default().grace_period(0)).await?;
    assert_eq!(code(pods.get("a").await), 404);
    api.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_survive_a_shutdown_and_a_database_has_one_server() -> Tested {
    let directory = tempfile::tempdir()?;
    let config = Config::new(directory.path().join("db"), "node");
    let api = Api::open(config.clone()).await?;
    let made = pods(&api).create(&PostParams::default(), &pod("a")).await?;
    assert!(Api::open(config.clone()).await.is_err(), "a second server opened the database");
    api.shutdown().await?;
    let api = Api::open(config).await?;
    assert_eq!(pods(&api).get("a").await?, made);
    api.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_every_change_and_one_from_too_far_back_has_expired() -> Tested {
    let directory = tempfile::tempdir()?;
    let mut config = Config::new(directory.path().join("db"), "node");
    config.history = 4;
    let api = Api::open(config).await?;
    let pods = pods(&api);
    let start = pods.list(&ListParams::default()).await?.metadata.resource_version.unwrap_or_default();
    let mut events = Box::pin(pods.watch(&WatchParams::default(), &start).await?);
    pods.create(&PostParams::default(), &pod("a")).await?;
    pods.patch("a", &PatchParams::default(), &Patch::Merge(json!({"metadata": {"labels": {"x": "1"}}}))).await?;
    pods.delete("a", &DeleteParams::default().grace_period(0)).await?;
    let mut seen = Vec::new();
    while seen.last() != Some(&"deleted") {
        let next = tokio::time::timeout(std::time::Duration::from_secs(10), events.try_next()).await??;
        seen.push(match next.ok_or("the watch ended")? {
            WatchEvent::Added(_) => "added",
            WatchEvent::Modified(_) => "modified",
            WatchEvent::Deleted(_) => "deleted",
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => return Err(status.message.into()),
        });
    }
    assert_eq!((seen.first(), seen.get(1)), (Some(&"added"), Some(&"modified")), "{seen:?}");
    for n in 0..20 {
        pods.create(&PostParams::default(), &pod(&format!("p{n}"))).await?;
    }
    let expired = match pods.watch(&WatchParams::default(), &start).await {
        Err(kube::Error::Api(status)) => status.code,
        Err(other) => return Err(other.into()),
        Ok(events) => match Box::pin(events).try_next().await? {
            Some(WatchEvent::Error(status)) => status.code,
            other => return Err(format!("{other:?}").into()),
        },
    };
    assert_eq!(expired, 410);
    api.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_pod_is_refused_with_its_causes_and_strictness_is_the_clients_choice() -> Tested {
    let directory = tempfile::tempdir()?;
    let api = Api::open(Config::new(directory.path().join("db"), "node")).await?;
    let pods = pods(&api);
    let mut bad = pod("a");
    bad.spec.as_mut().ok_or("no spec")?.containers[0].name = "Not A Name".into();
    let Err(kube::Error::Api(status)) = pods.create(&PostParams::default(), &bad).await else {
        return Err("a bad pod was accepted".into());
    };
    let causes: Vec<String> = status.details.iter().flat_map(|d| &d.causes).map(|c| c.field.clone()).collect();
    assert_eq!((status.code, causes), (422, vec!["spec.containers[0].name".to_owned()]));

    pods.create(&PostParams::default(), &pod("a")).await?;
    let unknown = Patch::Merge(json!({"spec": {"nonsense": 1}}));
    let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::default() };
    assert!(matches!(code(pods.patch("a", &strict, &unknown).await), 400 | 422));
    let lenient = PatchParams { field_validation: Some(ValidationDirective::Warn), ..PatchParams::default() };
    assert_eq!(code(pods.patch("a", &lenient, &unknown).await), 200);

    let apply = PatchParams::apply("one");
    let labelled = |value: &str| {
        Patch::Apply(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"y": value}}}))
    };
    pods.patch("a", &apply, &labelled("1")).await?;
    assert_eq!(code(pods.patch("a", &PatchParams::apply("two"), &labelled("2")).await), 409);
    assert_eq!(code(pods.patch("a", &PatchParams::apply("two").force(), &labelled("2")).await), 200);
    api.shutdown().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_unavailable_without_a_kubelet() -> Tested {
    let directory = tempfile::tempdir()?;
    let api = Api::open(Config::new(directory.path().join("db"), "node")).await?;
    let pods = pods(&api);
    pods.create(&PostParams::default(), &pod("a")).await?;
    assert_eq!(code(pods.logs("a", &LogParams::default()).await), 503);
    api.shutdown().await?;
    Ok(())
}
