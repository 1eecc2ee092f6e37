//! The bytes on the wire, pinned: a layout that changes by accident fails here first.

use super::{super::page::Census, *};

fn fact() -> Fact {
    Fact {
        id: NodeId(0x0102_0304_0506_0708),
        generation: Generation(9 << 16),
        incarnation: 1,
        state: MemberState::Suspect,
        by: NodeId(2),
    }
}

/// Every kind of frame, and its bytes in hex.
fn samples() -> Vec<(Frame<'static>, &'static str)> {
    let mark = Mark { epoch: Epoch(9), floor: 1, version: 2 };
    vec![
        (Frame::Swim(&[0xaa]), "01 0001 aa"),
        (Frame::Rows { seq: 1, until: NodeId(2), page: &[0xbb] }, "02 000d 00000001 0000000000000002 bb"),
        (
            Frame::Fact { seq: 1, until: NodeId(2), fact: fact() },
            "03 001e 00000001 0000000000000002 95 cf0102030405060708 ce00090000 01 01 02",
        ),
        (Frame::Ack(vec![1, 258]), "04 0008 00000001 00000102"),
        (Frame::Root(3), "05 0008 0000000000000003"),
        (Frame::Same(3), "06 0008 0000000000000003"),
        (Frame::Buckets(vec![1, 2]), "07 0010 0000000000000001 0000000000000002"),
        (
            Frame::Digest(Digest { token: 7, buckets: vec![200], standings: vec![Standing { fact: fact(), mark }] }),
            "08 001d 93 07 91 ccc8 91 92 95 cf0102030405060708 ce00090000 01 01 02 93 09 01 02",
        ),
        (Frame::Want(Want { marks: vec![(NodeId(5), mark)] }), "09 0008 91 91 92 05 93 09 01 02"),
        (
            Frame::Page { told: Told { since: 1, floor: 2 }, page: &[0xcc] },
            "0a 0011 0000000000000001 0000000000000002 cc",
        ),
        (Frame::Facts(vec![fact()]), "0b 0013 91 95 cf0102030405060708 ce00090000 01 01 02"),
        (Frame::Part { token: 7, of: 3 }, "0c 0003 92 07 03"),
        (Frame::Renew(Generation(4)), "0d 0008 0000000000000004"),
        (
            Frame::Place(Place { at: [0.0; 4], height: 1.0, error: 0.5 }),
            "0e 0020 93 94 ca00000000 ca00000000 ca00000000 ca00000000 ca3f800000 ca3f000000",
        ),
        (Frame::Knock, "0f 0000"),
        (Frame::Here, "10 0000"),
        (Frame::Ask(NodeId(1)), "11 0008 0000000000000001"),
        (Frame::Vouch(NodeId(1)), "12 0008 0000000000000001"),
        (Frame::Pass { to: NodeId(1), frame: &[0xdd] }, "13 0009 0000000000000001 dd"),
        (Frame::Will { id: NodeId(1), generation: Generation(9 << 16) }, "14 0010 0000000000000001 0000000000090000"),
        (Frame::Inquire(NodeId(1)), "15 0008 0000000000000001"),
        (
            Frame::Witness(Witness { about: NodeId(1), state: MemberState::Down, heard: Some(200), mark }),
            "16 0009 94 01 02 ccc8 93 09 01 02",
        ),
        (
            Frame::Witness(Witness { about: NodeId(1), state: MemberState::Alive, heard: None, mark }),
            "16 0008 94 01 00 c0 93 09 01 02",
        ),
        (Frame::Ready(Readiness { token: 7, guides: true }), "17 0005 00000007 01"),
    ]
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| *b != b' ').collect();
    let digit = |d: u8| u8::try_from(char::from(d).to_digit(16).unwrap()).unwrap();
    digits.as_chunks::<2>().0.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect()
}

#[test]
fn frames_have_these_bytes() {
    for (frame, golden) in samples() {
        let mut bytes = Vec::new();
        frame.write(&mut bytes);
        assert_eq!(bytes, hex(golden), "{frame:?} is {bytes:02x?}");
        let mut packet = vec![VERSION];
        packet.extend(&bytes);
        let read: Vec<_> = frames(&packet).collect();
        assert_eq!(read, [Ok(Some(frame))]);
    }
}

#[test]
fn a_page_has_these_bytes() {
    let rows = vec![
        RowUpdate { key: "s:web", version: 2, body: Some(&[0x80]) },
        RowUpdate { key: "h:web", version: 3, body: None },
    ];
    let page = Page {
        owner: NodeId(1),
        epoch: Epoch(9),
        floor: 0,
        from: 1,
        to: 3,
        written: 4,
        stands: Census::of(&[2]).seal(),
        rows,
    };
    let bytes = encode(&page);
    let golden = hex("98 01 09 00 01 03 04 92 cfee9d73f021d9b2df cfe4e3cc8fc86b89b9 \
         92 93 a5 733a776562 02 c401 80 93 a5 683a776562 03 c0");
    assert_eq!(bytes, golden, "{bytes:02x?}");
    assert_eq!(decode::<Page<'_>>(&bytes), Ok(page));
}

#[test]
fn garbage_is_refused_and_the_unknown_is_skipped() {
    fn first(bytes: &[u8]) -> Option<Result<Option<Frame<'_>>, Malformed>> {
        frames(bytes).next()
    }
    assert_eq!(first(&[]), Some(Err(Malformed::Version)));
    assert_eq!(first(&[VERSION + 1, 0]), Some(Err(Malformed::Version)));
    assert_eq!(first(&[VERSION]), None);
    assert_eq!(first(&[VERSION, 1, 0]), Some(Err(Malformed::Length)));
    assert_eq!(first(&[VERSION, 1, 0, 9, 0]), Some(Err(Malformed::Length)));
    assert_eq!(first(&[VERSION, 99, 0, 1, 0]), Some(Ok(None)));
    // A list that claims four billion elements in five bytes.
    assert_eq!(first(&[VERSION, kind::FACTS, 0, 5, 0xdd, 0xff, 0xff, 0xff, 0xff]), Some(Err(Malformed::Body)));
    // A value with another one behind it.
    assert_eq!(first(&[VERSION, kind::PART, 0, 4, 0x92, 7, 3, 0]), Some(Err(Malformed::Length)));
    assert_eq!(frames(&vec![VERSION; MAX_MESSAGE + 1]).next(), Some(Err(Malformed::Version)));
}
