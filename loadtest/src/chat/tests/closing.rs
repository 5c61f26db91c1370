//! What the end of a chat says of what is still open.

use super::*;

#[test]
fn an_acknowledged_message_that_nobody_gets_is_a_violation_and_an_open_one_is_unresolved() {
    let mut scene = Scene::new();
    scene.chat.send(ms(0), ms(0), &mut scene.wire);
    scene.answer(Method::Send, 1, Ok(accepted(HEAD + 1)));
    scene.chat.send(ms(2), ms(2), &mut scene.wire);
    let mut tally = Tally::default();
    scene.chat.close(&mut tally);
    assert_eq!((tally.undelivered, tally.unresolved), (1, 1));
    assert_eq!(tally.told()[0].invariant, 6);
}

#[test]
fn what_is_missing_where_the_server_was_out_of_reach_is_unread_and_no_violation() {
    let mut scene = Scene::new();
    scene.chat.send(ms(0), ms(0), &mut scene.wire);
    let (sender, id, _) = scene.asked(Method::Send);
    let result = Ok(accepted(HEAD + 1).into());
    scene.happen(sender.0, 1, What::Response { id, result });
    let lost = What::Lost {
        epoch: 1,
        was_ready: true,
        why: "the gateway closed the connection".to_owned(),
        closed_for: None,
    };
    scene.happen(1 - sender.0, 2, lost);
    let mut tally = Tally::default();
    scene.chat.close(&mut tally);
    assert_eq!((tally.undelivered, tally.unread, tally.violations), (1, 1, 0));
    assert!(tally.is_failure());
}
