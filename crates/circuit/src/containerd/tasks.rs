//! Tasks: looked up, started the way containerd's own client starts them,
//! ended.

use std::{path::Path, time::Duration};

use circuit_core::{
    Error, ErrorKind, Result,
    runtime::{Task, TaskStatus},
};
use containerd_client::services::v1::{
    Container as ContainerRecord, CreateContainerRequest, CreateTaskRequest,
    DeleteContainerRequest, DeleteTaskRequest, GetRequest, KillRequest, ListTasksRequest,
    StartRequest, WaitRequest, container,
    snapshots::{MountsRequest, snapshots_client::SnapshotsClient},
    tasks_client::TasksClient,
};
use serde::Deserialize;
use tonic::{Code, transport::Channel};

use super::{Containerd, LONGEST_MESSAGE, convert, failed};

/// Making a task mounts file systems and runs the OCI runtime.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A killed process is gone within this, or the kernel holds it.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// What a record must have to be one.
const RUNTIME: &str = "io.containerd.runc.v2";
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// The one thing of an OCI runtime specification that a start must know.
#[derive(Deserialize, Default)]
struct Spec {
    #[serde(default)]
    process: SpecProcess,
}

#[derive(Deserialize, Default)]
struct SpecProcess {
    #[serde(default)]
    terminal: bool,
}

impl Containerd {
    fn tasks_client(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(LONGEST_MESSAGE)
    }

    pub(super) async fn list_tasks(&self) -> Result<Vec<Task>> {
        let response = self
            .tasks_client()
            .list(self.timed(ListTasksRequest::default()))
            .await
            .map_err(|status| failed("list the tasks", &status))?;
        Ok(response
            .into_inner()
            .tasks
            .into_iter()
            .map(convert::task)
            .collect())
    }

    pub(super) async fn get_task(&self, id: &str) -> Result<Option<Task>> {
        let request = self.timed(GetRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        match self.tasks_client().get(request).await {
            Ok(response) => match response.into_inner().process.map(convert::task) {
                Some(task) if task.status == TaskStatus::Unknown => Err(Error::deadline(format!(
                    "cannot tell how container {id} is: its shim does not answer"
                ))),
                task => Ok(task),
            },
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(failed("get the task", &status)),
        }
    }

    pub(super) async fn create(&self, id: &str, log: Option<&str>) -> Result<u32> {
        let Some(record) = self.record(id).await? else {
            return Err(Error::not_found(format!("container {id} does not exist")));
        };
        let rootfs = self
            .mounts(&record.snapshotter, &record.snapshot_key)
            .await?;
        let terminal = record
            .spec
            .as_ref()
            .and_then(|spec| serde_json::from_slice::<Spec>(&spec.value).ok())
            .is_some_and(|spec| spec.process.terminal);
        let stdout = match (terminal, log) {
            (false, log) => log.unwrap_or_default().to_owned(),
            (true, None) => "/dev/null".to_owned(),
            (true, Some(log)) => terminal_log(log).await?,
        };
        let mut request = self.request(CreateTaskRequest {
            container_id: id.to_owned(),
            rootfs,
            stderr: if terminal {
                String::new()
            } else {
                stdout.clone()
            },
            stdout,
            terminal,
            ..CreateTaskRequest::default()
        });
        request.set_timeout(START_TIMEOUT);
        let created = self
            .tasks_client()
            .create(request)
            .await
            .map_err(|status| failed("make the task", &status))?;
        Ok(created.into_inner().pid)
    }

    pub(super) async fn start(&self, id: &str) -> Result<()> {
        let mut request = self.request(StartRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        request.set_timeout(START_TIMEOUT);
        match self.tasks_client().start(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(failed("start the task", &status)),
        }
    }

    /// No deadline: the caller has one.
    pub(super) async fn wait(&self, id: &str) -> Result<()> {
        let request = self.request(WaitRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
        });
        match self.tasks_client().wait(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(failed("wait for the task", &status)),
        }
    }

    async fn mounts(
        &self,
        snapshotter: &str,
        key: &str,
    ) -> Result<Vec<containerd_client::types::Mount>> {
        // A container without a snapshot brings its own root file system.
        if key.is_empty() {
            return Ok(Vec::new());
        }
        let request = self.timed(MountsRequest {
            snapshotter: snapshotter.to_owned(),
            key: key.to_owned(),
        });
        let response = SnapshotsClient::new(self.channel.clone())
            .mounts(request)
            .await
            .map_err(|status| failed("get the root file system's mounts", &status))?;
        Ok(response.into_inner().mounts)
    }

    pub(super) async fn kill(&self, id: &str, signal: u32) -> Result<()> {
        let request = self.timed(KillRequest {
            container_id: id.to_owned(),
            exec_id: String::new(),
            signal,
            all: false,
        });
        match self.tasks_client().kill(request).await {
            Ok(_) => Ok(()),
            Err(status) => Err(failed("signal the task", &status)),
        }
    }

    pub(super) async fn delete(&self, id: &str) -> Result<()> {
        let request = self.timed(DeleteTaskRequest {
            container_id: id.to_owned(),
        });
        match self.tasks_client().delete(request).await {
            Ok(_) => Ok(()),
            Err(status) if status.code() == Code::NotFound => Ok(()),
            Err(status) => Err(failed("delete the task", &status)),
        }
    }
}

impl Containerd {
    /// containerd ends and deletes tasks only for containers that it knows. A
    /// container that was deleted between the making of its task and now gets
    /// its record back for as long as that takes; otherwise the task's process
    /// and namespace would stay until containerd is restarted.
    pub(super) async fn discard(&self, id: &str) -> Result<()> {
        let gone = self.record(id).await?.is_none();
        if gone {
            self.put_back(id).await?;
        }
        let discarded = async {
            match self.kill(id, 9).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // A process that does not end is told by the deletion's failure.
            let _ = tokio::time::timeout(END_TIMEOUT, self.wait(id)).await;
            self.delete(id).await
        };
        let discarded = discarded.await;
        if gone {
            let request = self.timed(DeleteContainerRequest { id: id.to_owned() });
            let deleted = self.containers_client().delete(request).await;
            if let Err(status) = deleted
                && status.code() != Code::NotFound
            {
                return Err(failed("delete the container's record", &status));
            }
        }
        discarded
    }

    async fn put_back(&self, id: &str) -> Result<()> {
        let spec = prost_types::Any {
            type_url: SPEC_TYPE.to_owned(),
            value: b"{}".to_vec(),
        };
        let container = ContainerRecord {
            id: id.to_owned(),
            runtime: Some(container::Runtime {
                name: RUNTIME.to_owned(),
                options: None,
            }),
            spec: Some(spec),
            ..ContainerRecord::default()
        };
        let request = self.timed(CreateContainerRequest {
            container: Some(container),
        });
        match self.containers_client().create(request).await {
            Ok(_) => Ok(()),
            // Somebody made it anew; the task is still the old one's.
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(failed("put the container's record back", &status)),
        }
    }
}

/// A place for a terminal's output. Shims know only plain paths for it, of
/// files that exist, and write them from the start: what an earlier task wrote
/// is moved aside.
async fn terminal_log(log: &str) -> Result<String> {
    let path = log.strip_prefix("file://").unwrap_or(log).to_owned();
    let failed = |error| {
        Error::precondition(format!(
            "cannot write the log {log}: {error}: give another file"
        ))
    };
    if let Some(dir) = Path::new(&path).parent() {
        tokio::fs::create_dir_all(dir).await.map_err(failed)?;
    }
    let written = tokio::fs::metadata(&path)
        .await
        .is_ok_and(|m| m.is_file() && m.len() > 0);
    if written {
        tokio::fs::rename(&path, format!("{path}.1"))
            .await
            .map_err(failed)?;
    }
    let mut options = tokio::fs::OpenOptions::new();
    options
        .create(true)
        .append(true)
        .open(&path)
        .await
        .map_err(failed)?;
    Ok(path)
}
