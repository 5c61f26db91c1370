//! The registry's home answers requests that came over links.

use std::num::NonZeroU64;

use whimbrel_protocol::cluster::registry_request::Call;
use whimbrel_protocol::cluster::registry_response::ErrorKind;
use whimbrel_protocol::cluster::{RegistryRequest, RegistryResponse, Role};
use whimbrel_protocol::ids::{Incarnation, NodeId};

use crate::{Registry, RegistryError};

/// Does what `request` asks. What goes wrong is said in the response, by kind and text.
pub async fn serve(registry: &dyn Registry, request: RegistryRequest) -> RegistryResponse {
    let mut response = RegistryResponse::default();
    if let Err(error) = call(registry, request, &mut response).await {
        response.error_kind = match &error {
            RegistryError::Unavailable { .. } => ErrorKind::Unavailable,
            RegistryError::Invalid(_) => ErrorKind::Invalid,
            RegistryError::Superseded { .. } => ErrorKind::Superseded,
        }
        .into();
        response.error = match error {
            RegistryError::Unavailable { reason, .. } => reason,
            RegistryError::Invalid(reason) => reason,
            RegistryError::Superseded { node } => node,
        };
    }
    // One that cannot be reached, all of it, may have another life by now: asked by way of several routers, of which one is cut off, it
    // would seem to have lost everything again and again.
    if registry.life_is_current() && response.error_kind != i32::from(ErrorKind::Unavailable) {
        let life = *registry.life().borrow();
        response.registry_incarnation = life.map_or(0, |life| life.0);
    }
    response
}

async fn call(
    registry: &dyn Registry,
    request: RegistryRequest,
    response: &mut RegistryResponse,
) -> Result<(), RegistryError> {
    let invalid = |reason: &str| RegistryError::Invalid(reason.to_owned());
    match request
        .call
        .ok_or_else(|| invalid("the registry request asks for nothing this version knows"))?
    {
        Call::PutNode(lease) => {
            let put = registry.put_node(lease).await?;
            response.lease_began = put.began;
            response.lease_term = put.term.map_or(0, NonZeroU64::get);
        }
        Call::RemoveNode(node) => {
            let name = NodeId::new(&node.node).map_err(|error| invalid(&error.to_string()))?;
            registry.remove_node(&name, Incarnation(node.incarnation)).await?;
        }
        Call::ListNodes(list) => {
            let role =
                Role::try_from(list.role).map_err(|_| invalid("that role is not one this version knows"))?;
            let role = (role != Role::Unspecified).then_some(role);
            response.nodes = registry.nodes(role).await?;
        }
        Call::Register(record) => {
            let registered = registry.register(record).await?;
            response.registered = registered.accepted;
            response.displaced = registered.displaced;
        }
        Call::Unregister(record) => registry.unregister(record).await?,
        Call::LookUp(look_up) => response.sessions = registry.look_up(look_up.users).await?,
        Call::PutRooms(counts) => registry.put_rooms(counts).await?,
        Call::LookUpRoom(room) => response.rooms = registry.look_up_room(room).await?,
        Call::Announce(announced) => response.displaced = registry.announce(announced.records).await?,
    }
    Ok(())
}
