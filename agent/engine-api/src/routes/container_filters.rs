//! Which containers `GET /containers/json` lists.

use crate::backend::{Candidate, LocalEngine, resolve};
use crate::http::{Failure, Filters, Query};
use hyper::StatusCode;
use muster_types::container::{ContainerInfo, ContainerState};
use muster_types::service::Protocol;
use regex::{Regex, RegexBuilder};
use std::ops::RangeInclusive;
use std::sync::Arc;

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: &[&str] = &[
    "created",
    "running",
    "paused",
    "restarting",
    "removing",
    "exited",
    "dead",
];
const HEALTH: &[&str] = &["starting", "healthy", "unhealthy", "none"];
/// Most memory that one compiled name may take; a client's pattern is not to cost more than the answer.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// Ports that a filter names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Ports {
    numbers: RangeInclusive<u16>,
    protocol: String,
}

/// What a client asks for.
#[derive(Debug)]
pub(super) struct Choice {
    filters: Filters,
    names: Vec<Regex>,
    exposed: Vec<Ports>,
    published: Vec<Ports>,
    is_task: Option<bool>,
    /// Where the containers of `before` and `since` stand in the list, newest first.
    before: Option<usize>,
    since: Option<usize>,
    /// Ids of the images that `ancestor` names; unknown names match nothing.
    ancestors: Vec<String>,
}

impl Choice {
    /// Reads the filters and refuses those that can never be meant.
    pub fn parse(query: &Query) -> Result<Self, Failure> {
        let filters = Filters::parse(query, FILTERS)?;
        let unknown = |key: &'static str, known: &[&str]| {
            let mut values = filters.values(key);
            values.find(|value| !known.contains(value)).map(str::to_owned)
        };
        if let Some(state) = unknown("status", STATES) {
            return Err(Failure::invalid(format!("invalid filter 'status={state}'")));
        }
        if let Some(health) = unknown("health", HEALTH) {
            return Err(Failure::invalid(format!(
                "Unrecognised filter value for health: {health}"
            )));
        }
        if let Some(bad) = filters.values("exited").find(|code| code.parse::<i32>().is_err()) {
            return Err(Failure::invalid(format!("invalid filter 'exited={bad}'")));
        }
        Ok(Self {
            names: filters.values("name").filter_map(pattern).collect(),
            exposed: ports(&filters, "expose")?,
            published: ports(&filters, "publish")?,
            is_task: filters.truth("is-task")?,
            filters,
            before: None,
            since: None,
            ancestors: Vec::new(),
        })
    }

    /// Whether a filter names states, so that containers that do not run are meant too.
    pub fn names_states(&self) -> bool {
        self.filters.has("status") || self.filters.has("exited")
    }

    /// Whether a filter names another container, which need not run.
    pub fn names_neighbours(&self) -> bool {
        self.filters.has("before") || self.filters.has("since")
    }

    /// Finds the containers that `before` and `since` name in the whole list, newest first.
    pub fn find_neighbours(&mut self, containers: &[Arc<ContainerInfo>]) -> Result<(), Failure> {
        let position = |key: &str| {
            let Some(reference) = self.filters.values(key).next() else {
                return Ok(None);
            };
            let candidates = containers.iter().map(|container| Candidate {
                id: container.id.as_str(),
                name: &container.name,
            });
            let missing = |_| Failure::new(StatusCode::NOT_FOUND, format!("No such container: {reference}"));
            resolve("container", reference, candidates)
                .map(Some)
                .map_err(missing)
        };
        (self.before, self.since) = (position("before")?, position("since")?);
        Ok(())
    }

    /// Finds the images that `ancestor` names.
    pub async fn find_ancestors(&mut self, engine: &dyn LocalEngine) {
        for reference in self.filters.values("ancestor") {
            if let Ok(image) = engine.image_inspect(reference).await {
                self.ancestors.push(image.id.clone());
            }
        }
    }

    /// Whether the container that stands there in the list is meant.
    pub fn has(&self, index: usize, container: &ContainerInfo) -> bool {
        self.before.is_none_or(|before| index > before)
            && self.since.is_none_or(|since| index < since)
            && self.fits(container)
            && self.fits_ports(container)
    }

    fn fits(&self, container: &ContainerInfo) -> bool {
        let filters = &self.filters;
        let labels = &container.config.labels;
        let is_task = labels.contains_key("com.docker.swarm.task");
        let health = container.health.as_ref();
        let health = health.map_or("none", |health| health.status.as_str());
        filters.prefix("id", container.id.as_str())
            && self.fits_name(&container.name)
            && filters.labels("label", labels)
            && !(filters.has("label!") && filters.labels("label!", labels))
            && filters.exact("status", container.state.name())
            && filters.exact("health", health)
            && filters.any("exited", |code| {
                container.state == ContainerState::Exited && code.parse() == Ok(container.exit_code)
            })
            && (!filters.has("ancestor") || self.ancestors.contains(&container.image_id))
            && self.is_task.is_none_or(|wanted| wanted == is_task)
            && filters.any("network", |network| {
                let mut places = container.networks.iter();
                places.any(|(name, place)| name == network || place.network_id.starts_with(network))
            })
            && filters.any("volume", |volume| {
                let mut mounts = container.mounts.iter();
                mounts.any(|mount| mount.name == volume || mount.target == volume)
            })
    }

    /// Docker matches regular expressions, with and without the slash before the name; one that is none matches nothing.
    fn fits_name(&self, name: &str) -> bool {
        let slashed = format!("/{name}");
        let mut names = self.names.iter();
        !self.filters.has("name") || names.any(|wanted| wanted.is_match(name) || wanted.is_match(&slashed))
    }

    fn fits_ports(&self, container: &ContainerInfo) -> bool {
        let is_exposed = || {
            let exposed = container.config.exposed_ports.iter().filter_map(|port| {
                let (number, protocol) = port.split_once('/')?;
                Some((number.parse().ok()?, protocol.to_owned()))
            });
            let bound = container.ports.iter();
            let bound = bound.map(|port| (port.container_port, port.protocol.to_string()));
            exposed
                .chain(bound)
                .any(|port| self.exposed.iter().any(|wanted| wanted.has(&port)))
        };
        let is_published = || {
            let mut bound = container.ports.iter();
            bound.any(|port| {
                let port = (port.host_port, port.protocol.to_string());
                self.published.iter().any(|wanted| wanted.has(&port))
            })
        };
        (self.exposed.is_empty() || is_exposed()) && (self.published.is_empty() || is_published())
    }
}

fn pattern(text: &str) -> Option<Regex> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build().ok()
}

fn ports(filters: &Filters, key: &str) -> Result<Vec<Ports>, Failure> {
    let read = |text| {
        Ports::read(text).ok_or_else(|| {
            Failure::invalid(format!(
                "error while looking up for {key} {text}: a port or a range of ports is expected, as 80/tcp or 80-90/udp"
            ))
        })
    };
    filters.values(key).map(read).collect()
}

impl Ports {
    /// Reads `first[-last][/protocol]`.
    fn read(text: &str) -> Option<Self> {
        let tcp = Protocol::Tcp.to_string();
        let (numbers, protocol) = text.split_once('/').unwrap_or((text, &tcp));
        let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then(|| Self {
            numbers: first..=last,
            protocol: protocol.to_lowercase(),
        })
    }

    fn has(&self, (number, protocol): &(u16, String)) -> bool {
        self.numbers.contains(number) && self.protocol == *protocol
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(json: &str) -> Result<Choice, Failure> {
        Choice::parse(&Query::parse(Some(&format!(
            "filters={}",
            crate::http::encode(json)
        ))))
    }

    #[test]
    fn names_are_regular_expressions() {
        let fits = |wanted: &str, name| {
            let json = serde_json::json!({ "name": [wanted] }).to_string();
            choice(&json).unwrap().fits_name(name)
        };
        for (wanted, name) in [
            ("eb", "web"),
            ("^/web$", "web"),
            ("^we", "web"),
            ("b$", "web"),
            ("w[a-f]b", "web"),
            ("^/?(web|db)$", "db"),
            ("", "web"),
        ] {
            assert!(fits(wanted, name), "{wanted} {name}");
        }
        for (wanted, name) in [
            ("^web$", "web2"),
            ("^eb", "web"),
            ("[", "web"),
            ("a{1000000}", "web"),
        ] {
            assert!(!fits(wanted, name), "{wanted} {name}");
        }
    }

    #[test]
    fn ports_are_numbers_or_ranges() {
        let ports = |text| Ports::read(text).map(|ports| (ports.numbers, ports.protocol));
        assert_eq!(ports("80"), Some((80..=80, "tcp".to_owned())));
        assert_eq!(ports("80-90/UDP"), Some((80..=90, "udp".to_owned())));
        for bad in ["", "x", "80-", "-80", "90-80", "99999", "80/tcp/x-"] {
            assert!(
                Ports::read(bad).is_none_or(|ports| ports.protocol == "tcp/x-"),
                "{bad}"
            );
        }
    }

    #[test]
    fn what_can_never_be_meant_is_refused() {
        for bad in [
            r#"{"status":["bad"]}"#,
            r#"{"health":["bad"]}"#,
            r#"{"exited":["x"]}"#,
            r#"{"is-task":["maybe"]}"#,
            r#"{"expose":["x"]}"#,
            r#"{"publish":["80-"]}"#,
            r#"{"unknown":["x"]}"#,
        ] {
            assert_eq!(choice(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
