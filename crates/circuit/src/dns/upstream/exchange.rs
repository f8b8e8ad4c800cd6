//! One question put to one server.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::super::message::{HEAD, end_of_question};

/// When a datagram is sent once more: it may be lost. That is before another server is
/// asked.
const AGAIN: Duration = Duration::from_millis(750);

/// Asks, by TCP when `stream`, and returns the answer under the number of the
/// question. Whatever is not the answer is passed over.
pub(super) async fn ask(server: SocketAddr, question: &[u8], stream: bool) -> io::Result<Vec<u8>> {
    let number = rand::random::<u16>().to_be_bytes();
    let mut asked = question.to_vec();
    let (Some(own), Some(place)) = (first_two(question), asked.get_mut(..2)) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    place.copy_from_slice(&number);
    let mut answer = if stream {
        by_stream(server, &asked).await?
    } else {
        by_datagram(server, &asked).await?
    };
    if let Some(place) = answer.get_mut(..2) {
        place.copy_from_slice(&own);
    }
    Ok(answer)
}

async fn by_datagram(server: SocketAddr, asked: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // Connected, it takes nothing from anybody else.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(asked).await?;
    if let Ok(answer) = tokio::time::timeout(AGAIN, received(&socket, asked)).await {
        return answer;
    }
    socket.send(asked).await?;
    received(&socket, asked).await
}

async fn received(socket: &UdpSocket, asked: &[u8]) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; usize::from(u16::MAX)];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if is_answer(asked, answer) {
            return Ok(answer.to_vec());
        }
    }
}

async fn by_stream(server: SocketAddr, asked: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(asked.len()).map_err(io::Error::other)?;
    let mut whole = length.to_be_bytes().to_vec();
    whole.extend_from_slice(asked);
    stream.write_all(&whole).await?;
    loop {
        let length = stream.read_u16().await?;
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await?;
        if is_answer(asked, &answer) {
            return Ok(answer);
        }
    }
}

fn first_two(bytes: &[u8]) -> Option<[u8; 2]> {
    bytes.get(..2)?.try_into().ok()
}

/// Whether it has the question's number and repeats the question; an error may
/// leave that out.
fn is_answer(asked: &[u8], answer: &[u8]) -> bool {
    if answer.len() < HEAD || first_two(asked) != first_two(answer) || answer[2] & 0x80 == 0 {
        return false;
    }
    let Some(end) = end_of_question(asked) else {
        return false;
    };
    let failed = answer[3] & 0x0f != 0 && answer.get(4..6) == Some(&[0, 0]);
    let same = match (asked.get(HEAD..end), answer.get(HEAD..end)) {
        (Some(asked), Some(answer)) => asked.eq_ignore_ascii_case(answer),
        _ => false,
    };
    same || failed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_is_taken() {
        let mut asked = vec![7, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        asked.extend(b"\x03web\x04ctr0\x00\x00\x01\x00\x01");
        let mut answer = asked.clone();
        assert!(!is_answer(&asked, &answer), "a question");
        answer[2] |= 0x80;
        answer[13] = b'W';
        assert!(is_answer(&asked, &answer));
        let mut other = answer.clone();
        other[0] = 9;
        assert!(!is_answer(&asked, &other), "another number");
        let mut other = answer.clone();
        other[13] = b'x';
        assert!(!is_answer(&asked, &other), "another question");
        answer.truncate(HEAD);
        assert!(!is_answer(&asked, &answer), "no question");
        answer[3] = 1;
        answer[5] = 0;
        assert!(is_answer(&asked, &answer), "an error without the question");
        assert!(!is_answer(&asked, &answer[..5]));
    }
}
