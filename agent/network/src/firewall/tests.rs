//! What is done to the kernel's tables, seen through a recording twin, and what `nft` makes of it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::{Arc, Mutex};

use rustix::io::Errno;

use super::*;
use crate::nft::{Element, ElementData, Name};
use crate::spec::Protocol;

/// Keeps what it is told as the kernel would, and fails when asked to.
#[derive(Clone, Default)]
struct Recording {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    batches: Vec<Batch>,
    sets: BTreeMap<Name, Vec<Element>>,
    refusals: Vec<Errno>,
}

impl Tables for Recording {
    fn commit(&mut self, batch: &Batch) -> Result<(), NetlinkError> {
        let mut state = self.state.lock().unwrap();
        state.batches.push(batch.clone());
        if let Some(errno) = state.refusals.pop() {
            return Err(NetlinkError::Refused {
                message: 1,
                errno,
                detail: None,
            });
        }
        for change in &batch.changes {
            match change {
                Change::DeleteTable => state.sets.clear(),
                Change::AddElements { set, elements } => {
                    let held = state.sets.entry(set.clone()).or_default();
                    held.extend(elements.iter().cloned());
                }
                Change::DeleteElements { set, elements } => {
                    let held = state.sets.entry(set.clone()).or_default();
                    held.retain(|element| !elements.iter().any(|deleted| deleted.key == element.key));
                }
                Change::Flush { set } => state.sets.entry(set.clone()).or_default().clear(),
                Change::AddTable
                | Change::AddChain { .. }
                | Change::DeleteChain { .. }
                | Change::DeleteSet { .. }
                | Change::FlushChain { .. }
                | Change::AddSet(_)
                | Change::AddRule { .. } => {}
            }
        }
        Ok(())
    }

    fn elements(&mut self, _: Family, _: &str, set: &str) -> Result<Vec<Element>, NetlinkError> {
        Ok(self
            .state
            .lock()
            .unwrap()
            .sets
            .get(set)
            .cloned()
            .unwrap_or_default())
    }
}

const OPEN: BridgePolicy = BridgePolicy {
    masquerade: true,
    internal: false,
    between_containers: true,
    unprotected: true,
    routed: true,
    mesh: false,
};
const CLOSED: BridgePolicy = BridgePolicy {
    masquerade: false,
    internal: true,
    between_containers: false,
    unprotected: false,
    routed: false,
    mesh: false,
};

fn port(address: [u8; 4], protocol: Protocol, port: u16) -> (PortKey, Target) {
    let key = PortKey {
        address: address.into(),
        protocol,
        port,
    };
    let target = Target {
        container_id: "c1".repeat(32),
        way: Way::Led((Ipv4Addr::new(172, 17, 0, 2), port + 1000).into()),
    };
    (key, target)
}

fn opened(port: u16) -> (PortKey, Target) {
    let (key, target) = self::port([172, 17, 0, 2], Protocol::Tcp, port);
    let way = Way::Opened;
    (key, Target { way, ..target })
}

fn filled<T: Tables>(tables: T) -> Firewall<T> {
    let mut firewall = Firewall::open(tables, Family::Ipv4, "muster".to_owned()).unwrap();
    firewall.set_bridge("br0", OPEN).unwrap();
    firewall.set_bridge("a-fifteen-chars", CLOSED).unwrap();
    firewall
        .publish(&[
            port([0; 4], Protocol::Tcp, 80),
            port([127, 0, 0, 1], Protocol::Udp, 53),
            opened(80),
        ])
        .unwrap();
    firewall
}

#[test]
fn a_new_run_takes_over_the_elements_and_replaces_the_table_at_once() {
    let tables = Recording::default();
    let model = filled(tables.clone()).model().clone();
    let mut firewall = Firewall::open(tables.clone(), Family::Ipv4, "muster".to_owned()).unwrap();
    assert_eq!(firewall.model(), &model);
    assert!(firewall.matches_kernel().unwrap());
    let state = tables.state.lock().unwrap();
    let last = state.batches.last().unwrap();
    assert_eq!(
        last.changes[..3],
        [Change::AddTable, Change::DeleteTable, Change::AddTable]
    );
}

#[test]
fn a_change_names_only_the_elements_that_change() {
    let tables = Recording::default();
    let mut firewall = filled(tables.clone());
    let before = tables.state.lock().unwrap().batches.len();
    firewall.set_bridge("br0", OPEN).unwrap();
    firewall
        .unpublish(&[
            port([0; 4], Protocol::Tcp, 80).0,
            port([0; 4], Protocol::Tcp, 81).0,
        ])
        .unwrap();
    firewall.unpublish(&[port([0; 4], Protocol::Tcp, 80).0]).unwrap();
    let state = tables.state.lock().unwrap();
    let batches = &state.batches[before..];
    assert_eq!(batches.len(), 1, "nothing to do is not done");
    assert!(matches!(
        batches[0].changes[..],
        [Change::DeleteElements { ref set, ref elements }] if set == "published_any" && elements.len() == 1
    ));
}

#[test]
fn a_refused_change_replaces_the_table() {
    let tables = Recording::default();
    let mut firewall = filled(tables.clone());
    tables.state.lock().unwrap().refusals = vec![Errno::NOENT];
    firewall.publish(&[port([0; 4], Protocol::Tcp, 443)]).unwrap();
    assert!(firewall.matches_kernel().unwrap());
    let state = tables.state.lock().unwrap();
    assert_eq!(state.batches.last().unwrap().changes[1], Change::DeleteTable);
}

#[test]
fn a_change_that_cannot_be_made_is_not_remembered() {
    let tables = Recording::default();
    let mut firewall = filled(tables.clone());
    let model = firewall.model().clone();
    for attempt in 0..2 {
        tables.state.lock().unwrap().refusals = vec![Errno::NOMEM, Errno::NOENT];
        let failed = match attempt {
            0 => firewall.publish(&[port([0; 4], Protocol::Tcp, 443), port([0; 4], Protocol::Tcp, 80)]),
            _ => firewall.set_bridge("br9", OPEN),
        };
        assert_eq!(failed.unwrap_err().errno(), Some(Errno::NOMEM));
        assert_eq!(firewall.model(), &model);
    }
}

#[test]
fn elements_that_are_not_ours_are_left_out_of_the_model() {
    let tables = Recording::default();
    let odd = |key: &[u8]| Element {
        key: key.to_vec(),
        data: Some(ElementData::Value(vec![1])),
        comment: None,
    };
    let foreign = vec![odd(&[]), odd(&[6, 0, 0, 0, 0, 80, 0, 0]), odd(&[99; 12])];
    tables
        .state
        .lock()
        .unwrap()
        .sets
        .insert("published_any".into(), foreign);
    let firewall = Firewall::open(tables, Family::Ipv4, "muster".to_owned()).unwrap();
    assert_eq!(firewall.model(), &Model::default());
}

fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("tests run as root");
        test();
    });
    thread.join().unwrap();
}

fn nft(arguments: &[&str]) -> String {
    let output = Command::new("nft").args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "nft {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// The kernel lists the elements of a set in any order.
fn with_sorted_elements(listing: &str) -> String {
    let mut sorted = String::new();
    let mut rest = listing;
    while let Some((before, after)) = rest.split_once("elements = {") {
        let (elements, after) = after.split_once('}').unwrap();
        let mut elements: Vec<&str> = elements.split(',').map(str::trim).collect();
        elements.sort_unstable();
        sorted.push_str(before);
        sorted.push_str(&format!("elements = {{ {} }}", elements.join(", ")));
        rest = after;
    }
    sorted + rest
}

#[test]
fn nft_reads_back_the_table_that_was_meant() {
    in_own_namespace(|| {
        nft(&["add", "table", "ip", "others"]);
        let mut firewall = filled(NetlinkTables::open().unwrap());
        let listed = with_sorted_elements(&nft(&["list", "table", "ip", "muster"]));
        assert_eq!(listed, include_str!("expected.nft"), "{listed}");
        let (first, second) = (
            port([0; 4], Protocol::Tcp, 80).0,
            port([127, 0, 0, 1], Protocol::Udp, 53).0,
        );
        firewall.unpublish(&[first, second, opened(80).0]).unwrap();
        firewall.remove_bridge("br0").unwrap();
        firewall.remove_bridge("a-fifteen-chars").unwrap();
        assert!(!nft(&["list", "table", "ip", "muster"]).contains("elements"));
        assert!(nft(&["list", "tables"]).contains("table ip others"));
    });
}

#[test]
fn a_table_that_others_destroyed_comes_back() {
    in_own_namespace(|| {
        let mut firewall = filled(NetlinkTables::open().unwrap());
        nft(&["flush", "ruleset"]);
        assert!(!firewall.matches_kernel().unwrap());
        firewall.publish(&[port([0; 4], Protocol::Sctp, 90)]).unwrap();
        assert!(firewall.matches_kernel().unwrap());
        nft(&[
            "delete",
            "element",
            "ip",
            "muster",
            "published_any",
            "{ tcp . 80 }",
        ]);
        firewall.unpublish(&[port([0; 4], Protocol::Tcp, 80).0]).unwrap();
        assert!(firewall.matches_kernel().unwrap());
        assert_eq!(firewall.model().published.len(), 3);
    });
}

#[test]
fn thousands_of_ports_are_taken_over_in_one_transaction() {
    in_own_namespace(|| {
        let mut firewall =
            Firewall::open(NetlinkTables::open().unwrap(), Family::Ipv4, "muster".to_owned()).unwrap();
        let ports: Vec<_> = (1..=5000)
            .map(|number| port([0; 4], Protocol::Tcp, number))
            .collect();
        firewall.publish(&ports).unwrap();
        let again =
            Firewall::open(NetlinkTables::open().unwrap(), Family::Ipv4, "muster".to_owned()).unwrap();
        assert_eq!(again.model(), firewall.model());
        assert_eq!(again.model().published.len(), 5000);
    });
}
