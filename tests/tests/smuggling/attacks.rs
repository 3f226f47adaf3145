//! Messages in which one reader sees one request and another sees two.

/// What stands inside, to be taken for a request of its own by whoever reads the message the other way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// A whole request, which publishes.
    Publish,
    /// A whole request, which is refused and whose sender's address the audit log then tells.
    Intrude,
    /// The beginning of a request, which swallows the next one on the same connection and answers in its place.
    Prefix,
}

impl Hidden {
    pub(crate) const ALL: [Self; 3] = [Self::Publish, Self::Intrude, Self::Prefix];
}

/// What an attack is made of.
pub(crate) struct Parts<'a> {
    /// Where the outer request goes.
    pub(crate) target: &'a str,
    /// Its header lines, each with its end.
    pub(crate) headers: &'a str,
    /// What is hidden in it.
    pub(crate) hidden: &'a str,
}

/// How the server itself is to take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// 400, or another 4xx or 5xx where its text says more, and the end of the connection.
    Refused,
    /// Read in the one way that RFC 9112 (section 6.3) leaves, answered, and the end of the connection.
    Closed,
    /// It is one message to every reader, and what is hidden is part of its body.
    Whole,
    /// Its body can't be as large as it says; when no more comes it is refused.
    Unfinished,
    /// It ends early, and what stands behind it is no request: nothing of it is carried out.
    Garbage,
    /// It opens a stream, whose connection takes nothing more.
    Streamed,
    /// There is nothing hidden: the second request is one to every reader.
    Pipelined,
}

/// A message and what it tries.
pub(crate) struct Attack {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) taken: Taken,
}

/// Header lines that some readers take for `Transfer-Encoding: chunked` and others don't, and how the server takes
/// them beside a `Content-Length`.
const CODINGS: &[(&str, Taken)] = &[
    ("Transfer-Encoding: chunked", Taken::Closed),
    ("Transfer-Encoding:chunked", Taken::Closed),
    ("Transfer-Encoding:\tchunked\t", Taken::Closed),
    ("tRANSFER-eNCODING: CHUNKED", Taken::Closed),
    // A single line feed may end a line (RFC 9112, section 2.2), so that this is the coding.
    ("X-Filler: a\nTransfer-Encoding: chunked", Taken::Closed),
    ("Transfer-Encoding : chunked", Taken::Refused),
    ("Transfer-Encoding\t: chunked", Taken::Refused),
    ("Transfer-Encoding\u{b}: chunked", Taken::Refused),
    ("Transfer-Encoding: xchunked", Taken::Refused),
    ("Transfer-Encoding: x chunked", Taken::Refused),
    ("Transfer-Encoding: chunkedx", Taken::Refused),
    ("Transfer-Encoding: \"chunked\"", Taken::Refused),
    ("Transfer-Encoding: chunked;q=1", Taken::Refused),
    ("Transfer-Encoding: chunked\u{b}", Taken::Refused),
    ("Transfer-Encoding: \u{c}chunked", Taken::Refused),
    ("Transfer-Encoding: chunked\0", Taken::Refused),
    ("Transfer-Encoding: chunked\r\r", Taken::Refused),
    ("Transfer-Encoding: chunked, identity", Taken::Refused),
    ("Transfer-Encoding: identity, chunked", Taken::Refused),
    ("Transfer-Encoding: chunked, chunked", Taken::Refused),
    ("Transfer-Encoding: gzip, chunked", Taken::Refused),
    ("Transfer-Encoding: ,chunked", Taken::Refused),
    ("Transfer-Encoding: identity", Taken::Refused),
    ("Transfer-Encoding: ", Taken::Refused),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        Taken::Refused,
    ),
    (
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        Taken::Refused,
    ),
    (
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        Taken::Refused,
    ),
    (
        "Transfer-Encoding: chunked\r\ntransfer-encoding: x",
        Taken::Refused,
    ),
    ("Transfer-Encoding:\r\n chunked", Taken::Refused),
    ("Transfer-Encoding: x\r\n\tchunked", Taken::Refused),
    ("X-Filler: a\r\n Transfer-Encoding: chunked", Taken::Refused),
    (" Transfer-Encoding: chunked", Taken::Refused),
    ("X-Filler: a\rTransfer-Encoding: chunked", Taken::Refused),
    // Another header to all who do not mend names.
    ("Transfer_Encoding: chunked", Taken::Whole),
    ("X-Transfer-Encoding: chunked", Taken::Whole),
];

/// Everything that is tried, with this hidden inside.
pub(crate) fn attacks(parts: &Parts<'_>) -> Vec<Attack> {
    let mut attacks = Vec::new();
    lengths_and_codings(parts, &mut attacks);
    lengths(parts, &mut attacks);
    chunks(parts, &mut attacks);
    heads(parts, &mut attacks);
    attacks
}

fn post(parts: &Parts<'_>, behind: &str) -> Vec<u8> {
    let Parts {
        target, headers, ..
    } = parts;
    format!("POST {target} HTTP/1.1\r\nHost: tidings.test\r\n{headers}{behind}").into_bytes()
}

/// A length and a coding that disagree: CL.TE, TE.CL and, with codings in disguise, TE.TE.
fn lengths_and_codings(parts: &Parts<'_>, attacks: &mut Vec<Attack>) {
    let hidden = parts.hidden;
    let length = hidden.len();
    let size = format!("{length:x}\r\n");
    for &(coding, taken) in CODINGS {
        let orders = |length: usize, body: &str| {
            [
                format!("Content-Length: {length}\r\n{coding}\r\n\r\n{body}"),
                format!("{coding}\r\nContent-Length: {length}\r\n\r\n{body}"),
            ]
        };
        // By the length all of it is the body, by the coding nothing is.
        let by_coding = orders(length + 5, &format!("0\r\n\r\n{hidden}"));
        // By the coding all of it is the body, by the length only the first line is.
        let by_length = orders(size.len(), &format!("{size}{hidden}\r\n0\r\n\r\n"));
        let no_length = format!("{coding}\r\n\r\n0\r\n\r\n{hidden}");
        let both = by_coding.into_iter().chain(by_length);
        for (number, behind) in both.enumerate() {
            let kind = ["CL.TE", "TE first CL.TE", "CL first TE.CL", "TE.CL"][number];
            // Without a coding the length holds, and what lies behind it is the next request.
            let taken = match taken {
                Taken::Whole if number >= 2 => Taken::Pipelined,
                taken => taken,
            };
            // What begins with a blank would continue the line before, whichever that is.
            attacks.push(Attack {
                name: format!("{kind}: {coding:?}"),
                bytes: post(parts, &behind),
                taken,
            });
        }
        let taken = match taken {
            Taken::Refused => Taken::Refused,
            _ => Taken::Pipelined,
        };
        attacks.push(Attack {
            name: format!("TE alone: {coding:?}"),
            bytes: post(parts, &no_length),
            taken,
        });
    }
}

/// Lengths that are none, or several.
fn lengths(parts: &Parts<'_>, attacks: &mut Vec<Attack>) {
    let length = parts.hidden.len();
    let beyond = u128::from(u64::MAX) + 1 + length as u128;
    let lines = [
        (format!("Content-Length: {length}\r\nContent-Length: 0"), Taken::Refused),
        (format!("Content-Length: 0\r\nContent-Length: {length}"), Taken::Refused),
        (format!("Content-Length: 0\r\ncontent-length: {length}"), Taken::Refused),
        (format!("Content-Length: {length}, 0"), Taken::Refused),
        (format!("Content-Length: 0, {length}"), Taken::Refused),
        (format!("Content-Length: {length}, {length}"), Taken::Refused),
        (format!("Content-Length: +{length}"), Taken::Refused),
        ("Content-Length: +0".to_owned(), Taken::Refused),
        ("Content-Length: -0".to_owned(), Taken::Refused),
        ("Content-Length: -1".to_owned(), Taken::Refused),
        (format!("Content-Length: 0x{length:x}"), Taken::Refused),
        (format!("Content-Length: {length}.0"), Taken::Refused),
        (format!("Content-Length: {length};0"), Taken::Refused),
        (format!("Content-Length: {length} 0"), Taken::Refused),
        (format!("Content-Length: {length}_0"), Taken::Refused),
        ("Content-Length: 0e1".to_owned(), Taken::Refused),
        (format!("Content-Length: \u{b}{length}"), Taken::Refused),
        (format!("Content-Length: {length}\0"), Taken::Refused),
        (format!("Content-Length: \"{length}\""), Taken::Refused),
        ("Content-Length: ".to_owned(), Taken::Refused),
        (format!("Content-Length: {beyond}"), Taken::Refused),
        (format!("Content-Length : {length}"), Taken::Refused),
        (format!("Content-Length\t: {length}"), Taken::Refused),
        (format!("Content-Length:\r\n {length}"), Taken::Refused),
        (format!("X-Filler: a\r\n Content-Length: {length}"), Taken::Refused),
        (format!("X-Filler: a\rContent-Length: {length}"), Taken::Refused),
        (format!("Content-Length: 0\rContent-Length: {length}"), Taken::Refused),
        (format!("Content-Length {length}"), Taken::Refused),
        // Twice the same is once (RFC 9112, section 6.3), and zeros in front change no number.
        (format!("Content-Length: {length}\r\nContent-Length: {length}"), Taken::Whole),
        (format!("Content-Length: 000{length}"), Taken::Whole),
        (format!("Content-Length:\t{length}\t"), Taken::Whole),
        (format!("X-Filler: a\nContent-Length: {length}"), Taken::Whole),
        (format!("Content-Length: {length}\r\nExpect: 100-continue"), Taken::Whole),
        (format!("Content-Length: {length}\r\nExpect: 100-continue\r\nExpect: x"), Taken::Whole),
        (format!("Content-Length: {length}\r\nExpect: x"), Taken::Whole),
        (format!("Content-Length: {length}\r\nConnection: Content-Length"), Taken::Whole),
        (
            format!("Content-Length: {length}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"),
            Taken::Whole,
        ),
        (
            format!("Content-Length: {length}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="),
            Taken::Whole,
        ),
        // One request behind the other, to every reader.
        (format!("Content_Length: {length}"), Taken::Pipelined),
        ("Content-Length: 0\r\nExpect: 100-continue".to_owned(), Taken::Pipelined),
        (
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA".to_owned(),
            Taken::Pipelined,
        ),
    ];
    for (line, taken) in lines {
        attacks.push(Attack {
            name: format!("{line:?}"),
            bytes: post(parts, &format!("{line}\r\n\r\n{}", parts.hidden)),
            taken,
        });
    }
}

/// Chunks whose sizes, extensions or ends are not what they must be.
#[expect(clippy::too_many_lines, reason = "a list")]
fn chunks(parts: &Parts<'_>, attacks: &mut Vec<Attack>) {
    let hidden = parts.hidden;
    let length = hidden.len();
    let beyond = u128::from(u64::MAX) + 1 + length as u128;
    let bodies = [
        (
            "a sign",
            format!("+{length:x}\r\n{hidden}\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        ("a minus", format!("-0\r\n\r\n{hidden}"), Taken::Refused),
        (
            "a prefix",
            format!("0x{length:x}\r\n{hidden}\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "a blank in front",
            format!(" {length:x}\r\n{hidden}\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "an underscore",
            format!("{length:x}_\r\n{hidden}\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "beyond 64 bits",
            format!("{beyond:x}\r\n{hidden}\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "all bits",
            format!("ffffffffffffffff\r\n{hidden}\r\n0\r\n\r\n"),
            Taken::Unfinished,
        ),
        (
            "no size",
            format!("\r\n{hidden}\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "line feeds only",
            format!("{length:x}\n{hidden}\n0\n\n"),
            Taken::Refused,
        ),
        (
            "a line feed behind the size",
            format!("{length:x}\n{hidden}\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "a line feed behind the data",
            format!("{length:x}\r\n{hidden}\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "nothing behind the data",
            format!("{length:x}\r\n{hidden}0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "more data than the size",
            format!("1\r\n{hidden}\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "two bytes behind the data",
            format!("1\r\naXX0\r\n\r\n{hidden}"),
            Taken::Refused,
        ),
        (
            "carriage returns only",
            format!("0\r\r{hidden}"),
            Taken::Refused,
        ),
        (
            "an end of line feeds",
            format!("0\n\n{hidden}"),
            Taken::Refused,
        ),
        (
            "an end of mixed lines",
            format!("0\r\n\n{hidden}"),
            Taken::Garbage,
        ),
        (
            "a carriage return too many",
            format!("0\r\r\n\r\n{hidden}"),
            Taken::Refused,
        ),
        (
            "an extension that a line feed ends",
            format!("0;a\n\r\n{hidden}"),
            Taken::Refused,
        ),
        (
            "an extension with a line feed",
            format!("1;a\nb\r\nc\r\n0\r\n\r\n{hidden}"),
            Taken::Refused,
        ),
        (
            "an extension with a carriage return",
            format!("1;a\rb\r\nc\r\n0\r\n\r\n{hidden}"),
            Taken::Refused,
        ),
        (
            "an extension without an end",
            format!("1;{}\r\na\r\n0\r\n\r\n{hidden}", "x".repeat(200_000)),
            Taken::Refused,
        ),
        (
            "an extension in quotes over lines",
            format!("1;a=\"\r\n{hidden}\"\r\n0\r\n\r\n"),
            Taken::Refused,
        ),
        (
            "an extension",
            format!("{length:x};a=b;c=\"d\"\r\n{hidden}\r\n0;e\r\n\r\n"),
            Taken::Whole,
        ),
        (
            "zeros in front",
            format!("000{length:x}\r\n{hidden}\r\n000\r\n\r\n"),
            Taken::Whole,
        ),
        (
            "a body without end",
            format!("{length:x}\r\n{hidden}\r\n"),
            Taken::Whole,
        ),
        (
            "trailers",
            format!(
                "0\r\nContent-Length: {length}\r\nTransfer-Encoding: x\r\nHost: other\r\n\r\n{hidden}"
            ),
            Taken::Pipelined,
        ),
    ];
    for (what, body, taken) in bodies {
        attacks.push(Attack {
            name: format!("chunks: {what}"),
            bytes: post(parts, &format!("Transfer-Encoding: chunked\r\n\r\n{body}")),
            taken,
        });
    }
}

/// Methods, versions and line ends.
#[expect(clippy::too_many_lines, reason = "a list")]
fn heads(parts: &Parts<'_>, attacks: &mut Vec<Attack>) {
    let Parts {
        target,
        headers,
        hidden,
    } = parts;
    let length = hidden.len();
    let head = |first: &str| format!("{first}\r\nHost: tidings.test\r\n{headers}");
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    let counted = format!("Content-Length: {length}\r\n\r\n{hidden}");
    let mut add = |name: &str, text: String, taken| {
        attacks.push(Attack {
            name: name.to_owned(),
            bytes: text.into_bytes(),
            taken,
        });
    };
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PATCH", "BREW"] {
        let head = head(&format!("{method} {target} HTTP/1.1"));
        add(
            &format!("a length on {method}"),
            format!("{head}{counted}"),
            Taken::Whole,
        );
        add(
            &format!("chunks on {method}"),
            format!("{head}{chunked}"),
            Taken::Whole,
        );
    }
    let stream = head(&format!("GET {target}/stream HTTP/1.1"));
    add(
        "a body of a stream's request",
        format!("{stream}{counted}"),
        Taken::Streamed,
    );
    let old = head(&format!("POST {target} HTTP/1.0"));
    add(
        "a coding of HTTP/1.0",
        format!("{old}Connection: keep-alive\r\n{chunked}"),
        Taken::Refused,
    );
    add(
        "a length of HTTP/1.0",
        format!("{old}Connection: keep-alive\r\n{counted}"),
        Taken::Whole,
    );
    add(
        "no length of HTTP/1.0",
        format!("{old}\r\n{hidden}"),
        Taken::Closed,
    );
    for first in [
        format!("POST {target} HTTP/1.1 HTTP/1.1"),
        format!("POST {target} HTTP/1.11"),
        format!("POST {target} HTTP/01.1"),
        format!("POST {target} http/1.1"),
        format!("POST\t{target}\tHTTP/1.1"),
        format!("POST {target}\rX HTTP/1.1"),
        format!("POST {target}"),
    ] {
        add(
            &format!("{first:?}"),
            format!("{}{counted}", head(&first)),
            Taken::Refused,
        );
    }
    let two_hosts = head(&format!("POST {target} HTTP/1.1")) + "Host: other\r\n";
    add("two hosts", format!("{two_hosts}{counted}"), Taken::Refused);
    let whole = head(&format!("POST {target} HTTP/1.1"));
    let of_line_feeds = format!("{whole}Content-Length: {length}\r\n\r\n").replace("\r\n", "\n");
    add(
        "line feeds only",
        format!("{of_line_feeds}{hidden}"),
        Taken::Whole,
    );
    let of_returns = format!("{whole}Content-Length: {length}\r\n\r\n").replace("\r\n", "\r");
    add(
        "carriage returns only",
        format!("{of_returns}{hidden}"),
        Taken::Refused,
    );
    add(
        "an end of mixed lines",
        format!("{whole}Content-Length: {length}\n\r\n{hidden}"),
        Taken::Whole,
    );
    add(
        "a head that a line feed ends",
        format!("{whole}X: a\r\n\nContent-Length: {length}\r\n\r\n{hidden}"),
        Taken::Garbage,
    );
    add(
        "a carriage return for a line",
        format!("{whole}X: a\r\n\rContent-Length: {length}\r\n\r\n{hidden}"),
        Taken::Refused,
    );
    add(
        "a value with a NUL",
        format!("{whole}X: a\0b\r\n{counted}"),
        Taken::Refused,
    );
    add(
        "a name with a blank",
        format!("{whole}X Y: a\r\n{counted}"),
        Taken::Refused,
    );
    add(
        "no name",
        format!("{whole}: a\r\n{counted}"),
        Taken::Refused,
    );
}
