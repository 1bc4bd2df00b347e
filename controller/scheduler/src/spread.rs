//! The tree of spread preferences over the nodes that fit.

use crate::NodeView;
use crate::constraints::label;
use muster_types::NodeId;
use muster_types::service::SpreadOver;
use std::collections::{BTreeMap, BTreeSet};

/// Failures within the window from which a node is used last, as in Swarm.
const FAILURES_MANY: u64 = 5;

/// Order of the nodes within one branch; the least is taken.
type Rank = (bool, u64, u64, NodeId, usize);

/// One level per preference: branches by label value, nodes at the leaves. A missing label is the empty value.
#[derive(Debug)]
pub(crate) enum Tree {
    Branches(BTreeMap<String, Branch>),
    Leaf(BTreeSet<Rank>),
}

#[derive(Debug)]
pub(crate) struct Branch {
    /// Tasks of the service on the nodes below, including those that are full.
    tasks: u64,
    below: Tree,
}

impl Tree {
    /// The tree of these nodes; `usable` says which of them still fit.
    pub(crate) fn new(preferences: &[SpreadOver], views: &[NodeView], usable: &[bool]) -> Self {
        let mut tree = Self::empty(preferences);
        for (position, view) in views.iter().enumerate() {
            tree.count(preferences, view);
            if usable[position] {
                tree.put(preferences, view, position);
            }
        }
        tree
    }

    /// Takes the node that the next task goes to out of the tree; its place among the views.
    pub(crate) fn take(&mut self) -> Option<usize> {
        match self {
            Self::Leaf(nodes) => nodes.pop_first().map(|(.., position)| position),
            Self::Branches(branches) => {
                let mut order: Vec<(u64, &String)> = branches
                    .iter()
                    .filter(|(_, branch)| !branch.below.is_empty())
                    .map(|(value, branch)| (branch.tasks, value))
                    .collect();
                order.sort_unstable();
                let value = order.first()?.1.clone();
                let branch = branches.get_mut(&value)?;
                branch.tasks += 1;
                branch.below.take()
            }
        }
    }

    /// Puts a node that fits (again) where its labels say.
    pub(crate) fn put(&mut self, preferences: &[SpreadOver], view: &NodeView, position: usize) {
        match (self, preferences.split_first()) {
            (Self::Branches(branches), Some((first, rest))) => {
                branch(branches, first, rest, view)
                    .below
                    .put(rest, view, position);
            }
            (Self::Leaf(nodes), _) => {
                nodes.insert(rank(view, position));
            }
            (Self::Branches(_), None) => {}
        }
    }

    fn empty(preferences: &[SpreadOver]) -> Self {
        match preferences {
            [] => Self::Leaf(BTreeSet::new()),
            [_, ..] => Self::Branches(BTreeMap::new()),
        }
    }

    fn count(&mut self, preferences: &[SpreadOver], view: &NodeView) {
        if let (Self::Branches(branches), Some((first, rest))) = (self, preferences.split_first()) {
            let branch = branch(branches, first, rest, view);
            branch.tasks += view.service_tasks;
            branch.below.count(rest, view);
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Leaf(nodes) => nodes.is_empty(),
            Self::Branches(branches) => branches.values().all(|branch| branch.below.is_empty()),
        }
    }
}

fn branch<'a>(
    branches: &'a mut BTreeMap<String, Branch>,
    preference: &SpreadOver,
    rest: &[SpreadOver],
    view: &NodeView,
) -> &'a mut Branch {
    let value = label(&preference.descriptor, &view.node).unwrap_or_default();
    branches.entry(value.to_owned()).or_insert_with(|| Branch {
        tasks: 0,
        below: Tree::empty(rest),
    })
}

/// Nodes on which the service keeps failing last; then fewest tasks of the service, fewest tasks, lowest id.
fn rank(view: &NodeView, position: usize) -> Rank {
    (
        view.failures >= FAILURES_MANY,
        view.service_tasks,
        view.tasks,
        view.id(),
        position,
    )
}
