//! Create, start, stop, remove, and what the container finds inside.

use crate::node::{IMAGE, info, on_node, output, run, shell, state, until};
use muster_engine::{Error, ErrorKind, LogQuery, RemoveOptions, StopOptions, WaitCondition};
use muster_types::Timestamp;
use muster_types::container::{
    ContainerConfig, ContainerState, EngineRestart, MountKind, MountSpec, NetworkMode,
};
use muster_types::event::EventKind;
use std::time::Duration;

#[test]
fn a_container_runs_logs_and_reports_its_exit_code() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let (code, output) = run(&engine, shell("echo out; echo err >&2; hostname; exit 3")).await;
        assert_eq!(code, 3);
        assert!(output.contains("out\n") && output.contains("err\n"), "{output}");
        let infos = engine.list();
        assert!(output.contains(infos[0].id.short()));
        assert_eq!(infos[0].state, ContainerState::Exited);
        assert_eq!(infos[0].exit_code, 3);
        node.close(engine).await;
    });
}

#[test]
fn starts_that_fail_say_why_as_docker_does() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        for (command, code, text) in [
            ("absent", 127, "\"absent\": executable file not found in $PATH"),
            ("/bin/noexec", 126, "permission denied"),
        ] {
            let config = ContainerConfig {
                cmd: Some(vec![command.to_owned()]),
                ..shell("")
            };
            let id = engine.create(None, config).await.unwrap().id;
            let error = engine.start(id.as_str()).await.unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
            assert_eq!(error.kind(), ErrorKind::Invalid);
            let info = info(&engine, id.as_str()).await;
            assert_eq!((info.state, info.exit_code), (ContainerState::Created, code));
            assert!(info.error.contains(text));
        }
        let error = engine
            .create(
                None,
                ContainerConfig {
                    image: "none".into(),
                    ..shell("")
                },
            )
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().starts_with("No such image: none"), "{error}");
        node.close(engine).await;
    });
}

#[test]
fn names_are_unique_and_can_change() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let first = engine.create(Some("web"), shell("true")).await.unwrap().id;
        let error = engine.create(Some("/web"), shell("true")).await.unwrap_err();
        assert!(matches!(&error, Error::NameInUse { id, .. } if id == first.as_str()));
        engine.rename("web", "front").await.unwrap();
        engine.create(Some("web"), shell("true")).await.unwrap();
        assert_eq!(info(&engine, "front").await.id, first);
        assert_eq!(info(&engine, first.short()).await.id, first);
        node.close(engine).await;
    });
}

#[test]
fn stop_asks_first_and_kills_after_the_grace() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let willing = shell("trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done");
        let deaf = shell("trap '' TERM; echo ready; while :; do sleep 0.05; done");
        for (name, config, code) in [("willing", willing, 5), ("deaf", deaf, 137)] {
            engine.create(Some(name), config).await.unwrap();
            engine.start(name).await.unwrap();
            let mut log = engine
                .logs(
                    name,
                    LogQuery {
                        follow: true,
                        ..LogQuery::default()
                    },
                )
                .await
                .unwrap();
            assert_eq!(&log.entries.recv().await.unwrap().unwrap().data[..], b"ready\n");
            let options = StopOptions {
                grace: Some(Duration::from_millis(if code == 5 { 20_000 } else { 300 })),
                ..StopOptions::default()
            };
            engine.stop(name, options).await.unwrap();
            let info = info(&engine, name).await;
            assert_eq!(
                (info.state, info.exit_code),
                (ContainerState::Exited, code),
                "{name}"
            );
            let again = engine.stop(name, StopOptions::default()).await.unwrap_err();
            assert_eq!(again.kind(), ErrorKind::NotModified);
        }
        node.close(engine).await;
    });
}

#[test]
fn a_running_container_is_removed_only_by_force() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let id = engine.create(None, shell("sleep 600")).await.unwrap().id;
        engine.start(id.as_str()).await.unwrap();
        assert_eq!(
            engine.start(id.as_str()).await.unwrap_err().kind(),
            ErrorKind::NotModified
        );
        let refused = engine
            .remove(id.as_str(), RemoveOptions::default())
            .await
            .unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        let removal = engine.wait(id.as_str(), WaitCondition::Removed).unwrap();
        let force = RemoveOptions {
            force: true,
            volumes: false,
        };
        engine.remove(id.as_str(), force).await.unwrap();
        assert_eq!(removal.await.unwrap().exit_code, 137);
        assert_eq!(
            engine.inspect(id.as_str(), false).await.unwrap_err().kind(),
            ErrorKind::NotFound
        );
        node.close(engine).await;
    });
}

#[test]
fn removing_what_never_started_is_no_failure() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("true");
        config.entrypoint = Some(vec!["/bin/none".to_owned()]);
        config.host.auto_remove = true;
        let id = engine.create(None, config).await.unwrap().id;
        let removal = engine.wait(id.as_str(), WaitCondition::Removed).unwrap();
        engine.start(id.as_str()).await.unwrap_err();
        let removed = removal.await.unwrap();
        assert_eq!((removed.exit_code, removed.error), (127, None));
        node.close(engine).await;
    });
}

#[test]
fn auto_remove_leaves_nothing() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("exit 4");
        config.host.auto_remove = true;
        config.volumes = vec!["/data".to_owned()];
        let id = engine.create(None, config).await.unwrap().id;
        assert_eq!(engine.volume_list().len(), 1);
        let end = engine.wait(id.as_str(), WaitCondition::NextExit).unwrap();
        engine.start(id.as_str()).await.unwrap();
        assert_eq!(end.await.unwrap().exit_code, 4);
        until("the container is gone", || {
            engine.list().is_empty() && engine.volume_list().is_empty()
        })
        .await;
        node.close(engine).await;
    });
}

#[test]
fn users_limits_and_files_are_as_asked() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("id -u; id -g; cat /etc/hostname; cat /etc/hosts; pwd; echo $GREETING");
        config.user = "web".into();
        config.hostname = "box1".into();
        config.working_dir = "/srv".into();
        config.env = vec!["GREETING=hello".into()];
        config.host.extra_hosts = vec!["db:10.0.0.9".into()];
        let (code, output) = run(&engine, config).await;
        assert_eq!(code, 0, "{output}");
        assert!(output.starts_with("101\n102\nbox1\n"), "{output}");
        assert!(
            output.contains("10.0.0.9\tdb\n") && output.contains("\tbox1\n"),
            "{output}"
        );
        assert!(output.ends_with("/srv\nhello\n"), "{output}");
        node.close(engine).await;
    });
}

#[test]
fn an_oom_kill_is_told_apart() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("x=0123456789abcdef; while :; do x=$x$x; done");
        config.host.resources.memory_bytes = 16 << 20;
        let mut events = engine.events(None);
        let (code, _) = run(&engine, config).await;
        assert_eq!(code, 137);
        assert!(engine.list()[0].oom_killed);
        let mut actions = Vec::new();
        while actions.last().is_none_or(|action| action != "die") {
            actions.push(events.next().await.unwrap().action);
        }
        assert_eq!(actions, ["create", "connect", "start", "oom", "die"]);
        node.close(engine).await;
    });
}

#[test]
fn volumes_are_filled_from_the_image_and_shared() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mount = MountSpec {
            kind: MountKind::Volume,
            source: "pages".into(),
            target: "/srv".into(),
            ..MountSpec::default()
        };
        let with_volume = |script: &str| {
            let mut config = shell(script);
            config.host.mounts = vec![mount.clone()];
            config
        };
        let mut events = engine.events(None);
        let (code, output) = run(&engine, with_volume("cat /srv/page; echo more > /srv/new")).await;
        assert_eq!((code, output.as_str()), (0, "from the image"));
        let mut told = Vec::new();
        while told.last().is_none_or(|action| action != "unmount") {
            let event = events.next().await.unwrap();
            if event.kind == EventKind::Volume {
                assert_eq!(event.actor_id, "pages");
                told.push(event.action);
            }
        }
        assert_eq!(told, ["create", "mount", "unmount"]);
        let (_, output) = run(&engine, with_volume("cat /srv/new")).await;
        assert_eq!(output, "more\n");
        let used = engine.volume_remove("pages", false).await.unwrap_err();
        assert_eq!(used.kind(), ErrorKind::Conflict);
        for info in engine.list() {
            engine
                .remove(info.id.as_str(), RemoveOptions::default())
                .await
                .unwrap();
        }
        engine.volume_remove("pages", false).await.unwrap();
        node.close(engine).await;
    });
}

#[test]
fn a_failing_container_is_restarted_as_often_as_asked() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("exit 1");
        config.host.restart = EngineRestart::OnFailure { retries_max: 2 };
        config.host.network = NetworkMode::None;
        let id = engine.create(None, config).await.unwrap().id;
        engine.start(id.as_str()).await.unwrap();
        until("the restarts are used up", || {
            let info = &engine.list()[0];
            info.state == ContainerState::Exited && info.restart_count == 2
        })
        .await;
        node.close(engine).await;
    });
}

#[test]
fn pausing_freezes() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine
            .create(Some("aa"), shell("while :; do echo x; sleep 0.01; done"))
            .await
            .unwrap();
        engine.start("aa").await.unwrap();
        engine.pause("aa").await.unwrap();
        assert_eq!(state(&engine, "aa").await, ContainerState::Paused);
        assert_eq!(engine.pause("aa").await.unwrap_err().kind(), ErrorKind::Conflict);
        engine.unpause("aa").await.unwrap();
        assert_eq!(state(&engine, "aa").await, ContainerState::Running);
        engine.pause("aa").await.unwrap();
        engine.kill("aa", "KILL").await.unwrap();
        engine
            .wait("aa", WaitCondition::NotRunning)
            .unwrap()
            .await
            .unwrap();
        assert_eq!(info(&engine, "aa").await.exit_code, 137);
        node.close(engine).await;
    });
}

#[test]
fn an_image_in_use_is_kept() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine.create(Some("aa"), shell("true")).await.unwrap();
        let error = engine.image_remove(IMAGE, false).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict);
        engine.remove("aa", RemoveOptions::default()).await.unwrap();
        engine.image_remove(IMAGE, false).await.unwrap();
        assert!(engine.image_list().await.unwrap().is_empty());
        node.close(engine).await;
    });
}

#[test]
fn many_containers_start_at_once() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let starts = (0..30).map(|n| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let name = format!("many-{n}");
                engine.create(Some(&name), shell("sleep 600")).await.unwrap();
                engine.start(&name).await.unwrap();
            })
        });
        for start in starts.collect::<Vec<_>>() {
            start.await.unwrap();
        }
        let infos = engine.list();
        assert!(infos.iter().all(|info| info.state == ContainerState::Running));
        let mut addresses: Vec<_> = infos
            .iter()
            .map(|info| info.networks["bridge"].address.unwrap())
            .collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 30);
        node.close(engine).await;
    });
}

#[test]
fn output_can_be_cut_by_time_and_number() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        run(&engine, shell("for n in 1 2 3 4; do echo $n; done")).await;
        let id = engine.list()[0].id.to_string();
        let tail = LogQuery {
            tail: Some(2),
            ..LogQuery::default()
        };
        assert_eq!(output(&engine, &id, tail).await, "3\n4\n");
        let future = LogQuery {
            since: Some(Timestamp(i64::MAX)),
            ..LogQuery::default()
        };
        assert_eq!(output(&engine, &id, future).await, "");
        node.close(engine).await;
    });
}

#[test]
fn what_containers_are_given_works_inside() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("pwd; echo > /dev/null && echo null works; id -G; cat /proc/1/comm");
        config.working_dir = "/made/for/it".to_owned();
        config.user = "101:102".to_owned();
        config.groups = vec!["77".to_owned()];
        config.host.init = true;
        let (code, output) = run(&engine, config).await;
        assert_eq!(code, 0, "{output}");
        assert_eq!(output, "/made/for/it\nnull works\n102 77\nmuster-init\n");
        node.close(engine).await;
    });
}

#[test]
fn bind_mounts_and_tmpfs_are_as_asked() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let host = tempfile::tempdir().unwrap();
        std::fs::write(host.path().join("page"), "from the host\n").unwrap();
        let bind = |target: &str, read_only| MountSpec {
            kind: MountKind::Bind,
            source: host.path().to_string_lossy().into_owned(),
            target: target.to_owned(),
            read_only,
            ..MountSpec::default()
        };
        let tmpfs = MountSpec {
            kind: MountKind::Tmpfs,
            target: "/scratch".to_owned(),
            tmpfs_bytes: 1 << 20,
            tmpfs_mode: 0o1770,
            ..MountSpec::default()
        };
        let mut config = shell(
            "cat /ro/page; echo x 2>/dev/null > /ro/new || echo refused; echo kept > /rw/new; stat -c %a /scratch; \
             echo x 2>/dev/null > /root-file || echo read-only; echo y > /scratch/file && cat /scratch/file",
        );
        config.host.mounts = vec![bind("/ro", true), bind("/rw", false), tmpfs];
        config.host.read_only = true;
        let (code, output) = run(&engine, config).await;
        assert_eq!(code, 0, "{output}");
        let lines: Vec<_> = output.lines().filter(|line| !line.starts_with("sh:")).collect();
        assert_eq!(lines, ["from the host", "refused", "1770", "read-only", "y"]);
        assert_eq!(
            std::fs::read_to_string(host.path().join("new")).unwrap(),
            "kept\n"
        );
        let mut missing = shell("true");
        let absent = host.path().join("absent");
        missing.host.mounts = vec![MountSpec {
            source: absent.to_string_lossy().into_owned(),
            ..bind("/at", false)
        }];
        let error = engine.create(None, missing.clone()).await.unwrap_err();
        assert!(
            error.to_string().contains("bind source path does not exist"),
            "{error}"
        );
        missing.host.mounts[0].create_source = true;
        assert_eq!(run(&engine, missing).await.0, 0);
        assert!(absent.is_dir());
        node.close(engine).await;
    });
}
