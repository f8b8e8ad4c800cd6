//! The driver's way to the keeper: a Unix socket, a line each way.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc};

use circuit_core::ipam::wire::{Question, Reply};
use circuit_core::{Error, Result};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::Keeper;
use super::role::{Role, another};

/// More than any question has: what is in use of a large network.
const MAX_QUESTION: u64 = 8 << 20;

/// Serves a keeper at a socket, which only root may use.
pub struct Listener {
    listener: UnixListener,
    path: std::path::PathBuf,
    _role: Role,
}

impl Listener {
    /// Listens for the daemon with this state folder. A socket that nobody listens at any
    /// more is replaced.
    ///
    /// # Errors
    /// [`AlreadyExists`](circuit_core::ErrorKind::AlreadyExists) when another
    /// keeper is there, an error too when containers have addresses of one that is not,
    /// or the socket cannot be made.
    pub async fn bind(path: &Path, state_dir: &Path) -> Result<Self> {
        let cannot = |error: io::Error| {
            Error::unavailable(format!("cannot listen at {}: {error}", path.display()))
        };
        if let Some(dir) = path.parent() {
            crate::state::make_open(dir).map_err(cannot)?;
        }
        let role = Role::take(path, state_dir)?;
        // One of an earlier version has no lock.
        if UnixStream::connect(path).await.is_ok() {
            return Err(another(path));
        }
        let bound = || -> io::Result<UnixListener> {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let listener = UnixListener::bind(path)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            Ok(listener)
        };
        Ok(Self {
            listener: bound().map_err(cannot)?,
            path: path.to_owned(),
            _role: role,
        })
    }

    /// Serves until `stop`; questions that came before are still answered.
    pub async fn serve(self, keeper: Arc<Keeper>, stop: CancellationToken) {
        let mut clients = tokio::task::JoinSet::new();
        let mut refused = false;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = clients.join_next() => {}
                client = self.listener.accept() => match client {
                    Ok((client, _)) => {
                        refused = false;
                        let keeper = Arc::clone(&keeper);
                        clients.spawn(async move {
                            if let Err(error) = answer(&keeper, client).await {
                                tracing::debug!(%error, "a client of the keeper of addresses is gone");
                            }
                        });
                    }
                    Err(error) => {
                        if !refused {
                            tracing::warn!(%error, "a client of the keeper of addresses is not served");
                        }
                        refused = true;
                        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    }
                },
            }
        }
        let _ = fs::remove_file(&self.path);
        while clients.join_next().await.is_some() {}
    }
}

async fn answer(keeper: &Keeper, mut client: UnixStream) -> io::Result<()> {
    let mut line = String::new();
    BufReader::new((&mut client).take(MAX_QUESTION))
        .read_line(&mut line)
        .await?;
    if line.is_empty() {
        return Ok(());
    }
    let reply = match serde_json::from_str::<Question>(&line) {
        Ok(question) => keeper.answer(question).await,
        Err(error) => Reply::Failed(format!(
            "the keeper of addresses cannot read the question: {error}"
        )),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    client.write_all(&text).await?;
    client.shutdown().await
}
