//! Numbers for published ports that the spec leaves open.

use crate::draft::Draft;
use muster_types::service::{Protocol, PublishMode, PublishedPort};
use std::collections::BTreeSet;
use std::ops::RangeInclusive;

/// Where chosen ports come from, as in Swarm.
const DYNAMIC_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// Chooses ports for the ingress ports of the spec that name none. A host-mode port 0 is the node's to choose.
pub(super) fn allocate_ports(draft: &mut Draft<'_>) {
    if draft.service.removing {
        return;
    }
    let open = |port: &PublishedPort| port.mode == PublishMode::Ingress && port.published_port == 0;
    let mut ports = draft.service.spec.ports.clone();
    let mut used = if ports.iter().any(open) {
        used_ports(draft)
    } else {
        BTreeSet::new()
    };
    used.extend(
        ports
            .iter()
            .filter(|port| !open(port))
            .map(|port| (port.protocol, port.published_port)),
    );
    for port in ports.iter_mut().filter(|port| open(port)) {
        let kept = draft
            .service
            .allocated_ports
            .iter()
            .find(|before| {
                before.mode == port.mode
                    && (before.protocol, before.target_port) == (port.protocol, port.target_port)
                    && DYNAMIC_PORTS.contains(&before.published_port)
                    && !used.contains(&(before.protocol, before.published_port))
            })
            .map(|before| before.published_port);
        let chosen = kept.or_else(|| {
            DYNAMIC_PORTS
                .into_iter()
                .find(|number| !used.contains(&(port.protocol, *number)))
        });
        // Where the range is exhausted the port stays 0, which says that it is not published.
        if let Some(number) = chosen {
            port.published_port = number;
            used.insert((port.protocol, number));
        }
    }
    draft.allocated_ports = ports;
}

/// Ingress ports of the other services.
fn used_ports(draft: &Draft<'_>) -> BTreeSet<(Protocol, u16)> {
    draft
        .state
        .services()
        .filter(|service| service.id != draft.service.id && !service.removing)
        .flat_map(|service| service.allocated_ports.iter().chain(&service.spec.ports))
        .filter(|port| port.mode == PublishMode::Ingress && port.published_port != 0)
        .map(|port| (port.protocol, port.published_port))
        .collect()
}
