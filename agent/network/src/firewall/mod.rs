//! The packet filter of this node: what it should hold, as data, and how that gets into the kernel.
//!
//! Everything is in one table of our own for each family of IP, whose rules never change after it was made: bridges and published ports
//! are elements of its sets and maps, so that a change costs the same however many there are. The memory copy is
//! what counts. When the kernel's copy turns out to differ, the whole table is replaced in one transaction.

mod admin;
mod elements;
mod expressions;
mod kernel;
mod model;
mod pair;
mod ruleset;

pub(crate) use kernel::{NetlinkTables, Tables};
pub(crate) use model::{BridgePolicy, Model, PortKey, Target, Way};
pub(crate) use pair::Firewalls;

use crate::netlink::NetlinkError;
use crate::nft::{Batch, Change, Family};

/// Keeps the kernel's table equal to the model.
pub(crate) struct Firewall<T> {
    tables: T,
    family: Family,
    table: String,
    model: Model,
}

impl<T: Tables> Firewall<T> {
    /// Takes over what the kernel holds from an earlier run, and replaces the table so that its rules are this
    /// version's, whatever was there.
    pub fn open(mut tables: T, family: Family, table: String) -> Result<Self, NetlinkError> {
        let model = elements::read_model(family, |set| tables.elements(family, &table, set))?;
        let mut firewall = Self {
            tables,
            family,
            table,
            model,
        };
        firewall.repair()?;
        Ok(firewall)
    }

    /// What the table should hold.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Replaces the whole table in one transaction.
    pub fn repair(&mut self) -> Result<(), NetlinkError> {
        let changes = ruleset::whole(self.family, &self.model);
        self.commit(changes)
    }

    /// Makes a bridge known, or changes what it may do.
    pub fn set_bridge(&mut self, name: &str, policy: BridgePolicy) -> Result<(), NetlinkError> {
        let previous = self.model.bridges.insert(name.to_owned(), policy);
        if previous == Some(policy) {
            return Ok(());
        }
        let mut changes = previous.map_or_else(Vec::new, |old| elements::without_bridge(name, old));
        changes.extend(elements::with_bridge(name, policy));
        let result = self.change(changes);
        if result.is_err() {
            match previous {
                Some(old) => self.model.bridges.insert(name.to_owned(), old),
                None => self.model.bridges.remove(name),
            };
        }
        result
    }

    /// Forgets a bridge.
    pub fn remove_bridge(&mut self, name: &str) -> Result<(), NetlinkError> {
        match self.model.bridges.remove(name) {
            Some(policy) => self.change(elements::without_bridge(name, policy)),
            None => Ok(()),
        }
    }

    /// Opens ports, all of them or none.
    pub fn publish(&mut self, ports: &[(PortKey, Target)]) -> Result<(), NetlinkError> {
        if ports.is_empty() {
            return Ok(());
        }
        let previous = self.model.published.clone();
        self.model.published.extend(ports.iter().cloned());
        let result = self.change(elements::with_ports(ports));
        if result.is_err() {
            self.model.published = previous;
        }
        result
    }

    /// Closes ports.
    pub fn unpublish(&mut self, keys: &[PortKey]) -> Result<(), NetlinkError> {
        let closed: Vec<_> = keys
            .iter()
            .filter_map(|key| self.model.published.remove_entry(key))
            .collect();
        if closed.is_empty() {
            return Ok(());
        }
        self.change(elements::without_ports(&closed))
    }

    /// Whether the kernel still holds exactly the ports and bridges of the model.
    pub fn matches_kernel(&mut self) -> Result<bool, NetlinkError> {
        let (family, table) = (self.family, &self.table);
        let tables = &mut self.tables;
        Ok(elements::read_model(family, |set| tables.elements(family, table, set))? == self.model)
    }

    /// Makes a small change; if the kernel's table is not as expected, replaces it by the model.
    fn change(&mut self, changes: Vec<Change>) -> Result<(), NetlinkError> {
        match self.commit(changes) {
            Err(error) if error.errno().is_some() => {
                let reason = &error as &dyn std::error::Error;
                tracing::warn!(
                    table = self.table,
                    error = reason,
                    "packet filter was changed by others; replacing it"
                );
                self.repair()
            }
            other => other,
        }
    }

    fn commit(&mut self, changes: Vec<Change>) -> Result<(), NetlinkError> {
        self.tables.commit(&Batch {
            family: self.family,
            table: self.table.clone(),
            changes,
        })
    }
}

#[cfg(test)]
mod tests;
