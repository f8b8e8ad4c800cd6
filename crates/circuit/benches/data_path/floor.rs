//! The least that the kernel takes for an attachment: its steps by raw
//! netlink, and nothing else.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use circuit_net::netlink::{AddressSpec, Beside, LinkSpec, Netlink, RouteSpec, delete_link};
use ipnet::IpNet;

/// Sockets and namespaces, open before anything is measured.
pub(crate) struct Floor {
    host: Netlink,
    container: Netlink,
    netns: File,
    bridge: u32,
    outer: String,
    index: u32,
}

impl Floor {
    /// Attaches to this bridge; `outer` is the name of the host's end.
    pub(crate) fn new(bridge: &str, netns: &str, outer: &str) -> Self {
        let mut host = Netlink::open(None).unwrap();
        let bridge = host.link(bridge).unwrap().unwrap().index;
        Self {
            host,
            container: Netlink::open(Some(Path::new(netns))).unwrap(),
            netns: File::open(netns).unwrap(),
            bridge,
            outer: outer.to_owned(),
            index: 0,
        }
    }

    /// A pair of veth with the peer straight in its namespace, the host's end
    /// in the bridge, both up; an address; a default route.
    pub(crate) fn add(&mut self, address: IpNet, gateway: std::net::IpAddr) {
        let inner = LinkSpec {
            netns: Some(self.netns.as_fd()),
            ..LinkSpec::named("eth0")
        };
        let outer = LinkSpec {
            master: Some(self.bridge),
            up: Some(true),
            ..LinkSpec::named(&self.outer)
        };
        let made = self
            .host
            .create(&self.outer, outer.create_veth(&inner))
            .unwrap();
        self.index = made.index;
        let peer = made.parent.unwrap();
        let default = IpNet::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0).unwrap();
        // The kernel makes no peer that is up.
        let up = LinkSpec {
            up: Some(true),
            ..LinkSpec::default()
        };
        let requests = [
            up.change(peer),
            AddressSpec::from(address).add(peer),
            RouteSpec::new(default, Some(gateway), peer).add(Beside::Refused),
        ];
        for answer in self.container.pipeline(&requests).unwrap() {
            answer.unwrap();
        }
    }

    /// Removes one end, and with it the other one.
    pub(crate) fn remove(&mut self) {
        self.host.request(&delete_link(self.index)).unwrap();
    }
}
