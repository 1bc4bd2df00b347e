//! What a step is called in an image's history: Docker's words, by which users tell steps apart.

use super::stage::Shaped;
use crate::commit_config::RunConfig;
use muster_build::Instruction;
use muster_build::go_text::list;
use serde_json::json;

/// A step that runs nothing.
pub(super) fn described(shell: &[String], words: &str) -> String {
    format!("{} #(nop) {words}", shell.join(" "))
}

/// What an expanded instruction says, once it was applied to the configuration; none for those that do more.
pub(super) fn words(instruction: &Instruction, config: &RunConfig) -> String {
    let pairs = |name: &str, list: &[(String, String)]| {
        let pairs: Vec<String> = list.iter().map(|(key, value)| format!("{key}={value}")).collect();
        format!(" {name} {}", pairs.join(" "))
    };
    match instruction {
        Instruction::Arg(args) => {
            let args: Vec<String> = args
                .iter()
                .map(|(name, value)| match value {
                    Some(value) => format!("{name}={value}"),
                    None => name.clone(),
                })
                .collect();
            format!(" ARG {}", args.join(" "))
        }
        Instruction::Cmd(_) => format!(" CMD {}", list(config.cmd.as_deref().unwrap_or_default())),
        Instruction::Entrypoint(_) => {
            format!(
                " ENTRYPOINT {}",
                list(config.entrypoint.as_deref().unwrap_or_default())
            )
        }
        Instruction::Env(pairs_) => pairs("ENV", pairs_),
        Instruction::Label(pairs_) => pairs("LABEL", pairs_),
        Instruction::Expose(exposed) => format!(" EXPOSE {}", exposed.words.join(" ")),
        Instruction::Healthcheck(check) => format!(" HEALTHCHECK {}", check.in_history()),
        Instruction::Maintainer(name) => format!(" MAINTAINER {name}"),
        Instruction::OnBuild(trigger) => format!(" ONBUILD {trigger}"),
        Instruction::Shell(words) => format!(" SHELL [{}]", words.join(" ")),
        Instruction::StopSignal(signal) => format!(" STOPSIGNAL {signal}"),
        Instruction::User(user) => format!(" USER {user}"),
        Instruction::Volume(paths) => format!(" VOLUME [{}]", paths.join(" ")),
        Instruction::Workdir(_) => {
            format!("WORKDIR {}", config.working_dir.as_deref().unwrap_or("/"))
        }
        Instruction::Run(_) | Instruction::Transfer(_) => String::new(),
    }
}

/// What a `RUN` runs, with the arguments that count.
pub(super) fn run(arguments: &[String], command: &[String]) -> String {
    let command = command.join(" ");
    match arguments {
        [] => command,
        arguments => format!("|{} {} {command}", arguments.len(), arguments.join(" ")),
    }
}

/// What tells a `RUN` from all others: its words, which `run` joins for readers.
pub(super) fn run_key(arguments: &[String], command: &[String]) -> String {
    json!([arguments, command]).to_string()
}

/// What a `COPY` or `ADD` brings.
pub(super) fn transfer(name: &str, shaped: &Shaped) -> String {
    let chown = shaped
        .chown
        .as_ref()
        .map(|owner| format!("--chown={owner} "))
        .unwrap_or_default();
    let chmod = shaped
        .chmod
        .map(|mode| format!("--chmod={mode:o} "))
        .unwrap_or_default();
    format!(
        "{name} {chown}{chmod}{} in {} ",
        shaped.content, shaped.destination
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_other_words_have_other_keys() {
        let key = |arguments: &[&str], command: &[&str]| {
            let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
            run_key(&owned(arguments), &owned(command))
        };
        let keys = [
            key(&[], &["sh", "-c", "echo a"]),
            key(&[], &["sh", "-c", "echo", "a"]),
            key(&[], &["sh -c echo a"]),
            key(&["A=b C=d"], &["x"]),
            key(&["A=b", "C=d"], &["x"]),
            key(&["A=b"], &["C=d", "x"]),
        ];
        let different: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
    }
}
