//! Looks at a container of a runtime that is played, where it matters what that answers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use async_trait::async_trait;
use circuit_core::{
    Error, Result,
    labels::RESTART_LABEL,
    request::Requested,
    runtime::{ExtensionEntry, Notice, Runtime, TaskStatus},
    service::{Attachments as _, Containers as _, StoredNetwork},
};
use circuit_net::cni::{CniRuntime, PluginPath};
use circuit_net::dhcp::{LeaseKeeper, Settings};
use circuit_testing::PATIENCE;
use futures::stream::BoxStream;
use tokio::{sync::watch, time::timeout};

use super::*;
use crate::attachments::{Book, NetworkSource, Parts};
use crate::datapath::{CniDatapath, Lender};
use crate::events::EventLog;
use crate::pulse::Pulse;
use crate::state::State;

const WEB: &str = "web";
const SIGTERM: u32 = 15;
const SIGKILL: u32 = 9;

/// A runtime with one container, `web`.
#[derive(Default)]
struct Played {
    labels: HashMap<String, String>,
    task: Mutex<Option<Task>>,
    /// What is done the next time, though no answer comes.
    unanswered: Mutex<Option<&'static str>>,
    /// The last signal to its process, which ends by SIGKILL alone.
    signal: watch::Sender<u32>,
}

impl Played {
    fn answer(&self, call: &str) -> Result<()> {
        match self.unanswered.lock().unwrap().take_if(|it| *it == call) {
            Some(_) => Err(Error::unavailable("containerd went away")),
            None => Ok(()),
        }
    }

    fn put(&self, pid: u32, status: TaskStatus, exit_status: u32) {
        *self.task.lock().unwrap() = Some(Task {
            container: WEB.to_owned(),
            pid,
            status,
            exit_status,
            exited_at: None,
        });
    }

    fn status(&self) -> Option<TaskStatus> {
        let task = self.task.lock().unwrap();
        task.as_ref().map(|task| task.status)
    }
}

#[async_trait]
impl Runtime for Played {
    fn namespace(&self) -> &str {
        "played"
    }
    async fn namespaces(&self) -> Result<Vec<String>> {
        Ok(vec!["played".to_owned()])
    }
    async fn containers(&self) -> Result<Vec<Container>> {
        Ok(self.container(WEB).await?.into_iter().collect())
    }
    async fn container(&self, id: &str) -> Result<Option<Container>> {
        Ok((id == WEB).then(|| Container {
            id: WEB.to_owned(),
            labels: self.labels.clone(),
            extension: None,
            created_at: None,
            changed_at: None,
            resolv_conf: None,
        }))
    }
    async fn tasks(&self) -> Result<Vec<Task>> {
        Ok(self.task.lock().unwrap().iter().cloned().collect())
    }
    async fn task(&self, _: &str) -> Result<Option<Task>> {
        Ok(self.task.lock().unwrap().clone())
    }
    async fn set_extension(&self, _: &str, _: &BTreeMap<String, ExtensionEntry>) -> Result<()> {
        self.answer("set_extension")
    }
    async fn clear_stopped(&self, _: &str) -> Result<()> {
        Ok(())
    }
    async fn create_task(&self, _: &str, _: Option<&str>) -> Result<u32> {
        // No process has such a number.
        let pid = u32::MAX - 1;
        self.put(pid, TaskStatus::Created, 0);
        Ok(pid)
    }
    async fn start_task(&self, _: &str) -> Result<()> {
        let mut task = self.task.lock().unwrap();
        task.as_mut().unwrap().status = TaskStatus::Running;
        Ok(())
    }
    async fn discard_task(&self, id: &str) -> Result<()> {
        self.delete_task(id).await
    }
    async fn wait_task(&self, _: &str) -> Result<()> {
        let mut signal = self.signal.subscribe();
        signal.wait_for(|signal| *signal == SIGKILL).await.unwrap();
        Ok(())
    }
    async fn kill_task(&self, _: &str, signal: u32) -> Result<()> {
        self.signal.send_replace(signal);
        Ok(())
    }
    async fn delete_task(&self, _: &str) -> Result<()> {
        *self.task.lock().unwrap() = None;
        self.answer("delete_task")
    }
    fn events(&self) -> BoxStream<'static, Result<Notice>> {
        Box::pin(futures::stream::pending())
    }
}

struct NoNetworks;

#[async_trait]
impl NetworkSource for NoNetworks {
    async fn network(&self, name: &str) -> Result<StoredNetwork> {
        Err(Error::not_found(format!("network {name} does not exist")))
    }
    async fn networks(&self) -> Result<Vec<StoredNetwork>> {
        Ok(Vec::new())
    }
}

/// A daemon's parts around it, whose files are in this folder.
fn around(runtime: &Arc<Played>, dir: &std::path::Path) -> Arc<Attachments> {
    let cni = CniRuntime::new(PluginPath::parse(""), Duration::from_secs(1));
    let lender = Lender {
        keeper: LeaseKeeper::start(&dir.join("dhcp"), Settings::default()).unwrap(),
        socket: dir.join("dhcp.sock"),
        listens: false,
    };
    let pins = dir.join("netns");
    let datapath = CniDatapath::new(cni, dir.join("locks"), pins.clone(), lender, None);
    let (state, loaded) = State::open(dir, "played").unwrap();
    let parts = Parts {
        runtime: Arc::clone(runtime) as _,
        datapath: Arc::new(datapath),
        networks: Arc::new(NoNetworks),
        book: Book::new(state, "node0", loaded.records),
        pins,
        label: "io.circuit.network".to_owned(),
        events: Arc::new(EventLog::new("node0")),
    };
    Arc::new(Attachments::new(parts, mpsc::unbounded_channel().0))
}

/// An attachment of it, as it is on record.
fn attached(network: &str) -> Attachment {
    let written = serde_json::json!({
        "network": network, "interface": "eth0", "phase": "attached", "origin": "label",
        "cni_id": "played-web", "sandbox": {"pid": 7, "netns": 1}, "config": "{}",
        "ips": ["10.88.0.2/24"],
    });
    serde_json::from_value(written).unwrap()
}

/// Looks, and waits for as long as that asks for.
async fn look(reconciler: &Reconciler) -> Next {
    let guard = reconciler.attachments.lock(WEB).await;
    let next = reconciler.look(WEB, guard).await;
    if let Next::After(delay) = next {
        tokio::time::sleep(delay).await;
    }
    next
}

#[tokio::test]
async fn a_restart_goes_on_whose_delete_gave_no_answer() {
    let played = Arc::new(Played {
        labels: HashMap::from([(RESTART_LABEL.to_owned(), "on-failure".to_owned())]),
        unanswered: Mutex::new(Some("delete_task")),
        ..Played::default()
    });
    played.put(7, TaskStatus::Stopped, 1);
    let dir = tempfile::tempdir().unwrap();
    let attachments = around(&played, dir.path());
    let first = Reconciler::new(Arc::clone(&attachments));
    while played.status().is_some() {
        assert_ne!(look(&first).await, Next::Rest);
    }
    // How the task ended is known to this daemon alone.
    drop(first);
    let second = Reconciler::new(attachments);
    while look(&second).await != Next::Rest {}
    assert_eq!(played.status(), Some(TaskStatus::Running));
}

#[tokio::test]
async fn an_update_that_failed_is_not_waited_for() {
    let played = Arc::new(Played {
        unanswered: Mutex::new(Some("set_extension")),
        ..Played::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let attachments = around(&played, dir.path());
    let seen = attachments.see(WEB).await.unwrap().unwrap();
    let mut record = ContainerRecord::new(WEB);
    attachments.adopt(&mut record, &seen, None).await.unwrap();
    record.put(attached("ctr0"));
    assert!(attachments.publish(&record, &seen).await.is_err());
    assert!(!attachments.is_own_update(WEB));
    attachments.publish(&record, &seen).await.unwrap();
    assert!(attachments.is_own_update(WEB));
    assert!(!attachments.is_own_update(WEB));
}

#[tokio::test]
async fn a_problem_goes_with_the_wish_that_had_it() {
    let dir = tempfile::tempdir().unwrap();
    let attachments = around(&Arc::default(), dir.path());
    let book = attachments.book();
    let mut record = ContainerRecord::new(WEB);
    record.request(&Requested::named("ctr0"));
    book.save(&record).await.unwrap();
    let full = BTreeMap::from([("ctr0".to_owned(), "it has no addresses left".to_owned())]);
    book.set_problems(WEB, full);
    attachments.disconnect(WEB, "ctr0").await.unwrap();
    assert!(book.record(WEB).requested.is_empty());
    assert_eq!(book.problems_of(WEB), []);
}

#[tokio::test]
async fn the_end_waits_for_no_look_that_has_not_begun() {
    let dir = tempfile::tempdir().unwrap();
    let attachments = around(&Arc::default(), dir.path());
    let reconciler = Arc::new(Reconciler::new(Arc::clone(&attachments)));
    let (wake, wakes) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let pulse = Pulse::default().answerer("reconciler");
    // As a long stop by hand does.
    let _guard = attachments.lock(WEB).await;
    wake.send(WEB.to_owned()).unwrap();
    let running = tokio::spawn(reconciler.run(wakes, pulse, stop.clone()));
    // All of it is on this thread, where the look is soon at the lock.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    timeout(PATIENCE, running).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shorter_stop_shortens_the_one_before() {
    let played = Arc::new(Played::default());
    played.put(u32::MAX - 1, TaskStatus::Running, 0);
    let dir = tempfile::tempdir().unwrap();
    let reconciler = Arc::new(Reconciler::new(around(&played, dir.path())));
    let mut signal = played.signal.subscribe();
    let stop = |patience: Duration| {
        let reconciler = Arc::clone(&reconciler);
        tokio::spawn(async move { reconciler.stop(WEB, Some(patience)).await })
    };
    let long = stop(Duration::MAX);
    signal.wait_for(|signal| *signal == SIGTERM).await.unwrap();
    let longer = stop(Duration::MAX);
    let short = stop(Duration::ZERO);
    for stopped in [long, longer, short] {
        timeout(PATIENCE, stopped).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(played.status(), None);
}
