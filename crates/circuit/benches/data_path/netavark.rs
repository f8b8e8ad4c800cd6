//! Podman's netavark beside the daemon, on the same kind of network.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use crate::{
    common::{Api, Goal, Times, namespace, node, row, run, run_inside, table},
    one::network,
};

const ROUNDS: usize = 30;
const WARM: usize = 3;
/// Where distributions put it.
const PLACES: [&str; 4] = [
    "/usr/lib/podman/netavark",
    "/usr/libexec/podman/netavark",
    "/usr/bin/netavark",
    "/usr/local/bin/netavark",
];

fn program() -> Option<&'static str> {
    PLACES.into_iter().find(|path| Path::new(path).exists())
}

pub(crate) fn outside(part: &str) {
    if program().is_none() {
        println!("\nnetavark is not installed: its rows are left out");
        return;
    }
    let node = node();
    node.create_network("native", &network("native", 71, "native"));
    for container in ["stays", "one"] {
        node.run_container(container, &[], &[]);
    }
    node.circuit(&["network", "connect", "stays", "native"])
        .ok();
    run_inside(&node, &[part]);
}

pub(crate) fn inside() {
    let Some(program) = program() else { return };
    let version = run(program, &["--version"]);
    let version = version.trim();
    // Its default, and what its later versions have besides.
    for driver in [None, Some("nftables")] {
        let named = driver.unwrap_or("its default firewall driver");
        match measure(program, driver) {
            Ok(times) => print(&times, &format!("{version}, {named}")),
            Err(said) => println!("  {version}, {named}: does not run here: {said}"),
        }
    }
}

fn measure(program: &str, driver: Option<&str>) -> Result<Times, String> {
    let name = driver.unwrap_or("default");
    let (stays, comes) = (namespace(&format!("stays-{name}")), namespace(name));
    let netavark = |operation: &str, netns: &str, number: u8| {
        let options = options(number);
        call(program, driver, operation, netns, &options)
    };
    netavark("setup", &stays, 2)?;
    let mut api = Api::open();
    let mut times = Times::default();
    for round in 0..WARM + ROUNDS {
        if round == WARM {
            times.clear();
        }
        times.take("setup", || netavark("setup", &comes, 3))?;
        times.take("teardown", || netavark("teardown", &comes, 3))?;
        times.take("connect", || api.connect("one", "native"));
        times.take("disconnect", || api.disconnect("one", "native"));
    }
    netavark("teardown", &stays, 2)?;
    Ok(times)
}

/// A bridge network, masqueraded, and the container of that address in it.
fn options(number: u8) -> Value {
    let id = format!("{number:064}");
    json!({
        "container_id": id, "container_name": format!("c{number}"),
        "networks": {"bench": {
            "static_ips": [format!("10.91.0.{number}")], "interface_name": "eth0",
        }},
        "network_info": {"bench": {
            "name": "bench", "id": format!("{:064}", 1), "driver": "bridge",
            "network_interface": "podman9", "subnets": [{
                "subnet": "10.91.0.0/16", "gateway": "10.91.0.1",
            }],
            "ipv6_enabled": false, "internal": false, "dns_enabled": false,
            "ipam_options": {"driver": "host-local"},
        }},
    })
}

fn call(
    program: &str,
    driver: Option<&str>,
    operation: &str,
    netns: &str,
    options: &Value,
) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(["--config", "/run/netavark", operation, netns]);
    if let Some(driver) = driver {
        command.env("NETAVARK_FW", driver);
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| e.to_string())?;
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(options.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().map_err(|e| e.to_string())?;
    match output.status.success() {
        true => Ok(()),
        false => Err(
            String::from_utf8_lossy(&[output.stdout, output.stderr].concat())
                .trim()
                .to_owned(),
        ),
    }
}

fn print(times: &Times, beside: &str) {
    table(&format!(
        "beside netavark: bridge + masquerade, p50 of {ROUNDS} rounds"
    ));
    for (what, ours, theirs) in [
        ("connect over gRPC, native", "connect", "setup"),
        ("disconnect over gRPC, native", "disconnect", "teardown"),
    ] {
        row(
            what,
            times.p50(ours),
            beside,
            times.p50(theirs),
            "ms",
            Goal::None,
        );
    }
}
