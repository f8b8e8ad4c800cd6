//! The stock plugin's way to a keeper.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use circuit_core::cni::{AnyCase as _, CniResult, ErrorReport, JsonObject, ValidAttachment, code};
use circuit_core::{Error, Result};
use serde_json::Value;

use super::keeper::{LeaseKeeper, LeaseRequest};
use super::lease::Holder;
use super::rpc::{ALLOCATE, Arguments, CHECK, GC, NO_METHOD, RELEASE, serve};
use crate::driver::Answer;

/// Serves a keeper at a socket until it is dropped. Whoever is being served
/// then still is; the keeper's [`stop`](LeaseKeeper::stop) ends that.
pub struct Listener {
    path: PathBuf,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl LeaseKeeper {
    /// Listens at a socket, which only root may use. A socket that nobody
    /// listens at any more is replaced.
    ///
    /// # Errors
    /// [`AlreadyExists`](circuit_core::ErrorKind::AlreadyExists) when another
    /// daemon is there, an error too when the socket cannot be made.
    pub fn listen(&self, path: &Path) -> Result<Listener> {
        let failed =
            |e: io::Error| Error::unavailable(format!("cannot listen at {}: {e}", path.display()));
        if UnixStream::connect(path).is_ok() {
            return Err(Error::already_exists(format!(
                "another dhcp daemon listens at {}: stop it first",
                path.display()
            )));
        }
        let listener = bind(path).map_err(failed)?;
        let stopping = Arc::<AtomicBool>::default();
        let (keeper, its) = (self.clone(), Arc::clone(&stopping));
        let thread = thread::Builder::new()
            .name("dhcp-listener".to_owned())
            .spawn(move || accept(&listener, &keeper, &its))
            .map_err(failed)?;
        Ok(Listener {
            path: path.to_owned(),
            stopping,
            thread: Some(thread),
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes it up; when that is not possible, it goes with the process.
        if UnixStream::connect(&self.path).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
        let _ = fs::remove_file(&self.path);
    }
}

fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o700).create(dir)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// A listener that can accept nobody tries again after this time.
const PAUSE: Duration = Duration::from_millis(100);

fn accept(listener: &UnixListener, keeper: &LeaseKeeper, stopping: &AtomicBool) {
    let mut refused = false;
    for stream in listener.incoming() {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let keeper = keeper.clone();
        let served = stream.and_then(|stream| {
            thread::Builder::new()
                .name("dhcp-client".to_owned())
                .spawn(move || {
                    let served = serve(stream, |method, arguments| {
                        answer(&keeper, method, arguments)
                    });
                    if let Err(error) = served {
                        tracing::debug!(%error, "a client of the keeper of leases is gone");
                    }
                })
        });
        match served {
            Ok(_) => refused = false,
            // Without descriptors the same client is there again at once.
            Err(error) => {
                if !refused {
                    tracing::warn!(%error, "a client of the keeper of leases is not served");
                }
                refused = true;
                thread::sleep(PAUSE);
            }
        }
    }
}

fn answer(
    keeper: &LeaseKeeper,
    method: &str,
    arguments: &Arguments,
) -> std::result::Result<Option<CniResult>, String> {
    let done = || -> Answer<Option<CniResult>> {
        let config: JsonObject = serde_json::from_slice(&arguments.stdin).map_err(|e| {
            let text = format!("the configuration is no json object: {e}");
            ErrorReport::new(code::DECODING_FAILURE, text)
        })?;
        let holder = holder(arguments, &config);
        match method {
            ALLOCATE => keeper
                .acquire(&request(holder, arguments, &config))
                .map(Some),
            RELEASE => keeper.release(&holder).map(|()| None),
            CHECK => keeper.check(&holder).map(|()| None),
            _ => {
                let valid = ValidAttachment::of(&config)?;
                keeper.gc(&holder.network, &valid).map(|()| None)
            }
        }
    };
    if ![ALLOCATE, RELEASE, CHECK, GC].contains(&method) {
        return Err(format!("{NO_METHOD}{method}"));
    }
    done().map_err(|report| report.msg)
}

fn holder(arguments: &Arguments, config: &JsonObject) -> Holder {
    let name = config.find("name").and_then(Value::as_str);
    Holder {
        container_id: arguments.container_id.clone(),
        network: name.unwrap_or_default().to_owned(),
        ifname: arguments.ifname.clone(),
    }
}

fn request(holder: Holder, arguments: &Arguments, config: &JsonObject) -> LeaseRequest {
    let pairs = arguments
        .args
        .split(';')
        .filter_map(|pair| pair.split_once('='));
    let ipam = config.find("ipam").and_then(Value::as_object);
    LeaseRequest {
        holder,
        netns: PathBuf::from(&arguments.netns),
        args: pairs
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        ipam: ipam.cloned().unwrap_or_default(),
    }
}
