//! System call profiles from files: the JSON of the OCI runtime specification, with what container engines added to it
//! (`archMap`, `includes`, `excludes`, `name`).
//!
//! The file is read when a container is created; the program that comes of it is part of the container's record, so what
//! happens to the file later changes nothing. As with runc (libseccomp):
//! - a call that this kernel has no name for is passed over;
//! - of several entries for a call the unconditional one holds, else the first whose comparisons all hold;
//! - an entry that compares one argument twice means either comparison, otherwise all of them;
//! - calls newer than any that a denying profile names do not exist (`ENOSYS`), so that programs fall back;
//! - calls by an architecture that the profile does not list end the process.
//!
//! Another OCI runtime gets no program but the profile itself, in the plain form of the specification: [`told`].

mod told;

use std::collections::BTreeMap;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::Path;

use podd_sys::capability;
use podd_sys::seccomp::{Abi, Action, Comparison, Instruction, LONGEST, Operator, Rule, Rules, X32_BIT, compile_with};
use rustix::fs::{FileType, Mode, OFlags};
use serde::Deserialize;

use crate::error::{Context, CriError, Result};

pub(crate) use told::told_default;

/// The longest profile that is read.
const MAX_PROFILE: u64 = 1 << 20;
/// What a refused call fails with when the profile does not say.
const EPERM: u32 = 1;
/// What a call fails with that the kernel does not have.
const ENOSYS: u16 = 38;
/// The highest errno (seccomp(2)).
const LAST_ERRNO: u32 = 4095;

/// A value, or what is wrong with the profile.
type Checked<T> = std::result::Result<T, String>;

/// What a container process's profile is chosen by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conditions {
    /// The bounding capabilities of the container.
    pub(crate) capabilities: u64,
    /// The kernel's version and patch level.
    pub(crate) kernel: (u32, u32),
}

/// A profile as its file has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profile {
    default_action: String,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchitectureMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    listener_path: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Entry>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: String,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Filter>,
    #[serde(default)]
    excludes: Option<Filter>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: u32,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

/// Reads a profile. What is wrong with it is the caller's mistake.
pub(crate) fn read(path: &str) -> Result<Profile> {
    let refuse = |why: String| CriError::invalid(format!("seccomp profile {path:?}: {why}"));
    if !Path::new(path).is_absolute() || path.contains('\0') {
        return Err(refuse("localhost_ref must be the absolute path of a file".into()));
    }
    // Non-blocking, or a FIFO would hold us.
    let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
    let fd = opened.map_err(|error| refuse(format!("it can't be opened: {error}")))?;
    let stat = rustix::fs::fstat(&fd).context(|| format!("inspect {path}"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(refuse("it is not a file".into()));
    }
    let mut text = Vec::new();
    std::fs::File::from(fd).take(MAX_PROFILE + 1).read_to_end(&mut text).context(|| format!("read {path}"))?;
    if text.len() as u64 > MAX_PROFILE {
        return Err(refuse(format!("it is longer than {MAX_PROFILE} bytes")));
    }
    serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))
}

impl Profile {
    /// The program for a container. Errors say what of the profile is wrong.
    pub(crate) fn compile(&self, conditions: &Conditions) -> Checked<Vec<Instruction>> {
        let (own, others) = self.rules(conditions)?;
        let program = compile_with(&own, &others);
        if program.len() > LONGEST {
            return Err(format!("it compiles to {} instructions, more than the kernel's {LONGEST}", program.len()));
        }
        Ok(program)
    }

    /// What holds for the machine's own architecture, and for each other one (`AUDIT_ARCH_*`).
    fn rules(&self, conditions: &Conditions) -> Checked<(Rules, Vec<(u32, Rules)>)> {
        if self.listener_path.as_ref().is_some_and(|path| !path.is_empty()) {
            return Err("listenerPath: decisions by another process are not implemented".into());
        }
        let default = action("defaultAction", &self.default_action, self.default_errno_ret)?;
        let entries = self.entries(conditions)?;
        let missing = self.missing(default);
        let mut own = Rules::all(Action::KillProcess, Action::KillProcess);
        let mut others = Vec::new();
        for abi in self.abis()? {
            let calls = calls(abi, &entries, default);
            match abi {
                Abi::X86_64 => fill(&mut own, 0..=X32_BIT - 1, calls, default, missing),
                // The same architecture, the upper part of its numbers.
                Abi::X32 => fill(&mut own, X32_BIT..=u32::MAX, calls, default, missing),
                Abi::I386 => {
                    let mut rules = Rules::all(missing, Action::KillProcess);
                    fill(&mut rules, 0..=u32::MAX, calls, default, missing);
                    others.push((abi.architecture(), rules));
                }
            }
        }
        Ok((own, others))
    }

    /// `SECCOMP_FILTER_FLAG_*`.
    pub(crate) fn flags(&self) -> Checked<u32> {
        const FLAGS: &[(&str, u32)] = &[
            // One thread is all there is when the filter is installed.
            ("SECCOMP_FILTER_FLAG_TSYNC", 0),
            ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
            ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 1 << 2),
        ];
        self.flags.iter().flatten().try_fold(0, |all, name| {
            let flag = FLAGS.iter().find(|(known, _)| known == name);
            flag.map(|(_, bit)| all | bit).ok_or_else(|| format!("flag {name:?} is not known"))
        })
    }

    /// What happens to calls that the profile's author could not know.
    fn missing(&self, default: Action) -> Action {
        match default {
            Action::Allow | Action::Log | Action::Trace(_) => default,
            _ => Action::Errno(ENOSYS),
        }
    }

    /// The ways to call the kernel that the profile speaks of; the machine's own always.
    fn abis(&self) -> Checked<Vec<Abi>> {
        const OWN: &str = "SCMP_ARCH_X86_64";
        let listed: Vec<&String> = match (&self.architectures, &self.arch_map) {
            (Some(listed), Some(map)) if !listed.is_empty() && !map.is_empty() => {
                return Err("architectures and archMap exclude each other".into());
            }
            (_, Some(map)) if !map.is_empty() => {
                let own = map.iter().filter(|entry| entry.architecture == OWN);
                own.flat_map(|entry| entry.sub_architectures.iter().flatten()).collect()
            }
            (listed, _) => listed.iter().flatten().collect(),
        };
        let mut abis = vec![Abi::X86_64];
        for name in listed {
            match name.as_str() {
                "SCMP_ARCH_X86" => abis.push(Abi::I386),
                "SCMP_ARCH_X32" => abis.push(Abi::X32),
                // Of a machine that this is not.
                known if known.starts_with("SCMP_ARCH_") => {}
                _ => return Err(format!("architecture {name:?} is not known")),
            }
        }
        abis.sort_unstable();
        abis.dedup();
        Ok(abis)
    }

    /// What holds under these conditions, read.
    fn entries(&self, conditions: &Conditions) -> Checked<Vec<Rulings<'_>>> {
        let mut entries = Vec::new();
        for (at, entry) in self.syscalls.iter().flatten().enumerate() {
            let what = |why: String| format!("syscalls[{at}]: {why}");
            let names: Vec<&str> = match (&entry.name, &entry.names) {
                (Some(_), Some(names)) if !names.is_empty() => {
                    return Err(what("name and names exclude each other".into()));
                }
                (name, names) => name.iter().chain(names.iter().flatten()).map(String::as_str).collect(),
            };
            if names.is_empty() || names.contains(&"") {
                return Err(what("it names no system call".into()));
            }
            let action = action("action", &entry.action, entry.errno_ret).map_err(what)?;
            let comparisons: Vec<Comparison> =
                entry.args.iter().flatten().map(comparison).collect::<Checked<_>>().map_err(what)?;
            if entry.holds(conditions).map_err(what)? {
                entries.push(Rulings { names, action, alternatives: alternatives(comparisons) });
            }
        }
        Ok(entries)
    }
}

/// An entry, read.
struct Rulings<'a> {
    names: Vec<&'a str>,
    action: Action,
    /// Each a set of comparisons that all have to hold; none is unconditional.
    alternatives: Vec<Vec<Comparison>>,
}

impl Entry {
    fn holds(&self, conditions: &Conditions) -> Checked<bool> {
        let (includes, excludes) =
            (self.includes.clone().unwrap_or_default(), self.excludes.clone().unwrap_or_default());
        let held = |name: &String| {
            // A capability that nobody has heard of is held by nobody.
            capability::parse(name).is_some_and(|bits| bits & conditions.capabilities == bits)
        };
        let own = |name: &String| ["amd64", "x86_64", "SCMP_ARCH_X86_64"].contains(&name.as_str());
        let reached = |filter: &Filter| filter.min_kernel.as_deref().map(|text| reached(text, conditions)).transpose();
        let arches = includes.arches.clone().unwrap_or_default();
        let included = (arches.is_empty() || arches.iter().any(own))
            && includes.caps.iter().flatten().all(held)
            && reached(&includes)?.unwrap_or(true);
        let excluded = excludes.arches.iter().flatten().any(own)
            || excludes.caps.iter().flatten().any(held)
            || reached(&excludes)?.unwrap_or(false);
        Ok(included && !excluded)
    }
}

fn reached(text: &str, conditions: &Conditions) -> Checked<bool> {
    version(text).map(|wanted| conditions.kernel >= wanted).ok_or_else(|| format!("minKernel {text:?} is no version"))
}

/// The first two numbers of a kernel's version: `6.1.0-18-amd64`, `4.8`.
pub(crate) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn action(field: &str, name: &str, errno: Option<u32>) -> Checked<Action> {
    let number = || {
        let errno = errno.unwrap_or(EPERM);
        u16::try_from(errno)
            .ok()
            .filter(|number| u32::from(*number) <= LAST_ERRNO)
            .ok_or_else(|| format!("errno {errno} is not in 0..={LAST_ERRNO}"))
    };
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(number()?),
        "SCMP_ACT_TRACE" => Action::Trace(number()?),
        "SCMP_ACT_LOG" => Action::Log,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_NOTIFY" => {
            return Err(format!("{field} SCMP_ACT_NOTIFY: decisions by another process are not implemented"));
        }
        _ => return Err(format!("{field} {name:?} is not known")),
    })
}

fn comparison(argument: &Argument) -> Checked<Comparison> {
    let index = u8::try_from(argument.index).ok().filter(|index| *index < 6);
    let index = index.ok_or_else(|| format!("argument {} is not one of 0 to 5", argument.index))?;
    let (operator, value) = match argument.op.as_str() {
        "SCMP_CMP_EQ" => (Operator::Equal, argument.value),
        "SCMP_CMP_NE" => (Operator::NotEqual, argument.value),
        "SCMP_CMP_LT" => (Operator::Less, argument.value),
        "SCMP_CMP_LE" => (Operator::LessOrEqual, argument.value),
        "SCMP_CMP_GT" => (Operator::Greater, argument.value),
        "SCMP_CMP_GE" => (Operator::GreaterOrEqual, argument.value),
        "SCMP_CMP_MASKED_EQ" => (Operator::MaskedEqual { mask: argument.value }, argument.value_two),
        other => return Err(format!("operator {other:?} is not known")),
    };
    Ok(Comparison { argument: index, operator, value })
}

fn alternatives(comparisons: Vec<Comparison>) -> Vec<Vec<Comparison>> {
    if comparisons.is_empty() {
        return Vec::new();
    }
    let twice = (0..6).any(|index| comparisons.iter().filter(|other| other.argument == index).count() > 1);
    if twice { comparisons.into_iter().map(|one| vec![one]).collect() } else { vec![comparisons] }
}

/// The rule of every call that the entries name.
fn calls(abi: Abi, entries: &[Rulings<'_>], default: Action) -> BTreeMap<u32, Rule> {
    let numbers = abi.numbers();
    let mut rules: BTreeMap<u32, Rule> = BTreeMap::new();
    let mut settled: Vec<u32> = Vec::new();
    for entry in entries {
        for number in entry.names.iter().filter_map(|name| numbers.get(name)) {
            let rule = rules.entry(*number).or_insert_with(|| default.into());
            // Saying what holds anyway says nothing, but that the call is known.
            if settled.contains(number) || entry.action == default {
                continue;
            }
            if entry.alternatives.is_empty() {
                *rule = entry.action.into();
                settled.push(*number);
            }
            rule.alternatives.extend(entry.alternatives.iter().map(|one| (one.clone(), entry.action)));
        }
    }
    rules
}

/// Sets the rules of an ABI's numbers: the default up to the newest call that is named, and what is newer.
fn fill(rules: &mut Rules, range: RangeInclusive<u32>, calls: BTreeMap<u32, Rule>, default: Action, missing: Action) {
    let (first, last) = range.into_inner();
    match calls.last_key_value() {
        Some((newest, _)) => {
            rules.set(first, last, missing);
            rules.set(first, *newest, default);
        }
        None => rules.set(first, last, default),
    }
    for (number, rule) in calls {
        rules.set(number, number, rule);
    }
}

#[cfg(test)]
mod tests;
