//! Real input: nginx and Python as Debian ships them, in images that a real registry serves, as one pod. And `podd pull` with what
//! it shows on its way.

use std::path::Path;
use std::time::{Duration, Instant};

use podd_tests::image::debian::{Image, Layer, files, packages};
use podd_tests::image::registry::Registry;
use podd_tests::{Node, SOON, program, wait_for};
use serde_json::json;

/// What both programs need: the layer that their images share.
const BELOW: &[&str] = &["libc6", "libcrypt1", "libssl3", "libpcre2-8-0", "zlib1g"];
const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/images/pod.yaml");
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Puts a file into a layer.
fn add(tar: &mut tar::Builder<Vec<u8>>, name: &str, content: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(content.len().try_into().expect("small"));
    tar.append_data(&mut header, name, content.as_bytes()).expect("in memory");
}

/// Puts a directory or a link into a layer.
fn add_other(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, link: Option<&str>) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(0);
    header.set_entry_type(link.map_or(tar::EntryType::Directory, |_| tar::EntryType::Symlink));
    match link {
        Some(to) => tar.append_link(&mut header, name, to).expect("in memory"),
        None => tar.append_data(&mut header, name, &[][..]).expect("in memory"),
    }
}

/// What the packages' scripts would have made at an installation.
fn system(tar: &mut tar::Builder<Vec<u8>>) {
    let users = "root:x:0:0:root:/root:/usr/sbin/nologin\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n\
                 app:x:1000:1000::/srv:/usr/sbin/nologin\n";
    add(tar, "etc/passwd", users);
    add(tar, "etc/group", "root:x:0:\nwww-data:x:33:\napp:x:1000:\n");
    add_other(tar, "run", 0o755, None);
    add_other(tar, "tmp", 0o1777, None);
}

fn nginx(node: &Node, below: &Layer) -> Image {
    let own = files(node.path(), "nginx.tar", |tar| {
        system(tar);
        add(tar, "etc/nginx/conf.d/site.conf", include_str!("../images/nginx/site.conf"));
        add_other(tar, "var/log/nginx/access.log", 0o777, Some("/dev/stdout"));
        add_other(tar, "var/log/nginx/error.log", 0o777, Some("/dev/stderr"));
    });
    let config = json!({"Entrypoint": ["nginx"], "Cmd": ["-g", "daemon off;"], "Env": [PATH], "StopSignal": "SIGQUIT",
        "ExposedPorts": {"80/tcp": {}}});
    Image::new(vec![below.clone(), packages(&["nginx-light"], BELOW), own], config)
}

fn python(node: &Node, below: &Layer) -> Image {
    let own = files(node.path(), "python.tar", |tar| {
        system(tar);
        add_other(tar, "srv", 0o755, None);
        add(tar, "srv/writer.py", include_str!("../images/python/writer.py"));
    });
    let config = json!({"Entrypoint": ["python3", "writer.py"], "Env": [PATH, "PYTHONUNBUFFERED=1"],
        "WorkingDir": "/srv", "User": "app"});
    Image::new(vec![below.clone(), packages(&["python3"], BELOW), own], config)
}

/// What a pod makes on a node.
fn traces(node: &Node) -> Vec<(&'static str, String)> {
    let seen = |command: &[&str]| node.enter(command).ok().to_owned();
    let pods = node.path().join("root/pods");
    let pods = std::fs::read_dir(pods).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());
    vec![
        ("mounts", seen(&["cat", "/proc/self/mounts"])),
        ("links", seen(&["ip", "-o", "-br", "link"])),
        ("nft tables", format!("{:?}", node.nft_tables())),
        ("control groups", format!("{:?}", node.cgroups())),
        ("processes", format!("{:?}", node.processes())),
        ("pods", format!("{:?}", pods.collect::<Vec<_>>())),
    ]
}

#[test]
fn nginx_and_python_from_a_registry_run_as_one_pod() {
    let mut node = Node::new();
    let before = traces(&node);
    node.start_agent();
    let below = packages(BELOW, &[]);
    let (nginx, python) = (nginx(&node, &below), python(&node, &below));
    {
        let registry = Registry::start(&node);
        registry.push("nginx:1", &nginx);
        registry.push("python:1", &python);
        node.podd(&["apply", "--wait", "--timeout=100s", "-f", MANIFEST]).ok();
    }
    for (place, image) in [(0, &nginx), (1, &python)] {
        let id = node.field("pod/site", &format!("/status/containerStatuses/{place}/imageID"));
        assert!(id.contains("sha256:"), "{id}");
        let listed = node.podd(&["images", "-q"]);
        assert!(listed.ok().contains(&image.id()), "{}", listed.stdout);
    }

    // nginx serves what Python writes, by a user of its own, on the node's port.
    let page = |number: u32| {
        wait_for(SOON, "the page is served", || {
            let got = node.enter(&["curl", "-fsS", "--max-time", "5", "http://127.0.0.1:18080/"]);
            let (count, rest) =
                got.stdout.strip_prefix("page ").and_then(|rest| rest.split_once(' ')).unwrap_or_default();
            let count: u32 = count.parse().unwrap_or(0);
            let well = count > number && rest == "of site, by uid 1000\n";
            if well { Ok(count) } else { Err(format!("{}{}", got.stdout, got.stderr)) }
        })
    };
    let first = page(0);
    page(first);
    // Each program's log has its own words; nginx's tells of both who asked.
    wait_for(SOON, "nginx's log tells of both clients", || {
        let log = node.podd(&["logs", "site", "-c", "nginx"]).ok().to_owned();
        let asked = |agent: &str| log.lines().any(|l| l.contains("\"GET / HTTP/1.1\" 200") && l.contains(agent));
        if asked("\"curl/") && asked("\"Python-urllib/3.") { Ok(()) } else { Err(log) }
    });
    let log = node.podd(&["logs", "site", "-c", "writer", "--tail=1"]).ok().to_owned();
    assert!(log.starts_with("200 page ") && log.lines().count() == 1, "{log}");
    let missing = node.enter(&["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "http://127.0.0.1:18080/none"]);
    assert_eq!(missing.ok(), "404");
    let names = node.podd(&["logs", "site", "-c", "nginx"]).ok().to_owned();
    assert!(
        names.contains("/var/www/html/none\" failed (2: No such file or directory)"),
        "stderr is there too: {names}"
    );
    let script = "import ssl, sqlite3, os; print(os.getcwd(), os.environ['PYTHONUNBUFFERED'], os.getpid() > 1)";
    let ran = node.podd(&["exec", "site", "-c", "writer", "--", "python3", "-c", script]);
    assert_eq!(ran.ok(), "/srv 1 True\n");
    let checked = node.podd(&["exec", "site", "-c", "nginx", "--", "nginx", "-t"]);
    assert!(checked.stderr.contains("test is successful"), "{}{}", checked.stdout, checked.stderr);

    let begun = Instant::now();
    assert_eq!(node.podd(&["delete", "-f", MANIFEST]).ok(), "pod \"site\" deleted\n");
    let left = node.pod_processes();
    assert!(left.is_empty(), "{left:?}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(15), "both heed their signals, nginx the one of its image: {took:?}");
    assert!(node.podd(&["get", "pods"]).ok().is_empty());
    for reference in ["127.0.0.1:5000/nginx:1", "127.0.0.1:5000/python:1"] {
        assert!(node.podd(&["rmi", reference]).ok().contains("deleted sha256:"));
    }
    assert!(node.stop_agent(true).ok().contains("pods and network are gone"));
    for ((what, seen), (_, before)) in traces(&node).iter().zip(&before) {
        assert_eq!(seen, before, "{what}");
    }
}

/// The amounts that `podd pull` has shown: of how much, how much is there.
fn amounts(shown: &str) -> Vec<(f64, f64)> {
    let number = |amount: &str| {
        let (digits, unit) = amount.trim().split_once(' ')?;
        let unit = match unit {
            "B" => 1.0,
            "kB" => 1e3,
            "MB" => 1e6,
            _ => return None,
        };
        Some(digits.parse::<f64>().ok()? * unit)
    };
    let words = shown.split("pulling 127.0.0.1:5000/nginx:1: ").skip(1);
    let ends = words.map(|rest| rest.split(['\u{1b}', '\r', '\n']).next().unwrap_or_default());
    ends.filter_map(|text| text.split_once(" of "))
        .filter_map(|(done, all)| Some((number(done)?, number(all)?)))
        .collect()
}

#[test]
fn a_pull_shows_on_a_terminal_how_far_it_is() {
    let mut node = Node::new();
    node.start_agent();
    let below = packages(BELOW, &[]);
    let image = nginx(&node, &below);
    let registry = Registry::start(&node);
    registry.push("nginx:1", &image);

    let podd = program();
    let podd = podd.to_str().expect("a plain path");
    let command = format!("stty cols 100; {podd} pull 127.0.0.1:5000/nginx:1");
    let shown = node.enter(&["script", "-qec", &command, "/dev/null"]).ok().to_owned();
    let amounts = amounts(&shown);
    let size: u64 = image.layers.iter().map(Layer::size).sum();
    assert!(!amounts.is_empty(), "no amounts in {shown:?}");
    assert!(amounts.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1), "it goes back: {amounts:?}");
    #[expect(clippy::cast_precision_loss, reason = "a few megabytes")]
    let near = size as f64 * 1.02;
    assert!(amounts.iter().all(|(done, all)| done <= all && *all <= near), "{size}: {amounts:?}");
    let last = shown.trim_end().rsplit(['\n', '\r']).next().unwrap_or_default();
    assert!(last.ends_with(&image.id()), "the id comes last: {shown:?}");

    // Once more, without a terminal: the id and nothing else.
    let again = node.podd(&["pull", "127.0.0.1:5000/nginx:1"]);
    assert_eq!((again.ok(), again.stderr.as_str()), (format!("{}\n", image.id()).as_str(), ""));
    let listed = node.podd(&["images"]);
    let row = listed.ok().lines().nth(1).expect("a row").split_whitespace().collect::<Vec<_>>();
    assert_eq!(row[..2], ["127.0.0.1:5000/nginx", "1"]);
    assert!(image.id().starts_with(&format!("sha256:{}", row[2])), "{row:?}");
    // Of another image with the same lowest layer, only the rest comes.
    drop(registry);
    let registry = Registry::start(&node);
    let missing = node.podd(&["pull", "127.0.0.1:5000/nginx:2"]);
    assert!(missing.refused().contains("127.0.0.1:5000/nginx:2"), "{}", missing.stderr);
    let python = python(&node, &below);
    registry.push("python:1", &python);
    std::fs::remove_file(blob(&node, &below)).expect("the registry has it");
    assert_eq!(node.podd(&["pull", "127.0.0.1:5000/python:1"]).ok(), format!("{}\n", python.id()));
    assert_eq!(node.podd(&["images", "-q"]).ok().lines().count(), 2);

    let removed = format!("untagged 127.0.0.1:5000/nginx:1\ndeleted {}\n", image.id());
    assert_eq!(node.podd(&["rmi", "127.0.0.1:5000/nginx:1"]).ok(), removed);
    assert_eq!(node.podd(&["images", "-q"]).ok(), format!("{}\n", python.id()));
}

/// Where the registry keeps a layer.
fn blob(node: &Node, layer: &Layer) -> std::path::PathBuf {
    let hex = layer.digest.trim_start_matches("sha256:");
    let path = Path::new("registry/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data");
    node.path().join(path)
}
