//! What a registry asks for in `WWW-Authenticate` (RFC 9110, 11.6.1), and what its token server answers.

use crate::address::Target;
use serde::Deserialize;
use std::fmt;
use std::time::{Duration, Instant};

/// Longest header that is read.
const HEADER_BYTES_MAX: usize = 8 << 10;
/// How long a token without a time of its own is used: the least that a token server may give one.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60);
/// A token is not used any more so shortly before its end, so that it does not end on its way.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// Longest time for which a token is used, whatever its server says.
const TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(3_600);

/// How a registry wants to know who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// Name and password in every request.
    Basic,
    /// A token of a token server.
    Bearer(Bearer),
}

/// Which token server, and what it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub realm: String,
    pub service: Option<String>,
    /// What the registry says that the request needs.
    pub scope: Option<String>,
}

/// A token for one scope.
#[derive(Clone)]
pub(crate) struct Token {
    pub value: String,
    pub ends: Instant,
}

/// A token server's answer.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
    refresh_token: Option<String>,
}

/// What a token server gave.
pub(crate) struct Granted {
    pub token: Token,
    /// What may be presented in place of a password from now on.
    pub identity: Option<String>,
}

impl Challenge {
    /// The first challenge of these headers that can be met; a token is preferred.
    pub fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut all: Vec<Self> = headers.filter_map(Self::parse).collect();
        let bearer = all.iter().position(|one| matches!(one, Self::Bearer(_)));
        match bearer {
            Some(position) => Some(all.swap_remove(position)),
            None => all.pop(),
        }
    }

    fn parse(header: &str) -> Option<Self> {
        if header.len() > HEADER_BYTES_MAX {
            return None;
        }
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut bearer = Bearer {
            realm: String::new(),
            service: None,
            scope: None,
        };
        for (name, value) in parameters(rest) {
            match name.as_str() {
                "realm" => bearer.realm = value,
                "service" => bearer.service = Some(value),
                "scope" => bearer.scope = Some(value),
                _ => {}
            }
        }
        (!bearer.realm.is_empty()).then_some(Self::Bearer(bearer))
    }
}

/// `name="value"` or `name=value`, separated by commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let (value, left) = match after.strip_prefix('"') {
            Some(quoted) => quoted_value(quoted),
            None => {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].trim().to_owned(), &after[end..])
            }
        };
        found.push((name, value));
        rest = left;
    }
    found
}

/// The value up to the closing quote, and what follows it.
fn quoted_value(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(letters.next().map(|(_, escaped)| escaped)),
            letter => value.push(letter),
        }
    }
    (value, "")
}

impl Bearer {
    /// The request for a token of these scopes.
    pub fn ask(&self, realm: &Target, scopes: &[String], account: Option<&str>) -> Target {
        let mut asked = realm.clone();
        if let Some(service) = &self.service {
            asked = asked.with_parameter("service", service);
        }
        for scope in scopes {
            asked = asked.with_parameter("scope", scope);
        }
        if let Some(account) = account {
            asked = asked.with_parameter("account", account);
        }
        asked
    }
}

impl Granted {
    /// Reads a token server's answer.
    pub fn read(bytes: &[u8], now: Instant) -> Option<Self> {
        let answer: Answer = serde_json::from_slice(bytes).ok()?;
        let value = answer
            .token
            .or(answer.access_token)
            .filter(|token| !token.is_empty())?;
        // It becomes a header.
        if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let lifetime = answer.expires_in.map_or(TOKEN_LIFETIME, Duration::from_secs);
        let lifetime = lifetime.clamp(TOKEN_LIFETIME, TOKEN_LIFETIME_MAX);
        Some(Self {
            token: Token {
                value,
                ends: now + lifetime - TOKEN_MARGIN,
            },
            identity: answer.refresh_token.filter(|token| !token.is_empty()),
        })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use proptest::prelude::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer(Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        }))
    }

    #[test]
    fn challenges_are_read() {
        let choose = |headers: &[&str]| Challenge::choose(headers.iter().copied());
        assert_eq!(choose(&[r#"Basic realm="a""#]), Some(Challenge::Basic));
        let full = r#"Bearer realm="https://a/t",service="reg,istry",scope="repository:a/b:pull,push""#;
        let expected = bearer("https://a/t", Some("reg,istry"), Some("repository:a/b:pull,push"));
        assert_eq!(choose(&[r#"Basic realm="x""#, full]), expected);
        assert_eq!(
            choose(&[r#"bearer Realm=https://a/t , service="a\"b""#]),
            bearer("https://a/t", Some("a\"b"), None)
        );
        for none in [&[][..], &["Digest a=b"], &["Bearer service=x"], &[""]] {
            assert_eq!(choose(none), None, "{none:?}");
        }
        assert_eq!(
            choose(&[&format!("Bearer realm={}", "x".repeat(HEADER_BYTES_MAX))]),
            None
        );
    }

    /// What a header may be made of.
    fn piece() -> impl Strategy<Value = String> {
        let known = [
            "Bearer ",
            "bearer",
            "Basic ",
            "realm",
            "service",
            "scope",
            "=",
            "\"",
            ",",
            "\\",
            " ",
            "https://a/t",
            "//",
            "é",
        ];
        prop_oneof![
            proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
            ".{0,8}"
        ]
    }

    proptest! {
        #[test]
        fn challenges_of_any_text_are_read_or_passed_over(
            pieces in proptest::collection::vec(proptest::collection::vec(piece(), 0..16), 1..3),
        ) {
            let headers: Vec<String> = pieces.iter().map(|pieces| pieces.concat()).collect();
            if let Some(Challenge::Bearer(bearer)) = Challenge::choose(headers.iter().map(String::as_str)) {
                prop_assert!(!bearer.realm.is_empty());
                if let Some(realm) = Target::parse(&bearer.realm) {
                    let asked = bearer.ask(&realm, &["a b&c=d#e".to_owned()], Some("f?g"));
                    // Nothing that is added leads elsewhere.
                    prop_assert_eq!(&asked.address, &realm.address);
                    let again = Target::parse(&asked.url()).unwrap();
                    prop_assert_eq!(again.url(), asked.url());
                }
            }
        }

        #[test]
        fn answers_of_any_bytes_give_tokens_that_can_be_headers(
            token in ".{0,20}",
            expires in any::<u64>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let now = Instant::now();
            let answer = serde_json::json!({"token": token, "expires_in": expires}).to_string();
            for answer in [answer.as_bytes(), &bytes] {
                if let Some(granted) = Granted::read(answer, now) {
                    prop_assert!(granted.token.value.bytes().all(|byte| byte.is_ascii_graphic()));
                    prop_assert!(granted.token.ends <= now + TOKEN_LIFETIME_MAX);
                }
            }
        }

        #[test]
        fn locations_of_any_text_name_a_server_or_stay(text in "(https?:)?/{0,3}[a-z@:\\[\\]\\\\.?#%0-9 é/-]{0,24}") {
            let server = Address::of_url("https://reg.example:5000").unwrap();
            if let Some(target) = Target::relative_to(&text, &server) {
                prop_assert!(target.path.starts_with('/'), "{target:?}");
                prop_assert!(!target.url().contains([' ', '\r', '\n']), "{target:?}");
            }
        }
    }

    #[test]
    fn tokens_are_asked_for_by_scope_and_end_in_time() {
        let Some(Challenge::Bearer(asked)) = bearer("https://a/t?x=y", Some("s t"), None) else {
            panic!("not a bearer challenge")
        };
        let realm = Target::parse(&asked.realm).unwrap();
        let target = asked.ask(&realm, &["repository:a:pull".to_owned()], Some("me"));
        assert_eq!(
            target.url(),
            "https://a/t?x=y&service=s%20t&scope=repository%3Aa%3Apull&account=me"
        );
        let now = Instant::now();
        let granted = Granted::read(br#"{"token":"t","expires_in":300,"refresh_token":"r"}"#, now).unwrap();
        assert_eq!(granted.token.ends, now + Duration::from_secs(290));
        assert_eq!(granted.identity.as_deref(), Some("r"));
        assert_eq!(format!("{:?}", granted.token), "Token(redacted)");
        let short = Granted::read(br#"{"access_token":"t","expires_in":1}"#, now).unwrap();
        assert_eq!(short.token.ends, now + Duration::from_secs(50));
        for bad in [&b"{}"[..], b"x", br#"{"token":""}"#, br#"{"token":"a\r\nb: c"}"#] {
            assert!(Granted::read(bad, now).is_none());
        }
    }
}
