//! What bad input gets: a row each, over and over, while two others keep chatting and memory stays flat.

use std::net::TcpStream;
use std::time::Duration;

use rstest::rstest;
use whimbrel_protocol::close::CloseReason;
use whimbrel_protocol::frame::Frame;

use crate::support::attacks::*;
use crate::support::client::{Greeting, login};
use crate::support::socket::{Socket, connect, read_to_end};
use crate::support::world::{ECHO, LARGE, TELL, World, config};

const REPEATS: usize = 12;

/// Two who chat, whatever others do.
struct Witnesses {
    alice: Socket,
    bob: Socket,
    said: usize,
}

impl Witnesses {
    fn of(world: &World) -> Self {
        Self {
            alice: world.log_in("alice", 1),
            bob: world.log_in("bob", 1),
            said: 0,
        }
    }

    fn chat(&mut self) {
        self.said += 1;
        assert_eq!(
            self.alice
                .ask(TELL, format!("bob\0{}", self.said).as_bytes())
                .code,
            0
        );
        assert_eq!(self.bob.next_push(), self.said.to_string().into_bytes());
    }
}

fn assert_flat(world: &World) {
    world.until("only the witnesses are left and nothing is held", |world| {
        let gateway = world.gateway();
        gateway.connections() == 2
            && gateway.sessions() == 2
            && gateway.unfinished_handshakes() == 0
            && gateway.held_bytes() == 0
            && gateway.owed_bytes() == 0
    });
}

#[rstest]
#[case::random_bytes(random_bytes)]
#[case::wrong_magic(wrong_magic)]
#[case::unknown_version(unknown_version)]
#[case::unknown_suite(unknown_suite)]
#[case::unknown_key_id(unknown_key_id)]
#[case::hello_over_its_bound(hello_over_its_bound)]
#[case::bytes_behind_the_hello(bytes_behind_the_hello)]
#[case::tampered_hello(tampered_hello)]
#[case::hello_cut_short(hello_cut_short)]
#[case::claims_that_are_no_ids(claims_that_are_no_ids)]
#[case::expired_token(expired_token)]
#[case::tampered_record(tampered_record)]
#[case::replayed_record(replayed_record)]
#[case::reordered_records(reordered_records)]
#[case::cut_record(cut_record)]
#[case::record_over_its_bound(record_over_its_bound)]
#[case::empty_record(empty_record)]
#[case::replayed_hello(replayed_hello)]
#[case::request_before_confirm(request_before_confirm)]
#[case::second_confirm(second_confirm)]
#[case::duplicate_request_id(duplicate_request_id)]
#[case::even_request_id(even_request_id)]
#[case::unknown_critical_kind(unknown_critical_kind)]
#[case::unknown_kind(unknown_kind)]
#[case::frame_over_its_bound(frame_over_its_bound)]
#[case::frame_of_the_other_side(frame_of_the_other_side)]
#[case::acknowledgement_of_nothing(acknowledgement_of_nothing)]
#[case::token_that_is_no_text(token_that_is_no_text)]
#[case::undecodable_cluster_frames(undecodable_cluster_frames)]
#[case::too_many_requests(too_many_requests)]
fn bad_input_harms_nobody_else(#[case] attack: fn(&World)) {
    let world = World::new();
    let mut witnesses = Witnesses::of(&world);
    for _ in 0..REPEATS {
        attack(&world);
        witnesses.chat();
    }
    assert_flat(&world);
}

/// Runs `begin` once, lets `wait` pass, and expects whatever `begin` left to be over.
fn over_after<T>(wait: Duration, begin: impl Fn(&World) -> T, over: impl Fn(&World, T)) {
    let (world, clock) = World::on_manual_clock(config());
    let mut witnesses = Witnesses::of(&world);
    for _ in 0..3 {
        let begun = begin(&world);
        witnesses.chat();
        clock.advance(wait);
        witnesses.alice.send(&[Frame::Ping { token: 1 }]);
        over(&world, begun);
        witnesses.chat();
    }
    assert_flat(&world);
}

#[test]
fn a_stalled_hello_is_hung_up_on() {
    let begin = |world: &World| {
        let mut stream = connect(world.address);
        let hello = Greeting::new(&world.key, &login("mallory", "good", 1)).hello;
        std::io::Write::write_all(&mut stream, &hello[..40]).unwrap();
        world.until("the hello is held", |world| world.gateway().held_bytes() == 40);
        stream
    };
    let over = |_: &World, mut stream: TcpStream| assert!(read_to_end(&mut stream).is_empty());
    over_after(Duration::from_secs(11), begin, over);
}

#[test]
fn a_login_without_confirm_ends_and_nothing_was_opened() {
    let begin = |world: &World| Socket::greet(world.address, &world.key, &login("mallory", "good", 1)).0;
    let over = |world: &World, mut socket: Socket| {
        assert_eq!(socket.close_reason(), Some(CloseReason::NotConfirmed.number()));
        assert!(world.sessions_of("mallory").is_empty());
        assert_eq!(
            world.asked.open_session.load(std::sync::atomic::Ordering::SeqCst),
            2,
            "the witnesses'"
        );
    };
    over_after(Duration::from_secs(11), begin, over);
}

#[test]
fn a_frame_that_never_ends_closes_even_if_records_keep_coming() {
    let (world, clock) = World::on_manual_clock(config());
    let mut witnesses = Witnesses::of(&world);
    let mut socket = world.log_in("mallory", 1);
    let mut endless = vec![0x80, 0, 0xf0, 0, 1, 0];
    endless.resize(20, 7);
    let record = socket.client.seal_raw(&endless);
    socket.send_bytes(&record);
    world.until("it has begun", |world| world.gateway().held_bytes() > 0);
    for _ in 0..9 {
        clock.advance(Duration::from_secs(2));
        let record = socket.client.seal_raw(&[7; 10]);
        socket.send_bytes(&record);
        witnesses.chat();
    }
    clock.advance(Duration::from_secs(3));
    assert_eq!(
        socket.close_reason(),
        Some(CloseReason::ProtocolViolation.number())
    );
    witnesses.chat();
    drop(socket);
    assert_flat(&world);
}

#[test]
fn a_silent_client_is_closed_after_two_and_a_half_heartbeats() {
    let (world, clock) = World::on_manual_clock(config());
    let (mut alice, mut quiet) = (world.log_in("alice", 1), world.log_in("quiet", 1));
    clock.advance(Duration::from_secs(599));
    assert_eq!(alice.ask(ECHO, b"alive").code, 0);
    assert_eq!(world.gateway().sessions(), 2);
    clock.advance(Duration::from_secs(2));
    assert_eq!(quiet.close_reason(), None, "there is nobody to tell");
    assert_eq!(alice.ask(ECHO, b"alive").code, 0);
}

#[test]
fn a_login_that_nobody_judges_is_told_so() {
    let (world, clock) = World::on_manual_clock(config());
    let login = login("alice", "slow", 1);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| Socket::greet(world.address, &world.key, &login).1);
        world.until("it was asked", |world| {
            world.asked.authenticate.load(std::sync::atomic::Ordering::SeqCst) == 1
        });
        clock.advance(Duration::from_secs(11));
        waiting.join().unwrap()
    });
    assert_eq!(
        waiting.code,
        whimbrel_protocol::code::Code::DeadlineExceeded.number()
    );
}

#[test]
fn an_address_with_too_many_unfinished_handshakes_is_turned_away_and_users_are_not() {
    let mut config = config();
    config.handshake.unfinished_per_address_max = 5;
    let world = World::with(config);
    let mut witnesses = Witnesses::of(&world);
    let stalled: Vec<_> = (0..5).map(|_| connect(world.address)).collect();
    world.until("they are counted", |world| {
        world.gateway().unfinished_handshakes() == 5
    });
    let turned_away = read_to_end(&mut connect(world.address));
    assert_eq!(
        turned_away.get(..5),
        Some(&[2, 0, 6, 0, 6][..]),
        "{turned_away:?}"
    );
    witnesses.chat();
    drop(stalled);
    assert_flat(&world);
    world.log_in("carol", 1);
}

#[test]
fn a_client_that_does_not_read_is_read_no_more_and_holds_a_bounded_amount() {
    let mut config = config();
    config.session.outbound_collapse_bytes = 100_000;
    let (world, clock) = World::on_manual_clock(config);
    let mut witnesses = Witnesses::of(&world);
    let mut greedy = world.log_in("greedy", 1);
    greedy
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    for _ in 0..400 {
        let request = greedy.client.request(LARGE, b"");
        let ask = greedy.client.seal(&[request]);
        if std::io::Write::write_all(&mut greedy.stream, &ask).is_err() {
            break;
        }
        assert!(
            world.gateway().owed_bytes() <= 100_000 + 33 * 61_000,
            "{}",
            world.gateway().owed_bytes()
        );
    }
    world.until("it is owed something", |world| world.gateway().owed_bytes() > 0);
    // Whatever the kernel still took when the clock moved is progress of that moment: then it has a minute more.
    let is_closed = (0..4).any(|_| {
        witnesses.chat();
        clock.advance(Duration::from_secs(61));
        world.comes_within(Duration::from_secs(5), |world| world.gateway().sessions() == 2)
    });
    assert!(is_closed, "who does not read stays");
    clock.advance(Duration::from_secs(6));
    assert_flat(&world);
    witnesses.chat();
}

#[test]
fn attacks_leave_no_memory_behind() {
    let resident_kib = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    };
    let world = World::new();
    let mut witnesses = Witnesses::of(&world);
    let mut round = |times: usize| {
        for _ in 0..times {
            for attack in [
                random_bytes,
                unknown_key_id,
                tampered_hello,
                expired_token,
                tampered_record,
                duplicate_request_id,
            ] {
                attack(&world);
            }
            witnesses.chat();
        }
    };
    round(20);
    let before = resident_kib();
    round(100);
    assert_flat(&world);
    // Other tests run beside this one in the same process: a leak of a connection's memory each would be far over.
    assert!(
        resident_kib() < before + 64 * 1024,
        "{before} KiB before, {} after",
        resident_kib()
    );
}
