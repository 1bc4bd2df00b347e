//! One request on its way to a handler, and the JSON in and out of it.

use super::body::{RequestBody, full_body};
use super::gates::is_gated;
use super::{ApiVersion, Failure, Object, Query, Reply, adjust};
use crate::backend::{ClusterBackend, LocalEngine};
use crate::server::App;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use hyper::{Request, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_json::{Map, Value};
use std::sync::Arc;

/// Largest JSON body. Docker's largest are service specs with configs of 1,000 KiB in base 64; the rest is margin.
const JSON_BYTES_MAX: usize = 4 << 20;

/// One request on its way to a handler.
pub(crate) struct Call {
    /// The server.
    pub app: Arc<App>,
    /// The client's API version.
    pub version: ApiVersion,
    /// What the path's `{…}` captured, in order.
    pub captures: Vec<String>,
    /// Query parameters.
    pub query: Query,
    /// The request.
    pub request: Request<RequestBody>,
}

impl Call {
    /// The local engine.
    pub fn engine(&self) -> &dyn LocalEngine {
        &*self.app.backends.engine
    }

    /// The cluster.
    pub fn cluster(&self) -> &dyn ClusterBackend {
        &*self.app.backends.cluster
    }

    /// The path's only (or first) captured part.
    pub fn reference(&self) -> &str {
        self.captures.first().map_or("", String::as_str)
    }

    /// Reads the JSON body.
    pub async fn body<T: DeserializeOwned>(&mut self) -> Result<T, Failure> {
        decode(self.body_value().await?)
    }

    /// Reads the JSON body of an object whose fields depend on the version.
    pub async fn body_of<T: DeserializeOwned>(&mut self, object: Object) -> Result<T, Failure> {
        let mut value = self.body_value().await?;
        adjust(object, self.version, &mut value);
        decode(value)
    }

    /// As [`Call::body_of`]; `None` when there is no body.
    pub async fn optional_body_of<T: DeserializeOwned>(
        &mut self,
        object: Object,
    ) -> Result<Option<T>, Failure> {
        let bytes = self.body_bytes().await?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let mut value = read_json(&bytes)?;
        adjust(object, self.version, &mut value);
        decode(value).map(Some)
    }

    /// As [`Call::body`], of an object in which members that are `null` are not as if they were left out; `None` for one
    /// that has no members.
    pub async fn exact_body<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Failure> {
        let value = parse_json(&self.present_body().await?)?;
        match value.as_object().is_some_and(Map::is_empty) {
            true => Ok(None),
            false => decode(value).map(Some),
        }
    }

    async fn body_value(&mut self) -> Result<Value, Failure> {
        read_json(&self.present_body().await?)
    }

    async fn present_body(&mut self) -> Result<Bytes, Failure> {
        self.require_json()?;
        let bytes = self.body_bytes().await?;
        if bytes.is_empty() {
            return Err(Failure::invalid(
                "invalid JSON: got EOF while reading request body",
            ));
        }
        Ok(bytes)
    }

    /// A page of a browser can send other types without asking first, so they are refused where a body is needed.
    fn require_json(&self) -> Result<(), Failure> {
        let headers = self.request.headers();
        let content_type = headers
            .get(CONTENT_TYPE)
            .map(|value| value.to_str().unwrap_or_default());
        let has_body = headers.contains_key(TRANSFER_ENCODING)
            || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
        let essence = content_type.map(|value| value.split(';').next().unwrap_or_default().trim());
        match essence {
            Some(essence) if essence.eq_ignore_ascii_case("application/json") => Ok(()),
            None if !has_body => Ok(()),
            _ => Err(Failure::invalid(format!(
                "unsupported Content-Type header ({}): must be 'application/json'",
                content_type.unwrap_or_default()
            ))),
        }
    }

    /// Reads the whole body.
    pub async fn body_bytes(&mut self) -> Result<Bytes, Failure> {
        let mut body = std::mem::take(self.request.body_mut());
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame =
                frame.map_err(|error| Failure::invalid(format!("cannot read the request body: {error}")))?;
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len() + data.len() > JSON_BYTES_MAX {
                return Err(Failure::invalid(format!(
                    "request body too large: at most {JSON_BYTES_MAX} bytes are read"
                )));
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes.freeze())
    }
}

fn parse_json(bytes: &[u8]) -> Result<Value, Failure> {
    serde_json::from_slice(bytes)
        .map_err(|error| Failure::invalid(format!("invalid JSON: {}", words(bytes, &error))))
}

fn read_json(bytes: &[u8]) -> Result<Value, Failure> {
    let mut value = parse_json(bytes)?;
    drop_nulls(&mut value);
    Ok(value)
}

/// What is wrong with JSON, in the words of Go's reader, which people search for.
fn words(bytes: &[u8], error: &serde_json::Error) -> String {
    match error.classify() {
        Category::Eof => "unexpected EOF".to_owned(),
        Category::Syntax => {
            let line = bytes
                .split(|byte| *byte == b'\n')
                .nth(error.line().saturating_sub(1));
            let found = line.and_then(|line| line.get(error.column().saturating_sub(1)));
            match found {
                Some(byte) => format!("invalid character {:?}: {error}", char::from(*byte)),
                None => error.to_string(),
            }
        }
        Category::Io | Category::Data => error.to_string(),
    }
}

/// Clients send `null` for what they leave out; here both mean the default.
fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(list) => list.iter_mut().for_each(drop_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Failure> {
    crate::wire::strict::read(value).map_err(|error| Failure::invalid(format!("invalid JSON: {error}")))
}

/// 200 with JSON.
pub(crate) fn json(value: &impl Serialize) -> Reply {
    respond(StatusCode::OK, value)
}

/// 201 with JSON.
pub(crate) fn json_created(value: &impl Serialize) -> Reply {
    respond(StatusCode::CREATED, value)
}

/// 200 with a JSON object, or a list of them, whose fields depend on the version.
pub(crate) fn json_gated(object: Object, version: ApiVersion, value: &impl Serialize) -> Reply {
    if !is_gated(object, version) {
        return json(value);
    }
    let mut value = serde_json::to_value(value).map_err(|error| unserializable(&error))?;
    match &mut value {
        Value::Array(list) => list.iter_mut().for_each(|member| adjust(object, version, member)),
        other => adjust(object, version, other),
    }
    json(&value)
}

fn respond(status: StatusCode, value: &impl Serialize) -> Reply {
    let mut bytes = serde_json::to_vec(value).map_err(|error| unserializable(&error))?;
    bytes.push(b'\n');
    let mut response = Response::new(full_body(bytes));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn unserializable(error: &serde_json::Error) -> Failure {
    Failure::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("cannot write the answer as JSON: {error}"),
    )
}
