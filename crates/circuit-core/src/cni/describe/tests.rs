use super::*;
use crate::cni::ConfigList;
use proptest::prelude::*;

fn named(name: &str) -> Description {
    Description {
        name: name.to_owned(),
        ..Description::default()
    }
}

fn nets(all: &[&str]) -> Vec<IpNet> {
    all.iter().map(|net| net.parse().unwrap()).collect()
}

fn written(description: &Description) -> Value {
    let config = description.config("br-x").unwrap();
    let list = ConfigList::parse(&config).unwrap();
    list.validate().unwrap();
    serde_json::from_slice(&config).unwrap()
}

#[test]
fn a_bridge() {
    let web = Description {
        subnets: nets(&["10.88.0.0/16", "fd00:88::/64"]),
        dns: true,
        mtu: 1400,
        ..named("web")
    };
    let want = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": "web",
        "io.circuit.dns": true,
        "plugins": [
            {
                "type": "bridge", "bridge": "br-x", "isGateway": true, "ipMasq": true,
                "hairpinMode": true, "mtu": 1400,
                "capabilities": { "ips": true, "mac": true },
                "ipam": {
                    "type": "host-local",
                    "ranges": [
                        [{ "subnet": "10.88.0.0/16", "gateway": "10.88.0.1" }],
                        [{ "subnet": "fd00:88::/64", "gateway": "fd00:88::1" }],
                    ],
                    "routes": [{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }],
                },
            },
            { "type": "portmap", "backend": "nftables", "capabilities": { "portMappings": true } },
            { "type": "firewall" },
        ],
    });
    assert_eq!(written(&web), want);
    assert_eq!(web.lacks().unwrap(), (false, false));
}

#[test]
fn an_internal_network_leads_nowhere() {
    let inner = Description {
        subnets: nets(&["10.88.0.0/24"]),
        ranges: nets(&["10.88.0.0/25"]),
        gateways: vec!["10.88.0.254".parse().unwrap()],
        internal: true,
        ..named("inner")
    };
    let config = written(&inner);
    let plugins = config["plugins"].as_array().unwrap();
    assert_eq!(plugins.len(), 2);
    assert_eq!(plugins[1]["type"], "firewall");
    assert_eq!(plugins[0]["ipMasq"], false);
    let ipam = &plugins[0]["ipam"];
    assert!(ipam.get("routes").is_none());
    let range = json!({
        "subnet": "10.88.0.0/24", "rangeStart": "10.88.0.1", "rangeEnd": "10.88.0.127",
        "gateway": "10.88.0.254",
    });
    assert_eq!(ipam["ranges"], json!([[range]]));
}

#[test]
fn networks_on_a_parent() {
    let lan = Description {
        driver: "macvlan".to_owned(),
        parent: "eth0".to_owned(),
        ipam: "circuit".to_owned(),
        subnets: nets(&["192.168.7.0/24"]),
        ..named("lan")
    };
    let config = written(&lan);
    assert_eq!(config["plugins"][0]["master"], "eth0");
    assert_eq!(config["plugins"][0]["ipam"]["type"], "circuit");
    assert_eq!(config["plugins"].as_array().unwrap().len(), 1);
    let tagged = Description {
        driver: "vlan".to_owned(),
        parent: "eth0".to_owned(),
        vlan: 7,
        ipam: "dhcp".to_owned(),
        ..named("tagged")
    };
    let config = written(&tagged);
    assert_eq!(config["plugins"][0]["vlanId"], 7);
    assert_eq!(config["plugins"][0]["ipam"], json!({ "type": "dhcp" }));
    assert_eq!(tagged.lacks().unwrap(), (false, false));
}

#[test]
fn what_does_not_fit_is_named_with_the_remedy() {
    let refused = |change: &dyn Fn(&mut Description)| {
        let mut description = Description {
            subnets: nets(&["10.88.0.0/24"]),
            ..named("web")
        };
        change(&mut description);
        let lacks = description.lacks().map(drop);
        let made = lacks.and_then(|()| description.config("br-x").map(drop));
        made.unwrap_err().message().to_owned()
    };
    fn on(d: &mut Description, driver: &str) {
        driver.clone_into(&mut d.driver);
        "eth0".clone_into(&mut d.parent);
    }
    for (message, want) in [
        (
            refused(&|d| d.driver = "overlay".into()),
            "driver \"overlay\" is unknown",
        ),
        (refused(&|d| d.parent = "eth0".into()), "leave out --parent"),
        (refused(&|d| d.driver = "macvlan".into()), "give --parent"),
        (
            refused(&|d| {
                on(d, "macvlan");
                d.subnets.clear()
            }),
            "give --subnet, or --ipam dhcp",
        ),
        (
            refused(&|d| {
                on(d, "macvlan");
                d.mode = "l2".into()
            }),
            "use one of bridge",
        ),
        (
            refused(&|d| {
                on(d, "macvlan");
                d.vlan = 7
            }),
            "choose --driver vlan",
        ),
        (refused(&|d| on(d, "vlan")), "give --vlan"),
        (
            refused(&|d| {
                on(d, "vlan");
                d.vlan = 4095
            }),
            "from 1 to 4094",
        ),
        (refused(&|d| d.mode = "l2".into()), "leave out --mode"),
        (
            refused(&|d| d.publish_backend = "pf".into()),
            "use one of nftables",
        ),
        (
            refused(&|d| {
                d.publish_backend = "nftables".into();
                d.internal = true
            }),
            "--internal",
        ),
        (refused(&|d| d.mtu = 12), "from 68 to 65535"),
        (refused(&|d| d.ipam = "dhcp".into()), "no dhcp server"),
        (
            refused(&|d| {
                on(d, "macvlan");
                d.ipam = "dhcp".into()
            }),
            "leave out --subnet",
        ),
        (
            refused(&|d| {
                on(d, "macvlan");
                d.ipam = "dhcp".into();
                d.subnets.clear();
                d.internal = true;
            }),
            "leave out --internal",
        ),
        (
            refused(&|d| d.ipam = "static".into()),
            "use one of host-local",
        ),
        (
            refused(&|d| d.subnets = nets(&["10.1.0.0/24", "10.2.0.0/24"])),
            "of one family",
        ),
        (refused(&|d| d.subnets = nets(&["10.1.0.0/31"])), "no room"),
        (
            refused(&|d| d.subnets = nets(&["0.0.0.0/0"])),
            "is everything",
        ),
        (
            refused(&|d| d.gateways = vec!["10.1.0.1".parse().unwrap()]),
            "outside 10.88.0.0/24",
        ),
        (
            refused(&|d| d.ranges = nets(&["10.88.0.0/23"])),
            "outside 10.88.0.0/24",
        ),
        (
            refused(&|d| d.ranges = nets(&["10.88.0.0/26", "10.88.0.64/26"])),
            "given twice",
        ),
    ] {
        assert!(message.contains(want), "{message}");
    }
}

#[test]
fn bridges_have_names_that_the_kernel_takes() {
    assert_eq!(bridge_name("web", 0), "br-web");
    assert_eq!(bridge_name("web", 4094), "br-web");
    assert_eq!(bridge_name("exactly-12-c", 0), "br-exactly-12-c");
    let long = bridge_name("a-name-that-is-too-long", 0);
    assert_eq!(long.len(), 15);
    assert_ne!(long, bridge_name("a-name-that-is-too-lonh", 0));
    assert_eq!(bridge_name("exactly-12-c", 7).len(), 13);
}

#[test]
fn a_bridge_without_room_for_its_vlan_is_refused() {
    let validate = |plugin: serde_json::Value| {
        let list = json!({"cniVersion": "1.0.0", "name": "web", "plugins": [plugin]});
        ConfigList::parse(list.to_string().as_bytes())
            .unwrap()
            .validate()
    };
    let ipam = json!({"type": "host-local", "subnet": "10.88.0.0/24"});
    let bridge = |name: &str, vlan: u32, gateway: bool| {
        json!({"type": "bridge", "bridge": name, "vlan": vlan, "isGateway": gateway,
            "ipam": ipam})
    };
    let refused = validate(bridge("br-exactly-12-c", 100, true)).unwrap_err();
    for part in ["plugins[0]", "br-exactly-12-c.100", "\"bridge\"", "11"] {
        assert!(refused.message().contains(part), "{refused}");
    }
    validate(bridge("br-exactly-", 100, true)).unwrap();
    validate(bridge("br-exactly-12-c", 0, true)).unwrap();
    // Without a gateway the host needs no interface there.
    validate(bridge("br-exactly-12-c", 100, false)).unwrap();
    validate(json!({"type": "bridge", "vlan": 4094, "isDefaultGateway": true, "ipam": ipam}))
        .unwrap();
}

proptest! {
    /// What is written is read again, and has what was asked for.
    #[test]
    fn what_is_written_can_be_read(
        third in 0_u8..=255, length in 8_u8..=30, v6 in any::<bool>(), internal in any::<bool>(),
    ) {
        let mut subnets = nets(&[&format!("10.88.{third}.0/{length}")]);
        if v6 {
            subnets.extend(nets(&["fd00:88::/64"]));
        }
        let description = Description { subnets, internal, ..named("web") };
        let config = description.config("br-x").unwrap();
        let list = ConfigList::parse(&config).unwrap();
        list.validate().unwrap();
        let want: Vec<IpNet> = description.subnets.iter().map(IpNet::trunc).collect();
        prop_assert_eq!(list.subnets(), want);
    }

    /// The host's own interface in the VLAN has a name that the kernel takes.
    #[test]
    fn a_vlan_fits_behind_the_name_of_its_bridge(
        name in "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,40}", vlan in 1_u32..=4094,
    ) {
        let bridge = bridge_name(&name, vlan);
        let interface = format!("{bridge}.{vlan}");
        prop_assert!(check_interface(&interface).is_ok(), "{}", interface);
        prop_assert!(bridge.starts_with("br-") && bridge.len() >= 4);
        let subnets = nets(&["10.88.0.0/24"]);
        let description = Description { subnets, vlan, ..named(&name) };
        let config = description.config(&bridge).unwrap();
        ConfigList::parse(&config).unwrap().validate().unwrap();
    }
}
