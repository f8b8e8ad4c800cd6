//! Heads of calls, in the compression of HTTP/2 (HPACK, RFC 7541). Only what
//! matters here is kept of them: whether a call is a question of CoreDNS. The table
//! that both sides keep has the lengths of what is in it, not the text.

use std::collections::VecDeque;

/// The method that CoreDNS calls.
pub(in crate::grpc) const PATH: &str = "/coredns.dns.DnsService/Query";
/// What the library that CoreDNS calls by says of itself first.
const LIBRARY: &[u8] = b"grpc-go/";
/// Bytes that the table may have: what a server says that says nothing.
const TABLE: u32 = 4096;
/// What each entry counts beside its text (section 4.1).
const OVERHEAD: u32 = 32;
/// The longest text that is read.
const LONGEST: usize = 16_384;

/// What matters of a head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Head {
    /// Its path is [`PATH`].
    pub(super) is_question: bool,
    /// It is of the library that CoreDNS calls by.
    pub(super) of_library: bool,
    /// It has fields that the library does not send by itself: of a proxy, which may
    /// bring calls of other clients on the same connection.
    pub(super) has_others: bool,
}

/// A head that cannot be read: the connection cannot go on.
#[derive(Debug)]
pub(super) struct Unreadable;

type Result<T> = std::result::Result<T, Unreadable>;

/// The names that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Path,
    Agent,
    Usual,
    Other,
}

/// What the library sends besides.
const USUAL: [&[u8]; 8] = [
    b":method",
    b":scheme",
    b":authority",
    b"content-type",
    b"te",
    b"grpc-timeout",
    b"grpc-accept-encoding",
    b"grpc-encoding",
];

impl Name {
    fn of(text: &[u8]) -> Self {
        match text {
            b":path" => Self::Path,
            b"user-agent" => Self::Agent,
            name if USUAL.contains(&name) => Self::Usual,
            _ => Self::Other,
        }
    }
}

/// A field, as far as it matters.
#[derive(Clone, Copy, Debug)]
struct Field {
    name: Name,
    name_length: u32,
    value_length: u32,
    /// Its value is the one that is looked for under this name.
    is_it: bool,
}

impl Field {
    fn new(name: Name, name_length: u32, value: &[u8]) -> Self {
        Self {
            name,
            name_length,
            value_length: length(value),
            is_it: match name {
                Name::Path => value == PATH.as_bytes(),
                Name::Agent => value.starts_with(LIBRARY),
                Name::Usual | Name::Other => false,
            },
        }
    }

    fn size(self) -> u32 {
        self.name_length + self.value_length + OVERHEAD
    }
}

/// Reads the heads of one connection, in their order.
#[derive(Debug)]
pub(super) struct Heads {
    /// The newest first.
    table: VecDeque<Field>,
    size: u32,
    most: u32,
    text: Vec<u8>,
}

impl Default for Heads {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            size: 0,
            most: TABLE,
            text: Vec::new(),
        }
    }
}

impl Heads {
    /// Reads one head.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Head> {
        let mut rest = block;
        let mut head = Head::default();
        let mut began = false;
        while let Some(first) = rest.first().copied() {
            let field = match first {
                0x80.. => {
                    let at = number(&mut rest, 7)?;
                    self.field(at)?
                }
                0x40.. => {
                    let field = self.literal(&mut rest, 6)?;
                    self.add(field);
                    field
                }
                0x20.. if !began => {
                    self.most = number(&mut rest, 5)?;
                    if self.most > TABLE {
                        return Err(Unreadable);
                    }
                    self.shrink(self.most);
                    continue;
                }
                0x20.. => return Err(Unreadable),
                _ => self.literal(&mut rest, 4)?,
            };
            began = true;
            match field.name {
                Name::Path => head.is_question = field.is_it,
                Name::Agent => head.of_library = field.is_it,
                Name::Usual => {}
                Name::Other => head.has_others = true,
            }
        }
        Ok(head)
    }

    /// A field whose value, and perhaps name, is in the head.
    fn literal(&mut self, rest: &mut &[u8], bits: u32) -> Result<Field> {
        let at = number(rest, bits)?;
        let (name, name_length) = if at == 0 {
            let text = text(rest, &mut self.text)?;
            (Name::of(text), length(text))
        } else {
            let named = self.field(at)?;
            (named.name, named.name_length)
        };
        let value = text(rest, &mut self.text)?;
        Ok(Field::new(name, name_length, value))
    }

    /// The field at a place of both tables (section 2.3.3).
    fn field(&self, at: u32) -> Result<Field> {
        let at = usize::try_from(at).map_err(|_| Unreadable)?;
        let before = at.checked_sub(1).ok_or(Unreadable)?;
        match STATIC.get(before) {
            Some((name, value)) => {
                let name = name.as_bytes();
                Ok(Field::new(Name::of(name), length(name), value.as_bytes()))
            }
            None => {
                let field = self.table.get(before - STATIC.len());
                field.copied().ok_or(Unreadable)
            }
        }
    }

    fn add(&mut self, field: Field) {
        // One that is too long for the table empties it, and stays outside.
        self.shrink(self.most.saturating_sub(field.size()));
        if field.size() <= self.most {
            self.size += field.size();
            self.table.push_front(field);
        }
    }

    fn shrink(&mut self, to: u32) {
        while self.size > to {
            let Some(oldest) = self.table.pop_back() else {
                return;
            };
            self.size -= oldest.size();
        }
    }
}

/// Of what is at most [`LONGEST`].
fn length(text: &[u8]) -> u32 {
    u32::try_from(text.len()).unwrap_or(u32::MAX / 4)
}

/// A number of which the first byte has so many bits (section 5.1).
fn number(rest: &mut &[u8], bits: u32) -> Result<u32> {
    let (first, mut after) = rest.split_first().ok_or(Unreadable)?;
    let most = (1u32 << bits) - 1;
    let mut number = u32::from(*first) & most;
    if number == most {
        // Longer numbers than these mean nothing here.
        for shift in [0, 7, 14] {
            let (byte, more) = after.split_first().ok_or(Unreadable)?;
            after = more;
            number += u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                *rest = after;
                return Ok(number);
            }
        }
        return Err(Unreadable);
    }
    *rest = after;
    Ok(number)
}

/// A text (section 5.2), unpacked into `space` where it is packed.
fn text<'s, 'a: 's>(rest: &mut &'a [u8], space: &'s mut Vec<u8>) -> Result<&'s [u8]> {
    let packed = rest.first().ok_or(Unreadable)? & 0x80 != 0;
    let length = usize::try_from(number(rest, 7)?).map_err(|_| Unreadable)?;
    let (text, after) = rest.split_at_checked(length).ok_or(Unreadable)?;
    *rest = after;
    if !packed {
        return Ok(text);
    }
    unpack(text, space)?;
    Ok(space)
}

/// Of each length in bits: the first code, and the place of its symbol among
/// [`CODES`]' symbols in the order of their codes.
struct Lengths {
    first: [u32; 32],
    place: [usize; 32],
    count: [u32; 32],
    symbols: [u16; 257],
}

/// Codes are given in the order of their lengths, and of symbols within a length.
const LENGTHS: Lengths = {
    let mut table = Lengths {
        first: [0; 32],
        place: [0; 32],
        count: [0; 32],
        symbols: [0; 257],
    };
    let (mut code, mut place, mut bits) = (0u32, 0, 1);
    while bits <= 30 {
        code <<= 1;
        table.first[bits] = code;
        table.place[bits] = place;
        let mut symbol = 0;
        while symbol < CODES.len() {
            if CODES[symbol] as usize == bits {
                table.symbols[place] = symbol as u16;
                table.count[bits] += 1;
                place += 1;
                code += 1;
            }
            symbol += 1;
        }
        bits += 1;
    }
    table
};

/// The symbol that ends a text; it is never in one.
const END: u16 = 256;

/// Unpacks a text of symbols of different lengths.
fn unpack(packed: &[u8], text: &mut Vec<u8>) -> Result<()> {
    text.clear();
    let (mut code, mut bits) = (0u32, 0usize);
    for bit in packed
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        code = code << 1 | u32::from(bit);
        bits += 1;
        let above = code.wrapping_sub(LENGTHS.first[bits]);
        if above < LENGTHS.count[bits] {
            let place = LENGTHS.place[bits] + above as usize;
            let symbol = LENGTHS.symbols[place];
            let Ok(symbol) = u8::try_from(symbol) else {
                debug_assert_eq!(symbol, END);
                return Err(Unreadable);
            };
            if text.len() == LONGEST {
                return Err(Unreadable);
            }
            text.push(symbol);
            (code, bits) = (0, 0);
        } else if bits == 30 {
            return Err(Unreadable);
        }
    }
    // What is left of the last byte is the beginning of the symbol of the end.
    match bits < 8 && code == (1 << bits) - 1 {
        true => Ok(()),
        false => Err(Unreadable),
    }
}

/// The bits of each symbol's code (appendix B).
#[rustfmt::skip]
const CODES: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The table that is always there (appendix A).
const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|byte| *byte != b' ').collect();
        let pairs = digits
            .chunks(2)
            .map(|pair| std::str::from_utf8(pair).unwrap());
        pairs
            .map(|pair| u8::from_str_radix(pair, 16).unwrap())
            .collect()
    }

    /// A field that is not added to the table.
    fn plain(name: &str, value: &str) -> Vec<u8> {
        let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
        [vec![0], text(name), text(value)].concat()
    }

    /// The requests and answers of RFC 7541, appendix C.3, C.4 and C.6: what the
    /// table has after each.
    #[test]
    fn the_table_is_as_the_specification_has_it() {
        let plain = [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ];
        let packed = [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ];
        for requests in [plain, packed] {
            let mut heads = Heads::default();
            for (request, size) in requests.into_iter().zip([57, 110, 164]) {
                let head = heads.read(&bytes(request)).unwrap();
                assert!(!head.is_question && !head.of_library, "{request}");
                assert_eq!(heads.size, size, "{request}");
            }
        }
        let answers = [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad17\
             1863c78f0b97c8e9ae82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6\
             c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ];
        // Of 256 bytes, so that what is old goes.
        let mut heads = Heads::default();
        heads.read(&bytes("3fe101")).unwrap();
        for (answer, size) in answers.into_iter().zip([222, 222, 215]) {
            heads.read(&bytes(answer)).unwrap();
            assert_eq!(heads.size, size, "{answer}");
        }
    }

    #[test]
    fn questions_are_told_from_other_calls() {
        let mut heads = Heads::default();
        let mut read = |fields: &[Vec<u8>]| {
            let head = heads.read(&fields.concat()).unwrap();
            (head.is_question, head.of_library)
        };
        let path = plain(":path", PATH);
        let agent = plain("user-agent", "grpc-go/1.79.1");
        assert_eq!(read(&[path.clone(), agent.clone()]), (true, true));
        assert_eq!(read(&[agent.clone(), path.clone()]), (true, true));
        assert_eq!(read(std::slice::from_ref(&path)), (true, false));
        assert_eq!(read(&[agent, plain(":path", "/health")]), (false, true));
        assert_eq!(
            read(&[path, plain("user-agent", "grpc-node")]),
            (true, false)
        );
        assert_eq!(read(&[]), (false, false));
        // By the tables: `:path` and `user-agent` have the places 4 and 58.
        let named = |place: u8, value: &str| {
            let length = u8::try_from(value.len()).unwrap();
            [&[0x40 | place, length], value.as_bytes()].concat()
        };
        let both = [named(4, PATH), named(58, "grpc-go/1.79.1")];
        assert_eq!(read(&both), (true, true));
        assert_eq!(read(&[vec![0x80 | 62, 0x80 | 63]]), (true, true));
        assert_eq!(read(&[vec![0x80 | 4, 0x80 | 62]]), (false, true));
        // A name from the client's own table.
        let length = u8::try_from(PATH.len()).unwrap();
        let named = [&[0x7f, 0, length], PATH.as_bytes()].concat();
        assert_eq!(read(&[named]), (true, false));
    }

    #[test]
    fn one_that_is_longer_than_the_table_stays_outside() {
        let mut heads = Heads::default();
        heads
            .read(&bytes("828684418cf1e3c2e5f23a6ba0ab90f4ff"))
            .unwrap();
        assert_eq!(heads.size, 57);
        let long = [&[0x40, 1, b'a', 0x7f, 0x81, 0x1f][..], &[b'b'; 4096]].concat();
        heads.read(&long).unwrap();
        assert_eq!((heads.size, heads.table.len()), (0, 0));
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        for hex in [
            // No such field.
            "80",
            "be",
            "ff00",
            "7e00",
            // Numbers and texts that are cut off, or have no end.
            "ff",
            "ff80",
            "ffffffff7f",
            "40",
            "4001",
            "400161",
            "40016105",
            "007fffffffff0f",
            // A table larger than it may be, or after a field.
            "3fe21f",
            "8220",
            // Padding that is too long, or no end of a text.
            "008300ffff00",
            "0081ff00",
            "00811800",
            "008400000000ff00",
            // The end of a text in a text.
            "0084ffffffff00",
        ] {
            let block = bytes(hex);
            assert!(Heads::default().read(&block).is_err(), "{hex}");
        }
    }

    proptest::proptest! {
        /// Any bytes are read or refused, and the table never has more than it may.
        #[test]
        fn any_bytes_are_read_or_refused(blocks: Vec<Vec<u8>>) {
            let mut heads = Heads::default();
            for block in blocks {
                let _ = heads.read(&block);
                let size: u32 = heads.table.iter().map(|field| field.size()).sum();
                proptest::prop_assert_eq!(heads.size, size);
                proptest::prop_assert!(heads.size <= heads.most);
            }
        }
    }
}
