use proptest::prelude::*;

use super::*;

fn newest() -> Value {
    json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "br0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1450, "sandbox": "/run/ns/a",
             "socketPath": "/run/s", "pciID": "0000:00:1f.6"}
        ],
        "ips": [
            {"interface": 1, "address": "10.1.2.3/16", "gateway": "10.1.0.1"},
            {"interface": 0, "address": "10.1.0.1/16"},
            {"address": "fd00::3/64"}
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1", "mtu": 1400, "advmss": 1360,
                    "priority": 5, "table": 0, "scope": 0}],
        "dns": {"nameservers": ["10.1.0.1"], "domain": "d", "search": ["s"], "options": ["o"]}
    })
}

#[test]
fn the_newest_shape_round_trips() {
    let result = CniResult::parse(&newest()).unwrap();
    assert_eq!(result.to_version(CniVersion::V1_1_0), newest());
    assert_eq!(result.routes[0].table, Some(0));
}

#[test]
fn older_versions_leave_out_what_they_cannot_say() {
    let result = CniResult::parse(&newest()).unwrap();
    let middle = result.to_version(CniVersion::V1_0_0);
    assert_eq!(middle["interfaces"][1].as_object().unwrap().len(), 3);
    assert_eq!(middle["routes"], newest()["routes"]);
    assert!(middle["ips"][0].get("version").is_none());
    let old = result.to_version(CniVersion::V0_3_1);
    assert_eq!(old["cniVersion"], "0.3.1");
    assert_eq!(old["ips"][0]["version"], "4");
    assert_eq!(old["ips"][2]["version"], "6");
}

#[test]
fn the_containers_addresses_are_told_from_the_bridges() {
    let result = CniResult::parse(&newest()).unwrap();
    let texts = |sandbox| -> Vec<String> {
        result
            .ips_of("eth0", sandbox)
            .iter()
            .map(ToString::to_string)
            .collect()
    };
    assert_eq!(texts(None), ["10.1.2.3/16", "fd00::3/64"]);
    assert_eq!(texts(Some("/run/ns/a")), ["10.1.2.3/16", "fd00::3/64"]);
    assert_eq!(result.mac_of("eth0"), Some("02:00:00:00:00:02"));
    assert_eq!(result.mac_of("br0"), None, "not in a container");
}

#[test]
fn a_namespace_may_be_written_in_another_way() {
    let of = |sandboxes: [&str; 2]| {
        let interface = |sandbox: &str| json!({"name": "eth0", "sandbox": sandbox});
        let ips = json!([{"address": "10.0.0.2/8", "interface": 0},
            {"address": "10.0.0.3/8", "interface": 1}]);
        let result = json!({"cniVersion": "1.0.0", "ips": ips,
            "interfaces": sandboxes.map(interface)});
        let ips = CniResult::parse(&result)
            .unwrap()
            .ips_of("eth0", Some("/run/pin"));
        ips.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of(["/proc/7/ns/net", ""]), ["10.0.0.2/8"]);
    assert_eq!(of(["", ""]), [""; 0]);
    // The one that is meant is the one of that name.
    assert_eq!(of(["/run/other", "/run/pin"]), ["10.0.0.3/8"]);
}

#[test]
fn extra_keys_empty_texts_and_nulls_are_no_error() {
    let result = CniResult::parse(&json!({
        "cniVersion": "1.0.0", "vendor": 1, "interfaces": null, "dns": null, "kubernetes": {},
        "ips": [{"address": "10.0.0.2/8", "gateway": "", "interface": -1, "zone": []}],
        "routes": []
    }))
    .unwrap();
    assert_eq!(result.ips[0].gateway, None);
    assert_eq!(result.ips[0].interface, None);
}

#[test]
fn errors_name_the_place() {
    let message = |value: Value| CniResult::parse(&value).unwrap_err().message().to_owned();
    assert_eq!(message(json!({})), "result has no cniVersion");
    assert_eq!(message(json!([])), "result is an array, not an object");
    assert!(message(json!({"cniVersion": "0.2.0"})).contains("not supported"));
    assert_eq!(
        message(json!({"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/8"}, {}]})),
        "ips[1]: has no address: an address with a prefix length"
    );
    assert_eq!(
        message(json!({"cniVersion": "1.0.0", "routes": [7]})),
        "routes[0]: entry is a number, not an object"
    );
    assert!(CniResult::parse_or(&json!({}), CniVersion::V0_4_0).is_ok());
    let odd = |version| json!({"cniVersion": version, "routes": [{"dst": "::/0", "mtu": "x"}]});
    assert!(message(odd("1.1.0")).contains("mtu is \"x\""));
    assert_eq!(CniResult::parse(&odd("1.0.0")).unwrap().routes[0].mtu, None);
}

fn words() -> impl Strategy<Value = String> {
    "[a-z0-9:./-]{1,12}"
}

fn nets() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<[u8; 4]>(), 0..=32u8).prop_map(|(a, p)| IpNet::new(a.into(), p).unwrap()),
        (any::<[u8; 16]>(), 0..=128u8).prop_map(|(a, p)| IpNet::new(a.into(), p).unwrap()),
    ]
}

fn interfaces() -> impl Strategy<Value = Interface> {
    let text = || proptest::option::of(words());
    (
        words(),
        text(),
        proptest::option::of(1..u32::MAX),
        text(),
        text(),
        text(),
    )
        .prop_map(|(name, mac, mtu, sandbox, socket_path, pci_id)| Interface {
            name,
            mac,
            mtu,
            sandbox,
            socket_path,
            pci_id,
        })
}

fn routes() -> impl Strategy<Value = Route> {
    let n = || proptest::option::of(1..u32::MAX);
    let gw = proptest::option::of(any::<IpAddr>());
    (nets(), gw, n(), n(), n(), n(), n()).prop_map(
        |(dst, gw, mtu, advmss, priority, table, scope)| Route {
            dst,
            gw,
            mtu,
            advmss,
            priority,
            table,
            scope,
        },
    )
}

fn results() -> impl Strategy<Value = CniResult> {
    let ip = (
        nets(),
        proptest::option::of(any::<IpAddr>()),
        proptest::option::of(0..9usize),
    )
        .prop_map(|(address, gateway, interface)| IpConfig {
            address,
            gateway,
            interface,
        });
    let texts = || proptest::collection::vec(words(), 0..3);
    let dns = (texts(), proptest::option::of(words()), texts(), texts()).prop_map(
        |(nameservers, domain, search, options)| Dns {
            nameservers,
            domain,
            search,
            options,
        },
    );
    (
        proptest::collection::vec(interfaces(), 0..4),
        proptest::collection::vec(ip, 0..4),
        proptest::collection::vec(routes(), 0..4),
        dns,
    )
        .prop_map(|(interfaces, ips, routes, dns)| CniResult {
            interfaces,
            ips,
            routes,
            dns,
        })
}

/// What is left of a result in versions without details.
fn without_details(mut result: CniResult) -> CniResult {
    for interface in &mut result.interfaces {
        (interface.mtu, interface.socket_path, interface.pci_id) = (None, None, None);
    }
    result
}

fn json_values() -> impl Strategy<Value = Value> {
    let keys = prop_oneof![
        proptest::sample::select(vec![
            "cniVersion",
            "ips",
            "interfaces",
            "routes",
            "dns",
            "address",
            "gateway",
            "interface",
            "dst",
            "plugins",
            "type",
            "name",
            "ipam",
            "ranges",
            "subnet",
            "capabilities",
            "mtu",
        ])
        .prop_map(str::to_owned),
        "[a-z]{0,4}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(Value::from("1.0.0")),
        Just(Value::from("host-local")),
        Just(Value::from("10.0.0.0/8")),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 48, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((keys.clone(), inner), 0..6)
                .prop_map(|entries| Value::Object(entries.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn every_version_round_trips(result in results()) {
        for version in CniVersion::SUPPORTED {
            let back = CniResult::parse(&result.to_version(version)).unwrap();
            if version.has_details() {
                prop_assert_eq!(&back, &result);
            } else {
                prop_assert_eq!(&back, &without_details(result.clone()));
            }
        }
    }

    #[test]
    fn going_through_an_older_version_changes_only_details(result in results()) {
        let plain = without_details(result);
        for old in CniVersion::SUPPORTED {
            let there = CniResult::parse(&plain.to_version(old)).unwrap();
            for new in CniVersion::SUPPORTED {
                prop_assert_eq!(there.to_version(new), plain.to_version(new));
            }
        }
    }

    #[test]
    fn arbitrary_json_never_panics(value in json_values()) {
        let _ = CniResult::parse(&value);
        let _ = CniResult::parse_or(&value, CniVersion::V1_1_0);
        let text = value.to_string();
        let _ = super::super::ErrorReport::parse(text.as_bytes());
        let _ = super::super::supported_versions(text.as_bytes());
        if let Ok(list) = super::super::ConfigList::parse(text.as_bytes()) {
            let _ = list.validate();
            let _ = list.subnets();
            for index in 0..=list.plugins.len() {
                let call = super::super::Invocation {
                    config_args: value.as_object(),
                    capability_args: value.as_object(),
                    prev_result: Some(&value),
                    valid_attachments: None,
                };
                let _ = super::super::plugin_stdin(&list, index, &call);
            }
        }
    }

    #[test]
    fn a_list_around_arbitrary_json_never_panics(value in json_values()) {
        let text = json!({"cniVersion": "1.0.0", "name": "n",
            "plugins": [{"type": "x", "ipam": value, "args": value, "capabilities": {}}]});
        if let Ok(list) = super::super::ConfigList::parse(text.to_string().as_bytes()) {
            let _ = (list.validate(), list.subnets(), list.ipam_kind());
            let call = super::super::Invocation {
                config_args: value.as_object(), ..Default::default()
            };
            prop_assert!(super::super::plugin_stdin(&list, 0, &call).is_some());
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = super::super::ConfigList::parse(&bytes);
        let _ = super::super::ErrorReport::parse(&bytes);
    }
}
