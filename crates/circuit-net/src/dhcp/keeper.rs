//! The keeper of leases.

mod kept;
mod renewal;
mod turns;

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use circuit_core::cni::{CniResult, ErrorReport, JsonObject, ValidAttachment, code};
use circuit_core::{Error, Result};

use super::client::{Client, Timing};
use super::identity::{HostMark, client_id};
use super::lease::{Holder, Lease};
use super::options::{result, sent};
use super::packet::{Options, option};
use super::port::{Failure, Port};
use super::store::Store;
use crate::driver::{Answer, Options as Keys};
use kept::{Kept, Namespace};
use turns::{Entry, State, Turn};

/// When nothing is due.
const LONG: Duration = Duration::from_secs(3600);

/// How a keeper behaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// How long things may take.
    pub timing: Timing,
    /// Whether servers are asked to broadcast their answers.
    pub broadcast: bool,
    /// What servers are told of this host, so that they tell its containers from
    /// others of the same name; nothing, as by the stock plugin, when there is none.
    pub host: Option<HostMark>,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// For whom.
    pub holder: Holder,
    /// The container's namespace.
    pub netns: PathBuf,
    /// `CNI_ARGS`, as pairs.
    pub args: Vec<(String, String)>,
    /// The `ipam` object of the configuration.
    pub ipam: JsonObject,
}

/// Gets leases, renews them, and gives them back. They are on disk, and are
/// taken up again by the next keeper. Its functions wait for servers, so they
/// are nothing for a thread of a runtime.
#[derive(Clone)]
pub struct LeaseKeeper {
    shared: Arc<Shared>,
    timer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

type Tell = Box<dyn Fn(&Holder) + Send + Sync>;

struct Shared {
    store: Store,
    settings: Settings,
    state: Mutex<State>,
    /// Something in the state is another now.
    changed: Condvar,
    /// Is told of leases that came to an end by themselves.
    ends: OnceLock<Tell>,
}

impl LeaseKeeper {
    /// Starts a keeper whose leases are in a folder, which is made when it is
    /// not there; those that it finds there are kept on. No two keepers may
    /// have the same folder. It may be one that does not outlive the machine's
    /// reboot, as `/run`: neither do containers, and writing there is faster.
    ///
    /// # Errors
    /// When the folder cannot be used, or no thread be started.
    pub fn start(state_dir: &Path, settings: Settings) -> Result<Self> {
        let store = Store::open(state_dir)?;
        let mut state = State::default();
        for lease in store.load()? {
            match Namespace::of(&lease) {
                Ok(netns) => {
                    let (holder, age) = (lease.holder.clone(), lease.grant.age());
                    let kept = Kept::new(lease, netns.file.into(), age);
                    state.entries.insert(holder, Entry::idle(kept));
                }
                Err(error) => {
                    tracing::info!(holder = ?lease.holder, %error, "lease is of no use any more");
                    store.remove(&lease.holder)?;
                }
            }
        }
        let shared = Arc::new(Shared {
            store,
            settings,
            state: Mutex::new(state),
            changed: Condvar::new(),
            ends: OnceLock::new(),
        });
        let its = Arc::clone(&shared);
        let timer = thread::Builder::new()
            .name("dhcp-leases".to_owned())
            .spawn(move || its.watch())
            .map_err(|e| Error::unavailable(format!("cannot start the keeper of leases: {e}")))?;
        Ok(Self {
            shared,
            timer: Arc::new(Mutex::new(Some(timer))),
        })
    }

    /// Has `tell` know of each lease that comes to an end without having been
    /// released: it expired, a server refused to renew it, or its interface is gone.
    /// It is called where leases are renewed, and must not wait. The first one
    /// counts.
    pub fn on_end(&self, tell: impl Fn(&Holder) + Send + Sync + 'static) {
        let _ = self.shared.ends.set(Box::new(tell));
    }

    /// Whether a lease of the holder has come to an end so, and nobody has forgotten it.
    pub fn has_ended(&self, holder: &Holder) -> bool {
        self.shared.lock().ended.contains(holder)
    }

    /// Forgets that a lease has come to an end: the holder is attached by others now.
    pub fn forget_end(&self, holder: &Holder) {
        self.shared.lock().ended.remove(holder);
    }

    /// Gets a lease, or tells of the one that the holder has in this
    /// namespace. It is on disk when this returns.
    ///
    /// # Errors
    /// When no server gives one in the time of [`Timing::acquisition`], the
    /// configuration is wrong, or somebody releases it meanwhile.
    pub fn acquire(&self, request: &LeaseRequest) -> Answer<CniResult> {
        let priority = Keys::at(&request.ipam, "ipam").number("priority")?;
        let sent = sent_by(request, self.shared.settings.host)?;
        let netns = Namespace::open(&request.netns)?;
        self.forget_end(&request.holder);
        let turn = self.shared.turn(&request.holder)?;
        let kept = match turn.kept() {
            Some(kept) if kept.serves(&netns) => kept,
            _ => self.shared.get(request, sent, netns, &turn)?,
        };
        let grant = &kept.lease.grant;
        let result = result(grant.address, &grant.options, priority);
        match result {
            Ok(_) => turn.keep(kept),
            // What cannot be used is given back.
            Err(_) => self.shared.give_back(&request.holder, kept),
        }
        result
    }

    /// Gives a lease back; no error when there is none, or its server cannot
    /// be told.
    ///
    /// # Errors
    /// When it cannot be removed from disk.
    pub fn release(&self, holder: &Holder) -> Answer<()> {
        self.forget_end(holder);
        let Some(turn) = self.shared.last_turn(holder) else {
            return Ok(());
        };
        if let Some(kept) = turn.kept() {
            self.shared.give_back(holder, kept);
        }
        // A server that was told is not told again, but a file may be left.
        self.shared.store.remove(holder).map_err(ErrorReport::from)
    }

    /// Whether the holder has a lease.
    ///
    /// # Errors
    /// When it has none.
    pub fn check(&self, holder: &Holder) -> Answer<()> {
        let state = self.shared.lock();
        let entry = state.entries.get(holder);
        if entry.is_some_and(|entry| entry.kept.is_some()) {
            return Ok(());
        }
        let (ifname, id) = (&holder.ifname, &holder.container_id);
        Err(ErrorReport::new(
            code::OTHER,
            format!("interface {ifname} of {id} has no lease: attach the container again"),
        ))
    }

    /// Gives back the leases of a network that belong to none of these
    /// attachments.
    ///
    /// # Errors
    /// The first failure of [`release`](Self::release).
    pub fn gc(&self, network: &str, valid: &[ValidAttachment]) -> Answer<()> {
        let used = |holder: &Holder| {
            valid.iter().any(|attachment| {
                attachment.container_id == holder.container_id && attachment.ifname == holder.ifname
            })
        };
        let unused: Vec<Holder> = self
            .holders()
            .into_iter()
            .filter(|holder| holder.network == network && !used(holder))
            .collect();
        unused
            .iter()
            .map(|holder| self.release(holder))
            .fold(Ok(()), Answer::and)
    }

    /// Who has leases.
    pub fn holders(&self) -> Vec<Holder> {
        let state = self.shared.lock();
        let kept = state.entries.iter().filter(|(_, e)| e.kept.is_some());
        let mut holders: Vec<Holder> = kept.map(|(holder, _)| holder.clone()).collect();
        holders.sort();
        holders
    }

    /// Stops, and waits until nobody works any more. Leases are not given
    /// back: the next keeper takes them up. Twice is no error.
    pub fn stop(&self) {
        let mut state = self.shared.lock();
        state.stopping = true;
        for entry in state.entries.values() {
            entry.cancel.store(true, Ordering::Relaxed);
        }
        self.shared.changed.notify_all();
        while state.entries.values().any(|entry| entry.busy) || state.workers > 0 {
            state = self.shared.wait(state);
        }
        drop(state);
        let timer = self
            .timer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Err(_)) = timer.map(JoinHandle::join) {
            tracing::error!("the keeper of leases panicked");
        }
    }
}

/// The options that go with each message: the identity, unless the
/// configuration has another.
fn sent_by(request: &LeaseRequest, host: Option<HostMark>) -> Answer<Options> {
    let Holder {
        container_id,
        network,
        ifname,
    } = &request.holder;
    let mut sent = sent(&request.ipam, &request.args)?;
    if !sent.iter().any(|(code, _)| *code == option::CLIENT_ID) {
        let identity = client_id(host, container_id, network, ifname);
        sent.insert(0, (option::CLIENT_ID, identity));
    }
    Ok(sent)
}

impl Shared {
    /// Gets a new lease.
    fn get(
        &self,
        request: &LeaseRequest,
        sent: Options,
        netns: Namespace,
        turn: &Turn<'_>,
    ) -> Answer<Kept> {
        turn.forget();
        let failed = |error: Failure| {
            let ifname = &request.holder.ifname;
            let text = format!("no lease for interface {ifname}: {error}");
            ErrorReport::new(code::OTHER, text)
        };
        let port = Port::open(&netns.path, &request.holder.ifname, true)
            .map_err(|e| failed(Failure::Broken(e)))?;
        let grant = self.client(&port, &sent, &|| turn.stopped()).acquire();
        let lease = Lease {
            holder: request.holder.clone(),
            netns: netns.path,
            dev: netns.id.dev,
            inode: netns.id.inode,
            sent,
            grant: grant.map_err(failed)?,
        };
        tracing::info!(holder = ?lease.holder, address = %lease.grant.address, "lease acquired");
        let kept = Kept::new(lease, netns.file.into(), Duration::ZERO);
        if let Err(error) = self.store.save(&kept.lease) {
            self.give_back(&request.holder, kept);
            return Err(error.into());
        }
        Ok(kept)
    }

    fn client<'a>(
        &self,
        port: &'a Port,
        sent: &'a Options,
        stopped: &'a dyn Fn() -> bool,
    ) -> Client<'a> {
        Client {
            port,
            sent,
            broadcast: self.settings.broadcast,
            timing: self.settings.timing,
            stopped,
        }
    }

    /// Gives a lease back to its server, as well as can be.
    fn give_back(&self, holder: &Holder, kept: Kept) {
        let lease = &kept.lease;
        let port = Port::open(&kept.path(), &holder.ifname, false).map_err(Failure::Broken);
        let released = port.and_then(|port| {
            self.client(&port, &lease.sent, &|| false)
                .release(&lease.grant)
        });
        match released {
            Ok(()) => tracing::info!(?holder, address = %lease.grant.address, "lease released"),
            Err(error) => tracing::info!(?holder, %error, "lease is left to expire"),
        }
        if let Err(error) = self.store.remove(holder) {
            tracing::warn!(?holder, %error, "lease stays on disk");
        }
        if let Some(entry) = self.lock().entries.get_mut(holder) {
            entry.kept = None;
        }
    }
}
