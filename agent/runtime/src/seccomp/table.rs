//! System call numbers by name and ABI.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::abi::Abi;

const SOURCE: &str = include_str!("syscalls.tsv");

type Row = [Option<u32>; 5];

static TABLE: LazyLock<HashMap<&'static str, Row>> = LazyLock::new(|| {
    let rows = SOURCE.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| {
        let mut fields = line.split('\t');
        let name = fields.next()?;
        let mut row: Row = [None; 5];
        for (number, field) in row.iter_mut().zip(fields) {
            *number = field.parse().ok();
        }
        Some((name, row))
    })
    .collect()
});

/// The number of a call; none where the ABI does not have it.
pub(super) fn number(abi: Abi, name: &str) -> Option<u32> {
    TABLE.get(name)?[abi.column()]
}

/// The older way into a call on 32-bit x86: through `socketcall` or `ipc` with this first argument.
pub(super) fn multiplexed(abi: Abi, name: &str) -> Option<(u32, u64)> {
    const SOCKET_CALLS: [&str; 20] = [
        "socket",
        "bind",
        "connect",
        "listen",
        "accept",
        "getsockname",
        "getpeername",
        "socketpair",
        "send",
        "recv",
        "sendto",
        "recvfrom",
        "shutdown",
        "setsockopt",
        "getsockopt",
        "sendmsg",
        "recvmsg",
        "accept4",
        "recvmmsg",
        "sendmmsg",
    ];
    const IPC_CALLS: [(&str, u64); 12] = [
        ("semop", 1),
        ("semget", 2),
        ("semctl", 3),
        ("semtimedop", 4),
        ("msgsnd", 11),
        ("msgrcv", 12),
        ("msgget", 13),
        ("msgctl", 14),
        ("shmat", 21),
        ("shmdt", 22),
        ("shmget", 23),
        ("shmctl", 24),
    ];
    if abi != Abi::X86 {
        return None;
    }
    if let Some(at) = SOCKET_CALLS.iter().position(|call| *call == name) {
        return Some((number(abi, "socketcall")?, at as u64 + 1));
    }
    let (_, first_argument) = IPC_CALLS.iter().find(|(call, _)| *call == name)?;
    Some((number(abi, "ipc")?, *first_argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_known_numbers() {
        let numbers =
            |name| [Abi::X86_64, Abi::X86, Abi::X32, Abi::Aarch64, Abi::Arm].map(|abi| number(abi, name));
        assert_eq!(numbers("read"), [Some(0), Some(3), Some(0), Some(63), Some(3)]);
        assert_eq!(
            numbers("rt_sigaction"),
            [Some(13), Some(174), Some(512), Some(134), Some(174)]
        );
        assert_eq!(numbers("clone3"), [Some(435); 5]);
        assert_eq!(numbers("socketcall"), [None, Some(102), None, None, None]);
        assert_eq!(numbers("set_tls")[4], Some(0xf0005));
        assert_eq!(numbers("no_such_call"), [None; 5]);
    }

    #[test]
    fn every_line_has_every_column() {
        for line in SOURCE.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<_> = line.split('\t').collect();
            assert_eq!(fields.len(), 6, "{line}");
            assert!(
                fields[1..]
                    .iter()
                    .all(|field| *field == "-" || field.parse::<u32>().is_ok()),
                "{line}"
            );
            assert!(fields[1..].iter().any(|field| *field != "-"), "{line}");
        }
        assert!(TABLE.len() > 450);
    }

    #[test]
    fn only_32_bit_x86_multiplexes() {
        assert_eq!(multiplexed(Abi::X86, "socket"), Some((102, 1)));
        assert_eq!(multiplexed(Abi::X86, "sendmmsg"), Some((102, 20)));
        assert_eq!(multiplexed(Abi::X86, "shmctl"), Some((117, 24)));
        assert_eq!(multiplexed(Abi::X86, "read"), None);
        assert_eq!(multiplexed(Abi::X86_64, "socket"), None);
    }
}
