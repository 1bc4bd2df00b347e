//! Requests to one endpoint as somebody: redirects followed, challenges met, and credentials shown to nobody else.

use crate::address::{Scheme, Target};
use crate::certificates::client_config;
use crate::challenge::{Bearer, Challenge, Granted, Token};
use crate::credentials::Credentials;
use crate::endpoint::{Endpoint, Role, follow, trust_of};
use crate::error::{Error, Result, shown};
use crate::settings::RegistrySettings;
use crate::transport::{Activity, RequestBody, Transport, read_document};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Method, Request, Response, StatusCode};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Most redirects of one request: a registry, a front end and a store of blobs.
const REDIRECTS_MAX: usize = 5;
/// Most bytes of an answer that explains an error, and of one with a token.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// What the client calls itself to token servers, which give some clients other tokens.
const CLIENT_ID: &str = "docker";

/// Requests to one endpoint.
pub(crate) struct Session {
    pub endpoint: Endpoint,
    settings: Arc<RegistrySettings>,
    credentials: Option<Credentials>,
    /// By `host[:port]`; connections are kept as long as the session.
    transports: Mutex<HashMap<String, Transport>>,
    challenge: Mutex<Option<Challenge>>,
    tokens: Mutex<HashMap<String, Token>>,
}

/// What is sent.
pub(crate) struct Ask {
    pub method: Method,
    pub target: Target,
    pub headers: Vec<(HeaderName, String)>,
    pub body: Body,
}

/// What goes with a request.
pub(crate) enum Body {
    None,
    Bytes(Bytes),
    /// Sent once: it cannot be asked for again.
    Stream(RequestBody, Activity),
}

impl Ask {
    pub fn new(method: Method, target: Target) -> Self {
        Self {
            method,
            target,
            headers: Vec::new(),
            body: Body::None,
        }
    }

    pub fn with(mut self, name: HeaderName, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }
}

impl Session {
    /// How long the registry may take for a document, or a little of a blob.
    pub fn patience(&self) -> Duration {
        self.settings.patience.0
    }

    /// A session with this endpoint. Mirrors learn nothing of who asks.
    pub fn new(
        endpoint: Endpoint,
        settings: Arc<RegistrySettings>,
        credentials: Option<Credentials>,
    ) -> Self {
        let credentials = credentials.filter(|_| endpoint.role == Role::Registry);
        Self {
            endpoint,
            settings,
            credentials,
            transports: Mutex::default(),
            challenge: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// Whether the next endpoint is asked for everything once this one failed: it is a mirror, and the error its own.
    pub fn is_passed_over(&self, error: &Error) -> bool {
        let passed_over = self.endpoint.role == Role::Mirror && !error.is_of_this_node();
        if passed_over {
            tracing::debug!(mirror = %self.endpoint.address, error = %error, "the next endpoint is asked");
        }
        passed_over
    }

    /// Something below the registry's `/v2/`.
    pub fn target(&self, path: &str) -> Target {
        Target {
            address: self.endpoint.address.clone(),
            path: self.endpoint.address.path(path),
        }
    }

    /// Where the registry's answer sends the next request.
    pub fn follow(&self, from: &Target, location: &str) -> Result<Target> {
        if from.address.is_same_server(&self.endpoint.address)
            && let Some(target) = self.behind_proxy(location)
        {
            return Ok(target);
        }
        let refused = |why| Error::protocol(&from.url(), format!("its Location is not followed: {why}"));
        follow(&from.address, location, &self.settings).map_err(refused)
    }

    /// What the registry means by a plain address of its own: one behind a proxy that speaks TLS for it does not know of
    /// that.
    fn behind_proxy(&self, location: &str) -> Option<Target> {
        let own = &self.endpoint.address;
        let Target { address, path } = Target::relative_to(location, own)?;
        let is_plain = own.scheme() == Scheme::Https && address.scheme() == Scheme::Http;
        (is_plain && address.authority() == own.authority()).then(|| Target {
            address: address.by(Scheme::Https),
            path,
        })
    }

    /// Sends a request that needs these scopes; what a redirect of a GET or HEAD leads to is answered. The answer's
    /// status is a success.
    pub async fn ask(&self, mut ask: Ask, scopes: &[String]) -> Result<(Target, Response<Incoming>)> {
        let mut met = false;
        let mut redirects = 0;
        loop {
            let own = ask.target.address.is_same_server(&self.endpoint.address);
            let authorization = if own {
                self.authorization(scopes).await?
            } else {
                None
            };
            let response = self.once(&mut ask, authorization).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && own && !met && !matches!(ask.body, Body::Stream(..)) {
                met = true;
                self.learn(&response, scopes);
                if self.can_meet() {
                    continue;
                }
            }
            let reads = matches!(ask.method, Method::GET | Method::HEAD);
            if status.is_redirection() && status != StatusCode::NOT_MODIFIED && reads {
                redirects += 1;
                if redirects > REDIRECTS_MAX {
                    return Err(Error::protocol(&ask.target.url(), "too many redirects"));
                }
                let location = header(&response, &LOCATION).unwrap_or_default();
                ask.target = self.follow(&ask.target, location)?;
                continue;
            }
            if status.is_success() {
                return Ok((ask.target, response));
            }
            return Err(self.refused(&ask.target, response).await);
        }
    }

    /// Whether what was presented last is a token that the registry's own token server gave.
    fn presents_granted(&self) -> bool {
        !matches!(self.credentials, Some(Credentials::RegistryToken(_)))
            && matches!(*lock(&self.challenge), Some(Challenge::Bearer(_)))
    }

    /// Whether the registry answers; what it wants to know of who asks is known from now on.
    pub async fn probe(&self) -> Result<()> {
        let mut ask = Ask::new(Method::GET, self.target("/v2/"));
        let response = self.once(&mut ask, None).await?;
        match response.status() {
            StatusCode::UNAUTHORIZED => {
                self.learn(&response, &[]);
                Ok(())
            }
            status if status.is_success() => Ok(()),
            _ => Err(self.refused(&ask.target, response).await),
        }
    }

    async fn refused(&self, target: &Target, response: Response<Incoming>) -> Error {
        let (url, status) = (target.url(), response.status());
        if status == StatusCode::UNAUTHORIZED
            && self.credentials.is_none()
            && matches!(*lock(&self.challenge), Some(Challenge::Basic))
        {
            return Error::Unauthorized {
                url: shown(&url),
                detail: "no basic auth credentials; use \"docker login\"".to_owned(),
                granted: false,
            };
        }
        let body = read_document(&url, response.into_body(), ANSWER_BYTES_MAX, self.patience()).await;
        match Error::answered(&url, status, &body.unwrap_or_default()) {
            Error::Unauthorized { url, detail, .. } => Error::Unauthorized {
                url,
                detail,
                granted: self.presents_granted(),
            },
            error => error,
        }
    }

    /// One request, as it is.
    async fn once(&self, ask: &mut Ask, authorization: Option<String>) -> Result<Response<Incoming>> {
        let url = ask.target.url();
        let invalid = |problem: &dyn std::fmt::Display| Error::protocol(&url, problem.to_string());
        let mut request = Request::builder().method(&ask.method).uri(&url);
        request = request.header(USER_AGENT, concat!("muster/", env!("CARGO_PKG_VERSION")));
        for (name, value) in &ask.headers {
            request = request.header(name, value);
        }
        if let Some(authorization) = authorization {
            let mut value = HeaderValue::from_str(&authorization).map_err(|error| invalid(&error))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        let (body, activity) = match &mut ask.body {
            Body::None => (empty(), Activity::default()),
            Body::Bytes(bytes) => (full(bytes.clone()), Activity::default()),
            Body::Stream(body, activity) => (std::mem::replace(body, empty()), activity.clone()),
        };
        let request = request.body(body).map_err(|error| invalid(&error))?;
        self.transport(&ask.target).await?.send(request, &activity).await
    }

    async fn transport(&self, target: &Target) -> Result<Transport> {
        let authority = target.address.authority();
        if let Some(known) = lock(&self.transports).get(&authority) {
            return Ok(known.clone());
        }
        let trust = match target.address.is_same_place(&self.endpoint.address) {
            true => self.endpoint.trust,
            false => trust_of(&target.address, &self.settings),
        };
        let (settings, name) = (self.settings.clone(), authority.clone());
        let reading = tokio::task::spawn_blocking(move || client_config(&name, trust, &settings));
        let config = reading.await.map_err(|error| Error::Certificate {
            path: authority.clone(),
            problem: error.to_string(),
        })??;
        let transport = Transport::new(config);
        lock(&self.transports).insert(authority, transport.clone());
        Ok(transport)
    }

    /// Remembers what the registry wants; what was presented before was not it.
    fn learn(&self, response: &Response<Incoming>, scopes: &[String]) {
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let challenge = Challenge::choose(headers.filter_map(|value| value.to_str().ok()));
        *lock(&self.challenge) = challenge;
        lock(&self.tokens).remove(&scopes.join(" "));
    }

    fn can_meet(&self) -> bool {
        match &*lock(&self.challenge) {
            None => false,
            Some(Challenge::Bearer(_)) => true,
            Some(Challenge::Basic) => matches!(self.credentials, Some(Credentials::Password { .. })),
        }
    }

    /// The value of `Authorization` for the registry, as far as its wishes are known.
    async fn authorization(&self, scopes: &[String]) -> Result<Option<String>> {
        if let Some(Credentials::RegistryToken(token)) = &self.credentials {
            return Ok(Some(format!("Bearer {token}")));
        }
        let challenge = lock(&self.challenge).clone();
        match challenge {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(match &self.credentials {
                Some(Credentials::Password { user, password }) => Some(Credentials::basic(user, password)),
                _ => None,
            }),
            Some(Challenge::Bearer(bearer)) => {
                let key = scopes.join(" ");
                let known = lock(&self.tokens).get(&key).cloned();
                let token = match known.filter(|token| token.ends > Instant::now()) {
                    Some(token) => token,
                    None => {
                        let granted = self.token(&bearer, scopes, Purpose::Request).await?;
                        lock(&self.tokens).insert(key, granted.token.clone());
                        granted.token
                    }
                };
                Ok(Some(format!("Bearer {}", token.value)))
            }
        }
    }

    /// Checks who asks, and returns what may be presented in place of the password from now on.
    pub async fn log_in(&self) -> Result<Option<String>> {
        let ping = || Ask::new(Method::GET, self.target("/v2/"));
        let response = self.once(&mut ping(), None).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return match response.status().is_success() {
                true => Ok(None),
                false => Err(self.refused(&ping().target, response).await),
            };
        }
        self.learn(&response, &[]);
        let challenge = lock(&self.challenge).clone();
        let identity = match &challenge {
            Some(Challenge::Bearer(bearer)) => {
                let granted = self.token(bearer, &[], Purpose::Login).await?;
                lock(&self.tokens).insert(String::new(), granted.token);
                granted.identity
            }
            Some(Challenge::Basic) | None => None,
        };
        self.ask(ping(), &[]).await?;
        Ok(identity)
    }

    fn realm(&self, bearer: &Bearer) -> Result<Target> {
        let refused = |why| Error::protocol(&bearer.realm, format!("this token server is not asked: {why}"));
        match self.behind_proxy(&bearer.realm) {
            Some(realm) => Ok(realm),
            None => follow(&self.endpoint.address, &bearer.realm, &self.settings).map_err(refused),
        }
    }

    /// Asks the token server for a token. Its address is the registry's word, so credentials go only to one that is
    /// spoken to no less safely than the registry, and never further.
    async fn token(&self, bearer: &Bearer, scopes: &[String], purpose: Purpose) -> Result<Granted> {
        let realm = self.realm(bearer)?;
        let mut ask = match &self.credentials {
            Some(Credentials::IdentityToken(token)) => Ask::new(Method::POST, realm)
                .with(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(Body::Bytes(refresh_form(bearer, scopes, token))),
            credentials => {
                let account = match credentials {
                    Some(Credentials::Password { user, .. }) => Some(user.as_str()),
                    _ => None,
                };
                let mut asked = bearer.ask(&realm, scopes, account);
                if purpose == Purpose::Login {
                    asked = asked
                        .with_parameter("client_id", CLIENT_ID)
                        .with_parameter("offline_token", "true");
                }
                Ask::new(Method::GET, asked)
            }
        };
        let basic = match &self.credentials {
            Some(Credentials::Password { user, password }) => Some(Credentials::basic(user, password)),
            _ => None,
        };
        let response = self.once(&mut ask, basic).await?;
        let (url, status) = (ask.target.url(), response.status());
        let body = read_document(&url, response.into_body(), ANSWER_BYTES_MAX, self.patience()).await?;
        match status {
            StatusCode::UNAUTHORIZED => Err(Error::Unauthorized {
                url: shown(&url),
                detail: match &self.credentials {
                    Some(_) => "unauthorized: incorrect username or password",
                    None => "unauthorized: authentication required; use \"docker login\"",
                }
                .to_owned(),
                granted: false,
            }),
            status if !status.is_success() => Err(Error::answered(&url, status, &body)),
            _ => {
                Granted::read(&body, Instant::now()).ok_or_else(|| Error::protocol(&url, "it gave no token"))
            }
        }
    }
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Request,
    Login,
}

/// The form that exchanges an identity token (distribution's OAuth2 specification).
fn refresh_form(bearer: &Bearer, scopes: &[String], token: &str) -> Bytes {
    use crate::address::encode;
    let mut form = format!(
        "grant_type=refresh_token&client_id={CLIENT_ID}&refresh_token={}",
        encode(token)
    );
    if let Some(service) = &bearer.service {
        form.push_str(&format!("&service={}", encode(service)));
    }
    if !scopes.is_empty() {
        form.push_str(&format!("&scope={}", encode(&scopes.join(" "))));
    }
    Bytes::from(form)
}

pub(crate) fn header<'a>(response: &'a Response<Incoming>, name: &HeaderName) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

fn full(bytes: Bytes) -> RequestBody {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Nothing is half done where one of these is locked.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Address;
    use crate::endpoint::Trust;

    fn session(own: &str) -> Session {
        let endpoint = Endpoint {
            address: Address::of_url(own).unwrap(),
            trust: Trust::Verified,
            role: Role::Registry,
        };
        Session::new(endpoint, Arc::default(), None)
    }

    fn realm(own: &str, realm: &str) -> Option<String> {
        let bearer = Bearer {
            realm: realm.to_owned(),
            service: None,
            scope: None,
        };
        session(own).realm(&bearer).ok().map(|target| target.url())
    }

    #[test]
    fn its_token_server_is_too() {
        for own in ["https://reg.example", "https://reg.example:5000"] {
            assert_eq!(realm(own, &own.replace("https", "http")), Some(format!("{own}/")));
            let plain = own.replace("https", "http") + "/token?x=y";
            assert_eq!(realm(own, &plain), Some(format!("{own}/token?x=y")));
        }
        for elsewhere in ["http://tokens.example/token", "http://reg.example:81/token"] {
            assert_eq!(realm("https://reg.example", elsewhere), None);
        }
        let other = "https://tokens.example/token";
        assert_eq!(realm("https://reg.example", other).as_deref(), Some(other));
    }

    fn follow(own: &str, from: &str, location: &str) -> Option<String> {
        let followed = session(own).follow(&Target::parse(from).unwrap(), location);
        followed.ok().map(|target| target.url())
    }

    #[test]
    fn a_registry_that_does_not_know_of_its_tls_is_spoken_to_by_it() {
        let own = "https://reg.example:5000";
        let from = "https://reg.example:5000/v2/a/blobs/uploads/";
        assert_eq!(
            follow(own, from, "http://reg.example:5000/u?_state=x").as_deref(),
            Some("https://reg.example:5000/u?_state=x")
        );
        assert_eq!(follow(own, from, "http://reg.example:80/u"), None);
        assert_eq!(follow(own, from, "http://other.example/u"), None);
        assert_eq!(
            follow(own, "https://cdn.example/x", "http://reg.example:5000/u"),
            None
        );
        let plain = "http://reg.example:5000";
        assert_eq!(
            follow(plain, "http://reg.example:5000/v2/", "https://reg.example:5000/u").as_deref(),
            Some("https://reg.example:5000/u"),
            "it is not led back to where it came from"
        );
    }
}
