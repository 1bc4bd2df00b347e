//! Swarm's placement constraint grammar: `<key> ==|!= <value>` (reference: SwarmKit `manager/constraint`).

use std::fmt;

/// One parsed constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constraint {
    /// Key as written; compared without regard to case, except for label names.
    pub key: String,
    /// Equal or not equal.
    pub operator: Operator,
    /// Value as written, trimmed.
    pub value: String,
}

/// Comparison of a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
}

/// Why an expression is not a constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConstraintError {
    /// Neither `==` nor `!=` stands in it.
    #[error("constraint expected one operator from ==, !=")]
    NoOperator,
    /// The key breaks the grammar.
    #[error("key '{key}' is invalid")]
    InvalidKey {
        /// The key as written.
        key: String,
    },
    /// The value breaks the grammar.
    #[error("value '{value}' is invalid")]
    InvalidValue {
        /// The value as written.
        value: String,
    },
}

impl Constraint {
    /// Reads one expression. `==` is looked for first, and the first occurrence splits.
    pub fn parse(expression: &str) -> Result<Self, ConstraintError> {
        let (operator, key, value) = if let Some((key, value)) = expression.split_once("==") {
            (Operator::Equal, key, value)
        } else if let Some((key, value)) = expression.split_once("!=") {
            (Operator::NotEqual, key, value)
        } else {
            return Err(ConstraintError::NoOperator);
        };
        let (key, value) = (key.trim(), value.trim());
        if !valid_key(key) {
            return Err(ConstraintError::InvalidKey { key: key.to_owned() });
        }
        if !valid_value(value) {
            return Err(ConstraintError::InvalidValue {
                value: value.to_owned(),
            });
        }
        Ok(Self {
            key: key.to_owned(),
            operator,
            value: value.to_owned(),
        })
    }

    /// Whether a field with this text satisfies the constraint. A missing field is the empty string.
    pub fn accepts(&self, field: &str) -> bool {
        let equal = field.to_lowercase() == self.value.to_lowercase();
        match self.operator {
            Operator::Equal => equal,
            Operator::NotEqual => !equal,
        }
    }
}

impl fmt::Display for Constraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.operator {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
        };
        write!(f, "{}{operator}{}", self.key, self.value)
    }
}

fn valid_key(key: &str) -> bool {
    let mut bytes = key.bytes();
    let starts = bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
    starts && key.len() >= 2 && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn valid_value(value: &str) -> bool {
    !value.is_empty()
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b" :-_.*()?+[]\\^$|/".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_grammar() {
        let parsed = Constraint::parse(" node.labels.zone == east 1 ").unwrap();
        assert_eq!(
            (parsed.key.as_str(), parsed.value.as_str()),
            ("node.labels.zone", "east 1")
        );
        assert!(Constraint::parse("node.role!=manager").is_ok());
        assert_eq!(
            Constraint::parse("node.role=manager"),
            Err(ConstraintError::NoOperator)
        );
        for bad in ["==x", "a==x", "1ab==x", "ab==", "ab==x,y", "a b==x"] {
            assert!(Constraint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_missing_field_fails_equal_and_passes_not_equal() {
        assert!(!Constraint::parse("ab==x").unwrap().accepts(""));
        assert!(Constraint::parse("ab!=x").unwrap().accepts(""));
        assert!(Constraint::parse("ab==LINUX").unwrap().accepts("linux"));
    }
}
