//! Images of tasks: what is here, else what another node of the cluster has, else what the registry has.

use super::fetch::{Peers, fetch_image};
use super::tasks::EngineTasks;
use futures::StreamExt;
use muster_engine_api::backend::{BackendError, ErrorKind, PullRequest};
use muster_images::ImagePlatform;
use muster_proto::transport::Dialer;
use muster_types::service::ContainerSpec;

impl EngineTasks {
    /// Makes sure that the image is here: from a node that has it, else from its registry.
    pub(super) async fn ensure_image(&self, spec: &ContainerSpec, peers: &[String]) -> Result<(), String> {
        let reference = spec.image.as_str();
        match self.engine.image_inspect(reference).await {
            Ok(_) => return Ok(()),
            Err(error) if error.kind == ErrorKind::NotFound => {}
            Err(error) => return Err(error.message),
        }
        let from_peers = match self.cluster() {
            Some((_, dialer)) => self.fetch_image(&dialer, peers, reference, None).await,
            None => Err(anyhow::anyhow!("No such image: {reference}")),
        };
        match from_peers {
            Ok(()) => Ok(()),
            Err(error) => self
                .pull(spec)
                .await
                .map_err(|registry| format!("{error:#}; {registry}")),
        }
    }

    /// Pulls an image from its registry.
    async fn pull(&self, spec: &ContainerSpec) -> Result<(), String> {
        let request = PullRequest {
            reference: spec.image.clone(),
            auth: spec.registry_auth.clone(),
            ..PullRequest::default()
        };
        let pulled = async {
            let mut lines = self.engine.image_pull(request).await?;
            while let Some(line) = lines.next().await {
                line?;
            }
            Ok(())
        };
        pulled.await.map_err(|error: BackendError| error.message)
    }

    /// Fetches an image from one of these nodes, also when one of its name is here.
    pub async fn fetch_image(
        &self,
        dialer: &Dialer,
        peers: &[String],
        reference: &str,
        platform: Option<&ImagePlatform>,
    ) -> anyhow::Result<()> {
        let peers = Peers {
            dialer,
            addresses: peers,
        };
        fetch_image(&self.images, &self.registries, &peers, reference, platform).await
    }
}
