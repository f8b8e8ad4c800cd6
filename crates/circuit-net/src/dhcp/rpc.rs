//! The protocol between the stock plugin `dhcp` and its daemon: Go's net/rpc
//! over HTTP's CONNECT on a Unix socket.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use circuit_core::cni::{CniResult, Dns, Interface, IpConfig, Route};
use ipnet::IpNet;

use super::gob::{Decoder, Encoder, Type, Value, id};

/// The methods: the stock daemon's two, and two more that it does not have.
pub(crate) const ALLOCATE: &str = "DHCP.Allocate";
pub(crate) const RELEASE: &str = "DHCP.Release";
pub(crate) const CHECK: &str = "DHCP.Check";
pub(crate) const GC: &str = "DHCP.GC";

/// What a server says to who asks for a method that it does not have.
pub(crate) const NO_METHOD: &str = "rpc: can't find method ";

const CONNECT: &str = "CONNECT /_goRPC_ HTTP/1.0\n\n";
const CONNECTED: &str = "HTTP/1.0 200 Connected to Go RPC\n\n";

/// Longer lines are nobody's.
const MAX_HEAD: usize = 8192;

/// The longest that an answer takes: all tries to get a lease, and some more.
const PATIENCE: Duration = Duration::from_secs(300);

/// How long a client may say nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// The arguments of every method: what the runtime told the plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) container_id: String,
    pub(crate) netns: String,
    pub(crate) ifname: String,
    pub(crate) args: String,
    pub(crate) path: String,
    pub(crate) stdin: Vec<u8>,
}

const REQUEST: i64 = id::FIRST;
const ARGUMENTS: i64 = id::FIRST + 1;
const RESPONSE: i64 = id::FIRST + 2;
const RESULT: i64 = id::FIRST + 3;
const IPS: i64 = id::FIRST + 4;
const IP: i64 = id::FIRST + 5;
const NET: i64 = id::FIRST + 6;
const ROUTES: i64 = id::FIRST + 7;
const ROUTE: i64 = id::FIRST + 8;
const DNS: i64 = id::FIRST + 9;
const TEXTS: i64 = id::FIRST + 10;
const NOTHING: i64 = id::FIRST + 11;

/// The fields of a struct.
type Fields = &'static [(&'static str, i64)];

/// What a client sends.
const QUESTIONS: [(i64, &str, Fields); 2] = [
    (
        REQUEST,
        "Request",
        &[("ServiceMethod", id::STRING), ("Seq", id::UINT)],
    ),
    (
        ARGUMENTS,
        "CmdArgs",
        &[
            ("ContainerID", id::STRING),
            ("Netns", id::STRING),
            ("IfName", id::STRING),
            ("Args", id::STRING),
            ("Path", id::STRING),
            ("StdinData", id::BYTES),
        ],
    ),
];

/// What a server sends, beside lists.
const ANSWERS: [(i64, &str, Fields); 7] = [
    (
        RESPONSE,
        "Response",
        &[
            ("ServiceMethod", id::STRING),
            ("Seq", id::UINT),
            ("Error", id::STRING),
        ],
    ),
    (
        RESULT,
        "Result",
        &[("IPs", IPS), ("Routes", ROUTES), ("DNS", DNS)],
    ),
    (IP, "IPConfig", &[("Address", NET), ("Gateway", id::BYTES)]),
    (NET, "IPNet", &[("IP", id::BYTES), ("Mask", id::BYTES)]),
    (
        ROUTE,
        "Route",
        &[
            ("Dst", NET),
            ("GW", id::BYTES),
            ("Priority", id::INT),
            ("Scope", id::INT),
        ],
    ),
    (
        DNS,
        "DNS",
        &[
            ("Nameservers", TEXTS),
            ("Domain", id::STRING),
            ("Search", TEXTS),
            ("Options", TEXTS),
        ],
    ),
    (NOTHING, "", &[]),
];

const LISTS: [(i64, i64); 3] = [(IPS, IP), (ROUTES, ROUTE), (TEXTS, id::STRING)];

fn describe<W: Write>(encoder: &mut Encoder<W>, types: &[(i64, &str, Fields)]) -> io::Result<()> {
    for (number, name, fields) in types {
        let fields = fields
            .iter()
            .map(|(name, kind)| ((*name).to_owned(), *kind));
        encoder.describe(*number, name, Type::Struct(fields.collect()))?;
    }
    Ok(())
}

/// Asks the server at a socket. The result is that of [`ALLOCATE`]; the others
/// have none. An error of the server's own is the inner one.
pub(crate) fn call(
    socket: &Path,
    method: &str,
    arguments: &Arguments,
) -> io::Result<Result<CniResult, String>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(CONNECT.as_bytes())?;
    let head = read_head(&mut stream)?;
    if !head.starts_with("HTTP/1.0 200 ") && !head.starts_with("HTTP/1.1 200 ") {
        let text = format!("it is no dhcp daemon: it says {:?}", head.trim_end());
        return Err(io::Error::other(text));
    }
    let mut question = Vec::new();
    let mut encoder = Encoder::new(&mut question);
    describe(&mut encoder, &QUESTIONS)?;
    let header = vec![("ServiceMethod".to_owned(), text(method))];
    encoder.write(REQUEST, &Value::Struct(header))?;
    encoder.write(ARGUMENTS, &arguments.value())?;
    stream.write_all(&question)?;
    let mut decoder = Decoder::new(stream);
    let mut next = || {
        let value = decoder.next()?;
        value.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
    };
    let response = next()?;
    // An error comes with a result too, which says nothing.
    let result = next()?;
    match response.text("Error") {
        "" => Ok(Ok(read_result(&result)?)),
        error => Ok(Err(error.to_owned())),
    }
}

/// Serves one client until it ends. `answer` gets the method and its
/// arguments.
pub(super) fn serve(
    mut stream: UnixStream,
    mut answer: impl FnMut(&str, &Arguments) -> Result<Option<CniResult>, String>,
) -> io::Result<()> {
    // Whoever is silent is not waited for.
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let head = read_head(&mut stream)?;
    if !head.starts_with("CONNECT /_goRPC_ ") {
        return stream.write_all(b"HTTP/1.0 405 must CONNECT\n\n");
    }
    stream.write_all(CONNECTED.as_bytes())?;
    let mut decoder = Decoder::new(stream.try_clone()?);
    let mut encoder = Encoder::new(stream);
    let mut described = false;
    while let Some(request) = decoder.next()? {
        let Some(arguments) = decoder.next()? else {
            break;
        };
        let method = request.text("ServiceMethod");
        let answer = answer(method, &Arguments::read(&arguments));
        let mut response = vec![("ServiceMethod".to_owned(), text(method))];
        response.extend(
            request
                .field("Seq")
                .map(|seq| ("Seq".to_owned(), seq.clone())),
        );
        if let Err(error) = &answer {
            response.push(("Error".to_owned(), text(error)));
        }
        // Not before: Go loses what comes together with the head.
        if !described {
            describe(&mut encoder, &ANSWERS)?;
            for (list, element) in LISTS {
                encoder.describe(list, "", Type::List(element))?;
            }
            described = true;
        }
        encoder.write(RESPONSE, &Value::Struct(response))?;
        match answer {
            Ok(Some(result)) => encoder.write(RESULT, &write_result(&result))?,
            _ => encoder.write(NOTHING, &Value::Struct(Vec::new()))?,
        }
    }
    Ok(())
}

/// Reads lines up to an empty one.
fn read_head(stream: &mut UnixStream) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    // One by one: what comes behind is not part of it.
    while !head.ends_with(b"\n\n") && !head.ends_with(b"\n\r\n") {
        if head.len() == MAX_HEAD || stream.read(&mut byte)? == 0 {
            return Err(io::Error::other("it does not speak HTTP"));
        }
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

impl Arguments {
    fn value(&self) -> Value {
        let fields = [
            ("ContainerID", text(&self.container_id)),
            ("Netns", text(&self.netns)),
            ("IfName", text(&self.ifname)),
            ("Args", text(&self.args)),
            ("Path", text(&self.path)),
            ("StdinData", Value::Bytes(self.stdin.clone())),
        ];
        structure(fields)
    }

    fn read(value: &Value) -> Self {
        let text = |name| value.text(name).to_owned();
        Self {
            container_id: text("ContainerID"),
            netns: text("Netns"),
            ifname: text("IfName"),
            args: text("Args"),
            path: text("Path"),
            stdin: value.bytes("StdinData").to_vec(),
        }
    }
}

fn structure<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let fields = fields.into_iter();
    Value::Struct(
        fields
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn write_result(result: &CniResult) -> Value {
    let number = |number: Option<u32>| Value::Int(number.unwrap_or_default().into());
    let address = |address: Option<IpAddr>| Value::Bytes(address.map_or_else(Vec::new, octets));
    let ip = |ip: &IpConfig| {
        structure([
            ("Address", write_net(ip.address)),
            ("Gateway", address(ip.gateway)),
        ])
    };
    let route = |route: &Route| {
        structure([
            ("Dst", write_net(route.dst)),
            ("GW", address(route.gw)),
            ("Priority", number(route.priority)),
            ("Scope", number(route.scope)),
        ])
    };
    let texts = |texts: &[String]| Value::List(texts.iter().map(|t| text(t)).collect());
    let dns = structure([
        ("Nameservers", texts(&result.dns.nameservers)),
        (
            "Domain",
            text(result.dns.domain.as_deref().unwrap_or_default()),
        ),
        ("Search", texts(&result.dns.search)),
        ("Options", texts(&result.dns.options)),
    ]);
    // The version is the client's to choose.
    structure([
        ("IPs", Value::List(result.ips.iter().map(ip).collect())),
        (
            "Routes",
            Value::List(result.routes.iter().map(route).collect()),
        ),
        ("DNS", dns),
    ])
}

fn write_net(net: IpNet) -> Value {
    structure([
        ("IP", Value::Bytes(octets(net.addr()))),
        ("Mask", Value::Bytes(octets(net.netmask()))),
    ])
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn read_result(value: &Value) -> io::Result<CniResult> {
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, "its result cannot be read");
    let ip = |value: &Value| {
        Some(IpConfig {
            address: read_net(value.field("Address")?)?,
            gateway: read_address(value.bytes("Gateway")),
            interface: number(value, "Interface").and_then(|n| n.try_into().ok()),
        })
    };
    let route = |value: &Value| {
        let small = |name| number(value, name);
        Some(Route {
            dst: read_net(value.field("Dst")?)?,
            gw: read_address(value.bytes("GW")),
            mtu: small("MTU"),
            advmss: small("AdvMSS"),
            priority: small("Priority"),
            table: small("Table"),
            scope: small("Scope"),
        })
    };
    let interface = |value: &Value| {
        let text = |name| Some(value.text(name).to_owned()).filter(|text| !text.is_empty());
        Interface {
            name: value.text("Name").to_owned(),
            mac: text("Mac"),
            sandbox: text("Sandbox"),
            ..Interface::default()
        }
    };
    let all = |name, read: &dyn Fn(&Value) -> Option<Route>| -> Option<Vec<Route>> {
        value.list(name).iter().map(read).collect()
    };
    Ok(CniResult {
        interfaces: value.list("Interfaces").iter().map(interface).collect(),
        ips: value
            .list("IPs")
            .iter()
            .map(ip)
            .collect::<Option<_>>()
            .ok_or_else(wrong)?,
        routes: all("Routes", &route).ok_or_else(wrong)?,
        dns: value.field("DNS").map(read_dns).unwrap_or_default(),
    })
}

fn number(value: &Value, name: &str) -> Option<u32> {
    match value.field(name) {
        Some(Value::Int(number)) => u32::try_from(*number).ok(),
        _ => None,
    }
}

fn read_dns(value: &Value) -> Dns {
    let texts = |name| {
        let values = value.list(name).iter();
        values
            .filter_map(|value| match value {
                Value::Text(text) => Some(text.clone()),
                _ => None,
            })
            .collect()
    };
    Dns {
        nameservers: texts("Nameservers"),
        domain: Some(value.text("Domain").to_owned()).filter(|text| !text.is_empty()),
        search: texts("Search"),
        options: texts("Options"),
    }
}

/// A network, of which Go may write an IPv4 address in sixteen bytes. One
/// without an address is the default of its family.
fn read_net(value: &Value) -> Option<IpNet> {
    let mask = read_plain(value.bytes("Mask"))?;
    let address = match (read_address(value.bytes("IP")), mask) {
        (Some(address), _) => address,
        (None, IpAddr::V4(_)) => Ipv4Addr::UNSPECIFIED.into(),
        (None, IpAddr::V6(_)) => Ipv6Addr::UNSPECIFIED.into(),
    };
    IpNet::with_netmask(address, mask).ok()
}

fn read_address(bytes: &[u8]) -> Option<IpAddr> {
    read_plain(bytes).map(|address| address.to_canonical())
}

fn read_plain(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result() -> CniResult {
        let mut route = Route::new("10.9.0.0/16".parse().unwrap(), "10.1.0.2".parse().ok());
        (route.priority, route.scope) = (Some(7), Some(253));
        CniResult {
            ips: vec![IpConfig {
                address: "10.1.0.9/24".parse().unwrap(),
                gateway: "10.1.0.1".parse().ok(),
                interface: None,
            }],
            routes: vec![Route::new("0.0.0.0/0".parse().unwrap(), None), route],
            dns: Dns {
                nameservers: vec!["9.9.9.9".to_owned()],
                domain: Some("lan".to_owned()),
                ..Dns::default()
            },
            ..CniResult::default()
        }
    }

    #[test]
    fn a_call_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("dhcp.sock");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let server = std::thread::spawn(move || {
            for _ in 0..3 {
                let stream = listener.accept().unwrap().0;
                serve(stream, |method, arguments| match method {
                    ALLOCATE if arguments.stdin == b"{}" => Ok(Some(result())),
                    RELEASE => Ok(None),
                    other => Err(format!("{NO_METHOD}{other}")),
                })
                .unwrap();
            }
        });
        let arguments = Arguments {
            container_id: "web".to_owned(),
            stdin: b"{}".to_vec(),
            ..Arguments::default()
        };
        let ask = |method| call(&socket, method, &arguments).unwrap();
        assert_eq!(ask(ALLOCATE), Ok(result()));
        assert_eq!(ask(RELEASE), Ok(CniResult::default()));
        assert_eq!(ask(GC), Err("rpc: can't find method DHCP.GC".to_owned()));
        server.join().unwrap();
    }

    #[test]
    fn addresses_of_go_are_read() {
        let net = |ip: &[u8], mask: &[u8]| {
            let bytes = |bytes: &[u8]| Value::Bytes(bytes.to_vec());
            read_net(&structure([("IP", bytes(ip)), ("Mask", bytes(mask))]))
        };
        let long = "10.1.0.9"
            .parse::<Ipv4Addr>()
            .unwrap()
            .to_ipv6_mapped()
            .octets();
        assert_eq!(net(&long, &[255, 255, 0, 0]), "10.1.0.9/16".parse().ok());
        assert_eq!(net(&[], &[0; 4]), "0.0.0.0/0".parse().ok());
        assert_eq!(net(&[], &[0; 16]), "::/0".parse().ok());
        assert_eq!(
            (net(&[1], &[255]), net(&[1, 2, 3, 4], &[0, 255, 0, 0])),
            (None, None)
        );
    }
}
