//! Lists of CPUs and memory nodes, as the kernel writes them: `0-3,7`.

use std::collections::BTreeSet;
use std::fmt;

/// Highest number of a CPU; what Docker takes, and more than the kernel can be built for.
const NUMBER_MAX: u32 = 8192;

/// A list of numbers, with the text that it came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CpuList {
    text: String,
    numbers: BTreeSet<u32>,
}

/// The text is no list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid format: {text}: write numbers up to {NUMBER_MAX} and ranges, such as 0-3,7")]
pub struct BadList {
    text: String,
}

impl CpuList {
    /// Reads a list; an empty text is an empty one.
    pub fn parse(text: &str) -> Result<Self, BadList> {
        let bad = || BadList {
            text: text.to_owned(),
        };
        let number = |text: &str| match text.parse::<u32>() {
            Ok(number) if number <= NUMBER_MAX && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                Ok(number)
            }
            _ => Err(bad()),
        };
        let mut numbers = BTreeSet::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(bad());
            }
            numbers.extend(first..=last);
        }
        Ok(Self {
            text: text.to_owned(),
            numbers,
        })
    }

    /// Whether all of it is in another one.
    pub fn is_within(&self, other: &Self) -> bool {
        self.numbers.is_subset(&other.numbers)
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read() {
        let list = |text: &str| CpuList::parse(text).unwrap();
        assert!(list("0,2-3").is_within(&list("0-3")) && list("").is_within(&list("")));
        assert!(!list("4").is_within(&list("0-3")));
        assert_eq!(list("0-3,7").to_string(), "0-3,7");
        for bad in ["a", "1-", "-1", "3-1", "0,,1", "0-9999", "+1", "1 "] {
            assert!(CpuList::parse(bad).is_err(), "{bad}");
        }
    }
}
