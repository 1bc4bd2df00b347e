//! Services and task templates.

use super::{
    Read, container::time, duration, non_negative, overlay, port, service_container, signed, unsupported,
};
use crate::backend::ServiceView;
use crate::http::Failure;
use crate::wire::ObjectVersion;
use crate::wire::mount::Driver;
use crate::wire::service as wire;
use muster_types::service::{
    EndpointMode, FailureAction, LogDriver, NetworkAttachment, Placement, Platform, Protocol, PublishMode,
    PublishedPort, RestartCondition, RestartPolicy, SpreadOver, UpdateConfig, UpdateOrder, UpdateState,
    UpdateStatus,
};
use muster_types::{Resources, ServiceMode, ServiceSpec, TaskTemplate};

/// Reads a service's spec; what is not built yet is refused rather than ignored.
pub(crate) fn read_spec(wire: wire::ServiceSpec) -> Read<ServiceSpec> {
    let endpoint = wire.endpoint_spec.unwrap_or_default();
    let mode = read_mode(wire.mode)?;
    if mode.is_job() && wire.update_config.is_some() {
        return Err(refused("Jobs may not have an update config"));
    }
    let mut template = read_template(wire.task_template)?;
    if template.networks.is_empty() {
        template.networks = wire.networks.into_iter().map(read_network).collect();
    }
    Ok(ServiceSpec {
        name: wire.name,
        labels: wire.labels,
        template,
        mode,
        update: read_update(wire.update_config)?,
        rollback: read_update(wire.rollback_config)?,
        ports: endpoint.ports.into_iter().map(read_port).collect::<Read<_>>()?,
        endpoint_mode: match endpoint.mode.as_str() {
            "" | "vip" => EndpointMode::Vip,
            "dnsrr" => EndpointMode::DnsRoundRobin,
            other => return Err(Failure::invalid(format!("invalid EndpointSpec.Mode: {other:?}"))),
        },
    })
}

fn read_template(wire: wire::TaskSpec) -> Read<TaskTemplate> {
    if wire.plugin_spec.is_some()
        || wire.network_attachment_spec.is_some()
        || !matches!(wire.runtime.as_str(), "" | "container")
    {
        return Err(unsupported("a task runtime other than containers"));
    }
    let placement = wire.placement;
    Ok(TaskTemplate {
        container: service_container::read(wire.container_spec)?,
        reservations: read_amounts("Reservations", &wire.resources.reservations)?,
        limits: read_amounts("Limits", &wire.resources.limits)?,
        restart: read_restart(wire.restart_policy)?,
        placement: Placement {
            constraints: placement.constraints,
            preferences: placement
                .preferences
                .into_iter()
                .map(|preference| SpreadOver {
                    descriptor: preference.spread.spread_descriptor,
                })
                .collect(),
            replicas_per_node_max: placement.max_replicas,
            platforms: placement
                .platforms
                .into_iter()
                .map(|platform| Platform {
                    os: platform.os,
                    architecture: platform.architecture,
                })
                .collect(),
        },
        networks: wire.networks.into_iter().map(read_network).collect(),
        log_driver: wire
            .log_driver
            .filter(|driver| *driver != Driver::default())
            .map(|driver| LogDriver {
                name: driver.name,
                options: driver.options,
            }),
        force_update: wire.force_update,
    })
}

fn read_network(wire: wire::Network) -> NetworkAttachment {
    NetworkAttachment {
        target: wire.target,
        aliases: wire.aliases,
        driver_opts: wire.driver_opts,
    }
}

fn read_amounts(field: &str, wire: &wire::Amounts) -> Read<Resources> {
    if !wire.generic_resources.is_empty() {
        return Err(unsupported("Resources.Reservations.GenericResources"));
    }
    let amount = |name: &str, value| non_negative(&format!("Resources.{field}.{name}"), value);
    Ok(Resources {
        nano_cpus: amount("NanoCPUs", wire.nano_cpus)?,
        memory_bytes: amount("MemoryBytes", wire.memory_bytes)?,
        pids: amount("Pids", wire.pids)?,
    })
}

fn read_restart(wire: Option<wire::RestartPolicy>) -> Read<RestartPolicy> {
    let defaults = RestartPolicy::default();
    let Some(wire) = wire else {
        return Ok(defaults);
    };
    Ok(RestartPolicy {
        condition: match wire.condition.as_str() {
            "" | "any" => RestartCondition::Any,
            "on-failure" => RestartCondition::OnFailure,
            "none" => RestartCondition::None,
            other => return Err(Failure::invalid(format!("invalid RestartCondition: {other:?}"))),
        },
        delay: match wire.delay {
            Some(delay) => duration::read("RestartPolicy.Delay", delay)?,
            None => defaults.delay,
        },
        attempts_max: wire.max_attempts.unwrap_or(defaults.attempts_max),
        window: match wire.window {
            Some(window) => duration::read("RestartPolicy.Window", window)?,
            None => defaults.window,
        },
    })
}

/// Numbers that a job leaves open are one task, once.
fn read_mode(wire: wire::Mode) -> Read<ServiceMode> {
    let modes = [
        wire.replicated.is_some(),
        wire.global.is_some(),
        wire.replicated_job.is_some(),
        wire.global_job.is_some(),
    ];
    if modes.into_iter().filter(|is_given| *is_given).count() > 1 {
        return Err(Failure::invalid("must specify only one service mode"));
    }
    if wire.global.is_some() {
        return Ok(ServiceMode::Global);
    }
    if wire.global_job.is_some() {
        return Ok(ServiceMode::GlobalJob);
    }
    if let Some(job) = wire.replicated_job {
        let concurrent_max = job.max_concurrent.unwrap_or(1);
        let completions = job.total_completions.unwrap_or(concurrent_max);
        // They are signed where Swarm computes with them.
        if i64::try_from(concurrent_max).is_err() {
            return Err(refused("Maximum concurrent jobs must not be negative"));
        }
        if i64::try_from(completions).is_err() {
            return Err(refused("Total completed jobs must not be negative"));
        }
        return Ok(ServiceMode::ReplicatedJob {
            concurrent_max,
            completions,
        });
    }
    Ok(ServiceMode::Replicated {
        replicas: wire.replicated.and_then(|mode| mode.replicas).unwrap_or(1),
    })
}

/// In the words in which dockerd passes on what Swarm says.
fn refused(why: &str) -> Failure {
    Failure::invalid(format!("rpc error: code = InvalidArgument desc = {why}"))
}

fn read_update(wire: Option<wire::UpdateConfig>) -> Read<UpdateConfig> {
    let defaults = UpdateConfig::default();
    let Some(wire) = wire else {
        return Ok(defaults);
    };
    Ok(UpdateConfig {
        parallelism: wire.parallelism,
        delay: duration::read("UpdateConfig.Delay", wire.delay)?,
        monitor: match wire.monitor {
            0 => defaults.monitor,
            monitor => duration::read("UpdateConfig.Monitor", monitor)?,
        },
        failure_action: match wire.failure_action.as_str() {
            "" | "pause" => FailureAction::Pause,
            "continue" => FailureAction::Continue,
            "rollback" => FailureAction::Rollback,
            other => {
                return Err(Failure::invalid(format!(
                    "unrecognized update failure action {other}"
                )));
            }
        },
        failure_ratio_max: wire.max_failure_ratio,
        order: match wire.order.as_str() {
            "" | "stop-first" => UpdateOrder::StopFirst,
            "start-first" => UpdateOrder::StartFirst,
            other => return Err(Failure::invalid(format!("unrecognized update order {other}"))),
        },
    })
}

fn read_port(wire: wire::PortConfig) -> Read<PublishedPort> {
    Ok(PublishedPort {
        name: wire.name,
        protocol: port::read_protocol(&wire.protocol)?,
        target_port: wire.target_port,
        published_port: wire.published_port,
        mode: match wire.publish_mode.as_str() {
            "" | "ingress" => PublishMode::Ingress,
            "host" => PublishMode::Host,
            other => return Err(Failure::invalid(format!("invalid PublishMode: {other:?}"))),
        },
    })
}

/// Writes a service.
pub(crate) fn write(view: &ServiceView) -> wire::Service {
    let service = &view.service;
    let spec = write_spec(&service.spec);
    let endpoint_spec = spec.endpoint_spec.clone().unwrap_or_default();
    wire::Service {
        id: service.id.to_string(),
        version: ObjectVersion {
            index: service.meta.spec_version,
        },
        created_at: time(service.meta.created_at),
        updated_at: time(service.meta.updated_at),
        endpoint: wire::Endpoint {
            ports: service.allocated_ports.iter().map(write_port).collect(),
            spec: endpoint_spec,
            virtual_ips: view.vips.iter().flat_map(overlay::virtual_ips).collect(),
        },
        spec,
        previous_spec: service.previous_spec.as_deref().map(write_spec),
        update_status: service.update.as_ref().map(write_status),
        service_status: view.counts.map(|counts| wire::ServiceStatus {
            running_tasks: counts.running,
            desired_tasks: counts.desired,
            completed_tasks: counts.completed,
        }),
        job_status: service.job.map(|job| wire::JobStatus {
            job_iteration: ObjectVersion { index: job.iteration },
            last_execution: time(job.started_at),
        }),
    }
}

fn write_status(status: &UpdateStatus) -> wire::UpdateStatus {
    wire::UpdateStatus {
        state: match status.state {
            UpdateState::Updating => "updating",
            UpdateState::Paused => "paused",
            UpdateState::Completed => "completed",
            UpdateState::RollbackStarted => "rollback_started",
            UpdateState::RollbackPaused => "rollback_paused",
            UpdateState::RollbackCompleted => "rollback_completed",
        },
        started_at: time(status.started_at),
        completed_at: status.completed_at.map(time),
        message: status.message.clone(),
    }
}

/// Writes a service's spec.
pub(crate) fn write_spec(spec: &ServiceSpec) -> wire::ServiceSpec {
    wire::ServiceSpec {
        name: spec.name.clone(),
        labels: spec.labels.clone(),
        task_template: write_template(&spec.template),
        mode: match spec.mode {
            ServiceMode::Replicated { replicas } => wire::Mode {
                replicated: Some(wire::Replicated {
                    replicas: Some(replicas),
                }),
                ..wire::Mode::default()
            },
            ServiceMode::Global => wire::Mode {
                global: Some(wire::Empty {}),
                ..wire::Mode::default()
            },
            ServiceMode::ReplicatedJob {
                concurrent_max,
                completions,
            } => wire::Mode {
                replicated_job: Some(wire::ReplicatedJob {
                    max_concurrent: Some(concurrent_max),
                    total_completions: Some(completions),
                }),
                ..wire::Mode::default()
            },
            ServiceMode::GlobalJob => wire::Mode {
                global_job: Some(wire::Empty {}),
                ..wire::Mode::default()
            },
        },
        // What clients read they send back, and a job may have none.
        update_config: (!spec.mode.is_job()).then(|| write_update(&spec.update)),
        rollback_config: (!spec.mode.is_job()).then(|| write_update(&spec.rollback)),
        networks: Vec::new(),
        endpoint_spec: Some(wire::EndpointSpec {
            mode: match spec.endpoint_mode {
                EndpointMode::Vip => "vip",
                EndpointMode::DnsRoundRobin => "dnsrr",
            }
            .to_owned(),
            ports: spec.ports.iter().map(write_port).collect(),
        }),
    }
}

/// Writes a task template.
pub(crate) fn write_template(template: &TaskTemplate) -> wire::TaskSpec {
    let restart = &template.restart;
    wire::TaskSpec {
        container_spec: service_container::write(&template.container),
        resources: wire::Resources {
            limits: write_amounts(&template.limits),
            reservations: write_amounts(&template.reservations),
        },
        restart_policy: Some(wire::RestartPolicy {
            condition: match restart.condition {
                RestartCondition::None => "none",
                RestartCondition::OnFailure => "on-failure",
                RestartCondition::Any => "any",
            }
            .to_owned(),
            delay: Some(duration::write(restart.delay)),
            max_attempts: Some(restart.attempts_max),
            window: Some(duration::write(restart.window)).filter(|window| *window != 0),
        }),
        placement: write_placement(&template.placement),
        networks: template
            .networks
            .iter()
            .map(|network| wire::Network {
                target: network.target.clone(),
                aliases: network.aliases.clone(),
                driver_opts: network.driver_opts.clone(),
            })
            .collect(),
        log_driver: template.log_driver.as_ref().map(|driver| Driver {
            name: driver.name.clone(),
            options: driver.options.clone(),
        }),
        force_update: template.force_update,
        runtime: "container".to_owned(),
        ..wire::TaskSpec::default()
    }
}

fn write_amounts(amounts: &Resources) -> wire::Amounts {
    wire::Amounts {
        nano_cpus: signed(amounts.nano_cpus),
        memory_bytes: signed(amounts.memory_bytes),
        pids: signed(amounts.pids),
        generic_resources: Vec::new(),
    }
}

fn write_placement(placement: &Placement) -> wire::Placement {
    wire::Placement {
        constraints: placement.constraints.clone(),
        preferences: placement
            .preferences
            .iter()
            .map(|preference| wire::Preference {
                spread: wire::Spread {
                    spread_descriptor: preference.descriptor.clone(),
                },
            })
            .collect(),
        max_replicas: placement.replicas_per_node_max,
        platforms: placement
            .platforms
            .iter()
            .map(|platform| wire::Platform {
                architecture: platform.architecture.clone(),
                os: platform.os.clone(),
            })
            .collect(),
    }
}

fn write_update(config: &UpdateConfig) -> wire::UpdateConfig {
    wire::UpdateConfig {
        parallelism: config.parallelism,
        delay: duration::write(config.delay),
        failure_action: match config.failure_action {
            FailureAction::Pause => "pause",
            FailureAction::Continue => "continue",
            FailureAction::Rollback => "rollback",
        }
        .to_owned(),
        monitor: duration::write(config.monitor),
        max_failure_ratio: config.failure_ratio_max,
        order: match config.order {
            UpdateOrder::StopFirst => "stop-first",
            UpdateOrder::StartFirst => "start-first",
        }
        .to_owned(),
    }
}

fn write_port(port: &PublishedPort) -> wire::PortConfig {
    wire::PortConfig {
        name: port.name.clone(),
        protocol: match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
        .to_owned(),
        target_port: port.target_port,
        published_port: port.published_port,
        publish_mode: match port.mode {
            PublishMode::Ingress => "ingress",
            PublishMode::Host => "host",
        }
        .to_owned(),
    }
}
