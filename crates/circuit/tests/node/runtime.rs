//! containerd as the daemon uses it, where a whole daemon would need luck to
//! get there.

use circuit::containerd::Containerd;
use circuit_core::runtime::{Runtime as _, TaskStatus};
use containerd_client::services::v1::{
    DeleteContainerRequest, containers_client::ContainersClient,
};
use tonic::Request;

/// A container that is deleted between the making of its task and its start
/// leaves a task that containerd's own commands cannot remove.
#[test]
fn a_task_whose_container_went_is_discarded() {
    let node = crate::node().without_daemon().start();
    node.create_container("web", &[], &[]);
    let socket = node.path("/run/containerd/containerd.sock");
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(async {
        let runtime = Containerd::new(&socket, "default").unwrap();
        let pid = runtime.create_task("web", None).await.unwrap();
        let made = runtime.task("web").await.unwrap().unwrap();
        assert_eq!((made.pid, made.status), (pid, TaskStatus::Created));

        let channel = containerd_client::connect(&socket).await.unwrap();
        let mut request = Request::new(DeleteContainerRequest { id: "web".into() });
        request
            .metadata_mut()
            .insert("containerd-namespace", "default".parse().unwrap());
        ContainersClient::new(channel)
            .delete(request)
            .await
            .unwrap();
        assert!(runtime.start_task("web").await.is_err());

        runtime.discard_task("web").await.unwrap();
        assert_eq!(runtime.tasks().await.unwrap(), []);
        assert_eq!(runtime.containers().await.unwrap(), []);
    });
    let processes = node.run("ps", &["-e", "-o", "args"]).ok();
    assert!(!processes.contains("runc init"), "{processes}");
}
