//! Changes of service rows and template revisions.

use crate::state::TemplateRevision;
use crate::{Change, ClusterState, ObjectKey, PreviousSpec, Rejection, Revision, Touched};
use muster_types::service::{
    PublishMode, PublishedPort, ServiceMode, ServiceSpec, UpdateState, UpdateStatus,
};
use muster_types::{JobStatus, Service, ServiceId};
use std::sync::Arc;

impl ClusterState {
    pub(super) fn apply_service(&mut self, change: &Change, touched: &mut Touched) -> Result<(), Rejection> {
        let ObjectKey::Service(id) = change.object() else {
            return self.change_service(change, touched);
        };
        let before = self.services.get(&id).cloned();
        self.change_service(change, touched)?;
        let after = self.services.get(&id).cloned();
        self.touch_service(before.as_deref(), after.as_deref(), touched);
        if let (Some(before), Some(after)) = (before, self.services.get(&id))
            && concerns_every_slot(&before, after)
        {
            touched.whole_services.insert(id);
        }
        Ok(())
    }

    fn change_service(&mut self, change: &Change, touched: &mut Touched) -> Result<(), Rejection> {
        match change {
            Change::ServiceCreate { service, spec } => {
                touched.services.insert(*service);
                self.create_service(*service, spec)
            }
            Change::ServiceSpec {
                service,
                spec,
                previous,
                revision,
                update,
            } => {
                touched.services.insert(*service);
                self.update_service(*service, spec, (*previous, *revision), update)
            }
            Change::ServiceControl {
                service,
                update,
                allocated_ports,
                vips,
            } => {
                touched.services.insert(*service);
                let mut row = self.service_row(*service)?;
                if row.allocated_ports != *allocated_ports {
                    self.check_ports_free(*service, allocated_ports)?;
                }
                self.check_new_places(&row.vips, vips)?;
                self.note_given(vips);
                row.update = update.clone();
                row.allocated_ports = allocated_ports.clone();
                row.vips = vips.clone();
                row.meta.control_version = self.index;
                self.put_service(row);
                Ok(())
            }
            Change::ServiceRemoving { service } => {
                touched.services.insert(*service);
                let mut row = self.live_service_row(*service)?;
                row.removing = true;
                row.meta.spec_version = self.index;
                row.meta.updated_at = self.time;
                self.put_service(row);
                Ok(())
            }
            Change::ServiceRemove { service } => {
                touched.services.insert(*service);
                self.remove_service(*service)
            }
            Change::TemplateRemove { service, version } => self.remove_template(*service, *version),
            other => unreachable!("apply_change sends only changes of services here, not {other:?}"),
        }
    }

    fn service_row(&self, id: ServiceId) -> Result<Service, Rejection> {
        let object = ObjectKey::Service(id);
        self.services
            .get(&id)
            .map(|service| Service::clone(service))
            .ok_or(Rejection::NotFound { object })
    }

    fn live_service_row(&self, id: ServiceId) -> Result<Service, Rejection> {
        let row = self.service_row(id)?;
        let object = ObjectKey::Service(id);
        if row.removing {
            return Err(Rejection::Removing { object });
        }
        Ok(row)
    }

    /// The named invariant that no port is given out twice, for ports that every node publishes: whether the service
    /// may have these.
    pub fn check_ports_free(&self, id: ServiceId, ports: &[PublishedPort]) -> Result<(), Rejection> {
        for wanted in ports.iter().filter(|port| is_fixed_ingress(port)) {
            let holder = self.services.values().find(|other| {
                let taken = |port: &PublishedPort| {
                    is_fixed_ingress(port)
                        && (port.protocol, port.published_port) == (wanted.protocol, wanted.published_port)
                };
                other.id != id
                    && !other.removing
                    && (other.allocated_ports.iter().any(taken) || other.spec.ports.iter().any(taken))
            });
            if let Some(other) = holder {
                return Err(Rejection::PortInUse {
                    port: wanted.published_port,
                    service: other.id,
                    name: other.spec.name.clone(),
                });
            }
        }
        Ok(())
    }

    fn create_service(&mut self, id: ServiceId, spec: &Arc<ServiceSpec>) -> Result<(), Rejection> {
        self.check_name_free(&spec.name)?;
        self.check_ports_free(id, &spec.ports)?;
        self.check_networks(spec)?;
        let object = ObjectKey::Service(id);
        if self.services.contains_key(&id) {
            return Err(Rejection::AlreadyExists { object });
        }
        let job = spec.mode.is_job().then(|| JobStatus::first(self.time));
        self.put_template(id, spec, job);
        self.put_service(Service {
            id,
            meta: self.new_meta(),
            spec: spec.clone(),
            previous_spec: None,
            template_version: self.index,
            update: None,
            allocated_ports: Vec::new(),
            vips: Vec::new(),
            job,
            removing: false,
        });
        Ok(())
    }

    fn update_service(
        &mut self,
        id: ServiceId,
        spec: &Arc<ServiceSpec>,
        (previous, revision): (PreviousSpec, Revision),
        update: &Option<UpdateStatus>,
    ) -> Result<(), Rejection> {
        let mut row = self.live_service_row(id)?;
        if row.spec.name != spec.name {
            return Err(Rejection::Rename);
        }
        self.check_ports_free(id, &spec.ports)?;
        self.check_networks(spec)?;
        row.previous_spec = match previous {
            PreviousSpec::Replaced => Some(row.spec.clone()),
            PreviousSpec::Nothing => None,
        };
        row.spec = spec.clone();
        row.update = update.clone();
        row.meta.spec_version = self.index;
        row.meta.updated_at = self.time;
        if revision == Revision::New {
            row.template_version = self.index;
            row.job = row.job.map(|job| job.next(self.time));
            self.put_template(id, spec, row.job);
        }
        self.put_service(row);
        Ok(())
    }

    fn put_template(&mut self, id: ServiceId, spec: &ServiceSpec, job: Option<JobStatus>) {
        let revision = TemplateRevision {
            template: Arc::new(spec.template.clone()),
            ports: spec.ports.clone(),
            iteration: job.map(|job| job.iteration),
        };
        self.templates.insert((id, self.index), Arc::new(revision));
    }

    fn remove_service(&mut self, id: ServiceId) -> Result<(), Rejection> {
        let object = ObjectKey::Service(id);
        self.service_row(id)?;
        if self.service_tasks(id).records() > 0 {
            return Err(Rejection::InUse { object });
        }
        let versions: Vec<u64> = self.templates_of(id).map(|(version, _)| version).collect();
        for version in versions {
            self.templates.remove(&(id, version));
        }
        self.take_service(id);
        Ok(())
    }

    fn remove_template(&mut self, id: ServiceId, version: u64) -> Result<(), Rejection> {
        let object = ObjectKey::Template(id, version);
        let current = self.service_row(id)?.template_version == version;
        if current
            || self
                .service_tasks(id)
                .revisions()
                .any(|(used, _)| used == version)
        {
            return Err(Rejection::InUse { object });
        }
        match self.templates.remove(&(id, version)) {
            Some(_) => Ok(()),
            None => Err(Rejection::NotFound { object }),
        }
    }
}

/// Whether a slot in which nothing changed may have to follow the change of its service's row. What is found by counts
/// (slots that are missing, surplus or stale) does not need this.
fn concerns_every_slot(before: &Service, after: &Service) -> bool {
    let settings = |service: &Service| {
        let (spec, template) = (&service.spec, &service.spec.template);
        let replicated = matches!(spec.mode, ServiceMode::Replicated { .. });
        let of_spec = (replicated, spec.update, spec.rollback, service.removing);
        (of_spec, template.restart, template.container.stop_grace)
    };
    settings(before) != settings(after)
        || before.spec.template.placement != after.spec.template.placement
        || before.job != after.job
        || breaks_off(before.update.as_ref(), after.update.as_ref())
}

/// Whether an update ends before its time, or the other settings of a rollback count from now on.
fn breaks_off(before: Option<&UpdateStatus>, after: Option<&UpdateStatus>) -> bool {
    use UpdateState::{Completed, RollbackCompleted, RollbackPaused, RollbackStarted, Updating};
    let rollback = |status: Option<&UpdateStatus>| {
        status.is_some_and(|status| {
            matches!(status.state, RollbackStarted | RollbackPaused | RollbackCompleted)
        })
    };
    let state = after.map(|status| status.state);
    let broken = match before.map(|status| status.state) {
        Some(Updating) => state != Some(Completed),
        Some(RollbackStarted) => state != Some(RollbackCompleted),
        Some(_) | None => false,
    };
    let goes_on = before.map(|status| (status.state, status.started_at))
        == after.map(|status| (status.state, status.started_at));
    (broken && !goes_on) || rollback(before) != rollback(after)
}

fn is_fixed_ingress(port: &PublishedPort) -> bool {
    port.mode == PublishMode::Ingress && port.published_port != 0
}
