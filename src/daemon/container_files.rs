//! Files of containers behind the Engine API's trait: nothing but conversions.

use super::engine::{EngineBackend, failed};
use async_trait::async_trait;
use futures::StreamExt;
use muster_engine as own;
use muster_engine_api::backend::{
    ArchiveStream, ChangeKind, CommitRequest, ContainerFiles, FileChange, ImportRequest, PathStat,
    PutOptions, Result, UploadStream,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};

fn stat(stat: own::PathStat) -> PathStat {
    PathStat {
        name: stat.name,
        size: stat.size,
        go_mode: stat.go_mode,
        modified: stat.modified,
        link_target: stat.link_target,
    }
}

fn stream(pieces: own::ArchiveStream) -> ArchiveStream {
    ReceiverStream::new(pieces).boxed()
}

#[async_trait]
impl ContainerFiles for EngineBackend {
    async fn archive_stat(&self, reference: &str, path: &str) -> Result<PathStat> {
        self.engine
            .archive_stat(reference, path)
            .await
            .map(stat)
            .map_err(failed)
    }

    async fn archive_get(&self, reference: &str, path: &str) -> Result<(PathStat, ArchiveStream)> {
        let (found, pieces) = self.engine.archive_get(reference, path).await.map_err(failed)?;
        Ok((stat(found), stream(pieces)))
    }

    async fn archive_put(
        &self,
        reference: &str,
        path: &str,
        options: PutOptions,
        archive: UploadStream,
    ) -> Result<()> {
        let options = own::PutOptions {
            keep_kinds: options.keep_kinds,
            own_by_user: options.own_by_user,
        };
        let reader = SyncIoBridge::new(StreamReader::new(archive));
        self.engine
            .archive_put(reference, path, options, reader)
            .await
            .map_err(failed)
    }

    async fn container_export(&self, reference: &str) -> Result<ArchiveStream> {
        self.engine.export(reference).await.map(stream).map_err(failed)
    }

    async fn container_changes(&self, reference: &str) -> Result<Vec<FileChange>> {
        let changes = self.engine.changes(reference).await.map_err(failed)?;
        let changes = changes.into_iter().map(|change| FileChange {
            path: String::from_utf8_lossy(&change.path).into_owned(),
            kind: match change.kind {
                own::ChangeKind::Modified => ChangeKind::Modified,
                own::ChangeKind::Added => ChangeKind::Added,
                own::ChangeKind::Deleted => ChangeKind::Deleted,
            },
        });
        Ok(changes.collect())
    }

    async fn container_commit(&self, reference: &str, request: CommitRequest) -> Result<String> {
        let options = own::CommitOptions {
            reference: request.reference,
            comment: request.comment,
            author: request.author,
            pause: request.pause,
            changes: request.changes,
            config: request.config,
        };
        self.engine.commit(reference, options).await.map_err(failed)
    }

    async fn image_import(&self, archive: UploadStream, request: ImportRequest) -> Result<String> {
        let options = own::ImportOptions {
            reference: request.reference,
            message: request.message,
            changes: request.changes,
            platform: request.platform,
        };
        let reader = SyncIoBridge::new(StreamReader::new(archive));
        self.engine.image_import(reader, options).await.map_err(failed)
    }

    async fn image_save(&self, names: Vec<String>) -> Result<ArchiveStream> {
        self.engine.image_save(names).await.map(stream).map_err(failed)
    }
}
