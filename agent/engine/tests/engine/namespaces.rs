//! Containers that share namespaces with the host or with each other.

use crate::node::{info, on_node, run, shell, state, until};
use muster_engine::{Engine, ErrorKind, ExecConfig, StopOptions, WaitCondition};
use muster_types::container::{ContainerConfig, ContainerState, NetworkMode};
use muster_types::namespace::{CgroupNamespace, IpcMode, NamespaceMode};
use std::time::Duration;

fn changed(script: &str, change: impl FnOnce(&mut ContainerConfig)) -> ContainerConfig {
    let mut config = shell(script);
    change(&mut config);
    config
}

fn now() -> StopOptions {
    StopOptions {
        grace: Some(Duration::ZERO),
        ..StopOptions::default()
    }
}

async fn started(engine: &Engine, name: &str, config: ContainerConfig) {
    engine.create(Some(name), config).await.unwrap();
    engine.start(name).await.unwrap();
}

/// The namespace of a running container, as the kernel names it.
async fn namespace(engine: &Engine, name: &str, kind: &str) -> String {
    let pid = info(engine, name).await.pid;
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    link.to_string_lossy().into_owned()
}

fn of_host(kind: &str) -> String {
    let link = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
    link.to_string_lossy().into_owned()
}

#[test]
fn namespaces_of_the_host_are_shared_on_request() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        started(&engine, "own", shell("sleep 600")).await;
        started(
            &engine,
            "host",
            changed("sleep 600", |config| {
                config.host.pid = NamespaceMode::Host;
                config.host.ipc = IpcMode::Host;
                config.host.uts_host = true;
                config.host.cgroup_namespace = CgroupNamespace::Host;
            }),
        )
        .await;
        for kind in ["pid", "ipc", "uts", "cgroup"] {
            assert_eq!(namespace(&engine, "host", kind).await, of_host(kind));
            assert_ne!(namespace(&engine, "own", kind).await, of_host(kind));
        }
        node.close(engine).await;
    });
}

#[test]
fn a_container_joins_another_and_both_may_end() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let donor = changed("echo secret > /dev/shm/note; sleep 600", |config| {
            config.host.ipc = IpcMode::Shareable;
            config.host.shm_bytes = Some(1 << 20);
        });
        started(&engine, "donor", donor).await;
        let joins = |config: &mut ContainerConfig| {
            config.host.pid = NamespaceMode::Container("donor".into());
            config.host.ipc = IpcMode::Container("donor".into());
            config.host.network = NetworkMode::Container("donor".into());
        };
        started(&engine, "joined", changed("sleep 600", joins)).await;
        for kind in ["pid", "ipc", "net"] {
            assert_eq!(
                namespace(&engine, "joined", kind).await,
                namespace(&engine, "donor", kind).await,
                "{kind}"
            );
        }
        // It was made for another name, and knows the other by its id.
        engine.rename("donor", "giver").await.unwrap();
        let donor = info(&engine, "giver").await.id.to_string();
        assert_eq!(
            info(&engine, "joined").await.config.host.pid,
            NamespaceMode::Container(donor)
        );
        let script = "cat /dev/shm/note; wc -c < /proc/1/cmdline; echo back > /dev/shm/answer";
        let (code, output) = run(
            &engine,
            changed(script, |config| {
                config.host.ipc = IpcMode::Container("giver".into());
                config.host.pid = NamespaceMode::Container("giver".into());
            }),
        )
        .await;
        assert_eq!(code, 0, "{output}");
        assert!(output.starts_with("secret\n"), "{output}");
        // An exec finds the same namespaces.
        let exec = ExecConfig {
            command: vec!["cat".into(), "/dev/shm/answer".into()],
            ..ExecConfig::default()
        };
        let exec = engine.exec_create("joined", exec).await.unwrap();
        engine.exec_start(&exec, false, None).await.unwrap();
        until("the exec has ended", || {
            engine.exec_inspect(&exec).unwrap().exit_code.is_some()
        })
        .await;
        assert_eq!(engine.exec_inspect(&exec).unwrap().exit_code, Some(0));

        // With the network come the names.
        let names = changed("hostname; cat /etc/hosts", |config| {
            config.host.network = NetworkMode::Container("giver".into());
        });
        let (_, output) = run(&engine, names).await;
        let donor = info(&engine, "giver").await;
        assert!(output.starts_with(donor.id.short()), "{output}");
        let address = donor.networks["bridge"].address.unwrap().to_string();
        assert!(output.contains(&address), "{output}");

        // The daemon restarts; the shared memory is still the same one.
        engine.shutdown().await;
        drop(engine);
        let engine = node.open().await;
        let again = changed("cat /dev/shm/answer", |config| {
            config.host.ipc = IpcMode::Container("giver".into());
        });
        assert_eq!(run(&engine, again).await, (0, "back\n".to_owned()));

        // With the first process of its pid namespace, everything in there ends.
        let end = engine.wait("joined", WaitCondition::NotRunning).unwrap();
        engine.stop("giver", now()).await.unwrap();
        assert_eq!(end.await.unwrap().exit_code, 137);
        let refused = engine.start("joined").await.unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("cannot join network of a non running container"),
            "{refused}"
        );
        engine.start("giver").await.unwrap();
        engine.start("joined").await.unwrap();
        assert_eq!(
            namespace(&engine, "joined", "net").await,
            namespace(&engine, "giver", "net").await
        );
        engine.stop("joined", now()).await.unwrap();
        assert_eq!(state(&engine, "giver").await, ContainerState::Running);
        node.close(engine).await;
    });
}

#[test]
fn what_cannot_be_joined_is_told_as_docker_does() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine.create(Some("created"), shell("sleep 600")).await.unwrap();
        started(&engine, "closed", shell("sleep 600")).await;
        let unknown = changed("true", |config| {
            config.host.pid = NamespaceMode::Container("nobody".into())
        });
        let error = engine.create(None, unknown).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Invalid, "No such container: nobody")
        );
        for (pid, ipc, text) in [
            (Some("created"), None, "failed to join PID namespace: container "),
            (None, Some("created"), "non-shareable IPC"),
            (
                None,
                Some("closed"),
                "non-shareable IPC (hint: use IpcMode:shareable for the donor container)",
            ),
        ] {
            let config = changed("true", |config| {
                if let Some(pid) = pid {
                    config.host.pid = NamespaceMode::Container(pid.into());
                }
                if let Some(ipc) = ipc {
                    config.host.ipc = IpcMode::Container(ipc.into());
                }
            });
            let id = engine.create(None, config).await.unwrap().id;
            let error = engine.start(id.as_str()).await.unwrap_err();
            assert!(error.to_string().contains(text), "{error}");
        }
        let none = changed("ls /dev/shm", |config| config.host.ipc = IpcMode::None);
        assert_ne!(run(&engine, none).await.0, 0);
        node.close(engine).await;
    });
}

#[test]
fn processes_left_in_the_hosts_pid_namespace_end_with_their_container() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let config = changed("sleep 4711 & echo $!", |config| {
            config.host.pid = NamespaceMode::Host
        });
        let (code, output) = run(&engine, config).await;
        assert_eq!(code, 0);
        let pid: i32 = output.trim().parse().unwrap();
        until("the process is gone", || {
            !std::path::Path::new(&format!("/proc/{pid}")).exists()
        })
        .await;
        node.close(engine).await;
    });
}
