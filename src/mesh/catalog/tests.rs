//! One book, as readers come to it whom somebody misleads: another who brings it, or its owner.

use std::time::Duration;

use super::*;
use crate::{
    mesh::{
        check::MAX_OUTPUT,
        notary::Numbers,
        page::Signed,
        wire::{Page, RowUpdate},
    },
    model::{CheckStatus, Health},
};

const OWNER: NodeId = NodeId(1);

fn notary() -> Numbers {
    Numbers::new(1, &"owner".try_into().unwrap(), 1)
}

fn seconds(seconds: u64) -> Time {
    Time::after_start(Duration::from_secs(seconds))
}

fn book() -> Book {
    Book::new(Epoch(1))
}

/// Writes an instance, or withdraws it, and signs that.
fn write(book: &mut Book, now: Time, name: &str, stands: bool) -> Vec<Bytes> {
    let claim = stands.then(|| Claim::Service(Arc::new(Registration::new(name, 80).unwrap())));
    book.write(now, Key::Service(name.try_into().unwrap()), claim).unwrap();
    book.sign(OWNER, &notary())
}

fn read(reader: &mut Book, now: Time, page: &Bytes, told: Option<Told>) {
    reader.merge(now, &"test".try_into().unwrap(), &Signed::read(page).unwrap(), told);
}

/// A page of no more than one row, as an owner may sign it who keeps to nothing.
fn page(floor: u64, from: u64, to: u64, row: Option<(&str, &[u8])>) -> Bytes {
    let rows = row.into_iter().map(|(key, body)| RowUpdate { key, version: to, body: Some(body) }).collect();
    let (owner, epoch, stands) = (OWNER, Epoch(1), Seal::default());
    Page { owner, epoch, floor, from, to, written: to, stands, rows }.sign(&notary())
}

/// What so many checks with much to say found of an instance.
fn report(checks: usize) -> Bytes {
    let (id, name) = ("c".try_into().unwrap(), "c".try_into().unwrap());
    let output = "x".repeat(MAX_OUTPUT).into();
    let check = CheckStatus { before: None, id, name, status: Health::Warning, output, since: 0 };
    let report = HealthReport { checks: vec![check; checks], ..HealthReport::default() };
    Claim::Health(Arc::new(report)).encode()
}

/// One answer of `teller`, cut where it grows too long. The last page comes second, as in sync.
fn ask(reader: &mut Book, teller: &Book, now: Time) {
    let mut sheets = teller.sheets(reader.reading());
    if let [_, rest @ ..] = &mut sheets[..] {
        rest.rotate_right(rest.len().min(1));
    }
    let mut size = 0;
    for sheet in sheets {
        size += sheet.bytes.len();
        read(reader, now, sheet.bytes, Some(sheet.told));
        if size > 1 << 20 {
            break;
        }
    }
}

const NOTHING_BEFORE: Option<Told> = Some(Told { since: 0, floor: 0 });

/// An owner who has registered three, and a reader to whom the second was left out.
fn misled() -> (Book, Book) {
    let (mut owner, mut reader) = (book(), book());
    let pages: Vec<_> = ["a", "b", "c"].iter().flat_map(|name| write(&mut owner, Time::ZERO, name, true)).collect();
    read(&mut reader, Time::ZERO, &pages[0], None);
    read(&mut reader, Time::ZERO, &pages[2], NOTHING_BEFORE);
    assert!(reader.mark() == owner.mark() && !reader.is_whole());
    (owner, reader)
}

#[test]
fn a_gap_ends_no_doubt() {
    let (mut owner, mut reader) = misled();
    let (mut read_to, mut at_gaps) = (None, None);
    for now in 1..60 {
        write(&mut owner, seconds(now), "d", true);
        let last = write(&mut owner, seconds(now), "d", true);
        read(&mut reader, seconds(now), &last[0], Some(Told::NOTHING));
        at_gaps = at_gaps.or_else(|| reader.is_disputed(seconds(now)).then_some(now));
        read(&mut reader, seconds(now), &last[0], NOTHING_BEFORE);
        read_to = read_to.or_else(|| reader.is_disputed(seconds(now)).then_some(now));
    }
    assert_eq!((read_to, at_gaps), (Some(5), Some(30)));
}

#[test]
fn who_reads_late_or_out_of_order_doubts_nothing() {
    let (mut owner, mut reader) = (book(), book());
    for now in 0..100 {
        let [first, second] = [true, now % 2 == 0].map(|stands| write(&mut owner, seconds(now), "a", stands).remove(0));
        read(&mut reader, seconds(now), &second, None);
        assert!(!reader.is_disputed(seconds(now)));
        read(&mut reader, seconds(now), &first, None);
        assert!(reader.is_whole());
    }
    write(&mut owner, seconds(100), "b", true);
    let beyond = write(&mut owner, seconds(100), "c", true);
    read(&mut reader, seconds(100), &beyond[0], None);
    read(&mut reader, seconds(900), &beyond[0], None);
    assert!(!reader.is_disputed(seconds(1_000)), "what nobody brings");
    ask(&mut reader, &owner, seconds(1_000));
    assert!(reader.is_whole());
}

/// However the owner's floors fall, and however long his book is: who asks comes to where others are.
#[test]
fn an_owner_whose_floor_falls_keeps_nobody_from_reading() {
    let body = report(4);
    for (first, gap) in [(false, 0), (true, 0), (true, 700)] {
        let (mut one, mut other) = (book(), book());
        // The first page shows a floor, and is kept where a row stands in it.
        read(&mut one, Time::ZERO, &page(100, 0, 100, first.then_some(("h:first", &*body))), None);
        for from in 100..200 {
            read(&mut one, Time::ZERO, &page(0, from, from + 1, Some((&format!("h:i{from}"), &body))), None);
        }
        if gap > 0 {
            read(&mut one, Time::ZERO, &page(150, 300, gap, None), Some(Told::NOTHING));
        }
        read(&mut other, Time::ZERO, &page(0, 0, 1, None), None);
        (0..6).for_each(|_| ask(&mut other, &one, Time::ZERO));
        assert_eq!(other.mark().version, one.mark().version, "{first} {gap}");
    }
}

/// What only one has read of an owner keeps that one from reading what all others have, for a while.
#[test]
fn who_alone_knows_of_a_floor_gives_up_on_it() {
    let (mut owner, mut reader) = (book(), book());
    ["a", "b"].iter().for_each(|name| drop(write(&mut owner, Time::ZERO, name, true)));
    ask(&mut reader, &owner, Time::ZERO);
    read(&mut reader, Time::ZERO, &page(5_000, 4_999, 5_001, None), None);
    write(&mut owner, Time::ZERO, "c", true);
    let mut begun = 0;
    for now in (0..600).step_by(5) {
        if reader.is_disputed(seconds(now)) {
            begun += u32::from(reader.read_anew(seconds(now), None));
        }
        ask(&mut reader, &owner, seconds(now));
    }
    assert_eq!((reader.mark(), reader.is_whole(), reader.is_disputed(seconds(600))), (owner.mark(), true, false));
    assert!((1..=4).contains(&begun), "{begun}");
}

/// In which an old tombstone was folded behind more than one answer holds.
#[test]
fn a_long_book_is_read_answer_by_answer() {
    let (mut owner, mut reader) = (book(), book());
    for n in 0..6_000 {
        let registration = Registration::new("web", 80).unwrap();
        let registration = registration.id(format!("i{n}").as_str().try_into().unwrap());
        let claim = Claim::Service(Arc::new(Registration { meta: meta(), ..registration }));
        owner.write(Time::ZERO, Key::Service(format!("i{n}").as_str().try_into().unwrap()), Some(claim)).unwrap();
    }
    owner.sign(OWNER, &notary());
    write(&mut owner, Time::ZERO, "gone", true);
    write(&mut owner, Time::ZERO, "gone", false);
    assert!(owner.bury(seconds(700)));
    owner.sign(OWNER, &notary());
    let bytes: usize = owner.sheets(Mark::default()).iter().map(|sheet| sheet.bytes.len()).sum();
    assert!(bytes > 2 << 20, "{bytes}");
    for now in (700..).step_by(20).map(seconds).take(8) {
        assert!(!reader.is_disputed(now), "it takes as long as it takes");
        ask(&mut reader, &owner, now);
    }
    assert!(reader.is_whole() && reader.mark() == owner.mark(), "{:?} of {:?}", reader.mark(), owner.mark());
}

fn meta() -> BTreeMap<String, String> {
    [("note".to_owned(), "x".repeat(400))].into()
}

#[test]
fn who_gave_up_counting_counts_again_some_day() {
    let (mut owner, mut reader) = misled();
    let mut now = 0;
    while reader.uncounted.is_none() {
        now += 5;
        let last = write(&mut owner, seconds(now), "c", true);
        read(&mut reader, seconds(now), &last[0], NOTHING_BEFORE);
        if reader.is_disputed(seconds(now)) {
            reader.read_anew(seconds(now), None);
        }
        assert!(now < 300);
    }
    for (after, disputed) in [(60, false), (700, true)] {
        let now = now + after;
        let last = write(&mut owner, seconds(now), "c", true);
        read(&mut reader, seconds(now), &last[0], NOTHING_BEFORE);
        assert_eq!(reader.is_disputed(seconds(now + 5)), disputed, "{after} s later");
    }
}

/// Whoever keeps all that an owner ever signed, and brings it where nothing can be done with it.
#[test]
fn what_lies_beyond_a_gap_leaves_room_for_what_fills_it() {
    let (mut reader, body) = (book(), report(14));
    let pages: Vec<Bytes> = (0..1_300).map(|n| page(0, n, n + 1, Some((&format!("h:i{}", n % 9), &body)))).collect();
    assert!(pages.iter().map(Bytes::len).sum::<usize>() > 2 * MAX_BOOK_BYTES + (1 << 20));
    pages[1..].iter().for_each(|page| read(&mut reader, Time::ZERO, page, None));
    assert_eq!(reader.mark().version, 0);
    pages.iter().for_each(|page| read(&mut reader, Time::ZERO, page, None));
    assert_eq!(reader.mark().version, 1_300);
}
