//! Registries of several nodes in one process, each over a store of its own.

mod across;
mod uploads;

use crate::answer::{Registry, RequestBody};
use crate::cluster::{BlobStream, Cluster};
use crate::content::Repositories;
use crate::pushing::Sessions;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full};
use hyper::header::LINK;
use hyper::{HeaderMap, Method, Request, StatusCode};
use muster_images::repository::{Changes, Cursor};
use muster_images::{Digest, ImageStore};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

/// How a node behaves to the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Conduct {
    #[default]
    Honest,
    /// It answers nothing.
    Down,
    /// What it gives of blobs is false, of the right size.
    Lies,
    /// It has always more changes, and tells none.
    Endless,
}

/// All nodes, by name.
type Nodes = Arc<Mutex<BTreeMap<String, (ImageStore, Conduct)>>>;

/// The others, as one node sees them.
struct Others {
    own: String,
    nodes: Nodes,
    /// How often nodes were asked for changes.
    asked: Arc<AtomicUsize>,
}

impl Others {
    fn node(&self, name: &str) -> io::Result<(ImageStore, Conduct)> {
        let nodes = self.nodes.lock().unwrap();
        let found = nodes.get(name).filter(|(_, conduct)| *conduct != Conduct::Down);
        found.cloned().ok_or(io::ErrorKind::ConnectionRefused.into())
    }
}

#[async_trait]
impl Cluster for Others {
    fn others(&self) -> Vec<String> {
        let nodes = self.nodes.lock().unwrap();
        nodes.keys().filter(|name| **name != self.own).cloned().collect()
    }

    async fn changes(&self, node: &str, seen: Cursor) -> io::Result<Changes> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let (images, conduct) = self.node(node)?;
        let changes = images.changes_since(seen, 1 << 20).map_err(io::Error::other)?;
        Ok(match conduct {
            Conduct::Endless => Changes {
                changes: Vec::new(),
                cursor: seen,
                more: true,
            },
            Conduct::Honest | Conduct::Down | Conduct::Lies => changes,
        })
    }

    async fn has_blob(&self, node: &str, digest: &Digest) -> io::Result<bool> {
        self.node(node)?.0.has_blob(digest).map_err(io::Error::other)
    }

    async fn blob(&self, node: &str, digest: &Digest) -> io::Result<Option<BlobStream>> {
        let (images, conduct) = self.node(node)?;
        let Ok(mut file) = images.open_blob(digest) else {
            return Ok(None);
        };
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        if conduct == Conduct::Lies {
            content.iter_mut().for_each(|byte| *byte = !*byte);
        }
        let pieces: Vec<_> = content.chunks(1000).map(Bytes::copy_from_slice).collect();
        Ok(Some(stream::iter(pieces).map(Ok).boxed()))
    }
}

/// A node with its registry.
struct Node {
    registry: Registry,
    images: ImageStore,
    name: String,
    nodes: Nodes,
    /// How often it asked others for changes.
    asked: Arc<AtomicUsize>,
    _place: TempDir,
}

/// Nodes `a`, `b` and so on, that know each other.
fn cluster<const COUNT: usize>() -> [Node; COUNT] {
    let nodes = Nodes::default();
    let mut names = ('a'..='z').map(String::from);
    std::array::from_fn(|_| {
        let name = names.next().unwrap();
        let place = tempfile::tempdir().unwrap();
        let images = ImageStore::open(place.path()).unwrap();
        let asked = Arc::<AtomicUsize>::default();
        let others = Others {
            own: name.clone(),
            nodes: nodes.clone(),
            asked: asked.clone(),
        };
        let known = (images.clone(), Conduct::Honest);
        nodes.lock().unwrap().insert(name.clone(), known);
        Node {
            registry: Registry {
                repositories: Repositories::new(images.clone(), Arc::new(others), TaskTracker::new()),
                sessions: Sessions::new(),
                passwords: None,
                patience: crate::Patience::default(),
                traffic: std::sync::Arc::default(),
            },
            images,
            name,
            nodes: nodes.clone(),
            asked,
            _place: place,
        }
    })
}

/// What a registry answered.
#[derive(Debug)]
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    /// The body, if it came to its end.
    body: Option<Vec<u8>>,
    /// Where a list goes on.
    next: Option<String>,
}

fn next_of(headers: &HeaderMap) -> Option<String> {
    let link = headers.get(LINK)?.to_str().unwrap();
    let path = link.strip_prefix("</v2/").unwrap().split('>').next().unwrap();
    Some(path.to_owned())
}

impl Node {
    fn behaves(&self, conduct: Conduct) {
        self.nodes.lock().unwrap().get_mut(&self.name).unwrap().1 = conduct;
    }

    async fn ask(&self, method: Method, path: &str, body: &[u8]) -> Answered {
        let body = Full::new(Bytes::copy_from_slice(body)).map_err(|never| match never {});
        self.send(method, path, body.boxed()).await
    }

    async fn send(&self, method: Method, path: &str, body: RequestBody) -> Answered {
        let request = Request::builder().method(method).uri(format!("/v2/{path}"));
        let response = self.registry.answer(request.body(body).unwrap()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.ok();
        Answered {
            status: head.status,
            next: next_of(&head.headers),
            headers: head.headers,
            body: body.map(|body| body.to_bytes().to_vec()),
        }
    }

    /// Pushes a blob whole.
    async fn push_blob(&self, repository: &str, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let path = format!("{repository}/blobs/uploads/?digest={digest}");
        let pushed = self.ask(Method::POST, &path, content).await;
        assert_eq!(pushed.status, StatusCode::CREATED, "{pushed:?}");
        digest
    }

    /// Pushes a manifest by its digest.
    async fn push_manifest(&self, repository: &str, document: &str) -> Digest {
        let digest = Digest::of(document.as_bytes());
        let path = format!("{repository}/manifests/{digest}");
        let pushed = self.ask(Method::PUT, &path, document.as_bytes()).await;
        assert_eq!(pushed.status, StatusCode::CREATED, "{pushed:?}");
        digest
    }

    async fn head(&self, path: &str) -> StatusCode {
        self.ask(Method::HEAD, path, b"").await.status
    }

    async fn get(&self, path: &str) -> Answered {
        self.ask(Method::GET, path, b"").await
    }
}
