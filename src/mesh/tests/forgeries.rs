//! What a member may say of another's book: what that other signed, and nothing else (law 3).

use super::{
    super::{
        page::Seal,
        wire::{Mark, Page, RowUpdate},
    },
    *,
};

/// Nine nodes; the fourth has registered `web`. The first one lies, the sixth one listens.
fn scene() -> (Wired, [NodeId; 3]) {
    let (mut wired, ids) = Wired::of(9);
    wired.order(ids[3], web());
    wired.run(Duration::from_secs(5));
    (wired, [ids[0], ids[3], ids[5]])
}

/// What stands after the book's last version, as `signer` would sign it.
fn page(wired: &Wired, signer: NodeId, owner: NodeId, key: &Key, claim: Option<&Claim>) -> bytes::Bytes {
    let mark = wired.nodes[&owner].book().mark();
    let (key, body) = (key.text(), claim.map(Claim::encode));
    let rows = vec![RowUpdate { key: &key, version: mark.version + 1, body: body.as_deref() }];
    let page = Page {
        owner,
        epoch: mark.epoch,
        floor: 0,
        from: mark.version,
        to: mark.version + 1,
        written: mark.version + 1,
        stands: Seal::default(),
        rows,
    };
    page.sign(&*wired.nodes[&signer].config.notary)
}

/// Says a page as a rumour and by sync. How many were found forged, and how many copies went on.
fn say(wired: &mut Wired, from: NodeId, to: NodeId, page: &[u8]) -> (u64, u64) {
    let stats = |wired: &Wired| (wired.nodes[&to].stats().dropped_forged, wired.nodes[&to].stats().rumors_sent);
    let before = stats(wired);
    // Another number each time: a copy that came before means nothing.
    let seq = (1 << 20) + u32::try_from(wired.nodes[&to].stats().rumors_received).unwrap();
    let told = super::super::page::Told { since: 0, floor: 0 };
    for frame in [Frame::Rows { seq, until: to, page }, Frame::Page { told, page }] {
        let now = wired.now;
        wired.at(to).handle(now, Input::Message(from, packed(&[frame]).into()));
        wired.settle();
    }
    let after = stats(wired);
    (after.0 - before.0, after.1 - before.1)
}

fn ports(wired: &Wired, at: NodeId) -> Vec<u16> {
    let instances = wired.nodes[&at].service(&"web".try_into().unwrap()).unwrap_or_default();
    instances.iter().filter_map(|instance| instance.registration.port).map(|port| port.get()).collect()
}

#[test]
fn nobody_changes_or_withdraws_what_another_registered() {
    let (mut wired, [liar, owner, listener]) = scene();
    let key = Key::Service("web".try_into().unwrap());
    let elsewhere = Claim::Service(Arc::new(Registration::new("web", 666).unwrap()));
    for claim in [Some(&elsewhere), None] {
        let forged = page(&wired, liar, owner, &key, claim);
        assert_eq!(say(&mut wired, liar, listener, &forged), (2, 0));
        assert_eq!(ports(&wired, listener), [80]);
    }
    let genuine = page(&wired, owner, owner, &key, Some(&elsewhere));
    assert_eq!(say(&mut wired, liar, listener, &genuine).0, 0, "whoever brings it");
    assert_eq!(ports(&wired, listener), [666]);
}

#[test]
fn nobody_speaks_for_another_with_a_voucher_of_his_own() {
    let (mut wired, [liar, owner, listener]) = scene();
    let node = Node { voucher: wired.nodes[&liar].config.notary.voucher(), ..wired.nodes[&owner].config.node.clone() };
    let forged = page(&wired, liar, owner, &Key::Node, Some(&Claim::Node(Arc::new(node))));
    assert_eq!(say(&mut wired, liar, listener, &forged), (2, 0));
    let borrowed = wired.nodes[&owner].config.node.clone();
    let forged = page(&wired, liar, owner, &Key::Node, Some(&Claim::Node(Arc::new(borrowed))));
    assert_eq!(say(&mut wired, liar, listener, &forged), (2, 0), "the voucher is genuine, the signature is not");
}

#[test]
fn a_page_is_relayed_as_it_is_or_not_at_all() {
    let (mut wired, [liar, owner, listener]) = scene();
    let key = Key::Service("web".try_into().unwrap());
    let genuine = page(&wired, owner, owner, &key, None);
    for at in 0..genuine.len() {
        let mut changed = genuine.to_vec();
        changed[at] ^= 1;
        say(&mut wired, liar, listener, &changed);
        assert_eq!(ports(&wired, listener), [80], "byte {at}");
    }
}

/// What `from` says to one by sync: a page, and that nothing stands before it.
fn leave_out(wired: &mut Wired, from: NodeId, to: NodeId, page: &[u8]) {
    let (now, told) = (wired.now, super::super::page::Told { since: 0, floor: 0 });
    wired.at(to).handle(now, Input::Message(from, packed(&[Frame::Page { told, page }]).into()));
    wired.settle();
}

/// The owner's newest page.
fn newest(wired: &Wired, owner: NodeId) -> bytes::Bytes {
    wired.nodes[&owner].book().sheets(Mark::default()).last().unwrap().bytes.clone()
}

fn register(name: &str) -> Command {
    Command::Register(Arc::new(Registration::new(name, 80).unwrap()))
}

/// What these are ordered to do while the listener is away, until nobody tries any more to tell it.
fn miss(wired: &mut Wired, listener: NodeId, orders: impl IntoIterator<Item = (NodeId, Command)>) {
    wired.dead.insert(listener);
    orders.into_iter().for_each(|(owner, order)| wired.order(owner, order));
    wired.run(Duration::from_secs(10));
    wired.dead.remove(&listener);
}

#[test]
fn nobody_leaves_out_what_another_registered() {
    let (mut wired, [liar, owner, listener]) = scene();
    miss(&mut wired, listener, ["db", "cache"].map(|name| (owner, register(name))));
    let page = newest(&wired, owner);
    leave_out(&mut wired, liar, listener, &page);
    assert_eq!((wired.seen(listener, "web"), wired.seen(listener, "cache")), (1, 1), "what is known is shown");
    wired.run(Duration::from_secs(15));
    assert_eq!((wired.seen(listener, "web"), wired.seen(listener, "db"), wired.seen(listener, "cache")), (1, 1, 1));
    assert_eq!(wired.nodes[&listener].root(), wired.nodes[&owner].root());
    assert_eq!(wired.nodes[&listener].stats().books_misread, 1);
}

#[test]
fn nobody_keeps_what_another_withdrew_nor_what_it_says_of_itself() {
    let (mut wired, [liar, owner, listener]) = scene();
    let maintain = Command::Maintain { instance: None, reason: Some("new disk".into()) };
    let orders = [Command::Deregister("web".try_into().unwrap()), maintain, register("cache")];
    miss(&mut wired, listener, orders.map(|order| (owner, order)));
    let page = newest(&wired, owner);
    leave_out(&mut wired, liar, listener, &page);
    wired.run(Duration::from_secs(15));
    assert_eq!((wired.seen(listener, "web"), wired.seen(listener, "cache")), (0, 1));
    let member = wired.nodes[&listener].member(owner).unwrap();
    assert_eq!(member.node.maintenance.as_deref(), Some("new disk"));
}

/// However often he says it, while the owner can be asked.
#[test]
fn who_was_misled_hears_the_owner_alone() {
    let (mut wired, [liar, owner, listener]) = scene();
    let stale = wired.nodes[&liar].catalog.get(owner).unwrap().sheets(Mark::default());
    let stale: Vec<_> = stale.iter().map(|sheet| sheet.bytes.clone()).collect();
    let orders = [Command::Deregister("web".try_into().unwrap()), register("cache")];
    miss(&mut wired, listener, orders.map(|order| (owner, order)));
    let page = newest(&wired, owner);
    for _ in 0..200 {
        stale.iter().chain([&page]).for_each(|page| leave_out(&mut wired, liar, listener, page));
        wired.run(Duration::from_millis(100));
    }
    assert_eq!((wired.seen(listener, "web"), wired.seen(listener, "cache")), (0, 1));
    assert_eq!(wired.nodes[&listener].root(), wired.nodes[&owner].root());
}

#[test]
fn nobody_reads_anew_the_book_of_who_is_down() {
    let (mut wired, [liar, owner, listener]) = scene();
    miss(&mut wired, listener, ["db", "cache"].map(|name| (owner, register(name))));
    let (page, now) = (newest(&wired, owner), wired.now);
    leave_out(&mut wired, liar, listener, &page);
    let later = now + Duration::from_secs(6);
    wired.at(listener).roster.get_mut(owner).unwrap().state = MemberState::Down;
    wired.at(listener).settle_disputes(later);
    assert_eq!(wired.nodes[&listener].stats().books_misread, 0);
    wired.at(listener).roster.get_mut(owner).unwrap().state = MemberState::Alive;
    wired.at(listener).settle_disputes(later);
    assert_eq!(wired.nodes[&listener].stats().books_misread, 1);
}

#[test]
fn a_few_books_are_read_anew_at_a_time() {
    let (mut wired, ids) = Wired::of(30);
    wired.run(Duration::from_secs(5));
    let (liar, listener) = (ids[0], ids[5]);
    let owners: Vec<NodeId> = ids[1..].iter().filter(|id| **id != listener).copied().collect();
    let orders = owners.iter().flat_map(|owner| ["db", "cache"].map(|name| (*owner, register(name))));
    miss(&mut wired, listener, orders);
    for owner in &owners {
        let page = newest(&wired, *owner);
        leave_out(&mut wired, liar, listener, &page);
    }
    let later = wired.now + Duration::from_secs(6);
    wired.at(listener).settle_disputes(later);
    assert_eq!(wired.nodes[&listener].stats().books_misread, 16, "of {}", owners.len());
}
