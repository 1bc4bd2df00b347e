//! The way out of containers that are on no network with a gateway, but on one that nodes share: a bridge of this node
//! over which they reach the outside, and not each other.

use super::place::Places;
use super::{Networking, WAY_OUT};
use crate::error::{Error, Result};
use crate::record::Record;
use muster_types::container::EndpointSpec;
use muster_types::network::NetworkSpec;

impl Networking {
    /// The places that a container is to have beside those it asked for: the way out where it needs one, and no longer
    /// where it does not. A place that is added is taken; one that is left out is still to be left.
    pub(super) fn with_way_out(&self, record: &Record, mut places: Places) -> Result<Places> {
        if record.wanted_networks().contains_key(WAY_OUT) {
            return Ok(places);
        }
        let taken = places.remove(WAY_OUT);
        if !self.needs_way_out(&places) {
            return Ok(places);
        }
        let endpoint = match taken {
            Some(endpoint) => endpoint,
            None => self.join_one(record, (WAY_OUT, &EndpointSpec::default()), None, &places)?,
        };
        places.insert(WAY_OUT.to_owned(), endpoint);
        Ok(places)
    }

    fn needs_way_out(&self, places: &Places) -> bool {
        let has_gateway = places
            .values()
            .any(|place| place.gateway.is_some() || place.ipv6_gateway.is_some());
        let catalog = self.catalog();
        let leads_outside = |id: &String| {
            let held = catalog.get(id);
            held.is_some_and(|held| held.record.is_shared() && !held.record.spec.internal)
        };
        !has_gateway && places.values().any(|place| leads_outside(&place.network_id))
    }

    /// Makes the bridge where there is none.
    pub(super) async fn ensure_way_out(&self) -> Result<()> {
        if self.catalog().find(WAY_OUT).is_ok() {
            return Ok(());
        }
        let options = [
            ("com.docker.network.bridge.name", WAY_OUT),
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.bridge.enable_ip_masquerade", "true"),
        ];
        let spec = NetworkSpec {
            name: WAY_OUT.to_owned(),
            options: options
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..NetworkSpec::default()
        };
        match self.create(spec).await {
            Ok(_) | Err(Error::NetworkExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
