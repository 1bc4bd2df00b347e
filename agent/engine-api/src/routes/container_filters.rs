//! Which containers `GET /containers/json` lists.

use super::port_filter::PortFilter;
use crate::backend::{Candidate, LocalEngine, resolve};
use crate::http::{Failure, Filters, Query};
use hyper::StatusCode;
use muster_types::container::{ContainerInfo, ContainerState};
use regex::{Regex, RegexBuilder};
use std::collections::BTreeSet;
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
const PATTERN_BYTES_MAX: usize = 256 << 10;
/// Names that are patterns, each of which is compiled and then tried on every container.
const PATTERNS_MAX: usize = 100;
/// What makes a pattern of a name.
const META: &[char] = &[
    '\\', '.', '+', '*', '?', '(', ')', '|', '[', ']', '{', '}', '^', '$',
];
/// Images that a filter may name: each is looked for among all.
const ANCESTORS_MAX: usize = 100;

/// What a client asks for.
#[derive(Debug)]
pub(super) struct Choice {
    filters: Filters,
    /// Names that are no patterns.
    plain_names: Vec<String>,
    patterns: Vec<Regex>,
    exposed: PortFilter,
    published: PortFilter,
    exit_codes: BTreeSet<i32>,
    is_task: Option<bool>,
    /// Where the containers of `before` and `since` stand in the list, newest first.
    before: Option<usize>,
    since: Option<usize>,
    /// Ids of the images that `ancestor` names; unknown names match nothing.
    ancestors: BTreeSet<String>,
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
        let code = |text: &str| {
            text.parse()
                .map_err(|_| Failure::invalid(format!("invalid filter 'exited={text}'")))
        };
        let exit_codes = filters.values("exited").map(code).collect::<Result<_, _>>()?;
        let is_plain = |name: &&str| !name.contains(META);
        let (plain, patterns): (Vec<_>, Vec<_>) = filters.values("name").partition(is_plain);
        at_most(PATTERNS_MAX, patterns.len(), "patterns of names")?;
        at_most(ANCESTORS_MAX, filters.values("ancestor").count(), "ancestors")?;
        Ok(Self {
            plain_names: plain.into_iter().map(str::to_owned).collect(),
            patterns: patterns.into_iter().filter_map(pattern).collect(),
            exposed: PortFilter::read(&filters, "expose")?,
            published: PortFilter::read(&filters, "publish")?,
            exit_codes,
            is_task: filters.truth("is-task")?,
            filters,
            before: None,
            since: None,
            ancestors: BTreeSet::new(),
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
                self.ancestors.insert(image.id.clone());
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
            && (self.exit_codes.is_empty()
                || container.state == ContainerState::Exited
                    && self.exit_codes.contains(&container.exit_code))
            && (!filters.has("ancestor") || self.ancestors.contains(&container.image_id))
            && self.is_task.is_none_or(|wanted| wanted == is_task)
            && (!filters.has("network") || {
                let mut places = container.networks.iter();
                places.any(|(name, place)| {
                    filters.contains("network", name) || filters.prefix("network", &place.network_id)
                })
            })
            && (!filters.has("volume") || {
                let mut mounts = container.mounts.iter();
                mounts.any(|mount| {
                    filters.contains("volume", &mount.name) || filters.contains("volume", &mount.target)
                })
            })
    }

    /// Docker matches regular expressions, with and without the slash before the name; one that is none matches nothing.
    fn fits_name(&self, name: &str) -> bool {
        if !self.filters.has("name") {
            return true;
        }
        let slashed = format!("/{name}");
        let (mut plain, mut patterns) = (self.plain_names.iter(), self.patterns.iter());
        plain.any(|wanted| slashed.contains(wanted.as_str()))
            || patterns.any(|wanted| wanted.is_match(name) || wanted.is_match(&slashed))
    }

    fn fits_ports(&self, container: &ContainerInfo) -> bool {
        let bound = || container.ports.iter();
        let is_exposed = || {
            let mut exposed = container.config.exposed_ports.iter().filter_map(|port| {
                let (number, protocol) = port.split_once('/')?;
                Some((number.parse().ok()?, protocol))
            });
            exposed.any(|(number, protocol)| self.exposed.has(number, protocol))
                || bound().any(|port| self.exposed.has(port.container_port, port.protocol.name()))
        };
        let is_published = || bound().any(|port| self.published.has(port.host_port, port.protocol.name()));
        (self.exposed.is_empty() || is_exposed()) && (self.published.is_empty() || is_published())
    }
}

fn at_most(most: usize, count: usize, what: &str) -> Result<(), Failure> {
    match count <= most {
        true => Ok(()),
        false => Err(Failure::invalid(format!(
            "invalid filters: {count} {what} are given, at most {most} are taken"
        ))),
    }
}

fn pattern(text: &str) -> Option<Regex> {
    RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build().ok()
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

    #[test]
    fn what_would_cost_too_much_is_refused() {
        let of = |key: &str, count: usize, value: &dyn Fn(usize) -> String| {
            let values: Vec<String> = (0..count).map(value).collect();
            choice(&serde_json::json!({ key: values }).to_string())
        };
        // Each of them alone would take more memory than a pattern may.
        let hungry = |n| format!("{n}(\\w{{200}}){{200}}");
        assert!(of("name", PATTERNS_MAX, &hungry).unwrap().patterns.is_empty());
        assert_eq!(of("name", PATTERNS_MAX + 1, &hungry).unwrap_err().status, 400);
        let plain = |n| format!("web-{n}");
        let choice = of("name", 1000, &plain).unwrap();
        assert!(choice.patterns.is_empty());
        assert!(choice.fits_name("x-web-999") && !choice.fits_name("web-"));
        assert_eq!(of("ancestor", ANCESTORS_MAX + 1, &plain).unwrap_err().status, 400);
        assert_eq!(of("id", 100_000, &plain).unwrap_err().status, 400);
    }
}
