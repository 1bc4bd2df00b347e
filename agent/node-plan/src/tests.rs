use super::*;
use crate::agent_core::StartedContainer;
use muster_types::file::FileReference;
use muster_types::service::TaskTemplate;
use muster_types::{
    AssignedFile, AssignedTask, AssignmentAge, AssignmentSet, AssignmentUpdate, ContainerId, DesiredState,
    FileId, FileKind, NodeId,
};
use muster_types::{ServiceId, Slot, TaskId, TaskState, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(millis)
}

fn task(number: u128) -> AssignedTask {
    AssignedTask {
        id: TaskId::from_u128(number),
        service: ServiceId::from_u128(1),
        service_name: "web".to_owned(),
        service_labels: BTreeMap::new(),
        slot: Slot::Replica(1),
        template_version: 1,
        template: Arc::new(TaskTemplate::default()),
        ports: Vec::new(),
        desired: DesiredState::Running,
        start_after: None,
        recorded: (0, TaskState::Assigned),
        networks: Vec::new(),
    }
}

fn age(index: u64) -> AssignmentAge {
    AssignmentAge {
        incarnation: 0,
        index,
    }
}

fn set(index: u64, tasks: Vec<AssignedTask>) -> AssignmentUpdate {
    AssignmentSet {
        age: age(index),
        node: NodeId::from_u128(1),
        tasks,
        networks: Vec::new(),
        files: Vec::new(),
    }
    .into()
}

fn change(from: u64, index: u64, tasks: Vec<AssignedTask>, gone: &[u128]) -> AssignmentUpdate {
    AssignmentUpdate {
        from: Some(age(from)),
        gone: gone.iter().copied().map(TaskId::from_u128).collect(),
        ..set(index, tasks)
    }
}

fn container(number: u8) -> ContainerId {
    ContainerId::from_bytes([number; 32])
}

fn state(core: &AgentCore, number: u128) -> TaskState {
    core.records()[&TaskId::from_u128(number)].status.state
}

fn effects(actions: &[Action]) -> Vec<&'static str> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Prepare(_) => Some("prepare"),
            Action::Start { .. } => Some("start"),
            Action::Stop { .. } => Some("stop"),
            Action::Remove { .. } => Some("remove"),
            Action::Report(_) | Action::AwaitSettled { .. } | Action::Persist => None,
        })
        .collect()
}

fn running() -> AgentCore {
    let mut core = AgentCore::default();
    assert_eq!(core.assign(set(1, vec![task(7)]), at(0)), Taken::Yes);
    assert_eq!(effects(&core.tick(at(0))), ["prepare"]);
    core.observe(
        Observation::Prepared {
            task: TaskId::from_u128(7),
            result: Ok(container(1)),
        },
        at(1),
    );
    assert_eq!(effects(&core.tick(at(1))), ["start"]);
    let started = StartedContainer {
        pid: 42,
        ..Default::default()
    };
    core.observe(
        Observation::Started {
            task: TaskId::from_u128(7),
            result: Ok(started),
        },
        at(2),
    );
    assert_eq!(effects(&core.tick(at(2))), Vec::<&str>::new());
    assert_eq!(state(&core, 7), TaskState::Running);
    core
}

#[test]
fn an_assigned_task_is_prepared_started_and_runs() {
    running();
}

#[test]
fn a_task_that_should_stop_is_stopped_and_kept_until_unassigned() {
    let mut core = running();
    let mut stopping = task(7);
    stopping.desired = DesiredState::Shutdown;
    core.assign(set(2, vec![stopping]), at(3));
    assert_eq!(effects(&core.tick(at(3))), ["stop"]);
    core.observe(
        Observation::Ended {
            task: TaskId::from_u128(7),
            exit_code: Some(143),
            error: None,
        },
        at(4),
    );
    assert_eq!(effects(&core.tick(at(4))), Vec::<&str>::new());
    assert_eq!(state(&core, 7), TaskState::Shutdown);
    core.assign(set(3, vec![]), at(5));
    assert_eq!(effects(&core.tick(at(5))), ["remove"]);
    core.observe(
        Observation::Removed {
            task: TaskId::from_u128(7),
        },
        at(6),
    );
    core.tick(at(6));
    assert!(core.records().is_empty());
}

#[test]
fn a_task_told_to_stop_before_it_began_ends_without_a_container() {
    let mut core = AgentCore::default();
    let mut stopped = task(7);
    stopped.desired = DesiredState::Shutdown;
    core.assign(set(1, vec![stopped]), at(0));
    assert_eq!(effects(&core.tick(at(0))), Vec::<&str>::new());
    assert_eq!(state(&core, 7), TaskState::Shutdown);
}

#[test]
fn a_ready_task_waits_until_it_may_run() {
    let mut core = AgentCore::default();
    let mut ready = task(7);
    ready.desired = DesiredState::Ready;
    core.assign(set(1, vec![ready]), at(0));
    core.tick(at(0));
    core.observe(
        Observation::Prepared {
            task: TaskId::from_u128(7),
            result: Ok(container(1)),
        },
        at(1),
    );
    assert_eq!(effects(&core.tick(at(1))), Vec::<&str>::new());
    assert_eq!(state(&core, 7), TaskState::Ready);
    core.assign(set(2, vec![task(7)]), at(2));
    assert_eq!(effects(&core.tick(at(2))), ["start"]);
}

#[test]
fn exits_become_complete_or_failed() {
    for (code, expected) in [(0, TaskState::Complete), (3, TaskState::Failed)] {
        let mut core = running();
        core.observe(
            Observation::Ended {
                task: TaskId::from_u128(7),
                exit_code: Some(code),
                error: None,
            },
            at(3),
        );
        core.tick(at(3));
        assert_eq!(state(&core, 7), expected);
    }
}

#[test]
fn a_failed_preparation_rejects_the_task() {
    let mut core = AgentCore::default();
    core.assign(set(1, vec![task(7)]), at(0));
    core.tick(at(0));
    let result = Err("No such image: web".to_owned());
    core.observe(
        Observation::Prepared {
            task: TaskId::from_u128(7),
            result,
        },
        at(1),
    );
    core.tick(at(1));
    assert_eq!(state(&core, 7), TaskState::Rejected);
}

#[test]
fn an_unhealthy_task_fails_and_is_stopped() {
    let mut core = running();
    core.observe(
        Observation::Health {
            task: TaskId::from_u128(7),
            healthy: false,
        },
        at(3),
    );
    assert_eq!(state(&core, 7), TaskState::Failed);
    assert_eq!(effects(&core.tick(at(3))), ["stop"]);
}

#[test]
fn older_assignments_are_ignored() {
    let mut core = running();
    core.assign(set(5, vec![task(7)]), at(3));
    assert_eq!(core.assign(set(4, vec![]), at(4)), Taken::Older);
    assert_eq!(effects(&core.tick(at(4))), Vec::<&str>::new());
}

fn report(actions: Vec<Action>) -> Option<(u64, TaskState)> {
    actions.into_iter().find_map(|action| match action {
        Action::Report(report) => Some((report.sequence, report.statuses[0].1.state)),
        _ => None,
    })
}

fn in_session(task: AssignedTask) -> AgentCore {
    let mut core = AgentCore::default();
    core.session_opened(false);
    core.assign(set(1, vec![task]), at(0));
    assert_eq!(report(core.tick(at(0))), None);
    assert_eq!(core.wake_at(), Some(at(100)));
    core
}

#[test]
fn an_endpoint_gets_its_stop_signal_once_every_node_knows_that_it_leaves() {
    let on_network = |desired| AssignedTask {
        desired,
        networks: vec![muster_types::overlay::TaskNetwork {
            network: muster_types::NetworkId::from_u128(1),
            addresses: Vec::new(),
            aliases: Vec::new(),
            driver_opts: BTreeMap::new(),
        }],
        ..task(7)
    };
    let leaving = || {
        let mut core = in_session(on_network(DesiredState::Running));
        core.session_opened(true);
        core.observe(prepared(), at(10));
        core.tick(at(10));
        core.observe(started(), at(20));
        core.tick(at(20));
        let stop = change(1, 5, vec![on_network(DesiredState::Shutdown)], &[]);
        assert_eq!(core.assign(stop, at(1000)), Taken::Yes);
        core
    };
    let mut core = leaving();
    let actions = core.tick(at(1000));
    assert_eq!(effects(&actions), [""; 0]);
    assert!(
        actions.contains(&Action::AwaitSettled { index: 5 }),
        "{actions:?}"
    );
    core.settled(5);
    assert_eq!(effects(&core.tick(at(1010))), ["stop"]);

    let mut core = leaving();
    assert_eq!(effects(&core.tick(at(1000))), [""; 0]);
    let waits = core.wake_at().unwrap();
    assert!(waits <= at(1000).after(LEAVE_WITHIN), "{waits:?}");
    assert_eq!(effects(&core.tick(at(3000))), ["stop"]);

    // One that is not assigned any more stops at once, and nothing is due for its sake.
    let mut core = leaving();
    assert_eq!(effects(&core.tick(at(1000))), [""; 0]);
    assert_eq!(core.assign(change(5, 6, vec![], &[7]), at(1010)), Taken::Yes);
    assert_eq!(effects(&core.tick(at(1010))), ["stop"]);
    assert_eq!(core.wake_at(), None);
}

fn prepared() -> Observation {
    Observation::Prepared {
        task: TaskId::from_u128(7),
        result: Ok(container(1)),
    }
}

fn started() -> Observation {
    Observation::Started {
        task: TaskId::from_u128(7),
        result: Ok(StartedContainer::default()),
    }
}

#[test]
fn a_quick_start_is_told_at_once_in_one_report() {
    let mut core = in_session(task(7));
    core.observe(prepared(), at(10));
    assert_eq!(report(core.tick(at(10))), None);
    assert_eq!(core.wake_at(), Some(at(100)));
    core.observe(started(), at(20));
    assert_eq!(report(core.tick(at(20))), Some((1, TaskState::Running)));
    assert_eq!(core.wake_at(), None);
}

#[test]
fn a_slow_start_is_told_while_it_is_under_way() {
    let mut core = in_session(task(7));
    assert_eq!(report(core.tick(at(100))), Some((1, TaskState::Preparing)));
    core.observe(prepared(), at(110));
    assert_eq!(report(core.tick(at(110))), None);
    core.observe(started(), at(120));
    assert_eq!(report(core.tick(at(120))), None);
    assert_eq!(core.wake_at(), Some(at(200)));
    assert_eq!(report(core.tick(at(200))), Some((2, TaskState::Running)));
}

#[test]
fn a_task_that_waits_for_others_is_told_at_once() {
    let mut ready = task(7);
    ready.desired = DesiredState::Ready;
    let mut core = in_session(ready);
    core.observe(prepared(), at(10));
    assert_eq!(report(core.tick(at(10))), Some((1, TaskState::Ready)));
}

#[test]
fn a_clock_that_was_set_back_holds_no_report_up() {
    let mut core = in_session(task(7));
    assert_eq!(report(core.tick(at(-5_000))), Some((1, TaskState::Preparing)));
}

#[test]
fn what_was_not_acknowledged_is_told_again_in_a_new_session() {
    let mut core = in_session(task(7));
    core.observe(prepared(), at(10));
    core.tick(at(10));
    core.observe(started(), at(20));
    assert_eq!(report(core.tick(at(20))), Some((1, TaskState::Running)));
    core.session_lost();
    core.session_opened(false);
    assert_eq!(report(core.tick(at(21))), Some((1, TaskState::Running)));
    core.report_acknowledged(1);
    assert_eq!(report(core.tick(at(300))), None);
}

#[test]
fn after_a_reboot_without_controllers_tasks_run_again_as_a_higher_attempt() {
    let before = running();
    let found = BTreeMap::from([(
        TaskId::from_u128(7),
        Restored::Ended {
            container: container(1),
            exit_code: 137,
            by_reboot: true,
        },
    )]);
    let mut core = AgentCore::restore(
        before.assignments().clone(),
        before.records().clone(),
        found,
        at(1000),
    );
    assert_eq!(effects(&core.tick(at(1000))), Vec::<&str>::new());
    assert_eq!(core.wake_at(), Some(at(11_000)));
    assert_eq!(effects(&core.tick(at(11_000))), ["start"]);
    assert_eq!(
        core.records()[&TaskId::from_u128(7)].rank(),
        (1, TaskState::Starting)
    );
}

#[test]
fn after_a_daemon_restart_running_tasks_go_on() {
    let before = running();
    let found = BTreeMap::from([(
        TaskId::from_u128(7),
        Restored::Running {
            container: container(1),
            pid: 42,
            health_checked: false,
        },
    )]);
    let mut core = AgentCore::restore(
        before.assignments().clone(),
        before.records().clone(),
        found,
        at(9),
    );
    assert_eq!(effects(&core.tick(at(9))), Vec::<&str>::new());
    assert_eq!(state(&core, 7), TaskState::Running);
}

#[test]
fn a_container_that_was_started_just_before_a_crash_runs_on_until_a_set_names_it() {
    let found = BTreeMap::from([(
        TaskId::from_u128(7),
        Restored::Running {
            container: container(1),
            pid: 42,
            health_checked: false,
        },
    )]);
    // The file was written before the task was assigned.
    let restored = |found: &BTreeMap<_, _>| {
        AgentCore::restore(AssignmentSet::default(), BTreeMap::new(), found.clone(), at(0))
    };
    let mut kept = restored(&found);
    assert!(effects(&kept.tick(at(0))).is_empty());
    assert_eq!(kept.assign(set(2, vec![task(7)]), at(1)), Taken::Yes);
    assert!(effects(&kept.tick(at(1))).is_empty());
    assert_eq!(state(&kept, 7), TaskState::Running);
    let mut surplus = restored(&found);
    assert_eq!(surplus.assign(set(2, Vec::new()), at(1)), Taken::Yes);
    assert_eq!(effects(&surplus.tick(at(1))), ["stop"]);
}

/// A daemon starts anew and finds the task's container running, with its health check.
fn restored_with_health_check(before: &AgentCore) -> AgentCore {
    let found = BTreeMap::from([(
        TaskId::from_u128(7),
        Restored::Running {
            container: container(1),
            pid: 42,
            health_checked: true,
        },
    )]);
    AgentCore::restore(
        before.assignments().clone(),
        before.records().clone(),
        found,
        at(9),
    )
}

#[test]
fn a_health_check_that_had_not_passed_is_awaited_after_a_daemon_restart() {
    let mut before = AgentCore::default();
    before.assign(set(1, vec![task(7)]), at(0));
    before.tick(at(0));
    let task = TaskId::from_u128(7);
    let result = Ok(container(1));
    before.observe(Observation::Prepared { task, result }, at(1));
    before.tick(at(1));
    let result = Ok(StartedContainer {
        pid: 42,
        health_checked: true,
        ..Default::default()
    });
    before.observe(Observation::Started { task, result }, at(2));
    let mut core = restored_with_health_check(&before);
    assert!(effects(&core.tick(at(9))).is_empty());
    assert_eq!(state(&core, 7), TaskState::Starting);
    core.observe(Observation::Health { task, healthy: true }, at(10));
    assert_eq!(state(&core, 7), TaskState::Running);
}

#[test]
fn a_task_that_turns_unhealthy_after_a_daemon_restart_fails() {
    let mut core = restored_with_health_check(&running());
    assert!(effects(&core.tick(at(9))).is_empty());
    assert_eq!(state(&core, 7), TaskState::Running);
    let task = TaskId::from_u128(7);
    core.observe(Observation::Health { task, healthy: false }, at(10));
    assert_eq!(state(&core, 7), TaskState::Failed);
    assert_eq!(effects(&core.tick(at(10))), ["stop"]);
}

#[test]
fn changes_add_replace_and_remove_tasks_of_the_set() {
    let mut core = AgentCore::default();
    core.assign(set(1, vec![task(7), task(8)]), at(0));
    assert_eq!(effects(&core.tick(at(0))), ["prepare", "prepare"]);
    let mut stopping = task(7);
    stopping.desired = DesiredState::Shutdown;
    let news = vec![stopping.clone(), task(9)];
    assert_eq!(core.assign(change(1, 4, news, &[8]), at(1)), Taken::Yes);
    assert_eq!(effects(&core.tick(at(1))), ["prepare"]);
    assert_eq!(core.assignments().age, age(4));
    assert_eq!(core.assignments().tasks, [stopping, task(9)]);
}

#[test]
fn a_missed_change_is_noticed_and_changes_nothing() {
    let mut core = AgentCore::default();
    core.assign(set(1, vec![task(7)]), at(0));
    assert_eq!(core.assign(change(2, 3, vec![task(8)], &[7]), at(1)), Taken::Gap);
    assert_eq!(core.assignments().tasks, [task(7)]);
    assert_eq!(core.assign(change(1, 2, vec![task(9)], &[]), at(1)), Taken::Yes);
    assert_eq!(core.assign(change(1, 2, vec![task(9)], &[]), at(1)), Taken::Older);
    assert_eq!(core.assign(set(3, vec![task(8)]), at(1)), Taken::Yes);
    assert_eq!(core.assignments().tasks, [task(8)]);
}

fn with_secret(number: u128, secret: u128) -> AssignedTask {
    let mut template = TaskTemplate::default();
    template.container.secrets = vec![FileReference {
        id: FileId::from_u128(secret),
        name: "key".to_owned(),
        ..FileReference::default()
    }];
    AssignedTask {
        template: Arc::new(template),
        ..task(number)
    }
}

fn secret(number: u128) -> AssignedFile {
    AssignedFile {
        id: FileId::from_u128(number),
        kind: FileKind::Secret,
        name: "key".to_owned(),
        data: vec![number as u8].into(),
        template: None,
    }
}

#[test]
fn a_start_comes_with_the_files_of_its_task_and_no_others() {
    let mut core = AgentCore::default();
    let whole = AssignmentUpdate {
        files: vec![secret(2), secret(1)],
        ..set(1, vec![with_secret(7, 1), with_secret(8, 2), task(9)])
    };
    assert_eq!(core.assign(whole, at(0)), Taken::Yes);
    core.tick(at(0));
    for number in [7, 8, 9] {
        core.observe(
            Observation::Prepared {
                task: TaskId::from_u128(number),
                result: Ok(container(number as u8)),
            },
            at(1),
        );
    }
    let started: BTreeMap<TaskId, Vec<AssignedFile>> = core
        .tick(at(1))
        .into_iter()
        .filter_map(|action| match action {
            Action::Start { task, files, .. } => Some((task.id, files)),
            _ => None,
        })
        .collect();
    assert_eq!(started[&TaskId::from_u128(7)], [secret(1)]);
    assert_eq!(started[&TaskId::from_u128(8)], [secret(2)]);
    assert_eq!(started[&TaskId::from_u128(9)], []);
}

#[test]
fn files_go_when_the_controllers_say_so_and_whole_sets_replace_them() {
    let mut core = AgentCore::default();
    let held = |core: &AgentCore| -> Vec<u128> {
        let files = core.assignments().files.iter();
        files.map(|file| file.id.as_u128()).collect()
    };
    let whole = AssignmentUpdate {
        files: vec![secret(1), secret(2)],
        ..set(1, Vec::new())
    };
    core.assign(whole, at(0));
    assert_eq!(held(&core), [1, 2]);
    let update = AssignmentUpdate {
        files: vec![secret(3)],
        files_gone: vec![FileId::from_u128(1)],
        ..change(1, 2, Vec::new(), &[])
    };
    core.assign(update, at(1));
    assert_eq!(held(&core), [2, 3]);
    core.assign(set(3, Vec::new()), at(2));
    assert_eq!(held(&core), [0u128; 0]);
}
