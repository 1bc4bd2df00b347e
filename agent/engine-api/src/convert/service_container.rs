//! `ContainerSpec` of a service.

use super::{Read, duration, file, health, host, mount, unsupported};
use crate::wire::service_container as wire;
use muster_types::service::{ContainerSpec, DnsSpec};

/// Reads it; what is not built yet is refused rather than ignored.
pub(crate) fn read(spec: wire::ContainerSpec) -> Read<ContainerSpec> {
    refuse_unsupported(&spec)?;
    let dns = spec.dns_config.unwrap_or_default();
    let text = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(ContainerSpec {
        image: spec.image,
        // It comes beside the spec.
        registry_auth: Default::default(),
        command: spec.command,
        args: spec.args,
        hostname: text(spec.hostname),
        env: spec.env,
        dir: text(spec.dir),
        user: text(spec.user),
        groups: spec.groups,
        labels: spec.labels,
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        stop_signal: text(spec.stop_signal),
        stop_grace: spec
            .stop_grace_period
            .map(|grace| duration::read("StopGracePeriod", grace))
            .transpose()?,
        init: spec.init,
        mounts: spec.mounts.into_iter().map(mount::read).collect::<Read<_>>()?,
        secrets: spec
            .secrets
            .into_iter()
            .map(file::read_secret)
            .collect::<Read<_>>()?,
        configs: spec
            .configs
            .into_iter()
            .map(file::read_config)
            .collect::<Read<_>>()?,
        hosts: spec.hosts,
        dns: DnsSpec {
            nameservers: dns.nameservers,
            search: dns.search,
            options: dns.options,
        },
        sysctls: spec.sysctls,
        cap_add: spec.capability_add,
        cap_drop: spec.capability_drop,
        ulimits: spec.ulimits.into_iter().map(host::read_ulimit).collect(),
        health: health::read(spec.healthcheck)?,
        oom_score_adj: spec.oom_score_adj,
        no_new_privileges: spec
            .privileges
            .is_some_and(|privileges| privileges.no_new_privileges),
    })
}

fn refuse_unsupported(spec: &wire::ContainerSpec) -> Read<()> {
    let privileges = spec.privileges.clone().unwrap_or_default();
    let asked = [
        ("Isolation", !matches!(spec.isolation.as_str(), "" | "default")),
        ("Privileges.CredentialSpec", privileges.credential_spec.is_some()),
        ("Privileges.SELinuxContext", privileges.selinux_context.is_some()),
        ("Privileges.Seccomp", privileges.seccomp.is_some()),
        ("Privileges.AppArmor", privileges.app_armor.is_some()),
    ];
    match asked.iter().find(|(_, asked)| *asked) {
        Some((field, _)) => Err(unsupported(&format!("ContainerSpec.{field}"))),
        None => Ok(()),
    }
}

/// Writes it.
pub(crate) fn write(spec: &ContainerSpec) -> wire::ContainerSpec {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let dns = &spec.dns;
    wire::ContainerSpec {
        image: spec.image.clone(),
        labels: spec.labels.clone(),
        command: spec.command.clone(),
        args: spec.args.clone(),
        hostname: text(&spec.hostname),
        env: spec.env.clone(),
        dir: text(&spec.dir),
        user: text(&spec.user),
        groups: spec.groups.clone(),
        privileges: spec.no_new_privileges.then(|| wire::Privileges {
            no_new_privileges: true,
            ..wire::Privileges::default()
        }),
        init: spec.init,
        stop_signal: text(&spec.stop_signal),
        tty: spec.tty,
        open_stdin: spec.open_stdin,
        read_only: spec.read_only,
        mounts: spec.mounts.iter().map(mount::write).collect(),
        stop_grace_period: spec.stop_grace.map(duration::write),
        healthcheck: spec.health.as_ref().map(health::write),
        hosts: spec.hosts.clone(),
        // Clients expect the object even when nothing is set.
        dns_config: Some(wire::DnsConfig {
            nameservers: dns.nameservers.clone(),
            search: dns.search.clone(),
            options: dns.options.clone(),
        }),
        secrets: spec.secrets.iter().map(file::write_secret).collect(),
        configs: spec.configs.iter().map(file::write_config).collect(),
        isolation: "default".to_owned(),
        sysctls: spec.sysctls.clone(),
        capability_add: spec.cap_add.clone(),
        capability_drop: spec.cap_drop.clone(),
        ulimits: spec.ulimits.iter().map(host::write_ulimit).collect(),
        oom_score_adj: spec.oom_score_adj,
    }
}
