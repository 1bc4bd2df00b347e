//! Opening the node's networks: those that exist by themselves, and those that users made before.

use super::definition::{self, BUILT_IN, NetworkRecord};
use super::{DEFAULT_NETWORK, Networking, SharedPlaces, ipam};
use crate::clock;
use crate::config::BridgeSettings;
use crate::error::{Error, Result};
use crate::host;
use crate::store::{Store, Table};
use muster_network::{IpNet, Network, NetworkConfig};
use muster_types::network::{AddressRange, NetworkSpec};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Parameters of every network namespace; Docker's. Users other than root may send pings and serve low ports: inside of a
/// container neither is anybody else's.
const SYSCTLS: [(&str, &str); 2] = [
    ("net.ipv4.ping_group_range", "0 2147483647"),
    ("net.ipv4.ip_unprivileged_port_start", "0"),
];

impl Networking {
    /// Opens the network, makes the default bridge and brings back the networks that users made.
    pub async fn open(
        settings: &BridgeSettings,
        engine_id: &str,
        run_dir: &Path,
        places: Option<Arc<dyn SharedPlaces>>,
        store: Store,
        tasks: TaskTracker,
        stopping: CancellationToken,
    ) -> Result<Self> {
        let mut config = NetworkConfig::new(run_dir);
        config.table_prefix.clone_from(&settings.table);
        let usual = SYSCTLS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        config.sysctls.extend(usual);
        let network = Network::open(config).await?;
        let pools = match settings.pools.is_empty() {
            true => ipam::default_pools(engine_id),
            false => settings.pools.clone(),
        };
        let networking = Self {
            network,
            pools,
            catalog: Mutex::default(),
            directory: Arc::default(),
            resolvers: Mutex::default(),
            shared: Default::default(),
            places,
            making: tokio::sync::Mutex::new(()),
            store,
            tasks,
            stopping,
        };
        let reading = networking.store.clone();
        let records = tokio::task::spawn_blocking(move || reading.all::<NetworkRecord>(Table::Networks));
        let records = records.await.map_err(|_| Error::ShuttingDown)??;
        networking.restore(records, settings).await?;
        Ok(networking)
    }

    async fn restore(&self, records: Vec<NetworkRecord>, settings: &BridgeSettings) -> Result<()> {
        let (built_in, own): (Vec<_>, Vec<_>) = records.into_iter().partition(NetworkRecord::is_built_in);
        for record in own {
            if record.is_shared() {
                self.directory.await_shared(&record.id);
            }
            // One that cannot be realised now keeps its name and addresses; what needs it says why it fails.
            if let Err(error) = self.realise(&record).await {
                let error = error.chain();
                tracing::error!(
                    network = record.spec.name,
                    error,
                    "the network cannot be brought back"
                );
            }
            self.catalog().insert(record)?;
        }
        for (name, driver) in BUILT_IN {
            let known = built_in.iter().find(|record| record.spec.name == name).cloned();
            let record = self.built_in(name, driver, known, settings)?;
            self.store.put(Table::Networks, &record.id, &record).await?;
            self.realise(&record).await?;
            self.catalog().insert(record)?;
        }
        Ok(())
    }

    /// The record of a network that exists by itself: as before, but with the subnet of the settings.
    fn built_in(
        &self,
        name: &str,
        driver: &str,
        known: Option<NetworkRecord>,
        settings: &BridgeSettings,
    ) -> Result<NetworkRecord> {
        let mut spec = NetworkSpec {
            name: name.to_owned(),
            driver: driver.to_owned(),
            ..NetworkSpec::default()
        };
        let mut link = String::new();
        if name == DEFAULT_NETWORK {
            let subnet = self.default_subnet(settings)?;
            spec.ranges = vec![AddressRange {
                gateway: ipam::default_gateway(subnet, &[]),
                subnet: subnet.to_string(),
                ..AddressRange::default()
            }];
            spec.options = default_bridge_options(settings);
            link.clone_from(&settings.name);
        }
        let (id, created) = match known {
            Some(known) => (known.id, known.created),
            None => (definition::random_id(), clock::now()),
        };
        Ok(NetworkRecord {
            id,
            created,
            spec,
            link,
            owns_link: false,
        })
    }

    fn default_subnet(&self, settings: &BridgeSettings) -> Result<IpNet> {
        let (subnets, links) = self.catalog().occupied();
        let mut taken =
            host::route_networks(|link| link == settings.name || links.iter().any(|own| own == link));
        taken.extend(subnets);
        let wanted = IpNet::from(settings.subnet).network();
        if !taken.iter().any(|other| other.overlaps(&wanted)) {
            return Ok(wanted);
        }
        ipam::choose_subnet(&self.pools, true, &taken).ok_or_else(|| {
            Error::invalid(format!(
                "no subnet is free for the default bridge: {wanted} and all of the default pools overlap routes of \
                 this host or other networks; choose another subnet"
            ))
        })
    }

    /// Makes what stands for a network on the host, or changes it to be as recorded. Tells whether its link was made now.
    pub(super) async fn realise(&self, record: &NetworkRecord) -> Result<bool> {
        if let Some(bridge) = record.bridge()? {
            return Ok(self.network.ensure_bridge(&bridge).await?);
        }
        if record.spec.driver != "macvlan" {
            return Ok(false);
        }
        match record.options()?.parent {
            Some(parent) => Ok(self.network.ensure_parent(&parent).await?),
            None => {
                self.network.ensure_isolated_parent(&record.link).await?;
                Ok(true)
            }
        }
    }
}

fn default_bridge_options(settings: &BridgeSettings) -> BTreeMap<String, String> {
    let mut options: BTreeMap<String, String> = [
        ("com.docker.network.bridge.default_bridge", "true"),
        ("com.docker.network.bridge.enable_icc", "true"),
        ("com.docker.network.bridge.enable_ip_masquerade", "true"),
        ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0"),
        ("com.docker.network.bridge.name", settings.name.as_str()),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into();
    let mtu = settings.mtu.unwrap_or(1500);
    options.insert("com.docker.network.driver.mtu".to_owned(), mtu.to_string());
    options
}
