//! firewalld, which is told of the bridges over the message bus: it replaces its whole table when it is reloaded, so that
//! rules put into it would not last. They are interfaces of a zone of ours that accepts what comes from them; what goes to
//! them, it lets through where it is an answer or goes to a published port.

use std::collections::BTreeSet;

use muster_dbus::{Connection, DbusError, Method, Value};

/// The zone that is ours.
pub(super) const ZONE: &str = "muster";

const SERVICE: &str = "org.fedoraproject.FirewallD1";
const OBJECT: &str = "/org/fedoraproject/FirewallD1";
const CONFIGURATION: &str = "/org/fedoraproject/FirewallD1/config";

/// firewalld on the system's bus.
pub(super) struct Firewalld {
    connection: Connection,
}

impl Firewalld {
    pub fn connect() -> Result<Self, DbusError> {
        Connection::system().map(|connection| Self { connection })
    }

    /// The interfaces of our zone.
    pub fn admitted(&mut self) -> Result<BTreeSet<String>, DbusError> {
        if !self.zones()?.contains(ZONE) {
            return Ok(BTreeSet::new());
        }
        self.zone("getInterfaces", &[ZONE]).map(|answer| texts(&answer))
    }

    /// Makes these bridges the interfaces of our zone, but for those that the administrator has put into another one.
    pub fn admit(&mut self, bridges: &BTreeSet<String>) -> Result<(), DbusError> {
        if !bridges.is_empty() && !self.zones()?.contains(ZONE) {
            self.make_zone()?;
        }
        let admitted = self.admitted()?;
        for bridge in bridges.difference(&admitted) {
            let zone = self.zone("getZoneOfInterface", &[bridge])?;
            if zone
                .first()
                .and_then(Value::as_text)
                .unwrap_or_default()
                .is_empty()
            {
                self.zone("addInterface", &[ZONE, bridge])?;
                tracing::info!(bridge, "firewalld admits a bridge");
            }
        }
        for gone in admitted.difference(bridges) {
            self.zone("removeInterface", &[ZONE, gone])?;
        }
        Ok(())
    }

    /// Takes our zone and its interfaces away; returns how many those were.
    pub fn withdraw(&mut self) -> Result<usize, DbusError> {
        let admitted = self.admitted()?;
        for bridge in &admitted {
            self.zone("removeInterface", &[ZONE, bridge])?;
        }
        if self.configured_zones()?.contains(ZONE) {
            let zone = self.configuration("getZoneByName", &[Value::text(ZONE)])?;
            let object = zone.first().and_then(Value::as_text).unwrap_or_default();
            let remove = Method {
                destination: SERVICE,
                path: object,
                interface: "org.fedoraproject.FirewallD1.config.zone",
                member: "remove",
            };
            self.connection.call(&remove, &[])?;
            self.reload()?;
        }
        Ok(admitted.len())
    }

    /// A zone can only be made in the permanent configuration, which is not read before a reload.
    fn make_zone(&mut self) -> Result<(), DbusError> {
        if !self.configured_zones()?.contains(ZONE) {
            let setting = |name: &str, text: &str| {
                Value::Entry(Box::new(Value::text(name)), Box::new(Value::text(text).variant()))
            };
            let settings = vec![
                setting("short", ZONE),
                setting(
                    "description",
                    "Bridges of Muster's containers, whose own table filters them.",
                ),
                setting("target", "ACCEPT"),
            ];
            let settings = Value::Array("{sv}".to_owned(), settings);
            self.configuration("addZone2", &[Value::text(ZONE), settings])?;
        }
        self.reload()
    }

    fn reload(&mut self) -> Result<(), DbusError> {
        let reload = Method {
            destination: SERVICE,
            path: OBJECT,
            interface: SERVICE,
            member: "reload",
        };
        self.connection.call(&reload, &[]).map(|_| ())
    }

    fn zones(&mut self) -> Result<BTreeSet<String>, DbusError> {
        self.zone("getZones", &[]).map(|answer| texts(&answer))
    }

    fn configured_zones(&mut self) -> Result<BTreeSet<String>, DbusError> {
        self.configuration("getZoneNames", &[])
            .map(|answer| texts(&answer))
    }

    fn zone(&mut self, member: &str, arguments: &[&str]) -> Result<Vec<Value>, DbusError> {
        let method = Method {
            destination: SERVICE,
            path: OBJECT,
            interface: "org.fedoraproject.FirewallD1.zone",
            member,
        };
        let arguments: Vec<Value> = arguments.iter().map(|text| Value::text(*text)).collect();
        self.connection.call(&method, &arguments)
    }

    fn configuration(&mut self, member: &str, arguments: &[Value]) -> Result<Vec<Value>, DbusError> {
        let method = Method {
            destination: SERVICE,
            path: CONFIGURATION,
            interface: "org.fedoraproject.FirewallD1.config",
            member,
        };
        self.connection.call(&method, arguments)
    }
}

fn texts(answer: &[Value]) -> BTreeSet<String> {
    let members = answer.first().map_or(&[][..], Value::members);
    members
        .iter()
        .filter_map(|member| member.as_text().map(str::to_owned))
        .collect()
}
