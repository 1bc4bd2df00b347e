//! The services that a controller offers to other nodes. They find their controller in a slot, because promote and
//! demote change it while the server runs.

mod certificate;
mod control;
mod dispatcher;
mod raft;

pub use certificate::CertificateService;
pub use control::ControlService;
pub use dispatcher::DispatcherService;
pub use raft::RaftService;

use super::handle::{ControllerHandle, ControllerSlot};
use tonic::Status;

fn controller(slot: &ControllerSlot) -> Result<ControllerHandle, Status> {
    let handle = slot.load_full().map(|handle| (*handle).clone());
    handle.ok_or_else(|| Status::unavailable("this node is not a controller"))
}

fn request_id(bytes: &[u8]) -> Result<muster_types::RequestId, Status> {
    let id: Result<[u8; 16], _> = bytes.try_into();
    id.map(|bytes| muster_types::RequestId::from_u128(u128::from_be_bytes(bytes)))
        .map_err(|_| Status::invalid_argument("a request id has 16 bytes"))
}
