//! Assembles the eBPF program that decides on device access in a v2 group.
//!
//! The kernel runs it for each open and mknod with a context of three words: kind and access, major, minor.

use super::devices::{DeviceKind, DeviceRule, DeviceRules};

/// One eBPF instruction as the kernel reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Instruction {
    code: u8,
    /// Destination in the low half, source in the high half.
    registers: u8,
    offset: i16,
    immediate: i32,
}

// Registers: the context arrives in R1, the verdict leaves in R0.
const VERDICT: u8 = 0;
const CONTEXT: u8 = 1;
/// The access that no rule has allowed yet.
const WANTED: u8 = 2;
const KIND: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

// Operation codes: class, source and operation as in linux/bpf.h. The 32-bit forms, since all values are words.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbc;
const MOVE: u8 = 0xb4;
const AND: u8 = 0x54;
const SHIFT_RIGHT: u8 = 0x74;
const JUMP: u8 = 0x05;
const JUMP_NOT_EQUAL: u8 = 0x56;
const JUMP_BITS_SET: u8 = 0x46;
const EXIT: u8 = 0x95;

/// The kernel's numbers of the kinds.
const KIND_BLOCK: i32 = 1;
const KIND_CHAR: i32 = 2;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | (source << 4),
        offset,
        immediate,
    }
}

/// The program for these rules: the last rule that fits decides each kind of access, then the default.
pub(super) fn assemble(rules: &DeviceRules) -> Vec<Instruction> {
    let mut program = vec![
        instruction(LOAD_WORD, WANTED, CONTEXT, 0, 0),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
        instruction(MOVE_REGISTER, KIND, WANTED, 0, 0),
        instruction(AND, KIND, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, WANTED, 0, 0, 16),
    ];
    for rule in rules.rules.iter().rev() {
        program.extend(assemble_rule(rule));
    }
    program.extend(verdict(rules.allow_default));
    program
}

fn verdict(allow: bool) -> [Instruction; 2] {
    [
        instruction(MOVE, VERDICT, 0, 0, i32::from(allow)),
        instruction(EXIT, 0, 0, 0, 0),
    ]
}

fn assemble_rule(rule: &DeviceRule) -> Vec<Instruction> {
    let access = i32::from(rule.access.0);
    let mut decide = if rule.allow {
        // Take the allowed access off; done when nothing is left.
        vec![
            instruction(AND, WANTED, 0, 0, !access),
            instruction(JUMP_NOT_EQUAL, WANTED, 0, 2, 0),
        ]
    } else {
        vec![
            instruction(JUMP_BITS_SET, WANTED, 0, 1, access),
            instruction(JUMP, 0, 0, 2, 0),
        ]
    };
    decide.extend(verdict(rule.allow));

    let kind = match rule.kind {
        DeviceKind::Block => KIND_BLOCK,
        DeviceKind::Char => KIND_CHAR,
    };
    let mut conditions = vec![(KIND, kind)];
    conditions.extend(rule.major.map(|major| (MAJOR, major.cast_signed())));
    conditions.extend(rule.minor.map(|minor| (MINOR, minor.cast_signed())));
    let count = conditions.len();
    let mut code = Vec::with_capacity(count + decide.len());
    for (at, (register, value)) in conditions.into_iter().enumerate() {
        // At most two conditions and four instructions are jumped over.
        let to_next_rule = (count - at - 1 + decide.len()) as i16;
        code.push(instruction(JUMP_NOT_EQUAL, register, 0, to_next_rule, value));
    }
    code.extend(decide);
    code
}

#[cfg(test)]
mod tests {
    use super::super::devices::Access;
    use super::*;

    /// Runs a program as the kernel would, for the instructions that are used here.
    fn run(program: &[Instruction], kind: i32, access: u8, major: u32, minor: u32) -> bool {
        let context = [(u32::from(access) << 16) | kind.cast_unsigned(), major, minor];
        let mut registers = [0u32; 6];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: names,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(names & 15), usize::from(names >> 4));
            let value = immediate.cast_unsigned();
            at += 1;
            let jump = match code {
                LOAD_WORD => {
                    registers[to] = context[usize::try_from(offset).unwrap() / 4];
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                MOVE => {
                    registers[to] = value;
                    false
                }
                AND => {
                    registers[to] &= value;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= value;
                    false
                }
                JUMP => true,
                JUMP_NOT_EQUAL => registers[to] != value,
                JUMP_BITS_SET => registers[to] & value != 0,
                EXIT => return registers[0] == 1,
                other => panic!("instruction {other:#x} is not expected"),
            };
            if jump {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    /// What the rules mean, said plainly.
    fn meaning(rules: &DeviceRules, kind: DeviceKind, access: u8, major: u32, minor: u32) -> bool {
        [Access::READ, Access::WRITE, Access::MKNOD]
            .into_iter()
            .filter(|bit| access & bit != 0)
            .all(|bit| {
                let fits = |rule: &&DeviceRule| {
                    rule.kind == kind
                        && rule.access.0 & bit != 0
                        && rule.major.is_none_or(|number| number == major)
                        && rule.minor.is_none_or(|number| number == minor)
                };
                rules
                    .rules
                    .iter()
                    .rev()
                    .find(fits)
                    .map_or(rules.allow_default, |rule| rule.allow)
            })
    }

    #[test]
    fn program_means_what_the_rules_say() {
        let rule = |allow, kind, major, minor, access| DeviceRule {
            allow,
            kind,
            major,
            minor,
            access: Access(access),
        };
        let list = [
            rule(true, DeviceKind::Char, None, None, Access::MKNOD),
            rule(true, DeviceKind::Char, Some(1), None, 7),
            rule(false, DeviceKind::Char, Some(1), Some(3), Access::WRITE),
            rule(true, DeviceKind::Block, Some(8), Some(0), Access::READ),
            rule(false, DeviceKind::Block, None, Some(0), Access::MKNOD),
            rule(true, DeviceKind::Char, None, Some(u32::MAX), Access::READ),
        ];
        for allow_default in [false, true] {
            for length in 0..=list.len() {
                let rules = DeviceRules {
                    allow_default,
                    rules: list[..length].to_vec(),
                };
                let program = assemble(&rules);
                for (kind, number) in [(DeviceKind::Block, KIND_BLOCK), (DeviceKind::Char, KIND_CHAR)] {
                    for access in 1..8 {
                        for major in [0, 1, 8, u32::MAX] {
                            for minor in [0, 3, 5, u32::MAX] {
                                assert_eq!(
                                    run(&program, number, access, major, minor),
                                    meaning(&rules, kind, access, major, minor),
                                    "{kind:?} {major}:{minor} access {access} with {length} rules"
                                );
                            }
                        }
                    }
                }
            }
        }
    }
}
