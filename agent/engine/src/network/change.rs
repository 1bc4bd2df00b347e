//! What users do to networks: making and removing them, and putting containers on them and off them.

use super::definition::{self, NetworkRecord, Surroundings};
use super::place::{self, Places};
use super::{Kind, Networking, hosts, kind};
use crate::container::{Container, Run};
use crate::engine::{Engine, Inner};
use crate::error::{Error, Result};
use crate::files;
use crate::host;
use crate::phase::Phase;
use crate::record::Record;
use crate::store::Table;
use muster_types::container::{EndpointSpec, NetworkEndpoint};
use muster_types::event::EventKind;
use muster_types::network::{NetworkInfo, NetworkSpec};
use std::collections::BTreeMap;
use std::sync::Arc;

impl Engine {
    /// All networks of the node.
    pub fn network_list(&self) -> Vec<NetworkInfo> {
        self.inner.networking.list()
    }

    /// Makes a network and returns its id.
    pub async fn network_create(&self, spec: NetworkSpec) -> Result<String> {
        let inner = Arc::clone(&self.inner);
        self.carry("network_create", async move { inner.network_create(spec).await })
            .await
    }

    /// Removes a network on which no container runs.
    pub async fn network_remove(&self, reference: &str) -> Result<()> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        self.carry(
            "network_remove",
            async move { inner.network_remove(&reference).await },
        )
        .await
    }

    /// Puts a container on a network, at once where it runs.
    pub async fn network_connect(&self, reference: &str, container: &str, spec: EndpointSpec) -> Result<()> {
        let container = self.inner.find(container)?;
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        self.carry("network_connect", async move {
            inner.network_connect(&reference, &container, spec).await
        })
        .await
    }

    /// Takes a container off a network; with `force` also one that is gone by now.
    pub async fn network_disconnect(&self, reference: &str, container: &str, force: bool) -> Result<()> {
        let container = self.inner.find(container)?;
        let (inner, reference) = (Arc::clone(&self.inner), reference.to_owned());
        self.carry("network_disconnect", async move {
            let name = inner.networking.name_for(&container.record(), &reference).await;
            let name = match (name, force) {
                (Ok(name), _) => name,
                (Err(_), true) => reference,
                (Err(error), false) => return Err(error),
            };
            inner.network_disconnect(&name, &container).await
        })
        .await
    }
}

impl Networking {
    pub(super) async fn create(&self, spec: NetworkSpec) -> Result<NetworkRecord> {
        let _making = self.making.lock().await;
        let mut record = self.define(spec)?;
        // A link whose name nobody chose can only be our own, also where making it fails half-way.
        record.owns_link = record.link.ends_with(&record.id[..12]);
        let made = match self.realise(&record).await {
            Ok(made) => {
                record.owns_link = made;
                self.store.put(Table::Networks, &record.id, &record).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = made {
            self.unmake(&record).await;
            return Err(error);
        }
        self.catalog().insert(record.clone())?;
        Ok(record)
    }

    fn define(&self, spec: NetworkSpec) -> Result<NetworkRecord> {
        let (subnets, links) = {
            let catalog = self.catalog();
            if catalog.all().any(|held| held.record.spec.name == spec.name) && !spec.name.is_empty() {
                // The names of those that exist by themselves are refused in other words.
                let predefined = definition::BUILT_IN.iter().any(|(name, _)| *name == spec.name);
                if !predefined {
                    return Err(Error::NetworkExists { name: spec.name });
                }
            }
            catalog.occupied()
        };
        let routes = host::route_networks(|link| links.iter().any(|own| own == link));
        definition::define(
            spec,
            &Surroundings {
                pools: &self.pools,
                subnets: &subnets,
                routes: &routes,
                links: &links,
            },
        )
    }

    async fn remove(&self, reference: &str) -> Result<NetworkRecord> {
        let _making = self.making.lock().await;
        let held = {
            let mut catalog = self.catalog();
            let held = catalog.find(reference)?;
            held.check_removable()?;
            let id = held.record.id.clone();
            // From here on no container can join it.
            catalog.remove(&id)
        };
        let record = held.map(|held| held.record).ok_or_else(|| Error::NoSuchNetwork {
            name: reference.to_owned(),
        })?;
        if let Err(error) = self.store.remove(Table::Networks, &record.id).await {
            self.catalog().insert(record)?;
            return Err(error);
        }
        self.unmake(&record).await;
        Ok(record)
    }

    /// Takes away what stands for a network on the host. What cannot be taken away is logged.
    async fn unmake(&self, record: &NetworkRecord) {
        let removed = match record.spec.driver.as_str() {
            "bridge" if record.owns_link => self.network.remove_bridge(&record.link).await,
            "bridge" => self.network.release_bridge(&record.link).await,
            _ if record.owns_link => self.network.remove_parent(&record.link).await,
            _ => Ok(()),
        };
        if let Err(error) = removed {
            tracing::error!(network = record.spec.name, %error, "what the network stood on is left over");
        }
    }

    /// Moves a running container from its places to others: one more, or one less.
    async fn move_to(&self, record: &Record, run: &Run, places: &Places) -> Result<()> {
        let id = record.id.as_str();
        let routes = place::default_routes(places);
        for endpoint in without(places, &run.places).values() {
            let interface = self.interface(endpoint, &[])?;
            self.network.attach(id, &interface).await?;
        }
        for endpoint in without(&run.places, places).values() {
            self.network.detach(id, &endpoint.interface).await?;
        }
        self.network.set_default_routes(id, &routes).await?;
        self.lead_to_services(&record.id, &run.places, places).await
    }

    /// Ports follow the default gateway; where it did not move they stay as they are.
    async fn move_ports(
        &self,
        record: &Record,
        run: &Run,
        places: &Places,
    ) -> Result<Vec<muster_types::container::PortBinding>> {
        if self.targets(&run.places) == self.targets(places) {
            return Ok(run.ports.clone());
        }
        self.network.unpublish(record.id.as_str()).await?;
        if !self.targets(places).exist() {
            return Ok(Vec::new());
        }
        if run.ports.is_empty() {
            return self.publish(record, places).await;
        }
        self.publish_again(record, places, &run.ports).await?;
        Ok(run.ports.clone())
    }
}

impl Inner {
    async fn network_create(self: &Arc<Self>, spec: NetworkSpec) -> Result<String> {
        let record = self.networking.create(spec).await?;
        self.network_event("create", &record.info(), &[]);
        Ok(record.id)
    }

    async fn network_remove(self: &Arc<Self>, reference: &str) -> Result<()> {
        let record = self.networking.remove(reference).await?;
        self.network_event("destroy", &record.info(), &[]);
        Ok(())
    }

    /// Publishes an event of a network.
    fn network_event(&self, action: &str, network: &NetworkInfo, more: &[(&str, &str)]) {
        let own = [
            ("name", network.spec.name.as_str()),
            ("type", network.spec.driver.as_str()),
        ];
        let attributes: BTreeMap<String, String> = own
            .iter()
            .chain(more)
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        self.events
            .publish(EventKind::Network, action, network.id.as_str(), attributes);
    }

    /// Publishes that a container came to or left each of its places.
    pub(crate) fn places_event(&self, action: &str, container: &Container, places: &Places) {
        for endpoint in places.values() {
            if let Ok(network) = self.networking.find(&endpoint.network_id) {
                self.network_event(action, &network, &[("container", container.id.as_str())]);
            }
        }
    }

    async fn network_connect(
        self: &Arc<Self>,
        reference: &str,
        container: &Arc<Container>,
        spec: EndpointSpec,
    ) -> Result<()> {
        let _owned = container.operation.lock().await;
        let record = container.record();
        let name = self.networking.name_for(&record, reference).await?;
        let name = name.as_str();
        refuse_removed(&record)?;
        let mut wanted = record.wanted_networks();
        let run = container.run();
        if run.as_ref().is_some_and(|run| run.places.contains_key(name)) {
            return Err(Error::forbidden(format!(
                "endpoint with name {} already exists in network {name}",
                record.name
            )));
        }
        if name == "host" {
            return Err(Error::invalid(
                "cannot connect container to host network - container must be created in host network mode",
            ));
        }
        if matches!(kind(&record.config.host.network), Kind::Shared(_)) {
            return Err(Error::invalid(
                "container sharing network namespace with another container or host cannot be connected to any other \
                 network",
            ));
        }
        wanted.insert(name.to_owned(), spec.clone());
        place::check_together(wanted.keys().map(String::as_str))?;
        self.networking.check_place(&record.config, name, &spec)?;
        if let Some(run) = run {
            self.attach_live(container, &record, run, name, &spec).await?;
        }
        self.keep_networks(container, wanted).await
    }

    /// Gives a running container one more place.
    async fn attach_live(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: &Record,
        run: Run,
        name: &str,
        spec: &EndpointSpec,
    ) -> Result<()> {
        let wanted = place::Wanted::from([(name.to_owned(), spec.clone())]);
        let leases = self.networking.lease_for(record, &wanted).await?;
        let join = || {
            let leased = leases.on(name);
            self.networking
                .join_one(record, (name, spec), leased, &run.places)
        };
        let endpoint = self.networking.join_standing(record, &leases, join).await?;
        leases.keep();
        let mut places = run.places.clone();
        places.insert(name.to_owned(), endpoint.clone());
        let only = Places::from([(name.to_owned(), endpoint)]);
        let places = match self.networking.with_way_out(record, places) {
            Ok(places) => places,
            Err(error) => {
                self.networking.leave(&record.id, &only);
                return Err(error);
            }
        };
        if let Err(error) = self.apply_places(container, record, &run, &places).await {
            // What was made of it goes again; the container keeps what it had.
            let moved = Run {
                places: places.clone(),
                ..run.clone()
            };
            if let Err(left) = self.apply_places(container, record, &moved, &run.places).await {
                tracing::error!(
                    container = record.id.short(),
                    error = left.chain(),
                    "an attachment is left over"
                );
            }
            self.networking.leave(&record.id, &without(&places, &run.places));
            return Err(error);
        }
        self.networking.leave(&record.id, &without(&run.places, &places));
        self.networking.enter(&record.id, &without(&places, &run.places));
        self.places_event("connect", container, &only);
        Ok(())
    }

    async fn network_disconnect(self: &Arc<Self>, name: &str, container: &Arc<Container>) -> Result<()> {
        let _owned = container.operation.lock().await;
        let record = container.record();
        refuse_removed(&record)?;
        let mut wanted = record.wanted_networks();
        if wanted.remove(name).is_none() {
            return Err(Error::NotConnected {
                container: record.id.to_string(),
                network: name.to_owned(),
            });
        }
        if name == "host" && container.run().is_some() {
            return Err(Error::invalid(
                "cannot disconnect container from host network - container was created in host network mode",
            ));
        }
        if let Some(run) = container.run()
            && let Some(endpoint) = run.places.get(name).cloned()
        {
            let mut places = run.places.clone();
            places.remove(name);
            let places = self.networking.with_way_out(&record, places)?;
            let appeared = without(&places, &run.places);
            if let Err(error) = self.apply_places(container, &record, &run, &places).await {
                self.networking.leave(&record.id, &appeared);
                return Err(error);
            }
            self.networking.enter(&record.id, &appeared);
            self.networking.leave(&record.id, &without(&run.places, &places));
            self.networking.clear_shared().await;
            self.places_event(
                "disconnect",
                container,
                &Places::from([(name.to_owned(), endpoint)]),
            );
        }
        self.keep_networks(container, wanted).await?;
        // As Docker does: the end of a connection is an event, and so is what the user did, to a stopped container too.
        if let Ok(network) = self.networking.find(name) {
            self.network_event("disconnect", &network, &[("container", container.id.as_str())]);
        }
        Ok(())
    }

    /// Makes a running container stand in `places`, and notes it.
    async fn apply_places(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: &Record,
        run: &Run,
        places: &Places,
    ) -> Result<()> {
        self.networking.move_to(record, run, places).await?;
        let ports = self.networking.move_ports(record, run, places).await?;
        let began_to_resolve = Networking::resolves_names(places) && !Networking::resolves_names(&run.places);
        self.networking
            .serve_names(record, places, &self.resolver_choice(&record.config))
            .await?;
        let moved = Run {
            places: places.clone(),
            ports,
            ..run.clone()
        };
        self.write_facts(
            record,
            &moved.places,
            &moved.ports,
            &moved.process,
            moved.ids.as_ref(),
        )?;
        let before = hosts::own_addresses(&run.places);
        let now = hosts::own_addresses(places);
        let for_files = record.clone();
        self.blocking(move |inner| inner.rewrite_files(&for_files, &before, &now, began_to_resolve))
            .await?;
        container.with(|cell| {
            if cell.run.is_some() {
                cell.run = Some(moved);
            }
        });
        Ok(())
    }

    /// Changes the files of a running container to its new addresses. They are mounted, so they are written in place.
    fn rewrite_files(
        &self,
        record: &Record,
        before: &[std::net::IpAddr],
        now: &[std::net::IpAddr],
        began_to_resolve: bool,
    ) -> Result<()> {
        let path = self.layout.file(&record.id, files::HOSTS);
        let failed = |source| Error::io(format!("change {}", path.display()), source);
        let content = std::fs::read_to_string(&path).map_err(failed)?;
        let names = files::own_names(&record.config, &record.host_name);
        let gone: Vec<_> = before
            .iter()
            .filter(|address| !now.contains(address))
            .copied()
            .collect();
        let mut changed = hosts::without(&content, &gone, &names);
        for address in now.iter().filter(|address| !before.contains(address)) {
            changed.push_str(&hosts::line(*address, &names));
        }
        std::fs::write(&path, changed).map_err(failed)?;
        if began_to_resolve {
            let path = self.layout.file(&record.id, files::RESOLV_CONF);
            std::fs::write(&path, self.resolver_file(record, true))
                .map_err(|source| Error::io(format!("change {}", path.display()), source))?;
        }
        Ok(())
    }

    /// Makes what a container wants of networks durable.
    async fn keep_networks(&self, container: &Container, wanted: place::Wanted) -> Result<()> {
        let record = container.with(|cell| {
            cell.record.networks = Some(wanted);
            cell.record.clone()
        });
        self.store
            .put(Table::Containers, record.id.as_str(), &record)
            .await
    }

    /// The kernel keeps published ports, and opening the network reserves them again; this repairs what others took away.
    pub(crate) async fn republish(&self, record: &Record) {
        let Ok(container) = self.find(record.id.as_str()) else {
            return;
        };
        let Some(run) = container.run().filter(|run| !run.ports.is_empty()) else {
            return;
        };
        match self
            .networking
            .publish_again(record, &run.places, &run.ports)
            .await
        {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(
                    container = record.id.short(),
                    error = error.chain(),
                    "its ports are not published"
                );
            }
        }
    }

    /// The places that a container that does not run would have, for showing them.
    pub(crate) fn places_at_rest(&self, record: &Record) -> Places {
        let wanted = record.wanted_networks();
        let places = wanted.into_iter().map(|(name, spec)| {
            let endpoint = NetworkEndpoint {
                network_id: self.networking.id_of(&name),
                spec,
                ..NetworkEndpoint::default()
            };
            (name, endpoint)
        });
        places.collect()
    }
}

/// The places of `all` on networks that `others` have none on.
fn without(all: &Places, others: &Places) -> Places {
    let more = all.iter().filter(|(name, _)| !others.contains_key(*name));
    more.map(|(name, endpoint)| (name.clone(), endpoint.clone()))
        .collect()
}

fn refuse_removed(record: &Record) -> Result<()> {
    match record.phase {
        Phase::Removing | Phase::Dead | Phase::Removed => Err(Error::wrong_state(format!(
            "Container {} is marked for removal and cannot be connected or disconnected to the network",
            record.id
        ))),
        _ => Ok(()),
    }
}
