"""A pod's life through Python's `kubernetes` package: clients.py URL

Each step prints one line, which `clients.rs` knows. Debian's package is some years older than the API that podd serves; what
it does here works with it.
"""

import json
import sys

from kubernetes import client, watch
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

LONGEST = 60  # seconds that a step may take

configuration = client.Configuration()
configuration.host = sys.argv[1]
api_client = client.ApiClient(configuration)
api = client.CoreV1Api(api_client)

version = client.VersionApi(api_client).get_code().git_version
print("version", ".".join(version.split(".")[:2]))

script = "echo hello from $HOSTNAME; trap 'exit 0' TERM; while true; do sleep 0.1; done"
container = client.V1Container(name="main", image="busybox:test", command=["sh", "-c", script])
pod = client.V1Pod(
    metadata=client.V1ObjectMeta(name="a", labels={"made-by": "python"}),
    spec=client.V1PodSpec(containers=[container], termination_grace_period_seconds=5),
)
made = api.create_namespaced_pod("default", pod)
print("created", made.status.phase)
try:
    api.create_namespaced_pod("default", pod)
except ApiException as error:
    print("conflict", error.status, json.loads(error.body)["reason"])

selector = {"label_selector": "made-by=python", "timeout_seconds": LONGEST}
events = watch.Watch()
for event in events.stream(api.list_namespaced_pod, "default", **selector):
    seen = event["object"]
    if seen.status.phase == "Running":
        print("watched", seen.status.phase)
        break
events.stop()

# Followed first: the container has started, and may not have said its word yet.
lines = watch.Watch()
for line in lines.stream(api.read_namespaced_pod_log, "a", "default", follow=True):
    print("followed", line)
    break
lines.stop()
print("log", api.read_namespaced_pod_log("a", "default").strip())

run = api.connect_get_namespaced_pod_exec
command = ["sh", "-c", "read line; echo $line; echo wrong >&2; exit 5"]
process = stream(
    run, "a", "default", command=command, stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False
)
process.write_stdin("through\n")
process.run_forever(timeout=LONGEST)
print(f"exec out={process.read_stdout()!r} err={process.read_stderr()!r} code={process.returncode}")
# The other form gives what both streams said at once.
print("exec at once", repr(stream(run, "a", "default", command=["hostname"], stdout=True, stderr=True)))

# A mapping is sent as a strategic merge patch, which podd does not know yet; a list as a JSON patch.
try:
    api.patch_namespaced_pod("a", "default", {"metadata": {"labels": {"x": "0"}}})
except ApiException as error:
    print("strategic", error.status, json.loads(error.body)["reason"])
patched = api.patch_namespaced_pod("a", "default", [{"op": "add", "path": "/metadata/labels/x", "value": "1"}])
print(f"labels x={patched.metadata.labels['x']}")
print("nodes", len(api.list_node().items))
about = f"involvedObject.uid={made.metadata.uid},reason=Started"
for event in watch.Watch().stream(
    api.list_namespaced_event, "default", field_selector=about, timeout_seconds=LONGEST
):
    print("event", event["object"].reason)
    break

api.delete_namespaced_pod("a", "default")
for event in watch.Watch().stream(
    api.list_namespaced_pod, "default", resource_version=patched.metadata.resource_version, **selector
):
    if event["type"] == "DELETED":
        print("watched", event["type"])
        break
try:
    api.read_namespaced_pod("a", "default")
except ApiException as error:
    print("missing", error.status, json.loads(error.body)["reason"])
