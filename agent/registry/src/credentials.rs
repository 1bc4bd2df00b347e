//! Who somebody is to a registry. No form of these texts is ever printed.

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;
use std::fmt;

/// Longest header: tokens of cloud registries have a few thousand bytes.
const HEADER_BYTES_MAX: usize = 64 << 10;
/// Clients pad or do not.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

/// What a client presents.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// What an earlier login gave in place of a password.
    IdentityToken(String),
    /// A token that is sent to the registry as it is.
    RegistryToken(String),
}

/// A header that says nothing usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("X-Registry-Auth is not JSON in base 64")]
pub struct CredentialsError;

/// Docker's `AuthConfig`.
#[derive(Deserialize, Default)]
#[serde(default)]
struct AuthConfig {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl Credentials {
    /// Reads the header `X-Registry-Auth`: `None` for nobody.
    pub fn from_header(header: &str) -> Result<Option<Self>, CredentialsError> {
        if header.len() > HEADER_BYTES_MAX {
            return Err(CredentialsError);
        }
        if header.is_empty() {
            return Ok(None);
        }
        let json = URL_SAFE
            .decode(header)
            .or_else(|_| STANDARD.decode(header))
            .map_err(|_| CredentialsError)?;
        // Some clients send nothing at all, or `null`, in base 64.
        if json.is_empty() {
            return Ok(None);
        }
        Self::from_json(&json)
    }

    /// Reads Docker's `AuthConfig`.
    pub fn from_json(json: &[u8]) -> Result<Option<Self>, CredentialsError> {
        let config: Option<AuthConfig> = serde_json::from_slice(json).map_err(|_| CredentialsError)?;
        Ok(Self::choose(config.unwrap_or_default()))
    }

    fn choose(config: AuthConfig) -> Option<Self> {
        if !config.registrytoken.is_empty() {
            return Some(Self::RegistryToken(config.registrytoken));
        }
        if !config.identitytoken.is_empty() {
            return Some(Self::IdentityToken(config.identitytoken));
        }
        if !config.username.is_empty() {
            return Some(Self::Password {
                user: config.username,
                password: config.password,
            });
        }
        let pair = STANDARD.decode(config.auth).ok()?;
        let (user, password) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
        (!user.is_empty()).then(|| Self::Password {
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// The value of `Authorization` with a name and password (RFC 7617).
    pub(crate) fn basic(user: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password { .. } => "Password(redacted)",
            Self::IdentityToken(_) => "IdentityToken(redacted)",
            Self::RegistryToken(_) => "RegistryToken(redacted)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Option<Credentials> {
        Credentials::from_header(&URL_SAFE.encode(json)).unwrap()
    }

    #[test]
    fn every_form_of_the_header_is_read() {
        let password = |user: &str, password: &str| {
            Some(Credentials::Password {
                user: user.to_owned(),
                password: password.to_owned(),
            })
        };
        assert_eq!(read(r#"{"username":"u","password":"p?>"}"#), password("u", "p?>"));
        assert_eq!(read(r#"{"auth":"dTpwOng="}"#), password("u", "p:x"));
        assert_eq!(
            read(r#"{"username":"u","identitytoken":"t"}"#),
            Some(Credentials::IdentityToken("t".to_owned()))
        );
        assert_eq!(
            read(r#"{"registrytoken":"t"}"#),
            Some(Credentials::RegistryToken("t".to_owned()))
        );
        assert_eq!(read("{}"), None);
        assert_eq!(read("null"), None);
        assert_eq!(Credentials::from_header(""), Ok(None));
        let padded = base64::engine::general_purpose::STANDARD.encode(r#"{"username":"a?>"}"#);
        assert_eq!(Credentials::from_header(&padded).unwrap(), password("a?>", ""));
        for bad in ["%%%", "e30x", &"a".repeat(HEADER_BYTES_MAX + 1)] {
            assert_eq!(Credentials::from_header(bad), Err(CredentialsError));
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        for secret in [
            read(r#"{"username":"user","password":"secret"}"#),
            read(r#"{"identitytoken":"secret"}"#),
            read(r#"{"registrytoken":"secret"}"#),
        ] {
            let printed = format!("{secret:?}");
            assert!(
                !printed.contains("secret") && !printed.contains("user"),
                "{printed}"
            );
        }
    }
}
