//! Manifests, tags and blobs away. Their content stays on nodes until nothing leads to it any more.

use crate::answer::Registry;
use crate::body::{Answer, empty};
use crate::content::blocking;
use crate::failure::{Code, Failure, Outcome};
use hyper::{Response, StatusCode};
use muster_images::repository::{ContentDigest, EntryKey};

fn accepted() -> Response<Answer> {
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::ACCEPTED;
    response
}

/// `DELETE` of a tag; the manifest stays.
pub(crate) async fn tag(registry: &Registry, name: &str, tag: String) -> Outcome {
    let repositories = &registry.repositories;
    if repositories.tagged(name, &tag).await?.is_none() {
        return Err(Failure::not_found(
            Code::ManifestUnknown,
            format!("repository {name} has no tag {tag}"),
        ));
    }
    repositories
        .enter(name, vec![(EntryKey::Tag(tag), None)], Vec::new())
        .await?;
    Ok(accepted())
}

/// `DELETE` of a manifest, and of the tags that lead to it.
pub(crate) async fn manifest(registry: &Registry, name: &str, digest: ContentDigest) -> Outcome {
    let repositories = &registry.repositories;
    repositories.catch_up().await;
    if repositories.manifest(name, &digest).await?.is_none() {
        return Err(Failure::not_found(
            Code::ManifestUnknown,
            format!("repository {name} has no manifest {digest}"),
        ));
    }
    let (images, repository) = (repositories.images.clone(), name.to_owned());
    let tags = blocking("list tags", move || {
        images.repository_tags(&repository, "", usize::MAX)
    });
    let tags = tags.await?.into_iter().filter(|(_, led_to)| *led_to == digest);
    let mut entries: Vec<_> = tags.map(|(tag, _)| (EntryKey::Tag(tag), None)).collect();
    entries.push((EntryKey::Manifest(digest), None));
    repositories.enter(name, entries, Vec::new()).await?;
    Ok(accepted())
}

/// `DELETE` of a blob.
pub(crate) async fn blob(registry: &Registry, name: &str, digest: ContentDigest) -> Outcome {
    let repositories = &registry.repositories;
    if repositories.blob(name, &digest).await?.is_none() {
        return Err(Failure::not_found(
            Code::BlobUnknown,
            format!("repository {name} has no blob {digest}"),
        ));
    }
    repositories
        .enter(name, vec![(EntryKey::Blob(digest), None)], Vec::new())
        .await?;
    Ok(accepted())
}
