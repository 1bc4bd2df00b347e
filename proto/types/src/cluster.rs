//! The cluster's own object: settings, root certificate and join tokens.

use crate::{ClusterId, Meta, NodeRole};
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// The cluster as its controllers store it. There is exactly one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Identity; the organisation of every node certificate.
    pub id: ClusterId,
    /// Times and versions.
    pub meta: Meta,
    /// What the user wants.
    pub spec: ClusterSpec,
    /// The certificate authority.
    pub root_ca: RootCa,
    /// Secrets that let nodes join.
    pub join_tokens: JoinTokens,
    /// Raised by restoring a backup and by forcing a new cluster; part of an assignment set's age.
    pub incarnation: u64,
    /// Selects entry formats and apply rules; raised once every controller supports the next one.
    pub feature_level: u32,
    /// The next Raft id to give out. Ids are never reused.
    pub next_raft_id: u64,
    /// Who signs certificates now, where it is known.
    #[serde(default)]
    pub issuer: Option<Issuer>,
    /// The root certificate is being replaced: nodes get certificates of the new one, and trust the one before until all
    /// have them.
    #[serde(default)]
    pub root_rotation: Option<Box<RootRotation>>,
}

/// Cluster settings, with Swarm's defaults except where stated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterSpec {
    /// Always `default`, as in Swarm.
    pub name: String,
    /// The user's labels.
    pub labels: crate::service::Labels,
    /// Ended tasks kept per slot; negative keeps all.
    pub task_history_limit: i64,
    /// Period of agent heartbeats. Swarm has 5 s; Muster 1 s, with a node down after three missed.
    pub heartbeat_period: Duration,
    /// Log entries between snapshots.
    pub snapshot_interval: u64,
    /// Log entries kept for slow followers after a snapshot.
    pub log_entries_kept: u64,
    /// Snapshots kept beside the newest.
    pub old_snapshots_kept: u64,
    /// Validity of node certificates.
    pub certificate_expiry: Duration,
    /// Where the subnets of the cluster's networks come from; fixed when the cluster begins.
    pub address_pools: Vec<IpNet>,
    /// Prefix length of a subnet taken from an IPv4 pool; fixed when the cluster begins.
    pub subnet_prefix_len: u8,
    /// UDP port of the tunnels between nodes; fixed when the cluster begins.
    pub data_path_port: u16,
    /// Counter that a client raises to have the root certificate replaced.
    pub root_rotations: u64,
}

/// UDP port of the tunnels between nodes, as in Swarm.
pub const DEFAULT_DATA_PATH_PORT: u16 = 4789;

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            name: "default".to_owned(),
            labels: Default::default(),
            task_history_limit: 5,
            heartbeat_period: Duration::from_secs(1),
            snapshot_interval: 10_000,
            log_entries_kept: 500,
            old_snapshots_kept: 0,
            certificate_expiry: Duration::from_secs(90 * 24 * 3600),
            address_pools: vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8))],
            subnet_prefix_len: 24,
            data_path_port: DEFAULT_DATA_PATH_PORT,
            root_rotations: 0,
        }
    }
}

/// The certificate authority's certificate and key, as PEM.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootCa {
    /// Certificate.
    pub certificate_pem: String,
    /// Private key; in the encrypted log and snapshots only.
    pub key_pem: String,
}

impl fmt::Debug for RootCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootCa")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

/// Who signed a certificate, as X.509 writes it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Issuer {
    /// Distinguished name, DER.
    pub subject: Vec<u8>,
    /// Subject public key info, DER.
    pub public_key: Vec<u8>,
}

/// A new root certificate takes the place of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootRotation {
    /// The new root.
    pub root: RootCa,
    /// What signs in the new root's name.
    pub issuer: Issuer,
    /// The new root's key, certified by the root before: with it nodes that trust that one accept certificates of the new
    /// one.
    pub cross_signed_pem: String,
    /// SHA-256 of the new root certificate, for join tokens.
    pub root_digest: [u8; 32],
}

/// The current join tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokens {
    /// Joins as a worker.
    pub worker: JoinToken,
    /// Joins as a controller.
    pub controller: JoinToken,
}

impl JoinTokens {
    /// The role that this secret grants, compared without an early exit.
    pub fn role_of(&self, secret: u128) -> Option<NodeRole> {
        let worker = self.worker.secret ^ secret;
        let controller = self.controller.secret ^ secret;
        match (worker, controller) {
            (0, _) => Some(NodeRole::Worker),
            (_, 0) => Some(NodeRole::Controller),
            _ => None,
        }
    }
}

/// `SWMTKN-1-<root digest>-<secret>`: the SHA-256 of the root certificate in 50 base-36 characters, then 128 secret
/// bits in 25.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// SHA-256 of the root certificate (PEM, trimmed).
    pub root_digest: [u8; 32],
    /// The secret.
    pub secret: u128,
}

/// The text is not a join token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid join token")]
pub struct JoinTokenError;

const DIGEST_CHARS: usize = 50;
const SECRET_CHARS: usize = 25;

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SWMTKN-1-{}-", base36::encode(&self.root_digest, DIGEST_CHARS))?;
        f.write_str(&base36::encode(&self.secret.to_be_bytes(), SECRET_CHARS))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken(..)")
    }
}

impl std::str::FromStr for JoinToken {
    type Err = JoinTokenError;
    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let mut parts = text.trim().split('-');
        let (Some("SWMTKN"), Some("1"), Some(digest), Some(secret), None) = (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) else {
            return Err(JoinTokenError);
        };
        if digest.len() != DIGEST_CHARS || secret.len() != SECRET_CHARS {
            return Err(JoinTokenError);
        }
        let root_digest = base36::decode::<32>(digest).ok_or(JoinTokenError)?;
        let secret = base36::decode::<16>(secret)
            .map(u128::from_be_bytes)
            .ok_or(JoinTokenError)?;
        Ok(Self { root_digest, secret })
    }
}

/// Big-endian numbers in base 36, padded with zeros.
mod base36 {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

    pub fn encode(bytes: &[u8], width: usize) -> String {
        let mut number = bytes.to_vec();
        let mut text = vec![b'0'; width];
        for place in text.iter_mut().rev() {
            let mut rest = 0u32;
            for byte in &mut number {
                let value = rest << 8 | u32::from(*byte);
                *byte = (value / 36) as u8;
                rest = value % 36;
            }
            *place = DIGITS[rest as usize];
        }
        text.into_iter().map(char::from).collect()
    }

    pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
        let mut number = [0u8; N];
        for digit in text.bytes() {
            let mut carry = u32::try_from(DIGITS.iter().position(|d| *d == digit)?).ok()?;
            for byte in number.iter_mut().rev() {
                let value = u32::from(*byte) * 36 + carry;
                *byte = (value & 0xff) as u8;
                carry = value >> 8;
            }
            if carry != 0 {
                return None;
            }
        }
        Some(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_tokens_round_trip() {
        let token = JoinToken {
            root_digest: [0xab; 32],
            secret: u128::MAX - 7,
        };
        let text = token.to_string();
        assert_eq!(text.len(), "SWMTKN-1-".len() + 50 + 1 + 25);
        assert!(text.parse::<JoinToken>().is_ok_and(|read| read == token));
    }

    #[test]
    fn damaged_tokens_are_refused() {
        let text = JoinToken {
            root_digest: [1; 32],
            secret: 9,
        }
        .to_string();
        for bad in [
            &text[1..],
            &text[..text.len() - 1],
            "SWMTKN-2-a-b",
            "",
            &text.replace('-', ""),
        ] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
        }
    }
}
