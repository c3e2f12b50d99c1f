//! `grpc.health.v1.Health`: what `/readyz` says, for probes that speak gRPC. It needs no key, as the other probes.

use std::{sync::Arc, time::Duration};

use futures_util::stream::{self, BoxStream, StreamExt as _};
use skywave_proto::v1::api_server::SERVICE_NAME;
use tonic::{Request, Response, Status};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server};

use super::Internal;

/// How often somebody who watches is looked after.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// See the module.
pub(super) struct Health(pub(super) Arc<Internal>);

impl Health {
    fn status_of(internal: &Internal) -> ServingStatus {
        match internal.not_ready() {
            None => ServingStatus::Serving,
            Some(_) => ServingStatus::NotServing,
        }
    }
}

/// Whether there is such a service: the node as a whole, or its API.
fn is_known(service: &str) -> bool {
    matches!(service, "" | SERVICE_NAME)
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    let mut response = HealthCheckResponse::default();
    response.set_status(status);
    response
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("this node has no service of that name"));
        }
        Ok(Response::new(response(Self::status_of(&self.0))))
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !is_known(&request.get_ref().service) {
            // The protocol wants the stream to go on: the service might come. Here none ever does.
            let unknown = stream::iter([Ok(response(ServingStatus::ServiceUnknown))]).chain(stream::pending());
            return Ok(Response::new(unknown.boxed()));
        }
        let looks = tokio::time::interval(LOOK_INTERVAL);
        let watched = stream::unfold((self.0.clone(), looks, None), |(internal, mut looks, told)| async move {
            loop {
                looks.tick().await;
                let status = Self::status_of(&internal);
                if told != Some(status) {
                    return Some((Ok(response(status)), (internal, looks, Some(status))));
                }
            }
        });
        Ok(Response::new(watched.boxed()))
    }
}
