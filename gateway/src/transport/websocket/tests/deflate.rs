//! permessage-deflate (RFC 7692): what is agreed on, and what goes over the wire then.

use std::io::Write as _;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, write::DeflateEncoder};
use proptest::prelude::*;

use super::{super::*, *};

fn agreed(offer: &str) -> Option<(u8, String)> {
    negotiate([offer]).map(|agreed| (agreed.window_bits(), agreed.to_string()))
}

const PLAIN: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

#[test]
fn offers_are_answered_without_context() {
    for offer in [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate;client_max_window_bits=9;  server_no_context_takeover",
        "permessage-deflate; client_no_context_takeover; client_max_window_bits=\"15\"",
        "x-webkit-deflate-frame, permessage-deflate",
        "other; a=\"permessage-deflate, b; \\\" c\" , permessage-deflate",
    ] {
        assert_eq!(agreed(offer), Some((15, PLAIN.into())), "{offer}");
    }
    for bits in 9..=15 {
        let answer = format!("{PLAIN}; server_max_window_bits={bits}");
        assert_eq!(agreed(&format!("permessage-deflate; server_max_window_bits={bits}")), Some((bits, answer)));
    }
}

#[test]
fn offers_that_cannot_be_kept_are_declined() {
    for offer in [
        "",
        ",;=,",
        "permessage-bzip2",
        "Permessage-deflate2",
        "permessage-deflate; unknown",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "permessage-deflate; server_max_window_bits",
        "permessage-deflate; server_max_window_bits=8",
        "permessage-deflate; server_max_window_bits=7",
        "permessage-deflate; server_max_window_bits=16",
        "permessage-deflate; server_max_window_bits=09",
        "permessage-deflate; server_max_window_bits=+9",
        "permessage-deflate; server_max_window_bits=10; server_max_window_bits=11",
        "permessage-deflate; client_max_window_bits=",
        "permessage-deflate; client_max_window_bits=\"15",
        "permessage-deflate; client_max_window_bits=99999999999999999999",
        "permessage-deflate;",
        "\"permessage-deflate",
    ] {
        assert_eq!(agreed(offer), None, "{offer}");
    }
}

#[test]
fn the_first_offer_that_can_be_kept_is_taken() {
    let value = "permessage-deflate; server_max_window_bits=8, permessage-deflate; server_max_window_bits=10, permessage-deflate";
    assert_eq!(agreed(value).map(|(bits, _)| bits), Some(10));
    assert_eq!(negotiate(["permessage-deflate; no", "permessage-deflate"]).map(Agreed::window_bits), Some(15));
    assert_eq!(negotiate([]), None);
}

fn deflated(message: &[u8]) -> Vec<u8> {
    let mut compress = Compress::new(Compression::best(), false);
    let mut out = Vec::with_capacity(message.len() * 2 + 100);
    compress.compress_vec(message, &mut out, FlushCompress::Sync).unwrap();
    out.strip_suffix(&[0, 0, 0xff, 0xff]).unwrap().to_vec()
}

#[test]
fn the_examples_of_the_rfc() {
    // RFC 7692 §7.2.3.1: one block; §7.2.3.3: not compressed; §7.2.3.4: BFINAL; §7.2.3.5: two blocks.
    let one = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
    let stored = [0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00];
    let last = [0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00];
    let two = [0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00];
    for payload in [&one[..], &stored, &last, &two] {
        expect(&[frame(FIN | RSV1 | TEXT, payload)], true, &[text("Hello")], None);
        let (head, tail) = payload.split_at(3);
        expect(&[frame(RSV1 | TEXT, head), frame(FIN | CONTINUE, tail)], true, &[text("Hello")], None);
    }
    // §7.2.3.6: an empty message, and what some send instead of it.
    expect(&[frame(FIN | RSV1 | TEXT, &[0x00]), frame(FIN | RSV1 | BINARY, &[])], true, &[text(""), binary(b"")], None);
}

#[test]
fn each_message_says_for_itself_whether_it_is_compressed() {
    let frames = [
        frame(FIN | RSV1 | TEXT, &deflated(b"one one one")),
        frame(FIN | TEXT, b"two"),
        frame(RSV1 | BINARY, &deflated(b"three")),
        frame(FIN | PING, b""),
        frame(FIN | CONTINUE, b""),
    ];
    let events = [text("one one one"), text("two"), Event::Ping("".into()), binary(b"three")];
    expect(&frames, true, &events, None);
}

#[test]
fn rsv1_is_for_the_first_frame_of_a_message() {
    let first = frame(RSV1 | TEXT, &deflated(b"x"));
    expect(&[first.clone(), frame(FIN | RSV1 | CONTINUE, b"")], true, &[], Some(Violation::RESERVED_BITS));
    expect(&[frame(FIN | RSV1 | PING, b"")], true, &[], Some(Violation::RESERVED_BITS));
    expect(&[first], false, &[], Some(Violation::RESERVED_BITS));
}

#[test]
fn no_message_sees_what_was_in_another() {
    // A back reference into a message that came before: with a context it would be "abc", here there is nothing.
    let mut compress = Compress::new(Compression::best(), false);
    let (mut first, mut second) = (Vec::with_capacity(100), Vec::with_capacity(100));
    compress.compress_vec(b"a rather long secret", &mut first, FlushCompress::Sync).unwrap();
    compress.compress_vec(b"a rather long secret", &mut second, FlushCompress::Sync).unwrap();
    assert!(second.len() < first.len(), "it does refer back");
    let frames = [frame(FIN | RSV1 | TEXT, &first), frame(FIN | RSV1 | TEXT, &second)];
    expect(&frames, true, &[text("a rather long secret")], Some(Violation::NOT_DEFLATE));
}

#[test]
fn a_bomb_is_refused_before_it_is_large() {
    let bomb = deflated(&vec![0; 100 * LIMITS.message_bytes]);
    assert!(bomb.len() < LIMITS.frame_bytes);
    expect(&[frame(FIN | RSV1 | BINARY, &bomb)], true, &[], Some(Violation::MESSAGE_TOO_BIG));
    // A part of it is enough: the rest need not come.
    let part = frame(FIN | RSV1 | BINARY, &bomb)[..4096].to_vec();
    expect(&[part], true, &[], Some(Violation::MESSAGE_TOO_BIG));
    let most = deflated(&vec![0; LIMITS.message_bytes]);
    expect(&[frame(FIN | RSV1 | BINARY, &most)], true, &[binary(&vec![0; LIMITS.message_bytes])], None);
    let over = deflated(&vec![0; LIMITS.message_bytes + 1]);
    expect(&[frame(FIN | RSV1 | BINARY, &over)], true, &[], Some(Violation::MESSAGE_TOO_BIG));
}

#[test]
fn of_two_faults_the_first_one_counts_however_the_input_is_cut() {
    let mut message = vec![b'x'; LIMITS.message_bytes + 100];
    message[LIMITS.message_bytes - 1] = 0xff;
    expect(&[frame(FIN | RSV1 | TEXT, &deflated(&message))], true, &[], Some(Violation::NOT_UTF8));
    message.swap(LIMITS.message_bytes - 1, LIMITS.message_bytes);
    expect(&[frame(FIN | RSV1 | TEXT, &deflated(&message))], true, &[], Some(Violation::MESSAGE_TOO_BIG));
}

#[test]
fn blocks_that_say_nothing_are_bounded_by_the_number_of_frames() {
    let empty = [0x00, 0x00, 0x00, 0xff, 0xff].repeat(1000);
    let mut frames = vec![frame(RSV1 | BINARY, &empty)];
    frames.resize(9, frame(CONTINUE, &empty));
    expect(&frames, true, &[], Some(Violation::TOO_MANY_FRAGMENTS));
    // Streams that end at once and begin again.
    let ends = [0x03, 0x00].repeat(30_000);
    expect(&[frame(FIN | RSV1 | BINARY, &ends)], true, &[binary(b"")], None);
}

#[test]
fn what_is_not_deflate_or_not_utf8_is_refused_at_once() {
    expect(&[frame(RSV1 | TEXT, &[0x07])], true, &[], Some(Violation::NOT_DEFLATE));
    let bad = deflated(b"good until here: \xff and more");
    expect(&[frame(RSV1 | TEXT, &bad)], true, &[], Some(Violation::NOT_UTF8));
    expect(&[frame(FIN | RSV1 | TEXT, &deflated(&"ö".as_bytes()[..1]))], true, &[], Some(Violation::NOT_UTF8));
    // An inflater that was left in the middle of something serves the next message all the same.
    expect(&[frame(FIN | RSV1 | TEXT, &deflated(b"fine"))], true, &[text("fine")], None);
}

#[test]
fn a_stream_that_ends_with_the_message_is_taken() {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(b"ended").unwrap();
    let payload = encoder.finish().unwrap();
    expect(&[frame(FIN | RSV1 | TEXT, &payload)], true, &[text("ended")], None);
}

#[test]
fn what_would_not_be_shorter_goes_out_as_it_is() {
    let mut deflater = Deflater::new(6, 15);
    for message in [&b""[..], b"x", b"abcdefg"] {
        assert_eq!(deflater.compress(message), None);
    }
    let mut state = 1u32; // xorshift
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_be_bytes()[0]
    });
    let noise: Vec<u8> = noise.take(2000).collect();
    assert_eq!(deflater.compress(&noise), None);
    assert!(deflater.compress(&[b'a'; 100]).is_some(), "and serves the next one all the same");
}

#[test]
fn what_must_be_compressed_is_also_if_it_gets_longer() {
    let mut deflater = Deflater::new(6, 15);
    for length in (0..300).chain([1000, 65_534, 65_535, 65_536, 100_000]) {
        let message: Vec<u8> = (0..length).map(|at: usize| at.wrapping_mul(at >> 3).to_be_bytes()[7]).collect();
        let payload = deflater.compress_always(&message).unwrap();
        let limits = Limits { frame_bytes: 1 << 20, ..LIMITS };
        let mut decoder = Decoder::new(Role::Server, limits, true);
        let bytes = frame(FIN | RSV1 | BINARY, &payload);
        assert!(decode_pieces(&mut decoder, [&bytes[..]]) == (vec![binary(&message)], None), "{length} bytes");
    }
}

/// Inflates with a window of this size and nothing else, as a client that asked for it would.
fn inflated(payload: &[u8], window_bits: u8, length: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(length + 100);
    let payload = [payload, &[0, 0, 0xff, 0xff]].concat();
    let mut inflate = Decompress::new_with_window_bits(false, window_bits);
    // In small pieces, so that what is older than the window is really gone.
    for piece in payload.chunks(7) {
        inflate.decompress_vec(piece, &mut out, FlushDecompress::Sync).unwrap();
    }
    out
}

#[test]
fn every_window_and_level_is_kept_by_the_deflater() {
    let message: String = (0..4000).map(|at| format!("{{\"id\":{},\"x\":{}}}", at % 700, at * 7)).collect();
    for window_bits in 9..=15 {
        for level in [1, 6, 9] {
            let mut deflater = Deflater::new(level, window_bits);
            for message in [&message[..], &message[..1000]] {
                let payload = deflater.compress(message.as_bytes()).unwrap();
                let plain = inflated(&payload, window_bits, message.len());
                assert!(plain == message.as_bytes(), "window {window_bits}, level {level}");
            }
        }
    }
}

#[test]
fn out_of_range_settings_of_a_deflater_are_brought_into_range() {
    for (level, window_bits) in [(0, 0), (255, 255)] {
        assert!(Deflater::new(level, window_bits).compress(&[b'a'; 1000]).is_some());
    }
}

proptest! {
    #[test]
    fn what_is_deflated_comes_out_again(
        words in prop::collection::vec("[a-z]{1,6}|ö+", 20..300), level in 1u8..=9, window_bits in 9u8..=15, size in 1usize..50,
    ) {
        let message = words.join(&words[0]);
        let Some(payload) = Deflater::new(level, window_bits).compress(message.as_bytes()) else { return Ok(()) };
        prop_assert!(payload.len() < message.len());
        let bytes = frame(FIN | RSV1 | TEXT, &payload);
        let mut decoder = Decoder::new(Role::Server, LIMITS, true);
        prop_assert_eq!(decode_pieces(&mut decoder, bytes.chunks(size)), (vec![text(&message)], None));
    }

    #[test]
    fn any_payload_is_inflated_alike_however_it_is_cut(
        payload in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..20, is_text in any::<bool>(),
    ) {
        let bytes = frame(FIN | RSV1 | if is_text { TEXT } else { BINARY }, &payload);
        let whole = decode(&bytes, true);
        let mut decoder = Decoder::new(Role::Server, LIMITS, true);
        prop_assert_eq!(decode_pieces(&mut decoder, bytes.chunks(size)), whole);
    }

    #[test]
    fn any_offer_is_answered_or_declined(value in "[a-z_=;,\" \\\\0-9-]{0,60}|(permessage-deflate|; |, |=|\"|9|server_max_window_bits){0,12}") {
        if let Some(agreed) = negotiate([&*value]) {
            prop_assert!((9..=15).contains(&agreed.window_bits()));
        }
    }
}
