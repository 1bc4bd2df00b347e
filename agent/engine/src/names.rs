//! Names of containers: the rules, who has which, and how a container is found by what a user writes.

use crate::error::{Error, Result};
use muster_types::ContainerId;
use rand::RngExt;
use std::collections::{BTreeMap, HashMap};

/// Longest name; a file name may not be longer either.
const NAME_CHARS_MAX: usize = 255;
/// Attempts to draw a free random name before the id's start is used instead.
const DRAWS_MAX: usize = 8;

const ADJECTIVES: &[&str] = &[
    "able", "amber", "apt", "azure", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "cosy",
    "crisp", "deft", "eager", "early", "fair", "fleet", "fond", "fresh", "gentle", "glad", "golden", "grand",
    "happy", "hardy", "honest", "jolly", "keen", "kind", "light", "lively", "loyal", "lucid", "mellow",
    "merry", "mild", "modest", "neat", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud",
    "quick", "quiet", "ready", "serene", "sharp", "silver", "smooth", "snug", "sober", "spry", "steady",
    "sunny", "swift", "tender", "tidy", "trusty", "upbeat", "vivid", "warm", "wise", "witty", "zesty",
];

const NOUNS: &[&str] = &[
    "acorn", "alder", "anchor", "aspen", "badger", "beacon", "beech", "birch", "bison", "brook", "canyon",
    "cedar", "cliff", "clover", "comet", "coral", "crane", "delta", "dune", "eagle", "elm", "ember",
    "falcon", "fern", "finch", "fjord", "forest", "fox", "garnet", "glacier", "grove", "harbor", "hare",
    "hawk", "hazel", "heron", "island", "ivy", "jasper", "juniper", "lagoon", "lark", "laurel", "linden",
    "lynx", "maple", "marten", "meadow", "moss", "oak", "orchid", "osprey", "otter", "owl", "pebble", "pine",
    "plover", "prairie", "quartz", "raven", "reef", "ridge", "river", "robin", "sparrow", "spruce", "stork",
    "summit", "swan", "thistle", "tiger", "valley", "walnut", "willow", "wren",
];

/// A name as users write it, without its leading slash, if it keeps the rules.
pub fn checked(name: &str) -> Result<&str> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let valid = starts
        && bare.len() >= 2
        && bare.len() <= NAME_CHARS_MAX
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if valid {
        Ok(bare)
    } else {
        Err(Error::InvalidName {
            name: bare.to_owned(),
        })
    }
}

/// Which container has which name, and every id in order for look-ups by prefix.
#[derive(Debug)]
pub struct Registry<T> {
    by_id: BTreeMap<String, (String, T)>,
    by_name: HashMap<String, String>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self {
            by_id: BTreeMap::new(),
            by_name: HashMap::new(),
        }
    }
}

impl<T: Clone> Registry<T> {
    /// Adds a container under a name that keeps the rules, or under a random one when it is empty. Returns the name.
    pub fn insert(&mut self, id: &ContainerId, name: &str, value: impl FnOnce(&str) -> T) -> Result<String> {
        let name = if name.is_empty() {
            self.random_name(id)
        } else {
            let name = checked(name)?;
            self.require_free(name)?;
            name.to_owned()
        };
        let value = value(&name);
        self.by_name.insert(name.clone(), id.as_str().to_owned());
        self.by_id.insert(id.as_str().to_owned(), (name.clone(), value));
        Ok(name)
    }

    /// Takes a container out and frees its name.
    pub fn remove(&mut self, id: &ContainerId) -> Option<T> {
        let (name, value) = self.by_id.remove(id.as_str())?;
        self.by_name.remove(&name);
        Some(value)
    }

    /// Gives a container another name.
    pub fn rename(&mut self, id: &ContainerId, name: &str) -> Result<String> {
        let name = checked(name)?.to_owned();
        self.require_free(&name)?;
        let Some(entry) = self.by_id.get_mut(id.as_str()) else {
            return Err(Error::NoSuchContainer {
                reference: id.to_string(),
            });
        };
        let old = std::mem::replace(&mut entry.0, name.clone());
        self.by_name.remove(&old);
        self.by_name.insert(name.clone(), id.as_str().to_owned());
        Ok(name)
    }

    /// Finds a container by its whole id, its name, or a prefix that fits only one id; in this order, as Docker does.
    pub fn find(&self, reference: &str) -> Result<T> {
        let missing = || Error::NoSuchContainer {
            reference: reference.to_owned(),
        };
        if let Some((_, value)) = self.by_id.get(reference) {
            return Ok(value.clone());
        }
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some((_, value)) = self.by_name.get(name).and_then(|id| self.by_id.get(id)) {
            return Ok(value.clone());
        }
        if reference.is_empty() {
            return Err(missing());
        }
        let mut fitting = self
            .by_id
            .range(reference.to_owned()..)
            .take_while(|(id, _)| id.starts_with(reference));
        match (fitting.next(), fitting.next()) {
            (Some((_, (_, value))), None) => Ok(value.clone()),
            (Some(_), Some(_)) => Err(Error::AmbiguousPrefix {
                prefix: reference.to_owned(),
            }),
            (None, _) => Err(missing()),
        }
    }

    /// Every container.
    pub fn all(&self) -> Vec<T> {
        self.by_id.values().map(|(_, value)| value.clone()).collect()
    }

    fn require_free(&self, name: &str) -> Result<()> {
        match self.by_name.get(name) {
            None => Ok(()),
            Some(id) => Err(Error::NameInUse {
                name: name.to_owned(),
                id: id.clone(),
            }),
        }
    }

    fn random_name(&self, id: &ContainerId) -> String {
        let mut random = rand::rng();
        for _ in 0..DRAWS_MAX {
            let adjective = ADJECTIVES[random.random_range(0..ADJECTIVES.len())];
            let noun = NOUNS[random.random_range(0..NOUNS.len())];
            let name = format!("{adjective}_{noun}");
            if !self.by_name.contains_key(&name) {
                return name;
            }
        }
        let adjective = ADJECTIVES[random.random_range(0..ADJECTIVES.len())];
        format!("{adjective}_{}", id.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(first: u8, second: u8) -> ContainerId {
        let mut bytes = [0; 32];
        (bytes[0], bytes[1]) = (first, second);
        ContainerId::from_bytes(bytes)
    }

    fn registry() -> Registry<u8> {
        let mut registry = Registry::default();
        registry.insert(&id(0xab, 1), "web", |_| 1).unwrap();
        registry.insert(&id(0xab, 2), "/db.1", |_| 2).unwrap();
        registry.insert(&id(0xcd, 0), "cd01", |_| 3).unwrap();
        registry
    }

    #[test]
    fn containers_are_found_by_id_name_and_unique_prefix() {
        let registry = registry();
        for (reference, value) in [
            (id(0xab, 1).as_str(), 1),
            ("web", 1),
            ("/web", 1),
            ("db.1", 2),
            ("ab02", 2),
            ("c", 3),
        ] {
            assert_eq!(registry.find(reference).unwrap(), value, "{reference}");
        }
        assert!(matches!(registry.find("ab0"), Err(Error::AmbiguousPrefix { .. })));
        for missing in ["", "x", "abcdef0", "/"] {
            assert!(
                matches!(registry.find(missing), Err(Error::NoSuchContainer { .. })),
                "{missing}"
            );
        }
    }

    #[test]
    fn a_taken_name_is_refused_in_dockers_words() {
        let error = registry().insert(&id(1, 1), "web", |_| 9).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "Conflict. The container name \"/web\" is already in use by container \"{}\". You have to remove \
                 (or rename) that container to be able to reuse that name.",
                id(0xab, 1)
            )
        );
    }

    #[test]
    fn renaming_and_removing_free_the_name() {
        let mut registry = registry();
        registry.rename(&id(0xab, 1), "front").unwrap();
        assert!(registry.find("web").is_err());
        assert_eq!(registry.find("front").unwrap(), 1);
        assert!(registry.rename(&id(0xab, 1), "db.1").is_err());
        assert_eq!(registry.remove(&id(0xab, 1)), Some(1));
        registry.insert(&id(5, 5), "front", |_| 5).unwrap();
    }

    #[test]
    fn names_keep_the_rules() {
        for bad in ["", "a", "-ab", "a b", "a/b", "ü1", &"x".repeat(256)] {
            assert!(checked(bad).is_err(), "{bad}");
        }
        for good in ["ab", "/ab", "web.1.x_y-z"] {
            assert!(checked(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn an_empty_name_draws_a_free_one() {
        let mut registry = Registry::default();
        for n in 0..200 {
            let name = registry.insert(&id(n, 0), "", |_| n).unwrap();
            assert_eq!(checked(&name).unwrap(), name);
        }
        assert_eq!(registry.all().len(), 200);
    }
}
