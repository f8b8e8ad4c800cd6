//! The connection that client commands talk over.

use std::error::Error;
use std::time::Duration;

use circuit_api::v1::{
    circuit_client::CircuitClient, cluster_client::ClusterClient,
    containers_client::ContainersClient, dns_client::DnsClient, doctor_client::DoctorClient,
    events_client::EventsClient, ipam_client::IpamClient, networks_client::NetworksClient,
};
use circuit_api::{ClientOptions, LARGEST_ANSWER, Target, TlsOptions, connect};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::Global;
use super::output::Failure;

/// How long the daemon may take to answer a question. Changes have no such
/// limit: the daemon bounds them itself and knows better how long a plugin may
/// take.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the daemon.
pub(super) struct Client {
    channel: Channel,
}

impl Client {
    /// Connects to the daemon that the global flags name.
    pub(super) async fn open(global: &Global) -> Result<Self, Failure> {
        let channel = connect(&options(global)?)
            .await
            .map_err(|e| e.to_string())?;
        Ok(Self { channel })
    }

    /// The service of networks.
    pub(super) fn circuit(&self) -> CircuitClient<Channel> {
        CircuitClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The service of nodes.
    pub(super) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The service of address pools.
    pub(super) fn ipam(&self) -> IpamClient<Channel> {
        IpamClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The service of names.
    pub(super) fn dns(&self) -> DnsClient<Channel> {
        DnsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The service of networks as a whole.
    pub(super) fn networks(&self) -> NetworksClient<Channel> {
        NetworksClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The service that examines a node.
    pub(super) fn doctor(&self) -> DoctorClient<Channel> {
        DoctorClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The service of events.
    pub(super) fn events(&self) -> EventsClient<Channel> {
        EventsClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }

    /// The service of containers.
    pub(super) fn containers(&self) -> ContainersClient<Channel> {
        ContainersClient::new(self.channel.clone()).max_decoding_message_size(LARGEST_ANSWER)
    }
}

fn options(global: &Global) -> Result<ClientOptions, Failure> {
    let target = match global.address.as_slice() {
        [] => None,
        [one] => Some(one.parse::<Target>().map_err(|e| e.to_string())?),
        _ => {
            return Err("several addresses were given; name one server"
                .to_owned()
                .into());
        }
    };
    let tls = TlsOptions {
        // Whoever names the server's certificate to a client means to trust it.
        ca: global
            .tls_ca
            .clone()
            .or_else(|| global.tls_server_cert.clone()),
        cert: global.tls_client_cert.clone(),
        key: global.tls_client_key.clone(),
        server_name: None,
        skip_verify: global.tls_skip_verify,
    };
    let tls = (tls != TlsOptions::default()).then_some(tls);
    Ok(ClientOptions { target, tls })
}

/// A request that must be answered soon.
pub(super) fn question<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(QUESTION_TIMEOUT);
    request
}

/// The answer, or why there is none.
pub(super) fn answer<T>(result: Result<Response<T>, Status>) -> Result<T, Failure> {
    result
        .map(Response::into_inner)
        .map_err(|status| Failure::Message(explain(&status)))
}

fn explain(status: &Status) -> String {
    if let Some(cause) = innermost(status) {
        if cause.is::<tonic::TimeoutExpired>() {
            let limit = QUESTION_TIMEOUT.as_secs();
            return format!("the server gave no answer within {limit} s; its log may say why");
        }
        return format!(
            "the server does not talk as circuit does ({cause}); is this circuit's address, and \
             does it ask for tls (--tls-ca, --tls-client-cert)?"
        );
    }
    match status.message() {
        "" => format!("the server failed without a reason ({})", status.code()),
        message => message.to_owned(),
    }
}

/// What a status that did not come from the server began with.
fn innermost(status: &Status) -> Option<&(dyn Error + 'static)> {
    let mut cause = status.source()?;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_no_strange_language() {
        let status = Status::from_error(Box::new(tonic::TimeoutExpired(())));
        assert!(
            explain(&status).contains("no answer within 30 s"),
            "{status:?}"
        );
    }

    #[test]
    fn a_status_speaks_for_itself() {
        assert_eq!(
            explain(&Status::not_found("network a not found")),
            "network a not found"
        );
        let silent = explain(&Status::internal(""));
        assert!(
            silent.starts_with("the server failed without a reason ("),
            "{silent}"
        );
    }
}
