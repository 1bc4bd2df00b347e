//! Containers, apart from streams and waiting.

use super::container_filters::Choice;
use crate::backend::{BackendError, ContainerFilterHint, ErrorKind, RemoveOptions, StopOptions};
use crate::convert;
use crate::http::{Call, Failure, Object, Reply, json, json_created, json_gated, status_only};
use crate::wire::container::{CreateBody, Created, HostConfig, Updated};
use hyper::StatusCode;
use muster_types::container::{ContainerInfo, ContainerState};
use serde_json::json as value;
use std::time::Duration;

/// First version whose read-only binds are read-only below their mounts, too.
const READ_ONLY_IS_RECURSIVE: u32 = 44;

/// `GET /containers/json`.
pub(super) async fn list(call: Call) -> Reply {
    let mut choice = Choice::parse(&call.query)?;
    let limit: i64 = call.query.number("limit")?.unwrap_or(0);
    let all = call.query.flag("all") || limit > 0 || choice.names_states();
    let hint = ContainerFilterHint {
        running_only: !all && !choice.names_neighbours(),
        size: call.query.flag("size"),
    };
    let containers = call.engine().container_list(hint).await?;
    choice.find_neighbours(&containers)?;
    choice.find_ancestors(call.engine()).await;
    let chosen = containers
        .iter()
        .enumerate()
        .filter(|(_, container)| all || is_up(container))
        .filter(|(index, container)| choice.has(*index, container))
        .map(|(_, container)| &**container);
    let most = usize::try_from(limit).ok().filter(|limit| *limit > 0);
    let chosen = chosen.take(most.unwrap_or(usize::MAX));
    json(&convert::container::summaries(chosen, call.version))
}

fn is_up(container: &ContainerInfo) -> bool {
    matches!(
        container.state,
        ContainerState::Running | ContainerState::Paused | ContainerState::Restarting
    )
}

/// `POST /containers/create`.
pub(super) async fn create(mut call: Call) -> Reply {
    let body: CreateBody = call.body_of(Object::ContainerCreate).await?;
    let mut config = convert::container_create::read(body)?;
    if call.version.minor < READ_ONLY_IS_RECURSIVE {
        for mount in &mut config.host.mounts {
            mount.read_only_non_recursive = true;
        }
    }
    let name = call
        .query
        .get("name")
        .map(|name| name.trim_start_matches('/').to_owned());
    if let Some(name) = &name {
        check_name(name)?;
    }
    check_platform(&call, &config.image).await?;
    let created = call.engine().container_create(name.as_deref(), config).await?;
    json_created(&Created {
        id: created.id.to_string(),
        warnings: created.warnings,
    })
}

/// Refuses an image of another platform than the one asked for. One that is missing is told by the creation.
async fn check_platform(call: &Call, image: &str) -> Result<(), Failure> {
    // `platform` came with 1.41.
    let asked = call.query.get("platform").filter(|text| !text.is_empty());
    let Some(asked) = asked.filter(|_| call.version.minor >= 41) else {
        return Ok(());
    };
    let platform = convert::platform::Platform::read(asked)?;
    match call.engine().image_inspect(image).await {
        Ok(found) => platform.check(image, &found.os, &found.architecture),
        Err(_) => Ok(()),
    }
}

/// `POST /containers/{id}/update`.
pub(super) async fn update(mut call: Call) -> Reply {
    let body: HostConfig = call.body_of(Object::ContainerUpdate).await?;
    let update = convert::resources::read_update(&body)?;
    let warnings = call.engine().container_update(call.reference(), update).await?;
    json(&Updated { warnings })
}

fn check_name(name: &str) -> Result<(), Failure> {
    let mut bytes = name.bytes();
    let valid = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.len() >= 2
        && bytes.all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if valid {
        Ok(())
    } else {
        Err(Failure::invalid(format!(
            "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
        )))
    }
}

/// `GET /containers/{id}/json`.
pub(super) async fn inspect(call: Call) -> Reply {
    let size = call.query.flag("size");
    let info = call.engine().container_inspect(call.reference(), size).await?;
    json_gated(
        Object::Container,
        call.version,
        &convert::container::inspect(&info, call.version),
    )
}

fn no_content() -> Reply {
    Ok(status_only(StatusCode::NO_CONTENT))
}

/// `POST /containers/{id}/start`.
pub(super) async fn start(call: Call) -> Reply {
    call.engine().container_start(call.reference()).await?;
    no_content()
}

/// `POST /containers/{id}/stop`.
pub(super) async fn stop(call: Call) -> Reply {
    call.engine()
        .container_stop(call.reference(), stop_options(&call)?)
        .await?;
    no_content()
}

/// `POST /containers/{id}/restart`.
pub(super) async fn restart(call: Call) -> Reply {
    call.engine()
        .container_restart(call.reference(), stop_options(&call)?)
        .await?;
    no_content()
}

fn stop_options(call: &Call) -> Result<StopOptions, Failure> {
    let seconds: Option<i64> = call.query.number("t")?;
    // `signal` came with 1.42; older clients that send it are not understood, as in Docker.
    let signal = call.query.get("signal").filter(|_| call.version.minor >= 42);
    Ok(StopOptions {
        signal: signal.map(str::to_owned),
        grace: seconds.map(|seconds| u64::try_from(seconds).map_or(Duration::MAX, Duration::from_secs)),
    })
}

/// `POST /containers/{id}/kill`.
pub(super) async fn kill(call: Call) -> Reply {
    let signal = call.query.get("signal").unwrap_or("SIGKILL");
    call.engine().container_kill(call.reference(), signal).await?;
    no_content()
}

/// `POST /containers/{id}/pause`.
pub(super) async fn pause(call: Call) -> Reply {
    call.engine().container_pause(call.reference()).await?;
    no_content()
}

/// `POST /containers/{id}/unpause`.
pub(super) async fn unpause(call: Call) -> Reply {
    call.engine().container_unpause(call.reference()).await?;
    no_content()
}

/// `POST /containers/{id}/rename`.
pub(super) async fn rename(call: Call) -> Reply {
    let name = call.query.get("name").unwrap_or_default().trim_start_matches('/');
    if name.is_empty() {
        return Err(Failure::invalid("Neither old nor new names may be empty"));
    }
    check_name(name)?;
    call.engine().container_rename(call.reference(), name).await?;
    no_content()
}

/// `POST /containers/{id}/resize`.
pub(super) async fn resize(call: Call) -> Reply {
    let (rows, columns) = terminal_size(&call)?;
    call.engine()
        .container_resize(call.reference(), rows, columns)
        .await?;
    Ok(status_only(StatusCode::OK))
}

/// The size that `h` and `w` give.
pub(super) fn terminal_size(call: &Call) -> Result<(u16, u16), Failure> {
    let side = |name: &str| {
        call.query.number(name)?.ok_or_else(|| {
            Failure::invalid(format!(
                "parameter {name:?} is missing: a terminal has h rows and w columns"
            ))
        })
    };
    Ok((side("h")?, side("w")?))
}

/// `GET /containers/{id}/top`.
pub(super) async fn top(call: Call) -> Reply {
    let arguments = call.query.get("ps_args").unwrap_or("-ef");
    let table = call.engine().container_top(call.reference(), arguments).await?;
    json(&value!({"Titles": table.titles, "Processes": table.processes}))
}

/// `DELETE /containers/{id}`.
pub(super) async fn remove(call: Call) -> Reply {
    if call.query.flag("link") {
        return Err(Failure::invalid(
            "a link is named by its container and its alias: /containers/CONTAINER/ALIAS",
        ));
    }
    let options = RemoveOptions {
        force: call.query.flag("force"),
        volumes: call.query.flag("v"),
    };
    match call.engine().container_remove(call.reference(), options).await {
        Ok(()) => no_content(),
        Err(error) => Err(in_words_of(&call, error).await),
    }
}

/// `DELETE /containers/{id}/{alias}`: a link by which the container knows another one; only with `link`.
pub(super) async fn remove_link(call: Call) -> Reply {
    let name = call.captures.join("/");
    let missing = || Failure::new(StatusCode::NOT_FOUND, format!("No such container: {name}"));
    let [container, alias] = call.captures.as_slice() else {
        return Err(missing());
    };
    if !call.query.flag("link") {
        return Err(missing());
    }
    match call.engine().container_unlink(container, alias).await {
        Ok(()) => no_content(),
        Err(error) if error.kind == ErrorKind::NotFound => Err(missing()),
        Err(error) => Err(error.into()),
    }
}

/// First version whose daemon says "cannot remove container"; clients of older ones look for "You cannot remove".
const SAYS_CANNOT_REMOVE: u32 = 44;

/// Why a container was not removed, in the words of the client's version.
async fn in_words_of(call: &Call, error: BackendError) -> Failure {
    let older = call.version.minor < SAYS_CANNOT_REMOVE && error.kind == ErrorKind::Conflict;
    let info = match older {
        true => call
            .engine()
            .container_inspect(call.reference(), false)
            .await
            .ok(),
        false => None,
    };
    match info.filter(|info| is_up(info)) {
        Some(info) => Failure::new(
            StatusCode::CONFLICT,
            format!(
                "You cannot remove a {} container {}. Stop the container before attempting removal or force remove",
                info.state.name(),
                info.id
            ),
        ),
        None => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["web", "a1", "0.x-y_z"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "-a", "a/b", "a b", "ü1"] {
            assert_eq!(check_name(bad).unwrap_err().status, 400, "{bad}");
        }
    }
}
