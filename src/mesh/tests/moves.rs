//! What several agents say of one client that moved between them.

use super::*;
use crate::model::Echo;

/// A client's word at some time, where it listens.
fn client(said: u64, at: [u8; 4], port: u16) -> Registration {
    let eureka = BTreeMap::from([("status".to_owned(), "UP".to_owned())]);
    Registration {
        address: Some(crate::model::Host::Address(at.into())),
        echo: Some(Arc::new(Echo { said, eureka, ..Echo::default() })),
        ..Registration::new("web", port).unwrap()
    }
}

fn register(registration: &Registration) -> Command {
    Command::Register(Arc::new(registration.clone()))
}

const AT: [u8; 4] = [10, 0, 0, 9];

#[test]
fn a_client_that_moved_is_shown_once_by_its_last_word_and_no_book_is_touched() {
    let (mut wired, ids) = Wired::of(3);
    wired.order(ids[0], register(&client(5, AT, 80)));
    wired.order(ids[1], register(&client(6, AT, 80)));
    let shown = |wired: &Wired, id| -> Vec<NodeId> {
        let rows = wired.nodes[&id].service(&"web".try_into().unwrap()).unwrap_or_default();
        rows.iter().map(|row| row.owner).collect()
    };
    for id in &ids {
        assert_eq!(shown(&wired, *id), [ids[1]]);
    }
    assert!(wired.nodes[&ids[0]].registration(&"web".try_into().unwrap()).is_some());
    // A move has no gap, whatever arrives first: what is older shows again.
    wired.order(ids[1], Command::Deregister("web".try_into().unwrap()));
    for id in &ids {
        assert_eq!(shown(&wired, *id), [ids[0]]);
    }
}

#[test]
fn a_later_word_hides_nothing_but_the_same_client() {
    for other in [
        client(6, [10, 0, 0, 8], 80),
        client(6, AT, 81),
        client(6, AT, 80).id("web-2".try_into().unwrap()),
        Registration { echo: Some(Arc::new(Echo { said: 6, ..Echo::default() })), ..client(6, AT, 80) },
    ] {
        let (mut wired, ids) = Wired::of(2);
        wired.order(ids[0], register(&client(5, AT, 80)));
        wired.order(ids[1], register(&other));
        assert_eq!(ids.iter().map(|id| wired.seen(*id, "web")).collect::<Vec<_>>(), [2, 2], "{other:?}");
    }
}
