//! What callers may do to the order of calls: repeat them, make them at the wrong time, make them at once, and go away in
//! the middle of any.

mod world;

use std::collections::BTreeMap;
use std::time::Duration;

use podd_cri::RuntimeService;
use podd_cri::v1::*;
use podd_tests::{SOON, wait_for};
use tokio_stream::StreamExt as _;
use tonic::{Code, Request};
use world::{container, create, exec, exited, on_a_node, processes, remove_sandbox, run_sandbox, start};

/// Everything that a bench's runtime may have left on the machine, besides its own processes.
fn traces(bench: &world::Bench) -> Vec<String> {
    let mut found: Vec<String> =
        processes(&bench.group).into_iter().map(|(pid, line)| format!("{pid} {line}")).collect();
    for directory in ["root/sandboxes", "root/containers", "run/shims", "run/shm"] {
        let entries = std::fs::read_dir(bench.path(directory)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()));
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("procfs");
    let own = bench.directory.path().display().to_string();
    found.extend(mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned));
    found
}

async fn container_state(runtime: &dyn RuntimeService, id: &str) -> ContainerState {
    world::status(runtime, id).await.state()
}

#[test]
fn a_call_twice_or_at_the_wrong_time_is_refused_or_done_already() {
    on_a_node("a_call_twice_or_at_the_wrong_time_is_refused_or_done_already", |bench| async move {
        let (runtime, cri) = bench.serve().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&cri, &pod).await;
        let again = RunPodSandboxRequest { config: Some(pod.clone()), ..Default::default() };
        let held = cri.run_pod_sandbox(Request::new(again)).await.unwrap_err();
        assert_eq!(held.code(), Code::AlreadyExists);
        assert!(held.message().contains(&sandbox), "the holder is named: {held:?}");

        let id = create(&cri, &sandbox, &pod, container("c", "trap 'exit 3' TERM; while :; do sleep 0.05; done")).await;
        let twin = CreateContainerRequest {
            pod_sandbox_id: sandbox.clone(),
            config: Some(container("c", "true")),
            sandbox_config: Some(pod.clone()),
        };
        let held = cri.create_container(Request::new(twin)).await.unwrap_err();
        assert!(held.code() == Code::AlreadyExists && held.message().contains(&id), "{held:?}");
        let begin = || Request::new(StartContainerRequest { container_id: id.clone() });
        let reopen = || Request::new(ReopenContainerLogRequest { container_id: id.clone() });
        let stop = |timeout| Request::new(StopContainerRequest { container_id: id.clone(), timeout });
        // Not started: nothing to reopen, nothing to exec in, and a stop has nothing to do.
        assert_eq!(cri.reopen_container_log(reopen()).await.unwrap_err().code(), Code::FailedPrecondition);
        cri.stop_container(stop(5)).await.unwrap();
        assert_eq!(container_state(&cri, &id).await, ContainerState::ContainerCreated);
        cri.start_container(begin()).await.unwrap();
        assert_eq!(cri.start_container(begin()).await.unwrap_err().code(), Code::FailedPrecondition);
        // An id may be shortened as long as it is unique.
        let short = ContainerStatusRequest { container_id: id[..8].to_owned(), verbose: false };
        assert_eq!(cri.container_status(Request::new(short)).await.unwrap().into_inner().status.unwrap().id, id);
        let both = tokio::join!(cri.stop_container(stop(10)), cri.stop_container(stop(10)));
        both.0.unwrap();
        both.1.unwrap();
        assert_eq!(exited(&cri, &id).await.exit_code, 3);
        for refused in [
            cri.start_container(begin()).await.err(),
            cri.reopen_container_log(reopen()).await.err(),
            cri.attach(Request::new(AttachRequest { container_id: id.clone(), stdout: true, ..Default::default() }))
                .await
                .err(),
        ] {
            assert_eq!(refused.expect("refused").code(), Code::FailedPrecondition);
        }
        cri.stop_container(stop(5)).await.unwrap();

        // A running one goes by force, and its name and its id's fate are what they should be.
        let next = container("d", "sleep 1000");
        let running = create(&cri, &sandbox, &pod, next.clone()).await;
        start(&cri, &running).await;
        let remove = |id: &str| Request::new(RemoveContainerRequest { container_id: id.to_owned() });
        let (one, other) = tokio::join!(cri.remove_container(remove(&running)), cri.remove_container(remove(&running)));
        one.unwrap();
        other.unwrap();
        let gone = ContainerStatusRequest { container_id: running.clone(), verbose: false };
        assert_eq!(cri.container_status(Request::new(gone)).await.unwrap_err().code(), Code::NotFound);
        assert_ne!(create(&cri, &sandbox, &pod, next).await, running, "an id is not used again");

        remove_sandbox(&cri, &sandbox).await;
        assert_ne!(run_sandbox(&cri, &pod).await, sandbox);
        runtime.close().await;
    });
}

#[test]
fn a_stop_or_removal_beside_a_start_leaves_one_of_the_two_ends() {
    on_a_node("a_stop_or_removal_beside_a_start_leaves_one_of_the_two_ends", |bench| async move {
        let runtime = bench.open().await;
        let cri = runtime.as_ref();
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(cri, &pod).await;
        for round in 0..20 {
            let id = create(cri, &sandbox, &pod, container(&format!("s{round}"), "sleep 1000")).await;
            let begin = || cri.start_container(Request::new(StartContainerRequest { container_id: id.clone() }));
            let end = cri.stop_container(Request::new(StopContainerRequest { container_id: id.clone(), timeout: 0 }));
            // A different moment each round.
            let later = async {
                tokio::time::sleep(Duration::from_micros(round * 150)).await;
                end.await
            };
            let (started, stopped) = tokio::join!(begin(), later);
            stopped.unwrap();
            match container_state(cri, &id).await {
                // The stop came before there was anything to stop.
                ContainerState::ContainerRunning => started.map(drop).unwrap(),
                ContainerState::ContainerExited => assert_eq!(world::status(cri, &id).await.exit_code, 137),
                other => panic!("round {round}: {other:?}, start {started:?}"),
            }
            assert_eq!(begin().await.unwrap_err().code(), Code::FailedPrecondition, "no second start");

            let id = create(cri, &sandbox, &pod, container(&format!("r{round}"), "sleep 1000")).await;
            let begin = cri.start_container(Request::new(StartContainerRequest { container_id: id.clone() }));
            let later = async {
                tokio::time::sleep(Duration::from_micros(round * 150)).await;
                cri.remove_container(Request::new(RemoveContainerRequest { container_id: id.clone() })).await
            };
            let (_either, removed) = tokio::join!(begin, later);
            removed.unwrap();
            let gone = ContainerStatusRequest { container_id: id, verbose: false };
            assert_eq!(cri.container_status(Request::new(gone)).await.unwrap_err().code(), Code::NotFound);
        }
        remove_sandbox(cri, &sandbox).await;
        assert_eq!(traces(&bench), [""; 0]);
        runtime.close().await;
    });
}

#[test]
fn a_command_that_takes_too_long_goes_with_its_children_and_nothing_else_does() {
    let name = "a_command_that_takes_too_long_goes_with_its_children_and_nothing_else_does";
    on_a_node(name, |bench| async move {
        let (runtime, cri) = bench.serve().await;
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&cri, &pod).await;
        let id = create(&cri, &sandbox, &pod, container("c", "sleep 7777 & sleep 8888")).await;
        start(&cri, &id).await;
        let cmd = ["sh", "-c", "sleep 5555 & setsid sleep 5555 & sleep 5555"].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.clone(), cmd, timeout: 1 };
        let late = cri.exec_sync(Request::new(request)).await.unwrap_err();
        assert_eq!(late.code(), Code::DeadlineExceeded, "{late:?}");
        let lines = || processes(&bench.group).into_iter().map(|(_, line)| line).collect::<Vec<_>>();
        wait_for(SOON, "the command and its children end", || {
            let left: Vec<_> = lines().into_iter().filter(|line| line.contains("5555")).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        let own = lines();
        assert!(own.iter().any(|line| line.contains("sleep 7777")), "{own:?}");
        assert_eq!(exec(&cri, &id, "echo on").await.stdout, b"on\n");
        remove_sandbox(&cri, &sandbox).await;
        runtime.close().await;
    });
}

#[test]
fn lists_and_streams_pass_the_same_filters() {
    on_a_node("lists_and_streams_pass_the_same_filters", |bench| async move {
        let (runtime, cri) = bench.serve().await;
        let mut ids = Vec::new();
        let mut sandboxes = Vec::new();
        for name in ["a", "b"] {
            let pod = bench.sandbox(name);
            let sandbox = run_sandbox(&cri, &pod).await;
            for (at, tier) in ["x", "y"].into_iter().enumerate() {
                let mut config = container(&format!("c{at}"), "sleep 1000");
                config.labels = BTreeMap::from([("tier".to_owned(), tier.to_owned()), ("app".into(), name.into())]);
                ids.push(create(&cri, &sandbox, &pod, config).await);
            }
            sandboxes.push(sandbox);
        }
        start(&cri, &ids[0]).await;
        start(&cri, &ids[3]).await;
        let label = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
        let running = Some(ContainerStateValue { state: ContainerState::ContainerRunning as i32 });
        let table = [
            (ContainerFilter::default(), vec![0, 1, 2, 3]),
            (ContainerFilter { id: ids[1][..10].into(), ..Default::default() }, vec![1]),
            (ContainerFilter { pod_sandbox_id: sandboxes[1].clone(), ..Default::default() }, vec![2, 3]),
            (ContainerFilter { state: running, ..Default::default() }, vec![0, 3]),
            (ContainerFilter { label_selector: label("tier", "y"), ..Default::default() }, vec![1, 3]),
            (ContainerFilter { label_selector: label("tier", "z"), ..Default::default() }, vec![]),
            (
                ContainerFilter {
                    pod_sandbox_id: sandboxes[1].clone(),
                    state: running,
                    label_selector: label("app", "b"),
                    id: ids[3].clone(),
                },
                vec![3],
            ),
        ];
        for (filter, expected) in table {
            let expected: Vec<&str> = expected.into_iter().map(|at: usize| ids[at].as_str()).collect();
            let request = Request::new(ListContainersRequest { filter: Some(filter.clone()) });
            let listed = cri.list_containers(request).await.unwrap().into_inner().containers;
            assert_eq!(listed.iter().map(|item| item.id.as_str()).collect::<Vec<_>>(), expected, "{filter:?}");
            let request = Request::new(StreamContainersRequest { filter: Some(filter.clone()) });
            let chunks: Vec<_> = cri.stream_containers(request).await.unwrap().into_inner().collect().await;
            let streamed: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.unwrap().containers).collect();
            assert_eq!(streamed, listed, "{filter:?}");
            let of = ContainerStatsFilter {
                id: filter.id,
                pod_sandbox_id: filter.pod_sandbox_id,
                label_selector: filter.label_selector,
            };
            let request = Request::new(ListContainerStatsRequest { filter: Some(of) });
            let stats = cri.list_container_stats(request).await.unwrap().into_inner().stats;
            let mut measured: Vec<String> = stats.into_iter().map(|stats| stats.attributes.unwrap().id).collect();
            let mut expected: Vec<_> = listed
                .iter()
                .filter(|item| item.state == ContainerState::ContainerRunning as i32)
                .map(|item| item.id.clone())
                .collect();
            measured.sort_unstable();
            expected.sort_unstable();
            assert_eq!(measured, expected);
        }
        cri.stop_pod_sandbox(Request::new(StopPodSandboxRequest { pod_sandbox_id: sandboxes[0].clone() }))
            .await
            .unwrap();
        let request = Request::new(PodSandboxStatsRequest { pod_sandbox_id: sandboxes[0].clone() });
        assert_eq!(cri.pod_sandbox_stats(request).await.unwrap_err().code(), Code::FailedPrecondition);
        let ready = Some(PodSandboxStateValue { state: PodSandboxState::SandboxReady as i32 });
        let filter = PodSandboxFilter { state: ready, ..Default::default() };
        let request = Request::new(StreamPodSandboxesRequest { filter: Some(filter) });
        let chunks: Vec<_> = cri.stream_pod_sandboxes(request).await.unwrap().into_inner().collect().await;
        let ids: Vec<_> = chunks.into_iter().flat_map(|chunk| chunk.unwrap().pod_sandboxes).map(|pod| pod.id).collect();
        assert_eq!(ids, sandboxes[1..]);
        for sandbox in &sandboxes {
            remove_sandbox(&cri, sandbox).await;
        }
        runtime.close().await;
    });
}

#[test]
fn events_tell_each_change_once_with_the_state_after_it() {
    on_a_node("events_tell_each_change_once_with_the_state_after_it", |bench| async move {
        use ContainerEventType::{
            ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
        };
        let (runtime, cri) = bench.serve().await;
        let mut events = cri.get_container_events(Request::new(GetEventsRequest {})).await.unwrap().into_inner();
        let pod = bench.sandbox("a");
        let sandbox = run_sandbox(&cri, &pod).await;
        let id = create(&cri, &sandbox, &pod, container("c", "exit 4")).await;
        start(&cri, &id).await;
        exited(&cri, &id).await;
        remove_sandbox(&cri, &sandbox).await;
        let expected = [
            (&sandbox, ContainerCreatedEvent),
            (&sandbox, ContainerStartedEvent),
            (&id, ContainerCreatedEvent),
            (&id, ContainerStartedEvent),
            (&id, ContainerStoppedEvent),
            (&sandbox, ContainerStoppedEvent),
            (&id, ContainerDeletedEvent),
            (&sandbox, ContainerDeletedEvent),
        ];
        let mut last = 0;
        for (of, kind) in expected {
            let event = tokio::time::timeout(SOON, events.next()).await.expect("in time").unwrap().unwrap();
            assert_eq!((&event.container_id, event.container_event_type()), (of, kind));
            assert!(event.created_at >= last, "in order");
            last = event.created_at;
            assert_eq!(event.pod_sandbox_status.unwrap().id, sandbox);
            if (of, kind) == (&id, ContainerStoppedEvent) {
                let [status] = &event.containers_statuses[..] else { panic!("one container") };
                assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 4));
            }
        }
        runtime.close().await;
    });
}

/// Numbers that look random, and are the same for the same seed (xorshift64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Makes a call, and goes away after a while if it has not been answered.
async fn hasty<T>(patience: Duration, call: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(patience, call).await.ok()
}

#[test]
fn whoever_goes_away_in_the_middle_leaves_what_can_be_listed_and_removed() {
    let name = "whoever_goes_away_in_the_middle_leaves_what_can_be_listed_and_removed";
    on_a_node(name, |bench| async move {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64 | 1;
        println!("seed {seed}");
        let mut dice = Dice(seed);
        let runtime = bench.open().await;
        let mut finished = 0;
        for round in 0..60 {
            let pod = bench.sandbox(&format!("p{round}"));
            // Straight at the engine, where the future itself is dropped; a socket would shield it.
            let mut patience = |most| Duration::from_micros(dice.below(most));
            let config = Some(pod.clone());
            let request = Request::new(RunPodSandboxRequest { config, ..Default::default() });
            let Some(made) = hasty(patience(9_000), runtime.run_pod_sandbox(request)).await else { continue };
            let sandbox = made.unwrap().into_inner().pod_sandbox_id;
            let request = Request::new(CreateContainerRequest {
                pod_sandbox_id: sandbox.clone(),
                config: Some(container("c", "sleep 1000")),
                sandbox_config: Some(pod),
            });
            let Some(made) = hasty(patience(20_000), runtime.create_container(request)).await else { continue };
            let id = made.unwrap().into_inner().container_id;
            let request = Request::new(StartContainerRequest { container_id: id.clone() });
            let Some(started) = hasty(patience(10_000), runtime.start_container(request)).await else { continue };
            started.unwrap();
            let cmd = ["sh", "-c", "sleep 0.01"].map(str::to_owned).to_vec();
            let request = Request::new(ExecSyncRequest { container_id: id.clone(), cmd, timeout: 0 });
            let _either = hasty(patience(20_000), runtime.exec_sync(request)).await;
            let request = Request::new(StopContainerRequest { container_id: id.clone(), timeout: 0 });
            let _either = hasty(patience(10_000), runtime.stop_container(request)).await;
            let request = Request::new(RemoveContainerRequest { container_id: id });
            let _either = hasty(patience(10_000), runtime.remove_container(request)).await;
            let request = Request::new(RemovePodSandboxRequest { pod_sandbox_id: sandbox });
            finished += usize::from(hasty(patience(20_000), runtime.remove_pod_sandbox(request)).await.is_some());
        }
        println!("{finished} rounds came to their end");
        // What is under way ends; then everything there is can be named, and goes.
        let deadline = std::time::Instant::now() + SOON;
        loop {
            let items = runtime.list_pod_sandbox(Request::new(Default::default())).await.unwrap().into_inner().items;
            for item in &items {
                let status = PodSandboxStatusRequest { pod_sandbox_id: item.id.clone(), verbose: true };
                // It may have gone between the two.
                let _gone = runtime.pod_sandbox_status(Request::new(status)).await;
                world::remove_sandbox(runtime.as_ref(), &item.id).await;
            }
            let left = traces(&bench);
            if items.is_empty() && left.is_empty() {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "seed {seed}: left behind: {left:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let listed = runtime.list_containers(Request::new(Default::default())).await.unwrap().into_inner().containers;
        assert!(listed.is_empty(), "seed {seed}: {listed:?}");
        // Names that were held by what was given up are free again.
        let pod = bench.sandbox("p0");
        let sandbox = run_sandbox(runtime.as_ref(), &pod).await;
        world::remove_sandbox(runtime.as_ref(), &sandbox).await;
        runtime.close().await;
    });
}
