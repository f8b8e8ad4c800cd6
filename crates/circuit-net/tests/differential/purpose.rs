//! What differs on purpose, each with the reason; nothing else is tolerated.
//! `docs/native-drivers.md` says the same to people.

use crate::compare::{Difference, matches};

/// The pattern of what comes of an ADD that the stock plugins refuse: what is seen of
/// its container from then on, and of the host.
const REFUSED: &str = "(where ADD is refused)";

/// Differences that are meant. Patterns may have `*` for anything.
#[derive(Debug)]
pub(crate) struct Meant {
    /// The tests, or [`REFUSED`].
    pub(crate) test: &'static str,
    /// The steps.
    pub(crate) step: &'static str,
    /// The places.
    pub(crate) path: &'static str,
    /// What is seen on the right side, when that matters; alternatives are
    /// separated by `|`.
    pub(crate) right: Option<&'static str>,
    /// Why it is better so.
    #[allow(dead_code, reason = "for people")]
    pub(crate) why: &'static str,
}

impl Meant {
    /// Whether this is a difference that is meant, in this test; `refused` where it may
    /// come of an ADD that the stock plugins refused.
    pub(crate) fn covers(&self, test: &str, refused: bool, difference: &Difference) -> bool {
        let right = difference.right.to_string();
        (matches(self.test, test) || (refused && self.test == REFUSED))
            && matches(self.step, &difference.step)
            && matches(self.path, &difference.path)
            && self.right.is_none_or(|patterns| {
                let mut patterns = patterns.split('|');
                patterns.any(|pattern| matches(pattern, &right))
            })
    }
}

/// The native drivers against the stock plugins 1.9.1.
pub(crate) const ON_PURPOSE: &[Meant] = &[
    Meant {
        test: "*",
        step: "VERSION",
        path: "*.answer.supportedVersions",
        right: None,
        why: "versions before 0.3.1 are not spoken: nobody writes them any more",
    },
    Meant {
        test: "*",
        step: "VERSION",
        path: "*.answer.cniVersion",
        right: None,
        why: "the specification wants the version of the question, the stock plugins say their own",
    },
    Meant {
        test: "*",
        step: "*",
        path: "*.code",
        right: Some("2|4|5|6|7"),
        why: "the stock plugins say 999 of nearly everything; ours say what the specification has a code for",
    },
    Meant {
        test: "*",
        step: "*",
        path: "host.links.(peer of *).addr_assign_type",
        right: Some("*3*"),
        why: "a hardware address that the kernel has chosen is replaced by udev a moment later",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.links.*.addr_assign_type",
        right: Some("*3*"),
        why: "a gateway has its hardware address from the beginning, not with its first address",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.links.*.address",
        right: Some("*mac of host *"),
        why: "the same; and no macvlan is left, which by passthru gives its master another",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "*",
        right: Some("null"),
        why: "a failed ADD leaves nothing; the stock plugins leave interfaces and leases for the DEL",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "*",
        right: Some("[]"),
        why: "a failed ADD leaves nothing, of lists too",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.links.*.address",
        right: Some("\"00:00:00:00:00:00\""),
        why: "a failed ADD leaves no port, whose address a bridge would have",
    },
    Meant {
        test: REFUSED,
        step: "DEL *",
        path: "*",
        right: Some("0"),
        why: "DEL of what cannot have been added succeeds, so that a runtime can forget it",
    },
    Meant {
        test: REFUSED,
        step: "DEL *",
        path: "",
        right: Some("[*]"),
        why: "DEL of what cannot have been added succeeds, and goes on with the other plugins",
    },
    Meant {
        test: "bridge_layer_2*",
        step: "CHECK *",
        path: "*",
        right: None,
        why: "CHECK of the stock bridge fails without addresses",
    },
    Meant {
        test: "bridge_disabled_container_interface",
        step: "CHECK *",
        path: "*",
        right: None,
        why: "CHECK of the stock bridge fails without addresses",
    },
    Meant {
        test: "sbr_*",
        step: "DEL two *",
        path: "",
        right: None,
        why: "DEL of the stock sbr fails when the namespace is gone, and leaves a file in its place",
    },
    Meant {
        test: "sbr_*",
        step: "end",
        path: "files.*",
        right: Some("null"),
        why: "DEL of the stock sbr fails when the namespace is gone, so that the lease stays",
    },
    Meant {
        test: "*everything_in_a_row",
        step: "DEL two *",
        path: "",
        right: None,
        why: "DEL of the stock sbr fails when the namespace is gone, and leaves a file in its place",
    },
    Meant {
        test: "*everything_in_a_row",
        step: "end",
        path: "files.*",
        right: Some("null"),
        why: "DEL of the stock sbr fails when the namespace is gone, so that the lease stays",
    },
    Meant {
        test: "tuning_*",
        step: "end",
        path: "files./run/cni/tuning/*",
        right: Some("null"),
        why: "DEL of the stock tuning leaves its note when the namespace is gone",
    },
    Meant {
        test: "tuning_folder",
        step: "end",
        path: "files./run/cni/elsewhere/*",
        right: Some("null"),
        why: "DEL of the stock tuning leaves its note when the namespace is gone",
    },
    Meant {
        test: "*",
        step: "*",
        path: "files./run/cni/host-device/*",
        right: None,
        why: "host-device notes what it moved in, for DEL; the stock one goes by the alias",
    },
    Meant {
        test: "bandwidth_*",
        step: "*",
        path: "host.links.bwp*.ifalias",
        right: Some("\"cni bandwidth *\""),
        why: "the alias tells whose the device is, for GC",
    },
    Meant {
        test: "loopback_version_0_*",
        step: "ADD *",
        path: "0.answer.ips.*.version",
        right: None,
        why: "the stock loopback leaves out what versions before 1.0.0 want",
    },
    Meant {
        test: "loopback_version_0_*",
        step: "ADD *",
        path: "0.answer.dns",
        right: Some("{}"),
        why: "the stock loopback leaves out what versions before 1.0.0 want",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "files.*/last_reserved_ip.*",
        right: None,
        why: "what a failed ADD left makes the stock plugins refuse the next one before they ask for an address",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.links.uplink.promiscuity",
        right: Some("0"),
        why: "a failed ADD leaves no macvlan, for which the master listens to all",
    },
    Meant {
        test: "*_masquerade_by_nftables",
        step: "DEL one",
        path: "0.*",
        right: None,
        why: "DEL of the stock plugins fails after masquerade by nftables, for they look for rules of iptables too",
    },
    Meant {
        test: "sbr_alone_is_refused",
        step: "CHECK *",
        path: "*",
        right: None,
        why: "CHECK of the stock sbr says yes to what cannot have been added",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.sysctls.*.route_localnet",
        right: Some("\"0\""),
        why: "the stock portmap sets it before it fails",
    },
    Meant {
        test: "bandwidth_*",
        step: "attached",
        path: "host.tc",
        right: Some("[]"),
        why: "the stock bandwidth writes its redirection twice: the second one never runs",
    },
    Meant {
        test: "bridge_everything",
        step: "DEL one",
        path: "0.*",
        right: None,
        why: "DEL of the stock plugins fails after masquerade by nftables, for they look for rules of iptables too",
    },
    Meant {
        test: "bridge_routes_of_all_kinds",
        step: "CHECK *",
        path: "0.*",
        right: None,
        why: "CHECK of the stock bridge looks for routes of all tables in the main one",
    },
    Meant {
        test: "portmap_by_nftables*",
        step: "traffic",
        path: "two to *",
        right: Some("\"from *\""),
        why: "the answer gets lost that one container gives another by a port of the host, where bridged traffic is not filtered",
    },
    Meant {
        test: "*",
        step: "traffic",
        path: "host to [::1]:*",
        right: Some("\"connection refused\"|\"lost\""),
        why: "what is led from ::1 to a container is never answered: programs of the host have that address",
    },
    Meant {
        test: "portmap_behind_ptp",
        step: "traffic",
        path: "two to *",
        right: Some("\"from *.3\"|\"from *::3\""),
        why: "the stock portmap hides who asks from the container's whole subnet; ours only where the answer would go astray",
    },
    Meant {
        test: "portmap_where_bridged_traffic_is_filtered",
        step: "traffic",
        path: "two to *",
        right: Some("\"from *.3\"|\"from *::3\""),
        why: "the stock portmap hides who asks from the container's whole subnet; ours only where the answer would go astray",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.links.*.mtu",
        right: Some("1500"),
        why: "a failed ADD leaves no port, whose mtu a bridge would have",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.sysctls.ipv6.conf.*.mtu",
        right: Some("\"1500\""),
        why: "a failed ADD leaves no port, whose mtu a bridge would have",
    },
    Meant {
        test: "generated_*",
        step: "DEL one",
        path: "*",
        right: Some("null|0"),
        why: "DEL of the stock plugins fails when it takes the rules of two addresses of a family away, or looks for those of another backend",
    },
    Meant {
        test: "generated_chains",
        step: "end",
        path: "files./run/cni/tuning/*",
        right: Some("null"),
        why: "DEL of the stock tuning leaves its note when the namespace is gone",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.sysctls.*forward*",
        right: Some("\"0\""),
        why: "an ADD that fails before it makes anything does not have the host forward either",
    },
    Meant {
        test: REFUSED,
        step: "*",
        path: "host.sysctls.*.accept_redirects",
        right: Some("\"1\""),
        why: "an ADD that fails before it makes anything does not have the host forward either",
    },
    Meant {
        test: "generated_bridges",
        step: "CHECK *",
        path: "0.*",
        right: Some("null|0"),
        why: "CHECK of the stock bridge fails without addresses",
    },
    Meant {
        test: "generated_chains",
        step: "CHECK *",
        path: "0.*",
        right: Some("null|0"),
        why: "CHECK of the stock bridge fails without addresses",
    },
    Meant {
        test: "generated_point_to_point_links",
        step: "traffic",
        path: "* to *, address *",
        right: Some("\"from *\""),
        why: "of several subnets of a family, the stock plugins hide who asks within all but the first",
    },
    Meant {
        test: "host_device_with_its_network*",
        step: "CHECK *",
        path: "0.*",
        right: Some("null|0"),
        why: "CHECK of the stock host-device looks for routes of all tables in the main one",
    },
    Meant {
        test: "newest_portmap_masquerade_all_by_nftables",
        step: "traffic",
        path: "outside to one, address *",
        right: Some("\"from *\""),
        why: "1.10.0 hides who asks the container itself too, not by a port of the host",
    },
    Meant {
        test: "generated_chains",
        step: "CHECK *",
        path: "",
        right: Some("[*]"),
        why: "CHECK of the stock bridge fails when the bridge has another port's hardware address by now",
    },
    Meant {
        test: "newest_bridge_without_addresses",
        step: "CHECK *",
        path: "0.*",
        right: Some("null|0"),
        why: "CHECK of the stock bridge fails when the bridge has another port's hardware address by now",
    },
    Meant {
        test: "*_gateway_outside*",
        step: "* one",
        path: "0.*",
        right: Some(r#"0|{*"gateway":"10.89.0.1"*}"#),
        why: "1.10.0 refuses what all stock plugins before took: a gateway that nothing leads by",
    },
    Meant {
        test: "*_gateway_outside*",
        step: "*",
        path: "files./var/lib/cni/networks/net/*",
        right: Some(r#""container-one*"|"""#),
        why: "1.10.0 refuses what all stock plugins before took: a gateway that nothing leads by",
    },
    Meant {
        test: "firewall_version_0_3_1",
        step: "ADD *",
        path: "1.*",
        right: Some(r#"0|{*"cniVersion":"0.3.1"*}"#),
        why: "the stock firewall does not speak 0.3.1",
    },
    Meant {
        test: "firewall_version_0_3_1",
        step: "traffic",
        path: "",
        right: Some("{*}"),
        why: "the stock firewall does not speak 0.3.1, and what failed is not talked to",
    },
    Meant {
        test: "host_device_*",
        step: "DEL one again",
        path: "0.*",
        right: Some("null|0"),
        why: "DEL of the stock host-device fails when the device is back with the host",
    },
    Meant {
        test: "host_device_with_its_network*",
        step: "end",
        path: "one.rules*",
        right: Some("[]"),
        why: "DEL of the stock host-device leaves the rules in the container",
    },
    Meant {
        test: REFUSED,
        step: "STATUS",
        path: "*",
        right: None,
        why: "STATUS tells that an ADD would be refused; the stock address management is not asked",
    },
];

/// The stock plugins 1.9.1 against 1.1.1: what their authors changed, so that
/// what is left shows that worlds can be compared.
pub(crate) const VERSIONS: &[Meant] = &[
    Meant {
        test: "*",
        step: "VERSION",
        path: "*.answer.*",
        right: None,
        why: "1.1.1 speaks no 1.1.0",
    },
    Meant {
        test: "*",
        step: "*",
        path: "*.answer.dns",
        right: Some("null"),
        why: "1.1.1 writes an empty dns, 1.9.1 none",
    },
    Meant {
        test: "*",
        step: "*",
        path: "*.links.*.txqlen",
        right: Some("1000"),
        why: "1.1.1 leaves veth pairs without a queue length",
    },
    Meant {
        test: "*",
        step: "*",
        path: "*.sysctls.ipv6.conf.*.keep_addr_on_down",
        right: Some("\"1\""),
        why: "1.9.1 keeps IPv6 addresses when a link goes down",
    },
    Meant {
        test: "macvlan_*",
        step: "*",
        path: "*.sysctls.ipv6.conf.*.ndisc_notify",
        right: Some("\"1\""),
        why: "1.1.1 announces macvlan's IPv4 addresses only",
    },
    Meant {
        test: "bridge_dns_of_a_file",
        step: "ADD one",
        path: "*.answer.dns.*",
        right: None,
        why: "1.1.1 loses the dns of address management",
    },
    Meant {
        test: "host_device_*",
        step: "*",
        path: "host.links.hd0.ifalias",
        right: Some("\"\""),
        why: "1.1.1 leaves the alias in which it noted the name",
    },
    Meant {
        test: "macvlan_*_is_refused",
        step: "*",
        path: "*",
        right: None,
        why: "1.1.1 reads more of the configuration at DEL than it needs",
    },
    Meant {
        test: "portmap_*",
        step: "CHECK *",
        path: "*",
        right: None,
        why: "1.1.1 looks for IPv4 rules among those of IPv6",
    },
    Meant {
        test: "firewall_with_ports_*",
        step: "CHECK *",
        path: "*",
        right: None,
        why: "1.1.1 looks for IPv4 rules among those of IPv6",
    },
    Meant {
        test: "everything_in_a_row",
        step: "CHECK *",
        path: "*",
        right: None,
        why: "1.1.1 looks for IPv4 rules among those of IPv6",
    },
    Meant {
        test: "portmap_masquerade_all",
        step: "traffic",
        path: "*",
        right: None,
        why: "1.1.1 does not know masqAll",
    },
    Meant {
        test: "portmap_as_go_cni_hands_it_over",
        step: "traffic",
        path: "*",
        right: None,
        why: "1.1.1 does not know masqAll",
    },
    Meant {
        test: "bandwidth_as_go_cni_hands_it_over",
        step: "CHECK two",
        path: "1.*",
        right: Some("null|0"),
        why: "1.1.1 crashes without limits",
    },
    Meant {
        test: "portmap_of_*_is_refused",
        step: "*",
        path: "host.sysctls.ipv4.conf.cni0.route_localnet",
        right: Some("\"0\""),
        why: "1.1.1 sets it before it looks at the ports",
    },
    Meant {
        test: "sbr_alone_is_refused",
        step: "DEL *",
        path: "*",
        right: None,
        why: "1.1.1 wants a prevResult at DEL",
    },
    Meant {
        test: "bandwidth_without_limits",
        step: "CHECK *",
        path: "*",
        right: None,
        why: "1.1.1 crashes",
    },
    Meant {
        test: "tuning_sysctl_of_the_interface",
        step: "CHECK *",
        path: "*",
        right: None,
        why: "1.1.1 looks for IFNAME itself",
    },
    Meant {
        test: "sbr_*",
        step: "DEL one again",
        path: "*",
        right: None,
        why: "DEL of 1.1.1's sbr fails when the interface is gone",
    },
    Meant {
        test: "everything_in_a_row",
        step: "DEL one again",
        path: "*",
        right: None,
        why: "DEL of 1.1.1's sbr fails when the interface is gone",
    },
];
