//! Inputs to begin with: the life of a direct chat, of a group, of a room, and each request alone.

#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    // Steps as the script reads them. Places of methods: 0 Sync, 1 Send, 2 Pull, 3 PullChanges, 4 MarkRead, 5 Recall,
    // 6 OpenDirect, 7 GetConversation, 8 ListMembers, 9 CreateGroup, 10 Invite, 11 RemoveMembers, 12 Leave, 13 RenameGroup,
    // 14 SetRole, 15 TransferOwnership. Each ends with whether it is repeated.
    let sync = |who| vec![0, who, 0, 0, 50, 0];
    let send = |who, text: &[u8], again| {
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[1, who, 0, 0, 1, 0, 4, len][..], text, &[0, 0, again]].concat()
    };
    let pull = |who, down| vec![2, who, 0, 0, 0, 0, 20, down, 0];
    let changes = |who| vec![3, who, 0, 0, 0, 20, 0];
    let read = |who, seq| vec![4, who, 0, 0, seq, 0];
    let recall = |who, seq| vec![5, who, 0, 0, 0, seq, 1];
    let direct = |who, whom| vec![6, who, whom, 0];
    let about = |who| vec![7, who, 0, 0, 0];
    let members = |who, limit| vec![8, who, 0, 0, 0, limit, 0];
    let group = |who, history| [&[9, who, 0, 4][..], b"team", &[2, 1, 2, history, 1]].concat();
    let invite = |who, whom| vec![10, who, 0, 0, 0, 1, whom, 1];
    let remove = |who, whom| vec![11, who, 0, 0, 0, 1, whom, 1];
    let leave = |who| vec![12, who, 0, 0, 0, 1];
    let rename = |who| [&[13, who, 0, 0, 0, 3][..], b"new", &[1]].concat();
    let role = |who, whom, role| vec![14, who, 0, 0, 0, whom, role, 1];
    let transfer = |who, whom| vec![15, who, 0, 0, 0, whom, 1];
    let mut seeds = vec![
        [
            direct(0, 1),
            send(0, b"hello", 1),
            sync(1),
            pull(1, 0),
            read(1, 1),
            recall(0, 1),
            changes(1),
            pull(0, 1),
            about(0),
            members(0, 10),
            sync(0),
            sync(1),
        ]
        .concat(),
        [
            group(0, 1),
            send(0, b"hello all", 0),
            role(0, 1, 2),
            rename(1),
            invite(1, 3),
            send(2, b"hi", 1),
            remove(1, 2),
            send(2, b"still here?", 0),
            transfer(0, 1),
            leave(0),
            members(1, 1),
            sync(2),
            sync(0),
            pull(2, 0),
        ]
        .concat(),
        [
            group(0, 0),
            recall(1, 1),
            leave(0),
            leave(1),
            leave(2),
            about(0),
            sync(0),
        ]
        .concat(),
        [
            direct(0, 0),
            direct(0, 3),
            invite(0, 1),
            leave(0),
            rename(0),
            role(0, 3, 1),
            transfer(0, 3),
            remove(0, 3),
        ]
        .concat(),
        // Used and old operation ids, bad ones, no content, too many and too long messages.
        [
            group(0, 0),
            [&[9, 0, 6, 0, 4][..], b"team", &[2, 1, 2, 0, 1]].concat(),
            [&[9, 0, 6, 0, 4][..], b"othe", &[2, 1, 2, 0, 1]].concat(),
            [&[9, 0, 5, 0, 0, 0, 0, 0, 0, 0, 9, 1][..], b"t", &[0, 0, 0]].concat(),
            [&[9, 0, 7, 2, 1, 1, 1][..], b"t", &[0, 0, 0]].concat(),
            vec![1, 0, 0, 0, 0, 0, 0],
            vec![1, 0, 0, 0, 1, 0, 0, 0, 0, 0],
            vec![1, 0, 0, 0, 1, 0, 3, 0xff, 0xff, 0, 0, 0],
            vec![
                1, 0, 0, 0, 1, 0, 2, 4, b'c', b'a', b'r', b'd', 9, 0, 20, 1, 1, 0, 30, 0, 1,
            ],
            vec![1, 0, 255, 3, 1, 2, 3, 1, 0, 4, 1, b'x', 0, 0, 0],
        ]
        .concat(),
        [
            vec![255, 2, 0, 0, 0, 0, 0, 0],
            vec![10, 0, 0, 0, 0, 255, 2, 0x58, 0],
        ]
        .concat(),
        [
            vec![9, 0, 0, 3, b'b', b'i', b'g', 255, 1, 0xf3, 0, 0],
            members(0, 200),
            sync(0),
        ]
        .concat(),
        vec![16, 0, 99, 0, 3, 1, 2, 3, 0],
        vec![16, 0, 2, 0, 3, 0xff, 0xff, 0xff, 0],
        [
            &[17, 1, 0, 0, 0, 1, 0, 4, 2][..],
            b"hi",
            &[0, 0, 2, 0, 3, 0, 9, 0, 5, 1, 0],
        ]
        .concat(),
        [
            vec![21, 0x30, 0, 0, 0],
            direct(0, 1),
            vec![21, 0x35, 0, 0, 0],
            send(0, b"late", 0),
            sync(0),
        ]
        .concat(),
    ];
    let seen = |who, seq| [&[1, who, 0, 0, 1, 0, 4, 2][..], b"ok", &[0, seq, 0]].concat();
    seeds.push(
        [
            direct(0, 1),
            send(0, b"one", 0),
            send(0, b"two", 0),
            send(1, b"three", 0),
            seen(0, 3),
            send(1, b"four", 0),
            seen(1, 4),
            read(0, 5),
            send(0, b"mine", 0),
            seen(0, 5),
            read(1, 6),
            sync(0),
            sync(1),
            vec![0, 0, 0, 1, 50, 0],
            vec![0, 1, 0, 0, 1, 0],
        ]
        .concat(),
    );
    // Refused, and then things change: asked again at the end.
    seeds.push(
        [
            group(0, 0),
            remove(0, 2),
            send(2, b"refused", 1),
            recall(1, 9),
            rename(1),
            leave(0),
            invite(0, 2),
            role(0, 1, 2),
            send(2, b"a", 0),
            send(2, b"b", 0),
            send(2, b"c", 0),
            send(2, b"d", 0),
            send(1, b"e", 0),
            send(1, b"f", 0),
            transfer(0, 1),
        ]
        .concat(),
    );
    // Who may not, and what is so already.
    seeds.push(
        [
            group(0, 0),
            rename(2),
            rename(0),
            rename(0),
            remove(2, 1),
            remove(1, 0),
            role(0, 0, 2),
            role(0, 1, 2),
            role(0, 1, 2),
            role(1, 2, 2),
            role(0, 2, 9),
            transfer(2, 1),
            transfer(0, 0),
            transfer(0, 3),
            remove(1, 0),
            remove(0, 3),
            invite(0, 1),
            send(0, b"x", 0),
            recall(2, 8),
            recall(1, 8),
            recall(1, 8),
            recall(0, 99),
        ]
        .concat(),
    );
    let wait = || vec![21, 0, 0, 4, 0];
    seeds.push(
        [
            group(0, 0),
            direct(0, 1),
            send(0, b"row", 0),
            wait(),
            sync(1),
            vec![0, 1, 0, 0, 1, 0],
            vec![0, 1, 255, 0, 1, 0],
            send(1, b"back", 0),
            wait(),
            sync(0),
            members(0, 1),
            vec![8, 0, 0, 0, 3, 1, 2, 3, 9, 0],
            vec![22, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0],
            wait(),
            sync(1),
        ]
        .concat(),
    );
    let recalls = (1..12).flat_map(|seq| recall(2, seq));
    seeds.push(
        [group(0, 0), send(0, b"x", 0), send(1, b"y", 0), send(2, b"z", 0)]
            .concat()
            .into_iter()
            .chain(recalls)
            .chain(recall(0, 3))
            .chain(recall(0, 3))
            .chain(changes(1))
            .collect(),
    );
    seeds.push([group(0, 0), leave(0), leave(1), leave(2), leave(2), sync(1)].concat());
    seeds.push(
        [
            direct(0, 1),
            // Empty text, a type too long, a push text too long, two messages of one id, a batch too long.
            vec![1, 0, 0, 0, 1, 0, 4, 0, 0, 0, 0],
            [
                &[1, 0, 0, 0, 1, 0, 2, 200][..],
                &[b'c'; 200],
                &[9, 0, 20, 0, 0, 0],
            ]
            .concat(),
            vec![1, 0, 0, 0, 1, 0, 4, 1, b'x', 1, 0, 7, 0xcf, 0, 0],
            vec![1, 0, 0, 0, 2, 0, 4, 1, b'x', 0, 6, 9, 4, 1, b'y', 0, 0, 0],
            vec![
                1, 0, 0, 0, 3, 0, 3, 0x50, 0, 0, 0, 3, 0x50, 0, 0, 0, 3, 0x50, 0, 0, 0, 0,
            ],
            vec![9, 0, 0, 0, 0, 0, 0],
            vec![10, 0, 0, 0, 0, 0, 0],
            vec![10, 0, 0, 0, 0, 255, 2, 0xbb, 0],
            vec![0, 0, 255, 40],
            vec![9; 40],
        ]
        .concat(),
    );
    // A token that has ended, one of a server, one that is no JWT, one too long, of an app that is not there.
    seeds.push(vec![
        20, 0, 3, 0, 9, 0, 0, 0, 0, 0, 0, 21, 0, 3, 0, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0,
    ]);
    seeds.push(vec![20, 0, 2, 0x0f, 0, 0, 0, 0, 0, 0, 0]);
    seeds.push(vec![
        20, 0, 3, 0x0f, 0, 0, 1, 4, b'n', b'o', b'n', b'e', 0, 0, 0, 0,
    ]);
    seeds.push(vec![20, 0, 3, 0x0f, 0, 0, 0, 1, 0, 0, 0]);
    for kind in 0..24 {
        seeds.push(vec![18, kind, 0, 2, 8, 1, 0, 9]);
    }
    for kind in 0..5 {
        seeds.push([&[20, 0, kind][..], &[3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0]].concat());
        seeds.push(vec![20, 1, 3, 0x0f, 0, 0, 0, 1, 0, 0, 0]);
        seeds.push(vec![20, 1, 3, 0, 0, 0, 0, 1, 0, 0, 0]);
        seeds.push(vec![20, 1, 3, 0x0f, 0, 1, 1, 0, 40, 0, b'x', 0, 1, 0, 0, 0]);
    }
    seeds.push(vec![19, 3, 4, b'p', b'a', b'd', b'2', 19, 0, 0]);
    seeds.push(
        [
            direct(0, 1),
            vec![22, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0],
            sync(0),
        ]
        .concat(),
    );
    // Rooms: told of, asked about, joined, sent to, left, with every manner of a gateway. 240 Join, 241 Leave, 242 Send,
    // 243 Count, 248 Join without a session.
    let tells = |room, members: u16| [&[250, 1, room][..], &members.to_be_bytes()].concat();
    let room = |what: u8, who, room| vec![what, who, room, 0];
    let say = |who, room, text: &[u8]| {
        let len = u8::try_from(text.len()).unwrap_or(u8::MAX);
        [&[242, who, room, 0, 4, len][..], text, &[0]].concat()
    };
    let manners: Vec<Vec<u8>> = vec![
        vec![249, 0],
        vec![249, 1, 90],
        vec![249, 2, 90],
        vec![249, 3],
        vec![249, 4, 2, b'n', b'o'],
        vec![249, 5, 3, 0xff, 0xff, 0xff],
        vec![249, 7, 3, 0, 0],
        vec![249, 7, 0, 5, 90],
        vec![249, 9],
    ];
    let outcomes = (0..8).map(|outcome| vec![249, 6, outcome]);
    for manner in manners.into_iter().chain(outcomes) {
        seeds.push(
            [
                manner,
                tells(0, 3),
                room(240, 0, 0),
                say(1, 0, b"hi all"),
                room(243, 2, 0),
                say(1, 1, b"nobody"),
                room(241, 0, 0),
                room(248, 0, 0),
            ]
            .concat(),
        );
    }
    seeds.push(
        [
            vec![240, 0, 255, 0, 0],
            vec![241, 0, 254, 65, 0],
            vec![243, 0, 255, 1, 0, 0],
            vec![242, 0, 0, 7, 1, 1, 4, 1, b'x', 0],
            vec![242, 0, 0, 0, 0, 0],
            vec![242, 0, 0, 0, 3, 0x20, 1, 0],
        ]
        .concat(),
    );
    seeds.push(
        [
            group(0, 0),
            [
                &[251, 23][..],
                &[0, 0, 1].repeat(8),
                &[7, 1, 5].repeat(8),
                &[16, 0, 4].repeat(7),
            ]
            .concat(),
            [&[251, 9][..], &[2, 0, 2].repeat(5), &[9, 1, 3].repeat(4)].concat(),
        ]
        .concat(),
    );
    // A store that falls ill and recovers, under sends, changes, reads, logins and other nodes' work; the node stands aside.
    let is = |health| vec![252, health];
    for health in 1..6 {
        seeds.push(
            [
                group(0, 0),
                direct(0, 1),
                send(0, b"well", 0),
                is(health),
                send(0, b"ill", 1),
                recall(0, 1),
                read(1, 1),
                vec![22, 2, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0, 1, 0],
                vec![19, 3, 4, b'p', b'a', b'd', b'2'],
                direct(0, 3),
                sync(1),
                vec![253],
                wait(),
                is(0),
                vec![253],
                send(0, b"again", 1),
                sync(1),
            ]
            .concat(),
        );
    }
    seeds.push([&[23, 4][..], b"demo", &[3], b"eve", &[9, 1, 2, 8, 1]].concat());
    seeds
}
