//! What differs on purpose, each with the reason; nothing else is tolerated.
//! `docs/native-drivers.md` says the same to people.

use crate::compare::{Difference, matches};

/// Differences that are meant. Patterns may have `*` for anything.
#[derive(Debug)]
pub(crate) struct Meant {
    /// The tests.
    pub(crate) test: &'static str,
    /// The steps.
    pub(crate) step: &'static str,
    /// The places.
    pub(crate) path: &'static str,
    /// What is seen on the right side, when that matters.
    pub(crate) right: Option<&'static str>,
    /// Why it is better so.
    #[allow(dead_code, reason = "for people")]
    pub(crate) why: &'static str,
}

impl Meant {
    pub(crate) fn covers(&self, test: &str, difference: &Difference) -> bool {
        let right = difference.right.to_string();
        matches(self.test, test)
            && matches(self.step, &difference.step)
            && matches(self.path, &difference.path)
            && self.right.is_none_or(|pattern| matches(pattern, &right))
    }
}

/// The native drivers against the stock plugins 1.9.1.
pub(crate) const ON_PURPOSE: &[Meant] = &[Meant {
    test: "*",
    step: "VERSION",
    path: "*.answer.supportedVersions",
    right: None,
    why: "versions before 0.3.1 are not spoken: nobody writes them any more",
}];

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
];
