//! Errors of the registry client: what failed, why, and what to do about it.

use hyper::StatusCode;
use muster_images::{Digest, Reference};
use serde::Deserialize;

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Longest text of a registry that is passed on.
const TEXT_MAX: usize = 500;
/// Most errors of one answer that are passed on.
const ERRORS_MAX: usize = 3;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No connection, or it broke before an answer came.
    #[error("cannot reach the registry: {what} {url}: {why}")]
    Unreachable {
        /// The method.
        what: String,
        /// What was asked for.
        url: String,
        /// Why.
        why: String,
        /// Whether time ran out.
        timed_out: bool,
    },
    /// The registry answered with an error.
    #[error("{url}: {detail}")]
    Answer {
        /// What was asked for.
        url: String,
        /// Its status.
        status: StatusCode,
        /// The codes of the errors that it gave.
        codes: Vec<String>,
        /// What it said.
        detail: String,
    },
    /// Credentials are needed, or not enough.
    #[error("{url}: {detail}")]
    Unauthorized {
        /// What was asked for.
        url: String,
        /// Why.
        detail: String,
        /// Whether the registry's token server gave what was presented: then it is not about who asks, but about what
        /// for.
        granted: bool,
    },
    /// The registry answered something that the protocol does not allow.
    #[error("the registry's answer cannot be used: {url}: {problem}")]
    Protocol {
        /// What was asked for.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The repository may not be read, or does not exist; registries do not tell apart.
    #[error(
        "pull access denied for {reference}, repository does not exist or may require 'docker login': {detail}"
    )]
    PullDenied {
        /// The repository.
        reference: String,
        /// What the registry said.
        detail: String,
    },
    /// The repository exists, but not this tag or digest.
    #[error("manifest for {reference} not found: {detail}")]
    NoManifest {
        /// The reference.
        reference: String,
        /// What the registry said.
        detail: String,
    },
    /// No such repository.
    #[error("repository {repository} not found: {detail}")]
    NoRepository {
        /// Its name.
        repository: String,
        /// What the registry said.
        detail: String,
    },
    /// A format that Docker gave up, too.
    #[error(
        "{reference} is in Docker's image format v1 or manifest schema 1, which are no longer supported; ask its author to \
         push it in the OCI format or as Docker manifest v2, schema 2"
    )]
    Schema1 {
        /// The reference.
        reference: String,
    },
    /// No peer has the blob, or none gave it; no registry is asked.
    #[error("no node of the cluster gives blob {blob}")]
    NoPeer {
        /// The blob.
        blob: Digest,
    },
    /// The image store refused or failed.
    #[error(transparent)]
    Store(#[from] muster_images::Error),
    /// Nothing here has this name.
    #[error("An image does not exist locally with the tag: {name}")]
    NothingToPush {
        /// The name.
        name: String,
    },
    /// The credentials cannot be read.
    #[error(transparent)]
    Credentials(#[from] crate::credentials::CredentialsError),
    /// The daemon is going down.
    #[error("the operation was interrupted: the node is stopping")]
    Interrupted,
    /// A certificate or key cannot be used.
    #[error("cannot use {path}: {problem}")]
    Certificate {
        /// The file or directory.
        path: String,
        /// What is wrong.
        problem: String,
    },
}

/// Coarse class of an error, for status codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing named does not exist, as far as the registry says.
    NotFound,
    /// The request or what came is unacceptable.
    Invalid,
    /// Credentials are needed or wrong.
    Unauthorized,
    /// The registry cannot be reached.
    Unreachable,
    /// Anything else.
    Internal,
}

/// Errors in a registry's answer (distribution specification, "Error Codes").
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    errors: Vec<AnsweredError>,
}

#[derive(Deserialize)]
struct AnsweredError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PullDenied { .. }
            | Self::NoManifest { .. }
            | Self::NoRepository { .. }
            | Self::NothingToPush { .. } => ErrorKind::NotFound,
            Self::Unauthorized { .. } => ErrorKind::Unauthorized,
            Self::Unreachable { .. } | Self::NoPeer { .. } => ErrorKind::Unreachable,
            Self::Schema1 { .. } | Self::Credentials(_) => ErrorKind::Invalid,
            Self::Store(error) => match error.kind() {
                muster_images::ErrorKind::NotFound => ErrorKind::NotFound,
                muster_images::ErrorKind::Invalid => ErrorKind::Invalid,
                muster_images::ErrorKind::Conflict
                | muster_images::ErrorKind::NoSpace
                | muster_images::ErrorKind::Internal => ErrorKind::Internal,
            },
            Self::Answer { .. } | Self::Protocol { .. } | Self::Interrupted | Self::Certificate { .. } => {
                ErrorKind::Internal
            }
        }
    }

    /// The message with all its causes, for users.
    pub fn full_message(&self) -> String {
        match self {
            Self::Store(error) => error.full_message(),
            other => other.to_string(),
        }
    }

    /// What a registry's error answer means. Bodies of other servers are not repeated: they may be pages.
    pub(crate) fn answered(url: &str, status: StatusCode, body: &[u8]) -> Self {
        let answer: Answer = serde_json::from_slice(body).unwrap_or(Answer { errors: Vec::new() });
        let errors = &answer.errors[..answer.errors.len().min(ERRORS_MAX)];
        let text = |error: &AnsweredError| {
            let code = error.code.to_ascii_lowercase().replace('_', " ");
            clean(&format!("{code}: {}", error.message))
        };
        let detail = match errors {
            [] => format!("the registry answered {status}"),
            errors => errors.iter().map(text).collect::<Vec<_>>().join(", "),
        };
        let url = shown(url);
        match status {
            StatusCode::UNAUTHORIZED => Self::Unauthorized {
                url,
                detail,
                granted: false,
            },
            status => Self::Answer {
                url,
                status,
                codes: errors.iter().map(|error| clean(&error.code)).collect(),
                detail,
            },
        }
    }

    pub(crate) fn protocol(url: &str, problem: impl Into<String>) -> Self {
        Self::Protocol {
            url: shown(url),
            problem: problem.into(),
        }
    }

    /// The same in Docker's words for a reference that is pulled.
    pub(crate) fn on_pull(self, reference: &Reference) -> Self {
        let repository = reference.familiar_name();
        match self {
            Self::Answer {
                url,
                status,
                codes,
                detail,
            } => {
                let has = |code: &str| codes.iter().any(|found| found == code);
                if has("DENIED") || status == StatusCode::FORBIDDEN {
                    Self::PullDenied {
                        reference: repository,
                        detail,
                    }
                } else if has("NAME_UNKNOWN") {
                    Self::NoRepository { repository, detail }
                } else if has("MANIFEST_UNKNOWN") || status == StatusCode::NOT_FOUND {
                    Self::NoManifest {
                        reference: reference.familiar(),
                        detail,
                    }
                } else {
                    Self::Answer {
                        url,
                        status,
                        codes,
                        detail,
                    }
                }
            }
            // So Docker Hub answers for a repository that does not exist, too.
            Self::Unauthorized {
                detail,
                granted: true,
                ..
            } => Self::PullDenied {
                reference: repository,
                detail,
            },
            other => other,
        }
    }

    /// Whether another server would not help.
    pub(crate) fn is_of_this_node(&self) -> bool {
        match self {
            Self::Interrupted => true,
            Self::Store(error) => !matches!(
                error.kind(),
                muster_images::ErrorKind::NotFound | muster_images::ErrorKind::Invalid
            ),
            _ => false,
        }
    }

    /// Whether the same request may succeed a little later.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Answer { status, .. } => {
                status.is_server_error() && *status != StatusCode::NOT_IMPLEMENTED
                    || matches!(
                        *status,
                        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                    )
            }
            _ => false,
        }
    }
}

/// Text of others for a terminal: without control characters, and short.
pub(crate) fn clean(text: &str) -> String {
    let visible = text.chars().filter(|letter| !letter.is_control());
    visible.take(TEXT_MAX).collect()
}

/// A URL for messages and logs: without its query, which may be signed or name who asks.
pub(crate) fn shown(url: &str) -> String {
    clean(url.split('?').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &str) -> Error {
        Error::answered(
            "http://r/v2/",
            StatusCode::from_u16(status).unwrap(),
            body.as_bytes(),
        )
    }

    #[test]
    fn answers_become_dockers_words() {
        let reference = Reference::parse("reg.example/app:1").unwrap();
        let on_pull = |status, code: &str| {
            let body = format!(r#"{{"errors":[{{"code":"{code}","message":"said"}}]}}"#);
            let error = answered(status, &body).on_pull(&reference);
            (error.kind(), error.to_string())
        };
        assert_eq!(
            on_pull(404, "MANIFEST_UNKNOWN"),
            (
                ErrorKind::NotFound,
                "manifest for reg.example/app:1 not found: manifest unknown: said".to_owned()
            )
        );
        assert_eq!(
            on_pull(404, "NAME_UNKNOWN").1,
            "repository reg.example/app not found: name unknown: said"
        );
        let denied = on_pull(403, "DENIED");
        assert!(
            denied
                .1
                .starts_with("pull access denied for reg.example/app, repository does not exist")
        );
        assert_eq!(on_pull(401, "UNAUTHORIZED").0, ErrorKind::Unauthorized);
        let unauthorized = |granted| Error::Unauthorized {
            url: String::new(),
            detail: "unauthorized: said".to_owned(),
            granted,
        };
        let denied = unauthorized(true).on_pull(&reference);
        assert_eq!(
            (denied.kind(), denied.to_string()),
            (
                ErrorKind::NotFound,
                "pull access denied for reg.example/app, repository does not exist or may require 'docker login': \
                 unauthorized: said"
                    .to_owned()
            )
        );
        assert_eq!(
            unauthorized(false).on_pull(&reference).kind(),
            ErrorKind::Unauthorized
        );
        assert!(answered(503, "").is_passing() && !answered(404, "").is_passing());
    }

    #[test]
    fn queries_of_urls_are_not_shown() {
        let url = "https://store.example/blob?X-Amz-Signature=secret";
        for error in [
            Error::answered(url, StatusCode::FORBIDDEN, b""),
            Error::protocol(url, "odd"),
        ] {
            let message = error.to_string();
            assert!(
                message.contains("https://store.example/blob") && !message.contains("secret"),
                "{message}"
            );
        }
    }

    #[test]
    fn pages_and_control_characters_are_not_passed_on() {
        let page = answered(502, "<html>secret</html>").to_string();
        assert!(!page.contains("html"), "{page}");
        let colours = answered(
            400,
            "{\"errors\":[{\"code\":\"A\",\"message\":\"\\u001b[31mred\"}]}",
        )
        .to_string();
        assert!(!colours.contains('\u{1b}'), "{colours}");
        let long = answered(
            400,
            &format!(
                r#"{{"errors":[{{"code":"A","message":"{}"}}]}}"#,
                "x".repeat(10_000)
            ),
        );
        assert!(long.to_string().len() < 1_000);
    }
}
