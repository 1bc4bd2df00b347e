//! A registry in memory: it has `there:1`, breaks off at `broken:1`, and cannot be reached for `away:1`.

use super::engine::FakeEngine;
use async_trait::async_trait;
use futures::{StreamExt, stream};
use muster_engine_api::backend::*;
use muster_types::image::RegistryAuth;

#[async_trait]
impl RegistryClient for FakeEngine {
    async fn image_pull(&self, request: PullRequest) -> Result<ProgressStream> {
        let id = "0123456789ab".to_owned();
        let of = |status: &str, bytes| {
            Ok(ImageProgress::Of {
                id: id.clone(),
                status: status.to_owned(),
                bytes,
            })
        };
        let mut lines = vec![of("Pulling fs layer", None), of("Downloading", Some((5, 10)))];
        let name = request.reference.trim_start_matches("docker.io/library/");
        match name {
            "there:1" => {
                lines.push(of("Pull complete", None));
                lines.push(Ok(ImageProgress::Status("Status: done".to_owned())));
            }
            "broken:1" => lines.push(Err(BackendError::internal("it broke off"))),
            "away:1" => return Err(BackendError::unavailable("cannot reach the registry: away")),
            other => {
                return Err(BackendError::not_found(format!(
                    "pull access denied for {other}, repository does not exist or may require 'docker login': denied"
                )));
            }
        }
        Ok(stream::iter(lines).boxed())
    }

    async fn registry_login(&self, server: &str, _: RegistryAuth) -> Result<Option<String>> {
        match server {
            "good.example" => Ok(Some("identity".to_owned())),
            other => Err(BackendError::unauthorized(format!(
                "login attempt to {other} failed: unauthorized"
            ))),
        }
    }

    async fn registry_inspect(&self, reference: &str, _: RegistryAuth) -> Result<RemoteImage> {
        match reference {
            "there:1" => Ok(RemoteImage {
                media_type: "application/vnd.oci.image.manifest.v1+json".to_owned(),
                digest: format!("sha256:{}", "ab".repeat(32)),
                size: 7,
                platforms: vec![RemotePlatform {
                    os: "linux".to_owned(),
                    architecture: "amd64".to_owned(),
                    variant: None,
                }],
            }),
            other => Err(BackendError::unauthorized(format!("{other}: unauthorized"))),
        }
    }
}
