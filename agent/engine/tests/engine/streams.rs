//! Attach and exec.

use crate::node::{on_node, shell};
use bytes::Bytes;
use muster_engine::{AttachRequest, AttachSession, ErrorKind, ExecConfig, OutputKind, WaitCondition};

const ALL: AttachRequest = AttachRequest {
    stdin: true,
    stdout: true,
    stderr: true,
};

async fn read_all(session: &mut AttachSession) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(chunk) = session.output.recv().await {
        let chunk = chunk.unwrap();
        match chunk.stream {
            OutputKind::Stdout => out.extend_from_slice(&chunk.data),
            OutputKind::Stderr => err.extend_from_slice(&chunk.data),
        }
    }
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(out), text(err))
}

fn exec(script: &str) -> ExecConfig {
    ExecConfig {
        command: vec!["sh".into(), "-c".into(), script.into()],
        stdin: true,
        stdout: true,
        stderr: true,
        ..ExecConfig::default()
    }
}

#[test]
fn a_client_that_attached_before_the_start_sees_every_byte() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        for round in 0..5 {
            let mut config = shell("echo first; cat; echo last >&2");
            config.open_stdin = true;
            config.stdin_once = true;
            let id = engine.create(None, config).await.unwrap().id;
            let mut session = engine.attach(id.as_str(), ALL).await.unwrap();
            let end = engine.wait(id.as_str(), WaitCondition::NextExit).unwrap();
            engine.start(id.as_str()).await.unwrap();
            let input = session.input.take().unwrap();
            input.send(Bytes::from_static(b"typed\n")).await.unwrap();
            drop(input);
            let (out, err) = read_all(&mut session).await;
            assert_eq!(
                (out.as_str(), err.as_str()),
                ("first\ntyped\n", "last\n"),
                "round {round}"
            );
            assert_eq!(end.await.unwrap().exit_code, 0);
        }
        node.close(engine).await;
    });
}

#[test]
fn exec_runs_beside_the_container() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine.create(Some("aa"), shell("sleep 600")).await.unwrap();
        assert_eq!(
            engine.exec_create("aa", exec("true")).await.unwrap_err().kind(),
            ErrorKind::Conflict
        );
        engine.start("aa").await.unwrap();
        let id = engine
            .exec_create("aa", exec("cat; echo err >&2; exit 6"))
            .await
            .unwrap();
        let mut session = engine.exec_start(&id, true, None).await.unwrap().unwrap();
        let input = session.input.take().unwrap();
        input.send(Bytes::from_static(b"typed\n")).await.unwrap();
        drop(input);
        let (out, err) = read_all(&mut session).await;
        assert_eq!((out.as_str(), err.as_str()), ("typed\n", "err\n"));
        crate::node::until("the exec has ended", || {
            !engine.exec_inspect(&id).unwrap().running
        })
        .await;
        assert_eq!(engine.exec_inspect(&id).unwrap().exit_code, Some(6));
        let mut config = exec("id -u");
        config.user = "web".into();
        let id = engine.exec_create("aa", config).await.unwrap();
        let mut session = engine.exec_start(&id, true, None).await.unwrap().unwrap();
        session.input = None;
        assert_eq!(read_all(&mut session).await.0, "101\n");
        let absent = ExecConfig {
            command: vec!["absent".into()],
            ..exec("")
        };
        let id = engine.exec_create("aa", absent).await.unwrap();
        let error = engine.exec_start(&id, true, None).await.unwrap_err();
        assert!(error.to_string().contains("executable file not found"), "{error}");
        assert_eq!(engine.exec_inspect(&id).unwrap().exit_code, Some(127));
        node.close(engine).await;
    });
}

#[test]
fn top_and_stats_look_inside() {
    on_node(async |node| {
        let engine = node.open_with_image().await;
        engine.create(Some("aa"), shell("sleep 600; true")).await.unwrap();
        engine.start("aa").await.unwrap();
        let sleeps =
            |table: muster_engine::ProcessTable| table.processes.iter().any(|row| row[7] == "sleep 600");
        while !sleeps(engine.top("aa", "").await.unwrap()) {
            tokio::task::yield_now().await;
        }
        let stats = engine.stats("aa").await.unwrap();
        assert!(stats.cgroup.unwrap().pids.current >= 2);
        assert_eq!(stats.networks.len(), 1);
        node.close(engine).await;
    });
}
