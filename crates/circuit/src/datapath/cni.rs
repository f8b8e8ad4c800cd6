//! Attachments made by the networks' CNI plugins, native or executables.

use circuit_core::cni::AnyCase as _;
use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use circuit_core::overview::Traffic;
use circuit_core::{
    Error, ErrorKind, Result,
    attachment::{Attachment, ContainerRecord, LastAddresses, Sandbox},
    cni::ConfigList,
    datapath::{AddFailure, Added, Arguments, Datapath, Disturbance, Held, Pool},
    labels::{DesiredNetwork, PortMapping},
    resolver::{Place, Present},
};
use circuit_net::{
    announce::announce_soon,
    cni::{AttachmentArgs, CniRuntime, Natives, OperationLock, Way},
    forwarding, netlink,
    netns::{self, NetnsId},
    process,
    resolv_conf::{self, Restored},
};

use ipnet::IpNet;
use tokio::task::AbortHandle;

use super::{
    accounts::{self, Accounts, Giver},
    arguments::{arguments, cni_args, granted},
    disturbances::Disturbances,
    remains,
    standing::{self, Lender},
};

/// DEL is run this often before its failure is told: plugins lose races for
/// iptables' chains against each other.
const DEL_ATTEMPTS: u32 = 4;
const DEL_PAUSE: Duration = Duration::from_millis(50);

/// Attaches by CNI plugins.
pub struct CniDatapath {
    cni: CniRuntime,
    /// One lock file a container; plugins inherit the lock, so that one which
    /// outlives a killed daemon is waited for by the next.
    locks: PathBuf,
    /// The folder of pinned namespaces.
    pins: PathBuf,
    /// Announcements under way, by CNI container id and interface.
    announcing: Mutex<HashMap<(String, String), AbortHandle>>,
    /// What was said of plugins that no driver can take the place of.
    pub(super) told: Mutex<HashSet<String>>,
    disturbances: Disturbances,
    accounts: Accounts,
    /// The daemon's own namespace, which does not change.
    host: OnceLock<NetnsId>,
}

impl CniDatapath {
    /// A datapath that runs plugins by `cni` and keeps lock files in `locks`;
    /// `pins` is the folder of pinned namespaces.
    pub fn new(
        cni: CniRuntime,
        locks: PathBuf,
        pins: PathBuf,
        lender: Lender,
        pools: Option<Giver>,
    ) -> Self {
        Self {
            cni,
            locks,
            pins,
            announcing: Mutex::default(),
            told: Mutex::default(),
            disturbances: Disturbances::default(),
            accounts: Accounts { lender, pools },
            host: OnceLock::new(),
        }
    }

    fn host(&self) -> Result<NetnsId> {
        if let Some(host) = self.host.get() {
            return Ok(*host);
        }
        let host = netns::host_identity()?;
        Ok(*self.host.get_or_init(|| host))
    }

    /// Says once which key keeps a plugin from being run in this process.
    fn tell_ways(&self, config: &ConfigList) {
        for (kind, way) in self.cni.ways(config) {
            let Way::Fallback(unsupported) = way else {
                continue;
            };
            let text = format!(
                "network {}: {kind} runs as an executable, as {unsupported}",
                config.name
            );
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.insert(text.clone()) {
                tracing::info!("{text}");
            }
        }
    }

    /// Tells the neighbours who has the addresses now: those that remember
    /// another hardware address would not reach the container for a while.
    fn announce(&self, attachment: &Attachment, added: &Added) {
        let Some(netns) = attachment.netns.clone() else {
            return;
        };
        let ips = added.ips.iter().map(ipnet::IpNet::addr).collect();
        let task = tokio::spawn(announce_soon(netns, attachment.interface.clone(), ips));
        let mut announcing = self
            .announcing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        announcing.retain(|_, other| !other.is_finished());
        announcing.insert(key(attachment), task.abort_handle());
    }

    fn be_silent(&self, attachment: &Attachment) {
        let mut announcing = self
            .announcing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = announcing.remove(&key(attachment)) {
            task.abort();
        }
    }

    async fn lock(&self, attachment: &Attachment) -> Result<OperationLock> {
        let path = self.locks.join(format!("{}.lock", attachment.cni_id));
        let patience = self.cni.timeout() + Duration::from_secs(5);
        OperationLock::acquire(path, patience).await
    }

    async fn try_add(&self, attachment: &Attachment) -> Result<Added, AddFailure> {
        let clean = |error| AddFailure {
            error,
            cleanup_owed: false,
            so_far: None,
        };
        let config = ConfigList::parse(attachment.config.as_bytes()).map_err(clean)?;
        // Drivers do it themselves.
        if !attachment.natives.contains(&0) && config.leads_out(true) {
            let kept = blocking(|| {
                forwarding::keep_routers();
                Ok(())
            });
            kept.await.map_err(clean)?;
        }
        self.guard_loopback(&config, &attachment.natives).await;
        let lock = self.lock(attachment).await.map_err(clean)?;
        let args = args(&config, attachment);
        let (result, raw) = self
            .cni
            .add(&config, &args, Some(&lock))
            .await
            .map_err(|failure| AddFailure {
                cleanup_owed: failure.cleanup_owed,
                so_far: failure.so_far,
                error: failure.error.into(),
            })?;
        let sandbox = attachment
            .netns
            .as_deref()
            .map(|path| path.to_string_lossy());
        let added = Added {
            ips: result.ips_of(&attachment.interface, sandbox.as_deref()),
            mac: result.mac_of(&attachment.interface).map(str::to_owned),
            result: raw,
        };
        granted(
            [&attachment.capability_args, &attachment.config_args],
            &added.ips,
            added.mac.as_deref(),
        )
        .map_err(|error| AddFailure {
            error,
            cleanup_owed: true,
            so_far: Some(added.result.clone()),
        })?;
        Ok(added)
    }
}

impl CniDatapath {
    async fn del_patiently(
        &self,
        config: &ConfigList,
        attachment: &Attachment,
        lock: &OperationLock,
    ) -> Result<()> {
        let args = args(config, attachment);
        let mut attempt = 1;
        loop {
            let result = attachment.result.as_ref();
            let Err(error) = self.cni.del(config, &args, result, Some(lock)).await else {
                self.accounts.lender.forget(attachment);
                return Ok(());
            };
            let error = Error::from(error);
            let hopeless = error.kind() == ErrorKind::DeadlineExceeded;
            if attempt >= DEL_ATTEMPTS || hopeless {
                return Err(error);
            }
            tracing::debug!(attempt, %error, "trying DEL again");
            tokio::time::sleep(DEL_PAUSE * attempt).await;
            attempt += 1;
        }
    }

    /// DEL for a namespace that is gone. Plugins that masquerade look the
    /// address up inside it and otherwise leave its firewall rules for ever,
    /// so they are shown a namespace with that address.
    async fn del_with_stand_in(
        &self,
        config: &ConfigList,
        attachment: &Attachment,
        ip: IpNet,
        lock: &OperationLock,
    ) -> Result<()> {
        // Among the pins, where the next start sweeps it after a crash.
        let pin = self.pins.join(format!("{}.stand-in", attachment.cni_id));
        let (path, interface) = (pin.clone(), attachment.interface.clone());
        let made = tokio::task::spawn_blocking(move || {
            netns::unpin(&path)?;
            netns::stand_in(&path, &interface, ip)
        });
        made.await
            .map_err(|error| Error::internal(format!("making a namespace failed: {error}")))??;
        let shown = Attachment {
            netns: Some(pin.clone()),
            ..attachment.clone()
        };
        let deleted = self.del_patiently(config, &shown, lock).await;
        self.unpin(&pin).await?;
        deleted
    }
}

/// True when an executable masquerades by the addresses that it finds on the
/// container's interface.
fn masquerades(config: &ConfigList, natives: &Natives) -> bool {
    config.plugins.iter().enumerate().any(|(index, plugin)| {
        !natives.contains(&index)
            && matches!(plugin.kind.as_str(), "bridge" | "ptp")
            && plugin
                .raw
                .find("ipMasq")
                .and_then(serde_json::Value::as_bool)
                == Some(true)
    })
}

/// Does what waits for the disk where nothing else waits with it.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal(format!("a container's file was not reached: {error}")))?
}

#[async_trait]
impl Datapath for CniDatapath {
    fn arguments(
        &self,
        config: &str,
        wanted: &DesiredNetwork,
        last: Option<&LastAddresses>,
        ports: &[PortMapping],
    ) -> Result<Arguments> {
        let config = ConfigList::parse(config.as_bytes())?;
        let natives = self.cni.natives(&config)?;
        self.tell_ways(&config);
        Ok(Arguments {
            natives,
            ..arguments(&config, wanted, last, ports)?
        })
    }

    fn publishes_ports(&self, config: &str) -> bool {
        ConfigList::parse(config.as_bytes()).is_ok_and(|config| config.declares("portMappings"))
    }

    async fn sandbox(&self, pid: u32) -> Result<Sandbox> {
        let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
        let netns = netns::identity(&path).map_err(|error| unseen(pid, &error))?;
        if netns == self.host()? {
            return Err(Error::precondition(
                "the container uses the host's network namespace, which has the host's networks: \
                 start it without --net-host",
            ));
        }
        Ok(Sandbox {
            pid,
            netns: netns.inode,
        })
    }

    fn started(&self, pid: u32) -> Option<u64> {
        process::started(pid)
    }

    async fn pin(&self, sandbox: Sandbox, path: &Path) -> Result<()> {
        pin(sandbox, path)
    }

    async fn prepare(&self, sandbox: Sandbox, path: &Path) -> Result<Vec<String>> {
        let path = path.to_path_buf();
        let work = move || {
            pin(sandbox, &path)?;
            netns::interface_names(&path)
        };
        self.cni.workers().run(work).await?
    }

    async fn unpin(&self, pin: &Path) -> Result<()> {
        // The kernel may take milliseconds over an unmount.
        let pin = pin.to_path_buf();
        tokio::task::spawn_blocking(move || netns::unpin(pin))
            .await
            .map_err(|error| Error::internal(format!("unpinning failed: {error}")))?
    }

    async fn pins(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        Ok(netns::list_pins(dir)?
            .into_iter()
            .map(|pin| pin.path)
            .collect())
    }

    async fn pinned(&self, pin: &Path) -> Result<Option<u64>> {
        Ok(netns::pinned(pin)?.map(|identity| identity.inode))
    }

    async fn interfaces(&self, netns: &Path) -> Result<Vec<String>> {
        let netns = netns.to_path_buf();
        self.cni
            .workers()
            .run(move || netns::interface_names(&netns))
            .await?
    }

    async fn addresses(&self, netns: &Path) -> Result<Vec<(String, IpAddr)>> {
        let netns = netns.to_path_buf();
        let read = move || netlink::named_addresses(&netns);
        self.cni.workers().run(read).await?
    }

    fn stands(&self, attachment: &Attachment) -> bool {
        standing::stands(attachment, &self.accounts.lender)
    }

    async fn traffic(&self, netns: &Path) -> Result<Vec<(String, Traffic)>> {
        let netns = netns.to_path_buf();
        let read = move || netlink::traffic(&netns);
        self.cni.workers().run(read).await?
    }

    async fn order_routes(
        &self,
        netns: &Path,
        interfaces: &[String],
        foreign: &[String],
    ) -> Result<()> {
        let (interfaces, foreign) = (interfaces.to_vec(), foreign.to_vec());
        let netns = netns.to_path_buf();
        let order = move || netlink::order_default_routes(&netns, &interfaces, &foreign);
        self.cni.workers().run(order).await?
    }

    async fn resolver(&self, place: &Place) -> Result<Present> {
        let place = place.clone();
        blocking(move || resolv_conf::read(&place)).await
    }

    async fn write_resolver(&self, place: &Place, text: &str) -> Result<Present> {
        let (place, text) = (place.clone(), text.to_owned());
        blocking(move || resolv_conf::replace(&place, &text)).await
    }

    async fn restore_resolver(
        &self,
        place: &Place,
        now: &Present,
        original: &Present,
    ) -> Result<()> {
        // What is no text is none of ours.
        let Some(now) = now.text().map(str::to_owned) else {
            return Ok(());
        };
        let (place, original) = (place.clone(), original.clone());
        let pid = place.pid;
        let restored = blocking(move || resolv_conf::restore(&place, &original, &now)).await?;
        if restored == Restored::Changed {
            tracing::debug!(pid, "the container has changed its resolv.conf itself");
        }
        Ok(())
    }

    async fn add(&self, attachment: &Attachment) -> Result<Added, AddFailure> {
        let added = self.try_add(attachment).await?;
        self.announce(attachment, &added);
        Ok(added)
    }

    async fn del(&self, attachment: &Attachment) -> Result<()> {
        self.be_silent(attachment);
        let config = ConfigList::parse(attachment.config.as_bytes())?;
        let lock = self.lock(attachment).await?;
        // While the interface is there, from which its server is told.
        self.accounts.lender.give_back(attachment).await?;
        let told = remains::with_result(attachment, &config, self.cni.workers()).await;
        let attachment = told.as_ref().unwrap_or(attachment);
        if attachment.netns.is_some() || !masquerades(&config, &attachment.natives) {
            return self.del_patiently(&config, attachment, &lock).await;
        }
        for ip in &attachment.ips {
            self.del_with_stand_in(&config, attachment, *ip, &lock)
                .await?;
        }
        self.del_patiently(&config, attachment, &lock).await
    }

    async fn check(&self, attachment: &Attachment) -> Result<()> {
        let config = ConfigList::parse(attachment.config.as_bytes())?;
        let Some(result) = &attachment.result else {
            return Ok(());
        };
        let lock = self.lock(attachment).await?;
        Ok(self
            .cni
            .check(&config, &args(&config, attachment), result, Some(&lock))
            .await?)
    }

    async fn mend(&self, attachment: &Attachment) -> Result<()> {
        let Some(result) = &attachment.result else {
            return Ok(());
        };
        let config = ConfigList::parse(attachment.config.as_bytes())?;
        self.guard_loopback(&config, &attachment.natives).await;
        if attachment.natives.is_empty() {
            return Ok(());
        }
        let lock = self.lock(attachment).await?;
        Ok(self
            .cni
            .mend(&config, &args(&config, attachment), result, Some(&lock))
            .await?)
    }

    async fn loose(&self, records: &[Arc<ContainerRecord>]) -> Result<Vec<(String, String)>> {
        let records = records.to_vec();
        blocking(move || standing::loose(&records)).await
    }

    async fn disturbed(&self) -> Result<Disturbance> {
        self.disturbances.next().await
    }

    async fn gc(&self, config: &str, valid: &[(String, String)]) -> Result<()> {
        let config = ConfigList::parse(config.as_bytes())?;
        if self.accounts.are_complete(&config) {
            self.cni.gc(&config, valid, None).await?;
        }
        Ok(())
    }

    async fn held(&self, config: &str) -> Result<Vec<Held>> {
        let config = ConfigList::parse(config.as_bytes())?;
        self.accounts.held(config).await
    }

    fn knows_holders(&self, config: &str) -> Result<bool> {
        let config = ConfigList::parse(config.as_bytes())?;
        Ok(self.accounts.are_ours(&config))
    }

    async fn retire(&self, cni_id: &str) {
        let path = self.locks.join(format!("{cni_id}.lock"));
        // Nobody waits for it here: the container's own work is done, and a
        // plugin that still holds it keeps it.
        if let Ok(true) = path.try_exists()
            && let Ok(Some(_held)) = OperationLock::try_acquire(&path)
        {
            let _ = std::fs::remove_file(&path);
        }
    }

    async fn owner_of(&self, config: &str, ip: &str) -> Option<String> {
        let config = ConfigList::parse(config.as_bytes()).ok()?;
        accounts::owner_of(&config, ip)
    }

    async fn pools(&self, config: &str) -> Vec<Pool> {
        match ConfigList::parse(config.as_bytes()) {
            Ok(config) => accounts::pools(config).await,
            Err(_) => Vec::new(),
        }
    }
}

fn pin(sandbox: Sandbox, pin: &Path) -> Result<()> {
    let source = PathBuf::from(format!("/proc/{}/ns/net", sandbox.pid));
    let pinned = netns::pin(&source, pin).map_err(|error| match error.kind() {
        ErrorKind::NotFound => ended(sandbox.pid),
        _ => error,
    })?;
    if pinned.inode != sandbox.netns {
        // The pid was given to another process in between.
        netns::unpin(pin)?;
        return Err(ended(sandbox.pid));
    }
    Ok(())
}

/// Why the namespace of a task cannot be looked at.
fn unseen(pid: u32, error: &Error) -> Error {
    // The kernel may refuse a process that ends at this moment too.
    if error.kind() == ErrorKind::NotFound || process::started(pid).is_none() {
        return ended(pid);
    }
    Error::precondition(format!(
        "{}: run the daemon with CAP_SYS_PTRACE in the user namespace that the container \
         was started in",
        error.message()
    ))
}

fn ended(pid: u32) -> Error {
    Error::precondition(format!(
        "the task with pid {pid} has just ended: start it again"
    ))
}

fn key(attachment: &Attachment) -> (String, String) {
    (attachment.cni_id.clone(), attachment.interface.clone())
}

fn args(config: &ConfigList, attachment: &Attachment) -> AttachmentArgs {
    AttachmentArgs {
        container_id: attachment.cni_id.clone(),
        netns: attachment.netns.clone(),
        ifname: attachment.interface.clone(),
        cni_args: cni_args(config, &attachment.config_args),
        capability_args: attachment.capability_args.clone(),
        config_args: attachment.config_args.clone(),
        natives: attachment.natives.clone(),
    }
}
