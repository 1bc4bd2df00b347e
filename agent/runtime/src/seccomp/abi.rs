//! The system call interfaces that a machine's kernel offers.

use oci_spec::runtime::Arch;

/// One way to call the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Abi {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

/// Set in the numbers of x32 calls, which otherwise look like those of x86-64.
pub(super) const X32_BIT: u32 = 0x4000_0000;

impl Abi {
    /// The ABI of a profile's name; none for those of machines that Muster does not run on.
    pub fn of(name: Arch) -> Option<Abi> {
        match name {
            Arch::ScmpArchX86_64 => Some(Abi::X86_64),
            Arch::ScmpArchX86 => Some(Abi::X86),
            Arch::ScmpArchX32 => Some(Abi::X32),
            Arch::ScmpArchAarch64 => Some(Abi::Aarch64),
            Arch::ScmpArchArm => Some(Abi::Arm),
            _ => None,
        }
    }

    /// What the kernel reports as the architecture of a call (`AUDIT_ARCH_*`).
    pub fn token(self) -> u32 {
        match self {
            Abi::X86_64 | Abi::X32 => 0xc000_003e,
            Abi::X86 => 0x4000_0003,
            Abi::Aarch64 => 0xc000_00b7,
            Abi::Arm => 0x4000_0028,
        }
    }

    /// Whether arguments are compared by their low 32 bits alone.
    pub fn compares_32_bits(self) -> bool {
        match self {
            Abi::X86_64 | Abi::Aarch64 => false,
            Abi::X86 | Abi::X32 | Abi::Arm => true,
        }
    }

    /// What is added to a table number to get the number that the kernel sees.
    pub fn number_base(self) -> u32 {
        match self {
            Abi::X32 => X32_BIT,
            Abi::X86_64 | Abi::X86 | Abi::Aarch64 | Abi::Arm => 0,
        }
    }

    /// The first table number that is not an ordinary call: on Arm the private calls begin there.
    pub fn ordinary_end(self) -> u32 {
        match self {
            Abi::Arm => 0x000f_0000,
            Abi::X86_64 | Abi::X32 => X32_BIT,
            Abi::X86 | Abi::Aarch64 => u32::MAX,
        }
    }

    /// The column of the table of system calls.
    pub fn column(self) -> usize {
        match self {
            Abi::X86_64 => 0,
            Abi::X86 => 1,
            Abi::X32 => 2,
            Abi::Aarch64 => 3,
            Abi::Arm => 4,
        }
    }
}

/// A machine that containers run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86-64, with 32-bit x86 and x32.
    X86_64,
    /// 64-bit Arm, with 32-bit Arm.
    Aarch64,
}

impl Machine {
    /// The machine that this program was built for.
    pub const fn current() -> Machine {
        if cfg!(target_arch = "x86_64") {
            Machine::X86_64
        } else if cfg!(target_arch = "aarch64") {
            Machine::Aarch64
        } else {
            panic!("containers are only run on x86-64 and 64-bit Arm")
        }
    }

    /// The ABI of programs built for the machine itself.
    pub(super) fn native(self) -> Abi {
        match self {
            Machine::X86_64 => Abi::X86_64,
            Machine::Aarch64 => Abi::Aarch64,
        }
    }

    /// Every ABI that the machine's kernel may offer.
    pub(super) fn abis(self) -> &'static [Abi] {
        match self {
            Machine::X86_64 => &[Abi::X86_64, Abi::X86, Abi::X32],
            Machine::Aarch64 => &[Abi::Aarch64, Abi::Arm],
        }
    }

    /// Its name in OCI profiles.
    pub(super) fn oci_name(self) -> Arch {
        match self {
            Machine::X86_64 => Arch::ScmpArchX86_64,
            Machine::Aarch64 => Arch::ScmpArchAarch64,
        }
    }

    /// Its name in the conditions of Docker's profiles.
    pub(super) fn docker_name(self) -> &'static str {
        match self {
            Machine::X86_64 => "amd64",
            Machine::Aarch64 => "arm64",
        }
    }
}
