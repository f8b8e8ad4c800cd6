//! nftables, spoken to over netlink: no process is run and no library needed.
//!
//! All that Circuit keeps there is in the one table [`TABLE`], which nobody
//! owns, so that `nft` shows and changes it like any other. Other programs'
//! tables are left alone.
//!
//! The kernel counts the generations of the ruleset. What was found intact is
//! intact as long as the generation is the same ([`Nft::transaction`]), and a
//! batch is only carried out in the generation that it was made for, so that
//! two programs never overwrite each other.

mod batch;
mod cache;
pub mod conntrack;
mod expr;
pub mod masquerade;
mod part;
mod pool;
mod read;
mod set;
mod userdata;
mod watch;

use std::path::Path;

use crate::netlink::{BatchError, Message, NetlinkError, Reply};
use circuit_core::cni::{ErrorReport, code};

pub use batch::{
    Batch, Family, Hook, HookPoint, PRIORITY_DSTNAT, PRIORITY_FILTER, PRIORITY_SRCNAT, Table,
};
pub use cache::is_intact;
pub use expr::{
    CT_STATE_NEW, Compare, IPS_DST_NAT, Load, Register, Rule, Verdict, ifname_key, ip_key,
};
pub use part::{Chain, Part};
pub(crate) use read::attribute;
pub use read::{ChainInfo, HookInfo, RuleInfo};
pub use set::{Data, Element, Leads, Set, Type, concat};
pub use userdata::COMMENT_MAX;
pub(crate) use userdata::fnv;
pub use watch::{Change, Watch};

use pool::Pooled;

use batch::{GETCHAIN, GETGEN, GETRULE, GETSET, GETSETELEM, head};

/// The table of everything that is Circuit's.
pub const TABLE: Table = Table {
    family: Family::Inet,
    name: "circuit",
};

/// The comment of [`TABLE`].
pub(crate) const TABLE_COMMENT: &str = "made and looked after by circuit";

/// How often a batch is made anew when somebody else was faster.
const TRIES: usize = 100;

/// Why the ruleset could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no socket.
    #[error("{0}")]
    Open(circuit_core::Error),
    /// The kernel or the socket refuses a question.
    #[error("nftables: {0}")]
    Netlink(#[from] NetlinkError),
    /// The kernel refuses a change.
    #[error("nftables refuses a change: {}", std::io::Error::from_raw_os_error(*.0))]
    Refused(i32),
    /// Others change the ruleset again and again.
    #[error("the nftables ruleset changes faster than it can be read, try again")]
    Busy,
}

impl NftError {
    /// The errno with which the kernel refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Netlink(error) => error.errno(),
            Self::Refused(errno) => Some(*errno),
            Self::Open(_) | Self::Busy => None,
        }
    }
}

impl From<NftError> for ErrorReport {
    fn from(error: NftError) -> Self {
        let code = match error {
            NftError::Busy => code::TRY_AGAIN_LATER,
            _ => code::IO_FAILURE,
        };
        Self::new(code, error.to_string())
    }
}

/// The result of asking or changing the ruleset.
pub type Result<T> = std::result::Result<T, NftError>;

/// A socket for the ruleset of one network namespace.
pub struct Nft {
    netlink: Pooled,
    /// What tells the namespace from every other one there ever was, or from those
    /// that there are as long as this process runs.
    cookie: Option<u64>,
}

impl Nft {
    /// Opens a socket in a namespace, in the calling thread's when there is no
    /// path.
    ///
    /// # Errors
    /// When the namespace cannot be entered or the kernel refuses.
    pub fn open(netns: Option<&Path>) -> Result<Self> {
        let netlink = Pooled::open(netns).map_err(NftError::Open)?;
        let cookie = netlink.netns_cookie().or_else(|| netlink.home_inode());
        Ok(Self { netlink, cookie })
    }

    /// The generation of the ruleset.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn generation(&mut self) -> Result<u32> {
        let replies = self.netlink.request(&question(GETGEN, 0))?;
        let generation = replies.iter().find_map(read::generation);
        Ok(generation.ok_or(NetlinkError::Malformed)?)
    }

    /// The chains of a family.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn chains(&mut self, family: Family) -> Result<Vec<ChainInfo>> {
        self.list(&question(GETCHAIN, family as u8), read::chain)
    }

    /// The rules of a table or of one of its chains, in order.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn rules(&mut self, table: Table, chain: Option<&str>) -> Result<Vec<RuleInfo>> {
        let question = question(GETRULE, table.family as u8)
            .with_text(1, table.name)
            .with_some(chain, |message, chain| message.with_text(2, chain));
        self.list(&question, read::rule)
    }

    fn sets(&mut self, table: Table) -> Result<Vec<read::SetInfo>> {
        let question = question(GETSET, table.family as u8).with_text(1, table.name);
        self.list(&question, read::set)
    }

    /// The elements of a set; none when there is no such set.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn elements(&mut self, table: Table, set: &str) -> Result<Vec<Element>> {
        let question = question(GETSETELEM, table.family as u8)
            .with_text(1, table.name)
            .with_text(2, set);
        let replies = absent_is_empty(self.netlink.list(&question))?;
        Ok(replies.iter().flat_map(read::elements).collect())
    }

    /// The elements with the keys of these, in their order.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn find(
        &mut self,
        table: Table,
        set: &str,
        elements: &[Element],
    ) -> Result<Vec<Option<Element>>> {
        let question = |element: &Element| {
            question(GETSETELEM, table.family as u8)
                .with_text(1, table.name)
                .with_text(2, set)
                .with_nest(3, &[], |list| element.put_bare(list))
        };
        let questions: Vec<Message> = elements.iter().map(question).collect();
        let answers = self.netlink.pipeline(&questions)?;
        answers
            .into_iter()
            .map(|answer| {
                let replies = absent_is_empty(answer)?;
                Ok(replies.iter().flat_map(read::elements).next())
            })
            .collect()
    }

    fn list<T>(
        &mut self,
        question: &Message,
        read: impl Fn(&Reply) -> Option<T>,
    ) -> Result<Vec<T>> {
        let replies = absent_is_empty(self.netlink.list(question))?;
        Ok(replies.iter().filter_map(read).collect())
    }

    /// Makes the changes, if the ruleset is of this generation; the next one
    /// is returned, which they make.
    ///
    /// # Errors
    /// [`NftError::Busy`] when it is not, else the kernel's refusal.
    pub fn commit(&mut self, batch: &Batch, generation: u32) -> Result<u32> {
        if batch.is_empty() {
            return Ok(generation);
        }
        match self.netlink.batch(&batch.bounded(generation)) {
            Ok(()) => {}
            Err(BatchError::Refused {
                errno: libc::ERESTART | libc::EAGAIN | libc::EINTR,
                ..
            }) => return Err(NftError::Busy),
            Err(BatchError::Refused { errno, .. }) => return Err(NftError::Refused(errno)),
            Err(BatchError::Socket(error)) => return Err(error.into()),
        }
        let next = generation.checked_add(1).unwrap_or(1);
        cache::advance(self.cookie, generation, next);
        Ok(next)
    }

    /// Has `plan` look at the ruleset and say what is to be changed, and makes
    /// the changes; again, when somebody else changed it meanwhile.
    ///
    /// # Errors
    /// What `plan` returns, or the kernel's refusal.
    pub fn transaction<T, E: From<NftError>>(
        &mut self,
        mut plan: impl FnMut(&mut Self, u32) -> std::result::Result<(Batch, T), E>,
    ) -> std::result::Result<(T, u32), E> {
        for _ in 0..TRIES {
            let generation = self.generation()?;
            let (batch, value) = plan(self, generation)?;
            match self.commit(&batch, generation) {
                Ok(generation) => return Ok((value, generation)),
                Err(NftError::Busy) => {}
                // What the plan was made for may have gone between two of its
                // questions.
                Err(error) if self.generation()? == generation => return Err(error.into()),
                Err(_) => {}
            }
        }
        Err(NftError::Busy.into())
    }
}

fn question(kind: u16, family: u8) -> Message {
    Message::new(kind, 0, &head(family))
}

fn absent_is_empty(
    answer: std::result::Result<Vec<Reply>, NetlinkError>,
) -> std::result::Result<Vec<Reply>, NetlinkError> {
    match answer {
        Err(NetlinkError::Kernel(libc::ENOENT, _)) => Ok(Vec::new()),
        other => other,
    }
}
