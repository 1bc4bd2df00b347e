//! Swarm's placeholders in a service's hostname, environment and mounts, expanded on the task's node (SwarmKit
//! `template/context.go`).

use muster_types::{AssignedTask, NodeId, Slot};

/// What placeholders may name beside the task.
#[derive(Debug, Clone)]
pub struct TemplateNode {
    /// The node.
    pub id: NodeId,
    /// Its host name.
    pub hostname: String,
}

/// A template cannot be expanded; the text becomes the task's error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("template {text:?} has an opening {{{{ without its }}}}")]
    Unclosed {
        /// The template.
        text: String,
    },
    /// Not one of the placeholders.
    #[error(
        "template placeholder {name:?} is unknown: use .Service.ID, .Service.Name, .Service.Labels.NAME, .Node.ID, \
         .Node.Hostname, .Task.ID, .Task.Name or .Task.Slot"
    )]
    Unknown {
        /// What stands between the braces.
        name: String,
    },
}

/// Expands every placeholder in `text`.
pub fn expand(text: &str, task: &AssignedTask, node: &TemplateNode) -> Result<String, TemplateError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        expanded.push_str(before);
        let (name, after) = after.split_once("}}").ok_or_else(|| TemplateError::Unclosed {
            text: text.to_owned(),
        })?;
        expanded.push_str(&value(name.trim(), task, node)?);
        rest = after;
    }
    expanded.push_str(rest);
    Ok(expanded)
}

fn value(name: &str, task: &AssignedTask, node: &TemplateNode) -> Result<String, TemplateError> {
    Ok(match name {
        ".Service.ID" => task.service.to_string(),
        ".Service.Name" => task.service_name.clone(),
        ".Node.ID" => node.id.to_string(),
        ".Node.Hostname" => node.hostname.clone(),
        ".Task.ID" => task.id.to_string(),
        ".Task.Name" => task.container_name(),
        // For a global service the slot is the node.
        ".Task.Slot" => match task.slot {
            Slot::Replica(number) => number.to_string(),
            Slot::Node(node) => node.to_string(),
        },
        other => match other.strip_prefix(".Service.Labels.") {
            Some(label) => task.service_labels.get(label).cloned().unwrap_or_default(),
            None => {
                return Err(TemplateError::Unknown {
                    name: other.to_owned(),
                });
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::service::TaskTemplate;
    use muster_types::{DesiredState, ServiceId, TaskId, TaskState};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn task() -> AssignedTask {
        AssignedTask {
            id: TaskId::from_u128(7),
            service: ServiceId::from_u128(1),
            service_name: "web".to_owned(),
            service_labels: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
            slot: Slot::Replica(3),
            template_version: 1,
            template: Arc::new(TaskTemplate::default()),
            ports: Vec::new(),
            desired: DesiredState::Running,
            start_after: None,
            recorded: (0, TaskState::Assigned),
            networks: Vec::new(),
        }
    }

    fn node() -> TemplateNode {
        TemplateNode {
            id: NodeId::from_u128(9),
            hostname: "alpha".to_owned(),
        }
    }

    #[test]
    fn placeholders_are_expanded() {
        let text = "{{.Service.Name}}-{{ .Task.Slot }}@{{.Node.Hostname}} {{.Service.Labels.tier}}";
        assert_eq!(expand(text, &task(), &node()), Ok("web-3@alpha front".to_owned()));
        assert_eq!(expand("plain", &task(), &node()), Ok("plain".to_owned()));
        let name = expand("{{.Task.Name}}", &task(), &node()).unwrap();
        assert_eq!(name, format!("web.3.{}", TaskId::from_u128(7)));
    }

    #[test]
    fn mistakes_are_named() {
        assert!(matches!(
            expand("{{.Task", &task(), &node()),
            Err(TemplateError::Unclosed { .. })
        ));
        assert!(matches!(
            expand("{{.Nothing}}", &task(), &node()),
            Err(TemplateError::Unknown { .. })
        ));
    }
}
