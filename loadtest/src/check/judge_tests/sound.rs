//! What is unusual and no fault.

use super::*;

#[test]
fn open_history_shows_newcomers_what_was_before() {
    let mut history = sound();
    let club = of(&mut history, group());
    club.talk = Some(Talk::Group { open_history: true });
    let all = club.shown[&phone("ann")].entries.clone();
    bobs(&mut history, group()).entries = all;
    assert_eq!(check(&history), []);
}

#[test]
fn a_device_that_shows_entries_as_they_come_may_show_them_out_of_order() {
    let mut history = sound();
    bobs(&mut history, direct()).entries.swap(1, 2);
    assert_eq!(broken(&history), BTreeSet::from([Invariant::OneLog]));
    for facts in history.devices.values_mut() {
        facts.showing = Showing::AsItComes;
    }
    assert_eq!(check(&history), []);
}

#[test]
fn a_users_device_may_guess_what_is_unread_after_its_own_mark_until_the_server_has_it() {
    let mut history = sound();
    bobs(&mut history, direct()).rows.insert(1, row(4, 1, 2));
    assert_eq!(check(&history), []);
}

#[test]
fn rows_that_are_left_out_come_in_any_order() {
    let mut history = sound();
    let late = [row(4, 2, 2), row(3, 0, 3), row(1, 0, 1)];
    bobs(&mut history, direct()).left_out.extend(late);
    assert_eq!(check(&history), []);
}

#[test]
fn a_device_that_asks_for_nothing_need_not_have_anything_and_must_not_have_what_is_not_its_users() {
    let mut history = sound();
    let device = phone("bob");
    if let Some(facts) = history.devices.get_mut(&device) {
        facts.showing = Showing::Nothing;
    }
    let all = of(&mut history, group()).shown[&phone("ann")].entries.clone();
    *bobs(&mut history, group()) = Shown::default();
    *bobs(&mut history, direct()) = Shown::default();
    assert_eq!(check(&history), []);
    bobs(&mut history, group()).entries.push(all[3].clone());
    assert_eq!(broken(&history), BTreeSet::from([Invariant::Removal]));
}

#[test]
fn rows_that_show_what_is_there_are_sound() {
    let mut history = sound();
    show(&mut history, group(), club_shows());
    show(&mut history, direct(), chat_shows());
    assert_eq!(check(&history), []);
}
