//! Manifests and blobs out.

use crate::answer::{CONTENT_DIGEST, Call, Registry, set};
use crate::body::{counted, empty, full, of_content, of_reader};
use crate::content::out_of_reach;
use crate::failure::{Code, Failure, Outcome};
use crate::range::{self, Wanted};
use crate::route::ManifestName;
use hyper::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, RANGE};
use hyper::{Response, StatusCode};
use muster_images::repository::ContentDigest;
use std::io::{Read, Seek, SeekFrom};

/// `GET` and `HEAD` of a manifest. It is given as it was pushed, whatever the client accepts.
pub(crate) async fn manifest(
    registry: &Registry,
    name: &str,
    reference: &ManifestName,
    call: &Call,
) -> Outcome {
    let repositories = &registry.repositories;
    let unknown = || {
        Failure::not_found(
            Code::ManifestUnknown,
            format!("repository {name} has no manifest {reference}"),
        )
    };
    let digest = match reference {
        ManifestName::Digest(digest) => digest.clone(),
        ManifestName::Tag(tag) => repositories.tagged(name, tag).await?.ok_or_else(unknown)?,
    };
    let entry = repositories.manifest(name, &digest).await?.ok_or_else(unknown)?;
    let body = match call.head_only {
        true if !repositories.can_be_given(entry.content).await? => return Err(out_of_reach(&entry.content)),
        true => empty(),
        false => full(repositories.document(entry.content).await?),
    };
    let mut response = Response::new(counted(body, registry.traffic.clone()));
    set(&mut response, CONTENT_TYPE, &entry.media_type);
    set(&mut response, CONTENT_LENGTH, &entry.content.bytes.to_string());
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    Ok(response)
}

/// `GET` and `HEAD` of a blob, or a part of it.
pub(crate) async fn blob(registry: &Registry, name: &str, digest: &ContentDigest, call: &Call) -> Outcome {
    let repositories = &registry.repositories;
    let content = repositories.blob(name, digest).await?.ok_or_else(|| {
        Failure::not_found(
            Code::BlobUnknown,
            format!("repository {name} has no blob {digest}"),
        )
    })?;
    let wanted = match call.head_only {
        true => Wanted::Whole,
        false => range::wanted(call.header(RANGE), content.bytes),
    };
    let (status, body, bytes) = match &wanted {
        Wanted::Nothing => {
            return Err(Failure::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                Code::SizeInvalid,
                format!("the blob has {} bytes", content.bytes),
            )
            .with_header(CONTENT_RANGE, format!("bytes */{}", content.bytes)));
        }
        Wanted::Whole if call.head_only && !repositories.can_be_given(content).await? => {
            return Err(out_of_reach(&content));
        }
        Wanted::Whole if call.head_only => (StatusCode::OK, empty(), content.bytes),
        Wanted::Whole => {
            let opened = repositories.open(content).await?;
            (StatusCode::OK, of_content(opened, content.bytes), content.bytes)
        }
        Wanted::Part(part) => {
            let mut file = repositories.open_whole(content).await?;
            file.seek(SeekFrom::Start(part.start))
                .map_err(|error| Failure::internal("read a blob", &error))?;
            let bytes = part.end - part.start;
            let part = of_reader(Box::new(file.take(bytes)), bytes);
            (StatusCode::PARTIAL_CONTENT, part, bytes)
        }
    };
    let mut response = Response::new(counted(body, registry.traffic.clone()));
    *response.status_mut() = status;
    set(&mut response, CONTENT_TYPE, "application/octet-stream");
    set(&mut response, CONTENT_LENGTH, &bytes.to_string());
    set(&mut response, ACCEPT_RANGES, "bytes");
    set(&mut response, CONTENT_DIGEST, &digest.to_string());
    if let Wanted::Part(part) = wanted {
        let shown = format!("bytes {}-{}/{}", part.start, part.end - 1, content.bytes);
        set(&mut response, CONTENT_RANGE, &shown);
    }
    Ok(response)
}
