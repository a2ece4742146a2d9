//! Registries that want to know who asks: the credentials that a pod's Secrets hold.

use std::time::Duration;

use podd_tests::image::debian::{Image, packages};
use podd_tests::image::registry::Registry;
use podd_tests::{Node, SOON, wait_for};
use serde_json::json;

/// `pupil` with the password below.
const USERS: &str = "pupil:$2b$05$abcdefghijklmnopqrstuuSnF5tLPqPFqc0z9CY0HcSLFbSRlL67u\n";
const PASSWORD: &str = "correct-horse-battery";
/// base64 of both.
const AUTH: &str = "cHVwaWw6Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5";
const WRONG: &str = "stale-paper-clip";

fn pod(name: &str, image: &str, secrets: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  \
         imagePullSecrets: [{secrets}]\n  containers:\n  - {{name: main, image: '{}/{image}'}}\n",
        Registry::ADDRESS
    )
}

fn config_json(name: &str, registry: &str, entry: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/dockerconfigjson\nstringData:\n  \
         .dockerconfigjson: '{{\"auths\": {{\"{registry}\": {entry}}}}}'\n"
    )
}

fn events(node: &Node) -> String {
    node.podd(&["get", "events", "-o", "json"]).ok().to_owned()
}

#[test]
fn a_pod_pulls_with_the_credentials_of_its_secrets() {
    let node = Node::with_agent();
    let config = json!({"Entrypoint": ["/bin/busybox", "sleep", "1000"]});
    let image = Image::new(vec![packages(&["busybox-static"], &[])], config);
    {
        let registry = Registry::start(&node);
        for name in ["team/app:1", "team/late:1", "team/refused:1"] {
            registry.push(name, &image);
        }
    }
    let registry = Registry::start_for(&node, USERS);

    // A Secret of the old type with a password that has changed, and one for the path: both fit, and one opens.
    let stale = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: stale}}\ntype: kubernetes.io/dockercfg\nstringData:\n  \
         .dockercfg: '{{\"http://{}/team\": {{\"username\": \"pupil\", \"password\": \"{WRONG}\"}}}}'\n",
        Registry::ADDRESS
    );
    node.apply(&stale).ok();
    node.apply(&config_json("good", "*.0.0.1:5000", &format!("{{\"auth\": \"{AUTH}\"}}"))).ok();
    node.apply_and_wait(&pod("open", "team/app:1", "{name: stale}, {name: good}"));

    // Credentials for another port, or another path, are not for this image; wrong ones are refused.
    node.apply(&config_json("elsewhere", "127.0.0.1:5001", &format!("{{\"auth\": \"{AUTH}\"}}"))).ok();
    node.apply(&pod("refused", "team/refused:1", "{name: stale}, {name: elsewhere}")).ok();
    // A Secret that is missing is told, and the pull tried without it; it is seen when it comes.
    node.apply(&pod("late", "team/late:1", "{name: late}")).ok();
    for name in ["refused", "late"] {
        wait_for(SOON, "the pull is refused", || {
            let waiting = node.field(&format!("pod/{name}"), "/status/containerStatuses/0/state/waiting/reason");
            if waiting.contains("ErrImagePull") || waiting.contains("ImagePullBackOff") { Ok(()) } else { Err(waiting) }
        });
    }
    let told = "Unable to retrieve some image pull secrets (late); attempting to pull the image may not succeed.";
    wait_for(SOON, "the missing secret is told", || {
        let events = events(&node);
        if events.contains("FailedToRetrieveImagePullSecret") && events.contains(told) { Ok(()) } else { Err(events) }
    });
    node.apply(&config_json(
        "late",
        Registry::ADDRESS,
        &format!("{{\"username\": \"pupil\", \"password\": \"{PASSWORD}\"}}"),
    ))
    .ok();
    node.wait_field_for(Duration::from_secs(60), "pod/late", "/status/phase", "Running");
    assert_ne!(node.field("pod/refused", "/status/phase"), "Running");
    drop(registry);

    let shown = [
        node.agent_log(),
        events(&node),
        node.podd(&["get", "pods", "-o", "json"]).ok().to_owned(),
        node.podd(&["describe", "pod", "refused"]).ok().to_owned(),
        node.podd(&["describe", "secret", "stale"]).stdout,
    ];
    for secret in [PASSWORD, WRONG, AUTH] {
        assert!(!shown.iter().any(|text| text.contains(secret)), "{secret} is shown: {shown:?}");
    }
}
