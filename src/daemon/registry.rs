//! The client of registries behind the Engine API's trait: conversions, and an event for each image that came or went.

use super::engine::EngineBackend;
use async_trait::async_trait;
use futures::StreamExt;
use muster_engine_api::backend::{
    BackendError, ErrorKind, ImageProgress, ProgressStream, PullRequest, PushRequest, RegistryClient,
    RegistryFacts, RemoteImage, RemotePlatform, Result,
};
use muster_images::{ImagePlatform, Reference};
use muster_registry::{self as own, Credentials, Insecure, Progress};
use muster_types::image::RegistryAuth;

fn failed(error: own::Error) -> BackendError {
    let kind = match error.kind() {
        own::ErrorKind::NotFound => ErrorKind::NotFound,
        own::ErrorKind::Invalid => ErrorKind::Invalid,
        own::ErrorKind::Unauthorized => ErrorKind::Unauthorized,
        own::ErrorKind::Unreachable => ErrorKind::Unavailable,
        own::ErrorKind::Internal => ErrorKind::Internal,
    };
    BackendError {
        kind,
        message: error.full_message(),
    }
}

fn reference(text: &str) -> Result<Reference> {
    Reference::parse(text).map_err(|error| BackendError::invalid(error.to_string()))
}

fn credentials(auth: &RegistryAuth) -> Result<Option<Credentials>> {
    Credentials::from_header(&auth.0).map_err(|error| BackendError::invalid(error.to_string()))
}

/// `os[/architecture[/variant]]`, which the API has checked.
pub(crate) fn platform(text: &str) -> Option<ImagePlatform> {
    let mut parts = text.split('/').filter(|part| !part.is_empty());
    let first = parts.next()?;
    let (os, architecture) = match (first, parts.next()) {
        ("linux" | "windows", architecture) => (first, architecture),
        (architecture, _) => ("linux", Some(architecture)),
    };
    let native = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let architecture = match architecture.unwrap_or(native) {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Some(ImagePlatform {
        os: os.to_owned(),
        architecture: architecture.to_owned(),
        variant: parts.next().map(str::to_owned),
    })
}

fn line(progress: Progress) -> ImageProgress {
    match progress {
        Progress::Status(status) => ImageProgress::Status(status),
        Progress::Of { id, status, bytes } => ImageProgress::Of { id, status, bytes },
        Progress::Pushed { tag, digest, size } => ImageProgress::Pushed { tag, digest, size },
    }
}

/// How registries are reached, as it was set.
pub(super) fn facts(registries: &own::Registries) -> RegistryFacts {
    let settings = registries.settings();
    let mut facts = RegistryFacts {
        // They always are.
        insecure_networks: vec!["::1/128".to_owned(), "127.0.0.0/8".to_owned()],
        ..RegistryFacts::default()
    };
    for rule in &settings.insecure {
        match rule {
            Insecure::Host(host) => facts.insecure_hosts.push(host.clone()),
            Insecure::Network(address, bits) => facts.insecure_networks.push(format!("{address}/{bits}")),
        }
    }
    let hub = settings.mirrors.iter().filter(|mirror| mirror.of == "docker.io");
    facts.hub_mirrors = hub.map(|mirror| mirror.address.url("/")).collect();
    facts
}

impl EngineBackend {
    /// The lines of an operation; the event comes once it succeeded.
    fn told(&self, lines: own::ProgressStream, action: &'static str, name: String) -> ProgressStream {
        struct Told {
            lines: own::ProgressStream,
            failed: bool,
        }
        let engine = self.engine.clone();
        let told = Told { lines, failed: false };
        let lines = futures::stream::unfold(told, move |mut told| {
            let (engine, name) = (engine.clone(), name.clone());
            async move {
                match told.lines.next().await {
                    Some(Ok(progress)) => Some((Ok(line(progress)), told)),
                    Some(Err(error)) => {
                        told.failed = true;
                        Some((Err(failed(error)), told))
                    }
                    None => {
                        if !told.failed {
                            engine.note_image(action, &name);
                        }
                        None
                    }
                }
            }
        });
        lines.boxed()
    }
}

#[async_trait]
impl RegistryClient for EngineBackend {
    async fn image_pull(&self, request: PullRequest) -> Result<ProgressStream> {
        let mut reference = reference(&request.reference)?;
        if !request.all_tags {
            reference = reference.with_default_tag();
        }
        let name = reference.familiar();
        let request = own::PullRequest {
            reference,
            all_tags: request.all_tags,
            platform: platform(&request.platform),
            credentials: credentials(&request.auth)?,
        };
        let lines = self.registries.pull(self.engine.images(), request).await;
        Ok(self.told(lines.map_err(failed)?, "pull", name))
    }

    async fn image_push(&self, request: PushRequest) -> Result<ProgressStream> {
        let mut reference = reference(&request.reference)?;
        if reference.digest().is_some() {
            return Err(BackendError::invalid("cannot push a digest reference"));
        }
        if !request.all_tags {
            reference = reference.with_default_tag();
        }
        let name = reference.familiar();
        let request = own::PushRequest {
            reference,
            all_tags: request.all_tags,
            credentials: credentials(&request.auth)?,
        };
        let lines = self.registries.push(self.engine.images(), request).await;
        Ok(self.told(lines.map_err(failed)?, "push", name))
    }

    async fn registry_login(&self, server: &str, auth: RegistryAuth) -> Result<Option<String>> {
        let Some(credentials) = credentials(&auth)? else {
            return Err(BackendError::invalid("no name and password were given"));
        };
        let outcome = self.registries.log_in(server, credentials).await;
        outcome.map_err(|error| {
            let error = failed(error);
            BackendError {
                message: format!("login attempt to {server} failed: {}", error.message),
                ..error
            }
        })
    }

    async fn registry_inspect(&self, name: &str, auth: RegistryAuth) -> Result<RemoteImage> {
        let name = reference(name)?;
        let credentials = credentials(&auth)?;
        let logged_in = credentials.is_some();
        let found = match self.registries.inspect(&name, credentials).await {
            Ok(found) => found,
            // Whoever pins a service by this digest has every node run what is here now.
            Err(error) if has_no_registry(&error, logged_in) => {
                return self.image_here(name).await.ok_or_else(|| failed(error));
            }
            Err(error) => return Err(failed(error)),
        };
        let platforms = found.platforms.into_iter().map(|platform| RemotePlatform {
            os: platform.os,
            architecture: platform.architecture,
            variant: platform.variant,
        });
        Ok(RemoteImage {
            media_type: found.media_type,
            digest: found.digest.to_string(),
            size: found.size,
            platforms: platforms.collect(),
        })
    }
}

/// Whether no registry has the image, or none can be reached. One that refuses a login may well have it.
fn has_no_registry(error: &own::Error, logged_in: bool) -> bool {
    match error.kind() {
        own::ErrorKind::Unreachable => true,
        own::ErrorKind::NotFound => !(logged_in && matches!(error, own::Error::PullDenied { .. })),
        own::ErrorKind::Invalid | own::ErrorKind::Unauthorized | own::ErrorKind::Internal => false,
    }
}

impl EngineBackend {
    /// This node's image of that name, by the manifest that other nodes fetch it by.
    async fn image_here(&self, name: Reference) -> Option<RemoteImage> {
        let images = self.engine.images().clone();
        let read = move || {
            let name = name.with_default_tag().to_string();
            let image = images.resolve(&name).ok()?;
            let (digest, manifest) = images.manifest(&name).ok()?;
            Some(RemoteImage {
                media_type: own::manifest_type(&manifest),
                digest: digest.to_string(),
                size: manifest.len() as u64,
                platforms: vec![RemotePlatform {
                    os: image.os,
                    architecture: image.architecture,
                    variant: None,
                }],
            })
        };
        tokio::task::spawn_blocking(read).await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_login_is_not_answered_with_what_is_here() {
        let (reference, detail) = ("app:1".to_owned(), "denied".to_owned());
        let denied = own::Error::PullDenied {
            reference: reference.clone(),
            detail: detail.clone(),
        };
        assert!(has_no_registry(&denied, false));
        assert!(!has_no_registry(&denied, true));
        assert!(has_no_registry(
            &own::Error::NoManifest { reference, detail },
            true
        ));
        let broken = own::Error::Protocol {
            url: String::new(),
            problem: String::new(),
        };
        assert!(!has_no_registry(&broken, false));
    }

    #[test]
    fn platforms_are_read() {
        let read = |text: &str| {
            let platform = platform(text).unwrap();
            (platform.os, platform.architecture, platform.variant)
        };
        let expected = |architecture: &str, variant: Option<&str>| {
            (
                "linux".to_owned(),
                architecture.to_owned(),
                variant.map(str::to_owned),
            )
        };
        assert_eq!(read("linux/arm64"), expected("arm64", None));
        assert_eq!(read("linux/arm/v7"), expected("arm", Some("v7")));
        assert_eq!(read("aarch64"), expected("arm64", None));
        assert_eq!(read("linux").0, "linux");
        assert_eq!(platform(""), None);
    }
}
