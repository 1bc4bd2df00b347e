//! `GET /events`: events of the node and, on controllers, of the cluster, in one stream.

use crate::http::{BoxError, Call, Failure, Filters, Reply, lines};
use bytes::Bytes;
use futures::{StreamExt, stream};
use muster_types::event::{Event, EventKind, EventScope};
use muster_types::service::Labels;
use serde_json::{Map, Value, json};

const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// `GET /events`.
pub(super) async fn stream(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, FILTERS)?;
    let (since, until) = (call.query.time("since")?, call.query.time("until")?);
    if let (Some(since), Some(until)) = (since, until)
        && since > until
    {
        return Err(Failure::invalid(format!(
            "`since` time ({}) cannot be after `until` time ({})",
            call.query.get("since").unwrap_or_default(),
            call.query.get("until").unwrap_or_default()
        )));
    }
    let local = call.engine().events(since, until).await?;
    let cluster = call.cluster().events(since, until).await?;
    let stopping = call.app.stopping.clone();
    let body = stream::select(local, cluster)
        .filter_map(move |event| {
            let line = match event {
                Ok(event) if matches(&event, &filters) => Some(Ok(line(&event))),
                Ok(_) => None,
                Err(error) => Some(Err(BoxError::from(error))),
            };
            async move { line }
        })
        .take_until(async move { stopping.cancelled().await });
    Ok(lines("application/json", body))
}

fn line(event: &Event) -> Bytes {
    let mut object = Map::new();
    // The oldest form of events, which clients still read.
    if matches!(event.kind, EventKind::Container | EventKind::Image) {
        object.insert("status".into(), event.action.clone().into());
        object.insert("id".into(), event.actor_id.clone().into());
        if let Some(image) = event.attributes.get("image") {
            object.insert("from".into(), image.clone().into());
        }
    }
    object.insert("Type".into(), event.kind.name().into());
    object.insert("Action".into(), event.action.clone().into());
    object.insert(
        "Actor".into(),
        json!({"ID": event.actor_id, "Attributes": event.attributes}),
    );
    object.insert("scope".into(), scope(event).into());
    object.insert("time".into(), event.at.unix_secs().into());
    object.insert("timeNano".into(), event.at.unix_ns().into());
    Bytes::from(format!("{}\n", Value::Object(object)))
}

fn scope(event: &Event) -> &'static str {
    match event.scope {
        EventScope::Local => "local",
        EventScope::Swarm => "swarm",
    }
}

fn matches(event: &Event, filters: &Filters) -> bool {
    let labels: &Labels = &event.attributes;
    // `health_status` and `exec_start` carry details after a colon.
    let action = event.action.split(':').next().unwrap_or_default();
    filters.any("event", |wanted| wanted == event.action || wanted == action)
        && filters.exact("type", event.kind.name())
        && filters.exact("scope", scope(event))
        && filters.labels("label", labels)
        && OBJECTS.iter().all(|kind| matches_object(event, filters, *kind))
}

/// Kinds that have a filter of their own.
const OBJECTS: [EventKind; 9] = [
    EventKind::Container,
    EventKind::Image,
    EventKind::Volume,
    EventKind::Network,
    EventKind::Daemon,
    EventKind::Service,
    EventKind::Node,
    EventKind::Secret,
    EventKind::Config,
];

/// `container=x` wants events of that container only; `image=x` also those of its containers.
fn matches_object(event: &Event, filters: &Filters, kind: EventKind) -> bool {
    filters.any(kind.name(), |wanted| {
        let named = |attribute: &str| {
            event.attributes.get(attribute).is_some_and(|name| {
                name == wanted || (kind == EventKind::Image && without_tag(name) == wanted)
            })
        };
        if event.kind == kind {
            event.actor_id.starts_with(wanted)
                || named("name")
                || (kind == EventKind::Image && without_tag(&event.actor_id) == wanted)
        } else {
            kind == EventKind::Image && event.kind == EventKind::Container && named("image")
        }
    })
}

fn without_tag(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Query;
    use muster_types::Timestamp;

    fn event(kind: EventKind, action: &str) -> Event {
        Event {
            kind,
            action: action.into(),
            actor_id: "abcdef".into(),
            attributes: [("name".into(), "web".into()), ("image".into(), "nginx:1".into())].into(),
            scope: EventScope::Local,
            at: Timestamp(1_500_000_001),
        }
    }

    fn passes(event: &Event, filters: &str) -> bool {
        let query = Query::parse(Some(&format!("filters={filters}")));
        matches(event, &Filters::parse(&query, FILTERS).unwrap())
    }

    #[test]
    fn filters_choose_events() {
        let start = event(EventKind::Container, "start");
        for yes in [
            r#"{"container":["web"]}"#,
            r#"{"container":["abc"]}"#,
            r#"{"image":["nginx"]}"#,
            r#"{"event":["start"],"type":["container"]}"#,
            r#"{"label":["name=web"]}"#,
        ] {
            assert!(passes(&start, yes), "{yes}");
        }
        for no in [
            r#"{"container":["we"]}"#,
            r#"{"image":["ngin"]}"#,
            r#"{"event":["die"]}"#,
            r#"{"type":["node"]}"#,
            r#"{"scope":["swarm"]}"#,
            r#"{"node":["web"]}"#,
        ] {
            assert!(!passes(&start, no), "{no}");
        }
        assert!(passes(
            &event(EventKind::Container, "health_status: healthy"),
            r#"{"event":["health_status"]}"#
        ));
    }

    #[test]
    fn lines_have_both_forms() {
        let value: Value = serde_json::from_slice(&line(&event(EventKind::Container, "die"))).unwrap();
        assert_eq!(value["status"], "die");
        assert_eq!(value["from"], "nginx:1");
        assert_eq!(value["Actor"]["ID"], "abcdef");
        assert_eq!(
            (value["time"].as_i64(), value["timeNano"].as_i64()),
            (Some(1), Some(1_500_000_001))
        );
        let node: Value = serde_json::from_slice(&line(&event(EventKind::Node, "update"))).unwrap();
        assert!(node.get("status").is_none());
    }
}
