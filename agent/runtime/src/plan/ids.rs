//! Which users and groups of the host those of a user namespace are.

use oci_spec::runtime::LinuxIdMapping;
use serde::{Deserialize, Serialize};

use crate::error::{Result, RuntimeError};

/// How many ranges the kernel takes for one kind of id.
const RANGES_MAX: usize = 340;

/// The users and groups of a user namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMaps {
    pub users: IdMap,
    pub groups: IdMap,
}

/// Ranges of ids: the first one inside, the first one outside, how many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdMap(Vec<(u32, u32, u32)>);

impl IdMaps {
    /// Maps of a specification. Those of users and groups belong together.
    pub(super) fn new(users: &[LinuxIdMapping], groups: &[LinuxIdMapping]) -> Result<IdMaps> {
        Ok(IdMaps {
            users: IdMap::new("uidMappings", users)?,
            groups: IdMap::new("gidMappings", groups)?,
        })
    }

    /// Maps of ranges that were checked: the first one inside, the first one outside, how many.
    pub(crate) fn from_ranges(users: &[(u32, u32, u32)], groups: &[(u32, u32, u32)]) -> IdMaps {
        IdMaps {
            users: IdMap(users.to_vec()),
            groups: IdMap(groups.to_vec()),
        }
    }
}

impl IdMap {
    fn new(what: &str, mappings: &[LinuxIdMapping]) -> Result<IdMap> {
        let refuse = |problem: &str| Err(RuntimeError::spec(format!("{what}: {problem}")));
        if mappings.is_empty() {
            return refuse("a user namespace needs at least one range of both users and groups");
        }
        if mappings.len() > RANGES_MAX {
            return refuse("the kernel takes at most 340 ranges");
        }
        let ranges = mappings
            .iter()
            .map(|mapping| (mapping.container_id(), mapping.host_id(), mapping.size()));
        let ranges: Vec<_> = ranges.collect();
        let fits = |first: u32, count: u32| first.checked_add(count - 1).is_some_and(|last| last < u32::MAX);
        if ranges
            .iter()
            .any(|(inside, outside, count)| *count == 0 || !fits(*inside, *count) || !fits(*outside, *count))
        {
            return refuse("a range has no ids, or ids beyond 4294967294");
        }
        Ok(IdMap(ranges))
    }

    /// The id outside that one inside stands for; `None` where it has none.
    pub(crate) fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|(inside, outside, count)| {
            let offset = id.checked_sub(*inside).filter(|offset| offset < count)?;
            Some(outside + offset)
        })
    }

    /// As `/proc/PID/uid_map` takes it.
    pub(crate) fn kernel_text(&self) -> String {
        self.0
            .iter()
            .map(|(inside, outside, count)| format!("{inside} {outside} {count}\n"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(u32, u32, u32)]) -> Result<IdMap> {
        let mappings = ranges.iter().map(|(inside, outside, count)| {
            let json = serde_json::json!({ "containerID": inside, "hostID": outside, "size": count });
            serde_json::from_value(json).expect("it is a mapping")
        });
        IdMap::new("uidMappings", &mappings.collect::<Vec<_>>())
    }

    #[test]
    fn ids_are_found_in_their_range() {
        let map = map(&[(0, 100_000, 1000), (1000, 5, 1)]).expect("it is valid");
        assert_eq!(map.outside(0), Some(100_000));
        assert_eq!(map.outside(999), Some(100_999));
        assert_eq!(map.outside(1000), Some(5));
        assert_eq!(map.outside(1001), None);
        assert_eq!(map.kernel_text(), "0 100000 1000\n1000 5 1\n");
    }

    #[test]
    fn impossible_ranges_are_refused() {
        for bad in [&[][..], &[(0, 0, 0)], &[(1, 0, u32::MAX)], &[(0, u32::MAX, 1)]] {
            assert!(map(bad).is_err(), "{bad:?}");
        }
        assert!(map(&[(0, 0, u32::MAX)]).is_ok(), "everything but the invalid id");
    }
}
