//! The certificates that a node gets in the place of its first.

use super::cluster::{Caller, LIMIT, Served, certificate};
use muster_controller::authority::key_and_request;
use muster_proto::ca::certificate_authority_client::CertificateAuthorityClient;
use muster_proto::ca::{IssueReply, RenewRequest};
use muster_proto::transport::Dialer;
use muster_types::NodeRole;
use std::time::Duration;
use tonic::Status;

/// Asks for another certificate on a new connection, and gives it with its key.
async fn renew(dialer: &Dialer, address: &str) -> Result<(IssueReply, String), Status> {
    let pair = key_and_request().unwrap();
    let request = RenewRequest {
        request_pem: pair.request_pem,
    };
    let mut client = CertificateAuthorityClient::new(dialer.controller(address));
    let answer = tokio::time::timeout(LIMIT, client.renew(request)).await;
    let reply = answer.expect("an answer")?.into_inner();
    Ok((reply, pair.key_pem))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_has_the_role_of_the_record() {
    let served = Served::start().await;
    for (caller, controller) in [
        (Caller::Worker, false),
        (Caller::Demoted, false),
        (Caller::Controller, true),
    ] {
        let own = certificate(
            served.root(),
            caller.node(),
            NodeRole::Controller,
            Duration::from_secs(3600),
        );
        let (reply, key_pem) = renew(&Dialer::new(&own).unwrap(), served.address())
            .await
            .unwrap();
        assert_eq!(reply.controller, controller, "{caller:?}");
        own.replace(&served.root().certificate_pem, &reply.certificate_pem, &key_pem)
            .unwrap();
        let expected = if controller {
            NodeRole::Controller
        } else {
            NodeRole::Worker
        };
        assert_eq!(own.identity().role, expected);
        assert!(own.identity().as_of > 0, "it says as of when");
        assert_eq!(own.identity().node, caller.node());
    }
    served.stop().await;
}
