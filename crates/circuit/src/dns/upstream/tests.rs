use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;

use super::*;

/// A server that gives this result, as often as it is asked; it is silent without.
async fn server(code: Option<ResponseCode>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
            let Some(code) = code else { continue };
            let mut answer = Message::from_vec(&buffer[..length]).unwrap();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.response_code = code;
            // What is not the answer comes first.
            let mut other = answer.clone();
            other.metadata.id ^= 1;
            for message in [&other, &answer] {
                socket
                    .send_to(&message.to_vec().unwrap(), peer)
                    .await
                    .unwrap();
            }
        }
    });
    address
}

fn question() -> Vec<u8> {
    let mut message = Message::query();
    let name = Name::from_ascii("example.com.").unwrap();
    message.queries.push(Query::query(name, RecordType::A));
    message.to_vec().unwrap()
}

fn code(answer: Option<Vec<u8>>) -> Option<ResponseCode> {
    Some(Message::from_vec(&answer?).unwrap().metadata.response_code)
}

#[tokio::test]
async fn servers_are_asked_in_turn_until_one_knows() {
    let silent = server(None).await;
    let failing = server(Some(ResponseCode::ServFail)).await;
    let knowing = server(Some(ResponseCode::NXDomain)).await;
    let closed: SocketAddr = "127.0.0.1:1".parse().unwrap();
    let all = vec![closed, silent, failing, knowing];
    let upstreams = Upstreams::new(Servers::These(all), Vec::new());
    let question = question();
    let answer = upstreams.ask(&question, false).await;
    assert_eq!(answer.as_deref().map(|it| &it[..2]), Some(&question[..2]));
    assert_eq!(code(answer), Some(ResponseCode::NXDomain));
    // Those that did not answer are asked last from now on.
    assert_eq!(upstreams.in_turn(), [failing, knowing, closed, silent]);
    let failing = Upstreams::new(Servers::These(vec![failing]), Vec::new());
    assert_eq!(
        code(failing.ask(&question, false).await),
        Some(ResponseCode::ServFail)
    );
    let nobody = Upstreams::new(Servers::These(vec![closed]), Vec::new());
    assert_eq!(nobody.ask(&question, false).await, None);
}

#[tokio::test]
async fn a_server_that_asks_us_is_left_out() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let good = server(Some(ResponseCode::NoError)).await;
    let servers = Servers::These(vec![address, good]);
    let upstreams = Arc::new(Upstreams::new(servers, Vec::new()));
    let asked = Arc::clone(&upstreams);
    // It passes on to us whatever it is asked.
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, _)) = socket.recv_from(&mut buffer).await {
            let message = Message::from_vec(&buffer[..length]).unwrap();
            asked.is_probe(&message.queries[0].name);
        }
    });
    let watching = Arc::clone(&upstreams);
    tokio::spawn(async move { watching.watch_for_loops().await });
    let left_out = async {
        while upstreams.in_turn() != [good] {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), left_out)
        .await
        .unwrap();
}
