//! Which users and groups of a node those of its containers are.

use serde::{Deserialize, Serialize};

/// How many ranges the kernel takes for one kind of id.
const RANGES_MAX: usize = 340;

/// The users and groups of containers, as users and groups of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Of users.
    pub users: IdMap,
    /// Of groups.
    pub groups: IdMap,
}

/// Ids of the node that stand for a container's ids from 0 on, one range after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap(Vec<IdRange>);

/// Ids that follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first one.
    pub first: u32,
    /// How many; at least one.
    pub count: u32,
}

/// Ids as the kernel maps them: first inside, first outside, how many.
pub type MappedRange = (u32, u32, u32);

/// Why ranges cannot be a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    /// There is no range.
    #[error("there is no range of ids")]
    Empty,
    /// More than the kernel takes.
    #[error("the kernel takes at most 340 ranges")]
    TooMany,
    /// A range is empty or goes beyond the last id.
    #[error("range {}:{} has no ids, or ids beyond 4294967294", .0.first, .0.count)]
    OutOfBounds(IdRange),
    /// Two ranges share ids.
    #[error("ranges {}:{} and {}:{} overlap", .0.first, .0.count, .1.first, .1.count)]
    Overlap(IdRange, IdRange),
}

impl IdRange {
    /// The first id after it.
    fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.count)
    }
}

impl IdMap {
    /// A map of these ranges, which share no id.
    pub fn new(ranges: Vec<IdRange>) -> Result<Self, IdMapError> {
        if ranges.is_empty() {
            return Err(IdMapError::Empty);
        }
        if ranges.len() > RANGES_MAX {
            return Err(IdMapError::TooMany);
        }
        let mut total = 0;
        for range in &ranges {
            total += u64::from(range.count);
            if range.count == 0 || range.end() > u64::from(u32::MAX) || total > u64::from(u32::MAX) {
                return Err(IdMapError::OutOfBounds(*range));
            }
        }
        let mut sorted = ranges.clone();
        sorted.sort_by_key(|range| range.first);
        if let Some(pair) = sorted
            .windows(2)
            .find(|pair| pair[0].end() > u64::from(pair[1].first))
        {
            return Err(IdMapError::Overlap(pair[0], pair[1]));
        }
        Ok(Self(ranges))
    }

    /// Every id as itself.
    fn identity() -> Self {
        Self(vec![IdRange {
            first: 0,
            count: u32::MAX,
        }])
    }

    /// The node's id for a container's; `None` where it has none.
    pub fn outside(&self, id: u32) -> Option<u32> {
        self.ranges().find_map(|(inside, outside, count)| {
            let offset = id.checked_sub(inside).filter(|offset| *offset < count)?;
            Some(outside + offset)
        })
    }

    /// The container's id for one of the node; `None` where it has none.
    pub fn inside(&self, id: u32) -> Option<u32> {
        self.ranges().find_map(|(inside, outside, count)| {
            let offset = id.checked_sub(outside).filter(|offset| *offset < count)?;
            Some(inside + offset)
        })
    }

    /// The ranges as the kernel maps them.
    pub fn ranges(&self) -> impl Iterator<Item = MappedRange> {
        self.0.iter().scan(0, |inside: &mut u32, range| {
            let first = *inside;
            // The sum of all counts fits.
            *inside = inside.saturating_add(range.count);
            Some((first, range.first, range.count))
        })
    }

    /// What leads from this map's ids of the node to those that another map has for the same ids of containers.
    fn translation(&self, to: &Self) -> Vec<MappedRange> {
        let mut ranges = Vec::new();
        for (inside, own, count) in self.ranges() {
            for (other_inside, other, other_count) in to.ranges() {
                let first = inside.max(other_inside);
                let end = (u64::from(inside) + u64::from(count))
                    .min(u64::from(other_inside) + u64::from(other_count));
                if let Ok(common @ 1..) = u32::try_from(end.saturating_sub(u64::from(first))) {
                    ranges.push((own + (first - inside), other + (first - other_inside), common));
                }
            }
        }
        ranges.truncate(RANGES_MAX);
        ranges
    }
}

impl IdMaps {
    /// The node's user and group that are root in containers.
    pub fn root(&self) -> (u32, u32) {
        let first = |map: &IdMap| map.outside(0).unwrap_or_default();
        (first(&self.users), first(&self.groups))
    }
}

/// How files whose owners follow one map are shown to containers that follow another one; without maps, ids are the
/// node's. `None` where both are the same.
pub fn translation(from: Option<&IdMaps>, to: Option<&IdMaps>) -> Option<IdTranslation> {
    if from == to {
        return None;
    }
    let map = |maps: Option<&IdMaps>, kind: fn(&IdMaps) -> &IdMap| {
        maps.map_or_else(IdMap::identity, |maps| kind(maps).clone())
    };
    let users = |maps| map(maps, |maps| &maps.users);
    let groups = |maps| map(maps, |maps| &maps.groups);
    Some(IdTranslation {
        users: users(from).translation(&users(to)),
        groups: groups(from).translation(&groups(to)),
    })
}

/// The owners of files, and as whom they are shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdTranslation {
    /// Users: as the files have them, as they are shown.
    pub users: Vec<MappedRange>,
    /// Groups.
    pub groups: Vec<MappedRange>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(ranges: &[(u32, u32)]) -> Result<IdMap, IdMapError> {
        let ranges = ranges.iter().map(|(first, count)| IdRange {
            first: *first,
            count: *count,
        });
        IdMap::new(ranges.collect())
    }

    fn maps(ranges: &[(u32, u32)]) -> IdMaps {
        IdMaps {
            users: map(ranges).unwrap(),
            groups: map(ranges).unwrap(),
        }
    }

    #[test]
    fn ranges_follow_each_other_inside() {
        let map = map(&[(100_000, 1000), (5, 10)]).unwrap();
        assert_eq!(
            map.ranges().collect::<Vec<_>>(),
            [(0, 100_000, 1000), (1000, 5, 10)]
        );
        for (inside, outside) in [(0, 100_000), (999, 100_999), (1000, 5), (1009, 14)] {
            assert_eq!(map.outside(inside), Some(outside));
            assert_eq!(map.inside(outside), Some(inside));
        }
        assert_eq!(
            (map.outside(1010), map.inside(0), map.inside(15)),
            (None, None, None)
        );
    }

    #[test]
    fn impossible_ranges_are_refused() {
        assert_eq!(map(&[]), Err(IdMapError::Empty));
        assert_eq!(map(&vec![(0, 1); 341]), Err(IdMapError::TooMany));
        for bad in [
            &[(1, 0)][..],
            &[(u32::MAX, 1)],
            &[(2, u32::MAX)],
            &[(0, u32::MAX), (0, 1)],
        ] {
            assert!(matches!(map(bad), Err(IdMapError::OutOfBounds(_))), "{bad:?}");
        }
        assert!(map(&[(0, u32::MAX)]).is_ok(), "all but the invalid id");
        assert!(matches!(map(&[(9, 5), (5, 5)]), Err(IdMapError::Overlap(..))));
        assert!(map(&[(10, 5), (5, 5)]).is_ok());
    }

    #[test]
    fn owners_are_translated_between_maps() {
        let (low, high) = (maps(&[(100_000, 10)]), maps(&[(200_000, 4), (300_000, 20)]));
        assert_eq!(translation(Some(&low), Some(&low)), None);
        assert_eq!(translation(None, None), None);
        let users = |from, to| translation(from, to).unwrap().users;
        assert_eq!(users(None, Some(&low)), [(0, 100_000, 10)]);
        assert_eq!(users(Some(&low), None), [(100_000, 0, 10)]);
        assert_eq!(
            users(Some(&low), Some(&high)),
            [(100_000, 200_000, 4), (100_004, 300_000, 6)]
        );
        assert_eq!(
            users(Some(&high), Some(&low)),
            [(200_000, 100_000, 4), (300_000, 100_004, 6)]
        );
    }
}
