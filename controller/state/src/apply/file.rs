//! Changes of secrets and configs.

use crate::{Change, ClusterState, ObjectKey, Rejection};
use muster_types::service::Labels;
use muster_types::{ClusterFile, FileId};

impl ClusterState {
    pub(super) fn apply_file(&mut self, change: &Change) -> Result<(), Rejection> {
        match change {
            Change::FileCreate(file) => self.create_file(file),
            Change::FileLabels { file, labels } => self.label_file(*file, labels),
            Change::FileRemove { file } => self.remove_file(*file),
            other => unreachable!("apply_change sends only changes of files here, not {other:?}"),
        }
    }

    fn create_file(&mut self, file: &ClusterFile) -> Result<(), Rejection> {
        let object = ObjectKey::File(file.id);
        if self.files.contains_key(&file.id) {
            return Err(Rejection::AlreadyExists { object });
        }
        if self.file_by_name(file.kind, &file.spec.name).is_some() {
            return Err(Rejection::FileNameConflict {
                kind: file.kind,
                name: file.spec.name.clone(),
            });
        }
        self.put_file(ClusterFile {
            meta: self.new_meta(),
            ..file.clone()
        });
        Ok(())
    }

    fn label_file(&mut self, id: FileId, labels: &Labels) -> Result<(), Rejection> {
        let mut row = self.file_row(id)?;
        row.spec.labels = labels.clone();
        row.meta.spec_version = self.index;
        row.meta.updated_at = self.time;
        self.put_file(row);
        Ok(())
    }

    fn remove_file(&mut self, id: FileId) -> Result<(), Rejection> {
        let row = self.file_row(id)?;
        let services = self.services_with_file(id);
        if !services.is_empty() {
            return Err(Rejection::FileInUse {
                kind: row.kind,
                name: row.spec.name,
                services,
            });
        }
        self.take_file(id);
        Ok(())
    }

    fn file_row(&self, id: FileId) -> Result<ClusterFile, Rejection> {
        let object = ObjectKey::File(id);
        let row = self.files.get(&id).map(|row| ClusterFile::clone(row));
        row.ok_or(Rejection::NotFound { object })
    }

    /// The names of the services whose specs name it. As in Swarm, what a rollback would return to does not count.
    fn services_with_file(&self, id: FileId) -> Vec<String> {
        let live = self.services.values().filter(|service| !service.removing);
        live.filter(|service| service.spec.template.files().any(|(_, file)| file.id == id))
            .map(|service| service.spec.name.clone())
            .collect()
    }
}
