//! Swarm's placeholders in a service's hostname, environment and mounts, and in secrets and configs that are templates,
//! expanded on the task's node (SwarmKit `template/context.go`).

use muster_types::{AssignedTask, FileKind, NodeId, Slot};

/// Most bytes that a template may become: as many as a config may have, and more than any other value needs.
const EXPANDED_BYTES_MAX: usize = 1_024_000;
/// What Go's templates trim.
const WHITE_SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// What placeholders may name beside the task.
#[derive(Debug, Clone)]
pub struct TemplateNode {
    /// The node.
    pub id: NodeId,
    /// Its host name.
    pub hostname: String,
    /// Its operating system, as it tells the cluster.
    pub os: String,
    /// Its architecture, as it tells the cluster.
    pub architecture: String,
}

/// A template cannot be expanded; the text becomes the task's error. It shows no more of the template than one placeholder.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `{{` without `}}`.
    #[error("the opening {{{{ at byte {at} of the template has no }}}}")]
    Unclosed {
        /// Where the opening stands, counted from 0.
        at: usize,
    },
    /// It becomes too long.
    #[error("the template becomes longer than {EXPANDED_BYTES_MAX} bytes")]
    TooLong,
    /// A file that is named is none of the task's.
    #[error("{kind} target {target} not found")]
    NoTarget {
        /// Secret or config.
        kind: FileKind,
        /// What was named.
        target: String,
    },
    /// Not one of the placeholders.
    #[error(
        "template placeholder {name:?} is unknown: use .Service.ID, .Service.Name, .Service.Labels.NAME, .Node.ID, \
         .Node.Hostname, .Node.Platform.OS, .Node.Platform.Architecture, .Task.ID, .Task.Name or .Task.Slot, and in \
         secrets and configs also secret \"TARGET\", config \"TARGET\" or env \"NAME\""
    )]
    Unknown {
        /// What stands between the braces.
        name: String,
    },
}

/// Expands every placeholder in `text`.
pub fn expand(text: &str, task: &AssignedTask, node: &TemplateNode) -> Result<String, TemplateError> {
    expand_with(text, task, node, &|function, _| unknown(function))
}

/// Expands placeholders and calls of functions with one text, such as `{{ env "NAME" }}`. Of Go's templates it also has
/// comments and the trimming of white space by `{{-` and `-}}`.
pub fn expand_with(
    text: &str,
    task: &AssignedTask,
    node: &TemplateNode,
    call: &dyn Fn(&str, &str) -> Result<String, TemplateError>,
) -> Result<String, TemplateError> {
    let mut expanded = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (action, after) = after.split_once("}}").ok_or(TemplateError::Unclosed {
            at: text.len() - rest.len() + before.len(),
        })?;
        // Only text of the template is trimmed, not what came out of it.
        let trims_left = action
            .strip_prefix('-')
            .filter(|rest| rest.starts_with(WHITE_SPACE));
        let before = trims_left.map_or(before, |_| before.trim_end_matches(WHITE_SPACE));
        let action = trims_left.unwrap_or(action);
        let trims_right = action
            .strip_suffix('-')
            .filter(|rest| rest.ends_with(WHITE_SPACE));
        rest = trims_right.map_or(after, |_| after.trim_start_matches(WHITE_SPACE));
        let action = trims_right.unwrap_or(action).trim_matches(WHITE_SPACE);
        append(&mut expanded, before)?;
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            let value = match called(action) {
                Some((function, argument)) => call(function, argument)?,
                None => value(action, task, node)?,
            };
            append(&mut expanded, &value)?;
        }
    }
    append(&mut expanded, rest)?;
    Ok(expanded)
}

fn append(expanded: &mut String, text: &str) -> Result<(), TemplateError> {
    if expanded.len() + text.len() > EXPANDED_BYTES_MAX {
        return Err(TemplateError::TooLong);
    }
    expanded.push_str(text);
    Ok(())
}

/// `function "argument"`; the argument has no escapes.
fn called(action: &str) -> Option<(&str, &str)> {
    let (function, argument) = action.split_once(char::is_whitespace)?;
    let argument = argument.trim();
    let quoted = |quote: char| argument.strip_prefix(quote)?.strip_suffix(quote);
    let argument = quoted('"').or_else(|| quoted('`'))?;
    (!argument.contains(['"', '`', '\\'])).then_some((function, argument))
}

/// The name is nothing that can be expanded.
pub fn unknown(name: &str) -> Result<String, TemplateError> {
    Err(TemplateError::Unknown {
        name: name.to_owned(),
    })
}

fn value(name: &str, task: &AssignedTask, node: &TemplateNode) -> Result<String, TemplateError> {
    Ok(match name {
        ".Service.ID" => task.service.to_string(),
        ".Service.Name" => task.service_name.clone(),
        ".Node.ID" => node.id.to_string(),
        ".Node.Hostname" => node.hostname.clone(),
        ".Node.Platform.OS" => node.os.clone(),
        ".Node.Platform.Architecture" => node.architecture.clone(),
        ".Task.ID" => task.id.to_string(),
        ".Task.Name" => task.container_name(),
        // For a global service the slot is the node.
        ".Task.Slot" => match task.slot {
            Slot::Replica(number) => number.to_string(),
            Slot::Node(node) => node.to_string(),
        },
        other => match other.strip_prefix(".Service.Labels.") {
            Some(label) => task.service_labels.get(label).cloned().unwrap_or_default(),
            None => return unknown(other),
        },
    })
}

#[cfg(test)]
pub(super) mod fixture {
    use super::*;
    use muster_types::service::TaskTemplate;
    use muster_types::{DesiredState, ServiceId, TaskId, TaskState};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// Task 7, slot 3 of web.
    pub fn task(template: TaskTemplate) -> AssignedTask {
        AssignedTask {
            id: TaskId::from_u128(7),
            service: ServiceId::from_u128(1),
            service_name: "web".to_owned(),
            service_labels: BTreeMap::from([("tier".to_owned(), "front".to_owned())]),
            slot: Slot::Replica(3),
            template_version: 1,
            template: Arc::new(template),
            ports: Vec::new(),
            desired: DesiredState::Running,
            start_after: None,
            recorded: (0, TaskState::Assigned),
            networks: Vec::new(),
        }
    }

    /// Node 9.
    pub fn node() -> TemplateNode {
        TemplateNode {
            id: NodeId::from_u128(9),
            hostname: "alpha".to_owned(),
            os: "linux".to_owned(),
            architecture: "x86_64".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::node;
    use super::*;
    use muster_types::TaskId;
    use muster_types::service::TaskTemplate;

    fn task() -> AssignedTask {
        fixture::task(TaskTemplate::default())
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
    fn functions_comments_and_trimmed_space_are_understood() {
        let call = |function: &str, argument: &str| match function {
            "env" => Ok(argument.to_lowercase()),
            other => unknown(other),
        };
        let expanded = |text: &str| expand_with(text, &task(), &node(), &call);
        assert_eq!(expanded("a {{- /* no */ -}} b"), Ok("ab".to_owned()));
        assert_eq!(
            expanded("x={{ env \"HOME\" }};{{env `A`}}"),
            Ok("x=home;a".to_owned())
        );
        assert_eq!(expanded("{{.Node.Platform.OS}}"), Ok("linux".to_owned()));
        assert_eq!(
            expanded("{{env `A `}}{{- /* what came out stays */}} {{-\n.Task.Slot -}}\t\n."),
            Ok("a 3.".to_owned())
        );
        for text in [
            "{{ printf \"x\" }}",
            "{{ if .Task.Slot }}{{ end }}",
            "{{ env \"a\" \"b\" }}",
        ] {
            assert!(
                matches!(expanded(text), Err(TemplateError::Unknown { .. })),
                "{text}"
            );
        }
    }

    #[test]
    fn mistakes_are_named() {
        assert!(matches!(
            expand("{{.Task", &task(), &node()),
            Err(TemplateError::Unclosed { at: 0 })
        ));
        assert!(matches!(
            expand("{{.Task.ID}} x {{.Task", &task(), &node()),
            Err(TemplateError::Unclosed { at: 15 })
        ));
        assert!(matches!(
            expand("{{.Nothing}}", &task(), &node()),
            Err(TemplateError::Unknown { .. })
        ));
    }

    #[test]
    fn what_a_template_becomes_is_bounded() {
        let call = |_: &str, _: &str| Ok("x".repeat(100_000));
        let expanded = |times: usize| expand_with(&"{{ env `A` }}".repeat(times), &task(), &node(), &call);
        assert_eq!(expanded(10).map(|text| text.len()), Ok(1_000_000));
        assert_eq!(expanded(11), Err(TemplateError::TooLong));
    }
}
