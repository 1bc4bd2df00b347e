//! Writes forwarded by controllers that do not lead.

use super::{controller, request_id};
use crate::authorize::{Authority, authorize_write};
use crate::control::ControlRequest;
use crate::shell::authorize::authorize;
use crate::shell::handle::ControllerSlot;
use muster_proto::control::control_server::Control;
use muster_proto::control::{WriteReply, WriteRequest};
use muster_proto::pack::{pack, unpack};
use tonic::{Request, Response, Status};

/// The control service.
pub struct ControlService(pub ControllerSlot);

#[tonic::async_trait]
impl Control for ControlService {
    async fn write(&self, request: Request<WriteRequest>) -> Result<Response<WriteReply>, Status> {
        let handle = controller(&self.0)?;
        let identity = authorize(&request, &handle.state(), Authority::Node)?;
        let request = request.into_inner();
        let id = request_id(&request.request_id)?;
        let write: ControlRequest =
            unpack(&request.request).map_err(|error| Status::invalid_argument(error.to_string()))?;
        authorize_write(identity, &write, &handle.state())?;
        // Not forwarded again: the caller looks for the leader itself.
        let result = handle.write_here(id, write).await;
        let result = pack(&result).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(WriteReply { result }))
    }
}
