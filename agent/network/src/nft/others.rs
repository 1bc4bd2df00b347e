//! Reading the tables of others, and the few rules that are put into their chains.

use super::change::Verdict;
use super::encode::{message_kind, write_verdict};
use super::wire::*;
use crate::netlink::{Body, Framing, NetlinkError, Requests, Socket, attributes, find, flag};

const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_USERDATA: u16 = 7;
const NFT_META_IIFNAME: u32 = 6;
const NFT_META_OIFNAME: u32 = 7;
/// The first register of four, which every tool that lists rules knows.
const NFT_REG_1: u32 = 1;
/// Every family.
const NFPROTO_UNSPEC: u8 = 0;

/// A chain of any table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chain {
    /// The kernel's number of the family: 1 for both, 2 for IPv4, 10 for IPv6.
    pub family: u8,
    pub table: String,
    pub name: String,
    /// Number of the hook that calls it.
    pub hook: Option<u32>,
    /// What no rule decides is dropped.
    pub drops: bool,
}

/// A rule of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rule {
    pub family: u8,
    pub table: String,
    pub chain: String,
    pub handle: u64,
    pub comment: Option<String>,
    /// Its steps as the kernel writes them.
    pub expressions: Vec<u8>,
}

/// Which of a packet's interfaces a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The one that it came in by.
    From,
    /// The one that it goes out by.
    To,
}

/// Every chain of this network namespace.
pub(crate) fn read_chains(socket: &mut Socket) -> Result<Vec<Chain>, NetlinkError> {
    let request = Requests::one(message_kind(NFT_MSG_GETCHAIN), flag::DUMP, |body| {
        body.raw(&[NFPROTO_UNSPEC, 0, 0, 0]);
    });
    let replies = socket.query(request)?;
    Ok(replies.iter().filter_map(|reply| chain_of(&reply.body)).collect())
}

/// Every rule of this network namespace.
pub(crate) fn read_rules(socket: &mut Socket) -> Result<Vec<Rule>, NetlinkError> {
    let request = Requests::one(message_kind(NFT_MSG_GETRULE), flag::DUMP, |body| {
        body.raw(&[NFPROTO_UNSPEC, 0, 0, 0]);
    });
    let replies = socket.query(request)?;
    Ok(replies.iter().filter_map(|reply| rule_of(&reply.body)).collect())
}

/// Puts a rule that accepts what comes from or goes to an interface behind all others of a chain.
pub(crate) fn accept_last(
    socket: &mut Socket,
    chain: &Chain,
    side: Side,
    interface: &str,
    comment: &str,
) -> Result<(), NetlinkError> {
    let flags = flag::CREATE | flag::APPEND | flag::ACK;
    let mut requests = Requests::default();
    requests.push(NFNL_MSG_BATCH_BEGIN, 0, batch_frame);
    requests.push(message_kind(NFT_MSG_NEWRULE), flags, |body| {
        body.raw(&[chain.family, 0, 0, 0]);
        body.text(NFTA_RULE_TABLE, &chain.table);
        body.text(NFTA_RULE_CHAIN, &chain.name);
        body.nested(NFTA_RULE_EXPRESSIONS, |list| write_accept(list, side, interface));
        body.bytes(NFTA_RULE_USERDATA, &comment_data(comment));
    });
    requests.push(NFNL_MSG_BATCH_END, 0, batch_frame);
    socket.transact(requests, Framing::Batch)
}

/// Removes a rule.
pub(crate) fn delete_rule(socket: &mut Socket, rule: &Rule) -> Result<(), NetlinkError> {
    let mut requests = Requests::default();
    requests.push(NFNL_MSG_BATCH_BEGIN, 0, batch_frame);
    requests.push(message_kind(NFT_MSG_DELRULE), flag::ACK, |body| {
        body.raw(&[rule.family, 0, 0, 0]);
        body.text(NFTA_RULE_TABLE, &rule.table);
        body.text(NFTA_RULE_CHAIN, &rule.chain);
        body.bytes(NFTA_RULE_HANDLE, &rule.handle.to_be_bytes());
    });
    requests.push(NFNL_MSG_BATCH_END, 0, batch_frame);
    socket.transact(requests, Framing::Batch)
}

fn batch_frame(body: &mut Body<'_>) {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    body.raw(&[0, 0, high, low]);
}

/// As `iptables -i NAME -j ACCEPT` writes it, so that its own tools can list and save the rule.
fn write_accept(list: &mut Body<'_>, side: Side, interface: &str) {
    let key = match side {
        Side::From => NFT_META_IIFNAME,
        Side::To => NFT_META_OIFNAME,
    };
    step(list, "meta", |data| {
        data.be32(NFTA_META_KEY, key);
        data.be32(NFTA_META_DREG, NFT_REG_1);
    });
    step(list, "cmp", |data| {
        data.be32(NFTA_CMP_SREG, NFT_REG_1);
        data.be32(NFTA_CMP_OP, NFT_CMP_EQ);
        data.nested(NFTA_CMP_DATA, |operand| operand.text(NFTA_DATA_VALUE, interface));
    });
    step(list, "counter", |_| {});
    step(list, "immediate", |data| {
        data.be32(NFTA_IMMEDIATE_DREG, 0);
        data.nested(NFTA_IMMEDIATE_DATA, |value| {
            write_verdict(value, &Verdict::Accept)
        });
    });
}

fn step(list: &mut Body<'_>, name: &str, fill: impl FnOnce(&mut Body<'_>)) {
    list.nested(NFTA_LIST_ELEM, |element| {
        element.text(NFTA_EXPR_NAME, name);
        element.nested(NFTA_EXPR_DATA, fill);
    });
}

fn comment_data(comment: &str) -> Vec<u8> {
    let mut data = vec![UDATA_COMMENT, comment.len() as u8 + 1];
    data.extend_from_slice(comment.as_bytes());
    data.push(0);
    data
}

fn chain_of(body: &[u8]) -> Option<Chain> {
    let (header, parts) = body.split_at_checked(4)?;
    let hook = find(parts, NFTA_CHAIN_HOOK).and_then(|hook| find(hook.value, NFTA_HOOK_HOOKNUM)?.be32());
    let policy = find(parts, NFTA_CHAIN_POLICY).and_then(|policy| policy.be32());
    Some(Chain {
        family: header[0],
        table: find(parts, NFTA_CHAIN_TABLE)?.text()?.to_owned(),
        name: find(parts, NFTA_CHAIN_NAME)?.text()?.to_owned(),
        hook,
        drops: policy == Some(NF_DROP),
    })
}

fn rule_of(body: &[u8]) -> Option<Rule> {
    let (header, parts) = body.split_at_checked(4)?;
    let handle = find(parts, NFTA_RULE_HANDLE)?.value.try_into().ok()?;
    let expressions = find(parts, NFTA_RULE_EXPRESSIONS);
    Some(Rule {
        family: header[0],
        table: find(parts, NFTA_RULE_TABLE)?.text()?.to_owned(),
        chain: find(parts, NFTA_RULE_CHAIN)?.text()?.to_owned(),
        handle: u64::from_be_bytes(handle),
        comment: find(parts, NFTA_RULE_USERDATA).and_then(|data| comment_of(data.value)),
        expressions: expressions.map_or_else(Vec::new, |list| list.value.to_vec()),
    })
}

/// The comment among a rule's user data: each part is a kind, a length and so many bytes.
fn comment_of(mut data: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = data {
        let (text, after) = rest.split_at_checked(usize::from(*length))?;
        if *kind == UDATA_COMMENT {
            let text = text.strip_suffix(&[0]).unwrap_or(text);
            return String::from_utf8(text.to_vec()).ok();
        }
        data = after;
    }
    None
}

impl Rule {
    /// Whether it compares something with this name, as a rule about an interface does.
    pub fn names(&self, interface: &str) -> bool {
        let mut name = interface.as_bytes().to_vec();
        name.push(0);
        attributes(&self.expressions).any(|step| step.value.windows(name.len()).any(|bytes| bytes == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_that_are_cut_are_left_out() {
        let requests = Requests::one(1, 0, |body| {
            body.raw(&[2, 0, 0, 0]);
            body.text(NFTA_RULE_TABLE, "filter");
            body.text(NFTA_RULE_CHAIN, "FORWARD");
            body.bytes(NFTA_RULE_HANDLE, &7u64.to_be_bytes());
            body.nested(NFTA_RULE_EXPRESSIONS, |list| {
                write_accept(list, Side::To, "muster0")
            });
            body.bytes(
                NFTA_RULE_USERDATA,
                &[&[9, 1, 5][..], &comment_data("a b")].concat(),
            );
        });
        let body = requests.first_body();
        let rule = rule_of(body).unwrap();
        assert_eq!((rule.handle, rule.comment.as_deref()), (7, Some("a b")));
        assert!(rule.names("muster0") && !rule.names("muster") && !rule.names("uster"));
        for end in 0..body.len() {
            // Whatever is left of it, nothing is read beyond the end.
            let _ = (rule_of(&body[..end]), chain_of(&body[..end]));
            let _ = comment_of(&body[..end]);
        }
    }
}
