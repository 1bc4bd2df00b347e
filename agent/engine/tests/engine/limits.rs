//! Limits: what a container is started with, and what a running one is told.

use crate::node::{info, on_node, run, shell};
use muster_engine::{Engine, ErrorKind, ExecConfig};
use muster_types::container::{ContainerConfig, ContainerResources, EngineRestart};
use muster_types::container_update::ContainerUpdate;

/// A control file of a running container, in whichever hierarchy has it.
async fn control(engine: &Engine, name: &str, v1: &str, v2: &str) -> String {
    let pid = info(engine, name).await.pid;
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let candidates = groups.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        Some(match controllers {
            "" => vec![
                format!("/sys/fs/cgroup/{path}/{v2}"),
                format!("/sys/fs/cgroup/unified/{path}/{v2}"),
            ],
            controllers => vec![format!("/sys/fs/cgroup/{controllers}/{path}/{v1}")],
        })
    });
    let mut found = candidates
        .flatten()
        .filter_map(|file| std::fs::read_to_string(file).ok());
    found
        .next()
        .unwrap_or_else(|| panic!("no {v1} or {v2} in {groups}"))
        .trim()
        .to_owned()
}

fn limits(change: impl FnOnce(&mut ContainerResources)) -> ContainerUpdate {
    let mut update = ContainerUpdate::default();
    change(&mut update.resources);
    update
}

#[test]
fn a_running_container_is_told_new_limits_and_keeps_them() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("sleep 600");
        config.host.resources.memory_bytes = 64 << 20;
        config.host.resources.pids = 50;
        engine.create(Some("box"), config).await.unwrap();
        engine.start("box").await.unwrap();
        let memory =
            async |engine: &Engine| control(engine, "box", "memory.limit_in_bytes", "memory.max").await;
        let pids = async |engine: &Engine| control(engine, "box", "pids.max", "pids.max").await;
        assert_eq!(memory(&engine).await, (64 << 20).to_string());
        assert_eq!(pids(&engine).await, "50");

        let mut update = limits(|resources| {
            resources.memory_bytes = 48 << 20;
            resources.cpu_shares = 512;
            resources.nano_cpus = 500_000_000;
        });
        update.pids = Some(70);
        update.restart = Some(EngineRestart::UnlessStopped);
        let warnings = engine.update("box", update).await.unwrap();
        assert!(
            warnings.iter().all(|warning| warning.contains("without swap")),
            "{warnings:?}"
        );
        assert_eq!(memory(&engine).await, (48 << 20).to_string());
        assert_eq!(pids(&engine).await, "70");
        let quota = control(&engine, "box", "cpu.cfs_quota_us", "cpu.max").await;
        assert!(quota.starts_with("50000"), "{quota}");

        engine.shutdown().await;
        drop(engine);
        let engine = node.open().await;
        let host = info(&engine, "box").await.config.host;
        assert_eq!(
            (host.resources.memory_bytes, host.resources.cpu_shares),
            (48 << 20, 512)
        );
        assert_eq!(
            (host.resources.pids, host.restart),
            (70, EngineRestart::UnlessStopped)
        );
        let none = ContainerUpdate {
            pids: Some(-1),
            ..ContainerUpdate::default()
        };
        engine.update("box", none).await.unwrap();
        assert_eq!(pids(&engine).await, "max");
        node.close(engine).await;
    });
}

#[test]
fn updates_that_cannot_be_are_refused_and_change_nothing() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let mut config = shell("sleep 600");
        config.host.resources.cpu_quota_us = 50_000;
        config.host.auto_remove = true;
        engine.create(Some("box"), config).await.unwrap();
        for started in [false, true] {
            if started {
                engine.start("box").await.unwrap();
            }
            let nano = limits(|resources| resources.nano_cpus = 1_000_000_000);
            let error = engine.update("box", nano).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict);
            assert!(
                error.to_string().starts_with("Cannot update container "),
                "{error}"
            );
            let little = limits(|resources| resources.memory_bytes = 1);
            let error = engine.update("box", little).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            let restart = ContainerUpdate {
                restart: Some(EngineRestart::Always),
                ..ContainerUpdate::default()
            };
            let error = engine.update("box", restart).await.unwrap_err();
            assert!(
                error.to_string().contains("because AutoRemove is enabled"),
                "{error}"
            );
            let host = info(&engine, "box").await.config.host;
            assert_eq!((host.resources.nano_cpus, host.restart), (0, EngineRestart::No));
        }
        assert!(engine.update("nobody", ContainerUpdate::default()).await.is_err());
        node.close(engine).await;
    });
}

#[test]
fn paths_and_devices_are_as_they_were_asked_for() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        let with = |script: &str, change: fn(&mut ContainerConfig)| {
            let mut config = shell(script);
            change(&mut config);
            config
        };
        let masked = with(
            "wc -c < /proc/version; echo 4711 > /proc/sys/kernel/msgmax",
            |config| {
                config.host.masked_paths = Some(vec!["/proc/version".into()]);
                config.host.readonly_paths = Some(Vec::new());
            },
        );
        assert_eq!(run(&engine, masked).await, (0, "0\n".to_owned()));
        let read_only = with("echo 4711 > /proc/sys/kernel/msgmax", |config| {
            config.host.readonly_paths = Some(vec!["/proc/sys/kernel/msgmax".into()]);
        });
        let (code, output) = run(&engine, read_only).await;
        assert!(code != 0 && output.contains("Read-only"), "{output}");
        let devices = "exec 3< /dev/mine && echo open";
        let open = with(devices, |config| {
            config.host.devices.push(muster_types::container::DeviceMapping {
                host_path: "/dev/zero".into(),
                container_path: "/dev/mine".into(),
                permissions: "r".into(),
            });
        });
        assert_eq!(run(&engine, open).await, (0, "open\n".to_owned()));
        let score = with("cat /proc/self/oom_score_adj", |config| {
            config.host.oom_score_adj = 500
        });
        assert_eq!(run(&engine, score).await, (0, "500\n".to_owned()));
        node.close(engine).await;
    });
}

#[test]
fn what_runs_in_a_container_and_confines_it_is_told() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine.create(Some("box"), shell("sleep 600")).await.unwrap();
        engine.start("box").await.unwrap();
        let exec = ExecConfig {
            command: vec!["sleep".into(), "600".into()],
            ..ExecConfig::default()
        };
        let exec = engine.exec_create("box", exec).await.unwrap();
        let told = engine.inspect("box", true).await.unwrap();
        assert_eq!(told.execs, [exec]);
        assert!(told.size_root.unwrap() > told.size_rw.unwrap());
        assert!(
            told.config
                .host
                .masked_paths
                .unwrap()
                .contains(&"/proc/kcore".to_owned())
        );
        node.close(engine).await;
    });
}
