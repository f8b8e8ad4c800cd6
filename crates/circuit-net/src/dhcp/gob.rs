//! Gob, the encoding of Go's net/rpc, as far as the stock plugin's messages
//! need it: everything but complex numbers, interfaces and types with an
//! encoding of their own.
//!
//! A stream describes its types before it uses them, so what a newer sender
//! adds to a struct is read and passed over.

use std::collections::HashMap;
use std::io::{self, Read, Write};

/// A longer message is refused; a real one has a few kilobytes.
const MAX_MESSAGE: u64 = 4 << 20;

/// How deep values may be in each other.
const MAX_DEPTH: usize = 16;

/// Types that everybody knows.
pub(super) mod id {
    pub(in crate::dhcp) const BOOL: i64 = 1;
    pub(in crate::dhcp) const INT: i64 = 2;
    pub(in crate::dhcp) const UINT: i64 = 3;
    pub(in crate::dhcp) const FLOAT: i64 = 4;
    pub(in crate::dhcp) const BYTES: i64 = 5;
    pub(in crate::dhcp) const STRING: i64 = 6;
    pub(super) const WIRE_TYPE: i64 = 16;
    pub(super) const ARRAY_TYPE: i64 = 17;
    pub(super) const COMMON_TYPE: i64 = 18;
    pub(super) const SLICE_TYPE: i64 = 19;
    pub(super) const STRUCT_TYPE: i64 = 20;
    pub(super) const FIELD_TYPE: i64 = 21;
    pub(super) const FIELD_TYPES: i64 = 22;
    pub(super) const MAP_TYPE: i64 = 23;
    /// The first one of a stream's own.
    pub(in crate::dhcp) const FIRST: i64 = 65;
}

/// A type of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Type {
    /// Of elements of a type; an array is written like a slice.
    List(i64),
    Map(i64, i64),
    /// Fields with their types.
    Struct(Vec<(String, i64)>),
}

/// A value. Fields of structs that are zero are not written.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Bytes(Vec<u8>),
    Text(String),
    List(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Struct(Vec<(String, Value)>),
}

impl Value {
    /// A field of a struct.
    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        let Self::Struct(fields) = self else {
            return None;
        };
        let found = fields.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    /// A text of a struct, empty when it is not there.
    pub(super) fn text(&self, name: &str) -> &str {
        match self.field(name) {
            Some(Self::Text(text)) => text,
            _ => "",
        }
    }

    /// The elements of a list of a struct.
    pub(super) fn list(&self, name: &str) -> &[Value] {
        match self.field(name) {
            Some(Self::List(values)) => values,
            _ => &[],
        }
    }

    /// The bytes of a struct's field, empty when it is not there.
    pub(super) fn bytes(&self, name: &str) -> &[u8] {
        match self.field(name) {
            Some(Self::Bytes(bytes)) => bytes,
            _ => &[],
        }
    }

    fn is_zero(&self) -> bool {
        match self {
            Self::Bool(value) => !value,
            Self::Int(value) => *value == 0,
            Self::Uint(value) => *value == 0,
            Self::Float(value) => *value == 0.0,
            Self::Bytes(value) => value.is_empty(),
            Self::Text(value) => value.is_empty(),
            Self::List(value) => value.is_empty(),
            Self::Map(value) => value.is_empty(),
            // A struct is written even if it is empty.
            Self::Struct(_) => false,
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("gob: {what}"))
}

/// The types of a stream.
#[derive(Debug)]
struct Types(HashMap<i64, Type>);

impl Types {
    fn new() -> Self {
        let list = |fields: &[(&str, i64)]| {
            let fields = fields.iter();
            Type::Struct(fields.map(|(name, id)| ((*name).to_owned(), *id)).collect())
        };
        let common = ("CommonType", id::COMMON_TYPE);
        Self(HashMap::from([
            (
                id::WIRE_TYPE,
                list(&[
                    ("ArrayT", id::ARRAY_TYPE),
                    ("SliceT", id::SLICE_TYPE),
                    ("StructT", id::STRUCT_TYPE),
                    ("MapT", id::MAP_TYPE),
                ]),
            ),
            (
                id::ARRAY_TYPE,
                list(&[common, ("Elem", id::INT), ("Len", id::INT)]),
            ),
            (
                id::COMMON_TYPE,
                list(&[("Name", id::STRING), ("Id", id::INT)]),
            ),
            (id::SLICE_TYPE, list(&[common, ("Elem", id::INT)])),
            (id::STRUCT_TYPE, list(&[common, ("Field", id::FIELD_TYPES)])),
            (
                id::FIELD_TYPE,
                list(&[("Name", id::STRING), ("Id", id::INT)]),
            ),
            (id::FIELD_TYPES, Type::List(id::FIELD_TYPE)),
            (
                id::MAP_TYPE,
                list(&[common, ("Key", id::INT), ("Elem", id::INT)]),
            ),
        ]))
    }
}

/// Reads a stream.
pub(super) struct Decoder<R> {
    reader: R,
    types: Types,
}

impl<R: Read> Decoder<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            types: Types::new(),
        }
    }

    /// The next value; `None` at the end of the stream.
    pub(super) fn next(&mut self) -> io::Result<Option<Value>> {
        loop {
            let Some(length) = read_length(&mut self.reader)? else {
                return Ok(None);
            };
            if length > MAX_MESSAGE {
                return Err(broken("a message is too long"));
            }
            let mut message = Vec::new();
            let read = (&mut self.reader).take(length).read_to_end(&mut message)?;
            if read as u64 != length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut input = Input {
                bytes: &message,
                types: &self.types,
            };
            let kind = input.int()?;
            if kind >= 0 {
                return input.top(kind).map(Some);
            }
            let described = input.value(id::WIRE_TYPE, 0)?;
            let read = read_type(&described).ok_or_else(|| broken("a type is not known here"))?;
            if self.types.0.len() >= 1024 || kind > -id::FIRST + 1 {
                return Err(broken("a type is not a stream's own"));
            }
            self.types.0.insert(-kind, read);
        }
    }
}

/// Reads the type that a `wireType` describes.
fn read_type(described: &Value) -> Option<Type> {
    let int = |value: &Value, name: &str| match value.field(name) {
        Some(Value::Int(number)) => Some(*number),
        _ => None,
    };
    for list in ["SliceT", "ArrayT"] {
        if let Some(list) = described.field(list) {
            return Some(Type::List(int(list, "Elem")?));
        }
    }
    if let Some(map) = described.field("MapT") {
        return Some(Type::Map(int(map, "Key")?, int(map, "Elem")?));
    }
    let fields = described.field("StructT")?.list("Field").iter();
    fields
        .map(|field| Some((field.text("Name").to_owned(), int(field, "Id")?)))
        .collect::<Option<_>>()
        .map(Type::Struct)
}

/// Reads a message's length; `None` at the end of the stream.
fn read_length(reader: &mut impl Read) -> io::Result<Option<u64>> {
    let mut first = [0];
    loop {
        match reader.read(&mut first) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let mut bytes = [0; 8];
    let count = match first {
        [small @ 0..128] => return Ok(Some(small.into())),
        [large] => usize::from(large.wrapping_neg()),
    };
    let place = bytes.get_mut(8_usize.wrapping_sub(count)..);
    let place = place.ok_or_else(|| broken("a number is too long"))?;
    reader.read_exact(place)?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

struct Input<'a> {
    bytes: &'a [u8],
    types: &'a Types,
}

impl Input<'_> {
    /// A value that is in no other.
    fn top(&mut self, kind: i64) -> io::Result<Value> {
        if !matches!(self.types.0.get(&kind), Some(Type::Struct(_))) && self.uint()? != 0 {
            return Err(broken("a value does not begin as it should"));
        }
        self.value(kind, 0)
    }

    fn value(&mut self, kind: i64, depth: usize) -> io::Result<Value> {
        if depth > MAX_DEPTH {
            return Err(broken("values are too deep in each other"));
        }
        Ok(match kind {
            id::BOOL => Value::Bool(self.uint()? != 0),
            id::INT => Value::Int(self.int()?),
            id::UINT => Value::Uint(self.uint()?),
            id::FLOAT => Value::Float(f64::from_bits(self.uint()?.swap_bytes())),
            id::BYTES => Value::Bytes(self.run()?.to_vec()),
            id::STRING => Value::Text(String::from_utf8_lossy(self.run()?).into_owned()),
            _ => {
                let types = self.types;
                let found = types.0.get(&kind);
                self.composite(found.ok_or_else(|| broken("a type is missing"))?, depth + 1)?
            }
        })
    }

    fn composite(&mut self, kind: &Type, depth: usize) -> io::Result<Value> {
        match kind {
            Type::List(element) => {
                let count = self.count()?;
                let values = (0..count).map(|_| self.value(*element, depth));
                Ok(Value::List(values.collect::<io::Result<_>>()?))
            }
            Type::Map(key, element) => {
                let count = self.count()?;
                let pair = |_| Ok((self.value(*key, depth)?, self.value(*element, depth)?));
                Ok(Value::Map((0..count).map(pair).collect::<io::Result<_>>()?))
            }
            Type::Struct(fields) => {
                let (mut values, mut at) = (Vec::new(), 0_usize);
                loop {
                    let step = usize::try_from(self.uint()?).unwrap_or(usize::MAX);
                    if step == 0 {
                        return Ok(Value::Struct(values));
                    }
                    at = at.saturating_add(step);
                    let field = fields.get(at - 1);
                    let (name, kind) = field.ok_or_else(|| broken("a field is missing"))?;
                    values.push((name.clone(), self.value(*kind, depth)?));
                }
            }
        }
    }

    /// How many elements follow, each of at least a byte.
    fn count(&mut self) -> io::Result<usize> {
        let count = usize::try_from(self.uint()?).ok();
        count
            .filter(|count| *count <= self.bytes.len())
            .ok_or_else(|| broken("a list is cut short"))
    }

    fn run(&mut self) -> io::Result<&[u8]> {
        let length = self.count()?;
        let (run, rest) = self.bytes.split_at(length);
        self.bytes = rest;
        Ok(run)
    }

    fn uint(&mut self) -> io::Result<u64> {
        read_length(&mut self.bytes)?.ok_or_else(|| broken("a message is cut short"))
    }

    fn int(&mut self) -> io::Result<i64> {
        let bits = self.uint()?;
        let number = (bits >> 1) as i64;
        Ok(if bits & 1 == 0 { number } else { !number })
    }
}

/// Writes a stream.
pub(super) struct Encoder<W> {
    writer: W,
    types: Types,
}

impl<W: Write> Encoder<W> {
    /// Begins a stream of types with their numbers and names.
    pub(super) fn new(writer: W) -> Self {
        Self {
            writer,
            types: Types::new(),
        }
    }

    /// Describes a type to the reader.
    pub(super) fn describe(&mut self, number: i64, name: &str, kind: Type) -> io::Result<()> {
        let text = |name: &str, text: &str| (name.to_owned(), Value::Text(text.to_owned()));
        let int = |name: &str, number| (name.to_owned(), Value::Int(number));
        let common = Value::Struct(vec![text("Name", name), int("Id", number)]);
        let mut fields = vec![("CommonType".to_owned(), common)];
        let which = match &kind {
            Type::List(element) => {
                fields.push(int("Elem", *element));
                "SliceT"
            }
            Type::Map(key, element) => {
                fields.extend([int("Key", *key), int("Elem", *element)]);
                "MapT"
            }
            Type::Struct(own) => {
                let own = own.iter();
                let own =
                    own.map(|(name, id)| Value::Struct(vec![text("Name", name), int("Id", *id)]));
                fields.push(("Field".to_owned(), Value::List(own.collect())));
                "StructT"
            }
        };
        let described = Value::Struct(vec![(which.to_owned(), Value::Struct(fields))]);
        let mut message = Vec::new();
        put_int(&mut message, -number);
        self.put(&mut message, id::WIRE_TYPE, &described)?;
        self.types.0.insert(number, kind);
        self.send(&message)
    }

    /// Writes a value of a type.
    pub(super) fn write(&mut self, number: i64, value: &Value) -> io::Result<()> {
        let mut message = Vec::new();
        put_int(&mut message, number);
        if !matches!(self.types.0.get(&number), Some(Type::Struct(_))) {
            put_uint(&mut message, 0);
        }
        self.put(&mut message, number, value)?;
        self.send(&message)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut whole = Vec::with_capacity(message.len() + 9);
        put_uint(&mut whole, message.len() as u64);
        whole.extend(message);
        self.writer.write_all(&whole)
    }

    fn put(&self, out: &mut Vec<u8>, kind: i64, value: &Value) -> io::Result<()> {
        match (value, self.types.0.get(&kind)) {
            (Value::Bool(value), _) => put_uint(out, (*value).into()),
            (Value::Int(value), _) => put_int(out, *value),
            (Value::Uint(value), _) => put_uint(out, *value),
            (Value::Float(value), _) => put_uint(out, value.to_bits().swap_bytes()),
            (Value::Bytes(bytes), _) => put_run(out, bytes),
            (Value::Text(text), _) => put_run(out, text.as_bytes()),
            (Value::List(values), Some(Type::List(element))) => {
                put_uint(out, values.len() as u64);
                for value in values {
                    self.put(out, *element, value)?;
                }
            }
            (Value::Map(pairs), Some(Type::Map(key, element))) => {
                put_uint(out, pairs.len() as u64);
                for (first, second) in pairs {
                    self.put(out, *key, first)?;
                    self.put(out, *element, second)?;
                }
            }
            (Value::Struct(_), Some(Type::Struct(fields))) => {
                let mut last = 0;
                for ((name, kind), at) in fields.iter().zip(1_u64..) {
                    let Some(value) = value.field(name).filter(|value| !value.is_zero()) else {
                        continue;
                    };
                    put_uint(out, at - last);
                    last = at;
                    self.put(out, *kind, value)?;
                }
                put_uint(out, 0);
            }
            _ => return Err(broken("a value is not of its type")),
        }
        Ok(())
    }
}

fn put_uint(out: &mut Vec<u8>, value: u64) {
    if let Ok(small @ 0..128) = u8::try_from(value) {
        out.push(small);
        return;
    }
    let bytes = value.to_be_bytes();
    let skipped = value.leading_zeros() as usize / 8;
    out.push(((8 - skipped) as u8).wrapping_neg());
    out.extend(&bytes[skipped..]);
}

fn put_int(out: &mut Vec<u8>, value: i64) {
    put_uint(out, ((value << 1) ^ (value >> 63)) as u64);
}

fn put_run(out: &mut Vec<u8>, bytes: &[u8]) {
    put_uint(out, bytes.len() as u64);
    out.extend(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What Go 1.25 writes for `struct Point { X, Y int }{22, 33}`, from the
    /// documentation of its package encoding/gob.
    const POINT: &[u8] = &[
        0x1f, 0xff, 0x81, 0x03, 0x01, 0x01, 0x05, 0x50, 0x6f, 0x69, 0x6e, 0x74, 0x01, 0xff, 0x82,
        0x00, 0x01, 0x02, 0x01, 0x01, 0x58, 0x01, 0x04, 0x00, 0x01, 0x01, 0x59, 0x01, 0x04, 0x00,
        0x00, 0x00, 0x07, 0xff, 0x82, 0x01, 0x2c, 0x01, 0x42, 0x00,
    ];

    fn point() -> (Type, Value) {
        let field = |name: &str| (name.to_owned(), id::INT);
        let value = |name: &str, number| (name.to_owned(), Value::Int(number));
        (
            Type::Struct(vec![field("X"), field("Y")]),
            Value::Struct(vec![value("X", 22), value("Y", 33)]),
        )
    }

    #[test]
    fn gos_own_example_is_read_and_written() {
        let (kind, value) = point();
        let read = Decoder::new(POINT).next().unwrap();
        assert_eq!(read, Some(value.clone()));
        let mut written = Vec::new();
        let mut encoder = Encoder::new(&mut written);
        encoder.describe(65, "Point", kind).unwrap();
        encoder.write(65, &value).unwrap();
        assert_eq!(written, POINT);
        assert_eq!(Decoder::new(&[][..]).next().unwrap(), None);
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        for length in 1..POINT.len() {
            let mut decoder = Decoder::new(&POINT[..length]);
            // At the end of the description there may be nothing more.
            assert_eq!(decoder.next().is_err(), length != 32, "{length}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let texts = proptest::collection::vec(".{0,9}".prop_map(Value::Text), 0..4);
        let fields = (any::<i64>(), any::<u64>(), any::<bool>(), ".{0,9}", texts);
        let bytes = proptest::collection::vec(any::<u8>(), 0..300);
        (fields, any::<f64>(), bytes).prop_map(|((int, uint, bool, text, list), float, bytes)| {
            let inner = Value::Struct(vec![("F".into(), Value::Float(float))]);
            let fields = [
                ("I", Value::Int(int)),
                ("U", Value::Uint(uint)),
                ("B", Value::Bool(bool)),
                ("T", Value::Text(text)),
                ("L", Value::List(list)),
                ("Y", Value::Bytes(bytes)),
                ("S", inner),
            ];
            let fields = fields.into_iter().filter(|(_, value)| !value.is_zero());
            Value::Struct(fields.map(|(n, v)| (n.to_owned(), v)).collect())
        })
    }

    proptest! {
        #[test]
        fn values_are_read_as_they_are_written(value in any_value()) {
            let field = |(name, kind): &(&str, i64)| ((*name).to_owned(), *kind);
            let outer = [
                ("I", id::INT), ("U", id::UINT), ("B", id::BOOL), ("T", id::STRING), ("L", 67),
                ("Y", id::BYTES), ("S", 66),
            ];
            let mut written = Vec::new();
            let mut encoder = Encoder::new(&mut written);
            encoder.describe(65, "Outer", Type::Struct(outer.iter().map(field).collect())).unwrap();
            encoder.describe(66, "Inner", Type::Struct(vec![("F".into(), id::FLOAT)])).unwrap();
            encoder.describe(67, "", Type::List(id::STRING)).unwrap();
            encoder.write(65, &value).unwrap();
            let read = Decoder::new(&written[..]).next().unwrap().unwrap();
            // Zero is not written.
            let inner = |value: &Value| match value.field("S").and_then(|s| s.field("F")) {
                Some(Value::Float(float)) => *float,
                _ => 0.0,
            };
            prop_assert_eq!(inner(&read).to_bits(), (inner(&value) + 0.0).to_bits());
            for (name, _) in &outer[..6] {
                prop_assert_eq!(read.field(name), value.field(name));
            }
        }

        #[test]
        fn arbitrary_streams_never_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..POINT.len(),
        ) {
            let _ = Decoder::new(&bytes[..]).next();
            let mut damaged = POINT.to_vec();
            damaged.splice(at.., bytes);
            let _ = Decoder::new(&damaged[..]).next();
        }
    }
}
