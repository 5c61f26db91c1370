//! Inputs to begin with: whole lives of a connection, each way in which one ends early, and the client's half.

use super::desk;

#[must_use]
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let head = |small: u8, requests: u8, opening: u8| {
        let suite: &[u8] = if opening == 0 { &[] } else { &[0] };
        [&[0, small, requests, opening][..], suite].concat()
    };
    let ask = |text: &[u8]| [&[18, 2, u8::try_from(text.len()).unwrap_or(0)][..], text].concat();
    let push = |len: u16| [&[13, 0, 1, 1, 7][..], &len.to_be_bytes()].concat();
    let mut seeds = vec![
        // A whole life: login, confirm, ready, requests, answers, pushes, acknowledgement, drain, close.
        [
            head(0, 31, 3),
            ask(b"sync"),
            ask(b"send"),
            vec![5, 12, 0, 2, 7, 0, 40, 12, 0, 0, 104, 0, 0, 0],
            push(90),
            vec![7, 19, 5, 7, 15, 0, 9, 7, 0, 11, 3, 0, 5, 7, 7],
        ]
        .concat(),
        // The same, step by step from the hello, in pieces.
        [
            head(0, 31, 0),
            vec![
                17, 0, 3, b'i', b'o', b's', 0, 4, 0, 20, 4, 0, 200, 5, 10, 2, 0, 0, 0, 9, 7, 0, 12, 18, 2, 4,
                b's', b'y', b'n', b'c', 4, 0, 9, 5, 13, 0, 1, 1, 7, 0, 9, 14, 0, 3, 11, 0, 7, 7,
            ],
        ]
        .concat(),
        // A slow reader: collapse, hint, close.
        [
            head(1, 3, 3),
            push(4_000),
            push(4_000),
            push(4_000),
            push(50),
            vec![6, 0, 100, 6, 0, 0, 16, 3, 9, 9, 9, 7],
        ]
        .concat(),
        [
            head(1, 31, 3),
            ask(b"a"),
            ask(b"b"),
            ask(b"c"),
            vec![5, 12, 0, 2, 9, 0x2e, 0, 12, 0, 2, 9, 0x2e, 0, 12, 0, 1, 7],
        ]
        .concat(),
        // More requests than allowed, a compressed one, one twice, an even one.
        [head(0, 0, 3), ask(b"a"), ask(b"b"), vec![5, 7]].concat(),
        [
            head(0, 9, 3),
            vec![
                0, 1, 2, 1, 0, 0, 1, 0, 1, b'x', 5, 7, 0, 1, 2, 1, 0, 0, 0, 0, 1, b'x', 5, 7,
            ],
        ]
        .concat(),
        [head(0, 9, 3), vec![0, 1, 2, 2, 0, 0, 0, 0, 0, 5, 7]].concat(),
        // A token that runs out, is renewed, is refused, is nobody's to judge.
        [
            head(0, 9, 1),
            vec![
                10, 2, 0, 0, 9, 9, 7, 0, 12, 5, 11, 0, 7, 9, 7, 0, 9, 0, 0, 3, b't', b'o', b'k', 5, 10, 2, 0,
                1, 0, 0, 9, 7, 0, 9, 0, 0, 1, b't', 5, 10, 1, 201, 0, 0, 7,
            ],
        ]
        .concat(),
        [
            head(0, 9, 1),
            vec![
                10, 2, 0, 0, 9, 9, 7, 0, 12, 5, 11, 0, 7, 9, 0, 9, 0, 0, 1, b't', 5, 10, 0, 9, 0, 0, 0, 9, 9,
                9, 7,
            ],
        ]
        .concat(),
        [
            head(0, 9, 1),
            vec![10, 2, 0, 0, 9, 9, 7, 0, 12, 5, 11, 0, 7, 9, 7, 9, 7],
        ]
        .concat(),
        [head(0, 9, 3), vec![0, 9, 0, 0, 2, 0xff, 0xfe, 5, 7]].concat(),
        [
            head(0, 9, 3),
            vec![0, 9, 0, 0, 1, b'a', 0, 9, 0, 0, 1, b'b', 5, 7],
        ]
        .concat(),
        // Tracked pushes never acknowledged, wrongly acknowledged.
        [head(0, 9, 3), push(9), vec![7, 9, 9, 7]].concat(),
        [head(0, 9, 3), push(9), vec![7, 0, 4, 9, 5, 7]].concat(),
        // Silence, an unfinished record, an unfinished frame.
        [head(0, 9, 3), vec![9, 7]].concat(),
        [head(0, 9, 3), vec![3, 2, 0, 40, 5, 9, 7]].concat(),
        [head(0, 9, 3), vec![2, 0, 3, 0x40, 90, 3, 5, 9, 7]].concat(),
        [head(0, 9, 3), vec![3, 3, 0xff, 0xff, 0, 5, 7]].concat(),
        [head(0, 9, 3), vec![2, 0, 3, 2, 99, 2, 5, 7, 9]].concat(),
        // Memory: many bytes of one frame with small budgets.
        [
            head(1, 9, 3),
            vec![
                2, 1, 0x80, 0x3f, 0xff, 2, 1, 0x80, 0x3f, 0xff, 2, 1, 0x80, 0x3f, 0xff, 5, 7,
            ],
        ]
        .concat(),
        // Nothing confirmed, something else confirmed, padding first.
        [head(0, 9, 2), vec![9, 7, 9]].concat(),
        [head(0, 9, 2), vec![0, 0, 0, 9, 5, 0, 12, 5, 11, 2, 9, 0, 0, 0, 7]].concat(),
        [head(0, 9, 2), vec![0, 5, 1, 5, 7, 9]].concat(),
        [
            head(0, 9, 2),
            vec![0, 12, 5, 13, 255, 0, 1, 0, 0, 13, 0, 0, 1, 0, 0, 14, 0, 1, 9, 7],
        ]
        .concat(),
        [head(0, 9, 2), vec![0, 12, 5, 11, 1, 205, 0, 7]].concat(),
        [
            head(1, 9, 2),
            vec![
                0, 12, 5, 0, 1, 1, 1, 0, 0, 0, 1, 7, 0x3f, 0, 0, 1, 1, 3, 0, 0, 0, 1, 7, 0x3f, 0, 0, 1, 1, 5,
                0, 0, 0, 1, 7, 0x3f, 0, 5, 7,
            ],
        ]
        .concat(),
        // Logins refused, not answered, too late, not ids.
        [head(0, 9, 1), vec![10, 1, 200, 2, b'n', b'o', 0, 7]].concat(),
        [
            head(0, 9, 1),
            vec![10, 0, 254, 0, 0, 1, 0x90, 1, 200, 9, 6, 0, 5, 9],
        ]
        .concat(),
        [head(0, 9, 1), vec![9, 7]].concat(),
        [head(0, 9, 0), vec![17, 1, 0, 0, 0, 5, 7]].concat(),
        [head(0, 9, 0), vec![9]].concat(),
        [head(0, 9, 0), vec![3, 4, 1, 2, 3, 4, 5]].concat(),
        [
            head(0, 9, 0),
            vec![
                3, 12, 0xf7, b'W', b'B', b'L', 2, 0, 5, 1, 2, 3, 4, 5, 5, 6, 0, 1, 7,
            ],
        ]
        .concat(),
        [head(0, 9, 0), vec![17, 0, 0, 0, 3, 1, 9, 5, 7]].concat(),
        // What a small client takes.
        [
            head(0, 9, 0),
            vec![
                17, 0, 0, 50, 5, 10, 2, 0, 0, 0, 0, 7, 0, 12, 5, 11, 0, 18, 1, 1, b'x', 5, 12, 0, 2, 7, 0,
                90, 13, 0, 1, 1, 1, 0, 90, 7,
            ],
        ]
        .concat(),
    ];
    // Messages to rooms: to who reads, who reads a part, who reads nothing, before READY, too long.
    let to_room = |room: &[u8]| [&[240][..], room, &[1, 5], b"lobby", &[2], b"hi"].concat();
    for opening in [1, 2, 3] {
        seeds.push(
            [
                head(1, 9, opening),
                to_room(&[2]),
                to_room(&[1, 0, 9]),
                to_room(&[0]),
                to_room(&[2]),
                vec![7, 9, 7],
                to_room(&[2]),
            ]
            .concat(),
        );
    }
    let long = [240, 0, 0, 7, 0x0f, 0];
    seeds.push(
        [
            head(1, 9, 3),
            long.repeat(4),
            vec![240, 2, 0, 7, 0xff, 0xff, 7, 9],
        ]
        .concat(),
    );
    seeds.push(
        [
            head(0, 9, 0),
            vec![17, 0, 0, 50, 5, 10, 2, 0, 0, 0, 0, 7, 0, 12, 5, 11, 0, 7],
            vec![240, 2, 0, 7, 0, 90, 7],
        ]
        .concat(),
    );
    seeds.extend(desk::seeds(head));
    for end in 0..4 {
        for opening in 0..4 {
            seeds.push([head(0, 9, opening), vec![16, end, 9, 6, 0, 3, 7, 9]].concat());
        }
    }
    for kind in 0..14 {
        for opening in [2, 3] {
            seeds.push([head(0, 9, opening), vec![0, kind, 1, 1, 1, 1, 1, 1, 1, 1, 5, 7]].concat());
        }
    }
    // The client's half.
    let greet = vec![3, 0, 1, 0, 90, 5, 0, 0, 0, 9];
    for suite in 0..2 {
        seeds.push(
            [
                vec![
                    3, suite, 1, 0, 90, 5, 0, 0, 0, 9, 2, 7, 8, 1, 1, 0, 90, 7, 0, 9, 11, 1,
                ],
                vec![2, 2, 1, 0, 0, 2, b'o', b'k', 7, 7],
            ]
            .concat(),
        );
    }
    for kind in 0..14 {
        seeds.push([greet.clone(), vec![2, 7, 2, kind, 1, 1, 1, 1, 1, 1, 1, 1, 7]].concat());
        seeds.push([greet.clone(), vec![2, kind, 1, 1, 1, 1, 1, 1, 1, 1, 7]].concat());
    }
    seeds.push(
        [
            vec![3, 0],
            vec![8, 1, 1, 9, 9, 7, 0, 9, 8, 1, 1, 9, 9, 7, 0, 9],
            greet[2..].to_vec(),
            vec![7, 7],
        ]
        .concat(),
    );
    seeds.push(vec![3, 0, 1, 1, 200, 0, 0, 0, 0, 0, 0]);
    seeds.push(vec![3, 0, 1, 0, 0, 0, 0, 1, 0, 9, 0, 1, 0, 0]);
    // Requests: too many, too long, expired before and after they went out, not begun before the gateway goes.
    let request = |within: u8| vec![8, 1, 0, 0, within, 7, 0, 9];
    let accepted = vec![1, 0, 90, 5, 0, 0, 0, 9];
    for goaway in [vec![2, 10, 1, 9, 0], vec![6, 0, 0, 9, 0], vec![2, 2, 3, 0, 0, 0]] {
        seeds.push(
            [
                vec![3, 0],
                request(3),
                request(1),
                accepted.clone(),
                vec![2, 7],
                request(1),
                request(9),
                goaway.clone(),
                vec![7, 7, 7],
            ]
            .concat(),
        );
        seeds.push(
            [
                vec![3, 0],
                request(3),
                accepted.clone(),
                vec![2, 7],
                request(1).repeat(4),
                goaway,
                vec![7, 7, 7],
            ]
            .concat(),
        );
    }
    seeds.push(
        [
            vec![3, 0],
            vec![8, 1, 0, 0, 9, 7, 0xff, 0xff],
            [8, 1, 0, 0, 9, 7, 0xf0, 0].repeat(90),
        ]
        .concat(),
    );
    seeds.push(vec![3, 0, 7]);
    for answer in [
        &[2, 0, 6, 0, 5, 0, 0, 1, 0][..],
        &[3, 0, 3, 1, 2, 3],
        &[4, 0, 1, 1],
        &[9, 0, 0],
        &[1, 0xff, 0],
    ] {
        let len = u8::try_from(answer.len()).unwrap_or(0);
        seeds.push([&[3, 0, 0, len][..], answer].concat());
    }
    seeds.push([greet.clone(), vec![10, 3, b't', b'o', b'k', 7, 7, 7, 11, 0]].concat());
    seeds.push(
        [
            greet.clone(),
            vec![2, 7, 10, 1, b't', 2, 6, 0, 7, 2, 5, 9, 5, 2, 1, 1, 7, 7],
        ]
        .concat(),
    );
    seeds.push(
        [
            greet,
            vec![
                2, 7, 2, 9, 9, 0, 0, 10, 1, b't', 2, 10, 1, 5, 1, 8, 1, 0, 0, 9, 1, 0, 9, 6, 0, 0, 0x20, 0,
                2, 11, 3, 1, 9,
            ],
        ]
        .concat(),
    );
    for method in 1..5 {
        seeds.push(
            [
                &[3, 0, 1, 0, 90, 5, 0, 0, 0, 9, 2, 7, 2, 3, method, 0, 0][..],
                &[2, 8, 1, 7],
            ]
            .concat(),
        );
    }
    seeds
}
