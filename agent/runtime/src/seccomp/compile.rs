//! From an OCI profile to what each system call number leads to.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompOperator, LinuxSyscall,
};

use super::abi::{Abi, X32_BIT};
use super::assemble::{self, Check, Condition, Decision, Operator, Section};
use super::{BpfProgram, HostSupport, Result, SeccompError, table};

/// What the filter answers for a kernel's whole architecture that the profile does not list.
const KILL_PROCESS: u32 = 0x8000_0000;
const RETURN_ERRNO: u32 = 0x0005_0000;

/// The number of an aborted call, which a tracer sets.
const ABORTED_CALL: u32 = u32::MAX;

/// What calls get that are newer than every call that the profile names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnlistedCalls {
    /// ENOSYS, as from a kernel without them, so that programs fall back to older calls. As runc does it: only where
    /// the default action refuses.
    AnswerEnosys,
    /// The default action.
    TakeDefault,
}

/// Compiles a profile for this host.
pub fn compile(profile: &LinuxSeccomp, host: &HostSupport) -> Result<BpfProgram> {
    compile_with(profile, host, UnlistedCalls::AnswerEnosys)
}

/// Compiles a profile. Calls that no kernel table knows are skipped.
///
/// Of several rules for one call an unconditional one wins, else the first that fits. A rule that says what the
/// default action says is skipped.
pub fn compile_with(
    profile: &LinuxSeccomp,
    host: &HostSupport,
    unlisted: UnlistedCalls,
) -> Result<BpfProgram> {
    let flags = host.flag_bits(profile.flags().as_deref(), notifies(profile)?)?;
    let default = host.return_value(profile.default_action(), profile.default_errno_ret(), &|| {
        "the default action".to_owned()
    })?;
    let unlisted = match unlisted {
        UnlistedCalls::AnswerEnosys if refuses(profile) => Some(RETURN_ERRNO | libc::ENOSYS.cast_unsigned()),
        _ => None,
    };
    let listed = listed_abis(profile, host);
    let mut sections: Vec<Section> = Vec::new();
    for abi in host.machine.abis().iter().filter(|abi| listed.contains(abi)) {
        let calls = decisions(profile, host, *abi, default)?;
        let ranges = ranges(*abi, calls, default, unlisted.filter(|answer| *answer != default));
        match sections.iter_mut().find(|section| section.token == abi.token()) {
            // x32 comes after x86-64 and has the upper half of its numbers.
            Some(section) => section.ranges.retain(|(start, _)| *start < X32_BIT),
            None => sections.push(Section {
                token: abi.token(),
                ranges: Vec::new(),
            }),
        }
        let section = sections.iter_mut().find(|section| section.token == abi.token());
        section.expect("it was just found or added").ranges.extend(ranges);
    }
    for section in &mut sections {
        assemble::merge_equal(&mut section.ranges);
    }
    Ok(BpfProgram::new(
        assemble::program(&sections, KILL_PROCESS)?,
        flags,
    ))
}

/// Whether somebody else decides about calls. What a process does between the filter and its program cannot be among
/// them.
fn notifies(profile: &LinuxSeccomp) -> Result<bool> {
    const NOTIFY: LinuxSeccompAction = LinuxSeccompAction::ScmpActNotify;
    let refused = |reason| {
        Err(SeccompError::UnsupportedAction {
            action: NOTIFY,
            reason,
        })
    };
    if profile.default_action() == NOTIFY {
        return refused("it cannot be the default action");
    }
    let rules = profile.syscalls().iter().flatten();
    let mut notified = rules.filter(|rule| rule.action() == NOTIFY).peekable();
    let notifies = notified.peek().is_some();
    if notified.any(|rule| rule.names().iter().any(|name| name == "write")) {
        return refused("it cannot be used for the write system call");
    }
    if notifies && profile.listener_path().is_none() {
        return refused("listenerPath does not say who is asked");
    }
    if profile.listener_metadata().is_some() && profile.listener_path().is_none() {
        return Err(SeccompError::Contradiction(
            "it has listenerMetadata and no listenerPath",
        ));
    }
    Ok(notifies)
}

/// The ABIs that the profile lets programs use: the machine's own always.
fn listed_abis(profile: &LinuxSeccomp, host: &HostSupport) -> Vec<Abi> {
    let named = profile
        .architectures()
        .iter()
        .flatten()
        .filter_map(|name| Abi::of(*name));
    let mut abis: Vec<_> = named.filter(|abi| host.machine.abis().contains(abi)).collect();
    abis.push(host.machine.native());
    abis
}

/// Whether the default action keeps programs from calls. A tracer can answer for calls that it does not know itself.
fn refuses(profile: &LinuxSeccomp) -> bool {
    match profile.default_action() {
        LinuxSeccompAction::ScmpActAllow
        | LinuxSeccompAction::ScmpActLog
        | LinuxSeccompAction::ScmpActTrace => false,
        LinuxSeccompAction::ScmpActKill
        | LinuxSeccompAction::ScmpActKillThread
        | LinuxSeccompAction::ScmpActKillProcess
        | LinuxSeccompAction::ScmpActTrap
        | LinuxSeccompAction::ScmpActErrno
        | LinuxSeccompAction::ScmpActNotify => {
            profile.syscalls().as_ref().is_some_and(|calls| !calls.is_empty())
        }
    }
}

/// What the calls that the profile names lead to, by table number.
#[derive(Default)]
struct Calls {
    decisions: BTreeMap<u32, Decision>,
    /// The newest ordinary call that is named at all, also by a rule that is skipped.
    newest: Option<u32>,
}

fn decisions(profile: &LinuxSeccomp, host: &HostSupport, abi: Abi, default: u32) -> Result<Calls> {
    let mut calls = Calls::default();
    for rule in profile.syscalls().iter().flatten() {
        let call_names = || rule.names().join(", ");
        let answer = host.return_value(rule.action(), rule.errno_ret(), &call_names)?;
        let alternatives = alternatives(rule)?;
        for name in rule.names() {
            let direct = table::number(abi, name);
            let ordinary = direct.filter(|number| *number < abi.ordinary_end());
            calls.newest = calls.newest.max(ordinary);
            if answer == default {
                continue;
            }
            for conditions in &alternatives {
                let conditions = effective(conditions, abi);
                if let Some((number, first_argument)) = table::multiplexed(abi, name) {
                    let conditions = multiplexed_conditions(&conditions, first_argument);
                    add(&mut calls.decisions, number, conditions, answer, default);
                }
                if let Some(number) = direct {
                    add(&mut calls.decisions, number, conditions, answer, default);
                }
            }
        }
    }
    Ok(calls)
}

/// The sets of conditions under which a rule fits. Conditions on different arguments must all hold. Where one argument
/// has several, each condition is a rule of its own, as in runc.
fn alternatives(rule: &LinuxSyscall) -> Result<Vec<Vec<Condition>>> {
    let arguments = rule.args().as_deref().unwrap_or_default();
    let conditions: Vec<_> = arguments
        .iter()
        .map(|argument| condition(rule, argument))
        .collect::<Result<_>>()?;
    let repeated = conditions.iter().enumerate().any(|(at, condition)| {
        conditions[..at]
            .iter()
            .any(|earlier: &Condition| earlier.argument == condition.argument)
    });
    if repeated {
        return Ok(conditions.into_iter().map(|condition| vec![condition]).collect());
    }
    Ok(vec![conditions])
}

fn condition(rule: &LinuxSyscall, argument: &LinuxSeccompArg) -> Result<Condition> {
    let index = u8::try_from(argument.index())
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| SeccompError::NoSuchArgument {
            call: rule.names().join(", "),
            index: argument.index(),
        })?;
    let value = argument.value();
    let (operator, value) = match argument.op() {
        LinuxSeccompOperator::ScmpCmpEq => (Operator::Equal, value),
        LinuxSeccompOperator::ScmpCmpNe => (Operator::NotEqual, value),
        LinuxSeccompOperator::ScmpCmpLt => (Operator::Less, value),
        LinuxSeccompOperator::ScmpCmpLe => (Operator::LessOrEqual, value),
        LinuxSeccompOperator::ScmpCmpGt => (Operator::Greater, value),
        LinuxSeccompOperator::ScmpCmpGe => (Operator::GreaterOrEqual, value),
        // Here `value` is the mask and the second value is what must be left of the argument.
        LinuxSeccompOperator::ScmpCmpMaskedEq => (
            Operator::MaskedEqual { mask: value },
            argument.value_two().unwrap_or(0) & value,
        ),
    };
    Ok(Condition {
        argument: index,
        operator,
        value,
        low_only: false,
    })
}

/// The conditions as this ABI compares them, without those that always hold.
fn effective(conditions: &[Condition], abi: Abi) -> Vec<Condition> {
    let low_only = abi.compares_32_bits();
    let cut = |value: u64| {
        if low_only {
            value & u64::from(u32::MAX)
        } else {
            value
        }
    };
    let fitted = conditions.iter().map(|condition| Condition {
        low_only,
        value: cut(condition.value),
        operator: match condition.operator {
            Operator::MaskedEqual { mask } => Operator::MaskedEqual { mask: cut(mask) },
            other => other,
        },
        ..*condition
    });
    fitted
        .filter(|condition| condition.operator != Operator::MaskedEqual { mask: 0 })
        .collect()
}

/// The conditions of a rule for a call that arrives through `socketcall` or `ipc`. Its own arguments are in memory,
/// where no filter can look, so a condition on the first one gives way to the one that picks the call.
fn multiplexed_conditions(conditions: &[Condition], first_argument: u64) -> Vec<Condition> {
    let picks = Condition {
        argument: 0,
        operator: Operator::Equal,
        value: first_argument,
        low_only: true,
    };
    let others = conditions
        .iter()
        .filter(|condition| condition.argument != 0)
        .copied();
    std::iter::once(picks).chain(others).collect()
}

fn add(
    decisions: &mut BTreeMap<u32, Decision>,
    number: u32,
    conditions: Vec<Condition>,
    answer: u32,
    otherwise: u32,
) {
    let unconditional = conditions.is_empty();
    match decisions.entry(number) {
        Entry::Vacant(place) if unconditional => {
            place.insert(Decision::Answer(answer));
        }
        Entry::Vacant(place) => {
            let checks = vec![Check { conditions, answer }];
            place.insert(Decision::Checked { checks, otherwise });
        }
        Entry::Occupied(mut known) => match known.get_mut() {
            // The first unconditional rule stays.
            Decision::Answer(_) => {}
            decision if unconditional => *decision = Decision::Answer(answer),
            Decision::Checked { checks, .. } => checks.push(Check { conditions, answer }),
        },
    }
}

/// All numbers of an ABI in order: the start of each range and what it leads to, up to the start of the next.
fn ranges(abi: Abi, calls: Calls, default: u32, unlisted: Option<u32>) -> Vec<(u32, Decision)> {
    let gaps = Gaps {
        default,
        unlisted: unlisted.zip(calls.newest),
        ordinary_end: abi.ordinary_end(),
    };
    let base = abi.number_base();
    let mut ranges = Vec::with_capacity(2 * calls.decisions.len() + 4);
    let mut next = 0;
    for (number, decision) in calls.decisions {
        gaps.fill(next, number, base, &mut ranges);
        ranges.push((base + number, decision));
        next = number + 1;
    }
    gaps.fill(next, u32::MAX - base, base, &mut ranges);
    match abi {
        // Programs of the other ABI are not let in by leaving it out of the profile.
        Abi::X86_64 => {
            ranges.retain(|(start, _)| *start < X32_BIT);
            ranges.push((X32_BIT, Decision::Answer(KILL_PROCESS)));
            ranges.push((ABORTED_CALL, Decision::Answer(default)));
        }
        Abi::X86 | Abi::X32 | Abi::Aarch64 | Abi::Arm => {}
    }
    ranges
}

/// What the numbers between the calls that have rules lead to.
struct Gaps {
    default: u32,
    /// The answer for ordinary calls that are newer than this one.
    unlisted: Option<(u32, u32)>,
    ordinary_end: u32,
}

impl Gaps {
    /// Adds the ranges from `from` to `to`, without `to`.
    fn fill(&self, from: u32, to: u32, base: u32, ranges: &mut Vec<(u32, Decision)>) {
        let Some((answer, newest)) = self.unlisted else {
            return Self::add(from, to, self.default, base, ranges);
        };
        let unlisted_start = newest + 1;
        Self::add(from, to.min(unlisted_start), self.default, base, ranges);
        Self::add(
            from.max(unlisted_start),
            to.min(self.ordinary_end),
            answer,
            base,
            ranges,
        );
        Self::add(from.max(self.ordinary_end), to, self.default, base, ranges);
    }

    fn add(from: u32, to: u32, answer: u32, base: u32, ranges: &mut Vec<(u32, Decision)>) {
        if from < to {
            ranges.push((base + from, Decision::Answer(answer)));
        }
    }
}
