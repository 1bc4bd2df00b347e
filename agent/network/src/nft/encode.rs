//! Encoding of a batch.

use super::change::{Batch, Change, Element, ElementData, Family, Hook, SetSpec, ValueType, Verdict};
use super::expression::Expression;
use super::wire::*;
use crate::netlink::{Body, Requests, flag};

/// Elements in one message: a list is one attribute, which ends at 64 KiB, and an element takes up to 200 bytes.
const ELEMENTS_PER_MESSAGE: usize = 200;

/// The requests that carry a batch out, for `Framing::Batch`.
pub(crate) fn encode(batch: &Batch) -> Requests {
    let mut requests = Requests::default();
    requests.push(NFNL_MSG_BATCH_BEGIN, 0, |body| body.raw(&batch_header()));
    let target = Target {
        family: batch.family,
        table: &batch.table,
    };
    for (position, change) in batch.changes.iter().enumerate() {
        target.write(&mut requests, position as u32, change);
    }
    // One answer says that the batch is through; refusals are answered in any case, and the kernel's queue of answers is
    // short.
    requests.acknowledge_last();
    requests.push(NFNL_MSG_BATCH_END, 0, |body| body.raw(&batch_header()));
    requests
}

/// The header behind netlink's: family, version, and what the family makes of the rest.
pub(super) fn family_header(family: Family) -> [u8; 4] {
    [family.number(), 0, 0, 0]
}

fn batch_header() -> [u8; 4] {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    [0, 0, high, low]
}

/// The kind of an nf_tables message on the wire.
pub(super) fn message_kind(kind: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | kind
}

struct Target<'a> {
    family: Family,
    table: &'a str,
}

impl Target<'_> {
    fn write(&self, requests: &mut Requests, position: u32, change: &Change) {
        match change {
            Change::AddTable => self.push(requests, NFT_MSG_NEWTABLE, flag::CREATE, |body| {
                body.text(NFTA_TABLE_NAME, self.table);
                body.be32(NFTA_TABLE_FLAGS, 0);
            }),
            Change::DeleteTable => {
                self.push(requests, NFT_MSG_DELTABLE, 0, |body| {
                    body.text(NFTA_TABLE_NAME, self.table)
                });
            }
            Change::AddChain { name, hook } => self.push(requests, NFT_MSG_NEWCHAIN, flag::CREATE, |body| {
                body.text(NFTA_CHAIN_TABLE, self.table);
                body.text(NFTA_CHAIN_NAME, name);
                if let Some(hook) = hook {
                    write_hook(body, hook);
                }
            }),
            Change::DeleteChain { name } => self.push(requests, NFT_MSG_DELCHAIN, 0, |body| {
                body.text(NFTA_CHAIN_TABLE, self.table);
                body.text(NFTA_CHAIN_NAME, name);
            }),
            Change::DeleteSet { name } => self.push(requests, NFT_MSG_DELSET, 0, |body| {
                body.text(NFTA_SET_TABLE, self.table);
                body.text(NFTA_SET_NAME, name);
            }),
            Change::FlushChain { name } => self.push(requests, NFT_MSG_DELRULE, 0, |body| {
                body.text(NFTA_RULE_TABLE, self.table);
                body.text(NFTA_RULE_CHAIN, name);
            }),
            Change::AddSet(set) => self.push(requests, NFT_MSG_NEWSET, flag::CREATE, |body| {
                body.text(NFTA_SET_TABLE, self.table);
                write_set(body, set, position);
            }),
            Change::AddRule { chain, expressions } => {
                self.push(requests, NFT_MSG_NEWRULE, flag::CREATE | flag::APPEND, |body| {
                    body.text(NFTA_RULE_TABLE, self.table);
                    body.text(NFTA_RULE_CHAIN, chain);
                    body.nested(NFTA_RULE_EXPRESSIONS, |list| write_steps(list, expressions));
                });
            }
            Change::AddElements { set, elements } => {
                for elements in elements.chunks(ELEMENTS_PER_MESSAGE) {
                    self.push_elements(requests, NFT_MSG_NEWSETELEM, flag::CREATE, set, elements);
                }
            }
            Change::DeleteElements { set, elements } => {
                for elements in elements.chunks(ELEMENTS_PER_MESSAGE) {
                    self.push_elements(requests, NFT_MSG_DELSETELEM, 0, set, elements);
                }
            }
            Change::Flush { set } => self.push_elements(requests, NFT_MSG_DELSETELEM, 0, set, &[]),
        }
    }

    fn push_elements(&self, requests: &mut Requests, kind: u16, flags: u16, set: &str, elements: &[Element]) {
        self.push(requests, kind, flags, |body| {
            body.text(NFTA_SET_ELEM_LIST_TABLE, self.table);
            body.text(NFTA_SET_ELEM_LIST_SET, set);
            if elements.is_empty() {
                return;
            }
            body.nested(NFTA_SET_ELEM_LIST_ELEMENTS, |list| {
                for element in elements {
                    list.nested(NFTA_LIST_ELEM, |item| write_element(item, element));
                }
            });
        });
    }

    fn push(&self, requests: &mut Requests, kind: u16, flags: u16, body: impl FnOnce(&mut Body<'_>)) {
        requests.push(message_kind(kind), flags, |message| {
            message.raw(&family_header(self.family));
            body(message);
        });
    }
}

fn write_hook(body: &mut Body<'_>, hook: &Hook) {
    body.nested(NFTA_CHAIN_HOOK, |inner| {
        inner.be32(NFTA_HOOK_HOOKNUM, hook.point.number());
        inner.be32(NFTA_HOOK_PRIORITY, hook.priority as u32);
    });
    body.be32(NFTA_CHAIN_POLICY, NF_ACCEPT);
    body.text(NFTA_CHAIN_TYPE, hook.kind);
}

fn write_set(body: &mut Body<'_>, set: &SetSpec, id: u32) {
    body.text(NFTA_SET_NAME, &set.name);
    body.be32(NFTA_SET_FLAGS, if set.data.is_some() { NFT_SET_MAP } else { 0 });
    body.be32(NFTA_SET_KEY_TYPE, ValueType::sequence_number(&set.key));
    body.be32(NFTA_SET_KEY_LEN, ValueType::sequence_bytes(&set.key));
    if let Some(data) = &set.data {
        body.be32(NFTA_SET_DATA_TYPE, ValueType::sequence_number(data));
        body.be32(NFTA_SET_DATA_LEN, ValueType::sequence_bytes(data));
    }
    // Only has to differ between the sets of one batch.
    body.be32(NFTA_SET_ID, id + 1);
    // Says in which order nft should read keys when it prints them; the kernel does not care.
    let order = u32::from(ValueType::sequence_is_in_network_order(&set.key)) + 1;
    let userdata = [&[UDATA_SET_KEY_BYTEORDER, 4][..], &order.to_ne_bytes()].concat();
    body.bytes(NFTA_SET_USERDATA, &userdata);
}

fn write_steps(body: &mut Body<'_>, expressions: &[Expression]) {
    for expression in expressions {
        expression.write(body);
    }
}

fn write_element(body: &mut Body<'_>, element: &Element) {
    body.nested(NFTA_SET_ELEM_KEY, |key| key.bytes(NFTA_DATA_VALUE, &element.key));
    match &element.data {
        None => {}
        Some(ElementData::Value(value)) => {
            body.nested(NFTA_SET_ELEM_DATA, |data| data.bytes(NFTA_DATA_VALUE, value));
        }
        Some(ElementData::Verdict(verdict)) => {
            body.nested(NFTA_SET_ELEM_DATA, |data| write_verdict(data, verdict));
        }
    }
    if let Some(comment) = &element.comment {
        // nft keeps kind, length and the terminated text; its length is one byte, so longer comments are cut.
        let end = comment.floor_char_boundary(120);
        let mut userdata = vec![UDATA_COMMENT, end as u8 + 1];
        userdata.extend_from_slice(&comment.as_bytes()[..end]);
        userdata.push(0);
        body.bytes(NFTA_SET_ELEM_USERDATA, &userdata);
    }
}

/// Writes a verdict as data.
pub(super) fn write_verdict(body: &mut Body<'_>, verdict: &Verdict) {
    let (code, chain) = match verdict {
        Verdict::Accept => (NF_ACCEPT, None),
        Verdict::Drop => (NF_DROP, None),
        Verdict::Return => (NFT_RETURN, None),
        Verdict::Jump(chain) => (NFT_JUMP, Some(chain)),
    };
    body.nested(NFTA_DATA_VERDICT, |inner| {
        inner.be32(NFTA_VERDICT_CODE, code);
        if let Some(chain) = chain {
            inner.text(NFTA_VERDICT_CHAIN, chain);
        }
    });
}
