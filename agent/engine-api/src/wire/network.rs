//! Networks: the bodies of requests, and networks in answers.

use super::container::EndpointSettings;
use super::is_default;
use muster_types::service::Labels;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// A network.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Network {
    pub name: String,
    pub id: String,
    pub created: String,
    pub scope: &'static str,
    pub driver: String,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: bool,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: bool,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_from: ConfigReference,
    pub config_only: bool,
    pub containers: Value,
    pub options: Labels,
    pub labels: Labels,
}

/// A network's policy, as it is shown.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Policy {
    pub default: String,
    pub rules: Vec<String>,
}

/// Body of `PUT /networks/{id}/policy`. One that is not wholly understood must not let more through than it says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase", deny_unknown_fields)]
pub(crate) struct PolicyBody {
    pub default: Option<String>,
    pub rules: Option<Vec<String>>,
}

/// A step of the way that a connection takes.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct TraceStep {
    pub step: &'static str,
    pub passes: bool,
    pub text: String,
}

/// Body of `POST /networks/create`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct CreateBody {
    pub name: String,
    pub driver: String,
    pub scope: String,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub config_only: bool,
    pub config_from: ConfigReference,
    #[serde(rename = "IPAM")]
    pub ipam: Ipam,
    #[serde(rename = "EnableIPv4")]
    pub enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    pub enable_ipv6: Option<bool>,
    pub options: Labels,
    pub labels: Labels,
}

/// The network that another one takes its settings from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct ConfigReference {
    pub network: String,
}

/// Where addresses come from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Ipam {
    pub driver: String,
    pub options: Option<Labels>,
    pub config: Vec<IpamRange>,
}

/// One range of addresses.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct IpamRange {
    #[serde(skip_serializing_if = "is_default")]
    pub subnet: String,
    #[serde(rename = "IPRange", skip_serializing_if = "is_default")]
    pub ip_range: String,
    #[serde(skip_serializing_if = "is_default")]
    pub gateway: String,
    #[serde(
        rename = "AuxiliaryAddresses",
        alias = "AuxAddress",
        skip_serializing_if = "is_default"
    )]
    pub auxiliary_addresses: BTreeMap<String, String>,
}

/// Answer of `POST /networks/create`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Created {
    pub id: String,
    pub warning: String,
}

/// Body of `POST /networks/{id}/connect`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct ConnectBody {
    pub container: String,
    pub endpoint_config: EndpointSettings,
}

/// Body of `POST /networks/{id}/disconnect`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct DisconnectBody {
    pub container: String,
    pub force: bool,
}
