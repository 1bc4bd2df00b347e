//! What the engine says of a container.

use super::Container;
use crate::files;
use crate::layout::Layout;
use crate::network::{Places, WAY_OUT};
use crate::record::Record;
use muster_types::container::ContainerInfo;

impl Container {
    /// Everything about it but the size of its writable layer.
    pub fn info(&self, layout: &Layout, at_rest: impl Fn(&Record) -> Places) -> ContainerInfo {
        self.with(|cell| {
            let record = &cell.record;
            let run = cell.run.as_ref();
            let in_files = |name: &str| layout.file(&record.id, name).to_string_lossy().into_owned();
            ContainerInfo {
                id: record.id.clone(),
                name: record.name.clone(),
                config: record.config.clone(),
                image_id: record.image_id.clone(),
                command: record.command.clone(),
                env: record.env.clone(),
                working_dir: record.working_dir.clone(),
                user: record.user.clone(),
                created: record.created,
                state: record.state(),
                pid: run.map_or(0, |run| run.monitor.pid()),
                exit_code: record.exit_code,
                oom_killed: record.oom_killed,
                error: record.error.clone(),
                started_at: record.started_at,
                finished_at: record.finished_at,
                restart_count: record.restart_count,
                health: cell.health.clone(),
                networks: run.map_or_else(|| at_rest(record), |run| visible(record, &run.places)),
                ports: run.map(|run| run.ports.clone()).unwrap_or_default(),
                mounts: record.mounts.clone(),
                log_path: layout.log(&record.id).to_string_lossy().into_owned(),
                hostname_path: in_files(files::HOSTNAME),
                hosts_path: in_files(files::HOSTS),
                resolv_conf_path: in_files(files::RESOLV_CONF),
                size_rw: None,
                size_root: None,
                apparmor_profile: String::new(),
                selinux_labels: Default::default(),
                execs: Vec::new(),
                directories: None,
            }
        })
    }
}

/// The places that users know of.
fn visible(record: &Record, places: &Places) -> Places {
    let mut places = places.clone();
    if !record.wanted_networks().contains_key(WAY_OUT) {
        places.remove(WAY_OUT);
    }
    places
}
