//! Filters in the running kernel.

use std::os::unix::process::CommandExt;
use std::process::Command;

use muster_runtime::seccomp::{DockerProfile, HostSupport, KernelVersion, Machine, compile, docker_default};

use crate::DOCKER_CAPABILITIES;

/// Runs a Python program under Docker's default profile and returns what it printed.
fn run_filtered(profile: &oci_spec::runtime::LinuxSeccomp, program: &str) -> String {
    let filter = compile(profile, &HostSupport::detect().unwrap()).unwrap();
    let mut command = Command::new("python3");
    command.args(["-c", program]);
    let install = move || filter.install();
    // SAFETY: installing a filter is one system call and allocates nothing.
    unsafe { command.pre_exec(install) };
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn default_profile_runs_a_program_and_refuses_what_it_should() {
    let profile = docker_default(
        &DOCKER_CAPABILITIES,
        Machine::current(),
        KernelVersion::current().unwrap(),
    );
    let program = r#"
import ctypes, os, socket, threading
libc = ctypes.CDLL(None, use_errno=True)
def errno_of(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    return ctypes.get_errno() if result < 0 else 0
socket.socket(socket.AF_INET).close()
thread = threading.Thread(target=print, args=("thread",))
thread.start(); thread.join()
print("child", os.waitstatus_to_exitcode(os.system("exit 3")))
print("clone3", errno_of(435, 0, 0))
print("mount", errno_of(165, 0, 0, 0, 0, 0))
print("vsock", errno_of(41, 40, 1, 0))
print("wrapped alg", errno_of(41, ctypes.c_ulong((1 << 32) + 38), 5, 0))
print("keyctl", errno_of(250, 0, 0, 0))
print("future", errno_of(2000))
print("user namespace", errno_of(56, ctypes.c_ulong(0x10000000 | 17), 0, 0, 0, 0))
"#;
    let printed = run_filtered(&profile, program);
    let expected = "thread\nchild 3\nclone3 38\nmount 1\nvsock 1\nwrapped alg 1\nkeyctl 1\nfuture 38\nuser namespace 1\n";
    assert_eq!(printed, expected);
}

#[test]
fn a_users_profile_takes_effect() {
    let json = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}"#;
    let kernel = KernelVersion::current().unwrap();
    let profile = DockerProfile::parse(json)
        .unwrap()
        .resolve(&[], Machine::current(), kernel);
    let program = "import os\ntry:\n  os.mkdir('/nowhere/x')\nexcept OSError as e:\n  print(e.errno)";
    assert_eq!(run_filtered(&profile, program), "28\n");
}
