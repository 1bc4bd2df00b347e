//! JSON that becomes a body as Go's reader has it: a list never stands for an object. Derived readers would take its
//! members for the fields in their order.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{Deserialize, Deserializer, Error as _, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value};

/// A value on its way into a body.
pub(crate) struct Strict(pub Value);

/// Reads a body.
pub(crate) fn read<'de, T: Deserialize<'de>>(value: Value) -> Result<T, Error> {
    T::deserialize(Strict(value))
}

impl<'de> IntoDeserializer<'de, Error> for Strict {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Strict {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(truth) => visitor.visit_bool(truth),
            Value::Number(number) => number.deserialize_any(visitor),
            Value::String(text) => visitor.visit_string(text),
            Value::Array(list) => {
                let mut members = SeqDeserializer::new(list.into_iter().map(Strict));
                let read = visitor.visit_seq(&mut members)?;
                members.end()?;
                Ok(read)
            }
            Value::Object(map) => {
                let members = map.into_iter().map(|(name, member)| (name, Strict(member)));
                visitor.visit_map(MapDeserializer::new(members))
            }
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(_) => Err(Error::invalid_type(Unexpected::Seq, &visitor)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::container::CreateBody;
    use serde_json::json;

    #[test]
    fn lists_never_stand_for_objects() {
        for body in [
            json!([]),
            json!({"HostConfig": []}),
            json!({"HostConfig": {"RestartPolicy": ["no", 0]}}),
            json!({"HostConfig": {"Devices": [["/dev/null", "/dev/x", "rwm"]]}}),
            json!({"HostConfig": {"Mounts": [{"BindOptions": []}]}}),
            json!({"Healthcheck": [["CMD"]]}),
            json!({"Labels": []}),
            json!({"NetworkingConfig": {"EndpointsConfig": {"n": []}}}),
        ] {
            let refused = read::<CreateBody>(body.clone()).unwrap_err().to_string();
            assert!(refused.contains("sequence"), "{body}: {refused}");
        }
    }

    #[test]
    fn everything_else_is_read_as_before() {
        let body = json!({
            "Image": "a", "Cmd": ["x", "y"], "Entrypoint": "sh", "Healthcheck": {"Retries": 3}, "StopTimeout": 5,
            "HostConfig": {"ConsoleSize": [1, 2], "Memory": 7, "OomKillDisable": true, "PortBindings": {"1/tcp": null}},
        });
        let read: CreateBody = read(body).unwrap();
        assert_eq!(read.config.image, "a");
        assert_eq!(read.config.cmd.map(Vec::from).unwrap(), ["x", "y"]);
        assert_eq!(read.config.healthcheck.unwrap().retries, 3);
        assert_eq!(read.config.stop_timeout, Some(5));
        let host = read.host_config;
        assert_eq!(
            (host.console_size, host.memory, host.oom_kill_disable),
            ([1, 2], 7, Some(true))
        );
        assert_eq!(host.port_bindings["1/tcp"], None);
    }
}
