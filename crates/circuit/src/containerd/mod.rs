//! containerd as a [`Runtime`]: one namespace of one containerd, over its gRPC
//! socket. The channel connects when it is used and again after containerd
//! was restarted.

mod convert;
mod events;
mod tasks;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use async_trait::async_trait;
use circuit_api::v1::{ContainerNetworkConfig, NetworkConfig};
use circuit_core::{
    Error, Result,
    labels::{CONTAINERD_STOPPED_LABEL, NETWORK_LABEL},
    runtime::{Container, ExtensionEntry, Notice, Runtime, Task},
};
use containerd_client::services::v1::{
    Container as ContainerRecord, GetContainerRequest, ListContainersRequest,
    ListNamespacesRequest, UpdateContainerRequest, containers_client::ContainersClient,
    namespaces_client::NamespacesClient,
};
use futures::stream::BoxStream;
use prost::Message as _;
use prost_types::FieldMask;
use tonic::{
    Code, Request, Status,
    metadata::{AsciiMetadataValue, MetadataValue},
    transport::{Channel, Endpoint},
};

/// The bare full name that the first Circuit wrote as the extension's type.
const EXTENSION_TYPE: &str = "io.circuit.v1.NetworkConfig";
/// No answer of containerd takes longer; a task's start is given more.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// What containerd sends is taken up to this size, in bytes; it has a limit of its own,
/// 16 MiB unless it was configured otherwise.
const LONGEST_MESSAGE: usize = 64 << 20;

/// One namespace of one containerd.
pub struct Containerd {
    channel: Channel,
    namespace: String,
    namespace_header: AsciiMetadataValue,
}

impl Containerd {
    /// A runtime behind the socket at `path`; nothing is connected yet.
    ///
    /// # Errors
    /// When the namespace cannot be written in a header.
    pub fn new(path: &Path, namespace: &str) -> anyhow::Result<Self> {
        let namespace_header = MetadataValue::try_from(namespace)
            .with_context(|| format!("containerd namespace {namespace:?} is no valid name"))?;
        let channel = lazy_channel(path.to_path_buf())?;
        Ok(Self {
            channel,
            namespace: namespace.to_owned(),
            namespace_header,
        })
    }

    fn containers_client(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request
            .metadata_mut()
            .insert("containerd-namespace", self.namespace_header.clone());
        request
    }

    /// A request that is given up after `CALL_TIMEOUT`.
    fn timed<T>(&self, message: T) -> Request<T> {
        let mut request = self.request(message);
        request.set_timeout(CALL_TIMEOUT);
        request
    }

    /// Writes one key of a container's record, so that nothing another program changes
    /// there at the same time is undone; a container that is gone is no error.
    async fn update(&self, record: ContainerRecord, key: String) -> Result<(), Status> {
        let request = self.timed(UpdateContainerRequest {
            container: Some(record),
            update_mask: Some(FieldMask { paths: vec![key] }),
        });
        match self.containers_client().update(request).await {
            Err(status) if status.code() != Code::NotFound => Err(status),
            _ => Ok(()),
        }
    }

    async fn record(&self, id: &str) -> Result<Option<ContainerRecord>> {
        let request = self.timed(GetContainerRequest { id: id.to_owned() });
        match self.containers_client().get(request).await {
            Ok(response) => Ok(response.into_inner().container),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed("get the container", &status)),
        }
    }
}

fn lazy_channel(path: PathBuf) -> anyhow::Result<Channel> {
    // The address is a formality: the connector goes to the socket.
    let endpoint = Endpoint::try_from("http://containerd.invalid")?;
    Ok(
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        })),
    )
}

/// Maps a failed call; the kinds are containerd's own words for what happened.
fn failed(what: &str, status: &Status) -> Error {
    let text = format!("cannot {what}: containerd says: {}", status.message());
    match status.code() {
        Code::NotFound => Error::not_found(text),
        Code::AlreadyExists => Error::already_exists(text),
        Code::InvalidArgument => Error::invalid(text),
        Code::FailedPrecondition => Error::precondition(text),
        Code::DeadlineExceeded | Code::Cancelled => {
            Error::deadline(format!("cannot {what}: containerd does not answer"))
        }
        Code::Unavailable => unreachable(what),
        // Only what never reached containerd, or broke on the way, has a cause here.
        Code::Unknown if std::error::Error::source(status).is_some() => unreachable(what),
        _ => Error::internal(text),
    }
}

fn unreachable(what: &str) -> Error {
    Error::unavailable(format!(
        "cannot {what}: containerd cannot be reached: is it running, and is --containerd its socket?"
    ))
}

#[async_trait]
impl Runtime for Containerd {
    fn namespace(&self) -> &str {
        &self.namespace
    }

    async fn namespaces(&self) -> Result<Vec<String>> {
        let request = self.timed(ListNamespacesRequest::default());
        let response = NamespacesClient::new(self.channel.clone())
            .list(request)
            .await
            .map_err(|status| failed("list the namespaces", &status))?;
        let all = response.into_inner().namespaces.into_iter();
        Ok(all.map(|namespace| namespace.name).collect())
    }

    async fn containers(&self) -> Result<Vec<Container>> {
        let untold = |status: Status| failed("list the containers", &status);
        // One by one: the records of some hundred containers, each with its whole
        // OCI specification, are more than one message may have.
        let request = self.timed(ListContainersRequest::default());
        let listed = self.containers_client().list_stream(request).await;
        let mut listed = listed.map_err(untold)?.into_inner();
        let mut containers = Vec::new();
        while let Some(message) = listed.message().await.map_err(untold)? {
            containers.extend(message.container.map(convert::container));
        }
        Ok(containers)
    }

    async fn container(&self, id: &str) -> Result<Option<Container>> {
        Ok(self.record(id).await?.map(convert::container))
    }

    async fn tasks(&self) -> Result<Vec<Task>> {
        self.list_tasks().await
    }

    async fn task(&self, id: &str) -> Result<Option<Task>> {
        self.get_task(id).await
    }

    async fn set_extension(
        &self,
        id: &str,
        networks: &BTreeMap<String, ExtensionEntry>,
    ) -> Result<()> {
        let config = NetworkConfig {
            networks: networks
                .iter()
                .map(|(network, entry)| {
                    let entry = ContainerNetworkConfig {
                        interface: entry.interface.clone(),
                        ip: entry.ip.clone(),
                    };
                    (network.clone(), entry)
                })
                .collect(),
        };
        let any = prost_types::Any {
            type_url: EXTENSION_TYPE.to_owned(),
            value: config.encode_to_vec(),
        };
        let record = ContainerRecord {
            id: id.to_owned(),
            extensions: [(NETWORK_LABEL.to_owned(), any)].into(),
            ..ContainerRecord::default()
        };
        let key = format!("extensions.{NETWORK_LABEL}");
        let updated = self.update(record, key).await;
        updated.map_err(|status| failed("write the container's extension", &status))
    }

    async fn clear_stopped(&self, id: &str) -> Result<()> {
        let record = ContainerRecord {
            id: id.to_owned(),
            labels: [(CONTAINERD_STOPPED_LABEL.to_owned(), "false".to_owned())].into(),
            ..ContainerRecord::default()
        };
        let key = format!("labels.{CONTAINERD_STOPPED_LABEL}");
        let updated = self.update(record, key).await;
        updated.map_err(|status| failed("write the container's label", &status))
    }

    async fn create_task(&self, id: &str, log: Option<&str>) -> Result<u32> {
        self.create(id, log).await
    }

    async fn start_task(&self, id: &str) -> Result<()> {
        self.start(id).await
    }

    async fn discard_task(&self, id: &str) -> Result<()> {
        self.discard(id).await
    }

    async fn wait_task(&self, id: &str) -> Result<()> {
        self.wait(id).await
    }

    async fn kill_task(&self, id: &str, signal: u32) -> Result<()> {
        self.kill(id, signal).await
    }

    async fn delete_task(&self, id: &str) -> Result<()> {
        self.delete(id).await
    }

    fn events(&self) -> BoxStream<'static, Result<Notice>> {
        self.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use circuit_core::ErrorKind;

    use super::*;

    #[test]
    fn what_broke_on_the_way_is_unavailable() {
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let broken = Status::from_error(Box::new(broken));
        assert_eq!(broken.code(), Code::Unknown);
        assert_eq!(failed("a", &broken).kind(), ErrorKind::Unavailable);
        let told = Status::unknown("containerd has no idea");
        assert_eq!(failed("a", &told).kind(), ErrorKind::Internal);
    }
}
