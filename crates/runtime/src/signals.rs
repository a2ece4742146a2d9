//! Signals by CRI's numbers, by name and by the kernel's numbers (x86 and arm agree on them).

use podd_cri::v1::Signal;

/// What asks a container to stop when neither manifest nor image says.
pub(crate) const SIGTERM: i32 = 15;
/// What ends it.
pub(crate) const SIGKILL: i32 = 9;
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// CRI's signal, its name, the kernel's number. Of two names of one number the first is the one shown.
const TABLE: [(Signal, &str, i32); 34] = [
    (Signal::Sighup, "HUP", 1),
    (Signal::Sigint, "INT", 2),
    (Signal::Sigquit, "QUIT", 3),
    (Signal::Sigill, "ILL", 4),
    (Signal::Sigtrap, "TRAP", 5),
    (Signal::Sigabrt, "ABRT", 6),
    (Signal::Sigiot, "IOT", 6),
    (Signal::Sigbus, "BUS", 7),
    (Signal::Sigfpe, "FPE", 8),
    (Signal::Sigkill, "KILL", 9),
    (Signal::Sigusr1, "USR1", 10),
    (Signal::Sigsegv, "SEGV", 11),
    (Signal::Sigusr2, "USR2", 12),
    (Signal::Sigpipe, "PIPE", 13),
    (Signal::Sigalrm, "ALRM", 14),
    (Signal::Sigterm, "TERM", 15),
    (Signal::Sigstkflt, "STKFLT", 16),
    (Signal::Sigchld, "CHLD", 17),
    (Signal::Sigcld, "CLD", 17),
    (Signal::Sigcont, "CONT", 18),
    (Signal::Sigstop, "STOP", 19),
    (Signal::Sigtstp, "TSTP", 20),
    (Signal::Sigttin, "TTIN", 21),
    (Signal::Sigttou, "TTOU", 22),
    (Signal::Sigurg, "URG", 23),
    (Signal::Sigxcpu, "XCPU", 24),
    (Signal::Sigxfsz, "XFSZ", 25),
    (Signal::Sigvtalrm, "VTALRM", 26),
    (Signal::Sigprof, "PROF", 27),
    (Signal::Sigwinch, "WINCH", 28),
    (Signal::Sigio, "IO", 29),
    (Signal::Sigpoll, "POLL", 29),
    (Signal::Sigpwr, "PWR", 30),
    (Signal::Sigsys, "SYS", 31),
];

/// The kernel's number of a CRI signal; `None` for "the runtime's default" and for numbers CRI does not have.
pub(crate) fn from_cri(signal: i32) -> Option<i32> {
    let signal = Signal::try_from(signal).ok()?;
    if signal == Signal::RuntimeDefault {
        return None;
    }
    let row = TABLE.iter().find(|row| row.0 == signal);
    // CRI numbers the real-time signals 35 to 65, the kernel 34 to 64.
    Some(row.map_or(signal as i32 - 1, |row| row.2))
}

/// CRI's signal of a kernel number.
pub(crate) fn to_cri(number: i32) -> i32 {
    match TABLE.iter().find(|row| row.2 == number) {
        Some(row) => row.0 as i32,
        None if (RTMIN..=RTMAX).contains(&number) => number + 1,
        None => Signal::RuntimeDefault as i32,
    }
}

/// The kernel's number of a name as images write it: `SIGTERM`, `term`, `15`, `SIGRTMIN+3`, `RTMAX-1`.
pub(crate) fn from_name(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(row) = TABLE.iter().find(|row| row.1 == name) {
        return Some(row.2);
    }
    let number = if let Some(offset) = name.strip_prefix("RTMIN") {
        RTMIN + distance(offset, '+')?
    } else {
        RTMAX - distance(name.strip_prefix("RTMAX")?, '-')?
    };
    (RTMIN..=RTMAX).contains(&number).then_some(number)
}

fn distance(text: &str, sign: char) -> Option<i32> {
    if text.is_empty() { Some(0) } else { text.strip_prefix(sign)?.parse().ok().filter(|number| *number >= 0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_of_cri_has_a_kernel_number_and_its_name_leads_there() {
        for cri in 1..=65 {
            let number = from_cri(cri).expect("a number");
            assert!((1..=64).contains(&number));
            let signal = Signal::try_from(cri).expect("a signal");
            let name = signal.as_str_name().replace("MINPLUS", "MIN+").replace("MAXMINUS", "MAX-");
            assert_eq!(from_name(&name), Some(number), "{name}");
            assert_eq!(from_cri(to_cri(number)), Some(number), "{name}");
        }
        assert_eq!(from_cri(0), None);
        assert_eq!(from_cri(66), None);
    }

    #[test]
    fn names_are_read_as_images_write_them() {
        let table = [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("RTMAX-1", Some(63)),
            ("RTMIN+31", None),
            ("RTMIN+-1", None),
            ("0", None),
            ("65", None),
            ("SIGNOSUCH", None),
            ("", None),
        ];
        for (name, number) in table {
            assert_eq!(from_name(name), number, "{name}");
        }
    }
}
