//! When slots are due although nothing changes.

use imbl::{OrdMap, OrdSet};
use muster_types::{NodeId, ServiceId, Slot, Timestamp};

/// The first slot in order.
pub(crate) const FIRST_SLOT: Slot = Slot::Replica(0);
/// The last slot in order.
const LAST_SLOT: Slot = Slot::Node(NodeId::from_u128(u128::MAX));

/// One time per slot, also in order of time. A clone costs the same for any size.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Due {
    at: OrdMap<(ServiceId, Slot), Timestamp>,
    order: OrdSet<(Timestamp, ServiceId, Slot)>,
}

impl Due {
    /// When the first slot is due.
    pub(crate) fn first(&self) -> Option<Timestamp> {
        self.order.get_min().map(|(at, _, _)| *at)
    }

    /// The slots that are due by then.
    pub(crate) fn until(&self, now: Timestamp) -> impl Iterator<Item = (ServiceId, Slot)> + '_ {
        self.order
            .iter()
            .take_while(move |(at, _, _)| *at <= now)
            .map(|(_, service, slot)| (*service, *slot))
    }

    /// The slots of a service that are due at some time, in order.
    pub(crate) fn of_service(&self, service: ServiceId) -> impl Iterator<Item = Slot> + '_ {
        self.at
            .range((service, FIRST_SLOT)..=(service, LAST_SLOT))
            .map(|((_, slot), _)| *slot)
    }

    /// The slot is due then, if it is not due before.
    pub(crate) fn add(&mut self, service: ServiceId, slot: Slot, at: Timestamp) {
        match self.at.get(&(service, slot)) {
            Some(before) if *before <= at => return,
            Some(_) => self.remove(service, slot),
            None => {}
        }
        self.at.insert((service, slot), at);
        self.order.insert((at, service, slot));
    }

    /// The slot is not due any more.
    pub(crate) fn remove(&mut self, service: ServiceId, slot: Slot) {
        if let Some(at) = self.at.remove(&(service, slot)) {
            self.order.remove(&(at, service, slot));
        }
    }

    /// No slot of the service is.
    pub(crate) fn remove_service(&mut self, service: ServiceId) {
        for slot in self.of_service(service).collect::<Vec<_>>() {
            self.remove(service, slot);
        }
    }
}
