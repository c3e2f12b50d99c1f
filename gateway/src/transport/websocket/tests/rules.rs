//! Each rule of RFC 6455 that the decoder and the encoder keep.

use proptest::prelude::*;
use skywave_proto::CloseCode;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::{super::*, *};

#[track_caller]
fn refused(frames: &[Vec<u8>], violation: Violation) {
    expect(frames, false, &[], Some(violation));
}

#[test]
fn messages_come_whole_and_in_order() {
    let long = vec![7; 70_000];
    let middle = "ö".repeat(400);
    let limits = Limits { frame_bytes: 1 << 20, ..LIMITS };
    let bytes = [
        frame(FIN | TEXT, b"hello"),
        frame(FIN | BINARY, &long),
        frame(FIN | TEXT, middle.as_bytes()),
        frame(FIN | TEXT, b""),
        frame(FIN | PONG, b"x"),
    ];
    let events = vec![text("hello"), binary(&long), text(&middle), text(""), Event::Pong("x".into())];
    let mut decoder = Decoder::new(Role::Server, limits, false);
    assert_eq!(decode_pieces(&mut decoder, [&bytes.concat()[..]]), (events, None));
    assert!(!decoder.is_within_message());
}

#[test]
fn a_message_may_be_cut_into_frames_with_control_frames_between_them() {
    let frames = [
        frame(TEXT, "ein hal".as_bytes()),
        frame(FIN | PING, b"there?"),
        frame(CONTINUE, &"ö".as_bytes()[..1]),
        frame(CONTINUE, b""),
        frame(FIN | CONTINUE, &"ö".as_bytes()[1..]),
        frame(FIN | BINARY, &[1]),
    ];
    expect(&frames, false, &[Event::Ping("there?".into()), text("ein halö"), binary(&[1])], None);
}

#[test]
fn it_knows_when_the_other_end_owes_something() {
    let mut decoder = Decoder::new(Role::Server, LIMITS, false);
    let mut owes = |bytes: &[u8]| {
        let (_, violation) = decode_pieces(&mut decoder, [bytes]);
        assert_eq!(violation, None);
        decoder.is_within_message()
    };
    let (first, last, ping) = (frame(TEXT, b"ab"), frame(FIN | CONTINUE, b"c"), frame(FIN | PING, b"xy"));
    assert!(!owes(b""));
    assert!(owes(&first[..1]), "half a header");
    assert!(owes(&first[1..]), "the first of two frames");
    assert!(owes(&ping), "a control frame ends nothing");
    assert!(!owes(&last));
    assert!(owes(&ping[..7]), "half a control frame");
    assert!(!owes(&ping[7..]));
}

#[test]
fn reserved_bits_and_opcodes_are_refused() {
    for bit in [0x40, 0x20, 0x10] {
        refused(&[frame(FIN | bit | TEXT, b"x")], Violation::RESERVED_BITS);
        refused(&[frame(FIN | bit | PING, b"x")], Violation::RESERVED_BITS);
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        refused(&[frame(FIN | opcode, b"")], Violation::RESERVED_OPCODE);
    }
}

#[test]
fn a_bad_header_is_refused_with_its_first_bad_byte() {
    for (bytes, violation) in [
        (&[0x83][..], Violation::RESERVED_OPCODE),
        (&[0xc1], Violation::RESERVED_BITS),
        (&[0x09], Violation::FRAGMENTED_CONTROL),
        (&[0x80], Violation::NOTHING_TO_CONTINUE),
        (&[0x81, 0x05], Violation::NOT_MASKED),
        (&[0x89, 0xfe], Violation::LONG_CONTROL),
        (&[0x82, 0xff, 0, 0, 0, 0, 0x40, 0, 0, 0], Violation::FRAME_TOO_BIG),
    ] {
        assert_eq!(decode(bytes, false), (vec![], Some(violation)), "{bytes:x?}");
    }
}

#[test]
fn a_client_must_mask_and_a_server_must_not() {
    let unmasked = |payload: &[u8]| {
        let header = Header::new(OpCode::Data(Data::Text), false, payload.len(), None);
        [header.as_ref(), payload].concat()
    };
    assert_eq!(decode(&unmasked(b"hi"), false), (vec![], Some(Violation::NOT_MASKED)));
    let mut client = Decoder::new(Role::Client, LIMITS, false);
    assert_eq!(decode_pieces(&mut client, [&unmasked(b"hi")[..]]), (vec![text("hi")], None));
    let masked = frame(FIN | TEXT, b"hi");
    assert_eq!(decode_pieces(&mut client, [&masked[..]]), (vec![], Some(Violation::MASKED)));
}

#[test]
fn control_frames_are_short_and_whole() {
    let longest = [b'x'; 125];
    expect(&[frame(FIN | PING, &longest)], false, &[Event::Ping(longest.to_vec().into())], None);
    refused(&[frame(FIN | PING, &[b'x'; 126])], Violation::LONG_CONTROL);
    refused(&[frame(PING, b"")], Violation::FRAGMENTED_CONTROL);
    refused(&[frame(CLOSE, b"")], Violation::FRAGMENTED_CONTROL);
}

#[test]
fn continuations_continue_something_and_nothing_comes_between() {
    refused(&[frame(CONTINUE, b"x")], Violation::NOTHING_TO_CONTINUE);
    refused(&[frame(FIN | CONTINUE, b"x")], Violation::NOTHING_TO_CONTINUE);
    refused(&[frame(TEXT, b"x"), frame(FIN | TEXT, b"x")], Violation::NOT_CONTINUED);
    refused(&[frame(TEXT, b"x"), frame(BINARY, b"x")], Violation::NOT_CONTINUED);
    let ended = [frame(TEXT, b"x"), frame(FIN | CONTINUE, b"y"), frame(FIN | CONTINUE, b"z")];
    expect(&ended, false, &[text("xy")], Some(Violation::NOTHING_TO_CONTINUE));
}

#[test]
fn lengths_are_written_in_their_shortest_form() {
    for length in [0, 1, 125u16] {
        let bytes = [&[FIN | BINARY, 0x80 | 126][..], &length.to_be_bytes(), &KEY].concat();
        refused(&[bytes], Violation::LENGTH_NOT_MINIMAL);
    }
    for length in [0, 125, 126, 0xffffu64] {
        let bytes = [&[FIN | BINARY, 0x80 | 127][..], &length.to_be_bytes(), &KEY].concat();
        refused(&[bytes], Violation::LENGTH_NOT_MINIMAL);
    }
}

#[test]
fn what_is_too_long_is_refused_before_any_of_it_has_come() {
    for length in [LIMITS.frame_bytes as u64 + 1, 1 << 30, 1 << 62, 1 << 63, u64::MAX] {
        let bytes = [&[FIN | BINARY, 0x80 | 127][..], &length.to_be_bytes()].concat();
        refused(&[bytes], Violation::FRAME_TOO_BIG);
    }
    let half = vec![1; LIMITS.frame_bytes];
    expect(&[frame(BINARY, &half), frame(FIN | CONTINUE, &half)], false, &[binary(&[&half[..], &half].concat())], None);
    let third = frame(FIN | CONTINUE, b"x");
    refused(&[frame(BINARY, &half), frame(CONTINUE, &half), third[..2].to_vec()], Violation::MESSAGE_TOO_BIG);
}

#[test]
fn nothing_is_reserved_for_what_was_only_declared() {
    let limits = Limits { frame_bytes: usize::MAX, message_bytes: usize::MAX, fragments: None };
    let mut decoder = Decoder::new(Role::Server, limits, false);
    let mut bytes = [&[FIN | BINARY, 0x80 | 127][..], &(1u64 << 62).to_be_bytes(), &KEY, b"four"].concat();
    let length = bytes.len();
    assert_eq!(decoder.decode(&mut bytes), Ok((length, None)), "else this had ended with an allocation of 2^62 bytes");
}

#[test]
fn fragments_are_counted_also_empty_ones() {
    let most = LIMITS.fragments.map_or(0, |most| most.get() as usize);
    let mut frames = vec![frame(TEXT, b"")];
    frames.resize(most - 1, frame(CONTINUE, b""));
    let last = frame(FIN | CONTINUE, b"");
    expect(&[frames.clone(), vec![last.clone()]].concat(), false, &[text("")], None);
    frames.push(frame(CONTINUE, b""));
    frames.push(last[..1].to_vec());
    refused(&frames, Violation::TOO_MANY_FRAGMENTS);
}

#[test]
fn text_is_refused_with_the_first_byte_that_cannot_be_utf8() {
    // What Autobahn 6.4.1 to 6.4.4 send, and want an end to before the rest has come: a surrogate, a character over
    // U+10FFFF, an overlong form, a byte that is none.
    for bad in [&[0xed, 0xa0][..], &[0xf4, 0x90], &[0xc0], &[0xe0, 0x80], &[0xff]] {
        let payload = ["κόσμε".as_bytes(), bad].concat();
        let mut whole = frame(FIN | TEXT, &[&payload[..], &[b'x'; 50]].concat());
        whole.truncate(6 + payload.len());
        refused(&[whole], Violation::NOT_UTF8);
        let good = &payload[..payload.len() - 1];
        let mut later = frame(CONTINUE, &[&payload[good.len()..], b"more"].concat());
        later.truncate(6 + 1);
        if bad.len() > 1 {
            refused(&[frame(TEXT, good), later], Violation::NOT_UTF8);
        }
    }
    refused(&[frame(FIN | TEXT, &"ö".as_bytes()[..1])], Violation::NOT_UTF8); // ends within a character
    refused(&[frame(TEXT, &"ö".as_bytes()[..1]), frame(FIN | CONTINUE, b"")], Violation::NOT_UTF8);
    refused(&[frame(TEXT, &"ö".as_bytes()[..1]), frame(FIN | CONTINUE, b"x")], Violation::NOT_UTF8);
}

#[test]
fn a_close_frame_has_a_code_that_may_be_sent_and_a_reason_in_utf8() {
    let close = |code: u16, reason: &[u8]| frame(FIN | CLOSE, &[&code.to_be_bytes(), reason].concat());
    expect(&[frame(FIN | CLOSE, b"")], false, &[Event::Close(None)], None);
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999] {
        expect(&[close(code, "schön".as_bytes())], false, &[Event::Close(Some((code, "schön".into())))], None);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535] {
        refused(&[close(code, b"")], Violation::CLOSE_CODE);
    }
    refused(&[frame(FIN | CLOSE, &[3])], Violation::CLOSE_PAYLOAD);
    refused(&[close(1000, &[0xff])], Violation::NOT_UTF8);
}

#[test]
fn nothing_is_heard_after_a_close_frame_or_a_violation() {
    let after = [frame(FIN | TEXT, b"late"), vec![0xff; 20]].concat();
    for end in [frame(FIN | CLOSE, b""), frame(FIN | 3, b"")] {
        let mut decoder = Decoder::new(Role::Server, LIMITS, false);
        decode_pieces(&mut decoder, [&frame(TEXT, b"x")[..], &end]);
        assert_eq!(decode_pieces(&mut decoder, [&after[..]]), (vec![], None));
        assert!(!decoder.is_within_message(), "what was begun does not matter any more");
    }
}

/// Twelve ways to break the protocol, and what other servers answer.
#[test]
fn twelve_probes_and_their_codes() {
    let declares = |length: u64| [&[0x82, 0xff][..], &length.to_be_bytes(), &KEY].concat();
    let probes = [
        (vec![0x81, 2, b'h', b'i'], 1002),                  // not masked
        (frame(FIN | RSV1 | TEXT, b"x"), 1002),             // RSV1 without an extension
        (frame(FIN | 3, b"x"), 1002),                       // opcode 3
        (frame(FIN | PING, &[b'x'; 126]), 1002),            // a long ping
        (frame(PING, b"x"), 1002),                          // half a ping
        (frame(FIN | CONTINUE, b"x"), 1002),                // continues nothing
        (frame(FIN | CLOSE, &1005u16.to_be_bytes()), 1002), // a code that is not for the wire
        (frame(FIN | CLOSE, &[3]), 1002),                   // half a code
        (declares(1 << 30), 1009),
        (declares(1 << 62), 1009),
        (declares(1 << 63), 1009),
        (frame(FIN | TEXT, &[0xc3, 0x28]), 1007), // not UTF-8
    ];
    for (at, (bytes, code)) in probes.iter().enumerate() {
        let (_, violation) = decode(bytes, false);
        assert_eq!(violation.map(|violation| violation.code.code()), Some(*code), "probe {at}");
    }
}

#[test]
fn headers_are_as_short_as_they_can_be() {
    let header = |length, key| Header::new(OpCode::Data(Data::Binary), false, length, key).as_ref().to_vec();
    assert_eq!(header(0, None), [0x82, 0]);
    assert_eq!(header(125, None), [0x82, 125]);
    assert_eq!(header(126, None), [0x82, 126, 0, 126]);
    assert_eq!(header(0xffff, None), [0x82, 126, 0xff, 0xff]);
    assert_eq!(header(0x10000, None), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert_eq!(header(1, Some(KEY)), [&[0x82, 0x81][..], &KEY].concat());
    assert_eq!(header(0x10000, Some(KEY)).len(), 14);
    assert_eq!(Header::new(OpCode::Data(Data::Text), true, 3, None).as_ref(), [0xc1, 3]);
    assert_eq!(Header::new(OpCode::Control(Control::Ping), false, 0, None).as_ref(), [0x89, 0]);
}

#[test]
fn a_close_reason_is_cut_between_two_characters() {
    assert_eq!(close_payload(1000, "")[..], 1000u16.to_be_bytes());
    let payload = close_payload(CloseCode::Draining.code(), &"ö".repeat(100));
    assert_eq!(payload.len(), 2 + 122);
    assert_eq!(std::str::from_utf8(&payload[2..]), Ok(&*"ö".repeat(61)));
}

proptest! {
    #[test]
    fn what_the_encoder_writes_the_decoder_reads(
        payload in prop::collection::vec(any::<u8>(), 0..1000), key in any::<[u8; 4]>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        masked(&mut bytes, OpCode::Data(Data::Binary), false, &payload, key);
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        let mut decoder = Decoder::new(Role::Server, LIMITS, false);
        prop_assert_eq!(decode_pieces(&mut decoder, [head, tail]), (vec![binary(&payload)], None));
    }

    #[test]
    fn any_bytes_are_judged_alike_however_they_are_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..20, inflates in any::<bool>(),
    ) {
        let whole = decode(&bytes, inflates);
        let mut decoder = Decoder::new(Role::Server, LIMITS, inflates);
        prop_assert_eq!(decode_pieces(&mut decoder, bytes.chunks(size)), whole);
    }
}
