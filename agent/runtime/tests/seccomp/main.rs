//! Filters against libseccomp, call by call, and against the running kernel.

mod interpreter;
mod kernel;
mod reference;

use std::collections::BTreeSet;

use interpreter::{Call, Instruction, run};
use muster_runtime::seccomp::{
    DockerProfile, HostSupport, KernelVersion, Machine, UnlistedCalls, compile, compile_with, docker_default,
};
use oci_spec::runtime::{Capability, LinuxSeccomp, LinuxSyscall};

const KERNEL: KernelVersion = KernelVersion { major: 6, minor: 1 };
const X86_64: u32 = 0xc000_003e;
const X86: u32 = 0x4000_0003;
const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;
const X32_BIT: u32 = 0x4000_0000;

fn own(profile: &LinuxSeccomp, machine: Machine, unlisted: UnlistedCalls) -> Vec<Instruction> {
    let program = compile_with(profile, &HostSupport::complete(machine), unlisted).unwrap();
    let convert = |i: &libc::sock_filter| Instruction {
        code: i.code,
        jt: i.jt,
        jf: i.jf,
        k: i.k,
    };
    program.instructions().iter().map(convert).collect()
}

/// The same profile without some names.
fn without(profile: &LinuxSeccomp, unknown: &BTreeSet<String>) -> LinuxSeccomp {
    let mut profile = profile.clone();
    let rules: Vec<LinuxSyscall> = profile
        .syscalls()
        .iter()
        .flatten()
        .map(|rule| {
            let mut rule = rule.clone();
            rule.set_names(
                rule.names()
                    .iter()
                    .filter(|name| !unknown.contains(*name))
                    .cloned()
                    .collect(),
            );
            rule
        })
        .collect();
    profile.set_syscalls(Some(rules));
    profile
}

/// Numbers where something may differ: all that exist, and the edges of the ranges.
fn numbers() -> Vec<u32> {
    let ordinary = 0..=600;
    let x32 = (0..=600).map(|number| number | X32_BIT);
    let arm_private = 0xf0000..=0xf0008;
    let edges = [
        1023,
        4096,
        0xeffff,
        X32_BIT - 1,
        0x7fff_ffff,
        0x8000_0000,
        u32::MAX - 1,
        u32::MAX,
    ];
    ordinary.chain(x32).chain(arm_private).chain(edges).collect()
}

/// Arguments at, beside and far from every value that the profile compares with, alone and together.
fn argument_sets(profile: &LinuxSeccomp) -> Vec<[u64; 6]> {
    let mut values: [BTreeSet<u64>; 6] = Default::default();
    let arguments = profile
        .syscalls()
        .iter()
        .flatten()
        .flat_map(|rule| rule.args().iter().flatten());
    for argument in arguments {
        for value in [argument.value(), argument.value_two().unwrap_or(0)] {
            let near = [
                value,
                value.wrapping_sub(1),
                value.wrapping_add(1),
                value ^ (1 << 32),
                value | (1 << 63),
                !value,
            ];
            values[argument.index()].extend(near);
            values[argument.index()].extend([0, 1, u64::MAX, value & 0xffff_ffff, value << 32]);
        }
    }
    let mut sets = vec![[0; 6], [u64::MAX; 6]];
    for (at, of_one) in values.iter().enumerate() {
        for value in of_one {
            for base in [0, u64::MAX] {
                let mut set = [base; 6];
                set[at] = *value;
                sets.push(set);
            }
        }
    }
    // The first two arguments together, which is what rules with two conditions look at.
    for first in values[0].iter().take(8) {
        for second in values[1].iter().take(8) {
            sets.push([*first, *second, 0, 0, 0, 0]);
        }
    }
    sets
}

/// Both filters answer alike for every number, architecture and interesting argument.
fn check_alike(what: &str, profile: &LinuxSeccomp, machine: Machine) {
    let reference = reference::build(profile, machine);
    let own = own(
        &without(profile, &reference.unknown),
        machine,
        UnlistedCalls::TakeDefault,
    );
    let sets = argument_sets(profile);
    let (mut own_steps, mut reference_steps) = (0, 0);
    for token in [X86_64, X86, AARCH64, ARM, 0, 0x8000_0016] {
        for number in numbers() {
            for arguments in &sets {
                let call = Call {
                    number,
                    token,
                    arguments: *arguments,
                };
                let ((ours, ours_steps), (theirs, theirs_steps)) =
                    (run(&own, &call), run(&reference.filter, &call));
                assert_eq!(
                    ours, theirs,
                    "{what} on {machine:?}: {ours:#x} is not libseccomp's {theirs:#x} for {call:x?}"
                );
                own_steps += ours_steps;
                reference_steps += theirs_steps;
            }
        }
    }
    println!(
        "{what} on {machine:?}: {} instructions (libseccomp {}), {:.1} of its steps",
        own.len(),
        reference.filter.len(),
        own_steps as f64 / reference_steps as f64
    );
}

const DOCKER_CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::NetRaw,
    Capability::SysChroot,
    Capability::Mknod,
    Capability::AuditWrite,
    Capability::Setfcap,
];

#[test]
fn default_profile_is_libseccomps_on_both_machines() {
    let admin = [
        Capability::SysAdmin,
        Capability::SysPtrace,
        Capability::SysTime,
        Capability::Bpf,
    ];
    for machine in [Machine::X86_64, Machine::Aarch64] {
        for (what, granted) in [
            ("no capabilities", &[][..]),
            ("Docker's", &DOCKER_CAPABILITIES),
            ("admin", &admin),
        ] {
            check_alike(what, &docker_default(granted, machine, KERNEL), machine);
        }
    }
}

fn parsed(json: &str, machine: Machine) -> LinuxSeccomp {
    DockerProfile::parse(json).unwrap().resolve(&[], machine, KERNEL)
}

#[test]
fn every_comparison_is_libseccomps() {
    const CALLS: [&str; 6] = ["read", "write", "openat", "ioctl", "fcntl", "mmap"];
    const VALUES: [u64; 8] = [
        0,
        1,
        0x28,
        0xffff_ffff,
        0x1_0000_0000,
        0x1234_5678_9abc_def0,
        u64::MAX - 1,
        u64::MAX,
    ];
    for value in VALUES {
        let rule = |(name, op): (&str, &str)| {
            format!(
                r#"{{"name": "{name}", "action": "SCMP_ACT_ERRNO", "errnoRet": 7,
                     "args": [{{"index": 1, "value": {value}, "op": "SCMP_CMP_{op}"}}]}}"#
            )
        };
        let rules: Vec<_> = CALLS
            .into_iter()
            .zip(["EQ", "NE", "LT", "LE", "GT", "GE"])
            .map(rule)
            .collect();
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ALLOW",
                 "architectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_ARM"], "syscalls": [{}]}}"#,
            rules.join(",")
        );
        let profile = parsed(&json, Machine::X86_64);
        check_alike(
            &format!("comparisons with {value:#x}"),
            &x86_only(&profile),
            Machine::X86_64,
        );
        check_alike(
            &format!("comparisons with {value:#x}"),
            &arm_only(&profile),
            Machine::Aarch64,
        );
    }
}

fn x86_only(profile: &LinuxSeccomp) -> LinuxSeccomp {
    use oci_spec::runtime::Arch;
    let mut profile = profile.clone();
    profile.set_architectures(Some(vec![
        Arch::ScmpArchX86_64,
        Arch::ScmpArchX86,
        Arch::ScmpArchX32,
    ]));
    profile
}

fn arm_only(profile: &LinuxSeccomp) -> LinuxSeccomp {
    use oci_spec::runtime::Arch;
    let mut profile = profile.clone();
    profile.set_architectures(Some(vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]));
    profile
}

#[test]
fn masks_are_libseccomps() {
    for (mask, value) in [
        (0x7e02_0000u64, 0u64),
        (0xff, 0x10),
        (0xff00_0000_0000, 0x1200_0000_0000),
        (u64::MAX, 5),
        (0xf0, 0xff),
        (0xffff_ffff_0000_0000, 0),
        (0, 0),
    ] {
        let json = format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38, "syscalls": [
                 {{"names": ["clone", "unshare"], "action": "SCMP_ACT_ALLOW",
                   "args": [{{"index": 0, "value": {mask}, "valueTwo": {value}, "op": "SCMP_CMP_MASKED_EQ"}}]}}]}}"#
        );
        check_alike(
            &format!("mask {mask:#x}"),
            &x86_only(&parsed(&json, Machine::X86_64)),
            Machine::X86_64,
        );
        check_alike(
            &format!("mask {mask:#x}"),
            &arm_only(&parsed(&json, Machine::Aarch64)),
            Machine::Aarch64,
        );
    }
}

#[test]
fn rules_of_one_call_combine_as_in_libseccomp() {
    let profiles = [
        // Two arguments must both fit; several rules are alternatives.
        r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS", "syscalls": [
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 10, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 3, "op": "SCMP_CMP_LT"}]},
            {"names": ["socket", "shmat"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}]},
            {"names": ["read", "accept4", "semop", "recv"], "action": "SCMP_ACT_ALLOW"}]}"#,
        // Conditions on one argument are alternatives.
        r#"{"defaultAction": "SCMP_ACT_TRAP", "syscalls": [
            {"names": ["personality"], "action": "SCMP_ACT_ALLOW", "args": [
                {"index": 0, "value": 0, "op": "SCMP_CMP_EQ"}, {"index": 0, "value": 8, "op": "SCMP_CMP_EQ"},
                {"index": 1, "value": 3, "op": "SCMP_CMP_GE"}]}]}"#,
        // An unconditional rule wins, before and after. (`read` is here because libseccomp 2.5.4 forgets to load the
        // number where every unconditional rule is for a call that the architecture lacks, as on 64-bit Arm.)
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["chmod", "fchmod"], "action": "SCMP_ACT_ERRNO", "errnoRet": 13, "args": [
                {"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]},
            {"names": ["chmod", "chown"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["chown"], "action": "SCMP_ACT_TRAP", "args": [{"index": 1, "value": 7, "op": "SCMP_CMP_EQ"}]},
            {"names": ["chown"], "action": "SCMP_ACT_KILL"}]}"#,
        // Every action, with a rule that repeats the default.
        r#"{"defaultAction": "SCMP_ACT_LOG", "syscalls": [
            {"name": "read", "action": "SCMP_ACT_KILL"}, {"name": "write", "action": "SCMP_ACT_KILL_PROCESS"},
            {"name": "open", "action": "SCMP_ACT_TRAP"}, {"name": "close", "action": "SCMP_ACT_ERRNO"},
            {"name": "stat", "action": "SCMP_ACT_TRACE", "errnoRet": 9}, {"name": "fstat", "action": "SCMP_ACT_LOG"},
            {"name": "lstat", "action": "SCMP_ACT_ALLOW"}, {"name": "poll", "action": "SCMP_ACT_KILL_THREAD"},
            {"name": "lseek", "action": "SCMP_ACT_ERRNO", "errnoRet": 0}, {"name": "no_such_call", "action": "SCMP_ACT_KILL"}]}"#,
        r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#,
        r#"{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": []}"#,
    ];
    for (at, json) in profiles.iter().enumerate() {
        let plain = parsed(json, Machine::X86_64);
        check_alike(&format!("profile {at}, native"), &plain, Machine::X86_64);
        check_alike(&format!("profile {at}"), &x86_only(&plain), Machine::X86_64);
        check_alike(&format!("profile {at}, native"), &plain, Machine::Aarch64);
        check_alike(&format!("profile {at}"), &arm_only(&plain), Machine::Aarch64);
    }
}

#[test]
fn newer_calls_answer_enosys_where_the_default_refuses() {
    let json = r#"{"defaultAction": "SCMP_ACT_ERRNO", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["read", "clone3"], "action": "SCMP_ACT_ALLOW"}]}"#;
    let profile = parsed(json, Machine::X86_64);
    let answer = |profile: &LinuxSeccomp, token, number| {
        let filter = own(profile, Machine::X86_64, UnlistedCalls::AnswerEnosys);
        run(
            &filter,
            &Call {
                number,
                token,
                arguments: [0; 6],
            },
        )
        .0
    };
    let (refused, unknown, allowed, killed) = (0x0005_0001, 0x0005_0000 + 38, 0x7fff_0000, 0x8000_0000u32);
    for (number, expected) in [
        (0, allowed),
        (1, refused),
        (434, refused),
        (435, allowed),
        (436, unknown),
        (9999, unknown),
    ] {
        assert_eq!(answer(&profile, X86_64, number), expected, "call {number}");
        assert_eq!(
            answer(&profile, X86_64, number | X32_BIT),
            expected,
            "x32 call {number}"
        );
    }
    assert_eq!(
        answer(&profile, X86, 3),
        killed,
        "an architecture that is not listed"
    );
    let permissive = parsed(
        &json.replacen("SCMP_ACT_ERRNO", "SCMP_ACT_LOG", 1),
        Machine::X86_64,
    );
    assert_eq!(answer(&permissive, X86_64, 9999), 0x7ffc_0000);
}

#[test]
fn default_profile_keeps_wrapped_socket_families_out() {
    let profile = docker_default(&DOCKER_CAPABILITIES, Machine::X86_64, KERNEL);
    let filter = own(&profile, Machine::X86_64, UnlistedCalls::AnswerEnosys);
    let socket = |family: u64| {
        run(
            &filter,
            &Call {
                number: 41,
                token: X86_64,
                arguments: [family, 0, 0, 0, 0, 0],
            },
        )
        .0
    };
    for allowed in [1, 2, 10, 16, 37, 39, 41, 45] {
        assert_eq!(socket(allowed), 0x7fff_0000, "family {allowed}");
    }
    // The kernel looks at the low 32 bits alone: AF_ALG and AF_VSOCK must not come in with a bit above.
    for refused in [
        38,
        40,
        (1 << 32) + 38,
        (1 << 32) + 40,
        u64::MAX - (u64::from(u32::MAX) - 40),
    ] {
        assert_eq!(socket(refused), 0x0005_0001, "family {refused:#x}");
    }
}

#[test]
fn what_cannot_be_done_is_refused_clearly() {
    let message = |json: &str, host: &HostSupport| {
        compile(&parsed(json, Machine::X86_64), host)
            .unwrap_err()
            .to_string()
    };
    let host = HostSupport::complete(Machine::X86_64);
    let rule = |fields: &str| {
        format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{{"name": "mount", {fields}}}]}}"#)
    };
    let notify = r#""action": "SCMP_ACT_NOTIFY""#;
    assert!(message(&rule(notify), &host).contains("listenerPath does not say"));
    assert!(message(&rule(notify).replace("mount", "write"), &host).contains("the write system call"));
    assert!(message(r#"{"defaultAction": "SCMP_ACT_NOTIFY"}"#, &host).contains("the default action"));
    let flag = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"]}"#;
    assert!(message(flag, &host).contains("which no rule has"));
    assert!(
        message(&rule(r#""action": "SCMP_ACT_ERRNO", "errnoRet": 5000"#), &host)
            .contains("mount is above 4095")
    );
    let argument = r#""action": "SCMP_ACT_KILL", "args": [{"index": 6, "value": 0, "op": "SCMP_CMP_EQ"}]"#;
    assert!(message(&rule(argument), &host).contains("argument 6"));
    let old = HostSupport {
        action_log: false,
        action_kill_process: false,
        flag_log: false,
        ..host.clone()
    };
    assert!(message(&rule(r#""action": "SCMP_ACT_LOG""#), &old).contains("older than 4.14"));
    assert!(message(r#"{"defaultAction": "SCMP_ACT_KILL_PROCESS"}"#, &old).contains("SCMP_ACT_KILL_THREAD"));
    let flag = r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}"#;
    assert!(message(flag, &old).contains("SECCOMP_FILTER_FLAG_LOG"));
    let many: Vec<_> = (0..1200)
        .map(|value| {
            format!(
                r#"{{"name": "read", "action": "SCMP_ACT_KILL", "args": [{{"index": 0, "value": {value}, "op": "SCMP_CMP_EQ"}}]}}"#
            )
        })
        .collect();
    let long = format!(
        r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}}"#,
        many.join(",")
    );
    assert!(message(&long, &host).contains("the kernel takes 4096"));
}
