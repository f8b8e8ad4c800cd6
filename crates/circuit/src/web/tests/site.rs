//! A page that is served, and a world for it to show.

use super::*;

/// What there is to show. Changing it is an error of the page's.
#[derive(Default)]
pub(super) struct World {
    pub(super) containers: Vec<ContainerView>,
    pub(super) networks: Vec<String>,
    pub(super) registry: String,
    pub(super) broken: Mutex<BTreeSet<&'static str>>,
    /// Told to every watcher, one after the other and then no more.
    pub(super) events: Vec<Event>,
    /// Tell the last event again and again.
    pub(super) endless: bool,
    pub(super) asked: Mutex<Vec<Option<u64>>>,
}

impl World {
    pub(super) fn fails(&self, what: &'static str) -> Result<()> {
        if self.broken.lock().unwrap().contains(what) {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{what} are away"),
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl Networks for World {
    async fn create(&self, _: &str, _: &[u8], _: bool) -> Result<()> {
        panic!("the page changes something")
    }
    async fn list(&self) -> Result<NetworkListing> {
        self.fails("networks")?;
        let stored = |name: &String| StoredNetwork {
            name: name.clone(),
            data: Vec::new(),
        };
        Ok(NetworkListing {
            networks: self.networks.iter().map(stored).collect(),
            problems: Vec::new(),
        })
    }
    async fn get(&self, _: &str) -> Result<StoredNetwork> {
        panic!("the page asks the overview")
    }
    async fn delete(&self, _: &str, _: bool) -> Result<()> {
        panic!("the page changes something")
    }
    async fn make(&self, _: Description, _: bool, _: bool) -> Result<StoredNetwork> {
        panic!("the page changes something")
    }
    async fn prune(&self, _: bool, _: &(dyn Fn(Pruned) -> bool + Send + Sync)) -> Result<()> {
        panic!("the page changes something")
    }
}

#[async_trait]
impl Nodes for World {
    async fn nodes(&self) -> Result<Vec<NodeInfo>> {
        Ok(vec![NodeInfo {
            name: "n1".into(),
            version: "0.1.0".into(),
            cpus: 2,
            memory: 4096,
            uptime: 7,
            kernel_version: "6.18".into(),
        }])
    }
    async fn status(&self) -> Result<ClusterStatus> {
        Ok(ClusterStatus {
            registry: self.registry.clone(),
            failure: "it is gone".into(),
            nodes: self.cluster().await?,
            ..ClusterStatus::default()
        })
    }
}

#[async_trait]
impl Overview for World {
    async fn containers(&self, _: bool) -> Result<Vec<ContainerView>> {
        self.fails("containers")?;
        Ok(self.containers.clone())
    }
    async fn add_traffic(&self, _: &mut [ContainerView]) {}
    async fn network(&self, name: &str) -> Result<NetworkView> {
        if !self.networks.iter().any(|known| known == name) {
            let text = format!("network {name} does not exist");
            return Err(Error::not_found(text));
        }
        Ok(NetworkView {
            network: StoredNetwork {
                name: name.into(),
                data: b"a secret of the configuration".to_vec(),
            },
            plugins: vec!["bridge".into()],
            subnets: vec!["10.88.0.0/24".into()],
            ipam: "host-local".into(),
            pools: vec![Pool {
                ipam: "host-local".into(),
                name: name.into(),
                ipv6: false,
                size: 253,
                used: Some(1),
            }],
            members: Vec::new(),
            problems: Vec::new(),
        })
    }
}

impl Events for World {
    fn node(&self) -> &str {
        "n1"
    }
    fn watch(
        &self,
        since: Since,
        _wanted: circuit_core::event::Filter,
    ) -> BoxStream<'static, Arc<Event>> {
        self.asked.lock().unwrap().push(since.after);
        let all: Vec<Arc<Event>> = self.events.iter().cloned().map(Arc::new).collect();
        match all.last().cloned().filter(|_| self.endless) {
            Some(last) => stream::repeat(last).boxed(),
            None => stream::iter(all).chain(stream::pending()).boxed(),
        }
    }
}

pub(super) fn event(id: u64, message: &str) -> Event {
    Event {
        id,
        at: UNIX_EPOCH,
        node: "n1".into(),
        kind: Kind::Connected,
        container: "a".into(),
        network: "web".into(),
        interface: "eth0".into(),
        ips: vec!["10.88.0.2".parse().unwrap()],
        message: message.into(),
    }
}

/// A page that is served.
pub(super) struct Served {
    pub(super) address: SocketAddr,
    pub(super) world: Arc<World>,
    pub(super) stop: CancellationToken,
    pub(super) serving: JoinHandle<Result<()>>,
}

impl Served {
    pub(super) async fn new(token: Option<&str>, world: World) -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let world = Arc::new(world);
        let shown = Shown {
            networks: world.clone(),
            nodes: world.clone(),
            overview: world.clone(),
            events: world.clone(),
        };
        let stop = CancellationToken::new();
        let token = token.map(|text| Token::parse(text).unwrap());
        let serving = tokio::spawn(serve(listener, token, shown, stop.clone()));
        Self {
            address,
            world,
            stop,
            serving,
        }
    }

    pub(super) async fn send(&self, method: &str, path: &str, headers: &[&str]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|header| header.starts_with("Host:")) {
            request += &format!("Host: {}\r\n", self.address);
        }
        for header in headers {
            request += &format!("{header}\r\n");
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).await.unwrap();
        stream
    }

    pub(super) async fn ask(&self, method: &str, path: &str, headers: &[&str]) -> Answer {
        let headers = [headers, &["Connection: close"]].concat();
        let mut stream = self.send(method, path, &headers).await;
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        timeout(PATIENCE, read).await.unwrap().unwrap();
        Answer(String::from_utf8_lossy(&bytes).into_owned())
    }

    pub(super) async fn get(&self, path: &str, headers: &[&str]) -> Answer {
        self.ask("GET", path, headers).await
    }

    /// A stream of events, of which nothing was read.
    pub(super) async fn watch(&self, headers: &[&str]) -> TcpStream {
        self.send("GET", "/api/events", headers).await
    }
}

pub(super) struct Answer(pub(super) String);

impl Answer {
    pub(super) fn status(&self) -> u16 {
        let word = self.0.split(' ').nth(1).unwrap();
        word.parse().unwrap()
    }

    pub(super) fn header(&self, name: &str) -> &str {
        let (head, _) = self.0.split_once("\r\n\r\n").unwrap();
        let found = head
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(": "))
            .find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value).unwrap_or_default()
    }

    pub(super) fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").unwrap().1
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_str(self.body()).unwrap()
    }
}

/// Reads until the text is there.
pub(super) async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while !String::from_utf8_lossy(&bytes).contains(text) {
        let read = timeout(PATIENCE, stream.read(&mut buffer)).await;
        let count = read.unwrap().unwrap();
        assert_ne!(count, 0, "{}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
