//! Traffic control: queueing disciplines and filters of an interface.

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};

use super::attributes::{Reply, attributes, u32_of};
use super::message::Message;
use super::socket::{Netlink, NetlinkError};

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;

const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;

const TCA_U32_CLASSID: u16 = 1;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;

const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: i32 = 1;
const TC_ACT_STOLEN: i32 = 4;

/// The lengths of `tcmsg`, `tc_tbf_qopt` and `tc_mirred`.
const HEADER: usize = 20;
const TBF_PARMS: usize = 36;
const MIRRED_PARMS: usize = 28;

/// The places where a discipline is put.
const ROOT: u32 = 0xffff_ffff;
const INGRESS: u32 = 0xffff_fff1;

/// The handles: `1:`, `ffff:`, and the class `1:1`.
const FIRST: u32 = 1 << 16;
const INGRESS_HANDLE: u32 = 0xffff << 16;
const FIRST_CLASS: u32 = FIRST | 1;

/// Filters of all protocols, before any other.
const ALL_PROTOCOLS: u16 = 0x0003;
const FIRST_PRIORITY: u32 = 1;

/// A token bucket: how fast an interface may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes a second.
    pub rate: u64,
    /// Bytes that may wait.
    pub limit: u32,
    /// The bucket's size as the time that it takes to send it, in the kernel's
    /// ticks.
    pub buffer: u32,
}

/// A queueing discipline of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qdisc {
    /// Its kind, such as `tbf` or `ingress`.
    pub kind: String,
    /// Its parameters, if it is a token bucket.
    pub bucket: Option<TokenBucket>,
}

/// What makes a token bucket the root discipline of an interface, as `1:`. The
/// kernel refuses when there is one.
pub fn add_token_bucket(index: u32, bucket: TokenBucket) -> Message {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let mut parms = [0; TBF_PARMS];
    // A rate that is too large for its field here has one of its own.
    let low = (bucket.rate & u64::from(u32::MAX)) as u32;
    parms[8..12].copy_from_slice(&low.to_ne_bytes());
    parms[24..28].copy_from_slice(&bucket.limit.to_ne_bytes());
    parms[28..32].copy_from_slice(&bucket.buffer.to_ne_bytes());
    let large = u32::try_from(bucket.rate).is_err().then_some(bucket.rate);
    Message::new(RTM_NEWQDISC, flags, &header(index, FIRST, ROOT, 0))
        .with_text(TCA_KIND, "tbf")
        .with_nest(TCA_OPTIONS, &[], |options| {
            options
                .with(TCA_TBF_PARMS, &parms)
                .with_some(large, |options, rate| {
                    options.with(TCA_TBF_RATE64, &rate.to_ne_bytes())
                })
        })
}

/// What gives an interface the discipline where filters see what it receives.
pub fn add_ingress(index: u32) -> Message {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let header = header(index, INGRESS_HANDLE, INGRESS, 0);
    Message::new(RTM_NEWQDISC, flags, &header).with_text(TCA_KIND, "ingress")
}

/// What takes the root discipline from an interface.
pub fn del_root(index: u32) -> Message {
    Message::new(RTM_DELQDISC, 0, &header(index, FIRST, ROOT, 0))
}

/// What takes the ingress discipline from an interface, with its filters.
pub fn del_ingress(index: u32) -> Message {
    Message::new(RTM_DELQDISC, 0, &header(index, INGRESS_HANDLE, INGRESS, 0))
}

/// What sends everything that an interface receives out of another one first;
/// it has an ingress discipline already.
pub fn add_redirect(index: u32, to: u32) -> Message {
    let flags = NLM_F_CREATE | NLM_F_EXCL;
    let info = FIRST_PRIORITY << 16 | u32::from(ALL_PROTOCOLS.to_be());
    let mut parms = [0; MIRRED_PARMS];
    parms[8..12].copy_from_slice(&TC_ACT_STOLEN.to_ne_bytes());
    parms[20..24].copy_from_slice(&TCA_EGRESS_REDIR.to_ne_bytes());
    parms[24..28].copy_from_slice(&to.to_ne_bytes());
    Message::new(
        RTM_NEWTFILTER,
        flags,
        &header(index, 0, INGRESS_HANDLE, info),
    )
    .with_text(TCA_KIND, "u32")
    .with_nest(TCA_OPTIONS, &[], |options| {
        options
            .with(TCA_U32_SEL, &match_all())
            .with_u32(TCA_U32_CLASSID, FIRST_CLASS)
            .with_nest(TCA_U32_ACT, &[], |actions| {
                actions.with_nest(1, &[], |action| {
                    action.with_text(TCA_ACT_KIND, "mirred").with_nest(
                        TCA_ACT_OPTIONS,
                        &[],
                        |options| options.with(TCA_MIRRED_PARMS, &parms),
                    )
                })
            })
    })
}

/// A `tc_u32_sel` with one key whose mask is zero: it holds for every packet.
fn match_all() -> [u8; 32] {
    const TC_U32_TERMINAL: u8 = 1;
    let mut selector = [0; 32];
    // Flags, (shift), number of keys.
    (selector[0], selector[2]) = (TC_U32_TERMINAL, 1);
    selector
}

/// The disciplines of an interface.
///
/// # Errors
/// When the kernel refuses.
pub fn qdiscs(socket: &mut Netlink, index: u32) -> Result<Vec<Qdisc>, NetlinkError> {
    let request = Message::new(RTM_GETQDISC, 0, &header(index, 0, 0, 0));
    // The kernel lists those of every interface, whatever is asked for.
    let replies = socket.list(&request)?;
    let own = replies
        .iter()
        .filter(|reply| index_of(reply) == Some(index));
    Ok(own.filter_map(qdisc).collect())
}

/// Where the filters of an interface's ingress discipline send packets: the
/// indices of interfaces.
///
/// # Errors
/// When the kernel refuses.
pub fn redirects(socket: &mut Netlink, index: u32) -> Result<Vec<u32>, NetlinkError> {
    let header = header(index, 0, INGRESS_HANDLE, 0);
    let replies = socket.list(&Message::new(RTM_GETTFILTER, 0, &header))?;
    Ok(replies.iter().filter_map(redirect).collect())
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    for (at, value) in [index, handle, parent, info].into_iter().enumerate() {
        let start = 4 + 4 * at;
        header[start..start + 4].copy_from_slice(&value.to_ne_bytes());
    }
    header
}

fn index_of(reply: &Reply) -> Option<u32> {
    u32_of(reply.payload.get(4..8)?)
}

fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(found, _)| *found == kind)
        .map(|(_, value)| value)
}

fn qdisc(reply: &Reply) -> Option<Qdisc> {
    let values = reply.payload.get(HEADER..)?;
    let kind = find(values, TCA_KIND)?;
    let kind = kind.strip_suffix(&[0]).unwrap_or(kind);
    let kind = String::from_utf8_lossy(kind).into_owned();
    let bucket = match kind.as_str() {
        "tbf" => find(values, TCA_OPTIONS).and_then(bucket),
        _ => None,
    };
    Some(Qdisc { kind, bucket })
}

fn bucket(options: &[u8]) -> Option<TokenBucket> {
    let parms = find(options, TCA_TBF_PARMS)?;
    let large = find(options, TCA_TBF_RATE64)
        .and_then(|value| value.first_chunk())
        .map(|rate| u64::from_ne_bytes(*rate));
    Some(TokenBucket {
        rate: large.unwrap_or(u32_of(parms.get(8..12)?)?.into()),
        limit: u32_of(parms.get(24..28)?)?,
        buffer: u32_of(parms.get(28..32)?)?,
    })
}

/// Where a filter's first action sends to.
fn redirect(reply: &Reply) -> Option<u32> {
    let options = find(reply.payload.get(HEADER..)?, TCA_OPTIONS)?;
    let action = find(find(options, TCA_U32_ACT)?, 1)?;
    let parms = find(find(action, TCA_ACT_OPTIONS)?, TCA_MIRRED_PARMS)?;
    u32_of(parms.get(24..28)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn as_reply(message: Message) -> Reply {
        Reply {
            kind: message.kind,
            payload: message.body,
        }
    }

    #[test]
    fn a_redirect_is_read_as_it_is_written() {
        assert_eq!(redirect(&as_reply(add_redirect(3, 7))), Some(7));
    }

    proptest! {
        #[test]
        fn buckets_are_read_as_they_are_written(
            rate in any::<u64>(), limit in any::<u32>(), buffer in any::<u32>(),
        ) {
            let bucket = TokenBucket { rate, limit, buffer };
            let read = qdisc(&as_reply(add_token_bucket(3, bucket))).unwrap();
            prop_assert_eq!(read, Qdisc { kind: "tbf".into(), bucket: Some(bucket) });
        }

        #[test]
        fn arbitrary_messages_never_panic(payload in proptest::collection::vec(any::<u8>(), 0..99)) {
            let reply = Reply { kind: RTM_NEWQDISC, payload };
            let _ = (qdisc(&reply), redirect(&reply), index_of(&reply));
        }
    }
}
