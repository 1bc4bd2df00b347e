//! Hands a filter to the kernel.

use std::io;

use libc::sock_filter;

/// The bytes of one instruction.
const INSTRUCTION_BYTES: usize = 8;

/// A compiled filter and the flags to install it with.
#[derive(Debug, Clone)]
pub struct BpfProgram {
    instructions: Vec<sock_filter>,
    flags: u32,
}

impl BpfProgram {
    pub(super) fn new(instructions: Vec<sock_filter>, flags: u32) -> BpfProgram {
        BpfProgram { instructions, flags }
    }

    /// The instructions, as `struct sock_fprog` points to them. At most 4096.
    pub fn instructions(&self) -> &[sock_filter] {
        &self.instructions
    }

    /// The flags for `seccomp(SECCOMP_SET_MODE_FILTER)`.
    pub fn flags(&self) -> u32 {
        self.flags
    }

    /// Flags and instructions as bytes, to hand them to another process of this host.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.flags.to_ne_bytes().to_vec();
        for instruction in &self.instructions {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
        bytes
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote; none when it is something else. The kernel checks the rest.
    pub fn from_bytes(bytes: &[u8]) -> Option<BpfProgram> {
        let (flags, rest) = bytes.split_first_chunk::<4>()?;
        let chunks = rest.chunks_exact(INSTRUCTION_BYTES);
        if !chunks.remainder().is_empty() || chunks.len() > 4096 {
            return None;
        }
        let read = |chunk: &[u8]| match *chunk {
            [c0, c1, jt, jf, k0, k1, k2, k3] => Some(sock_filter {
                code: u16::from_ne_bytes([c0, c1]),
                jt,
                jf,
                k: u32::from_ne_bytes([k0, k1, k2, k3]),
            }),
            _ => None,
        };
        Some(BpfProgram {
            flags: u32::from_ne_bytes(*flags),
            instructions: chunks.map(read).collect::<Option<_>>()?,
        })
    }

    /// Puts the calling thread under the filter, for good. Needs `no_new_privs` or CAP_SYS_ADMIN.
    ///
    /// Allocates nothing and takes no lock: can be called between fork and exec.
    pub fn install(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            // At most 4096 instructions, by construction.
            len: self.instructions.len() as u16,
            filter: self.instructions.as_ptr().cast_mut(),
        };
        // SAFETY: `program` points to `len` initialised instructions that outlive the call; the kernel only reads them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                self.flags,
                std::ptr::from_ref(&program),
            )
        };
        match result {
            0 => Ok(()),
            // TSYNC answers with the thread that could not follow.
            thread if thread > 0 => Err(io::Error::from_raw_os_error(libc::EBUSY)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Whether the kernel knows a flag: it looks at the flags before it looks at the (here absent) filter.
pub(super) fn knows_flag(flag: u32) -> bool {
    let nothing = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: a null filter is never read; the call fails with EFAULT or EINVAL and changes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flag, nothing) };
    result < 0 && io::Error::last_os_error().raw_os_error() == Some(libc::EFAULT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_way_to_another_process() {
        let instructions = vec![
            sock_filter {
                code: 0x15,
                jt: 1,
                jf: 255,
                k: 0xdead_beef,
            },
            sock_filter {
                code: 6,
                jt: 0,
                jf: 0,
                k: 7,
            },
        ];
        let program = BpfProgram::new(instructions, 4);
        let bytes = program.to_bytes();
        let read = BpfProgram::from_bytes(&bytes).unwrap();
        assert_eq!(
            (read.flags(), read.instructions().len(), read.instructions()[0].k),
            (4, 2, 0xdead_beef)
        );
        assert_eq!(read.to_bytes(), bytes);
        assert!(BpfProgram::from_bytes(&bytes[..9]).is_none());
        assert!(BpfProgram::from_bytes(&[]).is_none());
    }
}
