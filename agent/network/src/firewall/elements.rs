//! What stands for a bridge or a published port in the table: elements of its sets and maps, and their reading back.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::model::{BridgePolicy, Model, PortKey, Target, Way};
use super::ruleset::{
    BRIDGES, INTERNAL, MASQUERADED, MESH, OPENED, PUBLISHED, PUBLISHED_ANY, ROUTED, SAME_BRIDGE, UNPROTECTED,
};
use crate::addresses::{address_of, with_octets};
use crate::nft::terms::{interface_key, padded};
use crate::nft::{Change, Element, ElementData, Family, Verdict};
use crate::spec::Protocol;

const ACCEPT: ElementData = ElementData::Verdict(Verdict::Accept);
const DROP: ElementData = ElementData::Verdict(Verdict::Drop);

/// Adds a bridge's elements.
pub(super) fn with_bridge(name: &str, policy: BridgePolicy) -> Vec<Change> {
    bridge_elements(name, policy)
        .map(|(set, element)| Change::AddElements {
            set: set.into(),
            elements: vec![element],
        })
        .collect()
}

/// Deletes a bridge's elements.
pub(super) fn without_bridge(name: &str, policy: BridgePolicy) -> Vec<Change> {
    bridge_elements(name, policy)
        .map(|(set, element)| Change::DeleteElements {
            set: set.into(),
            elements: vec![element],
        })
        .collect()
}

/// Adds the elements of published ports.
pub(super) fn with_ports(ports: &[(PortKey, Target)]) -> Vec<Change> {
    by_map(ports)
        .into_iter()
        .map(|(set, elements)| Change::AddElements {
            set: set.into(),
            elements,
        })
        .collect()
}

/// Deletes the elements of published ports.
pub(super) fn without_ports(ports: &[(PortKey, Target)]) -> Vec<Change> {
    by_map(ports)
        .into_iter()
        .map(|(set, elements)| Change::DeleteElements {
            set: set.into(),
            elements,
        })
        .collect()
}

/// Reads a model back through `elements`; what it cannot understand is left out.
pub(super) fn read_model<E>(
    family: Family,
    mut elements: impl FnMut(&str) -> Result<Vec<Element>, E>,
) -> Result<Model, E> {
    let mut model = Model::default();
    let masqueraded = elements(MASQUERADED)?;
    let internal = elements(INTERNAL)?;
    let unprotected = elements(UNPROTECTED)?;
    let routed = elements(ROUTED)?;
    let mesh = elements(MESH)?;
    let same = elements(SAME_BRIDGE)?;
    for bridge in elements(BRIDGES)? {
        let Some(name) = name_of(&bridge.key) else {
            continue;
        };
        let policy = BridgePolicy {
            masquerade: masqueraded.iter().any(|element| element.key == bridge.key),
            internal: internal.iter().any(|element| element.key == bridge.key),
            between_containers: same
                .iter()
                .any(|element| element.key.starts_with(&bridge.key) && element.data == Some(ACCEPT)),
            unprotected: unprotected.iter().any(|element| element.key == bridge.key),
            routed: routed.iter().any(|element| element.key == bridge.key),
            mesh: mesh.iter().any(|element| element.key == bridge.key),
        };
        model.bridges.insert(name, policy);
    }
    for set in [PUBLISHED, PUBLISHED_ANY, OPENED] {
        let published = elements(set)?;
        let ports = published
            .iter()
            .filter_map(|element| published_port(family, element));
        model.published.extend(ports);
    }
    Ok(model)
}

fn bridge_elements(name: &str, policy: BridgePolicy) -> impl Iterator<Item = (&'static str, Element)> {
    let key = interface_key(name);
    let member = |key: &[u8]| Element {
        key: key.to_vec(),
        data: None,
        comment: None,
    };
    let within = if policy.between_containers { ACCEPT } else { DROP };
    let mut elements = vec![
        (BRIDGES, member(&key)),
        (
            SAME_BRIDGE,
            Element {
                key: key.repeat(2),
                data: Some(within),
                comment: None,
            },
        ),
    ];
    if policy.masquerade && !policy.internal {
        elements.push((MASQUERADED, member(&key)));
    }
    if policy.internal {
        elements.push((INTERNAL, member(&key)));
    }
    if policy.unprotected {
        elements.push((UNPROTECTED, member(&key)));
    }
    if policy.routed {
        elements.push((ROUTED, member(&key)));
    }
    if policy.mesh {
        elements.push((MESH, member(&key)));
    }
    elements.into_iter()
}

fn name_of(key: &[u8]) -> Option<String> {
    let end = key.iter().position(|byte| *byte == 0).unwrap_or(key.len());
    String::from_utf8(key[..end].to_vec()).ok()
}

fn by_map(ports: &[(PortKey, Target)]) -> BTreeMap<&'static str, Vec<Element>> {
    let mut maps: BTreeMap<&'static str, Vec<Element>> = BTreeMap::new();
    for (key, target) in ports {
        let map = match target.way {
            Way::Opened => OPENED,
            Way::Led(_) if key.address.is_unspecified() => PUBLISHED_ANY,
            Way::Led(_) => PUBLISHED,
        };
        maps.entry(map).or_default().push(port_element(key, target));
    }
    maps
}

/// Each part of a key fills four bytes, in network order from the left.
fn port_element(key: &PortKey, target: &Target) -> Element {
    let mut bytes = Vec::with_capacity(24);
    if !key.address.is_unspecified() {
        with_octets(key.address, |octets| bytes.extend_from_slice(octets));
    }
    bytes.extend_from_slice(&[key.protocol.number(), 0, 0, 0]);
    bytes.extend_from_slice(&padded(key.port));
    let value = |to: SocketAddr| with_octets(to.ip(), |octets| [octets, &padded(to.port())].concat());
    Element {
        key: bytes,
        data: match target.way {
            Way::Led(to) => Some(ElementData::Value(value(to))),
            Way::Opened => None,
        },
        comment: Some(target.container_id.clone()),
    }
}

fn published_port(family: Family, element: &Element) -> Option<(PortKey, Target)> {
    let unspecified = match family {
        Family::Ipv6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Family::Ipv4 | Family::Inet | Family::Bridge => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    };
    let width = with_octets(unspecified, <[u8]>::len);
    let (address, rest) = match element.key.len() {
        8 => (unspecified, &element.key[..]),
        _ => (address_of(element.key.get(..width)?)?, element.key.get(width..)?),
    };
    let key = PortKey {
        address,
        protocol: Protocol::from_number(*rest.first()?)?,
        port: port(rest.get(4..)?)?,
    };
    let container_id = element.comment.clone()?;
    let way = match &element.data {
        None => Way::Opened,
        Some(ElementData::Value(data)) => Way::Led(SocketAddr::new(
            address_of(data.get(..width)?)?,
            port(data.get(width..)?)?,
        )),
        Some(ElementData::Verdict(_)) => return None,
    };
    Some((key, Target { container_id, way }))
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}
