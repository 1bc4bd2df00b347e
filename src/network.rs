//! `muster network …`: what the docker CLI has no words for.

use crate::client::EngineClient;
use crate::dial::engine_socket;
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use std::io::Write;

/// `muster network …`
#[derive(Debug, Args)]
pub struct NetworkCommand {
    /// Engine to talk to [default: DOCKER_HOST, /run/muster/docker.sock or /var/run/docker.sock]
    #[arg(short = 'H', long = "host", value_name = "URL")]
    host: Option<String>,
    #[command(subcommand)]
    action: NetworkAction,
}

#[derive(Debug, Subcommand)]
enum NetworkAction {
    /// Which services of a network may open connections to which
    #[command(subcommand)]
    Policy(PolicyAction),
    /// Show the way that connections from one service to another take, and where they would fail
    Trace {
        /// The service whose tasks connect
        from: String,
        /// The service that they connect to: NAME[:PORT[/PROTOCOL]]
        to: String,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyAction {
    /// Show the rules of a network
    Show {
        /// Name or id
        network: String,
    },
    /// Give a network these rules, in place of those that it has
    Set {
        /// Name or id
        network: String,
        /// What holds for services that no rule leads to [default: what held before]
        #[arg(long, value_enum)]
        default: Option<Unruled>,
        /// FROM -> TO[:PORT[/PROTOCOL],...], as in "web -> db:5432"; "*" stands for everybody
        rules: Vec<String>,
    },
    /// Take all rules from a network
    Clear {
        /// Name or id
        network: String,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Unruled {
    /// They accept every connection
    Allow,
    /// They accept none
    Deny,
}

/// `muster network …`
pub fn run(command: NetworkCommand) -> anyhow::Result<()> {
    let client = EngineClient::new(engine_socket(command.host)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start")?;
    match command.action {
        NetworkAction::Policy(action) => runtime.block_on(policy(&client, action)),
        NetworkAction::Trace { from, to } => runtime.block_on(trace(&client, &from, &to)),
    }
}

async fn trace(client: &EngineClient, from: &str, to: &str) -> anyhow::Result<()> {
    let (to, port) = to.split_once(':').unwrap_or((to, ""));
    let (from, to, port) = (encoded(from), encoded(to), encoded(port));
    let steps = client
        .get(&format!("/services/{from}/trace?to={to}&port={port}"))
        .await?;
    let mut output = std::io::stdout().lock();
    let mut failed = 0;
    for step in steps.as_array().into_iter().flatten() {
        let passes = step["Passes"].as_bool().unwrap_or_default();
        failed += usize::from(!passes);
        let (name, text) = (step["Step"].as_str(), step["Text"].as_str());
        let mark = if passes { "ok" } else { "FAILS" };
        writeln!(
            output,
            "{mark:<6}{:<9}{}",
            name.unwrap_or_default(),
            text.unwrap_or_default()
        )?;
    }
    anyhow::ensure!(failed == 0, "a connection would fail at {failed} of these steps");
    Ok(())
}

async fn policy(client: &EngineClient, action: PolicyAction) -> anyhow::Result<()> {
    let path = |network: &str| format!("/networks/{}/policy", encoded(network));
    match action {
        PolicyAction::Show { network } => {
            let policy = client.get(&path(&network)).await?;
            let mut output = std::io::stdout().lock();
            writeln!(
                output,
                "default: {}",
                policy["Default"].as_str().unwrap_or_default()
            )?;
            let rules = policy["Rules"].as_array().into_iter().flatten();
            for rule in rules.filter_map(Value::as_str) {
                writeln!(output, "{rule}")?;
            }
            Ok(())
        }
        PolicyAction::Set {
            network,
            default,
            rules,
        } => {
            let default = match default {
                Some(Unruled::Allow) => json!("allow"),
                Some(Unruled::Deny) => json!("deny"),
                None => client.get(&path(&network)).await?["Default"].take(),
            };
            let body = json!({ "Default": default, "Rules": rules });
            client.put(&path(&network), &body).await.map(drop)
        }
        PolicyAction::Clear { network } => client.put(&path(&network), &json!({})).await.map(drop),
    }
}

/// A name as a part of a path.
fn encoded(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let bytes = name.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_one_part_of_a_path() {
        assert_eq!(encoded("shop_net-1.x"), "shop_net-1.x");
        assert_eq!(encoded("a/b?c ü"), "a%2Fb%3Fc%20%C3%BC");
    }
}
