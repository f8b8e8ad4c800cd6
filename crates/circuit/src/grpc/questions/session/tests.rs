use circuit_api::coredns::DnsPacket;
use proptest::prelude::*;
use prost::Message as _;

use super::super::head::PATH;
use super::*;
use crate::grpc::packets::tests::Backwards;

fn session(peer: Peer) -> Session {
    Session::new(Arc::new(Backwards), peer)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::whole(&mut out, kind, flags, stream, payload);
    out
}

/// A head that adds nothing to the table.
fn path(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [&[4, length], path.as_bytes()].concat()
}

fn head(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &path(PATH))
}

fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flag::END_STREAM, stream, body)
}

fn body(msg: &[u8]) -> Vec<u8> {
    let message = DnsPacket { msg: msg.to_vec() }.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat()
}

fn question(stream: u32, msg: &[u8]) -> Vec<u8> {
    let body = body(msg);
    let (last, before) = match body.len().div_ceil(frame::LONGEST) {
        0 | 1 => (&body[..], Vec::new()),
        pieces => {
            let at = (pieces - 1) * frame::LONGEST;
            let pieces = body[..at].chunks(frame::LONGEST);
            let before = pieces.flat_map(|piece| frame(kind::DATA, 0, stream, piece));
            (&body[at..], before.collect())
        }
    };
    [head(stream), before, data(stream, last)].concat()
}

fn number(kind: u8, stream: u32, number: u32) -> Vec<u8> {
    frame(kind, 0, stream, &number.to_be_bytes())
}

/// What comes of these bytes.
fn take(session: &mut Session, bytes: &[u8]) -> Vec<u8> {
    let (mut all, mut at) = (Vec::new(), 0);
    loop {
        // As if it were sent.
        let mut out = Vec::new();
        let done = session.take(&bytes[at..], &mut out);
        all.append(&mut out);
        at += done;
        if done == 0 {
            return all;
        }
    }
}

/// Frames: the kind, the flags, the stream, the payload.
fn frames(mut bytes: &[u8]) -> Vec<(u8, u8, u32, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Some(frame) = Frame::read(bytes).unwrap() {
        frames.push((
            frame.kind,
            frame.flags,
            frame.stream,
            frame.payload.to_vec(),
        ));
        bytes = &bytes[frame.length()..];
    }
    assert!(bytes.is_empty());
    frames
}

/// Of each stream: the data, and whether it is ended by a head.
fn answers(bytes: &[u8]) -> Vec<(u32, Vec<u8>, bool)> {
    let mut answers: Vec<(u32, Vec<u8>, bool)> = Vec::new();
    for (kind, flags, stream, payload) in frames(bytes) {
        let known = answers.iter_mut().find(|answer| answer.0 == stream);
        match (kind, known) {
            (kind::HEADERS, None) => answers.push((stream, Vec::new(), false)),
            (kind::HEADERS, Some(answer)) => answer.2 = flags & flag::END_STREAM != 0,
            (kind::DATA, Some(answer)) if !answer.2 => answer.1.extend_from_slice(&payload),
            (kind::DATA, _) => panic!("data outside of an answer"),
            _ => {}
        }
    }
    answers
}

/// The code of the frame that says goodbye, and the last stream that it names.
fn goodbye(bytes: &[u8]) -> Option<(u32, u32)> {
    let found = frames(bytes)
        .into_iter()
        .find(|frame| frame.0 == kind::GOAWAY);
    found.map(|(_, _, stream, payload)| {
        assert_eq!(stream, 0);
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        (number(4), number(0))
    })
}

#[test]
fn questions_are_answered_in_heads_that_the_client_knows() {
    let mut session = session(Peer::default());
    let out = take(&mut session, &question(1, b"abc"));
    let head = b"\x88\x5f\x10application/grpc".to_vec();
    let status = b"\x40\x0bgrpc-status\x010".to_vec();
    let end = flag::END_HEADERS | flag::END_STREAM;
    let want = |head, status, stream, message: &[u8]| {
        vec![
            (kind::HEADERS, flag::END_HEADERS, stream, head),
            (kind::DATA, 0, stream, body(message)),
            (kind::HEADERS, end, stream, status),
        ]
    };
    assert_eq!(frames(&out), want(head, status, 1, b"cba"));
    // The table has the status first now, as it was added last.
    for stream in [3, 9] {
        let out = take(&mut session, &question(stream, b"abc"));
        let want = want(vec![0x88, 0xbf], vec![0xbe], stream, b"cba");
        assert_eq!(frames(&out), want);
    }
}

#[test]
fn heads_that_wait_for_the_first_answer_name_the_table_rightly() {
    let peer = Peer {
        room: 0,
        ..Peer::default()
    };
    let mut session = session(peer);
    let out = take(
        &mut session,
        &[question(1, b"a"), question(3, b"b")].concat(),
    );
    let blocks: Vec<Vec<u8>> = frames(&out).into_iter().map(|frame| frame.3).collect();
    assert_eq!(
        blocks,
        [b"\x88\x5f\x10application/grpc".to_vec(), vec![0x88, 0xbe]]
    );
    let out = take(&mut session, &number(kind::WINDOW_UPDATE, 0, 1000));
    let ends: Vec<Vec<u8>> = frames(&out)
        .into_iter()
        .filter(|frame| frame.0 == kind::HEADERS)
        .map(|frame| frame.3)
        .collect();
    assert_eq!(ends, [b"\x40\x0bgrpc-status\x010".to_vec(), vec![0xbe]]);
}

#[test]
fn frames_may_come_in_pieces_of_every_size() {
    let text: Vec<u8> = (0..2000u32).map(|at| at as u8).collect();
    let whole = body(&text);
    let (first, second) = whole.split_at(700);
    let padded = |flags, payload: &[u8]| {
        let payload = [&[3], payload, &[0; 3]].concat();
        frame(kind::DATA, flags | flag::PADDED, 5, &payload)
    };
    let block = path(PATH);
    let priority = [&[0, 0, 0, 0, 16][..], &block[..7]].concat();
    let ends = flag::END_STREAM | flag::END_HEADERS;
    let all = [
        question(1, b"abc"),
        frame(kind::SETTINGS, flag::ACK, 0, &[]),
        frame(kind::HEADERS, flag::PRIORITY, 3, &priority),
        frame(kind::CONTINUATION, 0, 3, &block[7..9]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 3, &block[9..]),
        head(5),
        frame(kind::PRIORITY, 0, 7, &[0; 5]),
        data(3, &body(b"def")),
        padded(0, first),
        frame(99, 0xff, 1234, b"of a later specification"),
        padded(0, second),
        // The end of a question without data.
        frame(kind::HEADERS, ends, 5, &[]),
    ];
    let all = all.concat();
    let mut whole_session = session(Peer::default());
    let want = take(&mut whole_session, &all);
    let backwards: Vec<u8> = text.iter().rev().copied().collect();
    let told = [
        (1, body(b"cba"), true),
        (3, body(b"fed"), true),
        (5, body(&backwards), true),
    ];
    assert_eq!(answers(&want), told);
    for size in [1, 2, 5, 8, 9, 10, 100, 1000] {
        let mut session = session(Peer::default());
        let (mut out, mut held) = (Vec::new(), Vec::new());
        for piece in all.chunks(size) {
            held.extend_from_slice(piece);
            let done = session.take(&held, &mut out);
            held.drain(..done);
        }
        assert_eq!(out, want, "{size}");
        assert!(held.is_empty());
    }
}

#[test]
fn an_answer_waits_until_the_client_has_room_for_it() {
    let text = vec![7; 20_000];
    let peer = Peer {
        room: 30_000,
        room_of_stream: 18_000,
        ..Peer::default()
    };
    let mut session = session(peer);
    let sizes = |out: &[u8]| {
        let data = frames(out)
            .into_iter()
            .filter(|frame| frame.0 == kind::DATA);
        data.map(|frame| (frame.2, frame.3.len()))
            .collect::<Vec<_>>()
    };
    let length = body(&text).len();
    // A frame has not more than the client takes at once.
    let out = take(&mut session, &question(1, &text));
    assert_eq!(sizes(&out), [(1, 16_384), (1, 18_000 - 16_384)]);
    // What comes behind it has room of its own, but not on the connection.
    let out = take(&mut session, &question(3, &text));
    assert_eq!(sizes(&out), [(3, 12_000)]);
    assert_eq!(
        sizes(&take(&mut session, &number(kind::WINDOW_UPDATE, 1, 9000))),
        []
    );
    let out = take(&mut session, &number(kind::WINDOW_UPDATE, 0, 4000));
    assert_eq!(
        sizes(&out),
        [(1, length - 18_000), (3, 4000 - (length - 18_000))]
    );
    // More room on each stream, by the settings.
    let settings = [&[0, 4][..], &40_000u32.to_be_bytes()].concat();
    let out = take(&mut session, &frame(kind::SETTINGS, 0, 0, &settings));
    assert_eq!(frames(&out), [(kind::SETTINGS, flag::ACK, 0, vec![])]);
    let out = take(&mut session, &number(kind::WINDOW_UPDATE, 0, 100_000));
    let left = length - 12_000 - (4000 - (length - 18_000));
    assert_eq!(sizes(&out), [(3, left)]);
    assert!(session.waiting.is_empty());
    // And one whose stream is closed is sent no more.
    let small = Peer {
        room: 5,
        ..Peer::default()
    };
    let mut session = Session::new(Arc::new(Backwards), small);
    take(&mut session, &question(1, b"abc"));
    take(&mut session, &number(kind::RESET, 1, 8));
    let out = take(&mut session, &number(kind::WINDOW_UPDATE, 0, 100));
    assert_eq!(out, b"");
}

#[test]
fn other_calls_are_sent_to_another_connection() {
    let other = |stream| frame(kind::HEADERS, flag::END_HEADERS, stream, &path("/health"));
    let mut session = session(Peer::default());
    take(&mut session, &[question(1, b"abc"), head(3)].concat());
    let out = take(
        &mut session,
        &[other(5), data(5, b"abc"), question(7, b"abc")].concat(),
    );
    assert_eq!(goodbye(&out), Some((code::NO_ERROR, 3)));
    assert_eq!(answers(&out), []);
    assert!(session.is_mixed() && !session.is_over());
    // What was begun before is answered.
    let out = take(&mut session, &data(3, &body(b"abc")));
    assert_eq!(answers(&out), [(3, body(b"cba"), true)]);
    assert!(session.is_over());
}

#[test]
fn a_client_that_gives_its_table_up_is_told_that_it_is_empty() {
    let settings = [&[0, 1][..], &100u32.to_be_bytes()].concat();
    let less = frame(kind::SETTINGS, 0, 0, &settings);
    let blocks = |session: &mut Session, stream| {
        let out = take(session, &question(stream, b"abc"));
        let heads = frames(&out)
            .into_iter()
            .filter(|frame| frame.0 == kind::HEADERS);
        heads.map(|frame| frame.3).collect::<Vec<_>>()
    };
    let (before, status) = (
        &b"\x88\x0f\x10\x10application/grpc"[..],
        &b"\0\x0bgrpc-status\x010"[..],
    );
    // Before the first answer, and after it.
    for first in [None, Some(1)] {
        let mut session = session(Peer::default());
        if let Some(stream) = first {
            blocks(&mut session, stream);
        }
        take(&mut session, &less);
        let told = blocks(&mut session, 3);
        assert_eq!(told, [[b"\x20", before].concat(), status.to_vec()]);
        take(&mut session, &less);
        assert_eq!(blocks(&mut session, 5), [before, status]);
        assert!(!session.is_leaving());
    }
    // In the middle of an answer.
    let mut session = session(Peer {
        room: 0,
        ..Peer::default()
    });
    take(&mut session, &question(1, b"abc"));
    take(&mut session, &less);
    let out = take(&mut session, &number(kind::WINDOW_UPDATE, 0, 100));
    let last = frames(&out).pop().unwrap();
    assert_eq!(last.3, [b"\x20", status].concat());
    // A refusal is a head like others.
    let mut session = Session::new(Arc::new(Backwards), Peer::default());
    take(&mut session, &less);
    let out = take(&mut session, &question(1, b""));
    assert!(frames(&out)[0].3.starts_with(b"\x20\x88"));
}

#[test]
fn an_end_leaves_no_question_unanswered() {
    let mut session = session(Peer::default());
    take(&mut session, &head(1));
    let mut out = Vec::new();
    session.leave(&mut out);
    assert_eq!(goodbye(&out), Some((code::NO_ERROR, 1)));
    assert!(session.is_leaving() && !session.is_over());
    let out = take(
        &mut session,
        &[data(1, &body(b"abc")), question(3, b"abc")].concat(),
    );
    assert_eq!(
        frames(&out).iter().map(|frame| frame.2).collect::<Vec<_>>(),
        [1; 3]
    );
    assert!(session.is_over() && !session.is_mixed());
}

#[test]
fn what_is_no_question_is_refused_alone() {
    let mut session = session(Peer::default());
    let mut refused = |stream: u32, bytes: &[Vec<u8>]| {
        let out = take(&mut session, &bytes.concat());
        let frames = frames(&out);
        let (kind, flags, on, block) = &frames[0];
        let end = flag::END_HEADERS | flag::END_STREAM;
        assert_eq!((*kind, *flags, *on), (kind::HEADERS, end, stream));
        String::from_utf8_lossy(block).into_owned()
    };
    let said = refused(1, &[head(1), data(1, b"")]);
    assert!(said.contains("grpc-status\u{2}13"), "{said:?}");
    let said = refused(3, &[head(3), data(3, &[1, 0, 0, 0, 0])]);
    assert!(said.contains("grpc-status\u{2}12"), "{said:?}");
    assert!(said.contains("uncompressed"), "{said:?}");
    let ends = flag::END_HEADERS | flag::END_STREAM;
    let said = refused(5, &[frame(kind::HEADERS, ends, 5, &path(PATH))]);
    assert!(said.contains("has%20no%20message"), "{said:?}");
    let piece = |stream| frame(kind::DATA, 0, stream, &[7; 16_384]);
    let long = [head(7), piece(7), piece(7), piece(7), piece(7), piece(7)];
    let said = refused(7, &long);
    assert!(said.contains("grpc-status\u{1}8"), "{said:?}");
    let out = take(&mut session, &[piece(7), question(9, b"abc")].concat());
    assert_eq!(answers(&out), [(9, body(b"cba"), true)]);
}

#[test]
fn clients_that_break_the_protocol_are_told_so() {
    let ping = |length| frame(kind::PING, 0, 0, &vec![0; length]);
    let setting = |name: u8, value: u32| {
        frame(
            kind::SETTINGS,
            0,
            0,
            &[&[0, name][..], &value.to_be_bytes()].concat(),
        )
    };
    let cut = |stream, flags| frame(kind::HEADERS, flags, stream, &path(PATH)[..5]);
    let padded = frame(kind::DATA, flag::PADDED, 1, &[9, 0, 0]);
    let again = |kind, stream, payload: &[u8]| frame(kind, 0, stream, payload);
    let window = |stream, more| number(kind::WINDOW_UPDATE, stream, more);
    let protocol = code::PROTOCOL_ERROR;
    for (bytes, code) in [
        (vec![0, 0x40, 1, 0, 0, 0, 0, 0, 1], code::FRAME_SIZE_ERROR),
        (ping(7), code::FRAME_SIZE_ERROR),
        (again(kind::PING, 1, &[0; 8]), protocol),
        (again(kind::SETTINGS, 0, &[0; 5]), code::FRAME_SIZE_ERROR),
        (
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            code::FRAME_SIZE_ERROR,
        ),
        (again(kind::SETTINGS, 1, &[]), protocol),
        (setting(4, 1 << 31), code::FLOW_CONTROL_ERROR),
        (setting(5, 16_383), protocol),
        (setting(5, 1 << 24), protocol),
        (head(0), protocol),
        (head(2), protocol),
        ([head(1), head(1)].concat(), protocol),
        (data(1, b""), protocol),
        (data(0, b""), protocol),
        ([head(1), padded].concat(), protocol),
        (
            frame(kind::HEADERS, flag::PADDED | flag::END_HEADERS, 1, &[]),
            protocol,
        ),
        (
            frame(
                kind::HEADERS,
                flag::PRIORITY | flag::END_HEADERS,
                1,
                &[0; 4],
            ),
            protocol,
        ),
        (
            frame(kind::HEADERS, flag::END_HEADERS, 1, &[0xff]),
            code::COMPRESSION_ERROR,
        ),
        (again(kind::PUSH_PROMISE, 1, &[0; 4]), protocol),
        (again(kind::CONTINUATION, 1, &[]), protocol),
        ([cut(1, 0), ping(8)].concat(), protocol),
        (
            [cut(1, 0), again(kind::CONTINUATION, 3, &[0])].concat(),
            protocol,
        ),
        (
            [cut(1, 0), again(kind::CONTINUATION, 1, &[])].concat(),
            code::ENHANCE_YOUR_CALM,
        ),
        (
            [cut(1, 0), again(kind::CONTINUATION, 1, &[0; 16_384])].concat(),
            code::ENHANCE_YOUR_CALM,
        ),
        (number(kind::RESET, 0, 8), protocol),
        (number(kind::RESET, 1, 8), protocol),
        (
            [head(1), again(kind::RESET, 1, &[0; 3])].concat(),
            code::FRAME_SIZE_ERROR,
        ),
        (window(0, 0), protocol),
        (window(0, u32::MAX >> 1), code::FLOW_CONTROL_ERROR),
        (
            [head(1), window(1, u32::MAX >> 1)].concat(),
            code::FLOW_CONTROL_ERROR,
        ),
        (
            again(kind::WINDOW_UPDATE, 0, &[0; 3]),
            code::FRAME_SIZE_ERROR,
        ),
    ] {
        let mut session = session(Peer::default());
        let out = take(&mut session, &bytes);
        assert_eq!(goodbye(&out).map(|told| told.0), Some(code), "{bytes:?}");
        assert!(session.is_over() && !session.is_mixed(), "{bytes:?}");
        // And nothing is taken from them any more.
        assert_eq!(session.take(&question(11, b"abc"), &mut Vec::new()), 0);
    }
}

#[test]
fn calls_are_limited_and_bytes_are_not_waited_for() {
    let mut session = session(Peer::default());
    let calls: Vec<u8> = (0..MAX_CALLS).flat_map(|at| head(at * 2 + 1)).collect();
    assert_eq!(take(&mut session, &calls), b"");
    let out = take(&mut session, &head(MAX_CALLS * 2 + 1));
    let refused = code::REFUSED_STREAM.to_be_bytes().to_vec();
    assert_eq!(frames(&out), [(kind::RESET, 0, MAX_CALLS * 2 + 1, refused)]);
    let piece = |stream| frame(kind::DATA, 0, stream, &[0; 16_384]);
    let pieces: Vec<u8> = (0..64).flat_map(|at| piece(at * 2 + 1)).collect();
    let out = take(&mut session, &pieces);
    // For each quarter of a megabyte the client may send as much again.
    let credit = CREDIT.to_be_bytes()[4..].to_vec();
    assert_eq!(frames(&out), vec![(kind::WINDOW_UPDATE, 0, 0, credit); 4]);
}

#[test]
fn what_is_sent_is_sent_before_more_is_taken() {
    let mut session = session(Peer {
        room: 1 << 30,
        ..Peer::default()
    });
    let text = vec![7; 10_000];
    let questions: Vec<u8> = (0..20).flat_map(|at| question(at * 2 + 1, &text)).collect();
    let mut out = Vec::new();
    let done = session.take(&questions, &mut out);
    assert!(done < questions.len() && (ENOUGH..ENOUGH + 16_384).contains(&out.len()));
    assert_eq!(session.take(&questions[done..], &mut out), 0);
}

/// Frames that mean something, and some that do not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(path(PATH)),
        Just(body(b"abc")),
        Just(vec![0; 8]),
        Just(vec![0, 0, 0x40, 0]),
        Just(vec![0, 4, 0, 0, 0, 40]),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let flags = prop_oneof![Just(0), Just(1), Just(4), Just(5), any::<u8>()];
    (0..11u8, flags, 0..8u32, payload)
        .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload))
}

proptest! {
    /// Whatever comes, in whatever pieces: the same is answered, in frames that can
    /// be read, and no window is overdrawn.
    #[test]
    fn any_frames_are_answered_alike_in_any_pieces(
        all in proptest::collection::vec(any_frame(), 0..40),
        size in 1..60usize,
        room in 0..200i64,
    ) {
        let all = all.concat();
        let peer = Peer { room, ..Peer::default() };
        let mut whole = session(peer.clone());
        let want = take(&mut whole, &all);
        frames(&want);
        prop_assert!(whole.peer.room >= 0 || room < 0);
        let mut pieces = session(peer);
        let (mut out, mut held) = (Vec::new(), Vec::new());
        for piece in all.chunks(size) {
            held.extend_from_slice(piece);
            let done = pieces.take(&held, &mut out);
            held.drain(..done);
        }
        prop_assert_eq!(out, want);
    }
}
