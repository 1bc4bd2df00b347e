//! The process of a container, and those of exec.

use super::{ProcessUser, SecurityOptions, SpecInput, capabilities, limits};
use crate::error::{Error, Result};
use oci_spec::runtime::{Capabilities, LinuxCapabilities, Process, User};
use std::path::PathBuf;

/// Search path where neither image nor user gives one; Docker's.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The container's own process.
pub fn of(input: &SpecInput<'_>, options: &SecurityOptions) -> Result<Process> {
    let host = &input.config.host;
    if input.command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("No command specified"));
    }
    let given = capabilities::effective_set(
        &host.cap_add,
        &host.cap_drop,
        host.privileged,
        input.host.capabilities,
    )?;
    let mut process = Process::default();
    process.set_terminal(Some(input.config.tty));
    process.set_args(Some(input.command.to_vec()));
    process.set_env(Some(environment(
        input.env,
        input.host_name,
        input.config.tty,
        &input.user.home,
    )));
    process.set_cwd(PathBuf::from(input.working_dir));
    process.set_user(user(input.user));
    process.set_capabilities(Some(capability_sets(given, input.user.uid)));
    process.set_no_new_privileges(Some(options.no_new_privileges));
    process.set_oom_score_adj(i32::try_from(host.oom_score_adj).ok().filter(|score| *score != 0));
    process.set_rlimits(Some(limits::of(
        &host.ulimits,
        &input.host.limits,
        input.host.capabilities,
    )?));
    process.set_apparmor_profile(
        options.apparmor_in_effect(input.host.apparmor_profile.as_deref(), host.privileged),
    );
    process.set_selinux_label(input.labels.and_then(|labels| labels.process.clone()));
    Ok(process)
}

/// A process of exec: the container's own with another command, and where asked for another user or more rights.
pub fn exec_process(
    container: &Process,
    command: &[String],
    env: &[String],
    working_dir: &str,
    tty: bool,
    user_in_effect: Option<&ProcessUser>,
    all_capabilities: Option<Capabilities>,
) -> Result<Process> {
    if command.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("No exec command specified"));
    }
    let mut process = container.clone();
    process.set_terminal(Some(tty));
    process.set_console_size(None);
    process.set_args(Some(command.to_vec()));
    let mut merged = container.env().clone().unwrap_or_default();
    if tty && !merged.iter().any(|entry| entry.starts_with("TERM=")) {
        merged.push("TERM=xterm".to_owned());
    }
    merge_into(&mut merged, env);
    if !working_dir.is_empty() {
        process.set_cwd(PathBuf::from(working_dir));
    }
    let bounding = container
        .capabilities()
        .as_ref()
        .and_then(|sets| sets.bounding().clone());
    let given = all_capabilities.unwrap_or_else(|| bounding.unwrap_or_default());
    let uid = user_in_effect.map_or_else(|| container.user().uid(), |user| user.uid);
    process.set_capabilities(Some(capability_sets(given, uid)));
    if let Some(wanted) = user_in_effect {
        process.set_user(user(wanted));
        merge_into(&mut merged, &[format!("HOME={}", wanted.home)]);
    }
    process.set_env(Some(merged));
    Ok(process)
}

/// The image's environment with the container's entries over it; `KEY` alone removes.
pub fn merged_environment(image: &[String], container: &[String]) -> Vec<String> {
    let mut merged = image.to_vec();
    if !merged.iter().any(|entry| entry.starts_with("PATH=")) {
        merged.insert(0, format!("PATH={PATH_DEFAULT}"));
    }
    merge_into(&mut merged, container);
    merged
}

fn merge_into(env: &mut Vec<String>, over: &[String]) {
    for entry in over {
        let key = entry.split('=').next().unwrap_or_default();
        let position = env.iter().position(|known| known.split('=').next() == Some(key));
        match (position, entry.contains('=')) {
            (Some(position), true) => env[position].clone_from(entry),
            (Some(position), false) => {
                env.remove(position);
            }
            (None, true) => env.push(entry.clone()),
            (None, false) => {}
        }
    }
}

fn environment(env: &[String], host_name: &str, tty: bool, home: &str) -> Vec<String> {
    let mut complete = env.to_vec();
    let mut default = |key: &str, value: &str| {
        let named = |entry: &String| entry.split('=').next() == Some(key);
        if !value.is_empty() && !complete.iter().any(named) {
            complete.push(format!("{key}={value}"));
        }
    };
    default("HOSTNAME", host_name);
    if tty {
        default("TERM", "xterm");
    }
    default("HOME", home);
    complete
}

fn user(from: &ProcessUser) -> User {
    let mut user = User::default();
    user.set_uid(from.uid);
    user.set_gid(from.gid);
    user.set_additional_gids(Some(from.groups.clone()));
    user
}

/// Only root has capabilities in effect; the inheritable and ambient sets are always empty (CVE-2022-24769).
fn capability_sets(given: Capabilities, uid: u32) -> LinuxCapabilities {
    let in_effect = if uid == 0 {
        given.clone()
    } else {
        Capabilities::new()
    };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(given));
    sets.set_effective(Some(in_effect.clone()));
    sets.set_permitted(Some(in_effect));
    sets.set_inheritable(Some(Capabilities::new()));
    sets.set_ambient(Some(Capabilities::new()));
    sets
}
