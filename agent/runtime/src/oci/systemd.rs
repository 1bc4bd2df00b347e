//! Control groups that systemd knows of, as scopes: asked for by `--systemd-cgroup`.
//!
//! The group is made as any other, at the place where systemd would make it; then systemd takes it over as a scope that
//! holds the container's process. It writes its own settings to the group at that, and again whenever it reads its units
//! anew, so that it is told the limits it has words for, and the limits are written once more afterwards.

use muster_dbus::{Connection, DbusError, Method, Signal, Value};
use oci_spec::runtime::{LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use std::path::Path;
use std::time::Duration;

use super::error::{OciError, Result};
use crate::cgroup::{CgroupVersion, cpu_weight_of_shares, swap_alone};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
/// There while systemd is process 1.
const RUNS: &str = "/run/systemd/system";
/// Where systemd itself listens, also on a host without a message bus.
const PRIVATE: &str = "unix:path=/run/systemd/private";

const SLICE_DEFAULT: &str = "system.slice";
const PREFIX_DEFAULT: &str = "muster";

/// Time for systemd to start or stop a scope, as in runc.
const JOB_WITHIN: Duration = Duration::from_secs(30);
/// No limit, in systemd's words.
const INFINITY: u64 = u64::MAX;
const MICROSECONDS: u64 = 1_000_000;

/// A scope, by its name and its slice's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scope {
    pub name: String,
    slice: String,
}

impl Scope {
    /// The scope that `cgroupsPath` names: `slice:prefix:name`, each of which may be left out.
    pub fn new(specified: Option<&str>, id: &str) -> Result<Scope> {
        let parts: Vec<&str> =
            specified.map_or_else(|| vec!["", PREFIX_DEFAULT, id], |path| path.split(':').collect());
        let [slice, prefix, name] = parts[..] else {
            return Err(OciError::usage(format!(
                "cgroupsPath {:?} has not the form slice:prefix:name, which --systemd-cgroup needs",
                specified.unwrap_or_default()
            )));
        };
        let name = match (prefix, name) {
            (_, "") => return Err(OciError::usage("cgroupsPath names no scope")),
            ("", name) => format!("{name}.scope"),
            (prefix, name) => format!("{prefix}-{name}.scope"),
        };
        if name.contains('/') {
            return Err(OciError::usage(format!("{name:?} is no name of a scope")));
        }
        let slice = if slice.is_empty() { SLICE_DEFAULT } else { slice };
        Ok(Scope {
            name,
            slice: slice.to_owned(),
        })
    }

    /// Where its control group is: a slice lies in those that its name begins with.
    pub fn path(&self) -> Result<String> {
        let refuse = || OciError::usage(format!("{:?} is no name of a slice", self.slice));
        let slice = self.slice.strip_suffix(".slice").ok_or_else(refuse)?;
        if slice == "-" {
            return Ok(self.name.clone());
        }
        if slice.contains('/') || slice.split('-').any(str::is_empty) {
            return Err(refuse());
        }
        let ends = slice.match_indices('-').map(|(at, _)| at).chain([slice.len()]);
        let mut path: String = ends.map(|end| format!("{}.slice/", &slice[..end])).collect();
        path.push_str(&self.name);
        Ok(path)
    }
}

/// The connection to systemd.
pub(super) struct Systemd {
    connection: Connection,
    version: CgroupVersion,
}

impl Systemd {
    pub fn connect(version: CgroupVersion) -> Result<Systemd> {
        if !Path::new(RUNS).is_dir() {
            return Err(OciError::Unsupported {
                what: "--systemd-cgroup on a host without systemd",
                instead: "use cgroupfs: podman --cgroup-manager cgroupfs, or SystemdCgroup = false in containerd",
            });
        }
        let connection = match Connection::system() {
            Err(error) if error.is_absent() => Connection::direct(PRIVATE),
            result => result,
        };
        let connection = connection.map_err(|error| failed("reach systemd", error))?;
        Ok(Systemd { connection, version })
    }

    /// Has systemd take over the group that this process is in. After an error no scope is left that was not there before.
    pub fn adopt(&mut self, scope: &Scope, pid: i32, id: &str, resources: &LinuxResources) -> Result<()> {
        let what = || format!("start {}", scope.name);
        let accounting = match self.version {
            CgroupVersion::V1 => "BlockIOAccounting",
            CgroupVersion::V2 => "IOAccounting",
        };
        let process = u32::try_from(pid).unwrap_or_default();
        let mut properties = vec![
            property("Description", Value::text(format!("muster container {id}"))),
            property("Slice", Value::text(scope.slice.as_str())),
            property("PIDs", Value::Array("u".to_owned(), vec![Value::U32(process)])),
            property("DefaultDependencies", Value::Bool(false)),
            property("Delegate", Value::Bool(true)),
        ];
        for name in ["CPUAccounting", "MemoryAccounting", "TasksAccounting", accounting] {
            properties.push(property(name, Value::Bool(true)));
        }
        properties.extend(limits(resources, self.version));
        if let (CgroupVersion::V1, Some(rules)) = (self.version, resources.devices()) {
            properties.extend(devices(rules));
        }
        let arguments = [
            Value::text(scope.name.as_str()),
            Value::text("replace"),
            Value::Array("(sv)".to_owned(), properties),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let connection = &mut self.connection;
        let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
        connection
            .subscribe(rule)
            .map_err(|error| failed(what(), error))?;
        let mut started = connection.call(&of_systemd("StartTransientUnit"), &arguments);
        if is_named(&started, "org.freedesktop.systemd1.UnitExists") {
            // One of that name that failed is kept until somebody has looked at it.
            let name = [Value::text(scope.name.as_str())];
            let _ = connection.call(&of_systemd("ResetFailedUnit"), &name);
            started = connection.call(&of_systemd("StartTransientUnit"), &arguments);
        }
        let started = started.map_err(|error| failed(what(), error))?;
        let problem = match self.await_job(&started) {
            Ok(result) if result == "done" => return Ok(()),
            Ok(result) => OciError::io(what(), std::io::Error::other(format!("the job is {result}"))),
            Err(error) => failed(what(), error),
        };
        // The problem says more.
        let _ = self.forget(&scope.name);
        Err(problem)
    }

    /// Tells changed limits.
    pub fn update(&mut self, scope: &str, resources: &LinuxResources) -> Result<()> {
        let properties = limits(resources, self.version);
        if properties.is_empty() {
            return Ok(());
        }
        let arguments = [
            Value::text(scope),
            Value::Bool(true),
            Value::Array("(sv)".to_owned(), properties),
        ];
        let set = self.connection.call(&of_systemd("SetUnitProperties"), &arguments);
        set.map(|_| ())
            .map_err(|error| failed(format!("change {scope}"), error))
    }

    /// Has systemd forget a scope, whose processes have ended.
    pub fn forget(&mut self, scope: &str) -> Result<()> {
        let arguments = [Value::text(scope), Value::text("replace")];
        let stopped = self.connection.call(&of_systemd("StopUnit"), &arguments);
        // It goes by itself once its group is empty; one that failed has to be forgotten.
        let _ = self
            .connection
            .call(&of_systemd("ResetFailedUnit"), &arguments[..1]);
        match stopped {
            Err(_) if is_named(&stopped, "org.freedesktop.systemd1.NoSuchUnit") => Ok(()),
            Err(error) => Err(failed(format!("stop {scope}"), error)),
            Ok(_) => Ok(()),
        }
    }

    /// How a job ended, which the answer to its request names.
    fn await_job(&mut self, answer: &[Value]) -> Result<String, DbusError> {
        let job = answer
            .first()
            .and_then(Value::as_text)
            .unwrap_or_default()
            .to_owned();
        let is_ours = |signal: &Signal| {
            signal.member == "JobRemoved" && signal.body.get(1).and_then(Value::as_text) == Some(&job)
        };
        let removed = self.connection.await_signal(JOB_WITHIN, is_ours)?;
        Ok(removed
            .body
            .get(3)
            .and_then(Value::as_text)
            .unwrap_or_default()
            .to_owned())
    }
}

fn of_systemd(member: &str) -> Method<'_> {
    Method {
        destination: SERVICE,
        path: OBJECT,
        interface: INTERFACE,
        member,
    }
}

fn is_named(result: &Result<Vec<Value>, DbusError>, wanted: &str) -> bool {
    matches!(result, Err(DbusError::Failed { name, .. }) if name == wanted)
}

fn failed(operation: impl Into<String>, error: DbusError) -> OciError {
    OciError::io(operation, std::io::Error::other(error))
}

fn property(name: &str, value: Value) -> Value {
    Value::Struct(vec![Value::text(name), value.variant()])
}

/// The limits that systemd has words for.
fn limits(resources: &LinuxResources, version: CgroupVersion) -> Vec<Value> {
    let mut found: Vec<(&str, Value)> = Vec::new();
    if let Some(cpu) = resources.cpu() {
        found.extend(cpu_limits(cpu, version));
    }
    let memory_max = match version {
        CgroupVersion::V1 => "MemoryLimit",
        CgroupVersion::V2 => "MemoryMax",
    };
    if let Some(memory) = resources.memory() {
        let given = |bytes: Option<i64>| bytes.filter(|bytes| *bytes != 0);
        found.extend(given(memory.limit()).map(|bytes| (memory_max, limit(bytes))));
        if version == CgroupVersion::V2 {
            found.extend(given(memory.reservation()).map(|bytes| ("MemoryLow", limit(bytes))));
            // What cannot be is refused where it is written.
            let swap = swap_alone(memory.limit(), memory.swap()).ok().flatten();
            found.extend(swap.map(|bytes| ("MemorySwapMax", limit(bytes))));
        }
    }
    // No limit, by the specification, is also a count of zero.
    let pids = resources.pids().as_ref().map(|pids| match pids.limit() {
        0 => -1,
        count => count,
    });
    found.extend(pids.map(|count| ("TasksMax", limit(count))));
    found
        .into_iter()
        .map(|(name, value)| property(name, value))
        .collect()
}

fn cpu_limits(cpu: &LinuxCpu, version: CgroupVersion) -> Vec<(&'static str, Value)> {
    let mut found = Vec::new();
    let shares = cpu.shares().filter(|shares| *shares != 0);
    found.extend(shares.map(|shares| match version {
        CgroupVersion::V1 => ("CPUShares", Value::U64(shares)),
        CgroupVersion::V2 => ("CPUWeight", Value::U64(cpu_weight_of_shares(shares))),
    }));
    let period = cpu.period().filter(|period| *period != 0).unwrap_or(100_000);
    found.extend(cpu.quota().map(|quota| {
        let per_second = u64::try_from(quota)
            .ok()
            .filter(|quota| *quota != 0)
            .map_or(INFINITY, |quota| {
                // systemd keeps hundredths of a processor.
                let exact = u128::from(quota) * u128::from(MICROSECONDS) / u128::from(period);
                u64::try_from(exact).unwrap_or(INFINITY).next_multiple_of(10_000)
            });
        ("CPUQuotaPerSecUSec", Value::U64(per_second))
    }));
    if version == CgroupVersion::V2 {
        let period = cpu.period().filter(|period| *period != 0);
        found.extend(period.map(|period| ("CPUQuotaPeriodUSec", Value::U64(period))));
        let masks = [("AllowedCPUs", cpu.cpus()), ("AllowedMemoryNodes", cpu.mems())];
        found.extend(
            masks
                .into_iter()
                .filter_map(|(name, list)| Some((name, mask(list.as_deref()?)?))),
        );
    }
    found
}

/// Less than zero is no limit.
fn limit(number: i64) -> Value {
    Value::U64(u64::try_from(number).unwrap_or(INFINITY))
}

/// A list such as `0-3,8` as bytes of bits; one that is not well formed is refused where it is written.
fn mask(list: &str) -> Option<Value> {
    let mut bytes: Vec<u8> = Vec::new();
    for range in list.split(',').filter(|range| !range.trim().is_empty()) {
        let (first, last) = range
            .trim()
            .split_once('-')
            .unwrap_or((range.trim(), range.trim()));
        let (first, last): (u16, u16) = (first.parse().ok()?, last.parse().ok()?);
        for bit in usize::from(first)..=usize::from(last) {
            bytes.resize(bytes.len().max(bit / 8 + 1), 0);
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    (!bytes.is_empty()).then(|| Value::Array("y".to_owned(), bytes.into_iter().map(Value::Byte).collect()))
}

/// Which devices systemd lets the group of v1 have when it writes its settings anew: what its words can say of the rules,
/// whose exact form is in the group already.
fn devices(rules: &[LinuxDeviceCgroup]) -> Vec<Value> {
    let is_all = |rule: &LinuxDeviceCgroup| {
        rule.typ().unwrap_or_default() == LinuxDeviceType::A
            && rule.major().is_none()
            && rule.minor().is_none()
    };
    // Rules before the last one about everything say nothing any more.
    let last = rules.iter().rposition(is_all);
    if last.is_none_or(|at| rules[at].allow()) {
        return Vec::new();
    }
    let rest = &rules[last.map_or(0, |at| at + 1)..];
    let entries = rest.iter().filter(|rule| rule.allow()).filter_map(|rule| {
        let (directory, group) = match rule.typ().unwrap_or_default() {
            LinuxDeviceType::B => ("/dev/block", "block"),
            LinuxDeviceType::C | LinuxDeviceType::U => ("/dev/char", "char"),
            LinuxDeviceType::A | LinuxDeviceType::P => return None,
        };
        let wildcard = |number: Option<i64>| number.filter(|number| *number >= 0);
        let device = match (wildcard(rule.major()), wildcard(rule.minor())) {
            (Some(major), Some(minor)) => format!("{directory}/{major}:{minor}"),
            (Some(major), None) => format!("{group}-{major}"),
            (None, _) => format!("{group}-*"),
        };
        let access = rule.access().as_deref().unwrap_or("rwm");
        Some(Value::Struct(vec![Value::text(device), Value::text(access)]))
    });
    vec![
        property("DevicePolicy", Value::text("strict")),
        property("DeviceAllow", Value::Array("(ss)".to_owned(), entries.collect())),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_lie_in_slices_within_slices() {
        for (specified, path) in [
            (None, "system.slice/muster-id.scope"),
            (Some("::name"), "system.slice/name.scope"),
            (Some("machine.slice:libpod:abc"), "machine.slice/libpod-abc.scope"),
            (
                Some("kubepods-burstable-pod1.slice:cri:x"),
                "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-x.scope",
            ),
            (Some("-.slice:a:b"), "a-b.scope"),
        ] {
            let scope = Scope::new(specified, "id").expect("it is valid");
            assert_eq!(scope.path().expect("it is valid"), path);
        }
        for bad in [
            "",
            "/pod/a",
            "a:b",
            "a.slice:b:",
            "a.slice:b:c:d",
            "a.slice:b:c/d",
        ] {
            assert!(Scope::new(Some(bad), "id").is_err(), "{bad}");
        }
        for bad in ["a", "a/b.slice", "-a.slice", "a--b.slice", "a-.slice", ".slice"] {
            let scope = Scope::new(Some(&format!("{bad}:p:n")), "id").expect("its name is valid");
            assert!(scope.path().is_err(), "{bad}");
        }
    }

    #[test]
    fn limits_are_said_in_the_words_of_each_version() {
        let resources: LinuxResources = serde_json::from_value(serde_json::json!({
            "memory": { "limit": 1000, "swap": 1500 },
            "cpu": { "shares": 1024, "quota": 150_001, "period": 100_000, "cpus": "0-2,9" },
            "pids": { "limit": -1 },
        }))
        .expect("it is valid");
        let said = |version| -> Vec<String> {
            let limits = limits(&resources, version);
            limits
                .iter()
                .map(|limit| format!("{:?}", limit.members()))
                .collect()
        };
        let shown = said(CgroupVersion::V2).join("\n");
        for expected in [
            "MemoryMax\"), Variant(U64(1000))",
            "MemorySwapMax\"), Variant(U64(500))",
            "CPUQuotaPerSecUSec\"), Variant(U64(1510000))",
            "AllowedCPUs\"), Variant(Array(\"y\", [Byte(7), Byte(2)]))",
            "TasksMax\"), Variant(U64(18446744073709551615))",
        ] {
            assert!(shown.contains(expected), "no {expected} in {shown}");
        }
        let shown = said(CgroupVersion::V1).join("\n");
        assert!(shown.contains("CPUShares\"), Variant(U64(1024))"), "{shown}");
        assert!(shown.contains("MemoryLimit\"), Variant(U64(1000))"), "{shown}");
    }

    #[test]
    fn no_swap_is_a_limit_and_no_reservation_is_none() {
        let said = |memory: serde_json::Value| {
            let resources: LinuxResources =
                serde_json::from_value(serde_json::json!({ "memory": memory })).expect("it is valid");
            let limits = limits(&resources, CgroupVersion::V2);
            limits
                .iter()
                .map(|limit| format!("{:?}", limit.members()))
                .collect::<Vec<String>>()
        };
        let none = said(serde_json::json!({ "limit": 1000, "swap": 1000, "reservation": 0 }));
        assert_eq!(none.len(), 2, "{none:?}");
        assert!(none[1].contains("MemorySwapMax\"), Variant(U64(0))"), "{none:?}");
        // Swap is part of a sum whose other part is not told.
        assert_eq!(said(serde_json::json!({ "swap": 1500 })), Vec::<String>::new());
        let unlimited = said(serde_json::json!({ "limit": -1 })).join("\n");
        for name in ["MemoryMax", "MemorySwapMax"] {
            let expected = format!("{name}\"), Variant(U64({INFINITY}))");
            assert!(unlimited.contains(&expected), "{unlimited}");
        }
    }
}
