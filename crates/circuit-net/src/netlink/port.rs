//! Ports of bridges: their flags and their VLANs.

use super::link::{IFLA_AF_SPEC, header};
use super::message::Message;

const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;

const IFLA_PROTINFO: u16 = 12;
const IFLA_BRPORT_MODE: u16 = 4;
const IFLA_BRPORT_ISOLATED: u16 = 33;
const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
/// It is the bridge that is asked, not the port's driver.
const BRIDGE_FLAGS_MASTER: u16 = 1;

const VLAN_PVID: u16 = 1 << 1;
const VLAN_UNTAGGED: u16 = 1 << 2;
const VLAN_RANGE_BEGIN: u16 = 1 << 3;
const VLAN_RANGE_END: u16 = 1 << 4;

/// Consecutive VLANs of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vlans {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
    /// Whether untagged traffic belongs to it, both ways; for one VLAN only.
    pub native: bool,
}

impl Vlans {
    /// One VLAN that is not tagged.
    pub fn native(vid: u16) -> Self {
        Self {
            first: vid,
            last: vid,
            native: true,
        }
    }

    /// One VLAN that is tagged.
    pub fn tagged(vid: u16) -> Self {
        Self {
            first: vid,
            last: vid,
            native: false,
        }
    }

    /// Tagged VLANs, in as few pieces as there are.
    pub fn ranges(vids: impl IntoIterator<Item = u16>) -> Vec<Self> {
        let mut vids: Vec<u16> = vids.into_iter().collect();
        vids.sort_unstable();
        vids.dedup();
        let mut ranges: Vec<Self> = Vec::new();
        for vid in vids {
            match ranges.last_mut() {
                Some(range) if range.last.checked_add(1) == Some(vid) => range.last = vid,
                _ => ranges.push(Self::tagged(vid)),
            }
        }
        ranges
    }

    fn add(self, message: Message) -> Message {
        let native = match self.native {
            true => VLAN_PVID | VLAN_UNTAGGED,
            false => 0,
        };
        if self.first == self.last {
            return vlan(message, native, self.first);
        }
        let message = vlan(message, VLAN_RANGE_BEGIN, self.first);
        vlan(message, VLAN_RANGE_END, self.last)
    }
}

fn vlan(message: Message, flags: u16, vid: u16) -> Message {
    let mut value = [0; 4];
    value[..2].copy_from_slice(&flags.to_ne_bytes());
    value[2..].copy_from_slice(&vid.to_ne_bytes());
    message.with(IFLA_BRIDGE_VLAN_INFO, &value)
}

/// The request that sets the flags of a bridge's port: whether traffic may
/// leave where it came from, and whether it is kept apart from other such
/// ports.
pub fn set_port(index: u32, hairpin: bool, isolated: bool) -> Message {
    Message::new(RTM_SETLINK, 0, &header(libc::AF_BRIDGE, index)).with_nest(
        IFLA_PROTINFO,
        &[],
        |m| {
            m.with(IFLA_BRPORT_MODE, &[hairpin.into()])
                .with(IFLA_BRPORT_ISOLATED, &[isolated.into()])
        },
    )
}

/// The request that puts a bridge's port into VLANs.
pub fn add_vlans(index: u32, vlans: &[Vlans]) -> Message {
    vlan_message(RTM_SETLINK, index, vlans)
}

/// The request that takes a bridge's port out of VLANs.
pub fn delete_vlans(index: u32, vlans: &[Vlans]) -> Message {
    vlan_message(RTM_DELLINK, index, vlans)
}

fn vlan_message(kind: u16, index: u32, vlans: &[Vlans]) -> Message {
    Message::new(kind, 0, &header(libc::AF_BRIDGE, index)).with_nest(IFLA_AF_SPEC, &[], |m| {
        let m = m.with(IFLA_BRIDGE_FLAGS, &BRIDGE_FLAGS_MASTER.to_ne_bytes());
        vlans.iter().fold(m, |m, vlans| vlans.add(m))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Kernels without VLAN filtering cannot be asked, so this is what `bridge
    /// vlan add` sends.
    #[test]
    fn vlans_are_written_as_the_kernel_reads_them() {
        let mut vlans = vec![Vlans::native(7)];
        vlans.extend(Vlans::ranges([100, 102, 101, 300]));
        let message = add_vlans(9, &vlans);
        assert_eq!((message.kind, message.flags), (19, 0));
        let mut expected = vec![7, 0, 0, 0, 9, 0, 0, 0];
        expected.extend([0; 8]);
        expected.extend([44, 0, 26, 0x80]);
        expected.extend([6, 0, 0, 0, 1, 0, 0, 0]);
        for (flags, vid) in [(6, 7u16), (8, 100), (16, 102), (0, 300)] {
            expected.extend([8, 0, 2, 0, flags, 0]);
            expected.extend(vid.to_le_bytes());
        }
        assert_eq!(message.body, expected);
        assert_eq!(delete_vlans(9, &vlans).kind, 17);
    }

    proptest! {
        #[test]
        fn ranges_are_the_vlans_and_are_apart(
            vids in proptest::collection::vec(1u16..=60, 0..60),
        ) {
            let ranges = Vlans::ranges(vids.clone());
            let covered: Vec<u16> = ranges.iter().flat_map(|r| r.first..=r.last).collect();
            let wanted: Vec<u16> = vids.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
            prop_assert_eq!(covered, wanted);
            for pair in ranges.windows(2) {
                prop_assert!(pair[0].last + 1 < pair[1].first);
            }
        }
    }
}
