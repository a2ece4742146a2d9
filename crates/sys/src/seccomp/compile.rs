//! Rules to classic BPF.

use std::collections::BTreeMap;

use super::Instruction;

/// What happens to a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It runs.
    Allow,
    /// It fails with this errno.
    Errno(u16),
    /// It runs and is written to the audit log.
    Log,
    /// A tracer decides, told this number.
    Trace(u16),
    /// SIGSYS.
    Trap,
    /// The thread dies.
    KillThread,
    /// The process dies.
    KillProcess,
}

impl Action {
    fn code(self) -> u32 {
        match self {
            Self::Allow => libc::SECCOMP_RET_ALLOW,
            Self::Errno(errno) => libc::SECCOMP_RET_ERRNO | u32::from(errno),
            Self::Log => libc::SECCOMP_RET_LOG,
            Self::Trace(number) => libc::SECCOMP_RET_TRACE | u32::from(number),
            Self::Trap => libc::SECCOMP_RET_TRAP,
            Self::KillThread => libc::SECCOMP_RET_KILL_THREAD,
            Self::KillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        }
    }
}

/// How an argument is compared, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `argument == value`
    Equal,
    /// `argument != value`
    NotEqual,
    /// `argument < value`
    Less,
    /// `argument <= value`
    LessOrEqual,
    /// `argument > value`
    Greater,
    /// `argument >= value`
    GreaterOrEqual,
    /// `argument & mask == value`
    MaskedEqual {
        /// The mask.
        mask: u64,
    },
}

/// A condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison {
    /// Which of the six arguments, from 0.
    pub argument: u8,
    /// How.
    pub operator: Operator,
    /// With what.
    pub value: u64,
}

/// What holds for one system call: the first alternative whose comparisons all hold, or else the last word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Tried in order.
    pub alternatives: Vec<(Vec<Comparison>, Action)>,
    /// When none holds.
    pub otherwise: Action,
}

impl From<Action> for Rule {
    fn from(otherwise: Action) -> Self {
        Self { alternatives: Vec::new(), otherwise }
    }
}

/// A whole policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Intervals of numbers by their first; each reaches to the next, the last to the end. One begins at 0.
    pub from: BTreeMap<u32, Rule>,
    /// For calls of another architecture than the program's own.
    pub foreign: Action,
}

impl Rules {
    /// Everything alike.
    pub fn all(action: Action, foreign: Action) -> Self {
        Self { from: BTreeMap::from([(0, action.into())]), foreign }
    }

    /// Sets the rule of the numbers `first..=last`.
    pub fn set(&mut self, first: u32, last: u32, rule: impl Into<Rule>) {
        if let Some(after) = last.checked_add(1)
            && !self.from.contains_key(&after)
        {
            let current = self.at(last).clone();
            self.from.insert(after, current);
        }
        self.from.retain(|start, _| *start < first || *start > last);
        self.from.insert(first, rule.into());
    }

    /// The rule of a number.
    pub fn at(&self, number: u32) -> &Rule {
        self.from.range(..=number).next_back().expect("an interval begins at 0").1
    }
}

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const JUMP_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const JUMP_GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const JUMP_GREATER_OR_EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;

/// The most instructions that the kernel takes (`BPF_MAXINSNS`).
pub const LONGEST: usize = 4096;

/// Offsets in `struct seccomp_data`.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

#[cfg(target_arch = "x86_64")]
const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const OWN_ARCHITECTURE: u32 = 0xc000_00b7;

const fn plain(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

const fn branch(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// Compiles a policy for this architecture.
pub fn compile(rules: &Rules) -> Vec<Instruction> {
    compile_with(rules, &[])
}

/// Compiles a policy for this architecture and for others that the kernel runs beside it (`AUDIT_ARCH_*`), each with
/// rules of its own; what `rules` says of foreign calls holds for the rest. Longer than [`LONGEST`] is for the caller to
/// see and the kernel to refuse.
pub fn compile_with(rules: &Rules, others: &[(u32, Rules)]) -> Vec<Instruction> {
    let mut program = vec![plain(LOAD, ARCHITECTURE)];
    for (architecture, rules) in others {
        let block = numbers(rules);
        let past = u32::try_from(block.len()).expect("a program is far shorter than 2^32");
        program.extend([branch(JUMP_EQUAL, *architecture, 1, 0), plain(JUMP, past)]);
        program.extend(block);
    }
    program.extend([branch(JUMP_EQUAL, OWN_ARCHITECTURE, 1, 0), plain(RETURN, rules.foreign.code())]);
    program.extend(numbers(rules));
    program
}

/// Every number's rule, once the architecture is known.
fn numbers(rules: &Rules) -> Vec<Instruction> {
    let mut merged: Vec<(u32, &Rule)> = Vec::new();
    for (start, rule) in &rules.from {
        if merged.last().is_none_or(|(_, last)| *last != rule) {
            merged.push((*start, rule));
        }
    }
    let mut program = vec![plain(LOAD, NUMBER)];
    program.extend(tree(&merged));
    program
}

/// A balanced tree of `number >= start` with the rules as its leaves.
fn tree(intervals: &[(u32, &Rule)]) -> Vec<Instruction> {
    if let [(_, rule)] = intervals {
        return leaf(rule);
    }
    let (below, above) = intervals.split_at(intervals.len() / 2);
    let (start, low, high) = (above[0].0, tree(below), tree(above));
    let mut program = match u8::try_from(low.len()) {
        Ok(skip) => vec![branch(JUMP_GREATER_OR_EQUAL, start, skip, 0)],
        Err(_) => {
            let skip = u32::try_from(low.len()).expect("a program is far shorter than 2^32");
            vec![branch(JUMP_GREATER_OR_EQUAL, start, 0, 1), plain(JUMP, skip)]
        }
    };
    program.extend(low);
    program.extend(high);
    program
}

fn leaf(rule: &Rule) -> Vec<Instruction> {
    let mut program = Vec::new();
    for (comparisons, action) in &rule.alternatives {
        program.extend(alternative(comparisons, *action));
    }
    program.push(plain(RETURN, rule.otherwise.code()));
    program
}

/// Jump targets to be filled in once the lengths are known.
const PASS: u8 = 0xfe;
const FAIL: u8 = 0xff;

fn alternative(comparisons: &[Comparison], action: Action) -> Vec<Instruction> {
    let mut program = Vec::new();
    for comparison in comparisons {
        let mut part = instructions_of(comparison);
        let end = part.len();
        for (at, instruction) in part.iter_mut().enumerate() {
            let next = u8::try_from(end - at - 1).expect("a comparison has at most seven instructions");
            for target in [&mut instruction.jt, &mut instruction.jf] {
                if *target == PASS {
                    *target = next;
                }
            }
        }
        program.extend(part);
    }
    let end = program.len() + 1;
    for (at, instruction) in program.iter_mut().enumerate() {
        let past = u8::try_from(end - at - 1).expect("six comparisons have at most 42 instructions");
        for target in [&mut instruction.jt, &mut instruction.jf] {
            if *target == FAIL {
                *target = past;
            }
        }
    }
    program.push(plain(RETURN, action.code()));
    program
}

/// The kernel's arguments are 64 bits, BPF's words are 32: both halves are compared.
fn instructions_of(comparison: &Comparison) -> Vec<Instruction> {
    let low = ARGUMENTS + 8 * u32::from(comparison.argument);
    let high = low + 4;
    #[allow(clippy::cast_possible_truncation, reason = "halves are what is wanted")]
    let halves = |value: u64| ((value >> 32) as u32, value as u32);
    let (value_high, value_low) = halves(comparison.value);
    let ordered = |code: u16, when_true: u8, when_false: u8, above: u8, below: u8| {
        vec![
            plain(LOAD, high),
            branch(JUMP_GREATER, value_high, above, 0),
            branch(JUMP_EQUAL, value_high, 0, below),
            plain(LOAD, low),
            branch(code, value_low, when_true, when_false),
        ]
    };
    match comparison.operator {
        Operator::Equal => vec![
            plain(LOAD, high),
            branch(JUMP_EQUAL, value_high, 0, FAIL),
            plain(LOAD, low),
            branch(JUMP_EQUAL, value_low, PASS, FAIL),
        ],
        Operator::NotEqual => vec![
            plain(LOAD, high),
            branch(JUMP_EQUAL, value_high, 0, PASS),
            plain(LOAD, low),
            branch(JUMP_EQUAL, value_low, FAIL, PASS),
        ],
        Operator::MaskedEqual { mask } => {
            let (mask_high, mask_low) = halves(mask);
            vec![
                plain(LOAD, high),
                plain(AND, mask_high),
                branch(JUMP_EQUAL, value_high, 0, FAIL),
                plain(LOAD, low),
                plain(AND, mask_low),
                branch(JUMP_EQUAL, value_low, PASS, FAIL),
            ]
        }
        Operator::Greater => ordered(JUMP_GREATER, PASS, FAIL, PASS, FAIL),
        Operator::GreaterOrEqual => ordered(JUMP_GREATER_OR_EQUAL, PASS, FAIL, PASS, FAIL),
        Operator::Less => ordered(JUMP_GREATER_OR_EQUAL, FAIL, PASS, FAIL, PASS),
        Operator::LessOrEqual => ordered(JUMP_GREATER, FAIL, PASS, FAIL, PASS),
    }
}
