use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UdpSocket;

use super::*;

/// A server that gives this result, as often as it is asked; it is silent without.
async fn server(code: Option<ResponseCode>) -> SocketAddr {
    let after = code.map(|_| Duration::ZERO);
    server_that(code.unwrap_or(ResponseCode::NoError), move |_| after).await
}

/// A server that answers each question, counted from 0, after a time, or not at all.
async fn server_that(
    code: ResponseCode,
    after: impl Fn(usize) -> Option<Duration> + Send + 'static,
) -> SocketAddr {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        for number in 0.. {
            let (length, peer) = socket.recv_from(&mut buffer).await.unwrap();
            let Some(after) = after(number) else { continue };
            let mut answer = Message::from_vec(&buffer[..length]).unwrap();
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.response_code = code;
            // What is not the answer comes first.
            let mut other = answer.clone();
            other.metadata.id ^= 1;
            let socket = Arc::clone(&socket);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                for message in [&other, &answer] {
                    let message = message.to_vec().unwrap();
                    // Who asked may have gone.
                    let _ = socket.send_to(&message, peer).await;
                }
            });
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
    // Those that cannot be asked are asked last from now on.
    assert_eq!(upstreams.in_turn(), [silent, failing, knowing, closed]);
    let all = || upstreams.ask(&question, false);
    let (one, other) = tokio::join!(all(), all());
    assert!(code(one) == code(other));
    // One that leaves several unanswered too.
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
async fn a_slow_name_is_waited_for_and_its_server_stays_the_first() {
    // More than one server has, and less than all of them.
    let late = EACH + Duration::from_secs(1);
    let slow = server_that(ResponseCode::NXDomain, move |_| Some(late)).await;
    let others = [Some(ResponseCode::ServFail), None];
    for other in [None, Some(others[0]), Some(others[1])] {
        let mut all = vec![slow];
        if let Some(other) = other {
            all.push(server(other).await);
        }
        let upstreams = Upstreams::new(Servers::These(all.clone()), Vec::new());
        let answer = upstreams.ask(&question(), false).await;
        assert_eq!(code(answer), Some(ResponseCode::NXDomain), "{other:?}");
        assert_eq!(upstreams.in_turn(), all);
    }
}

#[tokio::test]
async fn a_lost_question_is_put_again() {
    let second = |number| (number > 0).then_some(Duration::ZERO);
    let forgetful = server_that(ResponseCode::NXDomain, second).await;
    let upstreams = Upstreams::new(Servers::These(vec![forgetful]), Vec::new());
    let answer = upstreams.ask(&question(), false).await;
    assert_eq!(code(answer), Some(ResponseCode::NXDomain));
}

#[test]
fn what_is_known_of_servers_that_stay_is_kept() {
    let [one, other]: [SocketAddr; 2] =
        ["10.0.0.1:53", "10.0.0.2:53"].map(|at| at.parse().unwrap());
    let upstreams = Upstreams::new(Servers::These(Vec::new()), Vec::new());
    let known = || -> Vec<(SocketAddr, Option<Asks>, bool)> {
        let states = upstreams.states();
        let known = |state: &State| (state.address, state.asks, state.rests.is_some());
        states.iter().map(known).collect()
    };
    upstreams.replace(&[one]);
    upstreams.change(one, |state| state.asks = Some(Asks::Besides));
    upstreams.change(one, State::failed);
    upstreams.replace(&[other, one]);
    let (asks, new) = ((one, Some(Asks::Besides), true), (other, None, false));
    assert_eq!(known(), [new, asks]);
    upstreams.replace(&[other]);
    upstreams.replace(&[one]);
    assert_eq!(known(), [(one, None, false)]);
}

#[test]
fn a_probe_may_come_back_more_than_once() {
    let loops = Loops::default();
    let probe = loops.probe().unwrap();
    let read = Message::from_vec(probe.question()).unwrap();
    let name = &read.queries[0].name;
    assert!(!probe.came_back());
    for _ in 0..2 {
        assert!(loops.is_probe(name) && probe.came_back());
    }
    drop(probe);
    assert!(!loops.is_probe(name));
}

/// A server that asks us what it is asked, and says then what somebody else said.
async fn asking(us: &Arc<Upstreams>, address: UdpSocket, says: ResponseCode) -> SocketAddr {
    let server = address.local_addr().unwrap();
    let us = Arc::clone(us);
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, peer)) = address.recv_from(&mut buffer).await {
            let mut answer = Message::from_vec(&buffer[..length]).unwrap();
            let refused = us.is_probe(&answer.queries[0].name)
                || us.comes_back(&buffer[..length], server.ip(), false);
            answer.metadata.message_type = MessageType::Response;
            answer.metadata.response_code = match refused {
                true => says,
                // It would go round.
                false => ResponseCode::ServFail,
            };
            let answer = answer.to_vec().unwrap();
            address.send_to(&answer, peer).await.unwrap();
        }
    });
    server
}

/// Waits until the order in which servers are asked is this one.
async fn turn(upstreams: &Upstreams, expected: &[SocketAddr]) {
    let asked = async {
        while upstreams.in_turn() != expected {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), asked)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_server_that_asks_us_is_asked_last_and_refused_its_own_question() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let failing = server(Some(ResponseCode::ServFail)).await;
    let servers = Servers::These(vec![address, failing]);
    let upstreams = Arc::new(Upstreams::new(servers, Vec::new()));
    asking(&upstreams, socket, ResponseCode::NXDomain).await;
    // Nothing is known of it yet.
    let question = question();
    let first = upstreams.ask(&question, false).await;
    assert_eq!(code(first), Some(ResponseCode::ServFail));
    let watching = Arc::clone(&upstreams);
    tokio::spawn(async move { watching.watch_for_loops().await });
    turn(&upstreams, &[failing, address]).await;
    let answer = upstreams.ask(&question, false).await;
    assert_eq!(code(answer), Some(ResponseCode::NXDomain));
    // Nobody else is refused, nor anything when nothing is under way.
    let here = address.ip();
    assert!(!upstreams.comes_back(&question, here, true));
    let under_way = UnderWay::new(&upstreams.loops, &question, address);
    assert!(upstreams.comes_back(&question, here, false));
    let elsewhere = "10.88.0.2".parse().unwrap();
    assert!(!upstreams.comes_back(&question, elsewhere, false));
    assert!(upstreams.comes_back(&question, elsewhere, true));
    let mut capitals = question.clone();
    capitals[13] = b'E';
    assert!(upstreams.comes_back(&capitals, here, false));
    capitals[14] = b'y';
    assert!(!upstreams.comes_back(&capitals, here, false));
    drop(under_way);
    assert!(!upstreams.comes_back(&question, here, false));
}

#[tokio::test]
async fn a_server_that_may_have_begun_to_ask_us_is_a_suspect() {
    let good = server(Some(ResponseCode::NXDomain)).await;
    let upstreams = Upstreams::new(Servers::These(vec![good]), Vec::new());
    assert_eq!(upstreams.in_turn(), [good]);
    let question = question();
    assert!(!upstreams.comes_back(&question, good.ip(), true));
    assert!(!upstreams.loops.is_suspect(good));
    let _under_way = UnderWay::new(&upstreams.loops, &question, good);
    // Nothing is known of it: whoever asks is answered.
    assert!(!upstreams.comes_back(&question, good.ip(), true));
    assert!(upstreams.loops.is_suspect(good));
    assert!(!upstreams.loops.is_suspect(good), "until it is seen again");
}
