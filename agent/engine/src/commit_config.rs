//! The configuration of a committed image: the container's, what the request says, and Dockerfile instructions.

use crate::error::{Error, Result};
use crate::signal;
use muster_build::Instruction;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Shell of instructions in shell form where the image names none; Docker's.
const SHELL_DEFAULT: [&str; 2] = ["/bin/sh", "-c"];

/// The `config` object of an image, in Docker's form. What it does not know is kept.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RunConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposed_ports: Option<BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<BTreeMap<String, Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_dir: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_build: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Instructions that a commit may apply, as in Docker.
const CHANGES: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

impl RunConfig {
    /// Reads the `config` object of an image or of a request.
    pub fn read(value: Value) -> Result<Self> {
        match value {
            Value::Null => Ok(Self::default()),
            value => serde_json::from_value(value)
                .map_err(|error| Error::invalid(format!("invalid image configuration: {error}"))),
        }
    }

    /// Fills in what it leaves out, as Docker merges a user's configuration with an image's.
    pub fn or(mut self, base: Self) -> Self {
        if is_empty(&self.entrypoint) {
            if is_empty(&self.cmd) {
                self.cmd = base.cmd;
            }
            if self.entrypoint.is_none() {
                self.entrypoint = base.entrypoint;
            }
        }
        self.user = self.user.filter(|user| !user.is_empty()).or(base.user);
        self.working_dir = self
            .working_dir
            .filter(|path| !path.is_empty())
            .or(base.working_dir);
        self.stop_signal = self
            .stop_signal
            .filter(|signal| !signal.is_empty())
            .or(base.stop_signal);
        self.healthcheck = self.healthcheck.or(base.healthcheck);
        self.on_build = self.on_build.or(base.on_build);
        self.shell = self.shell.or(base.shell);
        self.exposed_ports = joined(self.exposed_ports, base.exposed_ports);
        self.volumes = joined(self.volumes, base.volumes);
        self.labels = joined(self.labels, base.labels);
        self.env = joined_env(self.env, base.env);
        for (key, value) in base.other {
            self.other.entry(key).or_insert(value);
        }
        self
    }

    /// Applies Dockerfile instructions, one a line.
    pub fn changed(mut self, changes: &[String]) -> Result<Self> {
        for line in changes.iter().flat_map(|change| change.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let name = line.split_whitespace().next().unwrap_or_default();
            if !CHANGES.iter().any(|change| change.eq_ignore_ascii_case(name)) {
                return Err(Error::invalid(format!("{name} is not a valid change command")));
            }
            let invalid = |error: muster_build::Error| Error::invalid(error.problem);
            let instruction = Instruction::parse(line).map_err(invalid)?;
            let lookup = |name: &str| self.variable(name);
            let instruction = instruction.expanded('\\', &lookup).map_err(invalid)?;
            self.apply(instruction)?;
        }
        Ok(self)
    }

    /// The value of a variable of its environment.
    pub fn variable(&self, name: &str) -> Option<String> {
        let mut env = self.env.iter().flatten().rev();
        env.find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
            .map(str::to_owned)
    }

    /// Applies an expanded instruction; false for one that says nothing of the configuration.
    pub fn apply(&mut self, instruction: Instruction) -> Result<bool> {
        match instruction {
            Instruction::Cmd(command) => self.cmd = Some(command.in_shell(&self.shell())),
            Instruction::Entrypoint(command) => self.entrypoint = Some(command.in_shell(&self.shell())),
            Instruction::Env(pairs) => {
                let new = pairs
                    .into_iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                self.env = joined_env(Some(new), self.env.take());
            }
            Instruction::Label(pairs) => self.labels.get_or_insert_default().extend(pairs),
            Instruction::Expose(exposed) => {
                let ports = exposed
                    .ports
                    .into_iter()
                    .map(|port| (port, Value::Object(Map::new())));
                self.exposed_ports.get_or_insert_default().extend(ports);
            }
            Instruction::Volume(paths) => {
                let paths = paths.into_iter().map(|path| (path, Value::Object(Map::new())));
                self.volumes.get_or_insert_default().extend(paths);
            }
            Instruction::User(user) => self.user = Some(user),
            Instruction::Workdir(path) => {
                let now = self.working_dir.clone().unwrap_or_default();
                self.working_dir = Some(working_dir(&now, &path));
            }
            Instruction::OnBuild(trigger) => self.on_build.get_or_insert_default().push(trigger),
            Instruction::StopSignal(name) => {
                signal::parse(&name)?;
                self.stop_signal = Some(name);
            }
            Instruction::Healthcheck(check) => self.healthcheck = Some(check.value()),
            Instruction::Shell(words) => self.shell = Some(words),
            Instruction::Arg(_)
            | Instruction::Maintainer(_)
            | Instruction::Run(_)
            | Instruction::Transfer(_) => return Ok(false),
        }
        Ok(true)
    }

    /// The shell of commands that are lines.
    pub fn shell(&self) -> Vec<String> {
        self.shell
            .clone()
            .unwrap_or_else(|| SHELL_DEFAULT.map(str::to_owned).to_vec())
    }
}

fn is_empty(words: &Option<Vec<String>>) -> bool {
    words.as_ref().is_none_or(Vec::is_empty)
}

fn joined<T>(
    own: Option<BTreeMap<String, T>>,
    base: Option<BTreeMap<String, T>>,
) -> Option<BTreeMap<String, T>> {
    match (own, base) {
        (Some(own), Some(mut base)) => {
            base.extend(own);
            Some(base)
        }
        (own, base) => own.or(base),
    }
}

/// The base's variables in their order with the own values, then the own ones that are new.
fn joined_env(own: Option<Vec<String>>, base: Option<Vec<String>>) -> Option<Vec<String>> {
    let (Some(own), Some(mut env)) = (own.clone(), base.clone()) else {
        return own.or(base);
    };
    let key = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in own {
        match env.iter_mut().find(|known| key(known) == key(&entry)) {
            Some(known) => *known = entry,
            None => env.push(entry),
        }
    }
    Some(env)
}

/// A relative path continues the working directory so far.
pub(crate) fn working_dir(now: &str, path: &str) -> String {
    let whole = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{now}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn changed(base: Value, changes: &[&str]) -> Value {
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        let config = RunConfig::read(base).unwrap().changed(&changes).unwrap();
        serde_json::to_value(config).unwrap()
    }

    #[test]
    fn instructions_change_the_configuration() {
        let base = json!({"Env": ["PATH=/bin", "A=1"], "WorkingDir": "/srv", "ArgsEscaped": true});
        let changes = [
            "CMD [\"a\", \"b c\"]",
            "ENTRYPOINT exec x",
            "ENV A=2 B=\"two words\" PATH=$PATH:/sbin",
            "LABEL k=v",
            "EXPOSE 80 53/udp",
            "VOLUME /data /more",
            "USER 7:8",
            "WORKDIR sub/../other",
            "ONBUILD RUN make",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=5s --retries=2 CMD true",
        ];
        assert_eq!(
            changed(base, &changes),
            json!({
                "Cmd": ["a", "b c"],
                "Entrypoint": ["/bin/sh", "-c", "exec x"],
                "Env": ["PATH=/bin:/sbin", "A=2", "B=two words"],
                "Labels": {"k": "v"},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Volumes": {"/data": {}, "/more": {}},
                "User": "7:8",
                "WorkingDir": "/srv/other",
                "OnBuild": ["RUN make"],
                "StopSignal": "SIGINT",
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 5_000_000_000_u64, "Retries": 2},
                "ArgsEscaped": true,
            })
        );
    }

    #[test]
    fn what_a_request_leaves_out_is_the_containers() {
        let base = RunConfig::read(
            json!({"Cmd": ["old"], "Env": ["A=1", "B=1"], "User": "u", "Labels": {"a": "1"}}),
        )
        .unwrap();
        let own = RunConfig::read(json!({"Env": ["B=2", "C=2"], "User": "", "Labels": {"b": "2"}})).unwrap();
        assert_eq!(
            serde_json::to_value(own.or(base.clone())).unwrap(),
            json!({"Cmd": ["old"], "Env": ["A=1", "B=2", "C=2"], "User": "u", "Labels": {"a": "1", "b": "2"}})
        );
        let entry = RunConfig::read(json!({"Entrypoint": ["e"]})).unwrap();
        assert_eq!(entry.or(base).cmd, None);
    }

    #[test]
    fn other_instructions_are_refused() {
        for bad in [
            "FROM x",
            "RUN x",
            "COPY a b",
            "nonsense",
            "CMD",
            "EXPOSE x",
            "HEALTHCHECK",
            "ENV A",
            "SHELL sh",
            "STOPSIGNAL nosuch",
        ] {
            assert!(RunConfig::default().changed(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
