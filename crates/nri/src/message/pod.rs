//! Pods, and resources, which pods and containers share.

use std::collections::BTreeMap;

#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandbox {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub name: String,
    #[prost(string, tag = "3")]
    pub uid: String,
    #[prost(string, tag = "4")]
    pub namespace: String,
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub annotations: BTreeMap<String, String>,
    #[prost(string, tag = "7")]
    pub runtime_handler: String,
    #[prost(message, optional, tag = "8")]
    pub linux: Option<LinuxPodSandbox>,
    #[prost(uint32, tag = "9")]
    pub pid: u32,
    #[prost(string, repeated, tag = "10")]
    pub ips: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxPodSandbox {
    #[prost(message, optional, tag = "1")]
    pub pod_overhead: Option<LinuxResources>,
    #[prost(message, optional, tag = "2")]
    pub pod_resources: Option<LinuxResources>,
    #[prost(string, tag = "3")]
    pub cgroup_parent: String,
    #[prost(string, tag = "4")]
    pub cgroups_path: String,
    #[prost(message, repeated, tag = "5")]
    pub namespaces: Vec<LinuxNamespace>,
    #[prost(message, optional, tag = "6")]
    pub resources: Option<LinuxResources>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxNamespace {
    #[prost(string, tag = "1")]
    pub r#type: String,
    #[prost(string, tag = "2")]
    pub path: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxResources {
    #[prost(message, optional, tag = "1")]
    pub memory: Option<LinuxMemory>,
    #[prost(message, optional, tag = "2")]
    pub cpu: Option<LinuxCpu>,
    #[prost(message, repeated, tag = "3")]
    pub hugepage_limits: Vec<HugepageLimit>,
    #[prost(message, optional, tag = "4")]
    pub blockio_class: Option<OptionalString>,
    #[prost(message, optional, tag = "5")]
    pub rdt_class: Option<OptionalString>,
    #[prost(btree_map = "string, string", tag = "6")]
    pub unified: BTreeMap<String, String>,
    #[prost(message, repeated, tag = "7")]
    pub devices: Vec<LinuxDeviceCgroup>,
    #[prost(message, optional, tag = "8")]
    pub pids: Option<LinuxPids>,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LinuxMemory {
    #[prost(message, optional, tag = "1")]
    pub limit: Option<OptionalInt64>,
    #[prost(message, optional, tag = "2")]
    pub reservation: Option<OptionalInt64>,
    #[prost(message, optional, tag = "3")]
    pub swap: Option<OptionalInt64>,
    #[prost(message, optional, tag = "4")]
    pub kernel: Option<OptionalInt64>,
    #[prost(message, optional, tag = "5")]
    pub kernel_tcp: Option<OptionalInt64>,
    #[prost(message, optional, tag = "6")]
    pub swappiness: Option<OptionalUInt64>,
    #[prost(message, optional, tag = "7")]
    pub disable_oom_killer: Option<OptionalBool>,
    #[prost(message, optional, tag = "8")]
    pub use_hierarchy: Option<OptionalBool>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxCpu {
    #[prost(message, optional, tag = "1")]
    pub shares: Option<OptionalUInt64>,
    #[prost(message, optional, tag = "2")]
    pub quota: Option<OptionalInt64>,
    #[prost(message, optional, tag = "3")]
    pub period: Option<OptionalUInt64>,
    #[prost(message, optional, tag = "4")]
    pub realtime_runtime: Option<OptionalInt64>,
    #[prost(message, optional, tag = "5")]
    pub realtime_period: Option<OptionalUInt64>,
    #[prost(string, tag = "6")]
    pub cpus: String,
    #[prost(string, tag = "7")]
    pub mems: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct HugepageLimit {
    #[prost(string, tag = "1")]
    pub page_size: String,
    #[prost(uint64, tag = "2")]
    pub limit: u64,
}

#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct LinuxPids {
    #[prost(int64, tag = "1")]
    pub limit: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct LinuxDeviceCgroup {
    #[prost(bool, tag = "1")]
    pub allow: bool,
    #[prost(string, tag = "2")]
    pub r#type: String,
    #[prost(message, optional, tag = "3")]
    pub major: Option<OptionalInt64>,
    #[prost(message, optional, tag = "4")]
    pub minor: Option<OptionalInt64>,
    #[prost(string, tag = "5")]
    pub access: String,
}

/// A value in a message of its own, so that zero and absent differ.
macro_rules! optional {
    ($($name:ident, $rust:ty, $kind:ident;)*) => {$(
        #[derive(Clone, PartialEq, prost::Message)]
        pub struct $name {
            #[prost($kind, tag = "1")]
            pub value: $rust,
        }

        impl $name {
            /// The value, said to be there.
            #[must_use]
            pub fn some(value: $rust) -> Option<Self> {
                Some(Self { value })
            }
        }
    )*};
}

macro_rules! optional_copy {
    ($($name:ident, $rust:ty, $kind:ident;)*) => {$(
        #[derive(Clone, Copy, PartialEq, prost::Message)]
        pub struct $name {
            #[prost($kind, tag = "1")]
            pub value: $rust,
        }

        impl $name {
            /// The value, said to be there.
            #[must_use]
            pub fn some(value: $rust) -> Option<Self> {
                Some(Self { value })
            }
        }
    )*};
}

optional! {
    OptionalString, String, string;
}

optional_copy! {
    OptionalInt, i64, int64;
    OptionalInt64, i64, int64;
    OptionalUInt32, u32, uint32;
    OptionalUInt64, u64, uint64;
    OptionalBool, bool, bool;
    OptionalFileMode, u32, uint32;
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct OptionalRepeatedString {
    #[prost(string, repeated, tag = "1")]
    pub value: Vec<String>,
}
