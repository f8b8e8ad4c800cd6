//! Containers and networks as people look at them: what the runtime says of each,
//! what is on record, and what other nodes tell.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use circuit_core::attachment::ContainerRecord;
use circuit_core::cni::ConfigList;
use circuit_core::fleet::Record;
use circuit_core::labels::{CONTAINERD_RESTART_LABEL, RESTART_LABEL};
use circuit_core::overview::{
    ContainerView, Member, NetworkView, OnNetwork, Overview, RestartView, TaskState,
};
use circuit_core::restart::Policy;
use circuit_core::runtime::{Container, Task, TaskStatus};
use circuit_core::service::Attachments as _;
use circuit_core::{Error, Result};

use crate::attachments::Attachments;

/// What other nodes have, and what this one is called.
pub trait Elsewhere: Send + Sync {
    /// The containers of other nodes that are on networks, in no order.
    fn records(&self) -> Vec<Arc<Record>>;
}

/// Looks at this node and, where there is a fleet, at the others.
pub struct NodeOverview {
    attachments: Arc<Attachments>,
    elsewhere: Option<Arc<dyn Elsewhere>>,
    node: String,
}

impl NodeOverview {
    /// An overview of the node of that name.
    pub fn new(
        attachments: Arc<Attachments>,
        elsewhere: Option<Arc<dyn Elsewhere>>,
        node: &str,
    ) -> Self {
        Self {
            attachments,
            elsewhere,
            node: node.to_owned(),
        }
    }

    async fn here(&self) -> Vec<ContainerView> {
        let runtime = &self.attachments.parts.runtime;
        let (containers, tasks) = tokio::join!(runtime.containers(), runtime.tasks());
        let records = self.attachments.book().records();
        let mut records: BTreeMap<&str, &ContainerRecord> = records
            .iter()
            .map(|record| (&*record.container, &**record))
            .collect();
        let (containers, tasks) = match (containers, tasks) {
            (Ok(containers), Ok(tasks)) => (containers, tasks),
            (Err(error), _) | (_, Err(error)) => {
                tracing::debug!(%error, "only what is remembered can be told of containers");
                let remembered = records.values();
                return remembered.map(|record| self.remembered(record)).collect();
            }
        };
        let tasks: HashMap<&str, &Task> = tasks.iter().map(|t| (&*t.container, t)).collect();
        let mut views: Vec<ContainerView> = containers
            .iter()
            .map(|container| {
                let record = records.remove(&*container.id);
                self.view(container, tasks.get(&*container.id).copied(), record)
            })
            .collect();
        // Containers that are gone and whose attachments are still being taken away.
        let left = records.into_values();
        views.extend(left.map(|record| self.remembered(record)));
        views
    }

    fn view(
        &self,
        container: &Container,
        task: Option<&Task>,
        record: Option<&ContainerRecord>,
    ) -> ContainerView {
        let (state, pid) = match task {
            None => (TaskState::Absent, 0),
            Some(task) => match task.status {
                TaskStatus::Created => (TaskState::Created, task.pid),
                TaskStatus::Running => (TaskState::Running, task.pid),
                TaskStatus::Stopped => (TaskState::Stopped, 0),
                TaskStatus::Unknown => (TaskState::Unknown, 0),
            },
        };
        let ended = task.filter(|task| task.status == TaskStatus::Stopped);
        ContainerView {
            id: container.id.clone(),
            state,
            pid,
            exit_status: ended.map(|task| task.exit_status),
            restart: restart(container, record),
            ..record.map_or_else(
                || self.nothing_of(&container.id),
                |record| self.remembered(record),
            )
        }
    }

    /// What is on record of a container.
    fn remembered(&self, record: &ContainerRecord) -> ContainerView {
        ContainerView {
            networks: record.attachments.iter().map(OnNetwork::from).collect(),
            ..self.nothing_of(&record.container)
        }
    }

    fn nothing_of(&self, container: &str) -> ContainerView {
        ContainerView {
            id: container.to_owned(),
            node: self.node.clone(),
            problems: self.attachments.book().problems_of(container),
            ..ContainerView::default()
        }
    }
}

/// The restart policy of a container, when there is one and it is Circuit's.
fn restart(container: &Container, record: Option<&ContainerRecord>) -> Option<RestartView> {
    let label = container.labels.get(RESTART_LABEL)?;
    if container.labels.contains_key(CONTAINERD_RESTART_LABEL) {
        return None;
    }
    let policy = Policy::parse(label).ok()?;
    let state = record.map(|record| &record.restart);
    Some(RestartView {
        policy: policy.to_string(),
        count: state.map_or(0, |state| state.count),
        stopped: state.is_some_and(|state| state.stopped) || container.is_stopped_elsewhere(),
    })
}

#[async_trait]
impl Overview for NodeOverview {
    async fn containers(&self, here: bool) -> Result<Vec<ContainerView>> {
        let mut views = self.here().await;
        if let Some(elsewhere) = self.elsewhere.as_ref().filter(|_| !here) {
            let others = elsewhere.records();
            views.extend(others.iter().map(|record| ContainerView::from(&**record)));
        }
        views.sort_by(|a, b| (&a.node, &a.id).cmp(&(&b.node, &b.id)));
        Ok(views)
    }

    async fn add_traffic(&self, views: &mut [ContainerView]) {
        for view in views.iter_mut().filter(|view| view.node == self.node) {
            let record = self.attachments.book().record(&view.id);
            let netns = record.attachments.iter().find_map(|a| a.netns.clone());
            let Some(netns) = netns else { continue };
            // A task that ended this moment has no traffic any more.
            let read = self.attachments.parts.datapath.traffic(&netns).await;
            let passed: HashMap<String, _> = read.unwrap_or_default().into_iter().collect();
            for on in &mut view.networks {
                on.traffic = passed.get(&on.interface).copied();
            }
        }
    }

    async fn network(&self, name: &str) -> Result<NetworkView> {
        let network = self.attachments.parts.networks.network(name).await?;
        let list = ConfigList::parse(&network.data)
            .map_err(|e| e.context(format!("the configuration of network {name}")))?;
        let text = std::str::from_utf8(&network.data)
            .map_err(|_| Error::precondition(format!("network {name} is not UTF-8")))?;
        let pools = self.attachments.parts.datapath.pools(text).await;
        let mut members = Vec::new();
        for record in self.attachments.book().records() {
            let on = record.attachments.iter().filter(|a| a.network == name);
            members.extend(on.map(|attachment| Member {
                container: record.container.clone(),
                node: self.node.clone(),
                attachment: attachment.into(),
            }));
        }
        for record in self.elsewhere.iter().flat_map(|others| others.records()) {
            let on = record.attached.iter().filter(|a| &*a.network == name);
            members.extend(on.map(|attached| Member {
                container: record.container.to_string(),
                node: record.node.to_string(),
                attachment: attached.into(),
            }));
        }
        members.sort_by(|a, b| (&a.node, &a.container).cmp(&(&b.node, &b.container)));
        Ok(NetworkView {
            plugins: list
                .plugins
                .iter()
                .map(|plugin| plugin.kind.clone())
                .collect(),
            subnets: list.subnets().iter().map(ToString::to_string).collect(),
            ipam: list.ipam_kind().unwrap_or_default().to_owned(),
            pools,
            members,
            problems: self.attachments.problems_of_network(name),
            network,
        })
    }
}
