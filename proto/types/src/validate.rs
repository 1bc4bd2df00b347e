//! Validation that returns every problem at once.

use crate::constraint::Constraint;
use crate::file;
use crate::leading::Leading;
use crate::service::{PublishMode, ServiceMode, ServiceSpec, TaskTemplate};
use std::collections::BTreeSet;
use std::fmt;

/// Longest service name: a DNS label (RFC 1035).
pub const NAME_CHARS_MAX: usize = 63;
/// Smallest CPU reservation or limit: a thousandth of a CPU (SwarmKit).
pub const NANO_CPUS_MIN: u64 = 1_000_000;
/// Smallest memory reservation or limit: 4 MiB (SwarmKit).
pub const MEMORY_BYTES_MIN: u64 = 4 << 20;
/// Most replicas of one service; bounds one request's work on the controllers.
pub const REPLICAS_MAX: u64 = 1_000_000;

/// One thing wrong with the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Which field.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
}

/// Everything wrong with the input; never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Notes a problem.
    pub fn add(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.0.push(Problem {
            field: field.into(),
            message: message.into(),
        });
    }

    /// `Ok` when nothing was noted.
    pub fn into_result(self) -> Result<(), Self> {
        if self.0.is_empty() { Ok(()) } else { Err(self) }
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{}: {}", problem.field, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Checks a whole service spec.
pub fn service_spec(spec: &ServiceSpec) -> Result<(), Problems> {
    let mut problems = Problems::default();
    name(&spec.name, &mut problems);
    template(&spec.template, &mut problems);
    let number = match spec.mode {
        ServiceMode::Replicated { replicas } => Some(("Mode.Replicated.Replicas", replicas)),
        // More at once than there are slots changes nothing.
        ServiceMode::ReplicatedJob { completions, .. } => {
            Some(("Mode.ReplicatedJob.TotalCompletions", completions))
        }
        ServiceMode::Global | ServiceMode::GlobalJob => None,
    };
    if let Some((field, number)) = number.filter(|(_, number)| *number > REPLICAS_MAX) {
        problems.add(field, format!("{number} is more than {REPLICAS_MAX}"));
    }
    for (field, config) in [("UpdateConfig", spec.update), ("RollbackConfig", spec.rollback)] {
        if !(0.0..=1.0).contains(&config.failure_ratio_max) {
            problems.add(format!("{field}.MaxFailureRatio"), "must be between 0 and 1");
        }
    }
    ports(spec, &mut problems);
    for problem in Leading::read(&spec.labels).err().unwrap_or_default() {
        problems.add("Labels", problem);
    }
    file::check_references(spec, &mut problems);
    problems.into_result()
}

/// Checks a name that containers resolve.
pub fn object_name(text: &str) -> Result<(), String> {
    let mut problems = Problems::default();
    name(text, &mut problems);
    problems.0.pop().map_or(Ok(()), |problem| Err(problem.message))
}

fn name(name: &str, problems: &mut Problems) {
    let bytes = name.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let inner = bytes
        .iter()
        .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b));
    if name.len() > NAME_CHARS_MAX {
        problems.add(
            "Name",
            format!("name must be {NAME_CHARS_MAX} characters or fewer"),
        );
    } else if !(edge(bytes.first()) && edge(bytes.last()) && inner) {
        problems.add("Name", "name must be valid as a DNS name component");
    }
}

fn template(template: &TaskTemplate, problems: &mut Problems) {
    if template.container.image.trim().is_empty() {
        problems.add("ContainerSpec.Image", "image reference must be provided");
    }
    for (field, amount) in [
        ("Reservations", template.reservations),
        ("Limits", template.limits),
    ] {
        if amount.nano_cpus != 0 && amount.nano_cpus < NANO_CPUS_MIN {
            problems.add(
                format!("Resources.{field}.NanoCPUs"),
                format!("invalid cpu value {}: Must be at least 0.001", amount.nano_cpus),
            );
        }
        if amount.memory_bytes != 0 && amount.memory_bytes < MEMORY_BYTES_MIN {
            problems.add(
                format!("Resources.{field}.MemoryBytes"),
                format!(
                    "invalid memory value {}: Must be at least 4MiB",
                    amount.memory_bytes
                ),
            );
        }
    }
    for expression in &template.placement.constraints {
        if let Err(error) = Constraint::parse(expression) {
            problems.add("Placement.Constraints", error.to_string());
        }
    }
    for preference in &template.placement.preferences {
        let known = ["node.labels.", "engine.labels."].iter().any(|prefix| {
            preference
                .descriptor
                .strip_prefix(prefix)
                .is_some_and(|label| !label.is_empty())
        });
        if !known {
            problems.add(
                "Placement.Preferences",
                format!(
                    "cannot spread over {:?}: use node.labels.NAME or engine.labels.NAME",
                    preference.descriptor
                ),
            );
        }
    }
    let mut targets = BTreeSet::new();
    for mount in &template.container.mounts {
        if !targets.insert(mount.target.as_str()) {
            problems.add("Mounts", format!("duplicate mount point: {}", mount.target));
        }
        if !mount.target.starts_with('/') {
            problems.add(
                "Mounts",
                format!("mount target {:?} must be an absolute path", mount.target),
            );
        }
    }
}

fn ports(spec: &ServiceSpec, problems: &mut Problems) {
    let mut seen = BTreeSet::new();
    for port in &spec.ports {
        if port.target_port == 0 {
            problems.add(
                "EndpointSpec.Ports",
                "the target port must be between 1 and 65535",
            );
        }
        let host = port.mode == PublishMode::Host;
        if port.published_port != 0 && !seen.insert((host, port.protocol, port.published_port)) {
            problems.add(
                "EndpointSpec.Ports",
                format!(
                    "duplicate published port {}/{}",
                    port.published_port, port.protocol
                ),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str) -> ServiceSpec {
        let mut spec = ServiceSpec {
            name: name.to_owned(),
            ..Default::default()
        };
        spec.template.container.image = "web".to_owned();
        spec
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["web", "a", "0a-b_c9", &"x".repeat(63)] {
            assert!(service_spec(&spec(good)).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "a.b", "ü", &"x".repeat(64)] {
            assert!(service_spec(&spec(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_problem_is_returned() {
        let mut bad = spec("-");
        bad.template.container.image.clear();
        bad.template.limits.memory_bytes = 1;
        bad.template.placement.constraints.push("nonsense".to_owned());
        assert_eq!(service_spec(&bad).unwrap_err().0.len(), 4);
    }
}
