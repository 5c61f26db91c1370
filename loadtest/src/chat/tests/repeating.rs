//! What is sent once more though it was acknowledged, and how that must be answered.

use super::*;
use crate::record::Again;

/// Whoever checks a run, and hears of answers to repetitions only: which text, and its seq or code.
#[derive(Default)]
struct Checks(std::rc::Rc<std::cell::RefCell<Vec<(String, u64)>>>);

impl Recorder for Checks {
    fn answered_again(&mut self, again: &Again<'_>) {
        let told = again.answer.map_or_else(u64::from, |(seq, _)| seq);
        self.0.borrow_mut().push((again.text.to_owned(), told));
    }

    fn wants_everything_read(&self) -> bool {
        true
    }
}

#[test]
fn an_acknowledged_message_is_sent_again_with_its_id_also_after_a_fault() {
    let answers = std::rc::Rc::default();
    let mut scene = Scene::new();
    scene.chat.recorder = Box::new(Checks(std::rc::Rc::clone(&answers)));
    let mut at = 0;
    let mut sent = Vec::new();
    while sent.len() < 1_000 {
        at += 1;
        scene.chat.send(ms(at), ms(at), &mut scene.wire);
        let seq = HEAD + 1 + u64::try_from(sent.len()).unwrap();
        let payload = scene.answer(Method::Send, at, Ok(accepted(seq)));
        sent.push(SendRequest::decode(payload).unwrap().messages.remove(0));
    }
    let planned: usize = scene.chat.people.iter().map(Person::open_repeats).sum();
    assert!(
        (4..=16).contains(&planned),
        "one of fifty, as many as are kept: {planned}"
    );
    scene.chat.hasten_repeats(ms(at));
    scene.chat.tick(ms(at), &mut scene.wire);
    let mut repeated = Vec::new();
    for (seat, id, request) in std::mem::take(&mut scene.wire.asked) {
        let again = SendRequest::decode(request.payload).unwrap();
        assert!(sent.contains(&again.messages[0]), "the same id and content");
        let Some(content::Content::Text(said)) = again.messages[0].content.clone().unwrap().content else {
            panic!("{again:?}");
        };
        // Another answer than before, for whoever checks to see.
        repeated.push((said.text, 7));
        let result = Ok(accepted(7).into());
        scene.happen(seat.0, at, What::Response { id, result });
    }
    assert_eq!(repeated.len(), planned);
    assert_eq!(*answers.borrow(), repeated);
    let lost = What::Lost {
        epoch: 1,
        was_ready: true,
        why: "cut".into(),
        closed_for: None,
    };
    scene.happen(0, at, lost);
    scene.happen(0, at, What::Hello);
    scene.asked(Method::Sync);
    scene.happen(0, at, What::Ready { epoch: 2 });
    assert_eq!(scene.chat.people[0].open_repeats(), 1);
    scene.chat.tick(ms(at + 2_000), &mut scene.wire);
    scene.asked(Method::Send);
}

#[test]
fn a_repetition_that_is_not_acknowledged_once_is_told() {
    let accepted_twice = SendResponse {
        accepted: vec![Accepted::default(); 2],
    };
    for answer in [SendResponse::default(), accepted_twice] {
        let answers = std::rc::Rc::default();
        let mut scene = Scene::new();
        scene.chat.recorder = Box::new(Checks(std::rc::Rc::clone(&answers)));
        scene.chat.send(ms(1), ms(1), &mut scene.wire);
        let (seat, id, _) = scene.asked(Method::Send);
        let result = Ok(accepted(HEAD + 1).into());
        scene.happen(seat.0, 2, What::Response { id, result });
        scene.chat.plan_repeat_after_fault(seat, ms(3));
        scene.chat.hasten_repeats(ms(3));
        scene.chat.tick(ms(3), &mut scene.wire);
        scene.answer(Method::Send, 4, Ok(answer.encode_to_vec()));
        let tally = &scene.wire.counter.tally;
        let told: Vec<u8> = tally.told().iter().map(|told| told.invariant).collect();
        assert_eq!((told, tally.repeated, answers.borrow().len()), (vec![3], 0, 0));
    }
}
