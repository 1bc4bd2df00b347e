use super::*;

fn rank(node: usize) -> Rank {
    Rank::of(&Digest::of(b"blob"), &format!("node-{node}"))
}

fn offer(node: usize, has: Has) -> Offer {
    Offer {
        rank: rank(node),
        has,
        readers: 0,
        rate: None,
        standing: Standing::Good,
    }
}

fn part(bytes: u64) -> Has {
    Has::Part {
        bytes,
        first_hand: false,
    }
}

fn seeker(node: usize, registry: Registry) -> Seeker {
    Seeker {
        rank: rank(node),
        done: 0,
        unbound: true,
        claimed: false,
        registry,
    }
}

const MB: u64 = 1 << 20;

/// Nodes that all begin at the same moment: whom each follows, by position.
fn all_at_once(nodes: usize, seed: bool, registry: Registry) -> Vec<Option<usize>> {
    let choose_as = |node: usize| {
        let mut offers: Vec<(usize, Offer)> = (0..nodes)
            .filter(|other| *other != node)
            .map(|other| (other, offer(other, part(0))))
            .collect();
        if seed {
            offers.push((nodes, offer(nodes, Has::All)));
        }
        let alone: Vec<Offer> = offers.iter().map(|(_, offer)| *offer).collect();
        choose(&seeker(node, registry), &alone).map(|at| offers[at].0)
    };
    (0..nodes).map(choose_as).collect()
}

#[test]
fn one_node_asks_the_registry_and_the_others_stand_behind_it_in_a_chain() {
    let followed = all_at_once(20, false, Registry::Waits(None));
    let first: Vec<usize> = (0..20).filter(|node| followed[*node].is_none()).collect();
    assert_eq!(first.len(), 1);
    for node in 0..20 {
        let readers = followed.iter().filter(|other| **other == Some(node)).count();
        assert!(readers <= 1, "node {node} has {readers} readers");
        let mut at = node;
        for _ in 0..20 {
            at = followed[at].unwrap_or(at);
        }
        assert_eq!(at, first[0], "the way of node {node}");
    }
}

#[test]
fn a_node_that_has_the_blob_is_asked_by_one_of_many() {
    let followed = all_at_once(5, true, Registry::None);
    assert_eq!(followed.iter().filter(|node| **node == Some(5)).count(), 1);
    assert!(followed.iter().all(Option::is_some));
}

#[test]
fn blobs_have_different_orders() {
    let first = |blob: &[u8]| {
        let nodes = 0..5;
        nodes.max_by_key(|node| Rank::of(&Digest::of(blob), &format!("node-{node}")))
    };
    let firsts: std::collections::BTreeSet<_> = (0_u8..20).map(|blob| first(&[blob])).collect();
    assert!(firsts.len() >= 3, "{firsts:?}");
}

#[test]
fn only_who_has_more_is_followed_once_something_is_here() {
    let bound = Seeker {
        done: 10,
        unbound: false,
        ..seeker(0, Registry::None)
    };
    assert_eq!(choose(&bound, &[offer(1, part(10)), offer(2, part(9))]), None);
    assert_eq!(choose(&bound, &[offer(1, part(10)), offer(2, part(11))]), Some(1));
    let failed = Seeker { done: 0, ..bound };
    let waiting = [0, 1, 2, 3].map(|node| offer(node, part(0)));
    assert_eq!(choose(&failed, &waiting), None, "it may be they who wait for it");
}

#[test]
fn who_was_first_to_claim_the_registry_keeps_it_against_those_that_only_begin() {
    let claimed = |node| Seeker {
        claimed: true,
        ..seeker(node, Registry::Waits(None))
    };
    let claim = Has::Part {
        bytes: 0,
        first_hand: true,
    };
    let (low, high) = match rank(0) < rank(1) {
        true => (0, 1),
        false => (1, 0),
    };
    assert_eq!(choose(&claimed(low), &[offer(high, part(0))]), None);
    assert_eq!(choose(&claimed(low), &[offer(high, claim)]), Some(0));
    assert_eq!(choose(&claimed(high), &[offer(low, claim)]), None);
    // Who has claimed nothing stands back behind whoever has.
    assert_eq!(
        choose(&seeker(high, Registry::Waits(None)), &[offer(low, claim)]),
        Some(0)
    );
}

#[test]
fn a_registry_that_is_much_faster_is_asked_and_one_that_is_slower_is_not() {
    let known = |rate| Offer {
        rate,
        ..offer(1, Has::All)
    };
    let waits = |registry, peer| choose(&seeker(0, Registry::Waits(registry)), &[known(peer)]).is_some();
    assert!(waits(None, None));
    assert!(waits(Some(MB), Some(10 * MB)));
    assert!(waits(Some(15 * MB), Some(10 * MB)), "not by enough");
    assert!(!waits(Some(30 * MB), Some(10 * MB)));
    assert!(!waits(Some(1000 * MB), None));
    let brings = |registry, peer| choose(&seeker(0, Registry::Brings(registry)), &[known(peer)]).is_some();
    assert!(brings(MB, None) && brings(MB, Some(3 * MB)));
    assert!(!brings(MB, Some(MB)), "not by enough");
    assert!(!brings(200 * MB, None));
    let beside = offer(1, part(100 * MB));
    assert_eq!(choose(&seeker(0, Registry::Brings(MB)), &[beside]), None);
}

#[test]
fn slow_peers_come_last_and_failed_ones_never() {
    let with = |node, rate, standing| Offer {
        rate,
        standing,
        ..offer(node, Has::All)
    };
    let slow = with(1, Some(MB), Standing::Good);
    let left = with(2, Some(100 * MB), Standing::Slow);
    let failed = with(3, Some(100 * MB), Standing::Failed);
    let good = with(4, None, Standing::Good);
    let alone = seeker(0, Registry::None);
    assert_eq!(choose(&alone, &[slow, left, failed, good]), Some(3));
    assert_eq!(choose(&alone, &[failed, left]), Some(1), "better than none");
    assert_eq!(choose(&alone, &[failed]), None);
    assert_eq!(choose(&seeker(0, Registry::Waits(Some(MB))), &[left]), None);
}

#[test]
fn a_peer_that_waits_itself_is_not_slow() {
    let watched = Watched {
        bytes: MB / 10,
        within: WATCHED_FOR,
        behind: 100 * MB,
        best: None,
    };
    assert!(is_too_slow(&watched));
    let given_all = Watched {
        behind: MB,
        ..watched
    };
    assert!(!is_too_slow(&given_all));
    let too_early = Watched {
        within: Duration::from_millis(10),
        bytes: 0,
        ..watched
    };
    assert!(!is_too_slow(&too_early));
    let fast = Watched {
        bytes: 30 * MB,
        ..watched
    };
    assert!(!is_too_slow(&fast));
    let beside_a_faster_one = Watched {
        best: Some(100 * MB),
        ..fast
    };
    assert!(is_too_slow(&beside_a_faster_one));
}
