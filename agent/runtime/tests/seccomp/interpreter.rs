//! Runs classic BPF as the kernel's seccomp does, for the instructions that filters use.

/// One instruction.
#[derive(Clone, Copy, Debug)]
pub struct Instruction {
    pub code: u16,
    pub jt: u8,
    pub jf: u8,
    pub k: u32,
}

/// What a filter sees of a call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: u32,
    pub token: u32,
    pub arguments: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.token,
            16.. => {
                let argument = self.arguments[usize::try_from((offset - 16) / 8).unwrap()];
                if offset.is_multiple_of(8) {
                    argument as u32
                } else {
                    (argument >> 32) as u32
                }
            }
            _ => panic!("filters here do not look at offset {offset}"),
        }
    }
}

/// The answer of a filter and how many instructions it took.
pub fn run(program: &[Instruction], call: &Call) -> (u32, usize) {
    let mut accumulator = 0;
    let mut at = 0;
    let mut steps = 0;
    loop {
        let Instruction { code, jt, jf, k } = program[at];
        at += 1;
        steps += 1;
        let mut jump_if = |condition: bool| at += usize::from(if condition { jt } else { jf });
        match code {
            0x20 => accumulator = call.word(k),
            0x54 => accumulator &= k,
            0x05 => at += usize::try_from(k).unwrap(),
            0x15 => jump_if(accumulator == k),
            0x25 => jump_if(accumulator > k),
            0x35 => jump_if(accumulator >= k),
            0x45 => jump_if(accumulator & k != 0),
            0x06 => return (k, steps),
            other => panic!("instruction {other:#x} is not expected"),
        }
    }
}
