//! An engine that does what it is told, one line of standard input at a time, and answers each with a line.
//!
//! The first is `open`; `last COMMAND` ends the process at once after the command, without closing the engine.

use muster_engine::{Engine, EngineConfig, ExecConfig, RemoveOptions, Result, StopOptions, VolumeSpec};
use muster_runtime::cgroup::CgroupRoot;
use muster_runtime::{Launcher, LauncherConfig};
use muster_types::container::{ContainerConfig, PortBinding};
use muster_types::service::Protocol;
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::path::Path;
use std::time::Duration;

/// The image of every container.
const IMAGE: &str = "box:latest";
/// What every container runs: it ends at once when it is asked to.
const SCRIPT: &str = "trap 'exit 0' TERM; while :; do sleep 600 & wait; done";

/// `DATA_DIR RUN_DIR CGROUP_PARENT`
pub fn main(arguments: &[OsString]) {
    let [data_dir, run_dir, parent] = arguments else {
        panic!("DATA_DIR RUN_DIR CGROUP_PARENT");
    };
    let root = CgroupRoot::detect().unwrap();
    let cgroup = root.with_parent(&parent.to_string_lossy()).unwrap();
    // Whoever looks at this process from here on sees how it opens.
    let mut lines = std::io::stdin().lock().lines();
    let first = lines.next().unwrap().unwrap();
    let launcher = Launcher::spawn(&LauncherConfig::new(run_dir, cgroup.clone())).unwrap();
    let mut config = EngineConfig::new(data_dir, run_dir, launcher, cgroup);
    config.bridge.name = "mt0".to_owned();
    config.bridge.subnet = "10.211.0.0/24".parse().unwrap();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(2).enable_all().build().unwrap();
    let engine = runtime.block_on(Engine::open(config)).unwrap();
    if first == "last open" {
        std::process::exit(0);
    }
    answer(&Ok(Value::Null));
    for line in lines {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        match words.as_slice() {
            ["last", words @ ..] => {
                let outcome = runtime.block_on(perform(&engine, words));
                std::process::exit(i32::from(outcome.is_err()));
            }
            words => answer(&runtime.block_on(perform(&engine, words))),
        }
    }
    runtime.block_on(engine.shutdown());
}

fn answer(outcome: &Result<Value>) {
    let line = match outcome {
        Ok(value) => json!({ "ok": value }),
        Err(error) => json!({ "error": error.to_string() }),
    };
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}").and_then(|()| output.flush()).unwrap();
}

async fn perform(engine: &Engine, words: &[&str]) -> Result<Value> {
    match words {
        ["list"] => return Ok(list(engine)),
        ["images"] => return Ok(images(engine)),
        ["volumes"] => return Ok(volumes(engine)),
        ["create", name] => drop(engine.create(Some(name), container()).await?),
        ["start", name] => engine.start(name).await?,
        ["stop", name] => engine.stop(name, StopOptions::default()).await?,
        ["restart", name] => engine.restart(name, StopOptions::default()).await?,
        ["remove", name] => remove(engine, name, false).await?,
        ["remove-forced", name] => remove(engine, name, true).await?,
        ["run", name] => {
            engine.create(Some(name), container()).await?;
            engine.start(name).await?;
        }
        ["exec", name] => exec(engine, name).await?,
        ["load", name] => {
            // The archives lie beside the engine's data.
            let data_dir = engine.info().data_dir;
            let archive = Path::new(&data_dir).with_file_name(format!("{name}.tar"));
            let archive = std::fs::File::open(archive).unwrap();
            engine.image_load(archive).await?;
        }
        ["remove-image", name] => drop(engine.image_remove(name, true).await?),
        ["volume-create", name] => {
            engine
                .volume_create(VolumeSpec {
                    name: (*name).to_owned(),
                    ..VolumeSpec::default()
                })
                .await?;
        }
        ["volume-remove", name] => engine.volume_remove(name, false).await?,
        ["settle"] => {
            let images = engine.images().clone();
            tokio::task::spawn_blocking(move || images.wait_until_deleted())
                .await
                .unwrap();
        }
        words => panic!("unknown command: {words:?}"),
    }
    Ok(Value::Null)
}

fn list(engine: &Engine) -> Value {
    let described = engine
        .list()
        .into_iter()
        .map(|info| json!({ "id": info.id.as_str(), "name": info.name, "state": info.state.name(), "pid": info.pid }));
    described.collect()
}

fn images(engine: &Engine) -> Value {
    let images = engine.images().list().unwrap();
    images.into_iter().flat_map(|image| image.repo_tags).collect()
}

fn volumes(engine: &Engine) -> Value {
    engine
        .volume_list()
        .into_iter()
        .map(|volume| volume.name)
        .collect()
}

/// A container with all that a start can make: an address, a published port, an anonymous volume.
fn container() -> ContainerConfig {
    let mut config = ContainerConfig {
        image: IMAGE.to_owned(),
        cmd: Some(["sh", "-c", SCRIPT].map(str::to_owned).to_vec()),
        volumes: vec!["/cache".to_owned()],
        ..ContainerConfig::default()
    };
    config.host.ports = vec![PortBinding {
        container_port: 80,
        protocol: Protocol::Tcp,
        host_ip: None,
        host_port: 0,
        host_port_last: 0,
    }];
    config
}

async fn remove(engine: &Engine, name: &str, force: bool) -> Result<()> {
    engine.remove(name, RemoveOptions { force, volumes: true }).await
}

async fn exec(engine: &Engine, name: &str) -> Result<()> {
    let config = ExecConfig {
        command: ["sh", "-c", "true"].map(str::to_owned).to_vec(),
        ..ExecConfig::default()
    };
    let id = engine.exec_create(name, config).await?;
    engine.exec_start(&id, false, None).await?;
    while engine.exec_inspect(&id)?.exit_code.is_none() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}
