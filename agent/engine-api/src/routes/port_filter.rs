//! Ports that a filter names.

use crate::http::{Failure, Filters};
use muster_types::service::Protocol;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Numbers of ports by protocol, in ranges that do not touch, so that a look costs the same however many were named.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PortFilter(BTreeMap<String, Vec<RangeInclusive<u16>>>);

impl PortFilter {
    /// Reads the values of a key, each of them `first[-last][/protocol]`.
    pub fn read(filters: &Filters, key: &str) -> Result<Self, Failure> {
        let mut named = BTreeMap::<String, Vec<RangeInclusive<u16>>>::new();
        for text in filters.values(key) {
            let (protocol, numbers) = range(text).ok_or_else(|| {
                Failure::invalid(format!(
                    "error while looking up for {key} {text}: a port or a range of ports is expected, as 80/tcp or 80-90/udp"
                ))
            })?;
            named.entry(protocol).or_default().push(numbers);
        }
        let joined = named
            .into_iter()
            .map(|(protocol, ranges)| (protocol, join(ranges)));
        Ok(Self(joined.collect()))
    }

    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the port is among those named.
    pub fn has(&self, number: u16, protocol: &str) -> bool {
        let Some(ranges) = self.0.get(protocol) else {
            return false;
        };
        let after = ranges.partition_point(|range| *range.start() <= number);
        after > 0 && ranges[after - 1].contains(&number)
    }
}

fn range(text: &str) -> Option<(String, RangeInclusive<u16>)> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, Protocol::Tcp.name()));
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then(|| (protocol.to_lowercase(), first..=last))
}

fn join(mut ranges: Vec<RangeInclusive<u16>>) -> Vec<RangeInclusive<u16>> {
    ranges.sort_by_key(|range| *range.start());
    let mut joined: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if *range.start() <= *last.end() => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => joined.push(range),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Query;

    fn filter(values: &[&str]) -> Result<PortFilter, Failure> {
        let json = serde_json::json!({ "publish": values }).to_string();
        let query = Query::parse(Some(&format!("filters={}", crate::http::encode(&json))));
        PortFilter::read(&Filters::parse(&query, &["publish"]).unwrap(), "publish")
    }

    #[test]
    fn ports_are_numbers_or_ranges() {
        let ports = filter(&["80", "100-200", "150-300", "90-95/UDP", "120-130"]).unwrap();
        assert_eq!(ports.0["tcp"], [80..=80, 100..=300]);
        for (number, protocol, has) in [
            (80, "tcp", true),
            (80, "udp", false),
            (99, "tcp", false),
            (100, "tcp", true),
            (300, "tcp", true),
            (301, "tcp", false),
            (92, "udp", true),
            (92, "sctp", false),
            (0, "tcp", false),
        ] {
            assert_eq!(ports.has(number, protocol), has, "{number}/{protocol}");
        }
        assert!(filter(&[]).unwrap().is_empty());
        for bad in ["", "x", "80-", "-80", "90-80", "99999", "80-90-100/tcp"] {
            assert_eq!(filter(&[bad]).unwrap_err().status, 400, "{bad}");
        }
    }
}
