//! Addresses and default routes of links.

use std::net::IpAddr;

use rustix::io::Errno;

use crate::ip_net::IpNet;
use crate::links::{IFF_UP, Links, RTM_SETLINK, ignoring, link_header};
use crate::netlink::{Body, Framing, NetlinkError, Reply, Requests, find, flag};

const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
/// Whoever gives out the addresses knows that nobody else has them; to ask first would take more than a second.
const IFA_F_NODAD: u32 = 0x02;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

const AF_UNSPEC: u8 = 0;
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

impl Links {
    /// Gives an interface its addresses, brings it up and sets the default routes, in one exchange. A default route
    /// that was there is replaced.
    pub fn configure(
        &mut self,
        index: u32,
        addresses: &[IpNet],
        gateways: &[IpAddr],
    ) -> Result<(), NetlinkError> {
        let mut requests = Requests::default();
        for address in addresses {
            requests.push(RTM_NEWADDR, flag::ACK | flag::CREATE | flag::REPLACE, |body| {
                write_address(body, index, *address);
            });
        }
        requests.push(RTM_SETLINK, flag::ACK, |body| {
            body.raw(&link_header(index, IFF_UP, IFF_UP))
        });
        for gateway in gateways {
            push_default_route(&mut requests, index, *gateway);
        }
        self.socket.transact(requests, Framing::Separate)
    }

    /// Makes default routes lead through these gateways, in place of those of the same family.
    pub fn replace_default_routes(&mut self, routes: &[(u32, IpAddr)]) -> Result<(), NetlinkError> {
        let mut requests = Requests::default();
        for (index, gateway) in routes {
            push_default_route(&mut requests, *index, *gateway);
        }
        self.socket.transact(requests, Framing::Separate)
    }

    /// Takes the default route of a family away, if there is one.
    pub fn remove_default_route(&mut self, is_ipv4: bool) -> Result<(), NetlinkError> {
        let result = self.acknowledged(RTM_DELROUTE, flag::ACK, |body| {
            body.raw(&route_header(if is_ipv4 { AF_INET } else { AF_INET6 }));
        });
        ignoring(result, Errno::SRCH)
    }

    /// The addresses of a link, or of all links, without those that IPv6 makes by itself for one link only.
    pub fn addresses(&mut self, index: Option<u32>) -> Result<Vec<IpNet>, NetlinkError> {
        let owned = self.addresses_of_links()?.into_iter();
        let wanted = |owner: u32| index.is_none_or(|index| index == owner);
        Ok(owned
            .filter(|(owner, _)| wanted(*owner))
            .map(|(_, net)| net)
            .collect())
    }

    /// The same addresses with the indexes of their links.
    pub fn addresses_of_links(&mut self) -> Result<Vec<(u32, IpNet)>, NetlinkError> {
        let request = Requests::one(RTM_GETADDR, flag::DUMP, |body| {
            body.raw(&[AF_UNSPEC, 0, 0, 0, 0, 0, 0, 0])
        });
        let replies = self.socket.query(request)?;
        Ok(replies.iter().filter_map(parse_address).collect())
    }

    /// Index of the link that has this address.
    pub fn owner_of(&mut self, address: IpAddr) -> Result<Option<u32>, NetlinkError> {
        let owned = self.addresses_of_links()?.into_iter();
        let mut owners = owned.filter(|(_, own)| own.address() == address);
        Ok(owners.next().map(|(owner, _)| owner))
    }

    /// Takes an address off a link.
    pub fn remove_address(&mut self, index: u32, address: IpNet) -> Result<(), NetlinkError> {
        let result = self.acknowledged(RTM_DELADDR, flag::ACK, |body| write_address(body, index, address));
        ignoring(result, Errno::ADDRNOTAVAIL)
    }
}

fn push_default_route(requests: &mut Requests, index: u32, gateway: IpAddr) {
    requests.push(RTM_NEWROUTE, flag::ACK | flag::CREATE | flag::REPLACE, |body| {
        body.raw(&route_header(family(gateway)));
        with_octets(gateway, |octets| body.bytes(RTA_GATEWAY, octets));
        body.u32(RTA_OIF, index);
    });
}

fn route_header(family: u8) -> [u8; 12] {
    [
        family,
        0,
        0,
        0,
        RT_TABLE_MAIN,
        RTPROT_STATIC,
        0,
        RTN_UNICAST,
        0,
        0,
        0,
        0,
    ]
}

fn write_address(body: &mut Body<'_>, index: u32, net: IpNet) {
    let mut header = [family(net.address()), net.prefix(), 0, 0, 0, 0, 0, 0];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    body.raw(&header);
    with_octets(net.address(), |octets| {
        body.bytes(IFA_LOCAL, octets);
        body.bytes(IFA_ADDRESS, octets);
    });
    if !net.is_ipv4() {
        body.u32(IFA_FLAGS, IFA_F_NODAD);
    } else if net.prefix() < 31 {
        with_octets(net.last(), |octets| body.bytes(IFA_BROADCAST, octets));
    }
}

pub(crate) fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// The address as it stands in packets.
pub(crate) fn with_octets<R>(address: IpAddr, take: impl FnOnce(&[u8]) -> R) -> R {
    match address {
        IpAddr::V4(address) => take(&address.octets()),
        IpAddr::V6(address) => take(&address.octets()),
    }
}

/// Reads an address as it stands in packets.
pub(crate) fn address_of(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(octets).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => None,
    }
}

fn parse_address(reply: &Reply) -> Option<(u32, IpNet)> {
    if reply.kind != RTM_NEWADDR {
        return None;
    }
    let owner = u32::from_ne_bytes(reply.body.get(4..8)?.try_into().ok()?);
    let parts = reply.body.get(8..)?;
    // Of a tunnel's two ends, the own one is IFA_LOCAL; IPv6 names only one.
    let own = find(parts, IFA_LOCAL).or_else(|| find(parts, IFA_ADDRESS))?;
    let address = address_of(own.value)?;
    let own_making = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    let net = IpNet::new(address, *reply.body.get(1)?)?;
    (!own_making).then_some((owner, net))
}
