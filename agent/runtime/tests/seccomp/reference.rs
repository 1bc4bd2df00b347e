//! Filters made by libseccomp from the same profiles.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use muster_runtime::seccomp::Machine;
use oci_spec::runtime::{Arch, LinuxSeccomp, LinuxSyscall};

use crate::interpreter::Instruction;

static PROGRAM: LazyLock<(tempfile::TempDir, PathBuf)> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("reference");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/seccomp/reference.c");
    let compiled = Command::new("gcc")
        .args(["-O1", "-Wall", "-o"])
        .arg(&program)
        .args([source, "-lseccomp"])
        .status();
    assert!(
        compiled.unwrap().success(),
        "gcc and libseccomp-dev are needed for this test"
    );
    (directory, program)
});

/// The filter and the names that this libseccomp does not know.
pub struct Reference {
    pub filter: Vec<Instruction>,
    pub unknown: BTreeSet<String>,
}

/// Adds the rules to libseccomp in the way runc does.
pub fn build(profile: &LinuxSeccomp, machine: Machine) -> Reference {
    let default = profile.default_action().as_u32(profile.default_errno_ret());
    let mut script = format!("default {default}\n");
    let native = match machine {
        Machine::X86_64 => Arch::ScmpArchX86_64,
        Machine::Aarch64 => Arch::ScmpArchAarch64,
    };
    let architectures = profile.architectures().iter().flatten().copied();
    for architecture in std::iter::once(native).chain(architectures) {
        writeln!(script, "arch {}", architecture as u32).unwrap();
    }
    script.push_str("ready 0\n");
    for rule in profile.syscalls().iter().flatten() {
        let action = rule.action().as_u32(rule.errno_ret());
        if action != default {
            for name in rule.names() {
                add_rule(&mut script, action, name, rule);
            }
        }
    }
    let mut child = Command::new(&PROGRAM.1)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || stdin.write_all(script.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "libseccomp: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    let filter = output.stdout.chunks_exact(8).map(|bytes| Instruction {
        code: u16::from_ne_bytes([bytes[0], bytes[1]]),
        jt: bytes[2],
        jf: bytes[3],
        k: u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
    });
    let unknown = String::from_utf8(output.stderr)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    Reference {
        filter: filter.collect(),
        unknown,
    }
}

fn add_rule(script: &mut String, action: u32, name: &str, rule: &LinuxSyscall) {
    let arguments: Vec<_> = rule
        .args()
        .iter()
        .flatten()
        .map(|argument| {
            let (first, second) = (argument.value(), argument.value_two().unwrap_or(0));
            (
                argument.index(),
                format!("{} {} {first} {second}", argument.index(), argument.op() as u32),
            )
        })
        .collect();
    let indexes: BTreeSet<_> = arguments.iter().map(|(index, _)| index).collect();
    if indexes.len() < arguments.len() {
        for (_, argument) in &arguments {
            writeln!(script, "rule {action} {name} 1 {argument}").unwrap();
        }
    } else {
        let all: Vec<_> = arguments.iter().map(|(_, argument)| argument.as_str()).collect();
        writeln!(
            script,
            "rule {action} {name} {} {}",
            arguments.len(),
            all.join(" ")
        )
        .unwrap();
    }
}
