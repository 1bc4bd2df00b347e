//! Parameters of `POST /build`, and the objects of the build cache.

use super::host;
use super::{Read, signed};
use crate::backend::{BuildCacheEntry, BuildRequest};
use crate::http::{Failure, Query};
use crate::wire::container as wire;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// How to build what only BuildKit builds; said wherever a client asks for it.
pub(crate) const NO_BUILDKIT: &str = "this engine has no BuildKit: build with its own builder, for example with \
     \"DOCKER_BUILDKIT=0 docker build\", or load an image that was built elsewhere with \"docker load\"";

/// Reads the parameters; what the builder does not do is refused rather than ignored.
pub(crate) fn read(query: &Query) -> Read<BuildRequest> {
    refuse_unsupported(query)?;
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let args: BTreeMap<String, Option<String>> = json_of(query, "buildargs")?;
    let labels: BTreeMap<String, Option<String>> = json_of(query, "labels")?;
    let dockerfile = match text("dockerfile") {
        path if path.is_empty() => "Dockerfile".to_owned(),
        path => path,
    };
    Ok(BuildRequest {
        tags: query
            .all("t")
            .filter(|tag| !tag.is_empty())
            .map(str::to_owned)
            .collect(),
        dockerfile,
        target: query.get("target").map(str::to_owned),
        // One without a value is one that the client's environment does not have.
        args: args
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
        labels: labels
            .into_iter()
            .map(|(name, value)| (name, value.unwrap_or_default()))
            .collect(),
        cache_from: json_of(query, "cachefrom")?,
        no_cache: query.flag("nocache"),
        pull: query.flag("pull"),
        remove: query.flag_or("rm", true),
        force_remove: query.flag("forcerm"),
        platform: text("platform").to_ascii_lowercase(),
        host: host::read(limits(query)?)?.config,
    })
}

fn refuse_unsupported(query: &Query) -> Read<()> {
    if query.get("version") == Some("2") || query.get("remote") == Some("client-session") {
        return Err(Failure::invalid(NO_BUILDKIT));
    }
    if let Some(remote) = query.get("remote") {
        return Err(Failure::invalid(format!(
            "building from an address is not supported ({remote}): fetch it, and send it as the build context"
        )));
    }
    if query.flag("squash") {
        return Err(Failure::invalid(
            "--squash is not supported: copy the result of a stage into a last stage with COPY --from instead",
        ));
    }
    if query
        .get("outputs")
        .is_some_and(|outputs| !matches!(outputs, "null" | "[]"))
    {
        return Err(Failure::invalid(format!(
            "outputs of a build cannot be chosen: {NO_BUILDKIT}"
        )));
    }
    match query.get("isolation") {
        None | Some("default") => Ok(()),
        Some(_) => Err(Failure::invalid("isolation is a setting of Windows")),
    }
}

/// The limits of the steps' containers, as a container's host configuration says them.
fn limits(query: &Query) -> Read<wire::HostConfig> {
    let number = |name: &str| Ok::<i64, Failure>(query.number(name)?.unwrap_or(0));
    let text = |name: &str| query.get(name).unwrap_or_default().to_owned();
    let ulimits: Vec<wire::Ulimit> = json_of(query, "ulimits")?;
    Ok(wire::HostConfig {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
        cgroup_parent: text("cgroupparent"),
        shm_size: number("shmsize")?,
        network_mode: text("networkmode"),
        extra_hosts: query
            .all("extrahosts")
            .filter(|entry| !entry.is_empty())
            .map(str::to_owned)
            .collect(),
        security_opt: query
            .all("securityopt")
            .filter(|entry| !entry.is_empty())
            .map(str::to_owned)
            .collect(),
        ulimits,
        ..wire::HostConfig::default()
    })
}

fn json_of<T: DeserializeOwned + Default>(query: &Query, name: &str) -> Read<T> {
    let Some(text) = query.get(name).filter(|text| *text != "null") else {
        return Ok(T::default());
    };
    serde_json::from_str(text)
        .map_err(|error| Failure::invalid(format!("invalid value of parameter {name:?}: {error}")))
}

/// An entry of `GET /system/df`.
pub(crate) fn cache_entry(entry: &BuildCacheEntry) -> Value {
    json!({
        "ID": entry.id,
        "Type": if entry.is_mount { "exec.cachemount" } else { "regular" },
        "Description": entry.description,
        "InUse": entry.is_used,
        "Shared": entry.is_shared,
        "Size": signed(entry.bytes),
        "CreatedAt": entry.created.to_string(),
        "LastUsedAt": entry.used.to_string(),
        "UsageCount": signed(entry.uses),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Read<BuildRequest> {
        read(&Query::parse(Some(text)))
    }

    #[test]
    fn parameters_are_read() {
        let text = "t=a&t=b:1&buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&labels=%7B%22l%22%3A%22v%22%7D&rm=0&\
                    memory=8388608&ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A1%2C%22Hard%22%3A2%7D%5D&\
                    networkmode=none&extrahosts=x:1.2.3.4&target=s&nocache=True";
        let request = request(text).unwrap();
        assert_eq!(request.tags, ["a", "b:1"]);
        assert_eq!(request.dockerfile, "Dockerfile");
        assert_eq!(request.args, [("A".to_owned(), "1".to_owned())].into());
        assert_eq!((request.remove, request.no_cache), (false, true));
        assert_eq!(request.host.resources.memory_bytes, 8 << 20);
        assert_eq!(request.host.ulimits[0].hard, 2);
        assert_eq!(request.host.extra_hosts, ["x:1.2.3.4"]);
        assert_eq!(request.host.network, muster_types::container::NetworkMode::None);
    }

    #[test]
    fn what_the_builder_does_not_do_is_refused() {
        for (text, said) in [
            ("version=2", "DOCKER_BUILDKIT=0"),
            ("remote=https://x/y.git", "building from an address"),
            ("squash=1", "COPY --from"),
            ("outputs=%5B%7B%7D%5D", "no BuildKit"),
            ("buildargs=x", "buildargs"),
            ("memory=x", "memory"),
        ] {
            let failure = request(text).unwrap_err();
            assert_eq!(failure.status, 400, "{text}");
            assert!(failure.message.contains(said), "{text}: {}", failure.message);
        }
    }
}
