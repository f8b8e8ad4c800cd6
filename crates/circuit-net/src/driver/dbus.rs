//! As much of D-Bus as it takes to call a method of a service of the system
//! bus and to read its answer, and to hear a signal.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Where the system bus is, unless the environment says otherwise.
const SYSTEM_BUS: &str = "/var/run/dbus/system_bus_socket";

/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// The longest answer that is read; real ones have a few hundred bytes.
const LIMIT: usize = 1 << 20;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// Why a call had no result.
#[derive(Debug, thiserror::Error)]
pub(super) enum DbusError {
    /// There is no bus, or it does not answer.
    #[error("system bus: {0}")]
    Io(#[from] io::Error),
    /// The service, or the bus for it, refuses.
    #[error("{0}")]
    Refused(String),
}

/// A method of a service; its arguments are texts.
pub(super) struct Method<'a> {
    pub(super) service: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) name: &'a str,
}

/// The bus itself, as a service.
const BUS: &str = "org.freedesktop.DBus";

/// A signal, of those that were asked for.
#[derive(Debug, Default)]
pub(super) struct Signal {
    /// Its name.
    pub(super) member: String,
}

/// A connection to the system bus.
pub(super) struct Bus {
    stream: UnixStream,
    serial: u32,
    /// Signals that came while an answer was waited for.
    signals: VecDeque<Signal>,
}

impl Bus {
    /// Connects, and says hello as the bus wants it.
    pub(super) fn connect() -> Result<Self, DbusError> {
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS").ok();
        let path = address.as_deref().and_then(path_of).unwrap_or(SYSTEM_BUS);
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Self {
            stream,
            serial: 0,
            signals: VecDeque::new(),
        };
        bus.authenticate()?;
        bus.call(&of_the_bus("Hello"), &[])?;
        Ok(bus)
    }

    /// Asks for the signals that a rule describes, in the bus' words.
    pub(super) fn listen(&mut self, rule: &str) -> Result<(), DbusError> {
        self.call(&of_the_bus("AddMatch"), &[rule]).map(drop)
    }

    /// The next signal; `None` when there is none within `timeout`.
    pub(super) fn signal(&mut self, timeout: Duration) -> Result<Option<Signal>, DbusError> {
        if let Some(signal) = self.signals.pop_front() {
            return Ok(Some(signal));
        }
        let mut waits = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        if poll(&mut waits, timeout).map_err(io::Error::from)? == 0 {
            return Ok(None);
        }
        let answer = self.read()?;
        Ok((answer.kind == SIGNAL).then_some(answer.signal))
    }

    /// Whether somebody offers the service.
    pub(super) fn has(&mut self, service: &str) -> Result<bool, DbusError> {
        match self.call(&of_the_bus("GetNameOwner"), &[service]) {
            Ok(_) => Ok(true),
            Err(DbusError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Calls a method; the body of its answer is returned.
    pub(super) fn call(
        &mut self,
        method: &Method<'_>,
        arguments: &[&str],
    ) -> Result<Vec<u8>, DbusError> {
        self.serial += 1;
        self.stream
            .write_all(&call_message(self.serial, method, arguments))?;
        loop {
            let answer = self.read()?;
            if answer.kind == SIGNAL {
                self.signals.push_back(answer.signal);
                continue;
            }
            if answer.reply_to != Some(self.serial) {
                continue;
            }
            match answer.kind {
                METHOD_RETURN => return Ok(answer.body),
                ERROR => return Err(DbusError::Refused(answer.error())),
                _ => {}
            }
        }
    }

    /// The bus knows who is at the other end of the socket.
    fn authenticate(&mut self) -> Result<(), DbusError> {
        let uid = nix::unistd::geteuid().to_string();
        let hex: String = uid.bytes().map(|byte| format!("{byte:02x}")).collect();
        let hello = format!("\0AUTH EXTERNAL {hex}\r\n");
        self.stream.write_all(hello.as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") && line.len() < 1024 {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.extend(byte);
        }
        if !line.starts_with(b"OK") {
            let text = String::from_utf8_lossy(&line);
            return Err(DbusError::Refused(format!(
                "the system bus refuses: {}",
                text.trim()
            )));
        }
        Ok(self.stream.write_all(b"BEGIN\r\n")?)
    }

    fn read(&mut self) -> Result<Answer, DbusError> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        let [
            order,
            kind,
            _,
            _,
            b0,
            b1,
            b2,
            b3,
            _,
            _,
            _,
            _,
            f0,
            f1,
            f2,
            f3,
        ] = head;
        let number = |bytes: [u8; 4]| match order {
            b'l' => u32::from_le_bytes(bytes) as usize,
            _ => u32::from_be_bytes(bytes) as usize,
        };
        let (body, fields) = (number([b0, b1, b2, b3]), number([f0, f1, f2, f3]));
        if body > LIMIT || fields > LIMIT {
            return Err(io::Error::from(io::ErrorKind::InvalidData).into());
        }
        let mut rest = vec![0; fields.next_multiple_of(8) + body];
        self.stream.read_exact(&mut rest)?;
        let body = rest.split_off(fields.next_multiple_of(8));
        rest.truncate(fields);
        Ok(Answer::new(order == b'l', kind, &rest, body))
    }
}

/// A method of the bus itself.
fn of_the_bus(name: &str) -> Method<'_> {
    Method {
        service: BUS,
        path: "/org/freedesktop/DBus",
        interface: BUS,
        name,
    }
}

/// The path in an address such as `unix:path=/run/bus`.
fn path_of(address: &str) -> Option<&str> {
    address
        .split(';')
        .filter_map(|one| one.strip_prefix("unix:"))
        .flat_map(|values| values.split(','))
        .find_map(|value| value.strip_prefix("path="))
}

#[derive(Debug, Default)]
struct Answer {
    kind: u8,
    reply_to: Option<u32>,
    error_name: String,
    signal: Signal,
    text: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    fn new(little: bool, kind: u8, fields: &[u8], body: Vec<u8>) -> Self {
        let mut answer = Self {
            kind,
            ..Self::default()
        };
        let mut reader = Reader {
            bytes: fields,
            at: 0,
            little,
        };
        let mut signature = String::new();
        // Fields of other types than these end the reading: none comes before
        // those that matter from any bus there is.
        while let Some((code, value)) = reader.field() {
            match (code, value) {
                (REPLY_SERIAL, Field::Number(serial)) => answer.reply_to = Some(serial),
                (ERROR_NAME, Field::Text(name)) => answer.error_name = name,
                (MEMBER, Field::Text(name)) => answer.signal.member = name,
                (SIGNATURE, Field::Text(types)) => signature = types,
                _ => {}
            }
        }
        if signature.starts_with('s') {
            let mut reader = Reader {
                bytes: &body,
                at: 0,
                little,
            };
            answer.text = reader.text();
        }
        answer.body = body;
        answer
    }

    fn error(self) -> String {
        match self.text {
            Some(text) if !text.is_empty() => format!("{}: {text}", self.error_name),
            _ => self.error_name,
        }
    }
}

enum Field {
    Number(u32),
    Text(String),
}

/// Reads values at their alignments.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    little: bool,
}

impl Reader<'_> {
    fn field(&mut self) -> Option<(u8, Field)> {
        self.at = self.at.next_multiple_of(8);
        let code = self.byte()?;
        let value = match self.short_text()?.as_str() {
            "u" => Field::Number(self.number()?),
            "s" | "o" => Field::Text(self.text()?),
            "g" => Field::Text(self.short_text()?),
            _ => return None,
        };
        Some((code, value))
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn number(&mut self) -> Option<u32> {
        self.at = self.at.next_multiple_of(4);
        let bytes = *self.bytes.get(self.at..)?.first_chunk()?;
        self.at += 4;
        Some(if self.little {
            u32::from_le_bytes(bytes)
        } else {
            u32::from_be_bytes(bytes)
        })
    }

    fn text(&mut self) -> Option<String> {
        let length = self.number()? as usize;
        self.take(length)
    }

    fn short_text(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        self.take(length)
    }

    fn take(&mut self, length: usize) -> Option<String> {
        let end = self.at.checked_add(length)?;
        let text = String::from_utf8_lossy(self.bytes.get(self.at..end)?).into_owned();
        self.at = end + 1;
        Some(text)
    }
}

fn call_message(serial: u32, method: &Method<'_>, arguments: &[&str]) -> Vec<u8> {
    let mut body = Vec::new();
    for argument in arguments {
        put_text(&mut body, argument);
    }
    let mut message = vec![b'l', METHOD_CALL, 0, 1];
    message.extend(length(&body));
    message.extend(serial.to_le_bytes());
    let mut fields = Vec::new();
    for (code, kind, value) in [
        (PATH, "o", method.path),
        (INTERFACE, "s", method.interface),
        (MEMBER, "s", method.name),
        (DESTINATION, "s", method.service),
    ] {
        put_field(&mut fields, code, kind);
        put_text(&mut fields, value);
    }
    if !arguments.is_empty() {
        put_field(&mut fields, SIGNATURE, "g");
        put_short(&mut fields, &"s".repeat(arguments.len()));
    }
    message.extend(length(&fields));
    message.extend(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    message
}

fn put_field(fields: &mut Vec<u8>, code: u8, kind: &str) {
    fields.resize(fields.len().next_multiple_of(8), 0);
    fields.push(code);
    put_short(fields, kind);
}

fn put_short(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes.extend(length(text.as_bytes()));
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_call_is_read_as_it_is_written() {
        let method = Method {
            service: "a.b",
            path: "/a",
            interface: "c.d",
            name: "E",
        };
        let message = call_message(7, &method, &["trusted", "10.0.0.1/32"]);
        assert_eq!(&message[..4], b"l\x01\0\x01");
        assert_eq!(message[8..12], 7u32.to_le_bytes());
        let fields = u32::from_le_bytes(*message[12..].first_chunk().unwrap()) as usize;
        let mut reader = Reader {
            bytes: &message[16..16 + fields],
            at: 0,
            little: true,
        };
        let mut read = Vec::new();
        while let Some((code, Field::Text(text))) = reader.field() {
            read.push((code, text));
        }
        let expected = [
            (PATH, "/a"),
            (INTERFACE, "c.d"),
            (MEMBER, "E"),
            (DESTINATION, "a.b"),
            (SIGNATURE, "ss"),
        ];
        assert_eq!(read, expected.map(|(code, text)| (code, text.to_owned())));
        let mut reader = Reader {
            bytes: &message[(16 + fields).next_multiple_of(8)..],
            at: 0,
            little: true,
        };
        assert_eq!(reader.text().as_deref(), Some("trusted"));
        assert_eq!(reader.text().as_deref(), Some("10.0.0.1/32"));
    }

    #[test]
    fn addresses_name_paths() {
        assert_eq!(path_of("unix:path=/a,guid=1"), Some("/a"));
        assert_eq!(path_of("tcp:host=x;unix:guid=1,path=/b"), Some("/b"));
        assert_eq!(path_of("unix:abstract=x"), None);
    }

    proptest! {
        #[test]
        fn any_answer_is_read_without_panic(fields: Vec<u8>, body: Vec<u8>, little: bool) {
            let _ = Answer::new(little, ERROR, &fields, body).error();
        }
    }
}
