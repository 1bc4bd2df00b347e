//! How a user's reference (id, name or prefix of an id) finds an object, the same way for every kind.

use super::{BackendError, Result};

/// One object that a reference may mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate<'a> {
    /// Full id.
    pub id: &'a str,
    /// Name; may be empty.
    pub name: &'a str,
}

/// The position of the object that `reference` means: its full id, else its name, else the only id that begins so.
///
/// `kind` is the noun of the error messages, for example `service`.
pub fn resolve<'a>(
    kind: &str,
    reference: &str,
    candidates: impl Iterator<Item = Candidate<'a>> + Clone,
) -> Result<usize> {
    let missing = || BackendError::not_found(format!("{kind} {reference} not found"));
    if reference.is_empty() {
        return Err(missing());
    }
    let ambiguous = |found: usize, how: &str| {
        BackendError::invalid(format!(
            "{kind} {reference} is ambiguous ({found} matches found based on {how})"
        ))
    };
    if let Some(found) = candidates.clone().position(|c| c.id == reference) {
        return Ok(found);
    }
    match only(candidates.clone(), |c| c.name == reference) {
        Matches::One(found) => return Ok(found),
        Matches::Many(count) => return Err(ambiguous(count, "name")),
        Matches::None => {}
    }
    match only(candidates, |c| c.id.starts_with(reference)) {
        Matches::One(found) => Ok(found),
        Matches::Many(count) => Err(ambiguous(count, "ID prefix")),
        Matches::None => Err(missing()),
    }
}

enum Matches {
    None,
    One(usize),
    Many(usize),
}

fn only<'a>(
    candidates: impl Iterator<Item = Candidate<'a>>,
    accepts: impl Fn(&Candidate<'a>) -> bool,
) -> Matches {
    let mut matching = candidates.enumerate().filter(|(_, c)| accepts(c));
    match matching.next() {
        None => Matches::None,
        Some((first, _)) => match matching.count() {
            0 => Matches::One(first),
            more => Matches::Many(more + 1),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: [(&str, &str); 4] = [("abc1", "web"), ("abc2", "abc1"), ("b3", "api"), ("c4", "api")];

    fn find(reference: &str) -> Result<usize> {
        resolve(
            "service",
            reference,
            OBJECTS.iter().map(|(id, name)| Candidate { id, name }),
        )
    }

    #[test]
    fn full_id_then_name_then_prefix() {
        assert_eq!(find("abc1"), Ok(0));
        assert_eq!(find("web"), Ok(0));
        assert_eq!(find("b"), Ok(2));
    }

    #[test]
    fn ambiguous_and_missing_references_say_so() {
        assert_eq!(find("nope").unwrap_err().message, "service nope not found");
        assert_eq!(find("").unwrap_err().message, "service  not found");
        assert_eq!(
            find("abc").unwrap_err().message,
            "service abc is ambiguous (2 matches found based on ID prefix)"
        );
        assert_eq!(
            find("api").unwrap_err().message,
            "service api is ambiguous (2 matches found based on name)"
        );
    }
}
