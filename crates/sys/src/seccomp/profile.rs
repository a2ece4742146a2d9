//! The default profile of containers, for x86_64: what the well-known container engines allow by default, in effect.
//!
//! System call numbers never change their meaning, so the table names what is *not* plainly allowed; the kernel's newer
//! calls, past the last number looked at, do not exist for a container (`ENOSYS`, to which programs have an answer).

use libc::c_long;

use super::Instruction;
use super::compile::{Action, Comparison, Operator, Rule, Rules, compile};
use crate::capability::mask;

/// The numbers in use: 0 to 334 from the days of separate tables, 335 (a probe's return) and the common ones from 424.
const OLD_LAST: c_long = 335;
const NEW_FIRST: c_long = 424;
/// `removexattrat`, the newest that has been looked at and let through.
const NEW_LAST: c_long = 466;

const LSM_GET_SELF_ATTR: c_long = 459;
const LSM_LIST_MODULES: c_long = 461;
const PERMISSION: Action = Action::Errno(libc::EPERM as u16);
const MISSING: Action = Action::Errno(libc::ENOSYS as u16);

/// What lets a call through.
enum Gate {
    /// Nothing.
    Never,
    /// Any of these capabilities.
    Capabilities(u64),
}

const NEVER: &[(c_long, c_long)] = &[
    (libc::SYS_uselib, libc::SYS_uselib),
    (libc::SYS_ustat, libc::SYS_ustat),
    (libc::SYS_sysfs, libc::SYS_sysfs),
    (libc::SYS_pivot_root, libc::SYS__sysctl),
    (libc::SYS_swapon, libc::SYS_swapoff),
    (CREATE_MODULE, CREATE_MODULE),
    (GET_KERNEL_SYMS, GET_KERNEL_SYMS + 1),
    (libc::SYS_nfsservctl, libc::SYS_security),
    (EPOLL_CTL_OLD, EPOLL_CTL_OLD + 1),
    (libc::SYS_vserver, libc::SYS_vserver),
    (libc::SYS_kexec_load, libc::SYS_kexec_load),
    (libc::SYS_add_key, libc::SYS_keyctl),
    (libc::SYS_migrate_pages, libc::SYS_migrate_pages),
    (libc::SYS_move_pages, libc::SYS_move_pages),
    (libc::SYS_kexec_file_load, libc::SYS_kexec_file_load),
    (libc::SYS_userfaultfd, libc::SYS_userfaultfd),
    (libc::SYS_io_uring_setup, libc::SYS_io_uring_register),
    (LSM_GET_SELF_ATTR, LSM_LIST_MODULES),
];
// Calls so old that libc has no name for them.
const CREATE_MODULE: c_long = 174;
const GET_KERNEL_SYMS: c_long = 177;
const EPOLL_CTL_OLD: c_long = 214;

/// Calls that need one of some capabilities.
const GATED: &[(u64, &[c_long])] = &[
    (mask("DAC_READ_SEARCH"), &[libc::SYS_open_by_handle_at]),
    (
        mask("SYS_ADMIN"),
        &[
            libc::SYS_fanotify_init,
            libc::SYS_fsconfig,
            libc::SYS_fsmount,
            libc::SYS_fsopen,
            libc::SYS_fspick,
            libc::SYS_lookup_dcookie,
            libc::SYS_mount,
            libc::SYS_mount_setattr,
            libc::SYS_move_mount,
            libc::SYS_open_tree,
            libc::SYS_quotactl,
            libc::SYS_quotactl_fd,
            libc::SYS_setdomainname,
            libc::SYS_sethostname,
            libc::SYS_setns,
            libc::SYS_umount2,
            libc::SYS_unshare,
        ],
    ),
    (mask("SYS_ADMIN") | mask("BPF"), &[libc::SYS_bpf]),
    (mask("SYS_ADMIN") | mask("PERFMON"), &[libc::SYS_perf_event_open]),
    (mask("SYS_ADMIN") | mask("SYSLOG"), &[libc::SYS_syslog]),
    (mask("SYS_BOOT"), &[libc::SYS_reboot]),
    (mask("SYS_CHROOT"), &[libc::SYS_chroot]),
    (mask("SYS_MODULE"), &[libc::SYS_delete_module, libc::SYS_init_module, libc::SYS_finit_module]),
    (mask("SYS_PACCT"), &[libc::SYS_acct]),
    (mask("SYS_PTRACE"), &[libc::SYS_kcmp, libc::SYS_pidfd_getfd, libc::SYS_process_madvise]),
    (mask("SYS_RAWIO"), &[libc::SYS_iopl, libc::SYS_ioperm]),
    (mask("SYS_TIME"), &[libc::SYS_settimeofday, libc::SYS_clock_settime]),
    (mask("SYS_TTY_CONFIG"), &[libc::SYS_vhangup]),
    (
        mask("SYS_NICE"),
        &[libc::SYS_get_mempolicy, libc::SYS_mbind, libc::SYS_set_mempolicy, libc::SYS_set_mempolicy_home_node],
    ),
];

/// Arguments of 32 bits: the kernel ignores the upper half, so the filter must too, or it could be passed by.
const LOW: Operator = Operator::MaskedEqual { mask: 0xffff_ffff };

/// The flags of clone(2) that make namespaces; time's is not among them, which clone(2) can't take.
const NAMESPACE_FLAGS: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// Execution domains that are harmless: Linux, 32 bit, with and without randomised addresses' opposite; and the query.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The default profile for a process whose bounding set is `capabilities`, ready to install.
pub fn default_profile(capabilities: u64) -> Vec<Instruction> {
    compile(&default_rules(capabilities))
}

/// The default profile as rules.
pub fn default_rules(capabilities: u64) -> Rules {
    let mut rules = Rules::all(MISSING, Action::KillProcess);
    let mut set = |first: c_long, last: c_long, rule: Rule| {
        let number = |number: c_long| u32::try_from(number).expect("a system call number is small");
        rules.set(number(first), number(last), rule);
    };
    set(0, OLD_LAST, Action::Allow.into());
    set(NEW_FIRST, NEW_LAST, Action::Allow.into());
    let never = NEVER.iter().map(|(first, last)| (*first, *last, Gate::Never));
    let gated =
        GATED.iter().flat_map(|(needed, calls)| calls.iter().map(|call| (*call, *call, Gate::Capabilities(*needed))));
    for (first, last, gate) in never.chain(gated) {
        if !matches!(gate, Gate::Capabilities(needed) if needed & capabilities != 0) {
            set(first, last, PERMISSION.into());
        }
    }
    for (call, rule) in conditional(capabilities) {
        set(call, call, rule);
    }
    rules
}

/// Calls that depend on their arguments.
fn conditional(capabilities: u64) -> Vec<(c_long, Rule)> {
    let when = |argument, operator, value| vec![Comparison { argument, operator, value }];
    let vsock = u64::from(libc::AF_VSOCK.unsigned_abs());
    let mut rules = vec![
        (
            libc::SYS_personality,
            Rule {
                alternatives: PERSONALITIES.map(|value| (when(0, LOW, value), Action::Allow)).into(),
                otherwise: PERMISSION,
            },
        ),
        // A socket to the hypervisor leaves every network namespace.
        (libc::SYS_socket, Rule { alternatives: vec![(when(0, LOW, vsock), PERMISSION)], otherwise: Action::Allow }),
    ];
    if capabilities & mask("SYS_ADMIN") == 0 {
        let no_namespaces = Operator::MaskedEqual { mask: NAMESPACE_FLAGS };
        rules.push((
            libc::SYS_clone,
            Rule { alternatives: vec![(when(0, no_namespaces, 0), Action::Allow)], otherwise: PERMISSION },
        ));
        // Its flags are in memory, where a filter can't look: libc then falls back to clone.
        rules.push((libc::SYS_clone3, MISSING.into()));
    }
    rules
}
