//! The connection to the leader: found through any controller, opened again whenever it ends.

use futures::stream::FuturesUnordered;
use muster_node_plan::report::Report;
use muster_proto::dispatcher::agent_message::Message as FromAgent;
use muster_proto::dispatcher::controller_message::Message as FromController;
use muster_proto::dispatcher::dispatcher_client::DispatcherClient;
use muster_proto::dispatcher::{
    AgentMessage, AwaitSettled, ClusterView, ControllerMessage, Farewell, Hello, NetworksApplied,
    StatusReport,
};
use muster_proto::pack::{pack, unpack};
use muster_proto::transport::Dialer;
use muster_types::{AssignmentUpdate, NodeDescription, SessionId, TaskId, TaskStatus};
use rand::RngExt;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// First wait before the next controller is tried; doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest such wait: a new leader must see its agents within one grace (three heartbeats).
const BACKOFF_MAX: Duration = Duration::from_millis(400);
/// The list of controllers is read again after this.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(5);
/// A controller that does not answer the opening within this is passed over.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// A leader that does not end the session within this after a farewell is out of reach.
const FAREWELL_WITHIN: Duration = Duration::from_millis(500);
/// Messages on their way out; reports are at most ten a second.
const OUTGOING_QUEUE: usize = 16;

/// The live session, as heartbeats name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveSession {
    /// Its id.
    pub id: SessionId,
    /// The controller that it was opened with.
    pub controller: String,
    /// How often to renew the lease.
    pub heartbeat_period: Duration,
    /// Its leader says when every node has applied what it was told of networks.
    pub settles: bool,
}

/// What the session tells the agent.
#[derive(Debug)]
pub enum SessionEvent {
    /// The leader took the session.
    Opened(LiveSession),
    /// What this node must run.
    Assigned(Box<AssignmentUpdate>),
    /// A report was committed.
    Acknowledged(u64),
    /// Who is who.
    View(ClusterView),
    /// Every node that can be reached has applied what it was told of networks up to this applied index.
    Settled(u64),
    /// The session ended.
    Lost,
}

/// An open session.
pub struct Session {
    live: LiveSession,
    outgoing: mpsc::Sender<AgentMessage>,
    incoming: Streaming<ControllerMessage>,
}

/// Why a session could not be opened with one controller.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Another controller leads.
    #[error("{0} leads")]
    Redirect(String),
    /// It does not know a leader, or does not answer.
    #[error("{0}")]
    Elsewhere(String),
}

/// Opens a session with the controller that leads. All known controllers are asked side by side, because a dead one
/// would cost the time that a new leader gives its nodes to come back. Cancel-safe.
pub async fn open(
    dialer: &Dialer,
    controllers: impl Fn() -> Vec<String>,
    description: &NodeDescription,
) -> Session {
    loop {
        let known = controllers();
        let mut asking: FuturesUnordered<_> = known
            .iter()
            .map(|address| ask(dialer, address, &known, description))
            .collect();
        tokio::select! {
            Some(session) = asking.next() => return session,
            () = tokio::time::sleep(LOOK_AGAIN_AFTER) => {}
        }
    }
}

/// Asks one controller, and the one that it names as leader, until one of them takes the session. A leader that is
/// asked already is left alone: a second session would end the first.
async fn ask(dialer: &Dialer, address: &str, asked: &[String], description: &NodeDescription) -> Session {
    let mut wait = BACKOFF_MIN;
    loop {
        let opened = match open_with(dialer, address, description).await {
            // It has refused for a while: it may be no controller any more.
            Err(refusal @ Refusal::Elsewhere(_)) if wait >= BACKOFF_MAX => {
                let named = referral(dialer, address, description).await;
                Err(named.map_or(refusal, Refusal::Redirect))
            }
            other => other,
        };
        let opened = match opened {
            Err(Refusal::Redirect(leader)) if !asked.contains(&leader) => {
                open_with(dialer, &leader, description).await
            }
            other => other,
        };
        match opened {
            Ok(session) => return session,
            Err(refusal) => tracing::debug!(address, error = %refusal, "no session through this controller"),
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        tokio::time::sleep(wait.mul_f64(jitter)).await;
        wait = (wait * 2).min(BACKOFF_MAX);
    }
}

async fn open_with(
    dialer: &Dialer,
    address: &str,
    description: &NodeDescription,
) -> Result<Session, Refusal> {
    let (outgoing, incoming, first) = call(dialer.controller(address), description).await?;
    match first {
        Some(FromController::Welcome(welcome)) => {
            let id: [u8; 16] = welcome
                .session
                .as_ref()
                .try_into()
                .map_err(|_| elsewhere("a malformed session id"))?;
            Ok(Session {
                live: LiveSession {
                    id: SessionId::from_u128(u128::from_be_bytes(id)),
                    controller: address.to_owned(),
                    heartbeat_period: Duration::from_millis(welcome.heartbeat_period_ms.clamp(50, 60_000)),
                    settles: welcome.settles,
                },
                outgoing,
                incoming,
            })
        }
        Some(FromController::Redirect(redirect)) if !redirect.leader.is_empty() => {
            Err(Refusal::Redirect(redirect.leader))
        }
        Some(_) | None => Err(elsewhere("it knows no leader")),
    }
}

/// The controller that a former controller names. It may be any node of the cluster, so it is believed in nothing else,
/// and the one that it names has to prove that it is a controller.
async fn referral(dialer: &Dialer, address: &str, description: &NodeDescription) -> Option<String> {
    match call(dialer.node(address), description).await {
        Ok((_, _, Some(FromController::Redirect(redirect)))) => {
            Some(redirect.leader).filter(|leader| !leader.is_empty())
        }
        _ => None,
    }
}

type Call = (
    mpsc::Sender<AgentMessage>,
    Streaming<ControllerMessage>,
    Option<FromController>,
);

/// Says hello, and returns both ways of the call with the first answer.
async fn call(channel: Channel, description: &NodeDescription) -> Result<Call, Refusal> {
    let (outgoing, queue) = mpsc::channel(OUTGOING_QUEUE);
    let hello = Hello {
        description: pack(description).map_err(elsewhere)?,
    };
    outgoing
        .try_send(AgentMessage {
            message: Some(FromAgent::Hello(hello)),
        })
        .map_err(elsewhere)?;
    let mut client =
        DispatcherClient::new(channel).max_decoding_message_size(muster_proto::pack::PACKED_BYTES_MAX);
    let opening = async {
        let answer = client.session(ReceiverStream::new(queue)).await;
        let mut incoming = answer.map_err(|status| elsewhere(status.message()))?.into_inner();
        let first = incoming.message().await;
        let first = first.map_err(|status| elsewhere(status.message()))?;
        Ok((outgoing, incoming, first.and_then(|message| message.message)))
    };
    tokio::time::timeout(OPEN_TIMEOUT, opening)
        .await
        .unwrap_or_else(|_| Err(elsewhere("it does not answer")))
}

fn elsewhere(why: impl std::fmt::Display) -> Refusal {
    Refusal::Elsewhere(why.to_string())
}

impl Session {
    /// Its identity.
    pub fn live(&self) -> &LiveSession {
        &self.live
    }

    /// Sends a report; false when it cannot be sent. The session must end then: only the next one repeats what it said.
    #[must_use]
    pub fn report(&self, report: &Report) -> bool {
        let bounded = |(task, status): &(TaskId, TaskStatus)| (*task, status.clone().bounded());
        match pack(&report.statuses.iter().map(bounded).collect::<Vec<_>>()) {
            Ok(statuses) => self.send(FromAgent::Status(StatusReport {
                sequence: report.sequence,
                statuses,
            })),
            Err(error) => {
                tracing::error!(error = %error, "cannot encode a status report");
                false
            }
        }
    }

    /// Says which networks stand here as they should; false when it cannot be sent now.
    #[must_use]
    pub fn networks_applied(&self, index: u64) -> bool {
        self.send(FromAgent::Applied(NetworksApplied { index }))
    }

    /// Asks for [`SessionEvent::Settled`] of this index. Who hears nothing goes by the time.
    pub fn await_settled(&self, index: u64) {
        // A message that is dropped was logged.
        let _ = self.send(FromAgent::AwaitSettled(AwaitSettled { index }));
    }

    /// Says that the daemon stops, and waits for a moment until the leader has heard it: it then ends the session.
    pub async fn farewell(&mut self, restarting: bool) {
        if !self.send(FromAgent::Farewell(Farewell { restarting })) {
            return;
        }
        let ended = async { while !matches!(self.next().await, SessionEvent::Lost) {} };
        if tokio::time::timeout(FAREWELL_WITHIN, ended).await.is_err() {
            tracing::debug!("the leader may not have heard that this daemon stops");
        }
    }

    /// The next event; [`SessionEvent::Lost`] at the end. Cancel-safe.
    pub async fn next(&mut self) -> SessionEvent {
        loop {
            let Some(Ok(message)) = self.incoming.next().await else {
                return SessionEvent::Lost;
            };
            match message.message {
                Some(FromController::Assignments(assignments)) => match unpack(&assignments.update) {
                    Ok(update) => return SessionEvent::Assigned(Box::new(update)),
                    Err(error) => {
                        tracing::error!(error = %error, "cannot read an assignment set");
                        return SessionEvent::Lost;
                    }
                },
                Some(FromController::Acknowledged(acknowledged)) => {
                    return SessionEvent::Acknowledged(acknowledged.sequence);
                }
                Some(FromController::View(view)) => return SessionEvent::View(view),
                Some(FromController::Settled(settled)) => return SessionEvent::Settled(settled.index),
                Some(FromController::Redirect(_)) => return SessionEvent::Lost,
                // A message of a newer controller, or a second welcome: nothing to do.
                Some(FromController::Welcome(_)) | None => {}
            }
        }
    }

    fn send(&self, message: FromAgent) -> bool {
        let sent = self.outgoing.try_send(AgentMessage {
            message: Some(message),
        });
        if let Err(error) = &sent {
            tracing::debug!(error = %error, "a message to the leader was dropped");
        }
        sent.is_ok()
    }
}
