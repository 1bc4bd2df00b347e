//! Where the system's bus listens, as the specification of D-Bus writes it.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// Names another bus.
const VARIABLE: &str = "DBUS_SYSTEM_BUS_ADDRESS";
const SYSTEM_BUS: &str = "unix:path=/var/run/dbus/system_bus_socket";

/// The address of the system's bus.
pub(crate) fn system() -> String {
    std::env::var(VARIABLE)
        .ok()
        .filter(|address| !address.is_empty())
        .unwrap_or_else(|| SYSTEM_BUS.to_owned())
}

/// The sockets that an address names, in order; other transports are left out.
pub(crate) fn sockets(address: &str) -> Vec<PathBuf> {
    address
        .split(';')
        .filter_map(|alternative| {
            let options = alternative.strip_prefix("unix:")?;
            let path = options
                .split(',')
                .find_map(|option| option.strip_prefix("path="))?;
            unescaped(path)
        })
        .collect()
}

/// Bytes that have a meaning in addresses are written as `%` and two digits.
fn unescaped(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_files_are_found() {
        for (address, expected) in [
            (SYSTEM_BUS, vec!["/var/run/dbus/system_bus_socket"]),
            ("unix:path=/a%20b,guid=12", vec!["/a b"]),
            ("tcp:host=x;unix:guid=1,path=/a;unix:path=/b", vec!["/a", "/b"]),
            ("unix:abstract=x;unix:path=/a%2", vec![]),
        ] {
            let expected: Vec<PathBuf> = expected.into_iter().map(PathBuf::from).collect();
            assert_eq!(sockets(address), expected, "{address}");
        }
    }
}
