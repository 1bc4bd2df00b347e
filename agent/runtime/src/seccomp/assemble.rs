//! Emits classic BPF: which architecture, then a binary search for the number, then the conditions on arguments.

use libc::sock_filter;

use super::{Result, SeccompError};

/// What a range of system call numbers leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    /// The filter's return value.
    Answer(u32),
    /// The first check that fits answers, else `otherwise`.
    Checked { checks: Vec<Check>, otherwise: u32 },
}

/// An answer under conditions that must all hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub conditions: Vec<Condition>,
    pub answer: u32,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub argument: u8,
    pub operator: Operator,
    pub value: u64,
    /// Only the low 32 bits are compared.
    pub low_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    MaskedEqual { mask: u64 },
}

/// All numbers of one architecture: the start of each range, in order from 0, and what it leads to.
pub(super) struct Section {
    pub token: u32,
    pub ranges: Vec<(u32, Decision)>,
}

/// The longest filter that the kernel takes (BPF_MAXINSNS).
const INSTRUCTIONS_MAX: usize = 4096;

// Operation codes of linux/filter.h.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// Offsets in struct seccomp_data.
const NUMBER_OFFSET: u32 = 0;
const ARCHITECTURE_OFFSET: u32 = 4;
const ARGUMENTS_OFFSET: u32 = 16;

fn instruction(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

/// Joins neighbours that lead to the same.
pub(super) fn merge_equal(ranges: &mut Vec<(u32, Decision)>) {
    ranges.dedup_by(|later, earlier| later.1 == earlier.1);
}

/// The whole filter. An architecture without a section gets `unknown`.
pub(super) fn program(sections: &[Section], unknown: u32) -> Result<Vec<sock_filter>> {
    let bodies: Vec<_> = sections.iter().map(|section| body(&section.ranges)).collect();
    let mut code = vec![instruction(LOAD, 0, 0, ARCHITECTURE_OFFSET)];
    // Two instructions for each section, then the answer for the rest, then the bodies.
    let mut body_starts_at = 2 * sections.len() + 2;
    for (section, body) in sections.iter().zip(&bodies) {
        code.push(instruction(JUMP_EQUAL, 0, 1, section.token));
        let distance = body_starts_at - code.len() - 1;
        code.push(instruction(JUMP, 0, 0, distance as u32));
        body_starts_at += body.len();
    }
    code.push(instruction(RETURN, 0, 0, unknown));
    code.extend(bodies.into_iter().flatten());
    if code.len() > INSTRUCTIONS_MAX {
        return Err(SeccompError::TooLong {
            instructions: code.len(),
            limit: INSTRUCTIONS_MAX,
        });
    }
    Ok(code)
}

fn body(ranges: &[(u32, Decision)]) -> Vec<sock_filter> {
    let mut code = vec![instruction(LOAD, 0, 0, NUMBER_OFFSET)];
    code.extend(search(ranges));
    code
}

/// A binary search; the system call number is loaded.
fn search(ranges: &[(u32, Decision)]) -> Vec<sock_filter> {
    let (lower, upper) = match ranges {
        [] => return Vec::new(),
        [(_, decision)] => return decide(decision),
        _ => ranges.split_at(ranges.len() / 2),
    };
    let boundary = upper[0].0;
    let lower_code = search(lower);
    // A conditional jump reaches 255 instructions, an unconditional one everything.
    let mut code = match u8::try_from(lower_code.len()) {
        Ok(distance) => vec![instruction(JUMP_GREATER_OR_EQUAL, distance, 0, boundary)],
        Err(_) => vec![
            instruction(JUMP_GREATER_OR_EQUAL, 0, 1, boundary),
            instruction(JUMP, 0, 0, lower_code.len() as u32),
        ],
    };
    code.extend(lower_code);
    code.extend(search(upper));
    code
}

fn decide(decision: &Decision) -> Vec<sock_filter> {
    match decision {
        Decision::Answer(answer) => vec![instruction(RETURN, 0, 0, *answer)],
        Decision::Checked { checks, otherwise } => {
            let mut code: Vec<_> = checks.iter().flat_map(check).collect();
            code.push(instruction(RETURN, 0, 0, *otherwise));
            code
        }
    }
}

/// Answers when every condition holds, else falls through to what follows.
fn check(check: &Check) -> Vec<sock_filter> {
    let mut code = vec![instruction(RETURN, 0, 0, check.answer)];
    for condition in check.conditions.iter().rev() {
        // Six conditions of at most six instructions: every distance fits.
        let to_failure = code.len() as u8;
        let mut longer = test(condition, to_failure);
        longer.append(&mut code);
        code = longer;
    }
    code
}

/// Falls through when the condition holds, else jumps over what follows and `to_failure` instructions more.
fn test(condition: &Condition, to_failure: u8) -> Vec<sock_filter> {
    let offset = ARGUMENTS_OFFSET + 8 * u32::from(condition.argument);
    let low = Word {
        offset,
        value: condition.value as u32,
    };
    let high = Word {
        offset: offset + 4,
        value: (condition.value >> 32) as u32,
    };
    if let Operator::MaskedEqual { mask } = condition.operator {
        let low_test = low.masked_test(mask as u32, to_failure);
        let high_test = high.masked_test((mask >> 32) as u32, to_failure + low_test.len() as u8);
        return high_test.into_iter().chain(low_test).collect();
    }
    let (low_code, high_code) = (
        low.test(condition.operator, to_failure),
        high.test_before(condition.operator, to_failure),
    );
    if condition.low_only {
        low_code
    } else {
        high_code.into_iter().chain(low_code).collect()
    }
}

/// One half of an argument (both machines are little-endian) and what it is compared with.
#[derive(Clone, Copy)]
struct Word {
    offset: u32,
    value: u32,
}

impl Word {
    /// Falls through when the comparison holds for this word alone.
    fn test(self, operator: Operator, to_failure: u8) -> Vec<sock_filter> {
        let (code, jt, jf) = match operator {
            Operator::Equal | Operator::MaskedEqual { .. } => (JUMP_EQUAL, 0, to_failure),
            Operator::NotEqual => (JUMP_EQUAL, to_failure, 0),
            Operator::Greater => (JUMP_GREATER, 0, to_failure),
            Operator::GreaterOrEqual => (JUMP_GREATER_OR_EQUAL, 0, to_failure),
            Operator::Less => (JUMP_GREATER_OR_EQUAL, to_failure, 0),
            Operator::LessOrEqual => (JUMP_GREATER, to_failure, 0),
        };
        vec![
            instruction(LOAD, 0, 0, self.offset),
            instruction(code, jt, jf, self.value),
        ]
    }

    /// For the high word, before the two instructions for the low one: jumps where the high word decides.
    fn test_before(self, operator: Operator, to_failure: u8) -> Vec<sock_filter> {
        const LOW_TEST: u8 = 2;
        let failure = to_failure + LOW_TEST;
        let mut code = vec![instruction(LOAD, 0, 0, self.offset)];
        match operator {
            Operator::Equal | Operator::MaskedEqual { .. } => {
                code.push(instruction(JUMP_EQUAL, 0, failure, self.value));
            }
            Operator::NotEqual => code.push(instruction(JUMP_EQUAL, 0, LOW_TEST, self.value)),
            Operator::Greater | Operator::GreaterOrEqual => {
                code.push(instruction(JUMP_GREATER, LOW_TEST + 1, 0, self.value));
                code.push(instruction(JUMP_EQUAL, 0, failure, self.value));
            }
            Operator::Less | Operator::LessOrEqual => {
                code.push(instruction(JUMP_GREATER, failure + 1, 0, self.value));
                code.push(instruction(JUMP_EQUAL, 0, LOW_TEST, self.value));
            }
        }
        code
    }

    /// Falls through when the masked word equals; nothing where the mask is empty.
    fn masked_test(self, mask: u32, to_failure: u8) -> Vec<sock_filter> {
        if mask == 0 {
            return Vec::new();
        }
        vec![
            instruction(LOAD, 0, 0, self.offset),
            instruction(AND, 0, 0, mask),
            instruction(JUMP_EQUAL, 0, to_failure, self.value),
        ]
    }
}
