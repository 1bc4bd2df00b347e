//! Images.

use crate::backend::ContainerFilterHint;
use crate::convert;
use crate::http::{Call, Failure, Filters, Object, Reply, json, json_gated, json_lines, status_only, upload};
use hyper::StatusCode;
use muster_types::Timestamp;
use muster_types::image::ImageSummary;
use serde_json::{Value, json as value};

const FILTERS: &[&str] = &[
    "before",
    "dangling",
    "label",
    "label!",
    "reference",
    "since",
    "until",
];
/// First version whose `Containers` counts instead of saying -1.
const COUNTS_CONTAINERS: u32 = 51;

/// `GET /images/json`.
pub(super) async fn list(call: Call) -> Reply {
    let filters = Filters::parse(&call.query, FILTERS)?;
    let dangling = filters.truth("dangling")?;
    let bound = |key: &'static str| created(&call, &filters, key);
    let (before, since) = (bound("before").await?, bound("since").await?);
    let until = filters.until()?;
    let images = call.engine().image_list().await?;
    let containers = if call.version.minor >= COUNTS_CONTAINERS {
        Some(
            call.engine()
                .container_list(ContainerFilterHint::default())
                .await?,
        )
    } else {
        None
    };
    let summaries: Vec<_> = images
        .iter()
        .filter(|image| dangling.is_none_or(|wanted| wanted == image.repo_tags.is_empty()))
        .filter(|image| filters.labels("label", &image.config.labels))
        .filter(|image| !(filters.has("label!") && filters.labels("label!", &image.config.labels)))
        .filter(|image| filters.any("reference", |pattern| matches_reference(image, pattern)))
        .filter(|image| before.is_none_or(|before| image.created < before))
        .filter(|image| since.is_none_or(|since| image.created > since))
        .filter(|image| until.is_none_or(|until| image.created < until))
        .map(|image| {
            let users = containers
                .as_deref()
                .map_or(-1, |all| convert::image::users(&image.id, all));
            let mut image = ImageSummary::clone(image);
            // Of its names those are listed that were asked for.
            image
                .repo_tags
                .retain(|name| filters.any("reference", |pattern| matches_name(name, pattern)));
            convert::image::summary(&image, users)
        })
        .collect();
    json_gated(Object::ImageSummary, call.version, &summaries)
}

async fn created(call: &Call, filters: &Filters, key: &str) -> Result<Option<Timestamp>, Failure> {
    match filters.values(key).next() {
        None => Ok(None),
        Some(reference) => Ok(Some(call.engine().image_inspect(reference).await?.created)),
    }
}

/// Matches `name`, `name:tag` and patterns with `*` against the familiar names.
fn matches_reference(image: &ImageSummary, pattern: &str) -> bool {
    let mut names = image.repo_tags.iter().chain(&image.repo_digests);
    names.any(|name| matches_name(name, pattern))
}

fn matches_name(name: &str, pattern: &str) -> bool {
    let repository = name.split_once('@').map_or_else(
        || name.rsplit_once(':').map_or(name, |(repository, _)| repository),
        |(repository, _)| repository,
    );
    glob(pattern.as_bytes(), name.as_bytes()) || glob(pattern.as_bytes(), repository.as_bytes())
}

/// Shell patterns with `*` and `?`, neither of which matches a slash. Runs in time pattern × text.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
            }
            Some(b'?') if text[t] != b'/' => (p, t) = (p + 1, t + 1),
            Some(byte) if *byte == text[t] => (p, t) = (p + 1, t + 1),
            _ => match retry {
                Some((after, taken)) if text[taken] != b'/' => {
                    retry = Some((after, taken + 1));
                    (p, t) = (after, taken + 1);
                }
                _ => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

/// `POST /images/create`. What the docker CLI asks for when it does not find an image here.
pub(super) async fn create(call: Call) -> Reply {
    let Some(image) = call.query.get("fromImage").filter(|image| !image.is_empty()) else {
        return super::commit::import(call).await;
    };
    super::pull::pull(&call, image).await
}

/// `GET /images/{name}/json`.
pub(super) async fn inspect(call: Call) -> Reply {
    let image = call.engine().image_inspect(call.reference()).await?;
    json_gated(Object::Image, call.version, &convert::image::inspect(&image))
}

/// `GET /images/{name}/history`.
pub(super) async fn history(call: Call) -> Reply {
    let layers = call.engine().image_history(call.reference()).await?;
    json(&layers.iter().map(convert::image::layer).collect::<Vec<_>>())
}

/// `POST /images/{name}/tag`.
pub(super) async fn tag(call: Call) -> Reply {
    let repository = call
        .query
        .get("repo")
        .ok_or_else(|| Failure::invalid("parameter \"repo\" is missing: it names the new tag"))?;
    if repository.contains('@') {
        return Err(Failure::invalid(
            "refusing to create a tag with a digest reference",
        ));
    }
    let target = format!("{repository}:{}", call.query.get("tag").unwrap_or("latest"));
    call.engine().image_tag(call.reference(), &target).await?;
    Ok(status_only(StatusCode::CREATED))
}

/// `DELETE /images/{name}`.
pub(super) async fn remove(call: Call) -> Reply {
    if call.query.has("platforms") {
        return Err(convert::unsupported("removing single platforms of an image"));
    }
    let force = call.query.flag("force");
    let removed = call.engine().image_remove(call.reference(), force).await?;
    json(&removed.iter().map(convert::image::removed).collect::<Vec<_>>())
}

/// `POST /images/load`. The archive is streamed into the store. As in Docker, what is wrong with it is told in the stream,
/// where clients look for it.
pub(super) async fn load(mut call: Call) -> Reply {
    let body = std::mem::take(call.request.body_mut());
    let engine = call.engine();
    let (archive, feeding) = upload(body);
    let (loaded, ()) = tokio::join!(engine.image_load(archive), feeding);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(error) => {
            let message = error.message;
            return Ok(json_lines(&[
                value!({"errorDetail": {"message": message}, "error": message}),
            ]));
        }
    };
    let lines: Vec<Value> = loaded
        .iter()
        .map(|image| {
            let text = match &image.reference {
                Some(reference) => format!("Loaded image: {reference}\n"),
                None => format!("Loaded image ID: {}\n", image.id),
            };
            value!({"stream": text})
        })
        .collect();
    Ok(json_lines(&lines))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_names() {
        for (pattern, text, expected) in [
            ("web", "web", true),
            ("w*", "web", true),
            ("w?b:1*", "web:12", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("w*b", "wxc", false),
            ("", "", true),
            ("a*a*a*b", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                expected,
                "{pattern} {text}"
            );
        }
        let image = ImageSummary {
            repo_tags: vec!["localhost:5000/web:1".into()],
            ..ImageSummary::default()
        };
        assert!(matches_reference(&image, "localhost:5000/web"));
        assert!(matches_reference(&image, "localhost:5000/web:1"));
        assert!(!matches_reference(&image, "web"));
    }
}
