//! What this kernel can do, tried in a network namespace of its own that is gone
//! when it is known.

use nix::sched::{CloneFlags, unshare};

use circuit_core::{Error, Result};

use crate::netlink::{LinkSpec, Message, Netlink, NetlinkError};
use crate::nft::{Batch, Family, Hook, HookPoint, Nft, PRIORITY_SRCNAT, Rule, Table};

/// `IFLA_VLAN_ID`, and the number of any VLAN.
const VLAN_ID: (u16, u16) = (1, 2);
/// `IFLA_VXLAN_ID`, and any number of a segment.
const VXLAN_ID: (u16, u32) = (1, 7);

/// A kind of interface, whether it lies on another, and what it is told.
type Try = (&'static str, bool, fn(Message) -> Message);

/// What can be tried: kinds of interfaces as plugins call them, and the firewall.
pub const FEATURES: [&str; 8] = [
    "veth", "bridge", "macvlan", "ipvlan", "vlan", "dummy", "vxlan", NFTABLES,
];
const NFTABLES: &str = "nftables";

/// Something that networks may need of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feature {
    /// The kind of interface as plugins call it, or `nftables`.
    pub name: &'static str,
    /// Why it cannot be had; none when it can.
    pub missing: Option<String>,
}

/// Tries these of the [`FEATURES`], and nothing else: the kernel loads a module for each
/// that it has, and keeps it.
///
/// # Errors
/// When this process may not make a network namespace.
pub fn kernel(wanted: Vec<&'static str>) -> Result<Vec<Feature>> {
    // A thread's namespace ends with it.
    let trying = std::thread::Builder::new().spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
            Error::precondition(format!("cannot make a network namespace: {errno}"))
        })?;
        try_each(&wanted)
    });
    let trying =
        trying.map_err(|error| Error::internal(format!("cannot try the kernel: {error}")))?;
    trying
        .join()
        .map_err(|_| Error::internal("trying the kernel hit a defect"))?
}

fn try_each(wanted: &[&'static str]) -> Result<Vec<Feature>> {
    let mut socket = Netlink::open(None)?;
    let plain = |message: Message| message;
    let tries: [Try; 6] = [
        ("bridge", false, plain),
        ("macvlan", true, plain),
        ("ipvlan", true, plain),
        ("vlan", true, |m| {
            m.with(VLAN_ID.0, &VLAN_ID.1.to_ne_bytes())
        }),
        ("dummy", false, plain),
        ("vxlan", false, |m| m.with_u32(VXLAN_ID.0, VXLAN_ID.1)),
    ];
    let tries = tries.iter().filter(|(kind, ..)| wanted.contains(kind));
    let mut features = Vec::new();
    let mut parent = None;
    if wanted.contains(&"veth") || tries.clone().any(|(_, lies_on, _)| *lies_on) {
        let base = LinkSpec::named("base0");
        let peer = LinkSpec::named("base1");
        let made = socket.create("base0", base.create_veth(&peer));
        parent = made.as_ref().ok().map(|link| link.index);
        features.push(feature("veth", made.map(drop)));
    }
    for (kind, lies_on, data) in tries {
        let name = format!("try-{kind}");
        let spec = LinkSpec {
            parent: parent.filter(|_| *lies_on),
            ..LinkSpec::named(&name)
        };
        let made = socket.create(&name, spec.create(kind, data));
        // An interface is no macvlan's and ipvlan's at a time.
        let gone = made.and_then(|link| socket.delete_links(&[link.index]));
        features.push(feature(kind, gone));
    }
    if wanted.contains(&NFTABLES) {
        features.push(Feature {
            name: NFTABLES,
            missing: try_nftables().err().map(|error| error.to_string()),
        });
    }
    Ok(features)
}

fn feature(name: &'static str, made: std::result::Result<(), NetlinkError>) -> Feature {
    Feature {
        name,
        missing: made.err().map(|error| error.to_string()),
    }
}

/// A table that masquerades, as networks need it.
fn try_nftables() -> crate::nft::Result<()> {
    let table = Table {
        family: Family::Inet,
        name: "circuit-try",
    };
    let hook = Hook {
        kind: "nat",
        point: HookPoint::Postrouting,
        priority: PRIORITY_SRCNAT,
    };
    let mut batch = Batch::new();
    batch.add_table(table, None);
    batch.add_chain(table, "try", Some(hook));
    batch.add_rule(table, "try", &Rule::new().masquerade());
    let mut nft = Nft::open(None)?;
    let generation = nft.generation()?;
    nft.commit(&batch, generation)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wanted_is_tried() {
        let tried = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let features = try_each(&["bridge", "dummy"]).unwrap();
            (features, crate::netlink::links(None).unwrap())
        });
        let (features, links) = tried.join().unwrap();
        let names: Vec<&str> = features.iter().map(|it| it.name).collect();
        assert_eq!(names, ["bridge", "dummy"]);
        assert_eq!(links.len(), 1, "{links:?}");
    }

    #[test]
    fn nothing_is_left_between_tries() {
        let tried = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let features = try_each(&FEATURES).unwrap();
            let links = crate::netlink::links(None).unwrap();
            let mut names: Vec<String> = links.into_iter().map(|link| link.name).collect();
            names.sort_unstable();
            (features, names)
        });
        let (features, names) = tried.join().unwrap();
        let macvlan = features.iter().find(|it| it.name == "macvlan").unwrap();
        assert_eq!(macvlan.missing, None);
        assert_eq!(names, ["base0", "base1", "lo"]);
    }
}
