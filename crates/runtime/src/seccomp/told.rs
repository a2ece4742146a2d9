//! Profiles in the words of the OCI runtime specification (config-linux.md, "Seccomp"), for another runtime to compile.

use podd_sys::seccomp::{Abi, Action, Comparison, Operator, Rule, default_rules};
use serde_json::{Value, json};

use super::{Checked, Conditions, ENOSYS, EPERM, Profile};

/// The machine's own architecture.
const OWN: &str = "SCMP_ARCH_X86_64";

impl Profile {
    /// What holds under these conditions.
    pub(crate) fn told(&self, conditions: &Conditions) -> Checked<Value> {
        // Whatever is wrong with it is found as for podd's own containers.
        self.rules(conditions)?;
        self.flags()?;
        let mut calls = Vec::new();
        for entry in self.syscalls.iter().flatten() {
            if !entry.holds(conditions)? {
                continue;
            }
            let names: Vec<&String> = entry.name.iter().chain(entry.names.iter().flatten()).collect();
            let mut told = json!({ "names": names, "action": entry.action });
            if let Some(errno) = entry.errno_ret {
                told["errnoRet"] = json!(errno);
            }
            let args: Vec<Value> = entry
                .args
                .iter()
                .flatten()
                .map(|a| json!({ "index": a.index, "value": a.value, "valueTwo": a.value_two, "op": a.op }))
                .collect();
            if !args.is_empty() {
                told["args"] = args.into();
            }
            calls.push(told);
        }
        let architectures: Vec<&str> = self
            .abis()?
            .into_iter()
            .map(|abi| match abi {
                Abi::X86_64 => OWN,
                Abi::X32 => "SCMP_ARCH_X32",
                Abi::I386 => "SCMP_ARCH_X86",
            })
            .collect();
        let mut told =
            json!({ "defaultAction": self.default_action, "architectures": architectures, "syscalls": calls });
        if let Some(errno) = self.default_errno_ret {
            told["defaultErrnoRet"] = json!(errno);
        }
        if let Some(flags) = self.flags.as_ref().filter(|flags| !flags.is_empty()) {
            told["flags"] = json!(flags);
        }
        Ok(told)
    }
}

/// The built-in profile for a container with these bounding capabilities. What is not told of is refused; what is newer than
/// all that is told of, runtimes treat as unknown to the kernel.
pub(crate) fn told_default(capabilities: u64) -> Value {
    let rules = default_rules(capabilities);
    let mut always = Vec::new();
    let mut calls = Vec::new();
    for (name, number) in Abi::X86_64.numbers() {
        match rules.at(number) {
            Rule { alternatives, otherwise: Action::Allow } if alternatives.is_empty() => always.push(name),
            rule => calls.extend(told_rule(name, rule)),
        }
    }
    calls.push(json!({ "names": always, "action": "SCMP_ACT_ALLOW" }));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": [OWN],
        "syscalls": calls,
    })
}

/// The entries for a call: those that differ from the default. libseccomp has no last word after conditions but the default,
/// so a call that is allowed but for one condition is allowed under the opposite of that.
fn told_rule(name: &str, rule: &Rule) -> Vec<Value> {
    let entry = |action: Action, comparisons: &[Comparison]| {
        let mut told = match action {
            Action::Allow => json!({ "names": [name], "action": "SCMP_ACT_ALLOW" }),
            Action::Errno(errno) => json!({ "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno }),
            // The built-in profile has no others.
            _ => json!({ "names": [name], "action": "SCMP_ACT_KILL_PROCESS" }),
        };
        if !comparisons.is_empty() {
            told["args"] = comparisons.iter().map(told_comparison).collect();
        }
        told
    };
    let refused = |action: Action| matches!(action, Action::Errno(errno) if u32::from(errno) == EPERM);
    match (rule.alternatives.as_slice(), rule.otherwise) {
        ([], Action::Errno(ENOSYS)) => vec![entry(rule.otherwise, &[])],
        (alternatives, otherwise) if refused(otherwise) => {
            alternatives.iter().map(|(comparisons, action)| entry(*action, comparisons)).collect()
        }
        ([(comparisons, action)], Action::Allow) if refused(*action) => match comparisons.as_slice() {
            [one] => vec![entry(Action::Allow, &[Comparison { operator: Operator::NotEqual, ..*one }])],
            _ => Vec::new(),
        },
        // Stricter than the built-in profile, should it come to have such a rule; a test knows.
        _ => Vec::new(),
    }
}

fn told_comparison(comparison: &Comparison) -> Value {
    let (op, value, second) = match comparison.operator {
        Operator::Equal => ("SCMP_CMP_EQ", comparison.value, 0),
        Operator::NotEqual => ("SCMP_CMP_NE", comparison.value, 0),
        Operator::Less => ("SCMP_CMP_LT", comparison.value, 0),
        Operator::LessOrEqual => ("SCMP_CMP_LE", comparison.value, 0),
        Operator::Greater => ("SCMP_CMP_GT", comparison.value, 0),
        Operator::GreaterOrEqual => ("SCMP_CMP_GE", comparison.value, 0),
        Operator::MaskedEqual { mask } => ("SCMP_CMP_MASKED_EQ", mask, comparison.value),
    };
    json!({ "index": comparison.argument, "value": value, "valueTwo": second, "op": op })
}

#[cfg(test)]
mod tests {
    use podd_sys::capability::{ALL, DEFAULT};

    use super::*;

    fn conditions() -> Conditions {
        Conditions { capabilities: DEFAULT, kernel: (6, 1) }
    }

    /// Told again as a profile, the built-in one decides as itself, for every call that has a name.
    #[test]
    fn the_built_in_profile_is_told_whole() {
        for capabilities in [0, DEFAULT, ALL] {
            let told: Profile = serde_json::from_value(told_default(capabilities)).expect("a profile");
            let (again, _) = told.rules(&Conditions { capabilities, ..conditions() }).expect("right");
            let rules = default_rules(capabilities);
            for (name, number) in Abi::X86_64.numbers() {
                let (told, own) = (again.at(number), rules.at(number));
                match own.alternatives.as_slice() {
                    [] => assert_eq!(told, own, "{name}"),
                    // The opposite: the same decisions, but for the upper half of the argument.
                    [(_, Action::Errno(_))] => {
                        let allowed = told.alternatives.iter().all(|(_, action)| *action == Action::Allow);
                        assert!(allowed && told.alternatives.len() == 1 && told.otherwise == own.alternatives[0].1);
                    }
                    _ => assert_eq!(told, own, "{name}"),
                }
            }
        }
    }

    #[test]
    fn a_profile_is_told_as_far_as_it_holds() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "archMap": [{ "architecture": OWN, "subArchitectures": ["SCMP_ARCH_X86"] }],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                { "names": ["read", "write"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] } },
                { "name": "clone", "action": "SCMP_ACT_ERRNO", "errnoRet": 2, "excludes": { "caps": ["CAP_SYS_ADMIN"] },
                  "args": [{ "index": 0, "value": 1, "op": "SCMP_CMP_EQ" }] },
            ],
        });
        let profile: Profile = serde_json::from_value(profile).expect("a profile");
        let expected = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 38,
            "architectures": [OWN, "SCMP_ARCH_X86"],
            "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [
                { "names": ["read", "write"], "action": "SCMP_ACT_ALLOW" },
                { "names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2,
                  "args": [{ "index": 0, "value": 1, "valueTwo": 0, "op": "SCMP_CMP_EQ" }] },
            ],
        });
        assert_eq!(profile.told(&conditions()).expect("right"), expected);
    }

    #[test]
    fn a_wrong_profile_is_refused_as_everywhere() {
        let profile = json!({ "defaultAction": "SCMP_ACT_NOTIFY" });
        let profile: Profile = serde_json::from_value(profile).expect("a profile");
        assert!(profile.told(&conditions()).is_err());
    }
}
