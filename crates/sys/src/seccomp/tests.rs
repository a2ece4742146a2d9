//! The compiled filter against an interpreter, and in the kernel.

use super::*;
use crate::capability;

/// Runs a program as the kernel would (seccomp(2), bpf in linux/filter.h).
fn run(program: &[Instruction], architecture: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(architecture.to_ne_bytes());
    data.extend(0u64.to_ne_bytes());
    arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
    let word = |at: u32| u32::from_ne_bytes(data[at as usize..at as usize + 4].try_into().unwrap());
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        let jump = |condition: bool| usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = word(k),
            0x54 => accumulator &= k,
            0x06 => return k,
            0x05 => at += k as usize,
            0x15 => at += jump(accumulator == k),
            0x25 => at += jump(accumulator > k),
            0x35 => at += jump(accumulator >= k),
            other => panic!("instruction {other:#x}"),
        }
    }
}

const X86_64: u32 = 0xc000_003e;
const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;
const KILL_PROCESS: u32 = 0x8000_0000;

fn outcome(capabilities: u64, number: i64, arguments: [u64; 6]) -> u32 {
    run(&default_profile(capabilities), X86_64, number as u32, arguments)
}

#[test]
fn the_compiled_tree_says_for_every_number_what_the_rules_say() {
    for capabilities in [0, capability::DEFAULT, capability::ALL, capability::mask("SYS_ADMIN")] {
        let rules = default_rules(capabilities);
        let program = compile(&rules);
        assert!(program.len() < 4096);
        for number in (0..1000).chain([0x3fff_ffff, 0x4000_0000, 0x4000_0001, u32::MAX]) {
            let rule = rules.at(number);
            if rule.alternatives.is_empty() {
                let want = match rule.otherwise {
                    Action::Allow => ALLOW,
                    Action::Errno(errno) => 0x0005_0000 | u32::from(errno),
                    other => panic!("{other:?} is not in the default profile"),
                };
                assert_eq!(run(&program, X86_64, number, [0; 6]), want, "call {number}, {capabilities:#x}");
            }
        }
    }
}

#[test]
fn everyday_calls_are_allowed_and_dangerous_ones_are_not() {
    for call in [
        libc::SYS_read,
        libc::SYS_execve,
        libc::SYS_openat2,
        libc::SYS_futex_waitv,
        libc::SYS_landlock_restrict_self,
        libc::SYS_ptrace,
        libc::SYS_chroot,
        libc::SYS_rseq,
        libc::SYS_mknodat,
        libc::SYS_setns - 1,
    ] {
        assert_eq!(outcome(capability::DEFAULT, call, [0; 6]), ALLOW, "call {call}");
    }
    for call in [
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_keyctl,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_io_uring_setup,
        libc::SYS_io_uring_enter,
        libc::SYS_kexec_load,
        libc::SYS_init_module,
        libc::SYS_open_by_handle_at,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_swapon,
        libc::SYS_pivot_root,
        libc::SYS_reboot,
        libc::SYS_settimeofday,
        libc::SYS_mbind,
        libc::SYS_process_madvise,
        libc::SYS_move_mount,
    ] {
        assert_eq!(outcome(capability::DEFAULT, call, [0; 6]), EPERM, "call {call}");
    }
}

#[test]
fn a_capability_opens_its_calls_and_no_others() {
    let rows = [
        ("SYS_ADMIN", libc::SYS_mount),
        ("SYS_ADMIN", libc::SYS_unshare),
        ("BPF", libc::SYS_bpf),
        ("SYSLOG", libc::SYS_syslog),
        ("SYS_TIME", libc::SYS_clock_settime),
        ("SYS_NICE", libc::SYS_mbind),
        ("SYS_MODULE", libc::SYS_finit_module),
    ];
    for (name, call) in rows {
        let capability = capability::mask(name);
        assert_eq!(outcome(capability, call, [0; 6]), ALLOW, "{name} {call}");
        assert_eq!(outcome(capability::ALL & !capability & !capability::mask("SYS_ADMIN"), call, [0; 6]), EPERM);
    }
    assert_eq!(outcome(capability::ALL, libc::SYS_keyctl, [0; 6]), EPERM);
}

#[test]
fn new_namespaces_by_clone_need_sys_admin() {
    let fork = libc::SIGCHLD as u64;
    let newuser = fork | libc::CLONE_NEWUSER as u64;
    assert_eq!(outcome(capability::DEFAULT, libc::SYS_clone, [fork, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(outcome(capability::DEFAULT, libc::SYS_clone, [newuser, 0, 0, 0, 0, 0]), EPERM);
    assert_eq!(outcome(capability::DEFAULT, libc::SYS_clone3, [0; 6]), ENOSYS);
    assert_eq!(outcome(capability::ALL, libc::SYS_clone, [newuser, 0, 0, 0, 0, 0]), ALLOW);
    assert_eq!(outcome(capability::ALL, libc::SYS_clone3, [0; 6]), ALLOW);
}

#[test]
fn the_upper_half_of_an_int_can_not_pass_the_filter_by() {
    let vsock = libc::AF_VSOCK as u64;
    let socket = |family: u64| outcome(capability::DEFAULT, libc::SYS_socket, [family, 1, 0, 0, 0, 0]);
    assert_eq!(socket(vsock), EPERM);
    assert_eq!(socket(vsock | 1 << 32), EPERM);
    assert_eq!(socket(libc::AF_INET as u64), ALLOW);
    let personality = |value: u64| outcome(0, libc::SYS_personality, [value, 0, 0, 0, 0, 0]);
    assert_eq!(personality(0xffff_ffff), ALLOW);
    assert_eq!(personality(u64::MAX), ALLOW);
    assert_eq!(personality(0x40_0000), EPERM);
}

#[test]
fn foreign_architectures_and_unknown_numbers_are_refused() {
    let program = default_profile(capability::ALL);
    const I386: u32 = 0x4000_0003;
    assert_eq!(run(&program, I386, 4, [0; 6]), KILL_PROCESS);
    for number in [336, 400, 423, 467, 999, 0x4000_0000] {
        assert_eq!(run(&program, X86_64, number, [0; 6]), ENOSYS, "call {number}");
    }
}

#[test]
fn every_operator_compares_all_64_bits() {
    let big = 1u64 << 40;
    let values = [0, 1, 5, big - 1, big, big + 1, big | 5, u64::MAX];
    type Holds = fn(u64, u64) -> bool;
    let operators: [(Operator, Holds); 7] = [
        (Operator::Equal, |a, b| a == b),
        (Operator::NotEqual, |a, b| a != b),
        (Operator::Less, |a, b| a < b),
        (Operator::LessOrEqual, |a, b| a <= b),
        (Operator::Greater, |a, b| a > b),
        (Operator::GreaterOrEqual, |a, b| a >= b),
        (Operator::MaskedEqual { mask: 0xff_0000_00ff }, |a, b| a & 0xff_0000_00ff == b),
    ];
    for (operator, holds) in operators {
        for value in values {
            let mut rules = Rules::all(Action::Errno(1), Action::KillProcess);
            let comparisons = vec![
                Comparison { argument: 5, operator, value },
                Comparison { argument: 0, operator: Operator::Equal, value: 7 },
            ];
            rules.set(3, 3, Rule { alternatives: vec![(comparisons, Action::Allow)], otherwise: Action::Log });
            let program = compile(&rules);
            for argument in values {
                for first in [7, 8] {
                    let want = holds(argument, value) && first == 7;
                    let got = run(&program, X86_64, 3, [first, 0, 0, 0, 0, argument]) == ALLOW;
                    assert_eq!(got, want, "{argument:#x} {operator:?} {value:#x}, first {first}");
                }
            }
        }
    }
}

#[test]
fn a_wide_policy_still_jumps_right() {
    let mut rules = Rules::all(Action::Allow, Action::KillProcess);
    for number in 0..600 {
        rules.set(number, number, Action::Errno(number as u16));
    }
    let program = compile(&rules);
    for number in 0..600 {
        assert_eq!(run(&program, X86_64, number, [0; 6]), 0x0005_0000 | number);
    }
    assert_eq!(run(&program, X86_64, 600, [0; 6]), ALLOW);
}

#[test]
fn instructions_survive_their_bytes() {
    for instruction in default_profile(capability::DEFAULT) {
        assert_eq!(Instruction::from_bytes(instruction.to_bytes()), instruction);
    }
}

#[test]
fn the_kernel_takes_the_default_profile() {
    std::thread::spawn(|| {
        rustix::thread::set_no_new_privs(true).unwrap();
        install(&default_profile(capability::DEFAULT), 0).unwrap();
        assert_eq!(
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&std::io::stdin()), None,),
            Err(rustix::io::Errno::PERM)
        );
    })
    .join()
    .unwrap();
}

#[test]
fn every_architecture_of_a_policy_has_its_own_rules() {
    const I386: u32 = 0x4000_0003;
    const ARM: u32 = 0x4000_0028;
    let mut own = Rules::all(Action::Allow, Action::KillProcess);
    let mut other = Rules::all(Action::Errno(38), Action::KillProcess);
    for number in 0..300 {
        own.set(number, number, Action::Errno(number as u16));
        other.set(number, number, Action::Trace(number as u16));
    }
    let program = compile_with(&own, &[(I386, other)]);
    for number in 0..300 {
        assert_eq!(run(&program, X86_64, number, [0; 6]), 0x0005_0000 | number);
        assert_eq!(run(&program, I386, number, [0; 6]), 0x7ff0_0000 | number);
    }
    assert_eq!(run(&program, X86_64, 300, [0; 6]), ALLOW);
    assert_eq!(run(&program, I386, 300, [0; 6]), ENOSYS);
    assert_eq!(run(&program, ARM, 0, [0; 6]), KILL_PROCESS);
}
