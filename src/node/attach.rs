//! Places of this node's standalone containers in networks of the cluster: leased from the controllers when a container
//! starts or joins, and given back when it left. What is given back follows from what the cluster says that the node
//! holds, so that nothing leaks whatever was lost on the way: an answer, a request, the daemon.

use super::host::{NodeHost, Standing};
use super::member::Member;
use super::networks::{ClusterNetworks, Wanted};
use futures::FutureExt;
use futures::future::BoxFuture;
use muster_controller::control::{ControlError, ControlReply, ControlRequest, RefusalKind};
use muster_engine::{Engine, Error, PlaceWish, Result, SharedPlace, SharedPlaces};
use muster_node_plan::places_to_release;
use muster_types::overlay::NetworkFacts;
use muster_types::{AttachmentId, ContainerId, NetworkId, RequestId};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// How long a container that starts as the daemon does waits until the node is back in its cluster.
const BACK_WITHIN: Duration = Duration::from_secs(15);
/// Wait before places that could not be given back are tried again.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Most places that are given back at once: bounds one changeset.
const RELEASED_MAX: usize = 256;

/// The leases of this node's standalone containers.
#[derive(Default)]
pub struct Attachments {
    leases: Mutex<Vec<Lease>>,
    /// Steps whenever a lease goes.
    gone: watch::Sender<u64>,
    host: watch::Sender<Option<Arc<NodeHost>>>,
}

/// A place that a container has, or is about to have.
#[derive(Debug, Clone)]
struct Lease {
    container: ContainerId,
    network: NetworkId,
    /// The request that asked for it; `None` where an earlier daemon did.
    id: Option<AttachmentId>,
    /// None until the request is answered.
    addresses: Vec<IpAddr>,
}

impl Lease {
    fn is(&self, container: &ContainerId, network: NetworkId) -> bool {
        self.container == *container && self.network == network
    }
}

impl std::fmt::Debug for Attachments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Attachments").field(&self.leases()).finish()
    }
}

impl Attachments {
    /// Serves leases from now on, and gives back what no container of this engine has, until it is dropped.
    pub async fn follow(
        self: Arc<Self>,
        networks: Arc<ClusterNetworks>,
        engine: Engine,
        host: Arc<NodeHost>,
    ) {
        self.restore(&engine);
        self.host.send_replace(Some(Arc::clone(&host)));
        let (mut told, mut gone) = (networks.subscribe(), self.gone.subscribe());
        loop {
            told.mark_unchanged();
            gone.mark_unchanged();
            let left = match host.member() {
                Some(member) => self.release(&member, &told).await,
                None => Ok(()),
            };
            if let Err(error) = &left {
                tracing::warn!(%error, "places of containers that left are not given back yet");
            }
            tokio::select! {
                changed = told.changed() => if changed.is_err() { return },
                changed = gone.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(RETRY_AFTER), if left.is_err() => {}
            }
        }
    }

    /// Notes what containers have that ran before this daemon did.
    fn restore(&self, engine: &Engine) {
        let mut leases = self.leases();
        for (container, place) in engine.shared_places() {
            let Ok(network) = place.network.parse() else {
                continue;
            };
            leases.push(Lease {
                container,
                network,
                id: None,
                addresses: place.addresses,
            });
        }
    }

    async fn release(
        &self,
        member: &Member,
        told: &watch::Receiver<Option<Wanted>>,
    ) -> Result<(), ControlError> {
        let surplus = {
            let (told, leases) = (told.borrow(), self.leases());
            let is_held = |id, network, addresses: &[IpAddr]| {
                let mut leases = leases.iter();
                leases.any(|lease| {
                    lease.id == Some(id) || lease.network == network && lease.addresses == addresses
                })
            };
            let mut surplus = places_to_release(
                told.iter().flat_map(|told| &told.networks),
                member.node(),
                is_held,
            );
            surplus.truncate(RELEASED_MAX);
            surplus
        };
        if surplus.is_empty() {
            return Ok(());
        }
        let request = ControlRequest::Release {
            node: member.node(),
            attachments: surplus,
        };
        let id = RequestId::from_u128(rand::random());
        member.write(id, request).await.map(|_| ())
    }

    fn leases(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, which: impl Fn(&Lease) -> bool) {
        self.leases().retain(|lease| !which(lease));
        self.gone.send_modify(|count| *count += 1);
    }

    /// This node's membership, once the daemon has begun.
    async fn member(&self, network: &str) -> Result<Arc<Member>> {
        let mut host = self.host.subscribe();
        let waited = tokio::time::timeout(BACK_WITHIN, host.wait_for(Option::is_some)).await;
        let host = waited.ok().and_then(|host| host.ok()?.clone());
        let host = host.ok_or_else(|| unavailable("the daemon is not ready yet"))?;
        match host.standing() {
            Standing::Active(member) => Ok(member),
            Standing::Inactive => Err(Error::NoSuchNetwork {
                name: network.to_owned(),
            }),
            Standing::Pending => Err(unavailable("this node is joining a swarm")),
            Standing::Error(error) => Err(unavailable(format!(
                "this node could not come back to its swarm: {error}"
            ))),
        }
    }

    async fn facts(member: &Member, reference: &str) -> Result<NetworkFacts> {
        let request = ControlRequest::FindNetwork {
            node: member.node(),
            reference: reference.to_owned(),
        };
        let answer = member.write(RequestId::from_u128(rand::random()), request).await;
        match answer.map_err(|error| failed(error, reference))? {
            ControlReply::NetworkFound { facts } => Ok(*facts),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&self, wish: &PlaceWish) -> Result<SharedPlace> {
        let member = self.member(&wish.network).await?;
        let network = match wish.network.parse() {
            Ok(network) => network,
            Err(_) => Self::facts(&member, &wish.network).await?.id,
        };
        let id: u128 = rand::random();
        let own = Some(AttachmentId::from_u128(id));
        self.leases().push(Lease {
            container: wish.container.clone(),
            network,
            id: own,
            addresses: Vec::new(),
        });
        let request = ControlRequest::Attach {
            node: member.node(),
            container: wish.container.clone(),
            network,
            names: wish.names.clone(),
            addresses: wish.addresses.clone(),
        };
        let answer = member.write(RequestId::from_u128(id), request).await;
        let place = match answer {
            Ok(ControlReply::Attached { place }) => place,
            Ok(other) => {
                self.forget(|lease| lease.id == own);
                return Err(unexpected(&other));
            }
            Err(error) => {
                self.forget(|lease| lease.id == own);
                return Err(failed(error, &wish.network));
            }
        };
        let mut leases = self.leases();
        // It stands in the place of whatever the container had there.
        leases.retain(|lease| lease.id == own || !lease.is(&wish.container, network));
        for lease in leases.iter_mut().filter(|lease| lease.id == own) {
            lease.addresses.clone_from(&place.addresses);
        }
        Ok(SharedPlace {
            network: network.to_string(),
            addresses: place.addresses,
        })
    }
}

impl SharedPlaces for Attachments {
    fn find<'a>(&'a self, reference: &'a str) -> BoxFuture<'a, Result<String>> {
        async move {
            let member = self.member(reference).await?;
            let facts = Self::facts(&member, reference).await?;
            match facts.attachable {
                true => Ok(facts.name),
                false => Err(Error::not_attachable(&facts.name)),
            }
        }
        .boxed()
    }

    fn lease<'a>(&'a self, wish: &'a PlaceWish) -> BoxFuture<'a, Result<SharedPlace>> {
        self.ask(wish).boxed()
    }

    fn give_back(&self, container: &ContainerId, network: &str) {
        if let Ok(network) = network.parse() {
            self.forget(|lease| lease.is(container, network));
        }
    }
}

fn failed(error: ControlError, network: &str) -> Error {
    let message = error.to_string();
    match error {
        ControlError::Refused { kind, .. } => match kind {
            RefusalKind::NotFound => Error::NoSuchNetwork {
                name: network.to_owned(),
            },
            RefusalKind::Invalid => Error::InvalidConfig { problem: message },
            RefusalKind::Forbidden | RefusalKind::Conflict | RefusalKind::OutOfSequence => {
                Error::Forbidden { message }
            }
            RefusalKind::Unavailable | RefusalKind::Internal => Error::Unavailable { message },
        },
        ControlError::NotLeader { .. }
        | ControlError::NoLeader
        | ControlError::OutcomeUnknown
        | ControlError::Busy => unavailable(format!("Could not attach to network {network}: {message}")),
    }
}

fn unavailable(message: impl Into<String>) -> Error {
    Error::Unavailable {
        message: message.into(),
    }
}

fn unexpected(reply: &ControlReply) -> Error {
    unavailable(format!("an unexpected answer of a controller: {reply:?}"))
}
