//! Attached streams, standard input, terminals.

use crate::support::{Node, collect, until, within};
use muster_runtime::{AttachRequest, Output};

const ALL: AttachRequest = AttachRequest {
    stdin: true,
    stdout: true,
    stderr: true,
};

#[tokio::test]
async fn attached_client_gets_both_streams_and_feeds_input() {
    let node = Node::new();
    let mut container = node.shell("cat; echo done >&2");
    (container.stdin_open, container.stdin_once, container.hold) = (true, true, true);
    let started = node.start(&container).await.expect("it starts");
    let mut stream = within(started.monitor.attach(ALL)).await.expect("it is attached");
    within(started.monitor.release()).await.expect("it runs");
    within(stream.input.write_all(b"hello\n"))
        .await
        .expect("it is read");
    within(stream.input.close()).await.expect("it is read");
    let (out, err) = collect(&mut stream.output).await;
    assert_eq!((out.as_str(), err.as_str()), ("hello\n", "done\n"));
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
}

#[tokio::test]
async fn much_data_passes_both_ways_unharmed() {
    const MEGABYTES: usize = 32;
    let node = Node::new();
    let mut container = node.container(&["cat"]);
    (container.stdin_open, container.stdin_once, container.hold) = (true, true, true);
    let started = node.start(&container).await.expect("it starts");
    let stream = within(started.monitor.attach(ALL)).await.expect("it is attached");
    within(started.monitor.release()).await.expect("it runs");
    let (mut output, mut input) = (stream.output, stream.input);
    let pattern: Vec<u8> = (0..1 << 20)
        .map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let sent = pattern.clone();
    let writer = tokio::spawn(async move {
        for _ in 0..MEGABYTES {
            input.write_all(&sent).await.expect("the container reads");
        }
        input.close().await.expect("the container reads");
        input
    });
    let mut received = 0;
    while let Some(piece) = within(output.next()).await.expect("the stream is intact") {
        let Output::Stdout(bytes) = piece else {
            panic!("{piece:?}")
        };
        for byte in bytes {
            assert_eq!(byte, pattern[received % pattern.len()]);
            received += 1;
        }
    }
    assert_eq!(received, MEGABYTES << 20);
    within(writer).await.expect("the writer ends");
}

#[tokio::test]
async fn input_stays_open_for_the_next_client_without_stdin_once() {
    let node = Node::new();
    let mut container = node.shell("read a; echo 1 $a; read b; echo 2 $b");
    container.stdin_open = true;
    let started = node.start(&container).await.expect("it starts");
    for (word, expected) in [(&b"first\n"[..], "1 first"), (b"second\n", "2 second")] {
        let mut stream = within(started.monitor.attach(ALL)).await.expect("it is attached");
        within(stream.input.write_all(word)).await.expect("it is read");
        container.until_logged(expected).await;
    }
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
}

#[tokio::test]
async fn terminal_has_its_size_and_can_be_resized() {
    let node = Node::new();
    let mut container = node.shell("stty size; tty; ls -l /dev/console; trap 'stty size; exit 0' WINCH; echo ready; while :; do sleep 0.01; done").terminal();
    container.console_size = Some((33, 101));
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    let mut stream = within(started.monitor.attach(ALL)).await.expect("it is attached");
    within(started.monitor.resize(40, 120))
        .await
        .expect("it has a terminal");
    let (out, _) = collect(&mut stream.output).await;
    assert_eq!(out, "40 120\r\n");
    let logged = container.logged("stdout");
    assert!(logged.starts_with("33 101\r\n/dev/pts/0\r\ncrw"), "{logged}");
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
}

#[tokio::test]
async fn terminal_turns_control_characters_into_signals() {
    let node = Node::new();
    let container = node
        .shell("trap 'echo interrupted; exit 9' INT; echo ready; while :; do sleep 0.01; done")
        .terminal();
    let started = node.start(&container).await.expect("it starts");
    container.until_logged("ready").await;
    let mut stream = within(started.monitor.attach(ALL)).await.expect("it is attached");
    within(stream.input.write_all(b"\x03"))
        .await
        .expect("the terminal takes it");
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 9);
    assert!(container.logged("stdout").contains("interrupted"));
}

#[tokio::test]
async fn log_is_rotated_and_bounded() {
    let node = Node::new();
    let mut container = node.shell("yes 0123456789 | head -n 20000");
    container.log_limit = Some(100_000);
    let (status, _) = node.run(&container).await;
    assert_eq!(status.code, 0);
    let sizes = ["log", "log.1"].map(|name| {
        std::fs::metadata(container.state_dir().join(name))
            .expect("it exists")
            .len()
    });
    assert!(sizes.iter().all(|size| (1..=200_000).contains(size)), "{sizes:?}");
    assert!(!container.state_dir().join("log.2").exists());
}

#[tokio::test]
async fn slow_client_holds_the_container_but_never_loses_output() {
    let node = Node::new();
    let mut container = node.shell("yes 0123456789abcde | head -c 4000000");
    container.hold = true;
    let started = node.start(&container).await.expect("it starts");
    let mut stream = within(started.monitor.attach(ALL)).await.expect("it is attached");
    within(started.monitor.release()).await.expect("it runs");
    // The container has to wait for this client: its log stands still well before the end.
    let log = container.state_dir().join("log");
    until("output", || {
        std::fs::metadata(&log).is_ok_and(|file| file.len() > 100_000)
    })
    .await;
    let (out, _) = collect(&mut stream.output).await;
    assert_eq!(out.len(), 4_000_000);
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
}

#[tokio::test]
async fn output_goes_on_after_the_input_half_was_dropped() {
    let node = Node::new();
    let mut container = node.shell("cat; echo after");
    (container.stdin_open, container.stdin_once, container.hold) = (true, true, true);
    let started = node.start(&container).await.expect("it starts");
    let stream = within(started.monitor.attach(ALL)).await.expect("it is attached");
    within(started.monitor.release()).await.expect("it runs");
    let (mut output, mut input) = (stream.output, stream.input);
    within(input.write_all(b"before ")).await.expect("it is read");
    drop(input);
    assert_eq!(collect(&mut output).await.0, "before after\n");
    assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
}

#[tokio::test]
async fn client_that_vanishes_ends_input_only_with_stdin_once() {
    let node = Node::new();
    for (once, expected) in [(true, "ended\n"), (false, "")] {
        let mut container = node.shell("echo ready; cat; echo ended");
        (container.stdin_open, container.stdin_once) = (true, once);
        let started = node.start(&container).await.expect("it starts");
        container.until_logged("ready").await;
        drop(within(started.monitor.attach(ALL)).await.expect("it is attached"));
        if once {
            assert_eq!(within(started.monitor.wait()).await.expect("it ends").code, 0);
        } else {
            // A second client still reaches the process.
            let mut stream = within(started.monitor.attach(ALL)).await.expect("it is attached");
            within(stream.input.write_all(b"more\n"))
                .await
                .expect("it is read");
            container.until_logged("more").await;
            within(started.monitor.signal(libc::SIGKILL, false))
                .await
                .expect("it runs");
            within(started.monitor.wait()).await.expect("it ends");
        }
        assert!(container.logged("stdout").ends_with(expected));
    }
}
