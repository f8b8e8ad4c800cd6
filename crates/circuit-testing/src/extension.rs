//! What of containerd's container record only its API can set.

use std::{collections::HashMap, future::Future, path::Path};

use containerd_client::{
    Client,
    services::v1::{Container, GetContainerRequest, UpdateContainerRequest},
    with_namespace,
};
use prost_types::{Any, FieldMask};
use serde_json::Value;
use tonic::Request;

use crate::{containerd, node::TestNode};

/// The extension's key.
pub const EXTENSION_KEY: &str = "io.circuit.network";
/// Its type: a bare full name.
pub const EXTENSION_TYPE: &str = "io.circuit.v1.NetworkConfig";

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

async fn get(client: &Client, container: &str) -> Container {
    let request = GetContainerRequest {
        id: container.to_owned(),
    };
    let answer = client
        .containers()
        .get(with_namespace!(request, "default"))
        .await;
    answer
        .expect("the container")
        .into_inner()
        .container
        .expect("the container")
}

async fn client(socket: &Path) -> Client {
    Client::from_path(socket)
        .await
        .expect("the node's containerd")
}

impl TestNode {
    /// The extension's type and bytes, if the container has it.
    pub fn extension(&self, container: &str) -> Option<(String, Vec<u8>)> {
        let socket = self.path(containerd::SOCKET);
        let mut container = block_on(async { get(&client(&socket).await, container).await });
        container
            .extensions
            .remove(EXTENSION_KEY)
            .map(|any| (any.type_url, any.value))
    }

    /// Writes the extension, as the original program did.
    pub fn set_extension(&self, container: &str, value: Vec<u8>) {
        let any = Any {
            type_url: EXTENSION_TYPE.to_owned(),
            value,
        };
        self.update(container, "extensions", |record| {
            record.extensions = HashMap::from([(EXTENSION_KEY.to_owned(), any)]);
        });
    }

    /// Changes what a container's next task will be like.
    pub(crate) fn change_spec(&self, container: &str, change: impl FnOnce(&mut Value)) {
        self.update(container, "spec", |record| {
            let spec = record.spec.as_mut().expect("a specification");
            let mut json: Value = serde_json::from_slice(&spec.value).expect("JSON");
            change(&mut json);
            spec.value = json.to_string().into_bytes();
        });
    }

    fn update(&self, container: &str, field: &str, change: impl FnOnce(&mut Container)) {
        let socket = self.path(containerd::SOCKET);
        block_on(async {
            let client = client(&socket).await;
            let mut record = get(&client, container).await;
            change(&mut record);
            let request = UpdateContainerRequest {
                container: Some(record),
                update_mask: Some(FieldMask {
                    paths: vec![field.to_owned()],
                }),
            };
            let answer = client
                .containers()
                .update(with_namespace!(request, "default"))
                .await;
            answer.expect("containerd takes the change");
        });
    }
}
