//! Sessions of agents.

use super::controller;
use crate::authorize::{Authority, authorize_heartbeat};
use crate::core::io::{Input, NodeView};
use crate::pace::{Limit, Pace};
use crate::shell::authorize::{authorize, identity_of, remote_address};
use crate::shell::handle::{ControllerHandle, ControllerSlot, SessionMessage};
use muster_proto::dispatcher::agent_message::Message as FromAgent;
use muster_proto::dispatcher::controller_message::Message as FromController;
use muster_proto::dispatcher::dispatcher_server::Dispatcher;
use muster_proto::dispatcher::{
    AgentMessage, Assignments, ClusterView, ControllerMessage, HeartbeatReply, HeartbeatRequest, Peer,
    Redirect, Settled, StatusAcknowledged, Welcome,
};
use muster_proto::pack::{pack, unpack};
use muster_types::task::REPORT_STATUSES_MAX;
use muster_types::{NodeDescription, NodeId, SessionId, TaskId, TaskStatus};
use rand::seq::IndexedRandom;
use std::pin::Pin;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// An agent that has not said hello by then is dropped.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages on their way to one agent.
const OUTGOING_QUEUE: usize = 16;

/// Largest description of a node, labels included: it is replicated to every controller.
const DESCRIPTION_BYTES_MAX: usize = 64 * 1024;

/// Largest report: as many statuses as one may have, with texts of the longest length on many of them.
const REPORT_BYTES_MAX: usize = 1 << 20;
/// Messages of one session. An agent sends a report every 100 ms at most, and a word on its networks when they change;
/// what piled up during a stall comes at once. Faster ones are read later, so that they wait at their sender.
const MESSAGES: Limit = Limit {
    burst: 40,
    interval: Duration::from_millis(25),
};

/// The dispatcher service. A node that is no controller names one of those that its agent knows: the caller may have
/// been away while all that it knew were demoted.
pub struct DispatcherService {
    /// The controller, where this node has one.
    pub controller: ControllerSlot,
    /// Addresses of the controllers that this node's agent knows.
    pub known: Box<dyn Fn() -> Vec<String> + Send + Sync>,
}

type Messages = Pin<Box<dyn Stream<Item = Result<ControllerMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Dispatcher for DispatcherService {
    type SessionStream = Messages;

    async fn session(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Messages>, Status> {
        let Some(handle) = self.controller.load_full() else {
            identity_of(&request)?;
            let known = (self.known)();
            return Ok(redirect(known.choose(&mut rand::rng()).cloned()));
        };
        let handle = (*handle).clone();
        let identity = authorize(&request, &handle.state(), Authority::Node)?;
        let address = remote_address(&request)
            .map(|address| address.ip().to_string())
            .unwrap_or_default();
        if !handle.is_leading() {
            return Ok(redirect(handle.leader_address()));
        }
        let mut incoming = request.into_inner();
        let hello = tokio::time::timeout(HELLO_TIMEOUT, incoming.message()).await;
        let hello = hello.map_err(|_| Status::deadline_exceeded("no hello"))??;
        let Some(FromAgent::Hello(hello)) = hello.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("a session begins with hello"));
        };
        if hello.description.len() > DESCRIPTION_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "the node's description has {} bytes; at most {DESCRIPTION_BYTES_MAX} are taken: use fewer labels",
                hello.description.len()
            )));
        }
        let description: NodeDescription =
            unpack(&hello.description).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let session = SessionId::from_u128(rand::random());
        let messages = handle
            .open_session(identity.node, session, description, address)
            .await;
        let (sender, receiver) = mpsc::channel(OUTGOING_QUEUE);
        // The stream's end ends the task: tonic drops the receiver, and the queue from the core is closed with it.
        tokio::spawn(serve_session(
            handle,
            identity.node,
            session,
            incoming,
            messages,
            sender,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatReply>, Status> {
        let handle = controller(&self.controller)?;
        let identity = identity_of(&request)?;
        let beat = request.into_inner();
        let node: NodeId = beat
            .node
            .parse()
            .map_err(|_| Status::invalid_argument("a malformed node id"))?;
        authorize_heartbeat(identity, node, &handle.state())?;
        if let Some(leader) = handle.leader_address().filter(|_| identity.node == node) {
            return handle.forward_heartbeat(&leader, beat).await;
        }
        let session: [u8; 16] = beat
            .session
            .as_ref()
            .try_into()
            .map_err(|_| Status::invalid_argument("a malformed session id"))?;
        let session = SessionId::from_u128(u128::from_be_bytes(session));
        if !handle.is_leading() {
            return Err(Status::unavailable("no leader is known"));
        }
        let accepted = handle.heartbeat(node, session).await;
        Ok(Response::new(HeartbeatReply { accepted }))
    }
}

/// The agent's next message, once the session may have one taken. Cancel-safe.
async fn paced(
    wait: Duration,
    incoming: &mut Streaming<AgentMessage>,
) -> Result<Option<AgentMessage>, Status> {
    // A sleep of no time would last until the timer's next millisecond.
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    incoming.message().await
}

/// Carries messages both ways until either side ends.
async fn serve_session(
    handle: ControllerHandle,
    node: NodeId,
    session: SessionId,
    mut incoming: Streaming<AgentMessage>,
    mut messages: mpsc::Receiver<SessionMessage>,
    sender: mpsc::Sender<Result<ControllerMessage, Status>>,
) {
    let (began, mut pace) = (Instant::now(), Pace::default());
    loop {
        let wait = pace.wait(MESSAGES, began.elapsed());
        tokio::select! {
            message = messages.recv() => {
                let Some(message) = message else { break };
                let last = matches!(message, SessionMessage::Ended(_));
                let Some(wire) = to_wire(session, message) else { break };
                if sender.send(Ok(wire)).await.is_err() || last {
                    break;
                }
            }
            message = paced(wait, &mut incoming) => {
                pace.count(MESSAGES, began.elapsed());
                let Ok(Some(message)) = message else { break };
                if !from_agent(&handle, node, session, message).await {
                    break;
                }
            }
        }
    }
    handle.close_session(node, session).await;
}

/// Takes in an agent's message; false when the session cannot go on.
async fn from_agent(
    handle: &ControllerHandle,
    node: NodeId,
    session: SessionId,
    message: AgentMessage,
) -> bool {
    match message.message {
        Some(FromAgent::Status(report)) => match statuses_of(&report.statuses) {
            Ok(statuses) => handle.status(node, session, report.sequence, statuses).await,
            Err(error) => {
                tracing::warn!(%node, error = format!("{error:#}"), "a status report is not taken; the session ends");
                return false;
            }
        },
        Some(FromAgent::Farewell(farewell)) => {
            handle
                .send(Input::Farewell {
                    node,
                    session,
                    restarting: farewell.restarting,
                })
                .await;
            // The core ends the session, which tells the agent that its farewell was heard.
        }
        Some(FromAgent::Applied(applied)) => {
            let index = applied.index;
            let input = Input::NetworksApplied { node, session, index };
            handle.send(input).await;
        }
        Some(FromAgent::AwaitSettled(awaited)) => {
            let index = awaited.index;
            let input = Input::AwaitSettled { node, session, index };
            handle.send(input).await;
        }
        // A second hello, or a message of a newer agent: nothing to do.
        Some(FromAgent::Hello(_)) | None => {}
    }
    true
}

/// The statuses of a report, if it is within bounds.
fn statuses_of(packed: &[u8]) -> anyhow::Result<Vec<(TaskId, TaskStatus)>> {
    anyhow::ensure!(
        packed.len() <= REPORT_BYTES_MAX,
        "it has {} bytes, more than {REPORT_BYTES_MAX}",
        packed.len()
    );
    let statuses: Vec<(TaskId, TaskStatus)> = unpack(packed)?;
    anyhow::ensure!(
        statuses.len() <= REPORT_STATUSES_MAX,
        "it has {} statuses, more than {REPORT_STATUSES_MAX}",
        statuses.len()
    );
    Ok(statuses)
}

fn to_wire(session: SessionId, from_core: SessionMessage) -> Option<ControllerMessage> {
    Some(message(match from_core {
        SessionMessage::Opened { heartbeat_period } => FromController::Welcome(Welcome {
            session: session.as_u128().to_be_bytes().to_vec().into(),
            heartbeat_period_ms: u64::try_from(heartbeat_period.as_millis()).unwrap_or(u64::MAX),
            settles: true,
        }),
        SessionMessage::Assign(update) => match pack(&*update) {
            Ok(update) => FromController::Assignments(Assignments { update }),
            Err(error) => {
                tracing::error!(error = %error, "an assignment set cannot be encoded");
                return None;
            }
        },
        SessionMessage::View(view) => FromController::View(wire_view(*view)),
        SessionMessage::StatusCommitted(sequence) => {
            FromController::Acknowledged(StatusAcknowledged { sequence })
        }
        SessionMessage::Settled(index) => FromController::Settled(Settled { index }),
        SessionMessage::Ended(leader) => FromController::Redirect(Redirect {
            leader: leader.unwrap_or_default(),
        }),
    }))
}

fn wire_view(view: NodeView) -> ClusterView {
    let peers = view.peers.into_iter().map(|(node, address)| Peer {
        node: node.to_string(),
        address,
    });
    ClusterView {
        controllers: view.controllers,
        controller: view.controller,
        peers: peers.collect(),
        root_pem: view.root_pem,
        issuer_public_key: view.issuer_public_key.into(),
    }
}

/// The only message of a session that cannot begin here.
fn redirect(to: Option<String>) -> Response<Messages> {
    let leader = to.unwrap_or_default();
    let redirect = message(FromController::Redirect(Redirect { leader }));
    Response::new(Box::pin(tokio_stream::once(Ok(redirect))))
}

fn message(message: FromController) -> ControllerMessage {
    ControllerMessage {
        message: Some(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_types::{ContainerId, TaskState, Timestamp};

    fn status(text: usize) -> TaskStatus {
        TaskStatus {
            attempt: 0,
            state: TaskState::Failed,
            at: Timestamp::ZERO,
            message: "started".to_owned(),
            error: Some("x".repeat(text)),
            container: Some(muster_types::task::TaskContainer {
                id: ContainerId::from_bytes([1; 32]),
                pid: 1,
                exit_code: Some(1),
                ports: Vec::new(),
            }),
        }
    }

    fn packed(count: usize, text: usize) -> bytes::Bytes {
        let statuses: Vec<_> = (0..count)
            .map(|id| (TaskId::from_u128(id as u128), status(text).bounded()))
            .collect();
        pack(&statuses).unwrap()
    }

    #[test]
    fn reports_out_of_bounds_are_refused_and_the_largest_honest_one_is_taken() {
        assert_eq!(
            statuses_of(&packed(REPORT_STATUSES_MAX, 5000)).unwrap().len(),
            500
        );
        assert!(statuses_of(&packed(REPORT_STATUSES_MAX + 1, 0)).is_err());
        assert!(statuses_of(&vec![0x90; REPORT_BYTES_MAX + 1]).is_err());
        assert!(statuses_of(b"garbage").is_err());
    }
}
