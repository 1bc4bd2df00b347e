//! Device rules, checked and brought into one form for both control group versions.

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use super::error::{CgroupError, Result};

/// Kinds of access; the bits are those of the kernel's `BPF_DEVCG_ACC_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Access(pub u8);

impl Access {
    pub const MKNOD: u8 = 1;
    pub const READ: u8 = 2;
    pub const WRITE: u8 = 4;
    pub const ALL: Access = Access(7);

    fn letters(self) -> String {
        [(Self::READ, 'r'), (Self::WRITE, 'w'), (Self::MKNOD, 'm')]
            .iter()
            .filter(|(bit, _)| self.0 & bit != 0)
            .map(|(_, letter)| *letter)
            .collect()
    }
}

/// Character or block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeviceKind {
    Block,
    Char,
}

/// One rule about some devices; no number means every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DeviceRule {
    pub allow: bool,
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub access: Access,
}

/// What is allowed where no rule says otherwise, and the rules after it; the last rule that fits decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceRules {
    pub allow_default: bool,
    pub rules: Vec<DeviceRule>,
}

impl DeviceRules {
    /// Reads the rules of a specification in their order. A new group allows everything.
    pub fn from_spec(spec: &[LinuxDeviceCgroup]) -> Result<DeviceRules> {
        let mut result = DeviceRules {
            allow_default: true,
            rules: Vec::new(),
        };
        for rule in spec {
            let refuse = |reason| {
                Err(CgroupError::InvalidDeviceRule {
                    rule: rule.to_string(),
                    reason,
                })
            };
            let Some(access) = parse_access(rule.access().as_deref().unwrap_or("rwm")) else {
                return refuse("access is made of the letters r, w and m");
            };
            let (Ok(major), Ok(minor)) = (number(rule.major()), number(rule.minor())) else {
                return refuse("device numbers are between 0 and 4294967295");
            };
            let kinds: &[DeviceKind] = match rule.typ().unwrap_or_default() {
                LinuxDeviceType::A if major.is_none() && minor.is_none() && access == Access::ALL => {
                    result = DeviceRules {
                        allow_default: rule.allow(),
                        rules: Vec::new(),
                    };
                    continue;
                }
                LinuxDeviceType::A => &[DeviceKind::Block, DeviceKind::Char],
                LinuxDeviceType::B => &[DeviceKind::Block],
                LinuxDeviceType::C | LinuxDeviceType::U => &[DeviceKind::Char],
                LinuxDeviceType::P => return refuse("a FIFO is not a device"),
            };
            let allow = rule.allow();
            result.rules.extend(kinds.iter().map(|&kind| DeviceRule {
                allow,
                kind,
                major,
                minor,
                access,
            }));
        }
        Ok(result)
    }

    /// Whether the rules restrict nothing.
    pub fn allow_everything(&self) -> bool {
        self.allow_default && self.rules.iter().all(|rule| rule.allow)
    }

    /// The writes that give a fresh v1 group these rules: the control file and the value.
    ///
    /// v1 knows one default and exceptions from it, so a rule that takes back a part of an earlier exception cannot be
    /// expressed; it is refused, because the kernel would silently ignore it.
    pub fn v1_writes(&self) -> Result<Vec<(&'static str, String)>> {
        let mut writes = vec![(
            if self.allow_default {
                "devices.allow"
            } else {
                "devices.deny"
            },
            "a".to_owned(),
        )];
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.allow == self.allow_default {
                let splits = |earlier: &&DeviceRule| {
                    earlier.allow != rule.allow && earlier.overlaps(rule) && !rule.covers(earlier)
                };
                if self.rules[..at].iter().any(|earlier| splits(&earlier)) {
                    return Err(CgroupError::InvalidDeviceRule {
                        rule: rule.v1_text(),
                        reason: "control groups v1 cannot take back a part of an earlier rule: \
                                 list the devices one by one",
                    });
                }
                // What it takes back is removed exception by exception: the kernel only removes exact matches.
                for earlier in self.rules[..at]
                    .iter()
                    .filter(|earlier| earlier.allow != rule.allow && rule.covers(earlier))
                {
                    let access = Access(earlier.access.0 & rule.access.0);
                    writes.push((file_of(rule.allow), DeviceRule { access, ..*earlier }.v1_text()));
                }
            } else {
                writes.push((file_of(rule.allow), rule.v1_text()));
            }
        }
        Ok(writes)
    }
}

impl DeviceRule {
    fn overlaps(&self, other: &DeviceRule) -> bool {
        let fits = |one: Option<u32>, two: Option<u32>| one.is_none() || two.is_none() || one == two;
        self.kind == other.kind
            && fits(self.major, other.major)
            && fits(self.minor, other.minor)
            && self.access.0 & other.access.0 != 0
    }

    /// Whether every device of `other` is one of this rule's.
    fn covers(&self, other: &DeviceRule) -> bool {
        self.kind == other.kind
            && (self.major.is_none() || self.major == other.major)
            && (self.minor.is_none() || self.minor == other.minor)
    }

    fn v1_text(&self) -> String {
        let kind = match self.kind {
            DeviceKind::Block => 'b',
            DeviceKind::Char => 'c',
        };
        let text = |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        format!(
            "{kind} {}:{} {}",
            text(self.major),
            text(self.minor),
            self.access.letters()
        )
    }
}

fn file_of(allow: bool) -> &'static str {
    if allow { "devices.allow" } else { "devices.deny" }
}

fn parse_access(letters: &str) -> Option<Access> {
    let mut bits = 0;
    for letter in letters.chars() {
        bits |= match letter {
            'r' => Access::READ,
            'w' => Access::WRITE,
            'm' => Access::MKNOD,
            _ => return None,
        };
    }
    (bits != 0).then_some(Access(bits))
}

/// A device number; absent or -1 stands for all.
fn number(value: Option<i64>) -> std::result::Result<Option<u32>, std::num::TryFromIntError> {
    match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxDeviceCgroupBuilder;

    fn rule(allow: bool, kind: LinuxDeviceType, major: i64, minor: i64, access: &str) -> LinuxDeviceCgroup {
        LinuxDeviceCgroupBuilder::default()
            .allow(allow)
            .typ(kind)
            .major(major)
            .minor(minor)
            .access(access)
            .build()
            .unwrap()
    }

    #[test]
    fn deny_all_then_exceptions() {
        use LinuxDeviceType::{A, B, C};
        let spec = [
            rule(true, C, 9, 9, "r"),
            rule(false, A, -1, -1, "rwm"),
            rule(true, C, 1, 3, "rwm"),
            rule(true, B, -1, -1, "m"),
        ];
        let rules = DeviceRules::from_spec(&spec).unwrap();
        assert!(!rules.allow_everything());
        let writes = rules.v1_writes().unwrap();
        let texts: Vec<_> = writes
            .iter()
            .map(|(file, value)| format!("{file} {value}"))
            .collect();
        assert_eq!(
            texts,
            [
                "devices.deny a",
                "devices.allow c 1:3 rwm",
                "devices.allow b *:* m"
            ]
        );
    }

    #[test]
    fn taking_back_a_whole_exception_removes_it_exactly() {
        use LinuxDeviceType::{A, C};
        let spec = [
            rule(false, A, -1, -1, "rwm"),
            rule(true, C, 1, 3, "rw"),
            rule(false, C, 1, -1, "wm"),
        ];
        let writes = DeviceRules::from_spec(&spec).unwrap().v1_writes().unwrap();
        assert_eq!(writes[2], ("devices.deny", "c 1:3 w".to_owned()));
    }

    #[test]
    fn taking_back_a_part_is_refused_on_v1() {
        use LinuxDeviceType::{A, C};
        let spec = [
            rule(false, A, -1, -1, "rwm"),
            rule(true, C, 1, -1, "rw"),
            rule(false, C, 1, 3, "w"),
        ];
        let error = DeviceRules::from_spec(&spec).unwrap().v1_writes().unwrap_err();
        assert!(error.to_string().contains("c 1:3 w"), "{error}");
    }

    #[test]
    fn nonsense_is_refused() {
        use LinuxDeviceType::{C, P};
        for bad in [
            rule(true, C, 1, 3, "x"),
            rule(true, C, 1, 3, ""),
            rule(true, P, 1, 3, "r"),
            rule(true, C, -2, 3, "r"),
        ] {
            assert!(DeviceRules::from_spec(&[bad]).is_err());
        }
    }
}
