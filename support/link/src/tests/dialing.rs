//! Who listens where, who dials whom, and which of two links, or of two lives of a node, stays.

use tokio::net::TcpListener;

use super::*;

#[tokio::test]
async fn a_later_process_takes_the_name_over_and_the_earlier_is_told_so() {
    let secret = || ClusterSecret::from_bytes([7; 32]);
    for in_memory in [false, true] {
        let (a, mut at_a) = endpoint_with("a", quick());
        let address = listen(&a).await.to_string();
        let join = |b: &Endpoint| {
            if in_memory {
                Endpoint::connect_in_memory(&a, b);
            } else {
                b.dial(address.clone());
            }
        };
        let (earlier, mut at_earlier) = Endpoint::with_options(identity("b", 1), secret(), quick());
        join(&earlier);
        let old = up(&mut at_a).await;
        up(&mut at_earlier).await;
        let (later, mut at_later) = Endpoint::with_options(identity("b", 2), secret(), quick());
        join(&later);
        up(&mut at_later).await;
        let mut new = None;
        let mut reason = None;
        while new.is_none() || reason.is_none() {
            match tokio::time::timeout(PATIENCE, at_a.recv())
                .await
                .unwrap()
                .unwrap()
            {
                LinkEvent::Up(link) => new = Some(link),
                LinkEvent::Down(id, why) if id == old.id() => reason = Some(why),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(reason, Some(DownReason::Superseded), "in memory: {in_memory}");
        assert!(matches!(old.try_send(envelope(1, 1)), Err(SendError::Closed(_))));
        new.unwrap().try_send(envelope(7, 1)).unwrap();
        assert_eq!(frame(&mut at_later).await.id, 7);
        if !in_memory {
            // It dials again, and is told.
            tokio::time::timeout(PATIENCE, earlier.taken_over())
                .await
                .unwrap();
            let error = tcp::dial(&earlier.shared, &address).await.err().unwrap();
            assert!(error.to_string().contains("must end or be renamed"), "{error}");
        }
        let (newest, _events) = Endpoint::with_options(identity("b", 1), secret(), quick());
        assert!(
            matches!(
                a.shared.may_link(newest.identity(), "b"),
                Err(LinkError::EarlierLife { .. })
            ),
            "the earlier life stays out"
        );
    }
}

/// An endpoint in this life of a node; what it is told is read.
fn unobserved(node: &str, life: u64) -> Endpoint {
    let secret = ClusterSecret::from_bytes([7; 32]);
    let (endpoint, mut events) = Endpoint::with_options(identity(node, life), secret, quick());
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    endpoint
}

/// Whether this life of `b` is linked there.
fn has_b(at: &Endpoint, life: u64) -> bool {
    let judged = at.shared.may_link(&identity("b", life), "b");
    matches!(judged, Err(LinkError::AlreadyLinked { .. }))
}

/// No connection gets this port either: it is below the range from which systems give theirs (32768 on
/// Linux).
fn where_nobody_listens() -> SocketAddr {
    let any = || SocketAddr::from(([127, 0, 0, 1], rand::random_range(10_240..32_000_u16)));
    let is_free = |address: &SocketAddr| std::net::TcpListener::bind(address).is_ok();
    (0..200).map(|_| any()).find(is_free).unwrap()
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let comes = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(
        tokio::time::timeout(PATIENCE, comes).await.is_ok(),
        "in vain: {what}"
    );
}

#[tokio::test]
async fn one_refusal_takes_no_name_from_a_process_that_others_are_linked_with() {
    let (one, two) = (unobserved("r1", 1), unobserved("r2", 1));
    let (at_one, at_two) = (listen(&one).await.to_string(), listen(&two).await.to_string());
    let (holder, woken) = (unobserved("b", 2), unobserved("b", 1));
    holder.dial(at_one);
    holder.dial(at_two.clone());
    until("it is linked with both", || has_b(&one, 2) && has_b(&two, 2)).await;
    // One that stood still wakes, and the second does not know that its name was taken meanwhile.
    woken.dial(at_two);
    until("the second takes it for the later one", || has_b(&two, 1)).await;
    let stays = tokio::time::timeout(Duration::from_secs(1), holder.taken_over());
    assert!(stays.await.is_err(), "one that is linked elsewhere stays");
    assert!(two.has_refused_lives() && !one.has_refused_lives());
    // Whoever knows who holds the name says so, and then it is the other that is refused everywhere.
    let named = [(NodeId::new("b").unwrap(), Incarnation(2))];
    two.learn_holders(named.clone());
    two.learn_holders(named);
    until("the holder is back", || has_b(&two, 2)).await;
    tokio::time::timeout(PATIENCE, woken.taken_over()).await.unwrap();
    assert!(has_b(&one, 2) && has_b(&two, 2));
}

#[tokio::test]
async fn who_is_linked_with_nobody_believes_only_all_that_are_dialled_and_not_at_once() {
    let (one, two) = (unobserved("r1", 1), unobserved("r2", 1));
    let at_one = listen(&one).await.to_string();
    let at_two = where_nobody_listens();
    let (earlier, later) = (unobserved("b", 1), unobserved("b", 2));
    earlier.dial(at_one.clone());
    until("the earlier is linked", || has_b(&one, 1)).await;
    earlier.dial(at_two.to_string());
    later.dial(at_one);
    until("the later is linked", || has_b(&one, 2)).await;
    // The second may know better, and is not there now.
    let stays = tokio::time::timeout(quick().believe_refusals_after * 3, earlier.taken_over());
    assert!(stays.await.is_err(), "one of two is not all");
    // It is back, and the later one is with it before the earlier is.
    two.shared.admit(identity("b", 1), "b").unwrap();
    let of_later = two.shared.admit(identity("b", 2), "b").unwrap();
    two.listen(at_two).await.unwrap();
    let since = tokio::time::Instant::now();
    tokio::time::timeout(PATIENCE, earlier.taken_over())
        .await
        .unwrap();
    assert!(
        since.elapsed() >= quick().believe_refusals_after,
        "before a registry could be looked at"
    );
    drop(of_later);
}

#[tokio::test]
async fn who_dials_no_more_does_not_come_in_again() {
    let one = unobserved("r1", 1);
    let at_one = listen(&one).await.to_string();
    let (earlier, later) = (unobserved("b", 1), unobserved("b", 2));
    earlier.dial(at_one.clone());
    until("the earlier is linked", || has_b(&one, 1)).await;
    later.dial(at_one.clone());
    until("the later is linked", || has_b(&one, 2)).await;
    earlier.dial_no_more();
    // It would be let in now.
    let named = [(NodeId::new("b").unwrap(), Incarnation(1))];
    one.learn_holders(named.clone());
    one.learn_holders(named);
    assert!(one.shared.may_link(&identity("b", 1), "b").is_ok());
    earlier.dial(at_one);
    tokio::time::sleep(quick().redial_max * 40).await;
    assert!(has_b(&one, 2));
}

#[tokio::test]
async fn the_word_of_the_one_that_keeps_the_names_is_enough() {
    let (one, two) = (unobserved("r1", 1), unobserved("r2", 1));
    let (at_one, at_two) = (listen(&one).await.to_string(), listen(&two).await.to_string());
    let (earlier, later) = (unobserved("b", 1), unobserved("b", 2));
    earlier.heed(NodeId::new("r2").unwrap());
    earlier.dial(at_one);
    earlier.dial(at_two.clone());
    until("it is linked with both", || has_b(&one, 1) && has_b(&two, 1)).await;
    later.dial(at_two);
    tokio::time::timeout(PATIENCE, earlier.taken_over())
        .await
        .unwrap();
    assert!(has_b(&one, 1), "though it has another link");
}

#[tokio::test]
async fn an_address_that_is_given_up_is_dialled_no_more_and_a_link_that_works_stays() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", quick()), endpoint_with("b", quick()));
    let address = listen(&a).await;
    let dialing = b.dial(address.to_string());
    up(&mut at_a).await;
    let to_a = up(&mut at_b).await;
    dialing.give_up();
    to_a.try_send(envelope(1, 1)).unwrap();
    assert_eq!(frame(&mut at_a).await.id, 1);
    a.shut_down().await;
    down(&mut at_b).await;
    // Whoever listens there now hears nothing.
    let next = TcpListener::bind(address).await.unwrap();
    let dialled = tokio::time::timeout(quick().redial_max * 20, next.accept()).await;
    assert!(dialled.is_err());
}

#[tokio::test]
async fn an_address_in_use_is_named_with_its_cure() {
    let ((a, _at_a), (b, _at_b)) = (endpoint("a"), endpoint("b"));
    let address = listen(&a).await;
    let error = b.listen(address).await.unwrap_err().to_string();
    assert!(
        error.contains(&address.to_string()) && error.contains("free the port"),
        "{error}"
    );
}

#[tokio::test]
async fn a_node_that_starts_late_is_found() {
    let address = where_nobody_listens();
    let (b, mut at_b) = endpoint_with("b", quick());
    b.dial(address.to_string());
    // The first attempts fail while nobody listens; the endpoint keeps at it.
    let (a, mut at_a) = endpoint_with("a", quick());
    a.listen(address).await.unwrap();
    up(&mut at_b).await;
    up(&mut at_a).await;
}

#[tokio::test]
async fn two_nodes_that_dial_each_other_settle_on_one_link() {
    let ((a, mut at_a), (b, mut at_b)) = (endpoint_with("a", quick()), endpoint_with("b", quick()));
    let (address_a, address_b) = (listen(&a).await, listen(&b).await);
    a.dial(address_b.to_string());
    b.dial(address_a.to_string());
    // Both may lose their first links to each other; whatever is up at both ends in the end carries frames.
    let mut to_b = None;
    let mut id = 0;
    let settled = async {
        loop {
            tokio::select! {
                event = at_a.recv() => match event.unwrap() {
                    LinkEvent::Up(link) => to_b = Some(link),
                    LinkEvent::Down(..) => to_b = None,
                    LinkEvent::Frame(..) => {}
                },
                event = at_b.recv() => if let LinkEvent::Frame(_, envelope) = event.unwrap() {
                    return envelope.id;
                },
            }
            if let Some(link) = &to_b {
                id += 1;
                // A link that is just going down takes nothing; another comes.
                let _ = link.try_send(envelope(id, 1));
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, settled).await.unwrap() > 0);
    assert!(
        a.shared.may_link(&identity("b", 1), "b").is_err()
            && b.shared.may_link(&identity("a", 1), "a").is_err()
    );
}
