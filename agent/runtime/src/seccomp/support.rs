//! What the running kernel's seccomp can do.

use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompFilterFlag};

use super::abi::Machine;
use super::{Result, SeccompError, install};

/// The largest error number that the kernel returns to a program (MAX_ERRNO).
const ERRNO_MAX: u32 = 4095;

const FLAG_TSYNC: u32 = 1;
const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;
pub(super) const FLAG_NEW_LISTENER: u32 = 8;
const FLAG_WAIT_KILLABLE_RECV: u32 = 32;

/// What a filter returns for a call that somebody else decides about.
const RETURN_NOTIFY: u32 = 0x7fc0_0000;

/// What a host's seccomp can do. Plain data, so that profiles can be compiled for other hosts in tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSupport {
    /// The machine.
    pub machine: Machine,
    /// The kernel has the action that logs and allows.
    pub action_log: bool,
    /// The kernel has the action that ends the whole process.
    pub action_kill_process: bool,
    /// The kernel has the action that asks somebody else.
    pub action_notify: bool,
    /// The kernel can log refusals.
    pub flag_log: bool,
    /// The kernel can leave the slow speculation guard off.
    pub flag_spec_allow: bool,
    /// Calls that somebody else decides about can only be interrupted by a fatal signal once he knows of them.
    pub flag_wait_killable: bool,
}

impl HostSupport {
    /// Asks the running kernel.
    pub fn detect() -> Result<HostSupport> {
        let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail")
            .map_err(|_| SeccompError::UnknownKernel("seccomp actions; it needs CONFIG_SECCOMP_FILTER"))?;
        let has = |action: &str| actions.split_whitespace().any(|known| known == action);
        Ok(HostSupport {
            machine: Machine::current(),
            action_log: has("log"),
            action_kill_process: has("kill_process"),
            action_notify: has("user_notif"),
            flag_log: install::knows_flag(FLAG_LOG),
            flag_spec_allow: install::knows_flag(FLAG_SPEC_ALLOW),
            flag_wait_killable: install::knows_flag(FLAG_NEW_LISTENER | FLAG_WAIT_KILLABLE_RECV),
        })
    }

    /// A host with everything, for tests and for compiling ahead.
    pub fn complete(machine: Machine) -> HostSupport {
        HostSupport {
            machine,
            action_log: true,
            action_kill_process: true,
            action_notify: true,
            flag_log: true,
            flag_spec_allow: true,
            flag_wait_killable: true,
        }
    }

    /// What a filter returns for an action.
    pub(super) fn return_value(
        &self,
        action: LinuxSeccompAction,
        errno: Option<u32>,
        call: &dyn Fn() -> String,
    ) -> Result<u32> {
        let unsupported = |reason| Err(SeccompError::UnsupportedAction { action, reason });
        match action {
            LinuxSeccompAction::ScmpActErrno | LinuxSeccompAction::ScmpActTrace => {
                let errno = errno.unwrap_or(libc::EPERM.cast_unsigned());
                if action == LinuxSeccompAction::ScmpActErrno && errno > ERRNO_MAX {
                    return Err(SeccompError::ErrnoTooLarge { errno, call: call() });
                }
                Ok(action.as_u32(Some(errno & 0xffff)))
            }
            LinuxSeccompAction::ScmpActNotify if !self.action_notify => {
                unsupported("the kernel is older than 5.0; allow or refuse the call")
            }
            LinuxSeccompAction::ScmpActNotify => Ok(RETURN_NOTIFY),
            LinuxSeccompAction::ScmpActLog if !self.action_log => {
                unsupported("the kernel is older than 4.14; allow or refuse the call")
            }
            LinuxSeccompAction::ScmpActKillProcess if !self.action_kill_process => {
                unsupported("the kernel is older than 4.14; use SCMP_ACT_KILL_THREAD")
            }
            LinuxSeccompAction::ScmpActKill
            | LinuxSeccompAction::ScmpActKillThread
            | LinuxSeccompAction::ScmpActKillProcess
            | LinuxSeccompAction::ScmpActTrap
            | LinuxSeccompAction::ScmpActLog
            | LinuxSeccompAction::ScmpActAllow => Ok(action.as_u32(None)),
        }
    }

    /// The flags to install a filter with. Where the profile lists none, speculation stays as fast as without a
    /// filter, as in runc.
    pub(super) fn flag_bits(&self, flags: Option<&[LinuxSeccompFilterFlag]>, notifies: bool) -> Result<u32> {
        let listener = if notifies { FLAG_NEW_LISTENER } else { 0 };
        let Some(flags) = flags else {
            return Ok(listener | if self.flag_spec_allow { FLAG_SPEC_ALLOW } else { 0 });
        };
        flags.iter().try_fold(listener, |bits, flag| {
            let unsupported = |reason| Err(SeccompError::UnsupportedFlag { flag: *flag, reason });
            match flag {
                // The kernel has one result for both a listener and a thread that cannot follow; whoever installs the
                // filter has one thread.
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync if notifies => Ok(bits),
                LinuxSeccompFilterFlag::SeccompFilterFlagTsync => Ok(bits | FLAG_TSYNC),
                LinuxSeccompFilterFlag::SeccompFilterFlagLog if self.flag_log => Ok(bits | FLAG_LOG),
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow if self.flag_spec_allow => {
                    Ok(bits | FLAG_SPEC_ALLOW)
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if !notifies => {
                    unsupported("it is for SCMP_ACT_NOTIFY, which no rule has; leave it out")
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv if self.flag_wait_killable => {
                    Ok(bits | FLAG_WAIT_KILLABLE_RECV)
                }
                LinuxSeccompFilterFlag::SeccompFilterFlagLog
                | LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow
                | LinuxSeccompFilterFlag::SeccompFilterFlagWaitKillableRecv => {
                    unsupported("the kernel does not know it; leave it out")
                }
            }
        })
    }
}
