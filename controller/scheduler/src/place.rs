//! Placing a group of like tasks.

use crate::spread::Tree;
use crate::{Constraints, Explanation, Group, NodeView, filter};
use muster_types::{NodeId, TaskId};
use std::time::Duration;

/// Failures count against a node for so long, as in Swarm.
pub const FAILURE_WINDOW: Duration = Duration::from_secs(300);

/// Where the tasks of a group go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placements {
    /// Tasks and their nodes.
    pub placed: Vec<(TaskId, NodeId)>,
    /// Tasks that no node takes.
    pub unplaced: Vec<TaskId>,
    /// Why, when there are unplaced tasks.
    pub explanation: Option<Explanation>,
}

/// Places the tasks of a group. The views change as if the placed tasks ran.
pub fn place(group: &Group, views: &mut [NodeView]) -> Placements {
    let constraints = Constraints::of(&group.template.placement);
    let preferences = &group.template.placement.preferences;
    let usable: Vec<bool> = views
        .iter()
        .map(|view| filter::objection(group, &constraints, view).is_none())
        .collect();
    let mut tree = Tree::new(preferences, views, &usable);
    let mut placements = Placements::default();
    let mut tasks = group.tasks.iter();
    for task in tasks.by_ref() {
        let Some(position) = tree.take() else {
            placements.unplaced.push(*task);
            break;
        };
        let view = &mut views[position];
        take(group, view);
        placements.placed.push((*task, view.id()));
        if filter::objection(group, &constraints, view).is_none() {
            tree.put(preferences, view, position);
        }
    }
    placements.unplaced.extend(tasks);
    if !placements.unplaced.is_empty() {
        let mut explanation = Explanation::default();
        for cause in views
            .iter()
            .filter_map(|view| filter::objection(group, &constraints, view))
        {
            explanation.add(cause);
        }
        placements.explanation = Some(explanation);
    }
    placements
}

fn take(group: &Group, view: &mut NodeView) {
    view.free = view.free.minus(group.template.reservations);
    view.ports.extend(group.ports.iter().copied());
    view.tasks += 1;
    view.service_tasks += 1;
}

#[cfg(test)]
pub(crate) mod tests;
