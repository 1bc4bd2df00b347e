//! The process part of a plan: what to run, as whom, with which rights.

use oci_spec::runtime::{
    Capabilities, Capability, LinuxCapabilities, LinuxSeccomp, PosixRlimitType, Process,
};
use serde::{Deserialize, Serialize};
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Mutex, OnceLock, PoisonError};

use super::c_string;
use crate::error::{Result, RuntimeError};
use crate::label::{ExecLabel, HostLabels};
use crate::seccomp::{self, HostSupport, SeccompError};

/// What `execvp` of the C library searches when the environment has no PATH; Docker's default has the same.
const SEARCH_PATH_DEFAULT: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Docker's and runc's file creation mask where the specification gives none.
const UMASK_DEFAULT: u32 = 0o022;

/// A process to run.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProcessPlan {
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    /// The paths to try, in order: one when the program's name has a slash.
    pub candidates: Vec<CString>,
    pub working_directory: CString,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub umask: u32,
    pub capabilities: CapabilityPlan,
    pub no_new_privileges: bool,
    pub filter: Option<FilterPlan>,
    /// Resource, soft and hard limit.
    pub limits: Vec<(u32, u64, u64)>,
    pub oom_score_adj: Option<CString>,
    pub labels: LabelPlan,
    pub terminal: bool,
}

/// A compiled system call filter.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FilterPlan {
    /// Instructions of classic BPF, as the kernel's eight bytes each.
    pub instructions: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_…`
    pub flags: u32,
}

/// Compiled filters that are kept for the next container; most containers of a node share one profile.
const FILTERS_KEPT_MAX: usize = 8;

impl FilterPlan {
    fn new(profile: &LinuxSeccomp) -> Result<FilterPlan> {
        static KEPT: Mutex<Vec<(LinuxSeccomp, FilterPlan)>> = Mutex::new(Vec::new());
        let lock = || KEPT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, filter)) = lock().iter().find(|(known, _)| known == profile) {
            return Ok(filter.clone());
        }
        let filter = Self::compile(profile)?;
        let mut kept = lock();
        if kept.len() >= FILTERS_KEPT_MAX {
            kept.remove(0);
        }
        kept.push((profile.clone(), filter.clone()));
        Ok(filter)
    }

    fn compile(profile: &LinuxSeccomp) -> Result<FilterPlan> {
        // What the kernel can do does not change while this process runs.
        static HOST: OnceLock<HostSupport> = OnceLock::new();
        let invalid = |error: SeccompError| RuntimeError::spec(crate::error::chain(&error));
        let host = match HOST.get() {
            Some(host) => host,
            None => {
                let detected = HostSupport::detect().map_err(invalid)?;
                HOST.get_or_init(|| detected)
            }
        };
        let program = seccomp::compile(profile, host).map_err(invalid)?;
        let instructions = program.instructions().iter().map(|instruction| {
            let [c0, c1] = instruction.code.to_ne_bytes();
            let [k0, k1, k2, k3] = instruction.k.to_ne_bytes();
            u64::from_ne_bytes([c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3])
        });
        Ok(FilterPlan {
            instructions: instructions.collect(),
            flags: program.flags(),
        })
    }
}

/// The labels of a process, as names; the host's security modules say how they are written.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LabelPlan {
    pub apparmor: Option<String>,
    pub selinux: Option<String>,
}

impl LabelPlan {
    fn new(process: &Process) -> Result<LabelPlan> {
        let plan = LabelPlan {
            apparmor: process.apparmor_profile().clone(),
            selinux: process.selinux_label().clone(),
        };
        plan.prepare()?;
        Ok(plan)
    }

    /// What the process has to write just before exec, on this host.
    pub(crate) fn prepare(&self) -> Result<Vec<ExecLabel>> {
        if self.apparmor.is_none() && self.selinux.is_none() {
            return Ok(Vec::new());
        }
        let labels = HostLabels::detect().exec_labels(self.apparmor.as_deref(), self.selinux.as_deref());
        labels.map_err(|error| RuntimeError::spec(crate::error::chain(&error)))
    }
}

/// The five capability sets, one bit per capability.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CapabilityPlan {
    pub bounding: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub permitted: u64,
    pub ambient: u64,
}

impl ProcessPlan {
    pub(crate) fn new(process: &Process, seccomp: Option<&LinuxSeccomp>) -> Result<ProcessPlan> {
        let arguments = c_strings(process.args().as_deref().unwrap_or_default(), "an argument")?;
        let program = arguments.first().filter(|program| !program.is_empty());
        let program = program.ok_or_else(|| RuntimeError::spec("no command to run"))?;
        let environment = c_strings(process.env().as_deref().unwrap_or_default(), "the environment")?;
        if !process.cwd().is_absolute() {
            return Err(RuntimeError::spec(format!(
                "working directory {} is not absolute",
                process.cwd().display()
            )));
        }
        let user = process.user();
        let filter = seccomp.map(FilterPlan::new).transpose()?;
        Ok(ProcessPlan {
            candidates: candidates(program, &environment)?,
            working_directory: c_string(process.cwd().as_os_str().as_bytes(), "the working directory")?,
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            umask: user.umask().unwrap_or(UMASK_DEFAULT),
            capabilities: process
                .capabilities()
                .as_ref()
                .map(CapabilityPlan::new)
                .unwrap_or_default(),
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            filter,
            limits: limits(process),
            oom_score_adj: oom_score(process)?,
            labels: LabelPlan::new(process)?,
            terminal: process.terminal().unwrap_or(false),
            arguments,
            environment,
        })
    }
}

fn c_strings(texts: &[String], what: &str) -> Result<Vec<CString>> {
    texts.iter().map(|text| c_string(text.as_str(), what)).collect()
}

fn oom_score(process: &Process) -> Result<Option<CString>> {
    match process.oom_score_adj() {
        None => Ok(None),
        Some(score @ -1000..=1000) => c_string(score.to_string(), "the OOM score").map(Some),
        Some(score) => Err(RuntimeError::spec(format!(
            "OOM score adjustment {score} is not in -1000..=1000"
        ))),
    }
}

/// Where the program may be: its own path when that has a slash, else every directory of PATH.
fn candidates(program: &CStr, environment: &[CString]) -> Result<Vec<CString>> {
    let program = program.to_bytes();
    if program.contains(&b'/') {
        return Ok(vec![c_string(program, "the command")?]);
    }
    let path = environment
        .iter()
        .rev()
        .find_map(|variable| variable.to_bytes().strip_prefix(b"PATH="));
    let directories = path.unwrap_or(SEARCH_PATH_DEFAULT).split(|byte| *byte == b':');
    directories
        .map(|directory| {
            let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
            c_string([directory, b"/", program].concat(), "the command")
        })
        .collect()
}

fn limits(process: &Process) -> Vec<(u32, u64, u64)> {
    let limits = process.rlimits().as_deref().unwrap_or_default();
    limits
        .iter()
        .map(|limit| (resource_number(limit.typ()), limit.soft(), limit.hard()))
        .collect()
}

fn resource_number(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

impl CapabilityPlan {
    fn new(sets: &LinuxCapabilities) -> CapabilityPlan {
        let bits = |set: &Option<Capabilities>| {
            set.iter().flatten().fold(0, |bits, capability| {
                bits | 1u64 << capability_number(*capability)
            })
        };
        let (permitted, inheritable) = (bits(sets.permitted()), bits(sets.inheritable()));
        CapabilityPlan {
            bounding: bits(sets.bounding()),
            effective: bits(sets.effective()) & permitted,
            inheritable,
            permitted,
            // The kernel takes into the ambient set only what is permitted and inheritable.
            ambient: bits(sets.ambient()) & permitted & inheritable,
        }
    }
}

/// All capabilities, in the order of the kernel's numbers.
pub(crate) const CAPABILITIES: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The kernel's number of a capability.
fn capability_number(capability: Capability) -> usize {
    let number = CAPABILITIES.iter().position(|known| *known == capability);
    number.expect("the list has every capability that there is a name for")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_has_the_kernels_number() {
        for (capability, number) in [
            (Capability::Chown, 0),
            (Capability::SysAdmin, 21),
            (Capability::Syslog, 34),
            (Capability::CheckpointRestore, 40),
        ] {
            assert_eq!(capability_number(capability), number);
        }
        let mut known = CAPABILITIES.map(capability_number);
        known.sort_unstable();
        assert!(known.iter().copied().eq(0..CAPABILITIES.len()));
    }
}
