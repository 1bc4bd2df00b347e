//! Every operation of the Engine API, by method and path. Those without a handler answer 501 with their name.

use super::{
    archive, builds, commit, containers, events, exec, hijack, images, logs, networks, nodes, plugins,
    policies, prune, pull, secrets, services, stats, swarm, system, tasks, volumes, wait, websocket,
};
use crate::http::{Call, Reply};
use futures::future::BoxFuture;
use hyper::Method;

/// A handler.
pub(crate) type Handler = fn(Call) -> BoxFuture<'static, Reply>;

/// One operation of the API.
pub(crate) struct Operation {
    /// HTTP method.
    method: &'static str,
    /// Path; `{x}` captures one segment, `{x...}` one or more.
    path: &'static str,
    /// Name in the API's documentation.
    pub name: &'static str,
    /// `None` while it is not built.
    pub handler: Option<Handler>,
}

macro_rules! operations {
    ($($method:ident $path:literal $name:ident $(=> $handler:path)?;)*) => {
        &[$(Operation {
            method: stringify!($method),
            path: $path,
            name: stringify!($name),
            handler: operations!(@handler $($handler)?),
        }),*]
    };
    (@handler) => { None };
    (@handler $handler:path) => { Some(|call| Box::pin($handler(call))) };
}

/// All operations. Where two could match, the first wins.
pub(crate) const OPERATIONS: &[Operation] = operations! {
    HEAD "/_ping" SystemPingHead => system::ping;
    GET "/_ping" SystemPing => system::ping;
    GET "/version" SystemVersion => system::version;
    GET "/info" SystemInfo => system::info;
    GET "/events" SystemEvents => events::stream;
    GET "/system/df" SystemDataUsage => system::disk_usage;
    POST "/auth" SystemAuth => pull::log_in;

    GET "/containers/json" ContainerList => containers::list;
    POST "/containers/create" ContainerCreate => containers::create;
    POST "/containers/prune" ContainerPrune => prune::containers;
    GET "/containers/{id}/json" ContainerInspect => containers::inspect;
    GET "/containers/{id}/top" ContainerTop => containers::top;
    GET "/containers/{id}/logs" ContainerLogs => logs::container;
    GET "/containers/{id}/changes" ContainerChanges => commit::changes;
    GET "/containers/{id}/export" ContainerExport => archive::export;
    GET "/containers/{id}/stats" ContainerStats => stats::container;
    POST "/containers/{id}/resize" ContainerResize => containers::resize;
    POST "/containers/{id}/start" ContainerStart => containers::start;
    POST "/containers/{id}/stop" ContainerStop => containers::stop;
    POST "/containers/{id}/restart" ContainerRestart => containers::restart;
    POST "/containers/{id}/kill" ContainerKill => containers::kill;
    POST "/containers/{id}/update" ContainerUpdate => containers::update;
    POST "/containers/{id}/rename" ContainerRename => containers::rename;
    POST "/containers/{id}/pause" ContainerPause => containers::pause;
    POST "/containers/{id}/unpause" ContainerUnpause => containers::unpause;
    POST "/containers/{id}/attach" ContainerAttach => hijack::container_attach;
    GET "/containers/{id}/attach/ws" ContainerAttachWebsocket => websocket::container_attach;
    POST "/containers/{id}/wait" ContainerWait => wait::container;
    DELETE "/containers/{id}" ContainerDelete => containers::remove;
    DELETE "/containers/{id}/{alias}" ContainerDeleteLink => containers::remove_link;
    HEAD "/containers/{id}/archive" ContainerArchiveInfo => archive::stat;
    GET "/containers/{id}/archive" ContainerArchive => archive::get;
    PUT "/containers/{id}/archive" PutContainerArchive => archive::put;
    GET "/containers/{id}/checkpoints" CheckpointList;
    POST "/containers/{id}/checkpoints" CheckpointCreate;
    DELETE "/containers/{id}/checkpoints/{checkpoint}" CheckpointDelete;
    POST "/containers/{id}/exec" ContainerExec => exec::create;
    POST "/exec/{id}/start" ExecStart => exec::start;
    POST "/exec/{id}/resize" ExecResize => exec::resize;
    GET "/exec/{id}/json" ExecInspect => exec::inspect;

    GET "/images/json" ImageList => images::list;
    GET "/images/search" ImageSearch => pull::search;
    GET "/images/get" ImageGetAll => commit::save;
    POST "/images/create" ImageCreate => images::create;
    POST "/images/load" ImageLoad => images::load;
    POST "/images/prune" ImagePrune => prune::images;
    POST "/build" ImageBuild => builds::build;
    POST "/build/prune" BuildPrune => prune::builds;
    POST "/commit" ImageCommit => commit::commit;
    GET "/images/{name...}/json" ImageInspect => images::inspect;
    GET "/images/{name...}/history" ImageHistory => images::history;
    GET "/images/{name...}/get" ImageGet => commit::save;
    GET "/images/{name...}/attestations" ImageAttestations;
    POST "/images/{name...}/push" ImagePush => pull::push;
    POST "/images/{name...}/tag" ImageTag => images::tag;
    DELETE "/images/{name...}" ImageDelete => images::remove;
    GET "/distribution/{name...}/json" DistributionInspect => pull::distribution;

    GET "/networks" NetworkList => networks::list;
    POST "/networks/create" NetworkCreate => networks::create;
    POST "/networks/prune" NetworkPrune => prune::networks;
    GET "/networks/{id}" NetworkInspect => networks::inspect;
    DELETE "/networks/{id}" NetworkDelete => networks::remove;
    GET "/networks/{id}/policy" NetworkPolicyInspect => policies::inspect;
    PUT "/networks/{id}/policy" NetworkPolicySet => policies::set;
    POST "/networks/{id}/connect" NetworkConnect => networks::connect;
    POST "/networks/{id}/disconnect" NetworkDisconnect => networks::disconnect;

    GET "/volumes" VolumeList => volumes::list;
    POST "/volumes/create" VolumeCreate => volumes::create;
    POST "/volumes/prune" VolumePrune => prune::volumes;
    GET "/volumes/{name}" VolumeInspect => volumes::inspect;
    PUT "/volumes/{name}" VolumeUpdate;
    DELETE "/volumes/{name}" VolumeDelete => volumes::remove;

    GET "/swarm" SwarmInspect => swarm::inspect;
    POST "/swarm/init" SwarmInit => swarm::init;
    POST "/swarm/join" SwarmJoin => swarm::join;
    POST "/swarm/leave" SwarmLeave => swarm::leave;
    POST "/swarm/update" SwarmUpdate => swarm::update;
    GET "/swarm/unlockkey" SwarmUnlockkey;
    POST "/swarm/unlock" SwarmUnlock;

    GET "/nodes" NodeList => nodes::list;
    GET "/nodes/{id}" NodeInspect => nodes::inspect;
    DELETE "/nodes/{id}" NodeDelete => nodes::remove;
    POST "/nodes/{id}/update" NodeUpdate => nodes::update;

    GET "/services" ServiceList => services::list;
    POST "/services/create" ServiceCreate => services::create;
    GET "/services/{id}" ServiceInspect => services::inspect;
    DELETE "/services/{id}" ServiceDelete => services::remove;
    POST "/services/{id}/update" ServiceUpdate => services::update;
    GET "/services/{id}/trace" ServiceTrace => policies::trace;
    GET "/services/{id}/logs" ServiceLogs => logs::service;

    GET "/tasks" TaskList => tasks::list;
    GET "/tasks/{id}" TaskInspect => tasks::inspect;
    GET "/tasks/{id}/logs" TaskLogs => logs::task;

    GET "/secrets" SecretList => secrets::list_secrets;
    POST "/secrets/create" SecretCreate => secrets::create_secret;
    GET "/secrets/{id}" SecretInspect => secrets::inspect_secret;
    DELETE "/secrets/{id}" SecretDelete => secrets::remove_secret;
    POST "/secrets/{id}/update" SecretUpdate => secrets::update_secret;
    GET "/configs" ConfigList => secrets::list_configs;
    POST "/configs/create" ConfigCreate => secrets::create_config;
    GET "/configs/{id}" ConfigInspect => secrets::inspect_config;
    DELETE "/configs/{id}" ConfigDelete => secrets::remove_config;
    POST "/configs/{id}/update" ConfigUpdate => secrets::update_config;

    GET "/plugins" PluginList => plugins::list;
    GET "/plugins/privileges" GetPluginPrivileges;
    POST "/plugins/pull" PluginPull;
    POST "/plugins/create" PluginCreate;
    GET "/plugins/{name...}/json" PluginInspect => plugins::inspect;
    POST "/plugins/{name...}/enable" PluginEnable;
    POST "/plugins/{name...}/disable" PluginDisable;
    POST "/plugins/{name...}/upgrade" PluginUpgrade;
    POST "/plugins/{name...}/push" PluginPush;
    POST "/plugins/{name...}/set" PluginSet;
    DELETE "/plugins/{name...}" PluginDelete;

    POST "/session" Session => builds::buildkit;
    POST "/grpc" Grpc => builds::buildkit;
    POST "/build/cancel" BuildCancel;
};

/// What a request's method and path mean.
pub(crate) struct Found {
    /// The operation.
    pub operation: &'static Operation,
    /// Captured parts of the path, percent-decoded.
    pub captures: Vec<String>,
}

/// Finds the operation of a path without version prefix.
pub(crate) fn find(method: &Method, path: &str) -> Option<Found> {
    let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
    OPERATIONS
        .iter()
        .filter(|operation| operation.method == method.as_str())
        .find_map(|operation| {
            captures(operation.path, &segments).map(|captures| Found { operation, captures })
        })
}

fn captures(pattern: &str, segments: &[&str]) -> Option<Vec<String>> {
    let pattern: Vec<&str> = pattern.split('/').skip(1).collect();
    let wide = pattern.iter().position(|part| part.ends_with("...}"));
    let width = match wide {
        None if pattern.len() == segments.len() => 1,
        Some(_) if pattern.len() <= segments.len() => segments.len() - pattern.len() + 1,
        _ => return None,
    };
    let mut rest = segments;
    let mut found = Vec::new();
    for (position, part) in pattern.iter().enumerate() {
        let taken = if wide == Some(position) { width } else { 1 };
        let (here, after) = rest.split_at(taken);
        rest = after;
        let text = here.join("/");
        if part.starts_with('{') {
            if text.is_empty() {
                return None;
            }
            found.push(crate::http::decode(&text));
        } else if *part != text {
            return None;
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn name_of(method: Method, path: &str) -> Option<(&'static str, Vec<String>)> {
        find(&method, path).map(|found| (found.operation.name, found.captures))
    }

    #[test]
    fn paths_find_their_operation() {
        let one = |text: &str| vec![text.to_owned()];
        assert_eq!(
            name_of(Method::GET, "/images/docker.io/library/x:1/json"),
            Some(("ImageInspect", one("docker.io/library/x:1")))
        );
        assert_eq!(name_of(Method::GET, "/images/json"), Some(("ImageList", vec![])));
        assert_eq!(
            name_of(Method::DELETE, "/images/a%2Fb"),
            Some(("ImageDelete", one("a/b")))
        );
        assert_eq!(
            name_of(Method::GET, "/containers/abc/json"),
            Some(("ContainerInspect", one("abc")))
        );
        assert_eq!(
            name_of(Method::POST, "/services/create"),
            Some(("ServiceCreate", vec![]))
        );
        for nothing in [
            "/containers//json",
            "/nope",
            "/",
            "",
            "/containers/a/b/json",
            "/images//json",
        ] {
            assert_eq!(name_of(Method::GET, nothing), None, "{nothing}");
        }
        assert_eq!(name_of(Method::PATCH, "/info"), None);
    }

    #[test]
    fn the_table_has_every_documented_operation_once() {
        let names: BTreeSet<&str> = OPERATIONS.iter().map(|operation| operation.name).collect();
        assert_eq!(names.len(), OPERATIONS.len());
        let undocumented = [
            "Grpc",
            "BuildCancel",
            "ContainerDeleteLink",
            "CheckpointList",
            "CheckpointCreate",
            "CheckpointDelete",
            "NetworkPolicyInspect",
            "NetworkPolicySet",
            "ServiceTrace",
        ];
        assert_eq!(names.len() - undocumented.len(), 108);
    }
}
