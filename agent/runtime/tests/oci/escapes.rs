//! Known ways out of containers, through the OCI runtime: each closed.

use crate::support::Runtime;
use serde_json::json;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Shows the host's libraries, without which the binary under test cannot run in a container.
fn with_libraries(mut config: serde_json::Value) -> serde_json::Value {
    for directory in ["/lib", "/lib64"]
        .into_iter()
        .filter(|directory| Path::new(directory).exists())
    {
        let mount = json!({ "destination": directory, "type": "bind", "source": directory, "options": ["bind", "ro"] });
        config["mounts"].as_array_mut().expect("a list").push(mount);
    }
    config
}

#[test]
fn cve_2019_5736_own_binary_cannot_be_written() {
    let runtime = Runtime::new();
    let binary = Path::new(env!("CARGO_BIN_EXE_muster-runtime"));
    let before = std::fs::metadata(binary).expect("it exists");
    // The program is the runtime's own binary: as process 1 it shows what a container could hold open.
    let mut config = with_libraries(runtime.config("one", "true"));
    config["process"]["args"] = json!(["/proc/self/exe", "oci", "--version"]);
    let called = runtime.run("one", &config);
    assert_eq!(called.code, 0, "{}", called.err);
    // A script whose interpreter is that binary, and somebody inside who waits for it.
    let script = "#!/proc/self/exe\n";
    let file = runtime.rootfs().join("bin/trap");
    std::fs::write(&file, script).expect("the directory is writable");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let watch = "while :; do for exe in /proc/[0-9]*/exe; do \
                 if (echo overwritten > $exe) 2>/tmp/why; then echo WRITTEN; fi; \
                 case $(cat /tmp/why) in *Read-only*) echo read-only; exit;; esac; done; done";
    let mut config = with_libraries(runtime.config("two", watch));
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set] = json!([
            "CAP_SYS_PTRACE",
            "CAP_SYS_ADMIN",
            "CAP_DAC_OVERRIDE",
            "CAP_DAC_READ_SEARCH"
        ]);
    }
    let created = runtime.create("two", &config);
    runtime.ok(&["start", "two"]);
    // Whatever it catches the runtime with is not writable.
    for _ in 0..200 {
        let _ = runtime.call(&["exec", "two", "/bin/trap"]);
        if runtime.state("two")["status"] == "stopped" {
            break;
        }
    }
    runtime.ok(&["delete", "-f", "two"]);
    assert_eq!(
        created.out(),
        "read-only\n",
        "it caught the runtime, and could not write"
    );
    let after = std::fs::metadata(binary).expect("it exists");
    assert_eq!(
        (before.len(), before.modified().ok()),
        (after.len(), after.modified().ok())
    );
}

#[test]
fn cve_2024_21626_working_directory_stays_inside() {
    let runtime = Runtime::new();
    for descriptor in 3..16 {
        let mut config = runtime.config("one", "pwd; ls");
        config["process"]["cwd"] = json!(format!("/proc/self/fd/{descriptor}"));
        let called = runtime.run("one", &config);
        assert_eq!(called.code, 1);
        assert!(called.err.contains("working directory"), "{}", called.err);
    }
    runtime.create("two", &runtime.config("two", "exec sleep 1000"));
    runtime.ok(&["start", "two"]);
    for descriptor in 3..16 {
        let directory = format!("/proc/self/fd/{descriptor}");
        let called = runtime.call(&["exec", "--cwd", &directory, "two", "ls"]);
        assert!(called.err.contains("working directory"), "{}", called.err);
    }
}

#[test]
fn cve_2025_31133_masks_do_not_use_the_containers_null() {
    let runtime = Runtime::new();
    let dev = runtime.path("dev");
    std::fs::create_dir(&dev).expect("it is writable");
    symlink("/proc/sysrq-trigger", dev.join("null")).expect("it is writable");
    let mut config = runtime.config("one", "stat -c '%F %t:%T' /proc/timer_list");
    let mounts = config["mounts"].as_array_mut().expect("a list");
    mounts.truncate(1);
    mounts.push(json!({ "destination": "/dev", "type": "bind", "source": dev, "options": ["rbind", "rw"] }));
    config["linux"]["maskedPaths"] = json!(["/proc/timer_list"]);
    let called = runtime.run("one", &config);
    assert_eq!(
        (called.code, called.out().as_str()),
        (0, "character special file 1:3\n"),
        "{}",
        called.err
    );
}

#[test]
fn cve_2025_52881_sysctls_reach_the_kernel_only() {
    let runtime = Runtime::new();
    let fake = runtime.path("fake");
    std::fs::create_dir_all(fake.join("net/ipv4")).expect("it is writable");
    std::fs::write(fake.join("net/ipv4/ip_forward"), "fake").expect("it is writable");
    let mut config = runtime.config("one", "true");
    config["mounts"].as_array_mut().expect("a list").push(
        json!({ "destination": "/proc/sys", "type": "bind", "source": fake, "options": ["bind", "rw"] }),
    );
    config["linux"]["sysctl"] = json!({ "net.ipv4.ip_forward": "1" });
    let called = runtime.run("one", &config);
    assert_eq!(called.code, 0, "{}", called.err);
    let content = std::fs::read_to_string(fake.join("net/ipv4/ip_forward")).expect("it is there");
    assert_eq!(content, "fake");
}
