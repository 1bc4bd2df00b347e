//! Lists: repositories, tags, referrers.

use crate::answer::{Call, Registry, json_response, set};
use crate::body::Answer;
use crate::content::blocking;
use crate::failure::{Code, Failure, Outcome};
use crate::manifest::{INDEX_TYPE, Manifest, Referrer};
use crate::route::Page;
use form_urlencoded::Serializer;
use hyper::header::{CONTENT_TYPE, HeaderName, LINK};
use hyper::{Response, StatusCode};
use muster_images::repository::ContentDigest;
use serde_json::json;

/// Most names in one answer.
const NAMES_MAX: usize = 10_000;
/// Most referrers in one answer: their manifests are read for it.
const REFERRERS_MAX: usize = 100;
/// Most bytes of their annotations: each manifest may have as many, and clients read no index with more.
const ANNOTATIONS_BYTES_MAX: usize = 4 << 20;
const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// Says where the list goes on.
fn link_next(response: &mut Response<Answer>, path: &str, parameters: &[(&str, &str)]) {
    let query = Serializer::new(String::new()).extend_pairs(parameters).finish();
    set(response, LINK, &format!("<{path}?{query}>; rel=\"next\""));
}

/// Cuts a list that was read with one entry more than is wanted; the last entry, if there are more.
fn cut<T: Clone>(entries: &mut Vec<T>, entries_max: usize) -> Option<T> {
    let more = entries.len() > entries_max;
    entries.truncate(entries_max);
    entries.last().filter(|_| more).cloned()
}

/// `GET /v2/_catalog`.
pub(crate) async fn catalog(registry: &Registry, call: &Call) -> Outcome {
    let page = Page::parse(&call.query, NAMES_MAX)?;
    let repositories = &registry.repositories;
    repositories.catch_up().await;
    let images = repositories.images.clone();
    let names = blocking("list repositories", move || images.repositories()).await?;
    let after = names.into_iter().filter(|name| *name > page.after);
    let mut names: Vec<String> = after.take(page.entries_max + 1).collect();
    let last = cut(&mut names, page.entries_max);
    let mut response = json_response(json!({ "repositories": names }).to_string());
    if let Some(last) = last {
        let count = page.entries_max.to_string();
        link_next(&mut response, "/v2/_catalog", &[("last", &last), ("n", &count)]);
    }
    Ok(response)
}

/// `GET` of the tags of a repository.
pub(crate) async fn tags(registry: &Registry, name: &str, call: &Call) -> Outcome {
    let page = Page::parse(&call.query, NAMES_MAX)?;
    let repositories = &registry.repositories;
    repositories.catch_up().await;
    let (images, repository, wanted) = (repositories.images.clone(), name.to_owned(), page.clone());
    let found = blocking("list tags", move || {
        if !images.has_repository(&repository)? {
            return Ok(None);
        }
        images
            .repository_tags(&repository, &wanted.after, wanted.entries_max + 1)
            .map(Some)
    });
    let tags = found
        .await?
        .ok_or_else(|| Failure::not_found(Code::NameUnknown, format!("there is no repository {name}")))?;
    let mut tags: Vec<String> = tags.into_iter().map(|(tag, _)| tag).collect();
    let last = cut(&mut tags, page.entries_max);
    let mut response = json_response(json!({ "name": name, "tags": tags }).to_string());
    if let Some(last) = last {
        let count = page.entries_max.to_string();
        let path = format!("/v2/{name}/tags/list");
        link_next(&mut response, &path, &[("last", &last), ("n", &count)]);
    }
    Ok(response)
}

/// A list that would not be whole is none. Nor is it "not found", which means that the registry has no such lists.
fn unlisted(failure: Failure) -> Failure {
    match failure.status {
        StatusCode::NOT_FOUND => {
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, Code::Unknown, failure.message)
        }
        _ => failure,
    }
}

/// `GET` of the manifests that refer to one, which need not exist.
pub(crate) async fn referrers(
    registry: &Registry,
    name: &str,
    digest: &ContentDigest,
    call: &Call,
) -> Outcome {
    let repositories = &registry.repositories;
    repositories.catch_up().await;
    let (images, repository, subject) = (repositories.images.clone(), name.to_owned(), digest.clone());
    let after: Option<ContentDigest> = call.query.get("last").and_then(|last| last.parse().ok());
    let found = blocking("list manifests", move || {
        images.repository_referrers(&repository, &subject, after.as_ref(), REFERRERS_MAX + 1)
    });
    let mut found = found.await?;
    let mut last = cut(&mut found, REFERRERS_MAX).map(|(last, _)| last);
    let kind = call.query.get("artifactType").filter(|kind| !kind.is_empty());
    let (mut manifests, mut bytes, mut before) = (Vec::new(), 0, None);
    for (own, entry) in found {
        let document = repositories.document(entry.content).await.map_err(unlisted)?;
        let manifest = Manifest::parse(&document, Some(&entry.media_type))?;
        if kind.is_none_or(|kind| manifest.artifact_type.as_deref() == Some(kind)) {
            let annotations = manifest.annotations.iter();
            bytes += annotations
                .map(|(key, value)| key.len() + value.len())
                .sum::<usize>();
            if bytes > ANNOTATIONS_BYTES_MAX && before.is_some() {
                last = before;
                break;
            }
            manifests.push(Referrer {
                media_type: entry.media_type,
                digest: own.clone(),
                size: entry.content.bytes,
                artifact_type: manifest.artifact_type,
                annotations: manifest.annotations,
            });
        }
        before = Some(own);
    }
    let last = last.map(|last| last.to_string());
    let list = json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests });
    let mut response = json_response(list.to_string());
    set(&mut response, CONTENT_TYPE, INDEX_TYPE);
    let path = format!("/v2/{name}/referrers/{digest}");
    if kind.is_some() {
        set(&mut response, FILTERS_APPLIED, "artifactType");
    }
    match (last, kind) {
        (Some(last), Some(kind)) => {
            link_next(&mut response, &path, &[("artifactType", kind), ("last", &last)]);
        }
        (Some(last), None) => link_next(&mut response, &path, &[("last", &last)]),
        (None, _) => {}
    }
    Ok(response)
}
