//! The daemon restarts while containers run.

use crate::node::{info, on_node, output, shell, state, until};
use muster_engine::{ErrorKind, ExecConfig, LogQuery, RemoveOptions, WaitCondition};
use muster_types::container::{ContainerState, EngineRestart, PortBinding};
use muster_types::service::Protocol;

#[test]
fn running_containers_are_found_again() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config =
            shell("echo before; while ! [ -e /tmp/go ]; do sleep 0.02; done; echo after; exit 9");
        config.host.ports = vec![PortBinding {
            container_port: 80,
            protocol: Protocol::Tcp,
            host_ip: None,
            host_port: 0,
            host_port_last: 0,
        }];
        let id = engine.create(Some("aa"), config).await.unwrap().id;
        engine.start("aa").await.unwrap();
        let before = info(&engine, "aa").await;
        engine.shutdown().await;
        drop(engine);

        let engine = node.open().await;
        let after = info(&engine, "aa").await;
        assert_eq!((after.state, after.pid), (ContainerState::Running, before.pid));
        assert_eq!((&after.networks, &after.ports), (&before.networks, &before.ports));
        // An address that is in use is not given to anybody else.
        engine.create(Some("bb"), shell("sleep 600")).await.unwrap();
        engine.start("bb").await.unwrap();
        assert_ne!(
            info(&engine, "bb").await.networks["bridge"].address,
            before.networks["bridge"].address
        );
        let go = ExecConfig {
            command: vec!["sh".into(), "-c".into(), ": > /tmp/go".into()],
            ..ExecConfig::default()
        };
        let end = engine.wait("aa", WaitCondition::NextExit).unwrap();
        let exec = engine.exec_create("aa", go).await.unwrap();
        engine.exec_start(&exec, false, None).await.unwrap();
        assert_eq!(end.await.unwrap().exit_code, 9);
        assert_eq!(
            output(&engine, id.as_str(), LogQuery::default()).await,
            "before\nafter\n"
        );
        node.close(engine).await;
    });
}

#[test]
fn an_end_while_the_daemon_was_away_is_known_afterwards() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine
            .create(Some("ends"), shell("sleep 0.3; echo bye; exit 7"))
            .await
            .unwrap();
        let mut again = shell("sleep 0.3; exit 1");
        again.host.restart = EngineRestart::Always;
        engine.create(Some("again"), again).await.unwrap();
        let mut removed = shell("sleep 0.3");
        removed.host.auto_remove = true;
        engine.create(Some("removed"), removed).await.unwrap();
        let mut pids = Vec::new();
        for name in ["ends", "again", "removed"] {
            engine.start(name).await.unwrap();
            pids.push(info(&engine, name).await.pid);
        }
        engine.shutdown().await;
        drop(engine);
        until("all have ended", || {
            pids.iter()
                .all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists())
        })
        .await;

        let engine = node.open().await;
        let ended = info(&engine, "ends").await;
        assert_eq!((ended.state, ended.exit_code), (ContainerState::Exited, 7));
        assert!(ended.finished_at > ended.started_at);
        assert_eq!(output(&engine, "ends", LogQuery::default()).await, "bye\n");
        assert!(engine.inspect("removed", false).await.is_err());
        until("it is started again", || {
            engine
                .list()
                .iter()
                .any(|info| info.name == "again" && info.restart_count > 0)
        })
        .await;
        node.close(engine).await;
    });
}

#[test]
fn created_and_removed_containers_survive_as_such() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine.create(Some("kept"), shell("exit 2")).await.unwrap();
        engine.create(Some("gone"), shell("true")).await.unwrap();
        engine.remove("gone", RemoveOptions::default()).await.unwrap();
        let facts = engine.info();
        let discarded = std::path::Path::new(&facts.data_dir).join("discarded");
        engine.shutdown().await;
        drop(engine);
        assert_eq!(std::fs::read_dir(&discarded).unwrap().count(), 0);
        // A crash may come before what was removed is deleted.
        std::fs::create_dir_all(discarded.join("removed/before")).unwrap();
        let engine = node.open().await;
        assert_eq!(std::fs::read_dir(&discarded).unwrap().count(), 0);
        assert_eq!(engine.info().id, facts.id);
        assert_eq!(engine.list().len(), 1);
        assert_eq!(state(&engine, "kept").await, ContainerState::Created);
        engine.start("kept").await.unwrap();
        let end = engine
            .wait("kept", WaitCondition::NotRunning)
            .unwrap()
            .await
            .unwrap();
        assert_eq!(end.exit_code, 2);
        node.close(engine).await;
    });
}

#[test]
fn what_is_always_restarted_goes_on_so_after_a_stop_and_a_new_daemon() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("exit 1");
        config.host.restart = EngineRestart::Always;
        engine.create(Some("again"), config).await.unwrap();
        engine.start("again").await.unwrap();
        engine.stop("again", Default::default()).await.unwrap();
        until("it has ended", || {
            engine.list()[0].state == ContainerState::Exited
        })
        .await;
        let before = info(&engine, "again").await.restart_count;
        engine.shutdown().await;
        drop(engine);

        let engine = node.open().await;
        until("it is restarted more than once", || {
            engine.list()[0].restart_count >= before + 2
        })
        .await;
        node.close(engine).await;
    });
}

/// The end comes by itself while the stop is under way: the stop was of a running container all the same.
#[test]
fn a_stop_that_meets_the_end_is_a_stop() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("exit 1");
        config.host.restart = EngineRestart::Always;
        engine.create(Some("again"), config).await.unwrap();
        for round in 0..20 {
            engine.start("again").await.unwrap();
            if round % 4 == 3 {
                until("it is restarted", || engine.list()[0].restart_count > 0).await;
            }
            engine.stop("again", Default::default()).await.unwrap();
            assert_eq!(state(&engine, "again").await, ContainerState::Exited, "{round}");
        }
        let again = engine.stop("again", Default::default()).await.unwrap_err();
        assert_eq!(again.kind(), ErrorKind::NotModified);
        node.close(engine).await;
    });
}
