//! What has to be known about a topology besides what the kernel knows.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{TopologyError, file_error};
use crate::address::Ipv4Net;

const FILE: &str = "topology.json";
const UNFINISHED: &str = "topology.json.new";

/// Nodes and addresses of a topology.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub subnet: Ipv4Net,
    pub nodes: BTreeMap<String, Node>,
    /// How many cables were ever laid; their names are never used again.
    pub cables: u32,
}

/// A node as the topology knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Node {
    pub address: Ipv4Addr,
    /// Name of the cable's end at the bridge.
    pub cable: String,
}

impl Record {
    pub fn read(directory: &Path) -> Result<Self, TopologyError> {
        let path = directory.join(FILE);
        let read = || Ok(serde_json::from_slice(&std::fs::read(&path)?)?);
        read().map_err(file_error("read", &path))
    }

    /// Replaces the file in one step.
    pub fn write(&self, directory: &Path) -> Result<(), TopologyError> {
        let unfinished = directory.join(UNFINISHED);
        let write = || -> io::Result<()> {
            std::fs::write(&unfinished, serde_json::to_vec_pretty(self)?)?;
            std::fs::rename(&unfinished, directory.join(FILE))
        };
        write().map_err(file_error("write", &unfinished))
    }

    pub fn remove(directory: &Path) -> Result<(), TopologyError> {
        for name in [FILE, UNFINISHED] {
            let path = directory.join(name);
            match std::fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(file_error("remove", &path)(source));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The lowest address that no node has, with the network's prefix; the first is the bridge's.
    pub fn free_address(&self) -> Option<Ipv4Net> {
        let taken = |address: Ipv4Addr| self.nodes.values().any(|node| node.address == address);
        (2..)
            .map_while(|n| self.subnet.nth(n))
            .find(|candidate| !taken(candidate.address()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_given_out_from_the_lowest_until_none_is_left() {
        let mut record = Record {
            subnet: "10.9.0.0/29".parse().unwrap(),
            nodes: BTreeMap::new(),
            cables: 0,
        };
        for last in 2..=6 {
            let address = record.free_address().unwrap();
            assert_eq!(address.to_string(), format!("10.9.0.{last}/29"));
            let node = Node {
                address: address.address(),
                cable: String::new(),
            };
            record.nodes.insert(format!("node-{last}"), node);
        }
        assert_eq!(record.free_address(), None);
        record.nodes.remove("node-4");
        assert_eq!(
            record.free_address().unwrap().address(),
            Ipv4Addr::new(10, 9, 0, 4)
        );
    }
}
