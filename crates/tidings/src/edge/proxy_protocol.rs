//! The PROXY protocol, versions 1 and 2: a proxy's first bytes on a connection say for whom it connects
//! (HAProxy's `doc/proxy-protocol.txt`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// What a head of version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a head of version 1 begins with.
const WORD: &[u8; 6] = b"PROXY ";

/// The longest head of version 1, with its line end.
const MAX_LINE: usize = 107;

/// The fixed part of a head of version 2.
const FIXED: usize = 16;

/// The most that is taken behind it: addresses, and what proxies add to them.
const MAX_BEHIND: usize = 4096;

/// A connection that begins with no head where one is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no head of the PROXY protocol: {0}")]
pub struct Malformed(&'static str);

/// A head that is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// How many bytes it takes.
    pub length: usize,
    /// For whom the proxy connects; none where it does so for itself, or does not know.
    pub source: Option<SocketAddr>,
}

/// Reads a head from the front of what has arrived; `None` where more of it is due.
///
/// # Errors
///
/// What can't become a head, as soon as that is clear.
pub fn parse(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    if begins_like(bytes, SIGNATURE) {
        parse_binary(bytes)
    } else if begins_like(bytes, WORD) {
        parse_line(bytes)
    } else {
        Err(Malformed("it begins with other bytes"))
    }
}

/// Whether `bytes` are the beginning of a head of the version with this mark, as far as they go.
fn begins_like(bytes: &[u8], mark: &[u8]) -> bool {
    let common = bytes.len().min(mark.len());
    bytes[..common] == mark[..common]
}

fn parse_line(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let seen = &bytes[..bytes.len().min(MAX_LINE)];
    let Some(end) = seen.windows(2).position(|pair| pair == b"\r\n") else {
        return if seen.len() == MAX_LINE {
            Err(Malformed("its line does not end"))
        } else {
            Ok(None)
        };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| Malformed("its line is no text"))?;
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        // What follows is to be passed over.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(ends::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(ends::<Ipv6Addr>(words)?),
        _ => return Err(Malformed("its protocol is none of TCP4, TCP6 and UNKNOWN")),
    };
    Ok(Some(Head {
        length: end + 2,
        source,
    }))
}

/// Source address, destination address, source port, destination port.
fn ends<'w, A>(words: impl Iterator<Item = &'w str>) -> Result<SocketAddr, Malformed>
where
    A: std::str::FromStr + Into<IpAddr>,
{
    let words: Vec<&str> = words.take(5).collect();
    let [source, destination, port, other_port] = *words else {
        return Err(Malformed("it has not two addresses and two ports"));
    };
    let address = |text: &str| {
        text.parse::<A>()
            .map_err(|_| Malformed("an address is none"))
    };
    let port_of = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| plain);
        number.ok_or(Malformed("a port is none"))
    };
    address(destination)?;
    port_of(other_port)?;
    Ok(SocketAddr::new(address(source)?.into(), port_of(port)?))
}

fn parse_binary(bytes: &[u8]) -> Result<Option<Head>, Malformed> {
    let Some(fixed) = bytes.get(..FIXED) else {
        return Ok(None);
    };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0xf);
    let behind = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if version != 2 || command > 1 {
        return Err(Malformed("its version or command is unknown"));
    }
    if behind > MAX_BEHIND {
        return Err(Malformed("it is too long"));
    }
    let length = FIXED + behind;
    let Some(addresses) = bytes.get(FIXED..length) else {
        return Ok(None);
    };
    let local = command == 0;
    let source = match fixed[13] >> 4 {
        _ if local => None,
        // Unspecified, or a Unix socket: no address to tell.
        0 | 3 => None,
        1 => Some(source_of::<4, 12>(addresses)?),
        2 => Some(source_of::<16, 36>(addresses)?),
        _ => return Err(Malformed("its family of addresses is unknown")),
    };
    Ok(Some(Head { length, source }))
}

/// The source in a block of `BLOCK` bytes: two addresses of `BYTES` each, then two ports.
fn source_of<const BYTES: usize, const BLOCK: usize>(
    addresses: &[u8],
) -> Result<SocketAddr, Malformed>
where
    IpAddr: From<[u8; BYTES]>,
{
    let block: &[u8; BLOCK] = addresses
        .first_chunk()
        .ok_or(Malformed("its addresses are cut off"))?;
    let address: [u8; BYTES] = *block.first_chunk().expect("a block has two addresses");
    let port = u16::from_be_bytes([block[2 * BYTES], block[2 * BYTES + 1]]);
    Ok(SocketAddr::new(IpAddr::from(address).to_canonical(), port))
}

/// Reads a connection's head. Gives the source and what was read behind the head.
///
/// # Errors
///
/// What comes is no head, or the connection ends within it.
pub async fn read(socket: &mut TcpStream) -> io::Result<(Option<SocketAddr>, Vec<u8>)> {
    let mut arrived = Vec::new();
    loop {
        let before = arrived.len();
        if socket.read_buf(&mut arrived).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        debug_assert!(arrived.len() > before, "something arrived");
        let head =
            parse(&arrived).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Some(Head { length, source }) = head {
            arrived.drain(..length);
            return Ok((source, arrived));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn source(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn binary(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
        let mut head = SIGNATURE.to_vec();
        head.extend([0x20 | command, family]);
        head.extend(u16::try_from(addresses.len()).unwrap().to_be_bytes());
        head.extend(addresses);
        head
    }

    fn four() -> Vec<u8> {
        let mut addresses = vec![203, 0, 113, 9, 10, 0, 0, 1];
        addresses.extend([0x12, 0x67, 0x00, 0x50]);
        addresses
    }

    /// Complete heads, and whom they name.
    fn heads() -> Vec<(Vec<u8>, Option<SocketAddr>)> {
        let mut six = Ipv6Addr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7])
            .octets()
            .to_vec();
        six.extend([0; 16]);
        six.extend([0x12, 0x67, 0x00, 0x50]);
        let with_more = [four(), vec![4, 0, 2, 1, 2]].concat();
        vec![
            (
                b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80\r\n".to_vec(),
                Some(source("203.0.113.9:4711")),
            ),
            (
                b"PROXY TCP6 2001:db8::7 ::1 4711 80\r\n".to_vec(),
                Some(source("[2001:db8::7]:4711")),
            ),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ffff::1 ::1 1 2\r\n".to_vec(), None),
            (binary(1, 0x11, &four()), Some(source("203.0.113.9:4711"))),
            (
                binary(1, 0x11, &with_more),
                Some(source("203.0.113.9:4711")),
            ),
            (binary(1, 0x21, &six), Some(source("[2001:db8::7]:4711"))),
            (binary(0, 0x11, &four()), None),
            (binary(0, 0x00, &[]), None),
            (binary(1, 0x31, &[0; 216]), None),
        ]
    }

    #[test]
    fn heads_of_both_versions_are_read_to_their_end_and_no_further() {
        for (mut bytes, source) in heads() {
            let length = bytes.len();
            let head = Ok(Some(Head { length, source }));
            assert_eq!(parse(&bytes), head);
            for cut in 0..length {
                assert_eq!(parse(&bytes[..cut]), Ok(None), "{cut} of {bytes:?}");
            }
            bytes.extend(b"GET / HTTP/1.1\r\n\r\n");
            assert_eq!(parse(&bytes), head);
        }
    }

    #[test]
    fn what_is_no_head_is_refused_as_soon_as_that_is_clear() {
        let too_long = [&binary(1, 0x11, &[])[..14], &[0x10, 0x01]].concat();
        let other_version = [&SIGNATURE[..], &[0x31, 0x11, 0, 12]].concat();
        let endless = [&b"PROXY TCP4 "[..], &[b'1'; 100]].concat();
        let lines: &[&[u8]] = &[
            b"GET / HTTP/1.1\r\n",
            b"PROXZ",
            b"\r\n\r\n\0\r\nQUIX",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 4711\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 80 80\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 +4711 80\r\n",
            b"PROXY TCP4 203.0.113.9 10.0.0.1 65536 80\r\n",
            b"PROXY TCP4  203.0.113.9 10.0.0.1 4711 80\r\n",
            b"PROXY TCP4 2001:db8::7 10.0.0.1 4711 80\r\n",
            b"PROXY TCP6 203.0.113.9 10.0.0.1 4711 80\r\n",
            b"PROXY TCP5 203.0.113.9 10.0.0.1 4711 80\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4 \xff 10.0.0.1 4711 80\r\n",
            &too_long,
            &other_version,
            &endless,
            &binary(2, 0x11, &four()),
            &binary(1, 0x41, &four()),
            &binary(1, 0x11, &four()[..11]),
            &binary(1, 0x21, &four()),
        ];
        for bytes in lines {
            assert!(parse(bytes).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic_and_none_beyond_the_limit_are_waited_for(
            begin in 0..3_usize,
            bytes in proptest::collection::vec(any::<u8>(), 0..5_000),
        ) {
            let bytes = [[&SIGNATURE[..], WORD, b""][begin], &bytes[..]].concat();
            if let Ok(None) = parse(&bytes) {
                prop_assert!(bytes.len() < FIXED + MAX_BEHIND);
            }
            if let Ok(Some(head)) = parse(&bytes) {
                prop_assert!(head.length <= bytes.len());
            }
        }
    }
}
