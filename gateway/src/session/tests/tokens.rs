//! Tokens that come while a session is open: which of them decide, and that none is ever shown.

use super::*;

fn token(text: &str) -> Frame {
    Frame::Reauth {
        within_ms: 0,
        payload: Bytes::copy_from_slice(text.as_bytes()),
    }
}

/// The token that is to be judged, of which there must be at most one.
fn to_judge(events: Vec<Event>) -> Option<String> {
    let mut logins = events.into_iter().filter_map(|event| match event {
        Event::Reauthenticate(login) => Some(Login::decode(login.into_bytes()).unwrap().token),
        _ => None,
    });
    let first = logins.next();
    assert_eq!(logins.next(), None, "one is judged at a time");
    first
}

fn verdict(pair: &mut Pair, code: u32) {
    let judged = AuthenticateResponse {
        code,
        user_id: ALICE,
        ..AuthenticateResponse::default()
    };
    pair.with(|session, cx| session.handle_reauthenticated(cx, Ok(judged)));
}

#[test]
fn of_tokens_that_come_while_one_is_judged_the_newest_decides_once() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let record = client.seal(&[token("first"), token("second"), token("third")]);
    pair.arrive(&record);
    assert_eq!(to_judge(pair.events()).as_deref(), Some("first"));
    verdict(&mut pair, Code::TokenExpired.number());
    assert_eq!(to_judge(pair.events()).as_deref(), Some("third"));
    let record = client.seal(&[token("while the last chance is judged")]);
    pair.arrive(&record);
    verdict(&mut pair, 0);
    assert_eq!(to_judge(pair.events()), None);
    assert!(pair.session.is_ready());

    let record = client.seal(&[token("bad"), token("worse")]);
    pair.arrive(&record);
    verdict(&mut pair, Code::TokenInvalid.number());
    let record = client.seal(&[token("and so on")]);
    pair.arrive(&record);
    verdict(&mut pair, Code::TokenInvalid.number());
    assert!(
        matches!(pair.fault(), Some(Fault::Refused { .. })),
        "a row of bad tokens keeps no session alive"
    );
    pair.assert_nothing_is_kept();
}

#[test]
fn a_token_that_no_hello_could_carry_is_refused_unjudged() {
    let mut pair = Pair::new();
    let mut client = pair.ready();
    let record = client.seal(&[token(&"x".repeat(limits::TOKEN_LEN_MAX + 1))]);
    pair.arrive(&record);
    assert!(matches!(pair.fault(), Some(Fault::Refused { .. })));
}

#[test]
fn no_debug_output_shows_a_token_or_a_key() {
    const TOKEN: &str = "eyJhbGciOiJIUzI1NiJ9-secret";
    let secrets = [TOKEN.to_owned(), format!("{:?}", TOKEN.as_bytes())];
    let mut shown = Vec::new();
    let mut pair = Pair::new();
    let greeting = Greeting::new(&pair.keys.statics[0].public(), &login("alice", TOKEN, 1));
    pair.arrive(&greeting.hello);
    shown.push(format!("{:?}", pair.session));
    shown.push(format!("{:?}", pair.session.login()));
    shown.push(format!("{:?}", pair.keys));

    let mut pair = Pair::new();
    let mut client = pair.ready();
    let record = client.seal(&[token(TOKEN), token(TOKEN)]);
    pair.arrive(&record);
    shown.push(format!("{:?}", pair.session));
    shown.push(format!("{:?}", pair.events()));
    let mut unfinished = Vec::new();
    token(&TOKEN.repeat(2)).encode(&mut unfinished).unwrap();
    let record = client.seal_raw(&unfinished[..unfinished.len() - 3]);
    pair.arrive(&record);
    assert!(pair.session.held() > 0);
    shown.push(format!("{:?}", pair.session));
    for shown in &shown {
        for secret in &secrets {
            // As text, as bytes, and as the text within longer bytes.
            let within = secret.trim_matches(['[', ']']);
            assert!(!shown.contains(within), "{shown}");
        }
    }
}
