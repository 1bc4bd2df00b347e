//! Whether what is mounted below the source of a bind can travel, as the bind's propagation asks.

use crate::error::{Error, Result};
use rustix::fs::{AtFlags, CWD, StatxFlags};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Refuses a bind whose source is on a mount that nothing travels from or to. Without such a check it would be as
/// private as any, and nobody would be told. Blocks.
pub(crate) fn check(source: &str, propagation: &str) -> Result<()> {
    let Some((fields, wanted)) = needed(propagation) else {
        return Ok(());
    };
    let status = rustix::fs::statx(CWD, source, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|error| Error::io(format!("look at {source}"), error.into()))?;
    let mounts = std::fs::read(MOUNTS).map_err(|error| Error::io(format!("read {MOUNTS}"), error))?;
    match place_without(&String::from_utf8_lossy(&mounts), status.stx_mnt_id, fields) {
        Some(place) => Err(Error::invalid(format!(
            "path {source} is mounted on {place} but it is not a {wanted} mount: make it one with \"mount \
             --make-shared {place}\", or leave the propagation out"
        ))),
        None => Ok(()),
    }
}

/// The fields one of which the mount must have, and what such a mount is called.
fn needed(propagation: &str) -> Option<(&'static [&'static str], &'static str)> {
    match propagation.trim_start_matches('r') {
        "shared" => Some((&["shared:"], "shared")),
        "slave" => Some((&["shared:", "master:"], "shared or slave")),
        _ => None,
    }
}

/// Where the mount with this number is, if it has none of these fields: `36 35 98:0 /root /place rw shared:1 - …`.
fn place_without(mounts: &str, number: u64, fields: &[&str]) -> Option<String> {
    let number = number.to_string();
    let line = mounts
        .lines()
        .find(|line| line.split(' ').next() == Some(number.as_str()))?;
    let mut optional = line.split(' ').skip(6).take_while(|field| *field != "-");
    let has = optional.any(|field| fields.iter().any(|name| field.starts_with(name)));
    (!has).then(|| line.split(' ').nth(4).unwrap_or("/").to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = "36 1 98:0 / / rw shared:1 - ext4 /dev/a rw\n\
                         37 36 98:1 / /data rw,noatime master:1 - ext4 /dev/b rw\n\
                         38 36 98:2 / /own rw - ext4 /dev/shared:1 rw\n";

    #[test]
    fn shared_needs_a_shared_mount_and_slave_one_or_the_other() {
        let refused = |number, propagation| {
            let (fields, _) = needed(propagation).unwrap();
            place_without(LINES, number, fields)
        };
        for propagation in ["shared", "rshared", "slave", "rslave"] {
            assert_eq!(refused(36, propagation), None, "{propagation}");
            assert_eq!(refused(38, propagation).as_deref(), Some("/own"), "{propagation}");
        }
        assert_eq!(refused(37, "rshared").as_deref(), Some("/data"));
        assert_eq!(refused(37, "rslave"), None);
        assert_eq!((needed("rprivate"), needed("")), (None, None));
    }

    #[test]
    fn a_private_mount_is_refused_with_the_way_out() {
        let refused = check("/proc", "rslave");
        let shown = std::fs::read_to_string(MOUNTS).unwrap();
        let line = shown
            .lines()
            .find(|line| line.split(' ').nth(4) == Some("/proc"))
            .unwrap();
        if line.contains(" shared:") || line.contains(" master:") {
            refused.unwrap();
        } else {
            let error = refused.unwrap_err().to_string();
            assert!(
                error.contains("path /proc is mounted on /proc but it is not a shared or slave mount"),
                "{error}"
            );
        }
        check("/proc", "rprivate").unwrap();
    }
}
