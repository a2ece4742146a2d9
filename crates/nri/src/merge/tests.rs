//! Several plugins of one container: what they agree on, and where they cannot.

use super::*;
use crate::message::{
    HugepageLimit, KeyValue, LinuxContainerAdjustment, LinuxCpu, LinuxMemory, Mount, OptionalInt64, OptionalUInt64,
};

fn creation() -> Creation {
    Creation::new(Container { id: "c".into(), env: vec!["A=1".into(), "B=2".into()], ..Container::default() })
}

fn env(pairs: &[(&str, &str)]) -> CreateContainerResponse {
    let env = pairs.iter().map(|(key, value)| KeyValue { key: (*key).into(), value: (*value).into() }).collect();
    CreateContainerResponse { adjust: Some(ContainerAdjustment { env, ..Default::default() }), ..Default::default() }
}

fn memory(limit: i64) -> LinuxResources {
    LinuxResources {
        memory: Some(LinuxMemory { limit: OptionalInt64::some(limit), ..LinuxMemory::default() }),
        ..LinuxResources::default()
    }
}

fn update(container: &str, resources: LinuxResources, ignore_failure: bool) -> ContainerUpdate {
    ContainerUpdate {
        container_id: container.into(),
        linux: Some(LinuxContainerUpdate { resources: Some(resources) }),
        ignore_failure,
    }
}

#[test]
fn plugins_that_set_different_things_all_get_them() {
    let mut creation = creation();
    creation.add("00-a", env(&[("X", "1")])).expect("free");
    creation.add("01-b", env(&[("Y", "2"), ("A", "3")])).expect("free");
    assert_eq!(creation.container.env, ["B=2", "X=1", "Y=2", "A=3"]);
    assert_eq!(creation.adjust.env.len(), 3);
}

#[test]
fn two_plugins_that_set_the_same_thing_are_an_error_that_names_both() {
    let mut creation = creation();
    creation.add("00-a", env(&[("X", "1")])).expect("free");
    let error = creation.add("01-b", env(&[("X", "2")])).expect_err("taken").to_string();
    assert_eq!(error, "plugins \"00-a\" and \"01-b\" both tried to set Env X of container c");
}

#[test]
fn a_plugin_may_take_over_what_it_removes_first() {
    let mut creation = creation();
    creation.add("00-a", env(&[("X", "1")])).expect("free");
    creation.add("01-b", env(&[("-X", ""), ("X", "2")])).expect("taken over");
    assert_eq!(creation.container.env, ["A=1", "B=2", "X=2"]);
    creation.add("02-c", env(&[("-A", ""), ("-X", "")])).expect("removed");
    assert_eq!(creation.container.env, ["B=2"]);
    let asked: Vec<_> = creation.adjust.env.iter().map(|variable| variable.key.as_str()).collect();
    assert_eq!(asked, ["-A", "-X"]);
}

#[test]
fn arguments_are_taken_over_behind_an_empty_program() {
    let args = |args: &[&str]| CreateContainerResponse {
        adjust: Some(ContainerAdjustment { args: args.iter().map(|&arg| arg.into()).collect(), ..Default::default() }),
        ..Default::default()
    };
    let mut creation = creation();
    creation.add("00-a", args(&["one"])).expect("free");
    assert!(creation.add("01-b", args(&["two"])).is_err());
    creation.add("01-b", args(&["", "two"])).expect("taken over");
    assert_eq!(creation.adjust.args, ["two"]);
    assert_eq!(creation.container.args, ["two"]);
}

#[test]
fn a_mount_is_known_by_where_it_is() {
    let mount = |source: &str| CreateContainerResponse {
        adjust: Some(ContainerAdjustment {
            mounts: vec![Mount { destination: "/d".into(), source: source.into(), ..Mount::default() }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let mut creation = creation();
    creation.container.mounts.push(Mount { destination: "/d".into(), source: "/old".into(), ..Mount::default() });
    creation.add("00-a", mount("/new")).expect("free");
    let sources: Vec<_> = creation.container.mounts.iter().map(|mount| mount.source.as_str()).collect();
    assert_eq!(sources, ["/new"]);
    assert!(creation.add("01-b", mount("/other")).is_err());
}

#[test]
fn resources_are_owned_field_by_field() {
    let adjust = |resources| CreateContainerResponse {
        adjust: Some(ContainerAdjustment {
            linux: Some(LinuxContainerAdjustment { resources: Some(resources), ..Default::default() }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let cpu = |shares, size: &str| LinuxResources {
        cpu: Some(LinuxCpu { shares: OptionalUInt64::some(shares), ..LinuxCpu::default() }),
        hugepage_limits: vec![HugepageLimit { page_size: size.into(), limit: 1 }],
        ..LinuxResources::default()
    };
    let mut creation = creation();
    creation.add("00-a", adjust(memory(5))).expect("free");
    creation.add("01-b", adjust(cpu(7, "2MB"))).expect("free");
    assert!(creation.add("02-c", adjust(memory(6))).is_err());
    assert!(creation.add("02-c", adjust(LinuxResources { cpu: None, ..cpu(0, "2MB") })).is_err());
    creation.add("02-c", adjust(LinuxResources { cpu: None, ..cpu(0, "1GB") })).expect("another size");
    let resources = creation.adjust.linux.expect("linux").resources.expect("resources");
    assert_eq!(resources.memory.expect("memory").limit, OptionalInt64::some(5));
    assert_eq!(resources.hugepage_limits.len(), 2);
}

#[test]
fn a_container_that_is_being_created_is_adjusted_not_updated() {
    let answer =
        CreateContainerResponse { update: vec![update("c", memory(1), true)], ..CreateContainerResponse::default() };
    assert!(matches!(creation().add("00-a", answer), Err(Conflict::Own { .. })));
}

#[test]
fn an_update_that_may_fail_is_left_out_where_it_conflicts() {
    let mut updates = Updates::default();
    updates.add("00-a", vec![update("x", memory(1), false)]).expect("free");
    updates.add("01-b", vec![update("x", memory(2), true)]).expect("left out");
    assert_eq!(updates.list, [update("x", memory(1), false)]);
    assert!(updates.add("02-c", vec![update("x", memory(2), false)]).is_err());
}

#[test]
fn an_update_of_the_container_itself_lies_over_what_was_asked() {
    let mut updates = Updates::default();
    updates.add("00-a", vec![update("x", memory(9), false), update("y", memory(1), false)]).expect("free");
    let mut asked = memory(1);
    asked.pids = Some(crate::message::LinuxPids { limit: 3 });
    assert_eq!(updates.seen("x", &asked), LinuxResources { pids: asked.pids, ..memory(9) });
    assert_eq!(updates.take("x", &asked), LinuxResources { pids: asked.pids, ..memory(9) });
    assert_eq!(updates.list.len(), 1);
    assert_eq!(updates.take("x", &asked), asked);
}
