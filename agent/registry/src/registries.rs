//! The client: which server answers for a registry, and the operations in one list.

use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, Role, domain_of, endpoints};
use crate::error::{Error, Result};
use crate::peers::{Peers, Traffic};
use crate::repository::{Fetched, Repository, pull_scope};
use crate::session::Session;
use crate::settings::RegistrySettings;
use muster_images::limits::DOCUMENT_BYTES_MAX;
use muster_images::{Digest, ImagePlatform, Reference, RemoteDocument, platform_of_config};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// A client of registries. Clones share one; blobs that several pulls want are downloaded once.
#[derive(Clone)]
pub struct Registries {
    pub(crate) settings: Arc<RegistrySettings>,
    downloads: Arc<Mutex<Downloads>>,
    peers: Option<Arc<dyn Peers>>,
    traffic: Arc<Traffic>,
}

/// Who downloads which blob.
type Downloads = HashMap<Digest, Weak<tokio::sync::Mutex<()>>>;

/// Endpoints that were not asked yet.
pub(crate) type Endpoints = std::vec::IntoIter<Endpoint>;

/// What a registry has under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteDescription {
    /// Media type of the manifest or index.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub size: u64,
    /// What it is for.
    pub platforms: Vec<ImagePlatform>,
}

/// The first thing that is asked of a repository.
pub(crate) enum Opening<'a> {
    /// A manifest, by tag or digest.
    Manifest(&'a Reference),
    /// All tags.
    Tags,
}

/// What was answered.
pub(crate) enum Opened {
    Manifest(Fetched),
    Tags(Vec<String>),
}

impl Registries {
    /// A client with these settings.
    pub fn new(settings: RegistrySettings) -> Self {
        Self {
            settings: Arc::new(settings),
            downloads: Arc::default(),
            peers: None,
            traffic: Arc::default(),
        }
    }

    /// Has these peers asked for blobs, too.
    pub fn with_peers(self, peers: Arc<dyn Peers>) -> Self {
        Self {
            peers: Some(peers),
            ..self
        }
    }

    /// What came, and from where.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    pub(crate) fn peers(&self) -> Option<&dyn Peers> {
        self.peers.as_deref()
    }

    /// How registries are reached.
    pub fn settings(&self) -> &RegistrySettings {
        &self.settings
    }

    /// What the registry has under this name; nothing is stored.
    pub async fn inspect(
        &self,
        reference: &Reference,
        credentials: Option<Credentials>,
    ) -> Result<RemoteDescription> {
        let reference = reference.clone().with_default_tag();
        let opening = Opening::Manifest(&reference);
        let mut rest = self.endpoints(&reference);
        loop {
            let (session, opened) = self.open(&mut rest, &reference, &credentials, &opening).await?;
            let Opened::Manifest(fetched) = opened else {
                unreachable!("a manifest was asked for")
            };
            match described(&session, &reference, fetched).await {
                Err(error) if session.is_passed_over(&error) => {}
                outcome => return outcome,
            }
        }
    }

    /// `docker login`: checks who asks at a registry (`host[:port]`, a URL of it, or nothing for Docker Hub), and
    /// returns the identity token that its token server gave in place of the password, if it did.
    pub async fn log_in(&self, server: &str, credentials: Credentials) -> Result<Option<String>> {
        let all = self.registry_endpoints(&domain_of(server));
        let mut tried = None;
        for (position, endpoint) in all.iter().enumerate() {
            let session = Session::new(endpoint.clone(), self.settings.clone(), Some(credentials.clone()));
            match session.log_in().await {
                Err(error) if goes_on(&error, endpoint, all.get(position + 1)) => tried = Some(error),
                outcome => return outcome,
            }
        }
        Err(tried.unwrap_or_else(|| no_endpoint(server)))
    }

    /// The endpoints of the registry itself.
    pub(crate) fn registry_endpoints(&self, domain: &str) -> Vec<Endpoint> {
        let mut all = endpoints(domain, &self.settings);
        all.retain(|endpoint| endpoint.role == Role::Registry);
        all
    }

    /// The endpoints that may have a reference, the first to be asked first.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Endpoints {
        endpoints(reference.domain(), &self.settings).into_iter()
    }

    /// Asks endpoints in turn, until one answers; leaves those after it.
    pub(crate) async fn open(
        &self,
        rest: &mut Endpoints,
        reference: &Reference,
        credentials: &Option<Credentials>,
        opening: &Opening<'_>,
    ) -> Result<(Session, Opened)> {
        let mut tried = None;
        while let Some(endpoint) = rest.next() {
            let session = Session::new(endpoint.clone(), self.settings.clone(), credentials.clone());
            match opened(&session, reference, opening).await {
                Ok(opened) => return Ok((session, opened)),
                Err(error) if goes_on(&error, &endpoint, rest.as_slice().first()) => {
                    tracing::debug!(endpoint = %endpoint.address, error = %error, "the next endpoint is asked");
                    tried = Some(error);
                }
                Err(error) => return Err(error.on_pull(reference)),
            }
        }
        Err(tried.unwrap_or_else(|| no_endpoint(reference.domain())))
    }

    /// Who holds this downloads the blob; others wait.
    pub(crate) fn download_turn(&self, digest: &Digest) -> Arc<tokio::sync::Mutex<()>> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        downloads.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = downloads.get(digest).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        downloads.insert(*digest, Arc::downgrade(&turn));
        turn
    }
}

fn no_endpoint(name: &str) -> Error {
    Error::protocol(name, "this is no host of a registry")
}

async fn opened(session: &Session, reference: &Reference, opening: &Opening<'_>) -> Result<Opened> {
    let scopes = [pull_scope(reference.path())];
    let repository = Repository {
        session,
        path: reference.path(),
        scopes: &scopes,
    };
    match opening {
        Opening::Tags => Ok(Opened::Tags(repository.tags().await?)),
        Opening::Manifest(reference) => {
            let wanted = match (reference.digest(), reference.tag()) {
                (Some(digest), _) => digest.to_string(),
                (None, tag) => tag.unwrap_or("latest").to_owned(),
            };
            let fetched = repository.manifest(&wanted, &reference.familiar()).await?;
            Ok(Opened::Manifest(fetched))
        }
    }
}

async fn described(session: &Session, reference: &Reference, fetched: Fetched) -> Result<RemoteDescription> {
    let scopes = [pull_scope(reference.path())];
    let repository = Repository {
        session,
        path: reference.path(),
        scopes: &scopes,
    };
    let platforms = match RemoteDocument::parse(&fetched.bytes, "manifest")? {
        RemoteDocument::Index(index) => index.platforms(),
        RemoteDocument::Image(image) => {
            let config = repository
                .small_blob(&image.config.digest, DOCUMENT_BYTES_MAX)
                .await?;
            vec![platform_of_config(&config)?]
        }
    };
    Ok(RemoteDescription {
        media_type: fetched.media_type,
        digest: fetched.digest,
        size: fetched.bytes.len() as u64,
        platforms,
    })
}

/// Whether another endpoint is asked after this error: whatever a mirror says the registry may know better; a server
/// without TLS is asked in plain HTTP, unless it did not answer in time at the same port.
pub(crate) fn goes_on(error: &Error, endpoint: &Endpoint, next: Option<&Endpoint>) -> bool {
    let Some(next) = next else { return false };
    match (endpoint.role, error) {
        (Role::Mirror, _) => true,
        (Role::Registry, Error::Unreachable { timed_out, .. }) => !(*timed_out && next.address.has_port()),
        (Role::Registry, _) => false,
    }
}
