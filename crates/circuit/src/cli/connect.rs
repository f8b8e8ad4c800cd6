//! `circuit network connect` and `disconnect`, of one container or of many.

use std::io::Read as _;

use circuit_api::v1;
use clap::Args;
use futures::StreamExt as _;

use super::client::{Client, answer};
use super::output::{self, Failure};
use super::progress::{Progress, interruption};
use super::{Failures, unique};

/// How many containers are worked on at the same time.
const AT_ONCE: usize = 16;

/// Containers and a network.
#[derive(Debug, Args)]
pub struct Attachment {
    /// The container's id; several separated by commas, or - for those on
    /// standard input, one a line.
    #[arg(value_name = "CONTAINER")]
    container: String,

    /// The network's name.
    network: String,
}

/// What `connect` takes.
#[derive(Debug, Args)]
pub struct Connect {
    #[command(flatten)]
    attachment: Attachment,

    /// A fixed address; several times or separated by commas for several.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    ip: Vec<String>,

    /// A fixed hardware address, like 02:42:0a:58:00:07.
    #[arg(long, value_name = "ADDRESS")]
    mac: Option<String>,

    /// A further name of the container on this network; several times or
    /// separated by commas for several.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    alias: Vec<String>,

    /// Publish a port: [ADDRESS:]HOSTPORT:CONTAINERPORT[/tcp|udp|sctp]; several
    /// times or separated by commas for several.
    #[arg(short, long, value_name = "PORT", value_delimiter = ',')]
    publish: Vec<String>,

    /// The interface inside the container; the first free eth0, eth1, … when
    /// not given.
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
}

impl Connect {
    /// Asks the daemon.
    pub(super) async fn run(self, client: &Client) -> Result<(), Failure> {
        let containers = self.attachment.containers()?;
        let own = [
            ("--ip", self.ip.is_empty()),
            ("--mac", self.mac.is_none()),
            ("--publish", self.publish.is_empty()),
        ];
        if let Some((flag, _)) = own.iter().find(|(_, absent)| !absent)
            && containers.len() > 1
        {
            let many = format!("{flag} is for one container; connect them one by one");
            return Err(many.into());
        }
        let network = &self.attachment.network;
        let request = v1::ConnectRequest {
            container: String::new(),
            network: network.clone(),
            ips: self.ip,
            mac: self.mac.unwrap_or_default(),
            aliases: self.alias,
            interface: self.interface.unwrap_or_default(),
            ports: self.publish,
        };
        each("connected", containers, |container| {
            let request = v1::ConnectRequest {
                container: container.clone(),
                ..request.clone()
            };
            async move {
                let connected = answer(client.circuit().connect(request).await)?;
                let ip = connected.ip;
                Ok(format!("connected {container} to {network} with ip={ip}"))
            }
        })
        .await
    }
}

impl Attachment {
    /// Asks the daemon.
    pub(super) async fn disconnect(self, client: &Client) -> Result<(), Failure> {
        let network = &self.network;
        each("disconnected", self.containers()?, |container| {
            let request = v1::DisconnectRequest {
                network: network.clone(),
                container: container.clone(),
            };
            async move {
                answer(client.circuit().disconnect(request).await)?;
                Ok(format!("disconnected {container} from {network}"))
            }
        })
        .await
    }

    fn containers(&self) -> Result<Vec<String>, Failure> {
        if self.container != "-" {
            // An id has no comma.
            return Ok(unique(
                self.container.split(',').map(str::to_owned).collect(),
            ));
        }
        let mut text = String::new();
        let read = std::io::stdin().lock().read_to_string(&mut text);
        read.map_err(|e| {
            let reason = crate::text::io_error(&e);
            Failure::from(format!("cannot read standard input: {reason}"))
        })?;
        let ids = text.split_whitespace().map(str::to_owned).collect();
        Ok(unique(ids))
    }
}

/// Works on all of them, and prints a line of each as it is done.
async fn each<F>(
    what: &'static str,
    containers: Vec<String>,
    work: impl Fn(String) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<String, Failure>>,
{
    let total = containers.len();
    if total == 1 {
        // Ctrl-C leaves the server to end what it has begun.
        for container in containers {
            output::print_line(&work(container).await?)?;
        }
        return Ok(());
    }
    let mut progress = Progress::new(what, Some(total));
    let interrupted = interruption();
    let mut at_once = interrupted.clone();
    let mut failures = Failures::default();
    let mut ended = 0;
    let wanted = containers
        .into_iter()
        .take_while(|_| *interrupted.borrow() == 0);
    let works = futures::stream::iter(wanted).map(|container| {
        let working = work(container.clone());
        async move { (container, working.await) }
    });
    let mut works = std::pin::pin!(works.buffer_unordered(AT_ONCE));
    loop {
        let next = tokio::select! {
            next = works.next() => next,
            Ok(_) = at_once.wait_for(|times| *times > 1) => {
                progress.clear();
                return Err("ended at once: the server goes on with what it has begun"
                    .to_owned()
                    .into());
            }
        };
        let Some((container, done)) = next else { break };
        progress.clear();
        ended += 1;
        let named = done.map_err(|failure| match failure {
            Failure::Message(message) if !output::names(&message, &container) => {
                Failure::Message(format!("container {container}: {message}"))
            }
            other => other,
        });
        failures.keep(named.and_then(|line| output::print_line(&line)));
        progress.step(&container);
    }
    drop(progress);
    if ended < total {
        let left = total - ended;
        failures.keep(Err(format!(
            "stopped: {left} of {total} were left as they are"
        )
        .into()));
    }
    failures.finish()
}
