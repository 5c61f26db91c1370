//! Decisions within one group, on bare state: what one mutation changes, the next one sees.

use bytes::Bytes;
use whimbrel_protocol::client::{self, entry::Body};
use whimbrel_protocol::code::Code;
use whimbrel_protocol::ids::{AppKey, ConversationId, OperationId, Seq, Uid, UserId};

use super::decision::{Actor, Answer, Ask, GroupOperation, Named, ReadPoint, Refusal};
use super::digest::{Digest, direct_conversation, group_conversation};
use super::mutation::Mutation;
use super::send::{Message, Send};
use super::state::{ReadSet, State};
use super::{create_group, depart, invite, mark_read, open_direct, recall};

const NOW_MS: u64 = 1_780_000_000_000;

fn actor(name: &str, id: u64) -> Actor {
    Actor {
        app: AppKey::new("demo").unwrap(),
        user: UserId(id),
        uid: Uid::new(name).unwrap(),
    }
}

fn ann() -> Actor {
    actor("ann", 1)
}

fn bob() -> Actor {
    actor("bob", 2)
}

fn named(actor: &Actor) -> Named {
    Named {
        user: actor.user,
        uid: actor.uid.clone(),
    }
}

fn id(n: u8) -> OperationId {
    OperationId::new(NOW_MS, [n; 10])
}

fn operation(n: u8) -> GroupOperation {
    GroupOperation {
        id: id(n),
        digest: Digest([n; 16]),
    }
}

fn send(ids: impl IntoIterator<Item = u8>, seen: u64) -> Mutation {
    let message = |n| Message {
        id: id(n),
        digest: Digest([n; 16]),
        content: client::Content {
            content: Some(client::content::Content::Text(client::Text {
                text: format!("{n}"),
            })),
        },
        options: None,
    };
    Mutation::Send(Send {
        messages: ids.into_iter().map(message).collect(),
        seen_seq: Seq(seen),
    })
}

/// One conversation of which nothing is stored, decided upon in memory.
struct Group {
    conversation: ConversationId,
    state: State,
    read_point: Option<ReadPoint>,
}

impl Group {
    fn empty(conversation: ConversationId) -> Self {
        Self {
            conversation,
            state: State::default(),
            read_point: None,
        }
    }

    /// A group that ann has made with bob.
    fn of_two() -> Self {
        let mut group = Self::empty(group_conversation(&ann().app, ann().user, id(0)));
        group.decide(&ann(), &create([&bob()])).unwrap();
        group
    }

    fn decide(&mut self, actor: &Actor, mutation: &Mutation) -> Result<Answer, Refusal> {
        let ask = Ask {
            conversation: self.conversation,
            state: &self.state,
            actor,
            now_ms: NOW_MS,
            read_point: self.read_point,
        };
        let (decided, changes) = mutation.decide(&ask);
        self.state.apply(changes);
        decided
    }

    /// What the next decisions write, apart from what was written before.
    fn write_anew(&mut self) {
        self.state.written = super::state::Written::default();
    }

    fn seqs(&mut self, actor: &Actor, mutation: &Mutation) -> Vec<u64> {
        match self.decide(actor, mutation).unwrap() {
            Answer::Sent(accepted) => accepted.iter().map(|accepted| accepted.seq).collect(),
            other => unreachable!("a send is answered as one, not {other:?}"),
        }
    }

    fn code(&mut self, actor: &Actor, mutation: &Mutation) -> Code {
        match self.decide(actor, mutation).unwrap_err() {
            Refusal::Failure(failure) | Refusal::Standing(failure) => failure.code,
            Refusal::NeedsReadPoint(seq) => unreachable!("a read point at {seq:?} is not expected"),
        }
    }
}

fn create<const N: usize>(others: [&Actor; N]) -> Mutation {
    Mutation::CreateGroup(create_group::CreateGroup {
        operation: operation(0),
        name: "team".into(),
        others: others.map(named).to_vec(),
        history_for_newcomers: false,
    })
}

fn remove(n: u8, whom: &Actor) -> Mutation {
    Mutation::RemoveMembers(depart::RemoveMembers {
        operation: operation(n),
        users: vec![named(whom)],
    })
}

fn invite(n: u8, whom: &Actor) -> Mutation {
    Mutation::Invite(invite::Invite {
        operation: operation(n),
        users: vec![named(whom)],
    })
}

fn mark(seq: u64) -> Mutation {
    Mutation::MarkRead(mark_read::MarkRead { read_seq: Seq(seq) })
}

#[test]
fn the_same_operation_twice_in_a_group_is_done_once() {
    let mut group = Group::of_two();
    assert_eq!(group.seqs(&ann(), &send([1, 2], 0)), [2, 3]);
    assert_eq!(group.seqs(&ann(), &send([1, 2], 0)), [2, 3]);
    assert_eq!(group.seqs(&bob(), &send([1], 0)), [4]);
    assert_eq!(
        group.decide(&ann(), &create([&bob()])).unwrap(),
        Answer::GroupChanged { seq: Seq(1) }
    );
    assert_eq!(group.state.written.operations.len(), 4);
}

#[test]
fn a_removal_stops_the_sends_behind_it_in_the_same_group() {
    let mut group = Group::of_two();
    assert_eq!(group.seqs(&bob(), &send([1], 0)), [2]);
    group.decide(&ann(), &remove(2, &bob())).unwrap();
    assert_eq!(group.code(&bob(), &send([3], 0)), Code::NotMember);
    // What was done before is still answered.
    assert_eq!(group.seqs(&bob(), &send([1], 0)), [2]);
    group.decide(&ann(), &invite(4, &bob())).unwrap();
    assert_eq!(group.code(&bob(), &send([3], 0)), Code::NotMember);
    assert_eq!(group.seqs(&bob(), &send([5], 0)), [5]);
    let member = group.state.member(bob().user).unwrap();
    assert!(member.sees(Seq(3)) && member.sees(Seq(4)));
    assert_eq!(group.state.head.as_ref().unwrap().member_count, 2);
}

#[test]
fn an_entry_is_taken_back_in_the_group_that_wrote_it() {
    let mut group = Group::of_two();
    group.seqs(&bob(), &send([1], 0));
    let recall = Mutation::Recall(recall::Recall {
        id: id(2),
        digest: Digest([2; 16]),
        seq: Seq(2),
    });
    assert_eq!(
        group.decide(&bob(), &recall).unwrap(),
        Answer::Recalled {
            rev: whimbrel_protocol::ids::Rev(1)
        }
    );
    let bodies: Vec<_> = group
        .state
        .written_entries()
        .map(|entry| entry.entry.body.clone())
        .collect();
    assert_eq!(bodies.last(), Some(&Some(Body::RecalledByUid("bob".into()))));
    assert_eq!(group.state.written.revs.len(), 1);
}

#[test]
fn reading_below_own_entries_asks_for_a_read_point_and_takes_no_other() {
    let mut group = Group::of_two();
    group.seqs(&bob(), &send([1, 2], 0));
    group.seqs(&ann(), &send([3, 4], 0));
    group.seqs(&bob(), &send([5], 0));
    assert_eq!(
        group.decide(&bob(), &mark(4)).unwrap_err(),
        Refusal::NeedsReadPoint(Seq(4))
    );
    group.read_point = Some(ReadPoint {
        seq: Seq(3),
        own_counted: 2,
    });
    assert_eq!(
        group.decide(&bob(), &mark(4)).unwrap_err(),
        Refusal::NeedsReadPoint(Seq(4))
    );
    group.read_point = Some(ReadPoint {
        seq: Seq(4),
        own_counted: 2,
    });
    assert_eq!(
        group.decide(&bob(), &mark(4)).unwrap(),
        Answer::Read {
            read_seq: Seq(4),
            unread: 1
        }
    );
    assert_eq!(
        group.decide(&ann(), &mark(6)).unwrap(),
        Answer::Read {
            read_seq: Seq(6),
            unread: 0
        }
    );
}

#[test]
fn reading_writes_no_head_and_going_back_nothing() {
    let mut group = Group::of_two();
    group.seqs(&ann(), &send([1], 0));
    let head = group.state.head.clone();
    group.state.written = super::state::Written::default();
    group.decide(&bob(), &mark(2)).unwrap();
    assert!(!group.state.written.head && group.state.written.readers.contains(&bob().user));
    assert_eq!(group.state.head, head);
    group.state.written = super::state::Written::default();
    assert_eq!(
        group.decide(&bob(), &mark(1)).unwrap(),
        Answer::Read {
            read_seq: Seq(2),
            unread: 0
        }
    );
    assert!(group.state.written.members.is_empty());
}

#[test]
fn a_failed_batch_leaves_the_state_as_it_was() {
    let mut group = Group::of_two();
    group.seqs(&ann(), &send([1], 0));
    let before = (group.state.head.clone(), group.state.written.entries.clone());
    let Mutation::Send(mut batch) = send([7, 1], 0) else {
        unreachable!("a send")
    };
    batch.messages[1].digest = Digest([99; 16]);
    assert_eq!(
        group.code(&ann(), &Mutation::Send(batch)),
        Code::OperationMismatch
    );
    assert_eq!(
        (group.state.head.clone(), group.state.written.entries.clone()),
        before
    );
}

/// A group that bob was in.
fn without_bob() -> Group {
    let mut group = Group::of_two();
    group.seqs(&bob(), &send([1], 0));
    group.decide(&ann(), &remove(2, &bob())).unwrap();
    group.write_anew();
    group
}

#[test]
fn of_a_refusal_nothing_is_written_but_what_is_remembered_under_its_ids() {
    let mut group = without_bob();
    let head = group.state.head.clone();
    assert_eq!(group.code(&bob(), &send([7, 8], 0)), Code::NotMember);
    let written = &group.state.written;
    assert_eq!(written.operations.len(), 2);
    assert!(!written.head && !written.for_everyone() && written.revs.is_empty());
    assert!(written.members.is_empty() && written.roster.is_empty() && written.readers.is_empty());
    assert_eq!(written.changed, crate::committed::Changed::default());
    assert_eq!(group.state.head, head);
    // Once.
    group.write_anew();
    assert_eq!(group.code(&bob(), &send([7, 8], 0)), Code::NotMember);
    assert!(group.state.written.operations.is_empty());
}

#[test]
fn a_batch_with_a_refused_message_is_refused_and_leaves_the_others_new() {
    let mut group = without_bob();
    assert_eq!(group.code(&bob(), &send([7], 0)), Code::NotMember);
    group.decide(&ann(), &invite(4, &bob())).unwrap();
    group.write_anew();
    assert_eq!(group.code(&bob(), &send([6, 7, 8], 0)), Code::NotMember);
    assert!(group.state.written.operations.is_empty());
    assert_eq!(group.seqs(&bob(), &send([6, 8], 0)), [5, 6]);
}

#[test]
fn what_was_carried_out_stays_so_in_a_batch_that_is_refused() {
    let mut group = without_bob();
    assert_eq!(group.code(&bob(), &send([1, 7], 0)), Code::NotMember);
    assert_eq!(group.state.written.operations.len(), 1);
    assert_eq!(group.seqs(&bob(), &send([1], 0)), [2]);
    group.decide(&ann(), &invite(4, &bob())).unwrap();
    assert_eq!(group.code(&bob(), &send([7], 0)), Code::NotMember);
}

#[test]
fn a_refused_id_is_refused_for_something_else_as_any_used_id_is() {
    let mut group = without_bob();
    assert_eq!(group.code(&bob(), &send([7], 0)), Code::NotMember);
    let Mutation::Send(mut other) = send([7], 0) else {
        unreachable!("a send")
    };
    other.messages[0].digest = Digest([99; 16]);
    assert_eq!(
        group.code(&bob(), &Mutation::Send(other)),
        Code::OperationMismatch
    );
}

#[test]
fn a_stranger_writes_nothing_by_being_refused() {
    let mut group = without_bob();
    let eve = actor("eve", 3);
    assert_eq!(group.code(&eve, &send([7], 0)), Code::UnknownConversation);
    assert_eq!(group.code(&eve, &invite(8, &eve)), Code::UnknownConversation);
    assert!(group.state.written.operations.is_empty() && !group.state.written.head);
    // Of what is not there, not even its creator.
    let mut nothing = Group::empty(group_conversation(&ann().app, ann().user, id(9)));
    assert_eq!(nothing.code(&ann(), &send([7], 0)), Code::UnknownConversation);
    assert!(nothing.state.written.operations.is_empty());
}

#[test]
fn the_head_knows_of_a_refused_id_that_is_older_than_all_others() {
    let mut group = without_bob();
    let before = group.state.head.clone().unwrap();
    let Mutation::Send(mut old) = send([7], 0) else {
        unreachable!("a send")
    };
    old.messages[0].id = OperationId::new(NOW_MS - 1_000, [7; 10]);
    assert_eq!(group.code(&bob(), &Mutation::Send(old)), Code::NotMember);
    assert!(group.state.written.head && !group.state.written.for_everyone());
    let after = group.state.head.clone().unwrap();
    assert_eq!(after.oldest_operation_ms, NOW_MS - 1_000);
    let as_before = crate::values::storage::Head {
        oldest_operation_ms: before.oldest_operation_ms,
        ..after
    };
    assert_eq!(as_before, before);
}

#[test]
fn both_open_a_direct_conversation_in_one_group_and_get_the_same() {
    let mut group = Group::empty(direct_conversation(&ann().app, ann().user, bob().user));
    let open = |peer: &Actor| Mutation::OpenDirect(open_direct::OpenDirect { peer: named(peer) });
    let uid_of_peer = |answer| match answer {
        Answer::Opened(conversation) => conversation.peer_uid,
        other => unreachable!("opening is answered as such, not {other:?}"),
    };
    assert_eq!(uid_of_peer(group.decide(&ann(), &open(&bob())).unwrap()), "bob");
    assert_eq!(uid_of_peer(group.decide(&bob(), &open(&ann())).unwrap()), "ann");
    assert!(!group.state.written.for_everyone());
}

#[test]
fn what_a_decision_looks_at_is_in_its_read_set() {
    let mut reads = ReadSet::default();
    remove(1, &bob()).reads(&ann(), &mut reads);
    send([2, 3], 9).reads(&ann(), &mut reads);
    assert!(reads.members.contains(&ann().user) && reads.members.contains(&bob().user));
    assert_eq!(reads.operations.len(), 3);
    assert!(reads.entries.contains(&Seq(9)));
    let keys = reads.keys(&crate::keys::ConversationKeys::new(
        &ann().app,
        group_conversation(&ann().app, ann().user, id(0)),
    ));
    assert_eq!(keys.len(), 1 + 2 + 3 + 1);
    assert_eq!(
        State::load(&reads, &vec![None::<Bytes>; keys.len()])
            .unwrap()
            .head,
        None
    );
}
