//! Connections: for commands, which many share, and for subscriptions.

use std::time::Duration;

use ::redis::aio::{ConnectionLike, MultiplexedConnection, PubSub};
use ::redis::cluster::ClusterClient;
use ::redis::cluster_async::ClusterConnection;
use ::redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use ::redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use ::redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo,
    Pipeline, RedisConnectionInfo, RedisError, TlsCertificates, TlsMode, Value,
};

use super::url::Login;
use super::{Failure, Kind, Url, tls};

/// How long a connection may take to come about, with TLS and a password.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// How long an answer may take. A link that is cut is noticed after it.
const ANSWER: Duration = Duration::from_secs(2);
/// How long what was sent may stay unacknowledged.
const UNACKNOWLEDGED: Duration = Duration::from_secs(3);

/// A connection for commands, which many use at the same time.
#[derive(Clone)]
pub(super) enum Connection {
    Single(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    pub(super) async fn query(&mut self, command: &Cmd) -> Result<Value, RedisError> {
        match self {
            Self::Single(connection) => connection.req_packed_command(command).await,
            Self::Cluster(connection) => connection.req_packed_command(command).await,
        }
        .and_then(Value::extract_error)
    }

    pub(super) async fn pipeline(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let answer = match self {
            Self::Single(connection) => pipeline.query_async::<Value>(connection).await,
            Self::Cluster(connection) => pipeline.query_async::<Value>(connection).await,
        };
        match answer.map_err(first)? {
            Value::Array(values) => Ok(values),
            other => Ok(vec![other]),
        }
    }
}

/// What went wrong first with commands of one exchange, as if it had been the only one.
fn first(error: RedisError) -> RedisError {
    let all = error.clone().into_server_errors();
    let first = all.and_then(|all| Some(all.first()?.1.clone()));
    first.map_or(error, RedisError::from)
}

/// What makes connections to the Redis of one URL.
pub(super) struct Connector {
    url: Url,
    certificates: Option<TlsCertificates>,
}

impl Connector {
    /// Reads the files that the URL names.
    pub(super) fn new(url: &Url) -> Result<Self, Failure> {
        let connector = Self {
            url: url.clone(),
            certificates: tls::certificates(url)?,
        };
        // What is wrong with a certificate is known without a connection.
        match &url.kind {
            Kind::Single(..) | Kind::Unix(_) => drop(connector.client()?),
            Kind::Sentinel { .. } => drop(connector.sentinel()?),
            Kind::Cluster(_) => drop(connector.cluster()?),
        }
        Ok(connector)
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// A new connection for commands, which has been used once.
    pub(super) async fn connection(&self) -> Result<Connection, Failure> {
        let connection = async {
            let mut connection = match &self.url.kind {
                Kind::Cluster(_) => {
                    let connecting = self.cluster()?;
                    let connection = connecting.get_async_connection().await;
                    Connection::Cluster(connection.map_err(|e| Failure::of_connecting(&e))?)
                }
                _ => {
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(Some(CONNECT))
                        .set_response_timeout(Some(ANSWER));
                    let client = self.client_of_now().await?;
                    let connecting = client.get_multiplexed_async_connection_with_config(&config);
                    Connection::Single(connecting.await.map_err(|e| Failure::of_connecting(&e))?)
                }
            };
            // A server that asks for a password tells so at the first command.
            let ping = connection.query(&::redis::cmd("PING")).await;
            ping.map_err(|e| Failure::of_connecting(&e))?;
            Ok(connection)
        };
        in_time(connection).await
    }

    /// A new connection for subscriptions.
    pub(super) async fn subscription(&self) -> Result<PubSub, Failure> {
        let Kind::Cluster(hosts) = &self.url.kind else {
            let connection = async {
                let client = self.client_of_now().await?;
                client
                    .get_async_pubsub()
                    .await
                    .map_err(|e| Failure::of_connecting(&e))
            };
            return in_time(connection).await;
        };
        // Every node of a Redis Cluster passes every message on.
        let mut last = Failure::Unavailable("no node of the redis cluster answers".into());
        for host in hosts {
            let connection = async {
                let client = self.client_at(self.address(host))?;
                client
                    .get_async_pubsub()
                    .await
                    .map_err(|e| Failure::of_connecting(&e))
            };
            match in_time(connection).await {
                Ok(connection) => return Ok(connection),
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    async fn client_of_now(&self) -> Result<Client, Failure> {
        match self.url.kind {
            Kind::Sentinel { .. } => {
                let mut sentinel = self.sentinel()?;
                let client = sentinel.async_get_client().await;
                client.map_err(|e| Failure::of_connecting(&e))
            }
            _ => self.client(),
        }
    }

    fn client(&self) -> Result<Client, Failure> {
        let address = match &self.url.kind {
            Kind::Unix(path) => ConnectionAddr::Unix(path.clone()),
            Kind::Single(host, port) => self.address(&(host.clone(), *port)),
            Kind::Sentinel { .. } | Kind::Cluster(_) => {
                return Err(Failure::Refused("the url names no single server".into()));
            }
        };
        self.client_at(address)
    }

    fn client_at(&self, address: ConnectionAddr) -> Result<Client, Failure> {
        let info = self.information(address)?;
        let client = match &self.certificates {
            Some(certificates) => Client::build_with_tls(info, certificates.clone()),
            None => Client::open(info),
        };
        client.map_err(|e| Failure::of(&e))
    }

    fn information(&self, address: ConnectionAddr) -> Result<ConnectionInfo, Failure> {
        let mut redis = RedisConnectionInfo::default().set_db(self.url.database);
        if let Some(user) = &self.url.login.user {
            redis = redis.set_username(user);
        }
        if let Some(password) = &self.url.login.password {
            redis = redis.set_password(password);
        }
        let info = address.into_connection_info();
        let info = info.map_err(|e| Failure::of(&e))?;
        Ok(info.set_redis_settings(redis).set_tcp_settings(settings()))
    }

    fn address(&self, (host, port): &(String, u16)) -> ConnectionAddr {
        if self.url.tls {
            ConnectionAddr::TcpTls {
                host: host.clone(),
                port: *port,
                insecure: false,
                tls_params: None,
            }
        } else {
            ConnectionAddr::Tcp(host.clone(), *port)
        }
    }

    fn sentinel(&self) -> Result<SentinelClient, Failure> {
        let Kind::Sentinel { hosts, master } = &self.url.kind else {
            return Err(Failure::Refused("the url names no sentinels".into()));
        };
        let addresses = hosts.iter().map(|host| self.address(host));
        let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)
            .map_err(|e| Failure::of(&e))?
            .set_client_to_redis_db(self.url.database)
            .set_client_to_redis_tcp_settings(settings())
            .set_client_to_sentinel_tcp_settings(settings());
        let Login { user, password } = &self.url.login;
        if let Some(user) = user {
            builder = builder.set_client_to_redis_username(user);
        }
        if let Some(password) = password {
            builder = builder.set_client_to_redis_password(password);
        }
        let Login { user, password } = &self.url.sentinel_login;
        if let Some(user) = user {
            builder = builder.set_client_to_sentinel_username(user);
        }
        if let Some(password) = password {
            builder = builder.set_client_to_sentinel_password(password);
        }
        if let Some(certificates) = &self.certificates {
            builder = builder
                .set_client_to_redis_tls_mode(TlsMode::Secure)
                .set_client_to_sentinel_tls_mode(TlsMode::Secure)
                .set_client_to_redis_certificates(certificates.clone())
                .set_client_to_sentinel_certificates(certificates.clone());
        }
        builder.build().map_err(|e| Failure::of(&e))
    }

    fn cluster(&self) -> Result<ClusterClient, Failure> {
        let Kind::Cluster(hosts) = &self.url.kind else {
            return Err(Failure::Refused("the url names no redis cluster".into()));
        };
        let hosts = hosts
            .iter()
            .map(|host| self.information(self.address(host)))
            .collect::<Result<Vec<_>, _>>()?;
        let mut builder = ClusterClient::builder(hosts)
            .connection_timeout(CONNECT)
            .response_timeout(ANSWER)
            .retries(2)
            .max_retry_wait(200)
            .min_retry_wait(20)
            .tcp_settings(settings());
        if let Some(certificates) = &self.certificates {
            builder = builder.certs(certificates.clone()).tls(TlsMode::Secure);
        }
        builder.build().map_err(|e| Failure::of(&e))
    }
}

/// A connection over a cut link ends soon, also one that only listens.
fn settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(2))
        .with_interval(Duration::from_secs(1))
        .with_retries(2);
    TcpSettings::default()
        .set_nodelay(true)
        .set_keepalive(keepalive)
        .set_user_timeout(UNACKNOWLEDGED)
}

async fn in_time<T>(connecting: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    match tokio::time::timeout(CONNECT, connecting).await {
        Ok(result) => result,
        Err(_) => Err(Failure::Unavailable(format!(
            "no connection within {} s",
            CONNECT.as_secs()
        ))),
    }
}
