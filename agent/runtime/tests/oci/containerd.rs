//! containerd's shim with Muster as its runtime.

use crate::support::containerd::Containerd;
use crate::support::printed;

#[test]
fn the_shim_runs_execs_kills_and_removes() {
    let containerd = Containerd::new();
    containerd.import();
    let output = containerd.run(&["--rm"], &["zero", "echo", "hello"]);
    assert_eq!(printed("run", &output), "hello\n");
    let failed = containerd.run(&["--rm"], &["three", "sh", "-c", "exit 3"]);
    assert_eq!(
        failed.status.code(),
        Some(3),
        "{}",
        String::from_utf8_lossy(&failed.stderr)
    );
    printed("run", &containerd.run(&["-d"], &["one", "sleep", "1000"]));
    let exec = containerd.call(&[
        "tasks",
        "exec",
        "--exec-id",
        "e1",
        "one",
        "sh",
        "-c",
        "id -u; exit 6",
    ]);
    assert_eq!(
        (exec.status.code(), exec.stdout.as_slice()),
        (Some(6), &b"0\n"[..])
    );
    assert!(containerd.ok(&["tasks", "ps", "one"]).lines().count() >= 2);
    assert!(containerd.ok(&["tasks", "metrics", "one"]).contains("one"));
    containerd.pause_and_end("one");
    containerd.ok(&["containers", "delete", "one"]);
    // What the runtime logged as JSON comes back in the shim's words.
    let missing = containerd.run(&["--rm"], &["four", "no-such-program"]);
    let err = String::from_utf8_lossy(&missing.stderr);
    assert!(err.contains("executable file not found in $PATH"), "{err}");
}
