//! The device allow-list as an eBPF program (`BPF_PROG_TYPE_CGROUP_DEVICE`), which is how v2 has
//! devices decided. Instructions are values; loading and attaching is `podd_sys::bpf`.
//!
//! The program gets `struct bpf_cgroup_dev_ctx` {access << 16 | kind, major, minor} and answers 1
//! to allow. Layout: load the context into registers, then one block per exception, then the
//! default. A list of default device nodes comes to about a hundred instructions.

use crate::devices::{Access, AllowList, DeviceKind, Match};

/// One instruction as the kernel wants it: opcode, registers, offset, immediate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Insn {
    code: u8,
    dst: u8,
    src: u8,
    off: i16,
    imm: i32,
}

impl Insn {
    /// `struct bpf_insn` in native byte order (little-endian machines put dst in the low nibble).
    pub(crate) fn encode(self) -> u64 {
        let [off0, off1] = self.off.to_ne_bytes();
        let [a, b, c, d] = self.imm.to_ne_bytes();
        let registers =
            if cfg!(target_endian = "little") { self.src << 4 | self.dst } else { self.dst << 4 | self.src };
        u64::from_ne_bytes([self.code, registers, off0, off1, a, b, c, d])
    }
}

// Opcodes: class | source | operation (linux/bpf.h, linux/bpf_common.h).
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOV_REG: u8 = 0xbf; // BPF_ALU64 | BPF_MOV | BPF_X
const MOV_IMM: u8 = 0xb7; // BPF_ALU64 | BPF_MOV | BPF_K
const AND32_IMM: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHR32_IMM: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JNE_IMM: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const JEQ_IMM: u8 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JNE_REG: u8 = 0x5d; // BPF_JMP | BPF_JNE | BPF_X
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

// Registers: the context comes in r1, the answer goes out in r0.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 1;

const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;

/// The program that decides as `list` does.
pub(crate) fn program(list: &AllowList) -> Vec<Insn> {
    let insn = |code, dst, src, off, imm| Insn { code, dst, src, off, imm };
    let mut program = vec![
        insn(LOAD_WORD, KIND, CONTEXT, 0, 0),
        insn(MOV_REG, ACCESS, KIND, 0, 0),
        insn(SHR32_IMM, ACCESS, 0, 0, 16),
        insn(AND32_IMM, KIND, 0, 0, 0xffff),
        insn(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        insn(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for (which, access) in &list.exceptions {
        program.extend(exception(*which, *access, list.default_allow));
    }
    program.push(insn(MOV_IMM, ANSWER, 0, 0, i32::from(list.default_allow)));
    program.push(insn(EXIT, 0, 0, 0, 0));
    program
}

/// The block of one exception: leave with the other answer if everything matches, else go on.
fn exception(which: Match, access: Access, default_allow: bool) -> Vec<Insn> {
    // (instruction, does it jump to the end of the block?)
    let mut block: Vec<(Insn, bool)> = Vec::new();
    let mut push = |code, dst, src, imm, jumps| {
        block.push((Insn { code, dst, src, off: 0, imm }, jumps));
    };
    match which.kind {
        DeviceKind::All => {}
        DeviceKind::Block => push(JNE_IMM, KIND, 0, KIND_BLOCK, true),
        DeviceKind::Char => push(JNE_IMM, KIND, 0, KIND_CHAR, true),
    }
    for (register, number) in [(MAJOR, which.major), (MINOR, which.minor)] {
        if let Some(number) = number {
            // Numbers of devices have at most 20 bits, so the sign extension of imm is harmless.
            push(JNE_IMM, register, 0, number as i32, true);
        }
    }
    if access.0 != Access::ALL {
        push(MOV_REG, SCRATCH, ACCESS, 0, false);
        push(AND32_IMM, SCRATCH, 0, access.0 as i32, false);
        if default_allow {
            // Denied if any of the wanted accesses is: skip when none is.
            push(JEQ_IMM, SCRATCH, 0, 0, true);
        } else {
            // Allowed only if all of the wanted accesses are.
            push(JNE_REG, SCRATCH, ACCESS, 0, true);
        }
    }
    push(MOV_IMM, ANSWER, 0, i32::from(!default_allow), false);
    push(EXIT, 0, 0, 0, false);
    let end = block.len();
    block
        .into_iter()
        .enumerate()
        .map(|(at, (insn, jumps))| Insn { off: if jumps { (end - at - 1) as i16 } else { 0 }, ..insn })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::DeviceRule;

    /// Runs a program as the kernel would, on the few opcodes it uses.
    fn decide(program: &[Insn], kind: i32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind as u32, major, minor];
        let mut registers = [0u64; 6];
        let mut at = 0;
        loop {
            let insn = program[at];
            let (dst, src) = (insn.dst as usize, insn.src as usize);
            let imm = insn.imm as i64 as u64;
            at += 1;
            let jump = match insn.code {
                LOAD_WORD => {
                    registers[dst] = context[insn.off as usize / 4].into();
                    false
                }
                MOV_REG => {
                    registers[dst] = registers[src];
                    false
                }
                MOV_IMM => {
                    registers[dst] = imm;
                    false
                }
                AND32_IMM => {
                    registers[dst] = (registers[dst] as u32 & insn.imm as u32).into();
                    false
                }
                SHR32_IMM => {
                    registers[dst] = (registers[dst] as u32 >> insn.imm).into();
                    false
                }
                JNE_IMM => registers[dst] != imm,
                JEQ_IMM => registers[dst] == imm,
                JNE_REG => registers[dst] != registers[src],
                EXIT => return registers[0] == 1,
                other => panic!("opcode {other:#x}"),
            };
            if jump {
                at = at.checked_add_signed(insn.off.into()).expect("jumps go forward");
            }
        }
    }

    const R: u32 = Access::READ;
    const W: u32 = Access::WRITE;
    const M: u32 = Access::MKNOD;

    #[test]
    fn only_listed_devices_and_accesses_are_allowed() {
        let rules = [
            DeviceRule::allow(DeviceKind::Char, 1, Some(3)),
            DeviceRule { mknod: false, ..DeviceRule::allow(DeviceKind::Char, 136, None) },
            DeviceRule { major: None, read: false, write: false, ..DeviceRule::allow(DeviceKind::Block, 0, None) },
        ];
        let program = program(&AllowList::of(&rules));
        for (kind, access, major, minor, allowed) in [
            (KIND_CHAR, R | W, 1, 3, true),
            (KIND_CHAR, R | W | M, 1, 3, true),
            (KIND_BLOCK, R, 1, 3, false),
            (KIND_CHAR, R, 1, 4, false),
            (KIND_CHAR, R | W, 136, 9, true),
            (KIND_CHAR, M, 136, 9, false),
            (KIND_CHAR, R | M, 136, 9, false),
            (KIND_BLOCK, M, 8, 1, true),
            (KIND_BLOCK, R, 8, 1, false),
        ] {
            assert_eq!(
                decide(&program, kind, access, major, minor),
                allowed,
                "kind {kind} access {access} device {major}:{minor}"
            );
        }
    }

    #[test]
    fn with_everything_allowed_a_denied_access_is_still_denied() {
        let rules = [
            DeviceRule::everything(true),
            DeviceRule { allow: false, read: false, mknod: false, ..DeviceRule::allow(DeviceKind::Block, 8, None) },
        ];
        let program = program(&AllowList::of(&rules));
        assert!(decide(&program, KIND_BLOCK, R, 8, 0));
        assert!(!decide(&program, KIND_BLOCK, R | W, 8, 0));
        assert!(decide(&program, KIND_CHAR, R | W | M, 8, 0));
    }

    #[test]
    fn an_empty_list_is_two_instructions_past_the_prologue_and_denies() {
        let program = program(&AllowList::of(&[]));
        assert_eq!(program.len(), 8);
        assert!(!decide(&program, KIND_CHAR, R, 1, 3));
    }

    #[test]
    fn an_instruction_is_encoded_as_struct_bpf_insn() {
        let insn = Insn { code: JNE_IMM, dst: MAJOR, src: 0, off: 3, imm: 136 };
        assert_eq!(insn.encode().to_le_bytes(), [0x55, 0x04, 3, 0, 136, 0, 0, 0]);
    }
}
