//! Keeping the node's certificate: replaced by another of the cluster's authority long before it expires.

use super::files::NodeFiles;
use super::join;
use muster_controller::authorize::may_replace;
use muster_proto::transport::{Dialer, NodeCertificate};
use std::sync::Arc;
use std::time::SystemTime;

/// Share of a certificate's validity after which it is renewed; SwarmKit draws from 50 to 80 %.
const RENEW_FROM: f64 = 0.5;
const RENEW_TO: f64 = 0.8;

/// Draws the share at which this node renews, so that nodes that joined together do not ask together.
pub fn renewal_share() -> f64 {
    RENEW_FROM + (RENEW_TO - RENEW_FROM) * rand::random::<f64>()
}

/// Whether so much of a certificate's validity is over.
pub fn renewal_due((from, to): (SystemTime, SystemTime), share: f64) -> bool {
    let validity = to.duration_since(from).unwrap_or_default();
    let used = SystemTime::now().duration_since(from).unwrap_or_default();
    used >= validity.mul_f64(share)
}

/// A node's certificate, where it is shown and where it is kept.
pub struct Upkeep<'a> {
    /// What the node's connections show.
    pub certificate: &'a Arc<NodeCertificate>,
    /// Dials with it.
    pub dialer: &'a Dialer,
    /// Where it outlasts the daemon.
    pub files: &'a NodeFiles,
}

impl Upkeep<'_> {
    /// Replaces the certificate by one with the role of the node's record. New connections show it.
    pub async fn renew(&self, controllers: &[String], controller_runs: bool) -> anyhow::Result<()> {
        let root = self.certificate.root_pem();
        let credentials = join::renew(self.dialer, controllers, &root).await?;
        let issued = join::identity_of(&credentials)?;
        if !may_replace(issued.role, controller_runs) {
            return Ok(());
        }
        self.files.save_credentials(&credentials)?;
        self.certificate.replace(
            &credentials.root_pem,
            &credentials.certificate_pem,
            &credentials.key_pem,
        )?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
