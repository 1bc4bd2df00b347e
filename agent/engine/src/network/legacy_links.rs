//! Links between containers of the default bridge: names in the hosts file, and variables that tell addresses and ports.

use super::hosts;
use super::ports::parse_exposed;
use crate::container::Container;
use crate::engine::Inner;
use crate::error::{Error, Result};
use crate::files;
use crate::record::Record;
use crate::store::Table;
use muster_types::container::{ContainerConfig, NetworkMode};
use std::net::Ipv4Addr;
use std::sync::Arc;

/// Variables of a linked container that say nothing to others.
const PRIVATE: [&str; 2] = ["HOME", "PATH"];

/// A container that another one is linked to, while it runs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linked {
    pub alias: String,
    pub address: Ipv4Addr,
    pub record: Record,
}

/// A link as users write it: whom it leads to, and by which name.
pub(crate) fn parse(link: &str) -> (&str, &str) {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    (target.trim_start_matches('/'), alias.trim_start_matches('/'))
}

impl Record {
    /// The environment, with the variables of linked containers.
    pub(crate) fn env_with(&self, linked: &[Linked]) -> Vec<String> {
        let mut env = self.env.clone();
        for linked in linked {
            env.extend(linked.variables(&self.name));
        }
        env
    }

    /// The containers of the default bridge that it is linked to, as `container[:alias]`.
    fn legacy_links(&self) -> &[String] {
        match self.config.host.network {
            NetworkMode::Bridge => &self.config.host.links,
            NetworkMode::Host | NetworkMode::None | NetworkMode::Container(_) | NetworkMode::Named(_) => &[],
        }
    }
}

impl Inner {
    /// Refuses links to containers that do not exist.
    pub(crate) fn check_links(&self, config: &ContainerConfig) -> Result<()> {
        let endpoints = config
            .host
            .endpoints
            .values()
            .flat_map(|endpoint| &endpoint.links);
        for link in config.host.links.iter().chain(endpoints) {
            let (target, alias) = parse(link);
            if target.is_empty() || alias.is_empty() {
                return Err(Error::invalid(format!("bad format for links: {link}")));
            }
        }
        if config.host.network != NetworkMode::Bridge {
            return Ok(());
        }
        for link in &config.host.links {
            let (target, _) = parse(link);
            self.find(target)
                .map_err(|error| Error::invalid(format!("could not get container for {target}: {error}")))?;
        }
        Ok(())
    }

    /// Takes away the link of this alias.
    pub(crate) async fn unlink(&self, container: &Container, alias: &str) -> Result<()> {
        let _owned = container.operation.lock().await;
        let record = container.with(|cell| {
            let links = &mut cell.record.config.host.links;
            let known = links.len();
            links.retain(|link| parse(link).1 != alias);
            (links.len() < known).then(|| cell.record.clone())
        });
        let record = record.ok_or_else(|| Error::NoSuchContainer {
            reference: format!("{}/{alias}", container.id),
        })?;
        self.store
            .put(Table::Containers, record.id.as_str(), &record)
            .await
    }

    /// The running containers that a container of the default bridge is linked to.
    pub(crate) fn linked(&self, record: &Record) -> Result<Vec<Linked>> {
        let links = record.legacy_links().iter().map(|link| {
            let (target, alias) = parse(link);
            let container = self.find(target)?;
            let other = container.record();
            let run = container.run();
            let address = run.and_then(|run| run.places.get("bridge")?.address);
            let address = address.ok_or_else(|| {
                let (of, other) = (&record.name, &other.name);
                Error::wrong_state(format!(
                    "Cannot link to a non running container: /{other} AS /{of}/{alias}"
                ))
            })?;
            Ok(Linked {
                alias: alias.to_owned(),
                address,
                record: other,
            })
        });
        links.collect()
    }

    /// Writes the new address of a container into the hosts files of those that are linked to it.
    pub(crate) async fn tell_linked(self: &Arc<Self>, started: &Record) {
        let is_linked = |record: &Record| {
            let mut targets = record.legacy_links().iter().map(|link| parse(link).0);
            targets.any(|target| {
                self.find(target)
                    .is_ok_and(|container| container.id == started.id)
            })
        };
        // Links are rare, and most starts have nobody to tell.
        let may_be_linked = |container: &&Arc<Container>| {
            container.with(|cell| cell.run.is_some() && !cell.record.config.host.links.is_empty())
        };
        let containers = self.containers().all();
        for container in containers.iter().filter(may_be_linked) {
            let record = container.record();
            if !is_linked(&record) {
                continue;
            }
            let told = self.blocking(move |inner| inner.relink(&record)).await;
            if let Err(error) = told {
                tracing::warn!(
                    container = container.id.short(),
                    error = error.chain(),
                    "its hosts file is stale"
                );
            }
        }
    }

    fn relink(&self, record: &Record) -> Result<()> {
        let path = self.layout.file(&record.id, files::HOSTS);
        let failed = |source| Error::io(format!("change {}", path.display()), source);
        let mut content = std::fs::read_to_string(&path).map_err(failed)?;
        for linked in self.linked(record)? {
            content = hosts::relinked(&content, &linked.names(), linked.address.into());
        }
        std::fs::write(&path, content).map_err(failed)
    }
}

impl Linked {
    /// The names in the hosts file.
    pub fn names(&self) -> String {
        let mut names = format!("{} {}", self.alias, self.record.host_name);
        if self.record.name != self.alias {
            names.push(' ');
            names.push_str(&self.record.name);
        }
        names
    }

    /// The variables that the container `of` gets.
    pub fn variables(&self, of: &str) -> Vec<String> {
        let alias = self.alias.to_uppercase().replace('-', "_");
        let address = self.address;
        let mut ports: Vec<_> = self
            .record
            .exposed_ports
            .iter()
            .filter_map(|text| parse_exposed(text).ok())
            .collect();
        ports.sort();
        let mut variables = Vec::new();
        if let Some((port, protocol)) = ports.first() {
            variables.push(format!("{alias}_PORT={protocol}://{address}:{port}"));
        }
        for (port, protocol) in ports {
            let name = format!("{alias}_PORT_{port}_{}", protocol.to_string().to_uppercase());
            variables.push(format!("{name}={protocol}://{address}:{port}"));
            variables.push(format!("{name}_ADDR={address}"));
            variables.push(format!("{name}_PORT={port}"));
            variables.push(format!("{name}_PROTO={protocol}"));
        }
        variables.push(format!("{alias}_NAME=/{of}/{}", self.alias));
        for variable in &self.record.env {
            let name = variable
                .split_once('=')
                .map_or(variable.as_str(), |(name, _)| name);
            if !PRIVATE.contains(&name) {
                variables.push(format!("{alias}_ENV_{variable}"));
            }
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_have_a_target_and_an_alias() {
        assert_eq!(parse("/db1:db"), ("db1", "db"));
        assert_eq!(parse("db1"), ("db1", "db1"));
        assert_eq!(parse("db1:/web/db"), ("db1", "web/db"));
    }
}
