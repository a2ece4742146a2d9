//! What needs cgroup v2 alone or AppArmor, in a guest that has them: QEMU boots Debian's kernel into a shell script that runs the
//! test programs of this work tree (`docs/testing.md`).

#[path = "../guest/initramfs.rs"]
mod initramfs;
#[path = "../guest/kernel.rs"]
mod kernel;
#[path = "../guest/machine.rs"]
mod machine;
#[path = "../guest/programs.rs"]
mod programs;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use machine::{Guest, Outcome};
use serde_json::Value;

/// Tests of `podd-cgroup` that look at the files of v1, or at the clock of a machine that is not emulated.
const V1_ONLY: [&str; 3] = [
    "a_pod_tree_with_limits_is_made_and_removed",
    "a_child_that_joins_is_counted_and_killed_with_its_descendants",
    "creation_and_limits_stay_near_the_kernels_own_cost",
];

/// What pods need of the kernel that is not built in. On a machine of full size the kernel loads them by itself.
const MODULES: [&str; 10] = [
    "overlay",
    "veth",
    "bridge",
    "nf_tables",
    "nft_chain_nat",
    "nft_nat",
    "nft_masq",
    "nft_ct",
    "nft_fib_inet",
    "br_netfilter",
];

#[test]
fn cgroup_v2_alone_carries_limits_kills_and_statistics() -> Result<()> {
    let mut guest = Guest::new()?;
    let programs = programs::tests_of("podd_cgroup", "unified")?;
    for (number, program) in programs.iter().enumerate() {
        let path = format!("/tests/{number}");
        guest.files().program(&program.path, &path)?;
        let skip: String = V1_ONLY.iter().map(|name| format!(" --skip {name}")).collect();
        guest.job(&program.name, &format!("{path} --include-ignored --test-threads 1{skip}"));
    }
    check(&guest.run()?)
}

#[test]
fn the_runtime_runs_pods_on_cgroup_v2_alone() -> Result<()> {
    let mut guest = Guest::new()?;
    MODULES.iter().for_each(|name| guest.module(name));
    let program = programs::black_box("runtime")?;
    guest.files().program(&program.path, "/tests/runtime")?;
    guest.job("runtime", "/tests/runtime --test-threads 1");
    let program = programs::black_box("injected")?;
    guest.files().program(&program.path, "/tests/injected")?;
    // The one that is left out is about the agent, and about no group.
    guest.job("injected", "/tests/injected --test-threads 1 --skip a_crash_in");
    check(&guest.run()?)
}

#[test]
fn a_container_over_its_memory_limit_is_told_as_oomkilled_and_its_sibling_lives() -> Result<()> {
    let mut guest = Guest::new()?;
    guest.module("loop");
    let limits = check_oom(guest, include_str!("../guest/oom.sh"))?;
    // And those who may swap have their part of it.
    let total = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).context("a line of meminfo")?;
        anyhow::Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    };
    let share = (32 << 20) * total("SwapTotal:")? / total("MemTotal:")?;
    // The kernel counts pages.
    for limit in [0, share / 4096 * 4096] {
        let limit = format!("memory.swap.max: {limit}");
        assert!(some_container_has(&limits, &limit), "no container has {limit}:\n{limits}");
    }
    Ok(())
}

#[test]
fn containers_that_runc_makes_have_their_limits_and_are_told_as_oomkilled_too() -> Result<()> {
    let mut guest = Guest::new()?;
    guest.files().program(Path::new("/usr/sbin/runc"), "/bin/runc")?;
    check_oom(guest, include_str!("../guest/handlers.sh")).map(drop)
}

/// Runs a script that applies a pod and prints the limits of its groups, and the pod when one container is beyond its own.
/// Answers the limits.
fn check_oom(mut guest: Guest, script: &str) -> Result<String> {
    MODULES.iter().for_each(|name| guest.module(name));
    let images = tempfile::tempdir()?;
    guest.files().program(&programs::podd()?.path, "/bin/podd")?;
    guest.files().file("/tests/busybox.tar", 0o644, &std::fs::read(podd_tests::image::busybox(images.path()))?);
    guest.files().file("/tests/pod.yaml", 0o644, include_bytes!("../guest/oom.yaml"));
    guest.job("apply", script);
    let outcomes = guest.run()?;
    check(&outcomes)?;
    let (limits, json) = outcomes[0].output.split_once("@pod").context("the pod's JSON")?;
    for limit in ["cpu.max: 50000 100000", "memory.max: 33554432"] {
        assert!(some_container_has(limits, limit), "no container has {limit}:\n{limits}");
    }
    let pod: Value = serde_json::from_str(json)?;
    let container = |name: &str| {
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        statuses.clone().find(|status| status["name"] == name).cloned().unwrap_or_default()
    };
    let (greedy, modest) = (container("greedy"), container("modest"));
    assert_eq!(greedy["state"]["terminated"]["reason"], "OOMKilled", "{json}");
    assert_eq!(greedy["state"]["terminated"]["exitCode"], 137, "{json}");
    assert!(modest["state"]["running"].is_object(), "{json}");
    assert_eq!(modest["restartCount"], 0, "{json}");
    Ok(limits.to_owned())
}

/// Whether a group of a Burstable pod has a file with this limit, as `file: limit`.
fn some_container_has(limits: &str, limit: &str) -> bool {
    let in_tier = |line: &str| line.starts_with("/sys/fs/cgroup/kubepods/burstable/pod") && line.ends_with(limit);
    limits.lines().any(in_tier)
}

#[test]
fn pods_are_slices_and_scopes_of_a_systemd() -> Result<()> {
    let mut guest = Guest::new()?;
    guest.systemd()?;
    MODULES.iter().for_each(|name| guest.module(name));
    let program = programs::black_box("systemd")?;
    guest.files().program(&program.path, "/tests/systemd")?;
    guest.job(
        "systemd",
        "until timeout 3 busctl status org.freedesktop.systemd1 > /dev/null 2>&1; do sleep 0.1; done
        /tests/systemd --include-ignored --test-threads 1",
    );
    check(&guest.run()?)
}

#[test]
fn containers_are_confined_by_apparmor_profiles() -> Result<()> {
    let mut guest = Guest::new()?;
    MODULES.iter().for_each(|name| guest.module(name));
    let parser = kernel::unpacked("apparmor")?.join("sbin/apparmor_parser");
    guest.files().program(&parser, "/bin/apparmor_parser")?;
    let program = programs::black_box("apparmor")?;
    guest.files().program(&program.path, "/tests/apparmor")?;
    guest.job(
        "apparmor",
        "mount -t securityfs securityfs /sys/kernel/security && /tests/apparmor --include-ignored --test-threads 1",
    );
    check(&guest.run()?)
}

/// Every job has passed and ran something.
fn check(outcomes: &[Outcome]) -> Result<()> {
    for Outcome { name, status, output } in outcomes {
        println!("{name}: {status}\n{output}");
        ensure!(*status == 0, "{name} ended with {status}:\n{output}");
    }
    Ok(())
}
