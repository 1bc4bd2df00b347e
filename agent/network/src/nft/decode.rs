//! Reading back the elements of a set.

use super::change::{Element, ElementData, Family, Verdict};
use super::encode::{family_header, message_kind};
use super::wire::*;
use crate::netlink::{Attribute, NetlinkError, Requests, Socket, attributes, find, flag};

/// The elements of a set; fails with `NOENT` if there is no such set or table.
pub(crate) fn read_elements(
    socket: &mut Socket,
    family: Family,
    table: &str,
    set: &str,
) -> Result<Vec<Element>, NetlinkError> {
    let request = Requests::one(message_kind(NFT_MSG_GETSETELEM), flag::DUMP, |body| {
        body.raw(&family_header(family));
        body.text(NFTA_SET_ELEM_LIST_TABLE, table);
        body.text(NFTA_SET_ELEM_LIST_SET, set);
    });
    let replies = socket.query(request)?;
    Ok(replies
        .iter()
        .flat_map(|reply| elements_of(&reply.body))
        .collect())
}

fn elements_of(body: &[u8]) -> Vec<Element> {
    let list = body
        .get(4..)
        .and_then(|parts| find(parts, NFTA_SET_ELEM_LIST_ELEMENTS));
    let items = list.iter().flat_map(|list| attributes(list.value));
    items.filter_map(|item| element_of(item.value)).collect()
}

fn element_of(item: &[u8]) -> Option<Element> {
    let key = find(find(item, NFTA_SET_ELEM_KEY)?.value, NFTA_DATA_VALUE)?
        .value
        .to_vec();
    let data = find(item, NFTA_SET_ELEM_DATA).and_then(|data| data_of(data.value));
    let comment = find(item, NFTA_SET_ELEM_USERDATA).and_then(comment_of);
    Some(Element { key, data, comment })
}

fn data_of(data: &[u8]) -> Option<ElementData> {
    if let Some(value) = find(data, NFTA_DATA_VALUE) {
        return Some(ElementData::Value(value.value.to_vec()));
    }
    let code = find(find(data, NFTA_DATA_VERDICT)?.value, NFTA_VERDICT_CODE)?.be32()?;
    match code {
        NF_ACCEPT => Some(ElementData::Verdict(Verdict::Accept)),
        NF_DROP => Some(ElementData::Verdict(Verdict::Drop)),
        NFT_RETURN => Some(ElementData::Verdict(Verdict::Return)),
        _ => None,
    }
}

fn comment_of(userdata: Attribute<'_>) -> Option<String> {
    let (kind, rest) = userdata.value.split_first()?;
    let (length, rest) = rest.split_first()?;
    let text = rest.get(..usize::from(*length))?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    (*kind == UDATA_COMMENT).then(|| String::from_utf8(text.to_vec()).ok())?
}
