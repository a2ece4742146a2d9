//! The API as a `kube` client sees it, in process.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api as Objects, DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
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
