//! What users do: open conversations, write, read, change who belongs to groups, and come and go in rooms.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use whimbrel_loadtest::check::{ChangeDone, Event as Happened, Talk, User, Violation};
use whimbrel_protocol::client::{
    ChangeKind, Conversation, CreateGroupRequest, GroupChangeResponse, InviteRequest, LeaveRequest,
    MessagesPush, NoticePush, OpenDirectRequest, RemoveMembersRequest, RoomPush, SendRoomResponse,
};
use whimbrel_protocol::ids::{ConversationId, OperationId};
use whimbrel_protocol::method::{Method, PushMethod};

use crate::brought::{Audiences, Brought};
use crate::dice::Dice;
use crate::rooms::Rooms;
use crate::trace::note;
use crate::world::World;

/// A call is tried for so long; a run is shorter.
const CALL_WITHIN: Duration = Duration::from_secs(3_600);

/// A message to a room is worth nothing later.
const ROOM_SEND_WITHIN: Duration = Duration::from_secs(10);

/// Messages of a device that wait: it writes no more until some are answered.
const UNSENT_MAX: usize = 12;

/// Times a member is invited again: of more absences the server forgets the oldest (it keeps 16 intervals).
const RETURNS_MAX: usize = 10;

/// A group, as its members agreed on it last.
struct Group {
    id: ConversationId,
    owner: usize,
    members: BTreeSet<usize>,
    changing: bool,
    returns: usize,
}

/// What a call is for.
enum Purpose {
    OpenDirect([usize; 2]),
    CreateGroup {
        owner: usize,
        members: BTreeSet<usize>,
        open_history: bool,
    },
    Change {
        group: usize,
        joins: bool,
        user: usize,
    },
    JoinRoom(usize),
    LeaveRoom(usize),
    SendRoom,
}

/// See the module. Users are numbered; so are devices, by their place in the world.
pub(crate) struct Workload {
    dice: Dice,
    /// The devices of each user.
    users: Vec<Vec<usize>>,
    conversations: Vec<ConversationId>,
    groups: Vec<Group>,
    rooms: Rooms,
    audiences: Audiences,
    brought: Brought,
    calls: BTreeMap<(usize, u64), Purpose>,
    /// When each device acts next.
    acts_at_ms: Vec<u64>,
    pause_ms: u64,
    messages: usize,
}

impl Workload {
    /// Users and their devices, who begin by opening their conversations.
    pub(crate) fn begin(world: &mut World, mut dice: Dice) -> Self {
        let mut users = Vec::new();
        let count = 3 + dice.below(3);
        for user in 0..count {
            let mut devices = Vec::new();
            for device in 0..1 + dice.below(2) {
                devices.push(world.devices.len());
                world.add_device(&uid(user), &format!("{}-{device}", uid(user)));
            }
            users.push(devices);
        }
        let mut workload = Self {
            acts_at_ms: vec![0; world.devices.len()],
            pause_ms: [150, 400, 1_200][dice.below(3)],
            dice,
            users,
            conversations: Vec::new(),
            groups: Vec::new(),
            rooms: Rooms::default(),
            audiences: Audiences::new(),
            brought: Brought::default(),
            calls: BTreeMap::new(),
            messages: 0,
        };
        for _ in 0..1 + workload.dice.below(3) {
            let first = workload.dice.below(count);
            let second = (first + 1 + workload.dice.below(count - 1)) % count;
            workload.open_direct(world, first, second);
        }
        for _ in 0..1 + workload.dice.below(2) {
            let owner = workload.dice.below(count);
            workload.create_group(world, owner);
        }
        workload
    }

    /// Whether every conversation is there.
    pub(crate) fn is_set_up(&self) -> bool {
        self.calls
            .values()
            .all(|purpose| !matches!(purpose, Purpose::OpenDirect(_) | Purpose::CreateGroup { .. }))
    }

    /// Whether a device waits for what it asked.
    pub(crate) fn waits(&self, device: usize) -> bool {
        self.calls.keys().any(|(of, _)| *of == device)
    }

    /// Whether everything is answered.
    pub(crate) fn is_quiet(&self, world: &World) -> bool {
        self.calls.is_empty() && world.devices.iter().all(|device| device.client.unsent() == 0)
    }

    /// A device's connection brought something unasked.
    fn hear(&mut self, world: &World, device: usize, method: u32, payload: Bytes) {
        match PushMethod::from_number(method) {
            Some(PushMethod::Room) => self.rooms.hear(device, RoomPush::decode(payload).ok().as_ref()),
            Some(PushMethod::Messages) => {
                let push = MessagesPush::decode(payload).ok();
                self.brought.messages(&world.devices[device].uid, push.as_ref());
            }
            Some(PushMethod::Notice) => {
                let notice = NoticePush::decode(payload).ok();
                self.brought.notice(&world.devices[device].uid, notice.as_ref());
            }
            None => {}
        }
    }

    /// What is wrong with what connections brought.
    pub(crate) fn wrongly_brought(&self) -> Vec<Violation> {
        self.brought.violations(&self.audiences)
    }

    /// The rooms, and the account of them.
    pub(crate) fn rooms(&self) -> &Rooms {
        &self.rooms
    }

    /// A device's app has started anew.
    pub(crate) fn started_anew(&mut self, device: usize) {
        self.rooms.leave_all(device);
    }

    /// Messages handed over.
    pub(crate) fn messages(&self) -> usize {
        self.messages
    }

    /// The users, by uid.
    pub(crate) fn uids(&self) -> Vec<String> {
        (0..self.users.len()).map(uid).collect()
    }

    /// When somebody acts next.
    pub(crate) fn due_ms(&self) -> u64 {
        self.acts_at_ms.iter().copied().min().unwrap_or(u64::MAX)
    }

    /// Takes in what came of calls.
    pub(crate) fn take_answers(&mut self, world: &mut World) {
        for device in 0..world.devices.len() {
            self.rooms.connected(device, world.devices[device].connections);
            for (method, payload) in std::mem::take(&mut world.devices[device].pushes) {
                self.hear(world, device, method, payload);
            }
            for (number, result) in std::mem::take(&mut world.devices[device].answers) {
                let Some(purpose) = self.calls.remove(&(device, number)) else {
                    continue;
                };
                match (result, purpose) {
                    (Ok(body), purpose) => self.answered(world, purpose, body),
                    // Nothing of a room is promised: what was not taken is gone, who could not enter is not in it.
                    (Err(_), Purpose::SendRoom | Purpose::LeaveRoom(_)) => {}
                    (Err(_), Purpose::JoinRoom(room)) => {
                        world.devices[device].client.forget_room(&Rooms::id(room));
                        self.rooms.leave(room, device);
                    }
                    // It stays unanswered in the account, and that is a violation.
                    (Err(error), _) => note!(world.trace, world.now_ms, "a call failed: {error}"),
                }
            }
        }
    }

    /// Whoever's time has come acts.
    pub(crate) fn act(&mut self, world: &mut World) {
        for device in 0..self.acts_at_ms.len() {
            if self.acts_at_ms[device] <= world.now_ms {
                self.acts_at_ms[device] = world.now_ms + 1 + self.dice.within(0..=2 * self.pause_ms);
                self.act_one(world, device);
            }
        }
    }

    fn act_one(&mut self, world: &mut World, device: usize) {
        let mine = |id: &&ConversationId| {
            let row = world.devices[device].rows.get(*id);
            row.is_some_and(|row| row.member)
        };
        let mine: Vec<ConversationId> = self.conversations.iter().filter(mine).copied().collect();
        let Some(id) = self.dice.pick(&mine).copied() else {
            return;
        };
        match self.dice.below(24) {
            20..=23 => self.act_in_a_room(world, device),
            0..=1 => self.change_a_group(world),
            2..=4 => {
                let shown = world.devices[device].shown.get(&id).copied().unwrap_or(0);
                if shown > 0 {
                    let seq = self.dice.within(1..=shown);
                    world.with_device(device, |device, scene| device.mark(id, seq, scene));
                }
            }
            _ => {
                for _ in 0..1 + self.dice.below(3) {
                    if world.devices[device].client.unsent() < UNSENT_MAX {
                        let number = self.messages;
                        self.messages += 1;
                        world.with_device(device, |device, scene| device.send(id, number, scene));
                    }
                }
            }
        }
    }

    /// A device enters a room; or, when it is in it, says something there or leaves.
    fn act_in_a_room(&mut self, world: &mut World, device: usize) {
        let room = self.dice.below(Rooms::COUNT);
        let of_room = |purpose: &Purpose| matches!(purpose, Purpose::JoinRoom(of) | Purpose::LeaveRoom(of) if *of == room);
        let waits = self
            .calls
            .iter()
            .any(|((of, _), purpose)| *of == device && of_room(purpose));
        let id = Rooms::id(room);
        let is_inside = self.rooms.is_inside(room, device);
        // One thing after another, as an app does it.
        let purpose = match (is_inside, waits, self.dice.below(5)) {
            (false, false, _) => Purpose::JoinRoom(room),
            (true, false, 0) => Purpose::LeaveRoom(room),
            _ => Purpose::SendRoom,
        };
        note!(
            world.trace,
            world.now_ms,
            "device {device} in {id}: {}",
            match purpose {
                Purpose::JoinRoom(_) => "enters",
                Purpose::LeaveRoom(_) => "leaves",
                _ => "speaks",
            }
        );
        let text = match purpose {
            Purpose::JoinRoom(_) => {
                self.rooms.enter(room, device);
                String::new()
            }
            Purpose::LeaveRoom(_) => {
                self.rooms.leave(room, device);
                String::new()
            }
            // Whoever knows a room's id may speak in it, from without too.
            _ => self.rooms.send(room, device),
        };
        let number = world.with_device(device, |device, scene| {
            let clocks = device.clocks(scene.now_ms);
            match purpose {
                Purpose::JoinRoom(_) => device.client.join_room(&id, CALL_WITHIN, clocks),
                Purpose::LeaveRoom(_) => device.client.leave_room(&id, CALL_WITHIN, clocks),
                _ => device.client.send_room(&id, &text, ROOM_SEND_WITHIN, clocks),
            }
        });
        self.calls.insert((device, number), purpose);
    }

    fn call(
        &mut self,
        world: &mut World,
        device: usize,
        (method, id): (Method, Option<ConversationId>),
        payload: impl FnOnce(OperationId) -> Bytes + Send + 'static,
        purpose: Purpose,
    ) {
        let number = world.with_device(device, |device, scene| {
            let clocks = device.clocks(scene.now_ms);
            device.client.call(method, id, payload, CALL_WITHIN, clocks)
        });
        self.calls.insert((device, number), purpose);
    }

    fn device_of(&mut self, user: usize) -> usize {
        let devices = &self.users[user];
        devices[self.dice.below(devices.len())]
    }

    fn open_direct(&mut self, world: &mut World, first: usize, second: usize) {
        let request = OpenDirectRequest { uid: uid(second) };
        let device = self.device_of(first);
        let payload = move |_| request.encode_to_vec().into();
        let purpose = Purpose::OpenDirect([first, second]);
        self.call(world, device, (Method::OpenDirect, None), payload, purpose);
    }

    fn create_group(&mut self, world: &mut World, owner: usize) {
        let others = (0..self.users.len()).filter(|user| *user != owner);
        let members: BTreeSet<usize> = others.filter(|_| self.dice.chance(700)).collect();
        let open_history = self.dice.chance(300);
        let mut request = CreateGroupRequest {
            operation_id: Bytes::new(),
            name: "a group".to_owned(),
            member_uids: members.iter().copied().map(uid).collect(),
            history_for_newcomers: open_history,
        };
        let device = self.device_of(owner);
        let payload = move |id: OperationId| {
            request.operation_id = Bytes::copy_from_slice(id.as_bytes());
            request.encode_to_vec().into()
        };
        let purpose = Purpose::CreateGroup {
            owner,
            members,
            open_history,
        };
        self.call(world, device, (Method::CreateGroup, None), payload, purpose);
    }

    /// One of the groups that nobody is changing loses a member, or gets one back.
    fn change_a_group(&mut self, world: &mut World) {
        let idle = |group: &usize| !self.groups[*group].changing;
        let idle: Vec<usize> = (0..self.groups.len()).filter(idle).collect();
        let Some(group) = self.dice.pick(&idle).copied() else {
            return;
        };
        let (id, owner) = (self.groups[group].id, self.groups[group].owner);
        let others = (0..self.users.len()).filter(|user| *user != owner);
        let others: Vec<usize> = others.collect();
        let Some(user) = self.dice.pick(&others).copied() else {
            return;
        };
        let joins = !self.groups[group].members.contains(&user);
        if joins && self.groups[group].returns >= RETURNS_MAX {
            return;
        }
        let (conversation, uids) = (Bytes::copy_from_slice(id.as_bytes()), vec![uid(user)]);
        let leaves = !joins && self.dice.chance(300);
        let (kind, method, by) = match (joins, leaves) {
            (true, _) => (ChangeKind::Invited, Method::Invite, owner),
            (false, true) => (ChangeKind::Left, Method::Leave, user),
            (false, false) => (ChangeKind::Removed, Method::RemoveMembers, owner),
        };
        let payload = move |id: OperationId| {
            let operation_id = Bytes::copy_from_slice(id.as_bytes());
            let payload = match kind {
                ChangeKind::Invited => InviteRequest {
                    operation_id,
                    conversation,
                    uids,
                }
                .encode_to_vec(),
                ChangeKind::Left => LeaveRequest {
                    operation_id,
                    conversation,
                }
                .encode_to_vec(),
                _ => RemoveMembersRequest {
                    operation_id,
                    conversation,
                    uids,
                }
                .encode_to_vec(),
            };
            payload.into()
        };
        note!(
            world.trace,
            world.now_ms,
            "{} of {} in {id}",
            kind.as_str_name(),
            uid(user)
        );
        world.history.apply(Happened::ChangeAsked {
            id,
            kind,
            user: User::named(&uid(user)),
            at: Duration::from_millis(world.now_ms),
        });
        if joins {
            self.audiences.entry(id).or_default().insert(uid(user));
        }
        self.groups[group].changing = true;
        self.groups[group].returns += usize::from(joins);
        let device = self.device_of(by);
        let purpose = Purpose::Change { group, joins, user };
        self.call(world, device, (method, Some(id)), payload, purpose);
    }

    fn answered(&mut self, world: &mut World, purpose: Purpose, body: Bytes) {
        match purpose {
            Purpose::OpenDirect([first, second]) => {
                let opened = Conversation::decode(body).unwrap_or_default();
                let Ok(id) = ConversationId::from_wire(&opened.conversation) else {
                    return note!(world.trace, world.now_ms, "an answer without a conversation");
                };
                if !self.conversations.contains(&id) {
                    self.conversations.push(id);
                }
                self.audiences.insert(id, [first, second].map(uid).into());
                let users = [first, second].map(|user| User::named(&uid(user)));
                world.history.apply(Happened::Talk {
                    id,
                    talk: Talk::Direct(users),
                    base_seq: 0,
                });
            }
            Purpose::CreateGroup {
                owner,
                members,
                open_history,
            } => {
                let made = GroupChangeResponse::decode(body).unwrap_or_default();
                let Ok(id) = ConversationId::from_wire(&made.conversation) else {
                    return note!(world.trace, world.now_ms, "an answer without a group");
                };
                self.conversations.push(id);
                let audience = members.iter().copied().chain([owner]).map(uid);
                self.audiences.insert(id, audience.collect());
                self.groups.push(Group {
                    id,
                    owner,
                    members,
                    changing: false,
                    returns: 0,
                });
                world.history.apply(Happened::Talk {
                    id,
                    talk: Talk::Group { open_history },
                    base_seq: 0,
                });
            }
            Purpose::SendRoom => {
                let sent = SendRoomResponse::decode(body).unwrap_or_default();
                self.rooms.took(sent.taken);
            }
            Purpose::JoinRoom(_) | Purpose::LeaveRoom(_) => {}
            Purpose::Change { group, joins, user } => {
                let group = &mut self.groups[group];
                group.changing = false;
                if joins {
                    group.members.insert(user);
                } else {
                    group.members.remove(&user);
                }
                note!(world.trace, world.now_ms, "a change in {} is done", group.id);
                // Every change has one shape of answer.
                let told = GroupChangeResponse::decode(body).ok().map(|answer| answer.seq);
                let done = ChangeDone {
                    seq: told,
                    at: Duration::from_millis(world.now_ms),
                };
                world.history.apply(Happened::ChangeDone { id: group.id, done });
            }
        }
    }
}

fn uid(user: usize) -> String {
    format!("user-{user}")
}
