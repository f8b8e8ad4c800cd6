//! The driver `firewall` with firewalld: a bus made up for the test, which the
//! stock plugin judges too, and a real one without firewalld.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/attachment.rs"]
mod attachment;
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::{Arc, Mutex};

use attachment::*;
use common::{on_private_host, shell};
use serde_json::{Value, json};

/// A bus on which firewalld is alone. It refuses what has `bad` in its zone,
/// and says of addresses in `set` that they have a zone already.
struct Bus {
    dir: tempfile::TempDir,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Bus {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("bus")).unwrap();
        let calls = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&calls);
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let log = Arc::clone(&log);
                std::thread::spawn(move || serve(stream, &log));
            }
        });
        Self { dir, calls }
    }

    fn address(&self) -> String {
        format!("unix:path={}", self.dir.path().join("bus").display())
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }
}

fn serve(stream: UnixStream, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        reader
            .read_line(&mut line)
            .ok()
            .filter(|length| *length > 0)?;
        let line = line.trim_start_matches('\0').trim();
        let answer = match line {
            "BEGIN" => break,
            "AUTH" => "REJECTED EXTERNAL",
            _ if line.starts_with("AUTH EXTERNAL") => "OK 00112233445566778899aabbccddeeff",
            _ => "ERROR",
        };
        write!(writer, "{answer}\r\n").ok()?;
    }
    loop {
        let mut head = [0; 16];
        reader.read_exact(&mut head).ok()?;
        let number = |at: usize| u32::from_le_bytes(*head[at..].first_chunk().unwrap());
        let (body, serial, fields) = (number(4) as usize, number(8), number(12) as usize);
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        reader.read_exact(&mut rest).ok()?;
        let body = rest.split_off(fields.next_multiple_of(8));
        let text = String::from_utf8_lossy(&rest).into_owned();
        let members = [
            "Hello",
            "GetNameOwner",
            "addSource",
            "removeSource",
            "querySource",
        ];
        let member = members.into_iter().find(|name| text.contains(name))?;
        let arguments = texts(&body);
        if member.ends_with("Source") {
            assert!(text.contains("org.fedoraproject.FirewallD1.zone"));
            log.lock()
                .unwrap()
                .push(format!("{member} {}", arguments.join(" ")));
        }
        let bad = arguments.first().is_some_and(|zone| zone.contains("bad"));
        let answer = match member {
            "addSource" if bad => message(serial, Err("INVALID_ZONE: bad")),
            "addSource" if arguments[0] == "set" => message(serial, Err("ZONE_ALREADY_SET: x")),
            "querySource" => message(serial, Ok(None)),
            _ => message(serial, Ok(Some(":1.1"))),
        };
        writer.write_all(&answer).ok()?;
    }
}

fn texts(mut body: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    while let Some(length) = body.first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        texts.push(String::from_utf8(body[4..4 + length].to_vec()).unwrap());
        body = body
            .get((5 + length).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    texts
}

/// An answer with a text, with `true`, or an error.
fn message(to: u32, answer: Result<Option<&str>, &str>) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u32).to_le_bytes(), text.as_bytes(), &[0]].concat();
    let (kind, signature, body) = match answer {
        Ok(Some(value)) => (2, b's', text(value)),
        Ok(None) => (2, b'b', 1u32.to_le_bytes().to_vec()),
        Err(value) => (3, b's', text(value)),
    };
    let mut fields = vec![5, 1, b'u', 0];
    fields.extend(to.to_le_bytes());
    fields.extend([8, 1, b'g', 0, 1, signature, 0]);
    if kind == 3 {
        fields.resize(fields.len().next_multiple_of(8), 0);
        fields.extend([4, 1, b's', 0]);
        fields.extend(text("org.fedoraproject.FirewallD1.Exception"));
    }
    let unpadded = fields.len() as u32;
    fields.resize(fields.len().next_multiple_of(8), 0);
    let mut message = vec![b'l', kind, 0, 1];
    message.extend((body.len() as u32).to_le_bytes());
    message.extend(to.to_le_bytes());
    message.extend(unpadded.to_le_bytes());
    message.extend(fields);
    message.extend(body);
    message
}

fn run(plugin: &Path, bus: &str, command: &str, config: &Value) -> Result<(), String> {
    let mut child = Process::new(plugin)
        .arg("firewall")
        .env("DBUS_SYSTEM_BUS_ADDRESS", bus)
        .env("CNI_COMMAND", command)
        .env("CNI_CONTAINERID", "container")
        .env("CNI_NETNS", "/run/netns/x")
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", "/nowhere")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(config.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stdout).into_owned()),
    }
}

fn config(zone: Option<&str>, policy: &str) -> Value {
    let addresses = ["10.77.0.2/24".to_owned(), "fd77::2/64".to_owned()];
    let mut prev = bridge_result(Path::new("/run/netns/x"), &addresses);
    prev["cniVersion"] = json!("1.0.0");
    json!({
        "cniVersion": "1.0.0", "name": "net", "type": "firewall",
        "firewalldZone": zone, "ingressPolicy": policy, "prevResult": prev,
    })
}

#[test]
fn addresses_become_sources_of_the_zone_where_firewalld_runs() {
    on_private_host(|| async {
        let (bus, stock) = (Bus::start(), stock_plugin("firewall"));
        for (zone, expected) in [
            (None, "trusted"),
            (Some("mine"), "mine"),
            (Some("set"), "set"),
        ] {
            let config = config(zone, "open");
            for plugin in [&executable(), &stock] {
                for (command, method) in [
                    ("ADD", "addSource"),
                    ("CHECK", "querySource"),
                    ("DEL", "removeSource"),
                ] {
                    run(plugin, &bus.address(), command, &config).unwrap();
                    let calls = ["10.77.0.2/32", "fd77::2/128"]
                        .map(|address| format!("{method} {expected} {address}"));
                    assert_eq!(bus.take(), calls, "{} {command}", plugin.display());
                }
            }
            assert_eq!(shell("nft list ruleset"), "");
        }
        let error = run(
            &executable(),
            &bus.address(),
            "ADD",
            &config(Some("bad"), "open"),
        );
        let error = error.unwrap_err();
        assert!(
            error.contains("cannot add 10.77.0.2 to zone bad"),
            "{error}"
        );
        assert!(error.contains("INVALID_ZONE"), "{error}");
        // Networks are isolated in iptables all the same.
        run(
            &executable(),
            &bus.address(),
            "ADD",
            &config(None, "isolated"),
        )
        .unwrap();
        let native = shell("iptables-save; ip6tables-save | grep -v '^#'");
        shell("nft flush ruleset");
        run(&stock, &bus.address(), "ADD", &config(None, "isolated")).unwrap();
        let rules = |text: &str| -> Vec<String> {
            let lines = text.lines().filter(|line| line.starts_with("-A"));
            lines.map(str::to_owned).collect()
        };
        let made = shell("iptables-save; ip6tables-save | grep -v '^#'");
        assert_eq!(rules(&native), rules(&made));
    });
}

#[test]
fn a_real_bus_without_firewalld_means_iptables() {
    on_private_host(|| async {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("unix:path={}", dir.path().join("bus").display());
        let mut daemon = Process::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address"])
            .arg(format!("--address={address}"))
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon: install the package dbus-daemon");
        let mut line = String::new();
        let stdout = daemon.stdout.take().unwrap();
        BufReader::new(stdout).read_line(&mut line).unwrap();
        let result = run(&executable(), &address, "ADD", &config(None, "open"));
        let by_name = json!("firewalld");
        let mut config = config(None, "open");
        config["backend"] = by_name;
        let refused = run(&executable(), &address, "ADD", &config);
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        result.unwrap();
        assert!(shell("iptables-save").contains("-A CNI-FORWARD -s 10.77.0.2/32 -j ACCEPT"));
        let refused = refused.unwrap_err();
        assert!(refused.contains("ServiceUnknown"), "{refused}");
    });
}
